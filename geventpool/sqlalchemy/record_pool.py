"""The core pool, with SQLAlchemy's records for connections.

What it lends is a place: a record that may or may not have a connection at present.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from geventpool import sockets
from geventpool.connector import Connector
from geventpool.holders import Holder
from geventpool.ledger import CLOSING, GONE, IN_USE, CloseReason, Entry, anyone
from geventpool.pool import Pool
from geventpool.sqlalchemy.records import Owner, Record, terminate_connection
from geventpool.workers import within

__all__ = ["RecordPool", "RecordConnector"]

log = logging.getLogger("geventpool")

#: Connections inherited over a fork whose drivers say goodbye when collected: they are
#: the parent's, and must never be.
_inherited: list[Any] = []


class RecordConnector(Connector[Record]):
    """The verbs for records; the real work is SQLAlchemy's.

    :param pool: whose records they are.
    """

    def __init__(self, pool: Owner) -> None:
        self._pool = pool
        self._process = os.getpid()

    def open(self) -> Record:
        """A record: for who waits, one that he connects himself. May switch.

        With nobody waiting it is for the stock, and is connected here.

        :raises Exception: whatever the driver or a listener raised.
        """
        if self._pool.core.has_waiters:
            return Record(self._pool, connect=False)
        record = self._pool._create_connection()
        # It may be idle for long, with what listeners have begun on it.
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
        """Part with the connection of a record, without a goodbye. Never switches."""
        connection, conn.dbapi_connection = conn.dbapi_connection, None
        if connection is None:
            return
        if os.getpid() == self._process:
            terminate_connection(connection)
        else:
            _disown(connection)

    def ping(self, conn: Record) -> None:
        """Ask the server whether it is there, as ``pool_pre_ping`` does. May switch.

        A dead connection is closed; its record stays, to be connected again.

        :raises Exception: it could not even be closed.
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
    """A core pool that makes records while the borrower waits for nothing.

    Beside its own interface it has as much of SQLAlchemy's queue as others read.

    :param pool: whose records are lent.
    :param int maxsize: so many may be idle; 0: any number.
    """

    def __init__(
        self, pool: Owner, maxsize: int, use_lifo: bool, **options: Any
    ) -> None:
        self.maxsize = maxsize
        self.use_lifo = use_lifo
        self._owner = pool
        #: of the thread this pool belongs to, once it was used
        self.loop: Any = None
        #: what gives up the places of records on loan that dispose() forgot
        self._forgotten: WeakKeyDictionary[Record, Any] = WeakKeyDictionary()
        super().__init__(RecordConnector(pool), lifo=use_lifo, **options)

    # Borrowing

    def _wait_for_one(
        self, retry: int | None, timeout: float | None, started: float
    ) -> Entry[Record]:
        # A record is made without switching: there is no need to wait for one.
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

    # Giving back

    @property
    def has_waiters(self) -> bool:
        """Does anybody wait?"""
        return bool(self._waiters)

    @property
    def is_full(self) -> bool:
        """Is one more idle record too many? Never if somebody waits: none is idle."""
        return 0 < self.maxsize <= self._ledger.idle

    def is_lent(self, record: Record) -> bool:
        """Is the record on loan, by this pool's book?"""
        entry = self._ledger.entries.get(id(record))
        return entry is not None and entry.conn is record and entry.state is IN_USE

    def readmit(self, record: Record) -> bool:
        """Take a record that this pool had parted with; False: no room.

        Never switches.
        """
        if id(record) in self._ledger.entries:
            return True  # given back twice
        if self._closed or self.is_full or not self._ledger.has_room:
            return False
        if not self._lease(record):
            return False
        self._lifecycle.end_loan_normally(self._add(record, self._clock()))
        return True

    def end_loan(self, record: Record) -> Any:
        """From now on a loan is the pool's own affair; the greenlet whose it was."""
        entry = self._ledger.entries[id(record)]
        holder = entry.holder() if entry.holder is not None else None
        self._lifecycle.end_loan(entry)
        entry.holder = anyone
        return holder

    def free_place(self, record: Record) -> None:
        """Free the place of a record on loan whose connection is closed already.

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
        """Have *work* done in a greenlet of the pool, within its limit for a reset."""
        worker = self._lifecycle.workers.spawn(self._do, work, record, error)
        # A link and no ``finally``: it may be killed before it has started.
        worker.rawlink(partial(self._done, record))

    def _do(self, work: Callable[..., object], record: Record, error: Any) -> None:
        try:
            within(self._timeouts.reset, "a return", work, record, error)
        except Exception as failure:
            log.debug("%r was not given back cleanly: %r", record, failure)

    def _done(self, record: Record, worker: object) -> None:
        # If it came back, somebody else may have it by now.
        if record.is_reclaimed:
            record.is_reclaimed = False
            self._owner.free_place(record)

    def _holder_died(self, holder: Holder) -> None:
        for entry in holder.loans:
            if entry.state is IN_USE and entry.holder is holder:
                self._owner.reclaim(entry.conn)

    def tell_loop(self, work: Callable[..., object], *args: Any) -> None:
        """Have *work* called by the hub, from wherever this runs. Never raises."""
        try:
            self.loop.run_callback_threadsafe(work, *args)
        except Exception:
            # The loop is gone, and so is everybody who could use the place. Not even
            # a log may hear of it: a finalizer takes no lock.
            pass

    # All at once

    def dispose(self) -> None:
        """Close the idle connections, and forget those on loan. May switch.

        There is room again for as many as at first, which those who wait get.
        """
        lifecycle, ledger = self._lifecycle, self._ledger
        # Nothing is kept ready any more, but who still borrows is served.
        lifecycle.min_connections = 0
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

    # SQLAlchemy's queue, as others read it

    def qsize(self) -> int:
        """How many records are idle."""
        return self._ledger.idle

    def empty(self) -> bool:
        """Is no record idle?"""
        return not self._ledger.idle

    @property
    def queue(self) -> list[Record]:
        """The idle records; a copy."""
        return self.idle_connections()

    @queue.setter
    def queue(self, records: Iterable[Record]) -> None:
        kept = {id(record) for record in records}
        for record in self.idle_connections():
            if id(record) not in kept:
                self.drop(record)
