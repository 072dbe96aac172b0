"""The options of a pool as text: which can be written in a URL, and how they are read.

One table for all adapters. A message never shows more of a URL than the option that is
wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from geventpool.policies import shown

__all__ = ["POOL_OPTIONS", "URL_OPTIONS", "understood"]

_TRUE = frozenset({"1", "true", "t", "yes", "y", "on"})
_FALSE = frozenset({"0", "false", "f", "no", "n", "off"})


def _boolean(text: str) -> bool:
    if text.lower() not in _TRUE | _FALSE:
        raise ValueError
    return text.lower() in _TRUE


def _whole_or_none(text: str) -> int | None:
    return None if text.lower() == "none" else int(text)


def _seconds_or_none(text: str) -> float | None:
    return None if text.lower() == "none" else float(text)


#: The options of the core pool that can be written in a URL, with their readers. The
#: pool itself checks the ranges.
URL_OPTIONS: dict[str, Callable[[str], Any]] = {
    "initial_connections": int,
    "min_connections": int,
    "max_connecting": int,
    "max_waiting": _whole_or_none,
    "timeout": _seconds_or_none,
    "max_lifetime": _seconds_or_none,
    "max_idle": _seconds_or_none,
    "ping_after": _seconds_or_none,
    "ping_interval": _seconds_or_none,
    "reap_interval": float,
    "reap_expired_connections": _boolean,
    "lifo": _boolean,
    "handoff": _boolean,
    "reclaim": _boolean,
    "name": str,
}

_CALLED = {
    int: "a whole number",
    float: "a number",
    _whole_or_none: "a whole number or none",
    _seconds_or_none: "a number or none",
    _boolean: "true or false",
}

#: The names of the core pool's options, those that need an object included. Without
#: ``max_connections``, for which each adapter has a default and a rule of its own.
POOL_OPTIONS = frozenset({*URL_OPTIONS, "backoff", "listeners", "limits", "outage"})


def understood(name: str, value: Any) -> Any:
    """The value of an option of the pool that was written in a URL.

    :param value: what is no string is returned as it is.
    :raises ValueError: it is not of the option's type, or the option needs an object.
    """
    if not isinstance(value, str):
        return value
    try:
        return URL_OPTIONS[name](value)
    except KeyError:
        raise ValueError(f"{name} can't be given in a URL: {shown(value)}") from None
    except ValueError:
        kind = _CALLED[URL_OPTIONS[name]]
        raise ValueError(f"{name} must be {kind}, not {shown(value)}") from None
