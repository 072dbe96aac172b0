"""The pools for threads that an adapter makes in a process that gevent has not patched.

A server may use such a pool, then fork, and then patch. The rules for such processes
are in ``geventpool.patching``.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

from geventpool import sockets

__all__ = ["ForkedPool", "ThreadedPools", "as_thread_waits"]


def as_thread_waits(seconds: float | None) -> float | None:
    """Return a timeout that ``threading`` does not refuse as too long.

    :param seconds: the timeout; None: no limit.
    """
    return None if seconds is None else min(seconds, threading.TIMEOUT_MAX)


class ForkedPool(Protocol):
    """A pool that can be used on in a forked child."""

    def forked(self) -> None:
        """Begin without connections, because they are the parent's. Never switches.

        It may only close the child's copies of their descriptors.
        """


class ThreadedPools:
    """The pools for threads of one adapter. It refers to them weakly.

    Make it once, when the adapter is imported: it stays registered for forks.
    """

    def __init__(self) -> None:
        self._pools: weakref.WeakSet[ForkedPool] = weakref.WeakSet()
        self._making = threading.Lock()
        os.register_at_fork(after_in_child=self._after_fork)

    @property
    def making(self) -> threading.Lock:
        """The lock under which one thread makes a pool for all."""
        return self._making

    def add(self, pool: ForkedPool) -> None:
        """Note a pool. Its method ``forked`` is called in each forked child."""
        self._pools.add(pool)

    def discard(self, pool: ForkedPool) -> None:
        """Forget a pool that is no pool for threads any more."""
        self._pools.discard(pool)

    # In the child, where nobody counts.
    def _after_fork(self) -> None:  # pragma: no cover
        # The thread that may have held it does not exist here.
        self._making = threading.Lock()
        with sockets.after_fork():
            for pool in list(self._pools):
                pool.forked()
