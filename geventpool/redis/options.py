"""Which options are the pool's, and how they are read out of a URL.

Everything else that a pool is given is redis-py's; of that only such is checked here as
would do harm far from where it was said. No message shows a password.
"""

from __future__ import annotations

import difflib
import inspect
from dataclasses import dataclass
from typing import Any

from geventpool.options import PoolOptions, from_text, names, option, unknown
from geventpool.patching import STOCK, check_unpatched
from geventpool.policies import check_int, check_optional_seconds, safe_repr
from geventpool.redis.autopipeline import DEFAULT_MAX_IN_FLIGHT, AutoPipeline
from geventpool.redis.internals import parse_url

__all__ = [
    "POOL_OPTIONS",
    "RedisOptions",
    "check_limits",
    "check_number",
    "options_of",
    "refuse_misspelt",
]


def _unpatched(name: str, value: Any) -> str:
    return check_unpatched(value)


def _auto_pipeline(name: str, value: Any) -> AutoPipeline | None:
    if isinstance(value, int) and not isinstance(value, bool):
        check_int(name, value)
    return AutoPipeline.of(value)


def _at_least_one(name: str, value: Any) -> int:
    return check_int(name, value, 1)


@dataclass(frozen=True, kw_only=True)
class RedisOptions(PoolOptions):
    """The options of a pool for redis-py."""

    max_connections: int = option(
        100, "at least 1", _at_least_one, "integer", "the limit"
    )
    unpatched: str = option(
        STOCK,
        "'stock' or 'error'",
        _unpatched,
        "text",
        "what to do in a process that gevent has not patched",
    )
    auto_pipeline: AutoPipeline | None = option(
        False,
        "True, False, a number or an AutoPipeline",
        _auto_pipeline,
        "switch",
        "how many connections the commands of all greenlets share",
    )
    max_in_flight: int = option(
        DEFAULT_MAX_IN_FLIGHT,
        "at least 1",
        _at_least_one,
        "integer",
        "how many commands may be under way over a shared connection",
    )


#: The names of the options. redis-py has a *max_connections* of its own.
POOL_OPTIONS = names(RedisOptions) - {"max_connections"}

#: What redis-py gives a socket as it is, and a socket an event loop's heap of timers.
_LIMITS = ("socket_timeout", "socket_connect_timeout")

#: What redis-py itself says of a URL, which shows nothing of it but names.
_HARMLESS = ("Redis URL must", "Invalid value for")


def options_of(url: Any) -> dict[str, Any]:
    """What redis-py reads out of a URL, and the pool's own options.

    :raises TypeError: it is no string.
    :raises ValueError: it is not understood.
    """
    if not isinstance(url, str):
        # Not shown: it may be a URL all the same, with a password, as bytes.
        raise TypeError(f"url must be a string, not of the type {type(url).__name__}")
    try:
        found: dict[str, Any] = parse_url(url)
    except ValueError as error:
        if str(error).startswith(_HARMLESS):
            raise
        # urllib shows what it took for a host or a port; it may be a password.
        raise ValueError(
            "url must be like redis://user:password@host:port/db, with the characters "
            "/ ? # @ [ ] in user and password percent-encoded and a port up to 65535"
        ) from None
    own = {
        name: from_text(name, found[name], RedisOptions)
        for name in POOL_OPTIONS & found.keys()
    }
    return {**found, **own}


def check_number(value: Any) -> None:
    """Refuse a number of connections that is none; as an error of redis-py's kind.

    :raises ValueError: neither a whole number nor None.
    """
    is_whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if value is not None and not is_whole:
        raise ValueError(
            # redis-py's words, and what was wrong.
            '"max_connections" must be a positive integer, or None, '
            f"not {safe_repr(value)}"
        )


def check_limits(options: dict[str, Any]) -> None:
    """Refuse limits for sockets that are no time; NaN stops all timers of a process.

    :raises TypeError: one is no number.
    :raises ValueError: one is negative, NaN or infinite.
    """
    for name in _LIMITS:
        check_optional_seconds(name, options.get(name))


def refuse_misspelt(owner: str, options: dict[str, Any], connection_class: Any) -> None:
    """Refuse a keyword that is nearly an option of the pool, and nothing of redis-py.

    redis-py would pass it on, and its connections would refuse it when the first one is
    made. Other keywords that nobody seems to know are left to them: a later version
    of redis-py, or a class of the program's own, may take them.

    :param owner: who was given the options, for the message.
    :raises TypeError: there is one.
    """
    if not connection_class.__module__.startswith("redis."):
        return
    for name in options:
        close = difflib.get_close_matches(name, POOL_OPTIONS, n=1, cutoff=0.8)
        if close and not _is_known(name, connection_class):
            raise TypeError(unknown(owner, name, close))


def _is_known(name: str, connection_class: Any) -> bool:
    """Does redis-py name this keyword of a connection of that class?"""
    return any(
        name in inspect.signature(kind.__init__).parameters
        for kind in connection_class.__mro__[:-1]
    )
