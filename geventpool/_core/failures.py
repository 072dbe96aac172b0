"""What is told of a failure to open a connection, without anything secret.

The message of a driver's error may contain an address with its password, or a part of a
statement. So an error is described by its class, its number and the operating system's
text for that number, and the same of its causes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["Failure", "describe"]

#: So many errors of a chain of causes are named.
NAMED = 3


@dataclass(frozen=True)
class Failure:
    """A failure to open a connection. Times are seconds.

    :param str error: the classes and numbers of the error and of its causes.
    :param float seconds_ago: when it was.
    :param lasting: how long no connection could be opened; None: one was opened since.
    """

    error: str
    seconds_ago: float
    lasting: float | None


def describe(error: BaseException | None) -> str:
    """The classes, numbers and system texts of an error and its causes.

    Never calls ``str()`` of the error. Never switches.
    """
    names: list[str] = []
    while error is not None and len(names) < NAMED:
        names.append(_described(error))
        error = error.__cause__ or error.__context__
    return " from ".join(names)


def _described(error: BaseException) -> str:
    name = type(error).__name__
    number = error.args[0] if error.args else None
    if type(number) is not int:
        return name
    text = ""
    if isinstance(error, OSError):
        # Of an error of the TLS library, its own constant. Not strerror, which
        # may contain anything.
        reason = getattr(error, "reason", None)
        if type(reason) is str and reason.replace("_", "").isalnum():
            text = f": {reason}"
        elif number > 0:
            text = f": {os.strerror(number)}"
    return f"{name} {number}{text}"
