"""Which options are the pool's, and how they are read out of a URL.

Everything else that a pool is given is redis-py's; of that only such is checked here as
would do harm far from where it was said. No message shows a password.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from geventpool.options import TEXT_FORMS, from_text, names
from geventpool.policies import optional_seconds, shown
from geventpool.redis.internals import parse_url

__all__ = ["POOL_OPTIONS", "check_limits", "check_number", "options_of"]


def _switch_or_number(text: str) -> bool | int:
    return int(text) if text.isdecimal() else bool(TEXT_FORMS["boolean"][1](text))


#: The options that this adapter adds: how they are written in a URL.
_ADDED: dict[str, tuple[str, Callable[[str], Any]]] = {
    "auto_pipeline": ("true, false or a whole number", _switch_or_number),
    "max_in_flight": TEXT_FORMS["integer"],
    "unpatched": TEXT_FORMS["text"],
}

#: The options of the pool. redis-py has a *max_connections* of its own.
POOL_OPTIONS = (names() - {"max_connections"}) | _ADDED.keys()

#: What redis-py gives a socket as it is, and a socket an event loop's heap of timers.
_LIMITS = ("socket_timeout", "socket_connect_timeout")

#: What redis-py itself says of a URL, which shows nothing of it but names.
_HARMLESS = ("Redis URL must", "Invalid value for")


def _read(name: str, text: str) -> Any:
    if name not in _ADDED:
        return from_text(name, text)
    wanted, read = _ADDED[name]
    try:
        return read(text)
    except ValueError:
        raise ValueError(f"{name} must be {wanted}, not {shown(text)}") from None


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
    own = {name: _read(name, found[name]) for name in POOL_OPTIONS & found.keys()}
    return {**found, **own}


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
