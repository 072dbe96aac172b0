"""What a misspelt name was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["meant"]

#: The names that other pools have for options, and the names here.
OTHER_NAMES = {
    "block_timeout": "timeout",
    "fifo": "lifo",
    "idle_timeout": "max_idle",
    "max_age": "max_lifetime",
    "max_idle_time": "max_idle",
    "max_size": "max_connections",
    "max_waiters": "max_waiting",
    "maximum_pool_size": "max_connections",
    "maxsize": "max_connections",
    "min_idle": "min_connections",
    "min_size": "min_connections",
    "minimum_idle": "min_connections",
    "minsize": "min_connections",
    "pool_pre_ping": "ping_after",
    "pool_recycle": "max_lifetime",
    "pool_size": "max_connections",
    "pool_timeout": "timeout",
    "pre_ping": "ping_after",
    "recycle": "max_lifetime",
    "stale_timeout": "max_idle",
}


def meant(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the one of *known* that *name* probably stands for; None: none of them.

    :param cutoff: how similar the names must be, from 0 to 1.
    """
    choice = sorted(known)
    other = OTHER_NAMES.get(name)
    if other in choice:
        return other
    close = difflib.get_close_matches(name, choice, n=1, cutoff=cutoff)
    return close[0] if close else None
