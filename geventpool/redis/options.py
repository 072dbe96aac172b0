"""Which options are the pool's, and how they are read out of a URL.

Everything else that a pool is given is redis-py's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from geventpool.redis.internals import to_bool

__all__ = ["POOL_OPTIONS", "understood"]

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
    "reap_expired_connections": to_bool,
    "lifo": to_bool,
    "handoff": to_bool,
    "reclaim": to_bool,
    "name": str,
}

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
        raise ValueError(f"{name} can't be given in a URL: {value!r}") from None
    except ValueError:
        raise ValueError(f"{name} must be a number, not {value!r}") from None
