"""The pools that adapters make at first use: one for each server and set of options.

Some libraries make a pool for each of their own objects, and one object for each
greenlet. The limit of such a pool holds for one greenlet alone. An adapter for such a
library asks here instead, and gets the pool of the process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from gevent.lock import RLock
from gevent.monkey import get_original

from geventpool.patching import is_patched

__all__ = ["ProcessPools"]

P = TypeVar("P")

#: Makes a lock for threads, also where gevent has patched locks.
allocate_lock: Callable[[], Any] = get_original("_thread", "allocate_lock")


class ProcessPools(Generic[P]):
    """The pools of this process, by their keys.

    A key says for which server a pool is, and with which options. Keys are compared by
    value, and need not be hashable.

    A forked child has pools of the same options. They begin without connections there,
    as all pools do.

    Make it once, when the adapter is imported: it stays registered for forks.
    """

    def __init__(self) -> None:
        self._pools: list[tuple[object, P]] = []
        self._make_locks()
        os.register_at_fork(after_in_child=self._make_locks)

    def _make_locks(self) -> None:
        # Made again in a forked child: a greenlet of the parent may have held one.
        self._locks: dict[bool, Any] = {True: RLock(), False: allocate_lock()}

    def find(self, key: object) -> P | None:
        """Return the pool for *key*; None: not yet made. Never switches."""
        for known, pool in self._pools:
            if known == key:
                return pool
        return None

    def get(self, key: object, make: Callable[[], P]) -> P:
        """Return the pool for *key*; make it at the first call. May switch then.

        :param make: makes the pool.
        :raises Exception: what *make* raises. The next call tries again.
        """
        pool = self.find(key)
        if pool is None:
            # Threads without an event loop could wait for a lock of gevent without end.
            with self._locks[is_patched("socket")]:
                pool = self.find(key)
                if pool is None:
                    pool = make()
                    self._pools.append((key, pool))
        return pool

    def discard(self, pool: P) -> None:
        """Forget a pool. The next call of :meth:`get` makes another. Never switches."""
        self._pools = [each for each in self._pools if each[1] is not pool]

    def made(self) -> list[P]:
        """Return the pools, the oldest first. Never switches."""
        return [pool for _, pool in self._pools]
