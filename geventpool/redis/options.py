"""The options of a pool for redis-py, and their reading from a URL.

All other arguments are redis-py's. Only those are checked here whose bad values would
cause an error much later. No message shows a password.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import redis

from geventpool.hints import meant
from geventpool.options import PoolOptions, from_text, names, option, unknown
from geventpool.patching import STOCK, check_unpatched
from geventpool.policies import check_int, check_optional_seconds, safe_repr
from geventpool.redis.autopipeline import DEFAULT_MAX_IN_FLIGHT, AutoPipeline
from geventpool.redis.internals import parse_url

__all__ = ["RedisOptions", "chosen", "options_of", "with_driver_info"]


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

    # The default of redis-py's pools since 8.0.
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

#: Timeouts that redis-py passes to sockets unchecked, and sockets to timers of the
#: loop.
_LIMITS = ("socket_timeout", "socket_connect_timeout")

#: Beginnings of redis-py's messages about a URL that show no secrets.
_HARMLESS = ("Redis URL must", "Invalid value for")


def options_of(url: Any) -> dict[str, Any]:
    """Read redis-py's and the pool's options from a URL.

    :raises TypeError: *url* is no string.
    :raises ValueError: *url* cannot be parsed.
    """
    if not isinstance(url, str):
        # The value is not shown, because it may be a URL in bytes with a password.
        raise TypeError(f"url must be a string, not of the type {type(url).__name__}")
    try:
        found: dict[str, Any] = parse_url(url)
    except ValueError as error:
        if str(error).startswith(_HARMLESS):
            raise
        # urllib's message shows what it took for a host or a port, which may be a
        # password.
        raise ValueError(
            "url must be like redis://user:password@host:port/db, with the characters "
            "/ ? # @ [ ] in user and password percent-encoded and a port up to 65535"
        ) from None
    own = {
        name: from_text(name, found[name], RedisOptions)
        for name in POOL_OPTIONS & found.keys()
    }
    return {**found, **own}


def chosen(
    owner: str,
    max_connections: int | None,
    keywords: dict[str, Any],
    connection_class: Any,
) -> RedisOptions:
    """Take the options of the pool out of the keywords that it was given.

    :param owner: the name of what was called, for messages.
    :param max_connections: None or 0: the default.
    :param keywords: those that are left are arguments of *connection_class*.
    :raises TypeError: an argument is of the wrong type, or seems to be misspelt.
    :raises ValueError: an argument is out of its range.
    """
    _check_number(max_connections)
    own = {name: keywords.pop(name) for name in POOL_OPTIONS & keywords.keys()}
    if max_connections:
        own["max_connections"] = max_connections
    options = RedisOptions.of(owner, own)
    _refuse_misspelt(owner, keywords, connection_class)
    if options.auto_pipeline is not None:
        options.auto_pipeline.check_places(options.max_connections)
    # An argument of redis-py's blocking pool that is recommended for gevent.
    keywords.pop("queue_class", None)
    _check_limits(keywords)
    return options


def _check_number(value: Any) -> None:
    """Refuse an invalid limit of connections, with redis-py's type of error.

    :raises ValueError: *value* is neither a whole number nor None.
    """
    is_whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if value is not None and not is_whole:
        raise ValueError(
            # The text of redis-py, and the value.
            '"max_connections" must be a positive integer, or None, '
            f"not {safe_repr(value)}"
        )


def _check_limits(options: dict[str, Any]) -> None:
    """Refuse invalid timeouts of sockets. NaN would stop all timers of the process.

    :raises TypeError: a timeout is no number.
    :raises ValueError: a timeout is negative, NaN or infinite.
    """
    for name in _LIMITS:
        check_optional_seconds(name, options.get(name))


def _refuse_misspelt(
    owner: str, options: dict[str, Any], connection_class: Any
) -> None:
    """Refuse a keyword that looks like a misspelt option of the pool.

    redis-py would pass it on, and refuse it when the first connection is made. Other
    unknown keywords are not refused here: a later version of redis-py, or a class of
    the program's own, may take them.

    :param owner: the name of what was called, for the message.
    :raises TypeError: there is such a keyword; or *connection_class* is no class.
    """
    if not callable(connection_class):
        raise TypeError(
            f"connection_class must be a class, not {safe_repr(connection_class)}"
        )
    if not connection_class.__module__.startswith("redis."):
        return
    for name in options:
        known = names(RedisOptions)
        guess = meant(name, known, cutoff=0.8)
        if guess and not _is_known(name, connection_class):
            raise TypeError(unknown(owner, name, [guess]))


def with_driver_info(options: dict[str, Any], connection_class: Any) -> dict[str, Any]:
    """Return the options of connections, with what they tell the server of the driver.

    Otherwise redis-py looks its own version up for each new connection. It reads files
    for that, which takes a third of the time of connecting.
    """
    kind = getattr(redis, "DriverInfo", None)
    if kind is None or "driver_info" in options:
        return options
    if not _accepts("driver_info", connection_class):
        return options
    named = {
        name: options[given]
        for name, given in (("name", "lib_name"), ("lib_version", "lib_version"))
        if given in options
    }
    if list(named.values()) == [None, None]:
        # Nothing is told.
        return options
    return {**options, "driver_info": kind(**named)}


def _accepts(name: str, connection_class: Any) -> bool:
    """Whether that class takes a keyword of redis-py's, or passes it on."""
    if not isinstance(connection_class, type):
        return False
    taken = inspect.signature(connection_class).parameters
    passes_on = any(each.kind is each.VAR_KEYWORD for each in taken.values())
    return name in taken or (passes_on and _is_known(name, connection_class))


def _is_known(name: str, connection_class: Any) -> bool:
    """Whether a constructor of that class names this keyword."""
    return any(
        name in inspect.signature(kind.__init__).parameters
        for kind in connection_class.__mro__[:-1]
    )
