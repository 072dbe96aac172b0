"""The pool in the place of SQLAlchemy's QueuePool: the core does the pooling.

Knows what SQLAlchemy asks of a pool. Who gets which record, and who waits, is the core
pool's affair alone: there is no second book of it here.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable
from inspect import signature
from typing import TYPE_CHECKING, Any

from gevent import GreenletExit
from sqlalchemy import exc
from sqlalchemy.pool import Pool as SQLAlchemyPool
from sqlalchemy.pool import QueuePool
from sqlalchemy.pool.base import _ConnectionFairy

from geventpool.budget import Budget
from geventpool.errors import (
    ConnectionNotFoundError,
    PoolExhaustedError,
    TooManyWaitingError,
)
from geventpool.listeners import PoolListener, PoolStats
from geventpool.options import refuse_unknown
from geventpool.patching import STOCK, check_unpatched, pools_here
from geventpool.policies import Timeouts, check_int
from geventpool.sqlalchemy.record_pool import RecordPool
from geventpool.sqlalchemy.records import (
    Fairy,
    Record,
    interruption,
    terminate_connection,
)
from geventpool.sqlalchemy.threaded import become_thread_pool

if TYPE_CHECKING:
    from greenlet import greenlet
    from sqlalchemy.engine import Connection
    from sqlalchemy.pool import PoolProxiedConnection

__all__ = ["GreenletPool"]


class GreenletPool(QueuePool):
    """A pool for ``create_engine(url, poolclass=GreenletPool)``, for any dialect.

    A drop-in for SQLAlchemy's own ``QueuePool``: the same arguments, events, errors
    and numbers. On top of that one waits in line here, first come, first served; a
    greenlet may be killed, or hit by a ``gevent.Timeout``, anywhere, and no place is
    lost; and what a greenlet leaves behind when it dies, or a program forgets to close,
    comes back without the hub waiting for it.

    **Who connects.** The borrower: the core pool lends *places*, and SQLAlchemy
    connects them in the greenlet that asked, as with ``QueuePool``. Other pools of
    this package connect in greenlets of their own, so that a caller with a short
    deadline does not throw a half-made connection away. Here the listeners of
    ``do_connect``, ``connect`` and ``first_connect`` belong to the program: they find
    its context variables (the tenant whose token is the password, the trace that a
    span belongs to), their errors carry its traceback, and ``pool_timeout`` bounds
    the wait for a place and not the connecting, as it always did. Every *re*-connect,
    after an invalidation or ``pool_recycle``, is made by SQLAlchemy in the borrower's
    greenlet anyway. A connection that is interrupted while it is made gives its place
    to the next in line.

    **Who cleans.** The reset at return is sent by the borrower as well, who must find
    his locks released when ``close()`` returns. If it is interrupted, or if a kill or a
    ``gevent.Timeout`` left the block, the connection is not kept: an answer may be
    under way, or half a statement. What was not closed at all is cleaned and given
    back by a greenlet of the pool.

    Different from ``QueuePool`` on purpose:

    * A forgotten connection comes back in the next turns of the event loop, not within
      the collector.
    * A greenlet that ends with a connection on loan loses it at once, unless *reclaim*
      is False; :meth:`transfer` hands a loan over to another greenlet.
    * ``dispose()`` wakes those who wait: there is room for them again.
    * On ``mysql`` and ``mariadb`` an idle connection that the server has closed is
      found without a round trip, and is replaced before it is lent.

    All arguments can be given to ``create_engine``, these under their own names. Times
    are seconds.

    :param creator: as for ``QueuePool``; comes from ``create_engine``.
    :param int pool_size: so many connections are kept; 0: any number.
    :param int max_overflow: so many more may be open at a time; -1: any number.
    :param timeout: how long to wait for a place; None: without end.
    :param bool use_lifo: lend the most recently used connection first.
    :param int min_connections: kept open in the background; at most *pool_size*.
    :param max_waiting: so many may wait; None: any number.
    :param max_lifetime: a connection is replaced after so long, less up to 5 % at
        random, and also while nobody asks for it; None: never.
    :param max_idle: one unused for so long is closed, unless *min_connections* would
        be left; None: never.
    :param ping_after: one unused for so long is pinged before it is lent; None: never.
        Unlike ``pool_pre_ping`` it costs a busy pool nothing.
    :param ping_interval: idle ones are pinged so often; None: never.
    :param reap_interval: between two looks at the idle ones.
    :param bool reclaim: take back what a greenlet holds when it ends.
    :param listeners: :class:`~geventpool.PoolListener` objects; they are told of
        records.
    :param Timeouts timeouts: how long the pool's own greenlets may take.
    :param Budget budget: one limit for all processes of the host; None: none.
    :param str unpatched: what to do in a process whose ``socket`` gevent has not
        patched: ``"stock"`` is ``QueuePool`` with the same arguments; ``"error"`` is
        :exc:`~geventpool.NotPatchedError`. Asked at the first loan.
    :param kw: as for ``sqlalchemy.pool.Pool``.
    :raises TypeError: an argument is of the wrong kind.
    :raises ValueError: an argument is out of its range.
    """

    # The name by which programs know where the log of a pool is.
    _sqla_logger_namespace = "sqlalchemy.pool.impl.GreenletPool"

    _pool: RecordPool  # type: ignore[assignment]

    # create_engine() passes on what it finds before the star.
    def __init__(
        self,
        creator: Any,
        pool_size: int = 5,
        max_overflow: int = 10,
        timeout: float | None = 30.0,
        use_lifo: bool = False,
        min_connections: int = 0,
        max_waiting: int | None = None,
        max_lifetime: float | None = None,
        max_idle: float | None = None,
        ping_after: float | None = None,
        ping_interval: float | None = None,
        reap_interval: float = 180,
        reclaim: bool = True,
        listeners: Iterable[PoolListener] = (),
        timeouts: Timeouts = Timeouts(),
        budget: Budget | None = None,
        unpatched: str = STOCK,
        **kw: Any,
    ) -> None:
        refuse_unknown(f"{type(self).__name__}()", kw, _KNOWN)
        if check_int("pool_size", pool_size):
            # Without a limit there is nothing beyond it.
            check_int("max_overflow", max_overflow, -1)
            if check_int("min_connections", min_connections) > pool_size:
                raise ValueError(
                    f"min_connections must be at most pool_size ({pool_size!r}), "
                    f"not {min_connections!r}"
                )
        # Not QueuePool's, which would make a queue.
        SQLAlchemyPool.__init__(self, creator, **kw)
        self._max_overflow = max_overflow if pool_size else -1
        self._timeout = timeout  # type: ignore[assignment]
        #: ours, to be given to whatever pool comes after this one
        self._options: dict[str, Any] = {
            "min_connections": min_connections,
            "max_waiting": max_waiting,
            "max_lifetime": max_lifetime,
            "max_idle": max_idle,
            "ping_after": ping_after,
            "ping_interval": ping_interval,
            "reap_interval": reap_interval,
            "reclaim": reclaim,
            "listeners": listeners,
            "timeouts": timeouts,
            "budget": budget,
        }
        self._unpatched = check_unpatched(unpatched)
        #: Is it not yet known whether gevent has patched this process?
        self._is_undecided = True
        is_bounded = self._max_overflow >= 0
        self._pool = RecordPool(
            self,
            pool_size,
            use_lifo,
            max_connections=pool_size + max_overflow if is_bounded else sys.maxsize,
            timeout=timeout,
            name=kw.get("logging_name"),
            **self._options,
        )

    @property
    def core(self) -> RecordPool:
        """The :class:`geventpool.Pool` that does the pooling; it lends records."""
        return self._pool

    # Borrowing

    def connect(self) -> PoolProxiedConnection:
        """A connection on loan. May switch.

        :raises sqlalchemy.exc.TimeoutError: no place in time, or too many wait.
        :raises Exception: what the driver or a listener raised.
        :raises NotPatchedError: gevent has not patched this process, and *unpatched* is
            ``"error"``.
        """
        if self._is_undecided:
            stock = "SQLAlchemy's QueuePool"
            if not pools_here("geventpool.sqlalchemy", self._unpatched, stock):
                become_thread_pool(self)
                return QueuePool.connect(self)
            self._is_undecided = False
        fairy = _ConnectionFairy._checkout(self)
        fairy.__class__ = Fairy
        if sys.exc_info()[1] is not None:
            fairy.note_surroundings()
        return fairy

    def _do_get(self) -> Record:
        try:
            record = self._pool.acquire()
        except PoolExhaustedError as error:
            refusal = self._refusal(error)
            raise refusal from error
        if record.dbapi_connection is None or not record.is_quiet():
            self._ensure_connected(record)
        return record

    def _ensure_connected(self, record: Record) -> None:
        """Connect a new record, and part with a dead connection. May switch."""
        try:
            if record.is_new:
                # If it fails there has never been a connection, and nobody is told of
                # its return.
                record.get_connection()
            elif record.dbapi_connection is not None:
                # SQLAlchemy connects it again.
                record.invalidate()
        except BaseException:
            self.free_place(record)
            raise

    def _refusal(self, error: PoolExhaustedError) -> exc.TimeoutError:
        why = f"connection timed out, timeout {self._timeout or 0:0.2f}"
        if isinstance(error, TooManyWaitingError):
            why = f"and {self._options['max_waiting']} wait already"
        return exc.TimeoutError(
            f"{type(self).__name__} limit of size {self.size()} overflow "
            f"{self.overflow()} reached, {why}",
            code="3o7r",
        )

    def _create_connection(self) -> Record:
        return Record(self)

    # Giving back

    def _do_return_conn(self, record: Record) -> None:  # type: ignore[override]
        places = self._pool
        record.is_reclaimed = False
        if self._max_overflow and places.is_full:
            try:
                record.close()
            finally:
                self.free_place(record)
            return
        try:
            places.release(record, anyone=True)
        except ConnectionNotFoundError:
            # It was on loan when the pool was disposed of.
            if not places.readmit(record):
                record.close()

    def free_place(self, record: Record) -> None:
        """Free the place of a record that is on loan, for good. Never switches."""
        if self._pool.is_lent(record):
            self._pool.free_place(record)

    def transfer(
        self, connection: Connection | PoolProxiedConnection, greenlet: greenlet | None
    ) -> None:
        """Make another greenlet the holder of a connection lent to the caller.

        Only the end of the holder takes a loan back; any greenlet may use a
        connection and close it. Never switches.

        :param connection: an engine's, or what ``raw_connection()`` returned.
        :param greenlet: None: nobody's end ends the loan.
        :raises ConnectionNotFoundError: not on loan to the caller.
        :raises TypeError: *greenlet* is no greenlet.
        """
        fairy: Any = connection
        if not isinstance(connection, _ConnectionFairy):
            fairy = connection.connection
        self._pool.transfer(fairy._connection_record, greenlet)

    def _close_connection(self, connection: Any, *, terminate: bool = False) -> None:
        if terminate and interruption() is not None:
            # A goodbye would wait behind half a statement that nobody reads.
            terminate_connection(connection)
        super()._close_connection(connection, terminate=terminate)

    # What was not given back

    def on_collected(self, record: Record, ref: weakref.ref[Any]) -> None:
        """The proxy of a lent connection was collected. Runs anywhere."""
        self._pool.tell_loop(self._on_collected, record, ref)

    def _on_collected(self, record: Record, ref: weakref.ref[Any]) -> None:
        if record.fairy_ref is ref and not record.is_reclaimed:
            self.reclaim(record)

    def reclaim(self, record: Record) -> None:
        """Give a record back in the place of a borrower who did not. In the hub."""
        record.is_reclaimed = True
        error = None
        if self._pool.is_lent(record):
            error = _why_interrupted(self._pool.end_loan(record), record)
        self._pool.run_in_background(record, self._give_back, error)

    def _give_back(self, record: Record, error: BaseException | None) -> None:
        """In a greenlet of the pool. May switch."""
        ref = record.fairy_ref
        fairy = None if ref is None else ref()
        if fairy is None:
            echo = self._should_log_debug()
            conn: Any = record.dbapi_connection
            fairy = _ConnectionFairy(self, conn, record, echo)
            record.fairy_ref = weakref.ref(fairy)
        if error is not None and fairy.dbapi_connection is not None:
            terminate_connection(fairy.dbapi_connection)
            fairy.invalidate(error)
        else:
            fairy._checkin()

    # The whole pool

    def recreate(self) -> GreenletPool:
        """A new pool with the same arguments; nothing is opened."""
        self.logger.info("Pool recreating")
        kind: type[GreenletPool] = getattr(self, "_greenlet_pool", type(self))
        return kind(
            self._creator,
            pool_size=self.size(),
            max_overflow=self._max_overflow,
            timeout=self._timeout,
            use_lifo=self._pool.use_lifo,
            pre_ping=self._pre_ping,
            recycle=self._recycle,
            echo=self.echo,
            logging_name=self._orig_logging_name,
            reset_on_return=self._reset_on_return,
            _dispatch=self.dispatch,
            dialect=self._dialect,
            unpatched=self._unpatched,
            **self._options,
        )

    def dispose(self) -> None:
        """Close the idle connections, and count from nothing. May switch.

        What is on loan stays with its borrower and is kept, or closed, when it comes
        back. Who waits gets a place at once.
        """
        self._pool.dispose()
        self.logger.info("Pool disposed. %s", self.status())

    @property
    def _overflow(self) -> int:  # type: ignore[override]
        # Connections beyond those that are kept; negative while there are fewer.
        return self._pool.size - self._pool.maxsize

    def stats(self) -> PoolStats:
        """How the pool stands at this moment; does not change any more."""
        return self._pool.stats()


#: The names of all arguments: its own, and those that SQLAlchemy's pools share.
_KNOWN = {
    name
    for kind in (GreenletPool, SQLAlchemyPool)
    for name in signature(kind).parameters
}


def _why_interrupted(holder: Any, record: Record) -> BaseException | None:
    """Why a connection must not be kept after what its holder did, if so.

    :param holder: the greenlet; None: it had none, or that is gone as well.
    """
    ref = record.fairy_ref
    if ref is not None and ref() is not None:
        return GreenletExit(f"{holder!r} ended with the connection on loan")
    if holder is not None and holder.dead and _was_interrupted(holder):
        return GreenletExit(f"{holder!r} was interrupted and forgot the connection")
    # Forgotten, and nothing speaks against it: the reset will tell.
    return None


def _was_interrupted(holder: Any) -> bool:
    if isinstance(getattr(holder, "value", None), GreenletExit):
        return True
    return not getattr(holder, "successful", bool)()
