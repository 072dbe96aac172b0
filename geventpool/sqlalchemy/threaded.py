"""What a pool for engines is in a process that gevent has not patched: a QueuePool.

Knows SQLAlchemy's ``QueuePool``; knows nothing of gevent.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from sqlalchemy.pool import QueuePool

if TYPE_CHECKING:
    from geventpool.sqlalchemy.pool import GreenletPool

__all__ = ["ThreadPool", "become_thread_pool"]


_deciding = threading.Lock()


class ThreadPool(QueuePool):
    """SQLAlchemy's own pool, which a ``GreenletPool`` has become, for threads."""

    _greenlet_pool: type[GreenletPool]
    _places: Any

    @property
    def core(self) -> Any:
        """The core pool, which lends nothing here."""
        return self._places

    def transfer(self, connection: Any, greenlet: Any) -> None:
        """Do nothing: no end of a greenlet takes a connection back here."""

    def recreate(self) -> Any:
        """A new pool with the same arguments, which looks anew at its process."""
        return self._greenlet_pool.recreate(self)  # type: ignore[arg-type]


def become_thread_pool(pool: Any) -> None:
    """Make a ``GreenletPool`` that has lent nothing yet a :class:`ThreadPool`.

    The object stays the same, because the engine and its listeners refer to it.
    """
    with _deciding:
        if isinstance(pool, ThreadPool):
            return  # by another thread, meanwhile
        pool_size, places = pool.size(), pool._pool
        # Past the properties of the class that it has still.
        pool.__dict__.update(
            _greenlet_pool=type(pool),
            _places=places,
            _overflow=-pool_size,
            _overflow_lock=threading.Lock(),
            _pool=QueuePool._queue_class(pool_size, use_lifo=places.use_lifo),
        )
        # Last: other threads may use it from now on.
        pool.__class__ = ThreadPool
