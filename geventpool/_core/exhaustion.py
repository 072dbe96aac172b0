"""Errors which say that no more connections can be opened for now.

Each question is asked here once, for all connectors. No driver is needed to ask it.
"""

from __future__ import annotations

from collections.abc import Iterator
from errno import EMFILE, ENFILE

__all__ = ["MYSQL_FULL", "chain", "lacks_descriptor"]

#: The codes by which MySQL and MariaDB refuse a connection because of a limit.
MYSQL_FULL = frozenset(
    {
        1040,  # too many connections
        1203,  # user has more than max_user_connections
        1226,  # user has exceeded a resource limit
    }
)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Return an error, and the errors during which it was raised. Never switches.

    A driver may raise an error of its own while it handles that of a socket. Each
    error occurs once, also if the chain is a circle.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__


def lacks_descriptor(error: BaseException) -> bool:
    """Whether no descriptor was left in this process or in the system. Never switches.

    This counts as a full server: the next connection that is closed makes room.

    :param error: an :exc:`OSError`, or what a driver has raised ``from`` it. PyMySQL
        has it as its ``original_exception``.
    """
    origin = getattr(error, "original_exception", None) or error.__cause__
    return any(
        isinstance(each, OSError) and each.errno in (EMFILE, ENFILE)
        for each in (error, origin)
    )
