"""Which options are the pool's, and how they are read out of a URL.

Everything else that a pool is given is redis-py's; of that only such is checked here as
would do harm far from where it was said. No message shows a password.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from geventpool.policies import optional_seconds, shown
from geventpool.redis.internals import parse_url

__all__ = ["POOL_OPTIONS", "check_limits", "check_number", "options_of", "understood"]

_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
_FALSE = frozenset({"0", "false", "f", "no", "n", "off"})


def _boolean(text: str) -> bool:
    if text.lower() not in _TRUE | _FALSE:
        raise ValueError
    return text.lower() in _TRUE


_KINDS: dict[str, Callable[[str], Any]] = {
    "initial_connections": int,
    "min_connections": int,
    "max_waiting": int,
    "max_connecting": int,
    "timeout": float,
    "max_lifetime": float,
    "max_idle": float,
    "ping_after": float,
    "ping_interval": float,
    "reap_interval": float,
    "reap_expired_connections": _boolean,
    "lifo": _boolean,
    "handoff": _boolean,
    "reclaim": _boolean,
    "name": str,
    "unpatched": str,
}

_CALLED = {int: "a whole number", float: "a number", _boolean: "true or false"}

#: What redis-py gives a socket as it is, and a socket an event loop's heap of timers.
_LIMITS = ("socket_timeout", "socket_connect_timeout")

#: What redis-py itself says of a URL, which shows nothing of it but names.
_HARMLESS = ("Redis URL must", "Invalid value for")

#: The names of the core pool's options.
POOL_OPTIONS = frozenset({*_KINDS, "backoff", "listeners", "limits", "outage"})


def understood(name: str, value: Any) -> Any:
    """The value of an option of the pool that stood in a URL.

    :raises ValueError: it should be a number and is none, or it can't be said in a URL.
    """
    if not isinstance(value, str):
        return value
    try:
        return _KINDS[name](value)
    except KeyError:
        raise ValueError(f"{name} can't be given in a URL: {shown(value)}") from None
    except ValueError:
        kind = _CALLED[_KINDS[name]]
        raise ValueError(f"{name} must be {kind}, not {shown(value)}") from None


def options_of(url: Any) -> dict[str, Any]:
    """What redis-py reads out of a URL.

    :raises TypeError: it is no string.
    :raises ValueError: it says nothing sensible.
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
    return found


def check_number(value: Any) -> None:
    """Refuse a number of connections that is none; as an error of redis-py's kind.

    :raises ValueError: neither a whole number nor None.
    """
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if value is not None and not whole:
        raise ValueError(
            # redis-py's words, and what was wrong.
            f'"max_connections" must be a positive integer, or None, not {shown(value)}'
        )


def check_limits(options: dict[str, Any]) -> None:
    """Refuse limits for sockets that are no time; NaN stops all timers of a process.

    :raises TypeError: one is no number.
    :raises ValueError: one is negative, NaN or infinite.
    """
    for name in _LIMITS:
        optional_seconds(name, options.get(name))
