"""A drop-in replacement for SQLAlchemy's QueuePool, on top of the core pool.

It implements SQLAlchemy's interface of a pool. The core pool alone keeps the records,
the loans and the waiters.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any

from sqlalchemy import exc
from sqlalchemy.pool import Pool as SQLAlchemyPool
from sqlalchemy.pool import QueuePool
from sqlalchemy.pool.base import _ConnectionFairy

from geventpool.admission import Admission
from geventpool.budget import Budget
from geventpool.errors import (
    ConnectionNotFoundError,
    PoolDeadlockError,
    PoolExhaustedError,
    PoolOverloadedError,
    TooManyWaitingError,
)
from geventpool.extension import copy_error
from geventpool.listeners import PoolListener, PoolStats
from geventpool.options import PoolOptions, names, refuse_unknown
from geventpool.patching import STOCK, check_unpatched, pools_here
from geventpool.policies import Outage, Timeouts, check_int
from geventpool.signatures import described
from geventpool.sqlalchemy.interruptions import interruption, why_interrupted
from geventpool.sqlalchemy.names import name_of_engine
from geventpool.sqlalchemy.record_pool import RecordPool
from geventpool.sqlalchemy.records import (
    Fairy,
    Record,
    Stranded,
    terminate_connection,
)
from geventpool.sqlalchemy.threaded import become_threaded_pool

if TYPE_CHECKING:
    from greenlet import greenlet
    from sqlalchemy.engine import Connection
    from sqlalchemy.pool import PoolProxiedConnection

__all__ = ["GreenletPool"]


#: The options of the core pool that an engine can be given.
_PASSED_ON = (
    "min_connections",
    "max_waiting",
    "max_lifetime",
    "max_idle",
    "ping_after",
    "ping_interval",
    "reap_interval",
    "reclaim",
    "leak_after",
    "listeners",
    "timeouts",
    "outage",
    "budget",
    "admission",
)


@described(PoolOptions, *names() - {*_PASSED_ON} | {"min_connections"})
class GreenletPool(QueuePool):
    """A pool for ``create_engine(url, poolclass=GreenletPool)``, for any dialect.

    A drop-in for SQLAlchemy's own ``QueuePool``: the same arguments, events, errors and
    numbers. In addition, waiters are served in the order in which they came. A kill or
    a ``gevent.Timeout`` at any point loses no place. A connection that a dead greenlet
    holds, or that a program forgot to close, is given back without blocking the hub.

    **Which greenlet connects.** The borrower: the core pool lends *places*, and
    SQLAlchemy connects them in the borrower's greenlet, as with ``QueuePool``. Other
    pools of this package connect in greenlets of their own, so that a borrower with a
    short timeout does not waste a half-made connection. Here the listeners of
    ``do_connect``, ``connect`` and ``first_connect`` belong to the program: they need
    its context variables (a tenant, a trace), their errors carry its traceback, and
    ``pool_timeout`` limits the wait for a place and not the connecting, as in
    ``QueuePool``. SQLAlchemy also makes every *re*-connect, after an invalidation or
    ``pool_recycle``, in the borrower's greenlet. If connecting is interrupted, the
    place goes to the next waiter. If the server is full, the borrower waits in line
    again, at its old place, until *timeout* is over.

    **Which greenlet resets.** The borrower sends the reset at return as well, so that
    its locks are released when ``close()`` returns. If the reset is interrupted, or if
    a kill or a ``gevent.Timeout`` ended the block, the connection is not kept: half a
    statement may have been sent, or an answer may be unread. A greenlet of the pool
    resets and gives back a connection that the program did not close.

    Intended differences from ``QueuePool``:

    * A forgotten connection is given back in one of the next turns of the event loop,
      not within the garbage collector.
    * When a greenlet ends, its loans end at once, unless *reclaim* is False.
      :meth:`transfer` makes another greenlet the holder.
    * ``dispose()`` wakes the waiters, because there is room again.
    * *ping_after* costs a busy pool nothing, unlike ``pool_pre_ping``.
    * On ``mysql`` and ``mariadb``, an idle connection that the server has closed is
      detected without a round trip, and replaced before it is lent.

    All arguments can be given to ``create_engine``. Times are in seconds. Listeners get
    records in the place of connections.

    :param creator: as for ``QueuePool``; given by ``create_engine``.
    :param int pool_size: the number of connections that are kept; 0: no limit.
    :param int max_overflow: how many more may be open at a time; -1: no limit.
    :param timeout: how long to wait for a place; None: no limit.
    :param bool use_lifo: lend the most recently used connection first.
    :param min_connections: how many are kept open; at most *pool_size*.
    :param str unpatched: what to do in a process whose ``socket`` gevent has not
        patched: ``"stock"`` is ``QueuePool`` with the same arguments; ``"error"`` is
        :exc:`~geventpool.NotPatchedError`. Asked at the first loan.
    :param kw: as for ``sqlalchemy.pool.Pool``.
    :raises TypeError: an argument is of the wrong type.
    :raises ValueError: an argument is out of its range.
    """

    # The name of the logger that programs configure.
    _sqla_logger_namespace = "sqlalchemy.pool.impl.GreenletPool"

    _pool: RecordPool  # type: ignore[assignment]

    # create_engine() passes on arguments that are not keyword-only.
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
        leak_after: float | None = None,
        listeners: Iterable[PoolListener] = (),
        timeouts: Timeouts = Timeouts(),
        outage: Outage = Outage(),
        budget: Budget | str | None = None,
        admission: Admission | bool | None = None,
        unpatched: str = STOCK,
        **kw: Any,
    ) -> None:
        given: dict[str, Any] = dict(locals())
        # After recreate() the pool is called as before.
        name = kw.pop("_name", None)
        refuse_unknown(f"{type(self).__name__}()", kw, _KNOWN)
        _check_sizes(pool_size, max_overflow, min_connections)
        # Not the constructor of QueuePool, which would make a queue.
        SQLAlchemyPool.__init__(self, creator, **kw)
        self._max_overflow = max_overflow if pool_size else -1
        self._timeout = timeout  # type: ignore[assignment]
        #: the core pool's options, for recreate()
        self._options = {name: given[name] for name in _PASSED_ON}
        self._unpatched = check_unpatched(unpatched)
        #: Whether it is still unknown if gevent has patched this process.
        self._is_undecided = True
        #: takes over what an interrupted connection has left running; see strand()
        self.stranding: Callable[[Any], Stranded | None] | None = None
        is_bounded = self._max_overflow >= 0
        self._pool = RecordPool(
            self,
            pool_size,
            use_lifo,
            max_connections=pool_size + max_overflow if is_bounded else sys.maxsize,
            timeout=timeout,
            name=kw.get("logging_name") or name or name_of_engine(creator),
            **self._options,
        )

    @property
    def core(self) -> RecordPool:
        """The :class:`geventpool.Pool` below this one. It lends records."""
        return self._pool

    # Borrowing

    def connect(self) -> PoolProxiedConnection:
        """Lend a connection. May switch.

        :raises sqlalchemy.exc.TimeoutError: no place became free in time, the server
            took no more connections for that long, or too many greenlets wait.
        :raises Exception: raised by the driver or a listener.
        :raises NotPatchedError: gevent has not patched this process, and *unpatched* is
            ``"error"``.
        """
        if self._is_undecided:
            stock = "SQLAlchemy's QueuePool"
            if not pools_here("geventpool.sqlalchemy", self._unpatched, stock):
                become_threaded_pool(self)
                return QueuePool.connect(self)
            self._is_undecided = False
        fairy = _ConnectionFairy._checkout(self)
        fairy.__class__ = Fairy
        if sys.exc_info()[1] is not None:
            fairy.note_older_interruptions()
        return fairy

    def _do_get(self) -> Record:
        places = self._pool
        came = places.extension.now()
        try:
            record = places.acquire()
        except PoolExhaustedError as error:
            raise self._refusal(error) from error
        while not record.is_ready():
            # Its errors pass unchanged, also those of another pool of this package.
            refusal = self._connect_record(record)
            if refusal is None:
                break
            try:
                record = places.acquire_again(came, refusal)
            except PoolExhaustedError as error:
                raise self._refusal(error) from error
        record.is_chosen = True
        return record

    def _connect_record(self, record: Record) -> Exception | None:
        """Connect a record, or replace its connection, dead or old. May switch.

        :return: None: it is connected; or why the full server refused that. Its place
            is free then.
        """
        is_new = record.is_new
        try:
            if record.dbapi_connection is not None and not record.is_quiet():
                record.invalidate()
        except BaseException:
            self.free_place(record)
            raise
        record.gives_way = True
        try:
            record.get_connection()
            return None
        except BaseException as error:
            if record.dbapi_connection is None and isinstance(error, Exception):
                if self._pool.gate.is_refusal(error):
                    self.free_place(record)
                    # Without its frames, which would refer to it in turn.
                    return copy_error(error)
            if is_new:
                # There was no connection, so no event of a return is sent.
                self.free_place(record)
            else:
                # As SQLAlchemy does.
                record._checkin_failed(error, _fairy_was_created=False)
            raise
        finally:
            record.gives_way = False

    def _refusal(self, error: PoolExhaustedError) -> exc.TimeoutError:
        what = f"limit of size {self.size()} overflow {self.overflow()} reached"
        why = f"connection timed out, timeout {self._timeout or 0:0.2f}"
        if isinstance(cause := error.__cause__, Exception):
            why += f"; the last attempt to connect failed: {cause}"
            # It was not the limit of the pool that kept it from trying again.
            what = "got no connection, because none could be made"
            if self._pool.gate.is_refusal(cause):
                what = "got no connection, because the server takes no more"
        if isinstance(error, TooManyWaitingError):
            why = f"and max_waiting={self._options['max_waiting']} is reached"
        elif isinstance(error, PoolDeadlockError):
            why += "; all connections are held by greenlets that wait for one"
        elif isinstance(error, PoolOverloadedError):
            why = str(error)
        return exc.TimeoutError(f"{type(self).__name__} {what}, {why}", code="3o7r")

    @property
    def _invoke_creator(self) -> Any:
        return self._connect

    @_invoke_creator.setter
    def _invoke_creator(self, creator: Callable[[Record], Any]) -> None:
        # A pool that becomes a ThreadedPool finds it there.
        self.__dict__["_invoke_creator"] = creator

    @_invoke_creator.deleter
    def _invoke_creator(self) -> None:
        del self.__dict__["_invoke_creator"]

    def _connect(self, record: Record) -> Any:
        """Have SQLAlchemy connect, unless the server is away. May switch."""
        dial = partial(self.__dict__["_invoke_creator"], record)
        return self._pool.gate.connect(dial, self._timeout, record.gives_way)

    def _create_connection(self) -> Record:
        return Record(self)

    # Release

    def _do_return_conn(self, record: Record) -> None:  # type: ignore[override]
        places = self._pool
        record.is_reclaimed = False
        if record.stranded is not None and places.extension.is_lent(record):
            # Its place is free when the server has let go of the statement.
            self.free_place(record)
            return
        if self._max_overflow and places.is_full:
            try:
                record.close()
            finally:
                self.free_place(record)
            return
        try:
            places.release(record, anyone=True)
        except ConnectionNotFoundError:
            # It was on loan during dispose().
            if not places.readmit(record):
                record.close()

    def free_place(self, record: Record) -> None:
        """Free the place of a record that is on loan, for good. Never switches."""
        if self._pool.extension.is_lent(record):
            self._pool.extension.vacate(record)

    def strand(self, connection: Any) -> Stranded | None:
        """Take over what *connection* has left running, before it is closed.

        :return: None: nothing, or it is not known how to end it. Never switches.
        """
        return None if self.stranding is None else self.stranding(connection)

    def transfer(
        self, connection: Connection | PoolProxiedConnection, greenlet: greenlet | None
    ) -> None:
        """Make another greenlet the holder of a connection that the caller holds.

        The loan ends when its holder ends. Any greenlet may use the connection and
        close it. Never switches.

        :param connection: a connection of the engine, or of ``raw_connection()``.
        :param greenlet: the new holder; None: no holder, so that only a release ends
            the loan.
        :raises ConnectionNotFoundError: the caller does not hold the connection.
        :raises TypeError: *greenlet* is no greenlet.
        """
        fairy: Any = connection
        if not isinstance(connection, _ConnectionFairy):
            fairy = connection.connection
        self._pool.transfer(fairy._connection_record, greenlet)

    def _close_connection(self, connection: Any, *, terminate: bool = False) -> None:
        if terminate and interruption() is not None:
            # A closing message would wait behind half a statement.
            terminate_connection(connection)
        super()._close_connection(connection, terminate=terminate)

    # Connections that were not given back

    def on_collected(self, record: Record, ref: weakref.ref[Any]) -> None:
        """Note that the proxy of a lent connection was collected. Never switches.

        May run in any greenlet or thread.
        """
        self._pool.extension.call_soon(self._on_collected, record, ref)

    def _on_collected(self, record: Record, ref: weakref.ref[Any]) -> None:
        if record.fairy_ref is ref and not record.is_reclaimed:
            self.reclaim(record)

    def reclaim(self, record: Record) -> None:
        """Give a record back in the place of its borrower. Runs in the hub."""
        record.is_reclaimed = True
        error = None
        extension = self._pool.extension
        if extension.is_lent(record):
            holder = extension.disown(record)
            error = why_interrupted(holder, record.fairy_ref)
        self._pool.give_back(record, self._give_back, error)

    def _give_back(self, record: Record, error: BaseException | None) -> None:
        """Give a record back, in a greenlet of the pool. May switch."""
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
        """Make a new pool with the same arguments. It opens nothing."""
        self.logger.info("Pool recreating")
        kind: type[GreenletPool] = getattr(self, "_former_class", type(self))
        pool = kind(
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
            _name=self.core.name,
            **self._options,
        )
        pool.stranding = self.stranding
        return pool

    def dispose(self) -> None:
        """Close the idle connections, and give up those on loan. May switch.

        A connection on loan can still be used. When it is given back, it is readmitted
        if there is room, and closed otherwise. Waiters get a place at once.
        """
        self._pool.extension.forget_all()
        self.logger.info("Pool disposed. %s", self.status())

    def checkedout(self) -> int:
        """Return how many connections borrowers have. Never switches.

        As with ``QueuePool``, one that a borrower is connecting counts. Places that the
        pool itself uses do not, for *min_connections* or in the pause before a full
        server is tried again; ``overflow()`` counts them, because they are taken.
        """
        return self._pool.extension.in_use

    @property
    def _overflow(self) -> int:  # type: ignore[override]
        # The number of connections above pool_size; negative below it.
        return self._pool.size - self._pool.maxsize

    def stats(self) -> PoolStats:
        """Return the state of the pool at this moment, as a constant object."""
        return self._pool.stats()


#: The names of all arguments: those of this class and of SQLAlchemy's pools.
_KNOWN = {
    name
    for kind in (GreenletPool, SQLAlchemyPool)
    for name in signature(kind).parameters
}


def _check_sizes(pool_size: int, max_overflow: int, min_connections: int) -> None:
    """Refuse bad numbers of connections.

    :raises TypeError: one is no whole number.
    :raises ValueError: one is out of its range.
    """
    if not check_int("pool_size", pool_size):
        # There is no limit, so no overflow to check.
        return
    check_int("max_overflow", max_overflow, -1)
    if check_int("min_connections", min_connections) > pool_size:
        raise ValueError(
            f"min_connections must be at most pool_size ({pool_size!r}), "
            f"not {min_connections!r}"
        )
