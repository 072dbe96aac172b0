"""The pool for engines in a process that gevent has not patched: a QueuePool.

It lends by SQLAlchemy's ``QueuePool``, without gevent.
"""

from __future__ import annotations

import threading
from typing import Any

from sqlalchemy.pool import QueuePool

from geventpool.listeners import PoolStats
from geventpool.sqlalchemy.record_pool import disown
from geventpool.threaded import ThreadedPools, as_thread_waits

__all__ = ["ThreadedPool", "become_threaded_pool"]

_pools = ThreadedPools()


class ThreadedPool(QueuePool):
    """SQLAlchemy's own pool for threads. A ``GreenletPool`` becomes one."""

    #: the class that the pool had before
    _former_class: Any
    _core: Any
    #: the records that are on loan
    _lent: set[Any]

    @property
    def core(self) -> Any:
        """The core pool. It lends nothing here."""
        return self._core

    def stats(self) -> PoolStats:
        """The state of the pool at this moment; loans and idle connections only."""
        stats: PoolStats = self._core.stats()
        return stats

    def counts(self) -> tuple[int, int]:
        """The numbers of idle and of lent connections."""
        return self.checkedin(), self.checkedout()

    def transfer(self, connection: Any, greenlet: Any) -> None:
        """Do nothing: here no loan ends with a greenlet."""

    def _do_get(self) -> Any:
        record = super()._do_get()
        self._lent.add(record)
        return record

    def _do_return_conn(self, record: Any) -> None:
        self._lent.discard(record)
        super()._do_return_conn(record)

    def recreate(self) -> Any:
        """Make a new pool with the same arguments, which checks its process anew."""
        return self._former_class.recreate(self)

    def forked(self) -> None:  # pragma: no cover (in the child, where nobody counts)
        """Become again what it was before the first loan, in a forked child.

        All connections are the parent's. The child may be patched.
        """
        _pools.discard(self)
        idle = self._pool.queue  # type: ignore[attr-defined]
        for record in (*idle, *self._lent):
            _let_go(record)
        own = self.__dict__
        former, core = own.pop("_former_class"), own.pop("_core")
        del own["_overflow"], own["_overflow_lock"], own["_lent"]
        own["_pool"] = core
        core.connector.stock = None
        self.__class__ = former


def _let_go(record: Any) -> None:  # pragma: no cover (in the child)
    """Close the child's copy of a connection, as if its loan had ended."""
    fairy = None if record.fairy_ref is None else record.fairy_ref()
    record.fairy_ref = None
    if fairy is not None:
        fairy.dbapi_connection = None
    connection, record.dbapi_connection = record.dbapi_connection, None
    if connection is not None:
        disown(connection)


def become_threaded_pool(pool: Any) -> None:
    """Make a ``GreenletPool`` that has lent nothing yet a :class:`ThreadedPool`.

    The object stays the same, because the engine and its listeners refer to it.
    """
    with _pools.making:
        if isinstance(pool, ThreadedPool):
            return  # another thread has done it meanwhile
        pool_size, core = pool.size(), pool._pool
        # Set directly, because the present class has properties of these names.
        pool.__dict__.update(
            _former_class=type(pool),
            _core=core,
            _lent=set(),
            _overflow=-pool_size,
            _overflow_lock=threading.Lock(),
            _timeout=as_thread_waits(pool._timeout),
            _pool=QueuePool._queue_class(pool_size, use_lifo=core.use_lifo),
        )
        # The last step, because other threads may use the pool from now on.
        pool.__class__ = ThreadedPool
        core.connector.stock = pool.counts
        _pools.add(pool)
