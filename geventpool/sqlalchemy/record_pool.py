"""The core pool with SQLAlchemy's records as its connections.

It lends places: a record may or may not have a connection at present.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from geventpool import sockets
from geventpool._core.holders import Holder
from geventpool._core.ledger import CLOSING, GONE, IN_USE, CloseReason, Entry, anyone
from geventpool._core.workers import within
from geventpool.connector import Connector
from geventpool.listeners import PoolStats
from geventpool.policies import Outage
from geventpool.pool import Pool
from geventpool.sqlalchemy.outages import ConnectGate
from geventpool.sqlalchemy.records import Owner, Record, terminate_connection

__all__ = ["RecordPool", "RecordConnector"]

log = logging.getLogger("geventpool")

#: Connections of the parent process, kept forever in a forked child. If they were
#: collected, their drivers would send closing messages to the server.
_inherited: list[Any] = []


class RecordConnector(Connector[Record]):
    """The connector for records. SQLAlchemy does the work.

    :param pool: the pool that the records belong to.
    """

    def __init__(self, pool: Owner) -> None:
        self._pool = pool
        self._process = os.getpid()

    def open(self) -> Record:
        """Make a record. May switch.

        If there are waiters, it is not connected: the borrower connects it. Otherwise
        it is needed for *min_connections*, and is connected here.

        :raises Exception: raised by the driver or a listener.
        """
        if self._pool.core.has_waiters:
            return Record(self._pool, connect=False)
        record = self._pool._create_connection()
        # It may be idle for long, so a transaction that a listener has begun is ended.
        try:
            self._pool._dialect.do_commit(record.dbapi_connection)
        except BaseException:
            self.terminate(record)
            raise
        return record

    def close(self, conn: Record) -> None:
        """Close the connection of a record, if it has one. May switch."""
        conn.close()

    def terminate(self, conn: Record) -> None:
        """Close the connection of a record without sending anything. Never switches."""
        connection, conn.dbapi_connection = conn.dbapi_connection, None
        if connection is None:
            return
        if os.getpid() == self._process:
            terminate_connection(connection)
        else:
            _disown(connection)

    def ping(self, conn: Record) -> None:
        """Ping the server as ``pool_pre_ping`` does. May switch.

        A dead connection is closed. Its record stays, to be connected again.

        :raises Exception: closing failed.
        """
        connection = conn.dbapi_connection
        if connection is None:
            return
        try:
            lives = self._pool._dialect._do_ping_w_event(connection)
        except Exception as error:
            conn.invalidate(error)
        else:
            if not lives:
                conn.invalidate()


def _disown(connection: Any) -> None:
    sock = sockets.find_socket(connection)
    if sock is not None:
        sockets.terminate(sock)
        return
    fileno = getattr(connection, "fileno", None)
    if callable(fileno):
        sockets.redirect_to_null(fileno())
    _inherited.append(connection)


class RecordPool(Pool[Record]):
    """A core pool that lends records, and makes them without switching.

    In addition it has the methods of SQLAlchemy's queue that other code reads.

    :param pool: the pool that the records belong to.
    :param int maxsize: how many may be idle; 0: no limit.
    """

    # SQLAlchemy connects them, in the greenlet of the borrower.
    _lends_connections = False

    def __init__(
        self, pool: Owner, maxsize: int, use_lifo: bool, **options: Any
    ) -> None:
        self.maxsize = maxsize
        self.use_lifo = use_lifo
        self._owner = pool
        self._outage: Outage = options.get("outage", Outage())
        #: the event loop of the pool's thread; None: not yet used
        self.loop: Any = None
        #: what gives up the places of records on loan that dispose() forgot
        self._forgotten: WeakKeyDictionary[Record, Any] = WeakKeyDictionary()
        super().__init__(RecordConnector(pool), lifo=use_lifo, **options)

    def _begin(self, *args: Any) -> None:
        super()._begin(*args)
        #: where borrowers go to connect
        self.gate = ConnectGate(
            self._outage,
            lambda: self._ledger.clock(),
            self._is_disconnect,
            self._listeners.notify,
        )

    def _is_disconnect(self, error: Exception) -> bool:
        is_disconnect = getattr(self._owner._dialect, "is_disconnect", None)
        return is_disconnect is not None and is_disconnect(error, None, None)

    def stats(self) -> PoolStats:
        """The state of the pool at this moment; does not change later."""
        stats = super().stats()
        return replace(
            stats,
            paused=stats.paused or self.gate.breaker.paused,
            max_idle_connections=self.maxsize or stats.max_connections,
        )

    # Borrowing

    def _wait_for_one(
        self, retry: int | None, timeout: float | None, started: float
    ) -> Entry[Record]:
        # A record is made without switching, so there is no need to wait for one.
        if self._ledger.has_room and not self._waiters and self._lease():
            return self._add(Record(self._owner, connect=False), started)
        return super()._wait_for_one(retry, timeout, started)

    def _lease(self, record: Record | None = None) -> bool:
        """Lease a place for a record, if there is a budget. Never switches.

        :param record: it may have one; None: a new one.
        """
        leases = self._lifecycle.leases
        if leases is None:
            return True
        finalizer = self._forgotten.pop(record, None) if record is not None else None
        if finalizer is not None and finalizer.detach() is not None:
            return True
        return leases.lease(wish=False)

    def _add(self, record: Record, now: float) -> Entry[Record]:
        """A place for *record*, in use. It must be leased. Never switches."""
        lifecycle = self._lifecycle
        lifecycle.ensure_reaper()
        entry = self._ledger.reserve()
        self._ledger.opened(entry, record)
        entry.expires = lifecycle.expiry.expires(now)
        entry.used = entry.alive = entry.since = now
        self._ledger.move(entry, IN_USE)
        if not lifecycle.listeners.is_deaf:
            lifecycle.listeners.notify("opened", record, 0.0)
        return entry

    def connected(self, seconds: float) -> None:
        """Note that the connection of a record was made. Never switches."""
        if self.measures is not None:
            self.measures.connected(seconds)

    # Release

    @property
    def has_waiters(self) -> bool:
        """Whether greenlets wait for a place."""
        return bool(self._waiters)

    @property
    def is_full(self) -> bool:
        """Whether one more idle record is too many. False while there are waiters."""
        return 0 < self.maxsize <= self._ledger.idle

    def is_lent(self, record: Record) -> bool:
        """Whether the record is on loan from this pool."""
        entry = self._ledger.entries.get(id(record))
        return entry is not None and entry.conn is record and entry.state is IN_USE

    def readmit(self, record: Record) -> bool:
        """Add a record that :meth:`dispose` has given up. Never switches.

        :return: False: there is no room.
        """
        if id(record) in self._ledger.entries:
            return True  # given back twice
        if self.closed or self.is_full or not self._ledger.has_room:
            return False
        if not self._lease(record):
            return False
        self._lifecycle.end_loan_normally(self._add(record, self._clock()))
        return True

    def end_loan(self, record: Record) -> Any:
        """Take a loan from its holder. Never switches.

        :return: the greenlet that held it; None: there was no holder, or it was
            collected.
        """
        entry = self._ledger.entries[id(record)]
        holder = entry.holder() if entry.holder is not None else None
        self._lifecycle.end_loan(entry)
        entry.holder = anyone
        return holder

    def free_place(self, record: Record) -> None:
        """Free the place of a record on loan, whose connection is already closed.

        Never switches.
        """
        entry = self._claim(record, anyone=True)
        self._finish_loan(entry, self._lifecycle.terminate, CloseReason.DROPPED)

    def run_in_background(
        self,
        record: Record,
        work: Callable[[Record, BaseException | None], object],
        error: BaseException | None,
    ) -> None:
        """Call *work* in a greenlet of the pool, within the time limit of a reset."""
        worker = self._lifecycle.workers.spawn(self._do, work, record, error)
        # A link, because ``finally`` is not run if it is killed before it has started.
        worker.rawlink(partial(self._done, record))

    def _do(self, work: Callable[..., object], record: Record, error: Any) -> None:
        try:
            within(self._timeouts.reset, "a return", work, record, error)
        except Exception as failure:
            log.debug("%r was not given back cleanly: %r", record, failure)

    def _done(self, record: Record, worker: object) -> None:
        # If it was given back, it may be on loan again.
        if record.is_reclaimed:
            record.is_reclaimed = False
            self._owner.free_place(record)

    def _holder_died(self, holder: Holder) -> None:
        for entry in holder.loans:
            if entry.state is IN_USE and entry.holder is holder:
                self._owner.reclaim(entry.conn)

    def tell_loop(self, work: Callable[..., object], *args: Any) -> None:
        """Have the hub call *work*. Can be called in any thread. Never raises."""
        try:
            self.loop.run_callback_threadsafe(work, *args)
        except Exception:
            # The event loop has ended, and with it all borrowers. It is not logged,
            # because a finalizer must not take the lock of a logger.
            pass

    # All connections

    def dispose(self) -> None:
        """Close the idle connections, and forget those on loan. May switch.

        All places are free again, and the waiters get them.
        """
        lifecycle, ledger = self._lifecycle, self._ledger
        # No minimum is kept any more, but borrowers are still served.
        ledger.min_connections = 0
        while (entry := ledger.take_idle()) is not None:
            ledger.move(entry, CLOSING)
            if not lifecycle.listeners.is_deaf:
                lifecycle.listeners.notify("closed", entry.conn, CloseReason.DRAINED)
            lifecycle._close_one(entry)
        on_closed, ledger.on_closed = ledger.on_closed, None
        for entry in ledger.all_in(IN_USE):
            lifecycle.note_early_end(entry)
            lifecycle.end_loan(entry)
            ledger.move(entry, GONE)
            if lifecycle.leases is not None:
                # Its connection stays open until its borrower gives it back.
                self._forgotten[entry.conn] = lifecycle.leases.leave_to(entry.conn)
        ledger.on_closed = on_closed
        lifecycle.serve()

    # The interface of SQLAlchemy's queue, for other code

    def qsize(self) -> int:
        """Return the number of idle records."""
        return self._ledger.idle

    def empty(self) -> bool:
        """Return whether no record is idle."""
        return not self._ledger.idle

    @property
    def queue(self) -> list[Record]:
        """A list of the idle records. Setting it drops those that are missing."""
        return self.idle_connections()

    @queue.setter
    def queue(self, records: Iterable[Record]) -> None:
        kept = {id(record) for record in records}
        for record in self.idle_connections():
            if id(record) not in kept:
                self.drop(record)
