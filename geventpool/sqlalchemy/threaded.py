"""The pool for engines in a process that gevent has not patched: a QueuePool.

It lends by SQLAlchemy's ``QueuePool``, without gevent.
"""

from __future__ import annotations

import threading
from typing import Any

from sqlalchemy.pool import QueuePool

from geventpool.listeners import PoolStats

__all__ = ["ThreadPool", "become_thread_pool"]


_deciding = threading.Lock()


class ThreadPool(QueuePool):
    """SQLAlchemy's own pool for threads. A ``GreenletPool`` becomes one."""

    #: the class that the pool had before
    _greenlet_pool: Any
    _places: Any

    @property
    def core(self) -> Any:
        """The core pool. It lends nothing here."""
        return self._places

    def stats(self) -> PoolStats:
        """The state of the pool at this moment; loans and idle connections only."""
        stats: PoolStats = self._places.stats()
        return stats

    def counts(self) -> tuple[int, int]:
        """The numbers of idle and of lent connections."""
        return self.checkedin(), self.checkedout()

    def transfer(self, connection: Any, greenlet: Any) -> None:
        """Do nothing: here no loan ends with a greenlet."""

    def recreate(self) -> Any:
        """Make a new pool with the same arguments, which checks its process anew."""
        return self._greenlet_pool.recreate(self)


def become_thread_pool(pool: Any) -> None:
    """Make a ``GreenletPool`` that has lent nothing yet a :class:`ThreadPool`.

    The object stays the same, because the engine and its listeners refer to it.
    """
    with _deciding:
        if isinstance(pool, ThreadPool):
            return  # another thread has done it meanwhile
        pool_size, places = pool.size(), pool._pool
        # Set directly, because the present class has properties of these names.
        pool.__dict__.update(
            _greenlet_pool=type(pool),
            _places=places,
            _overflow=-pool_size,
            _overflow_lock=threading.Lock(),
            _pool=QueuePool._queue_class(pool_size, use_lifo=places.use_lifo),
        )
        # The last step, because other threads may use the pool from now on.
        pool.__class__ = ThreadPool
        places.connector.stock = pool.counts
