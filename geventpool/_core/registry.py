"""The pools of this process, and what happens to them in a forked child."""

from __future__ import annotations

import itertools
import weakref
from operator import attrgetter
from typing import Any

from geventpool import sockets
from geventpool._core.deadlocks import indirect, waiting

__all__ = ["add", "after_fork", "new_name", "open_pools"]

_numbers = itertools.count(1)
_pools: weakref.WeakSet[Any] = weakref.WeakSet()
_name = attrgetter("name")


def new_name() -> str:
    """Return the name of the next pool that is given none."""
    return f"pool-{next(_numbers)}"


def add(pool: Any) -> None:
    """Note a pool. Its method ``_forked`` is called in a forked child."""
    _pools.add(pool)


def open_pools() -> list[Any]:
    """Return the open pools of this process, sorted by name. Never switches."""
    return sorted((pool for pool in _pools if not pool.closed), key=_name)


def after_fork() -> None:  # pragma: no cover (in the child, where nobody counts)
    """Have each pool begin without connections. Runs in a forked child."""
    # Closing sockets here must not wake the copies of the parent's greenlets.
    with sockets.after_fork():
        waiting.clear()
        indirect.clear()
        for pool in list(_pools):
            pool._forked()
