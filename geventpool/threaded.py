"""The pools for threads that an adapter makes in a process that gevent has not patched.

A server may use such a pool, then fork, and then patch. The rules for such processes
are in ``geventpool.patching``.
"""

from __future__ import annotations

import threading

from geventpool.fork_listeners import ForkListeners

__all__ = ["ThreadedPools", "as_thread_waits"]


def as_thread_waits(seconds: float | None) -> float | None:
    """Return a timeout that ``threading`` does not refuse as too long.

    :param seconds: the timeout; None: no limit.
    """
    return None if seconds is None else min(seconds, threading.TIMEOUT_MAX)


class ThreadedPools(ForkListeners):
    """The pools for threads of one adapter, which a fork tells to begin anew."""

    def __init__(self) -> None:
        super().__init__()
        self._making = threading.Lock()
        self.add(self)

    @property
    def making(self) -> threading.Lock:
        """The lock under which one thread makes a pool for all."""
        return self._making

    # In the child, where nobody counts.
    def forked(self) -> None:  # pragma: no cover
        """Make another lock: the thread that may hold the old one is not here."""
        self._making = threading.Lock()
