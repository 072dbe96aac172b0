"""The core pool with SQLAlchemy's records as its connections.

It lends places: a record may or may not have a connection at present.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

from geventpool import sockets
from geventpool.connector import Connector, ErrorAction, judge
from geventpool.errors import PoolExhaustedError
from geventpool.extension import copy_error, within
from geventpool.listeners import PoolStats
from geventpool.policies import Outage
from geventpool.pool import Pool
from geventpool.sqlalchemy.full_servers import is_refusal
from geventpool.sqlalchemy.outages import ConnectGate
from geventpool.sqlalchemy.records import Record, RecordOwner, terminate_connection

__all__ = ["RecordPool", "RecordConnector", "disown"]

log = logging.getLogger("geventpool")

#: Connections of the parent process, kept forever in a forked child. If they were
#: collected, their drivers would send closing messages to the server.
_inherited: list[Any] = []


class RecordConnector(Connector[Record]):
    """The connector for records. SQLAlchemy does the work.

    :param pool: the pool that the records belong to.
    """

    # SQLAlchemy connects them, in the greenlet of the borrower.
    connects_later = True

    def __init__(self, pool: RecordOwner) -> None:
        self._pool = pool
        self._process = os.getpid()
        #: how many loans ended with which kind of reset
        self.resets: Counter[str] = Counter()

    def open_at_once(self) -> Record:
        """Make a record that the borrower connects. Never switches."""
        return Record(self._pool, connect=False)

    def open(self) -> Record:
        """Make a record. May switch.

        If there are waiters, it is not connected: the borrower connects it. Otherwise
        it is needed for *min_connections*, and is connected here.

        :raises Exception: raised by the driver or a listener.
        """
        if self._pool.core.extension.waiting:
            refusal = self._pool.core.gate.full.hold_back()
            if refusal is not None:
                # The opener pauses then, as if it had been refused itself.
                raise copy_error(refusal)
            return Record(self._pool, connect=False)
        record = self._pool._create_connection()
        # It may be idle for long, so a transaction that a listener has begun is ended.
        try:
            self._pool._dialect.do_commit(record.dbapi_connection)
        except BaseException:
            self.terminate(record, is_told_next=False)
            raise
        return record

    def reset_counts(self) -> Counter[str]:
        """How many loans ended with which kind of reset. Never switches."""
        return self.resets

    def close(self, conn: Record) -> None:
        """Close the connection of a record, if it has one. May switch."""
        conn.close()

    def terminate(self, conn: Record, *, is_told_next: bool = True) -> None:
        """Close the connection of a record without sending anything. Never switches."""
        connection, conn.dbapi_connection = conn.dbapi_connection, None
        stranded, conn.stranded = conn.stranded, None
        if stranded is not None:
            stranded.close()
        if connection is None:
            return
        self._pool.core.disconnected(conn, is_told_next=is_told_next)
        if os.getpid() == self._process:
            terminate_connection(connection)
        else:
            disown(connection)

    def begin_cancel(self, conn: Record) -> bool:
        return conn.stranded is not None

    def cancel(self, conn: Record) -> bool:
        """Wait until the server has let go of an interrupted statement. May switch.

        :return: False: the record has no connection to be kept.
        """
        stranded, conn.stranded = conn.stranded, None
        if stranded is not None:
            stranded.cancel()
        return False

    def holder_died(self, conn: Record) -> bool:
        """Give a record back in the place of its borrower. Runs in the hub."""
        self._pool.reclaim(conn)
        return True

    def classify(self, error: Exception) -> ErrorAction:
        """Return DISCONNECT for what the dialect takes for a lost connection.

        BACK_OFF if the server is full. Never switches.
        """
        if is_refusal(error, getattr(self._pool._dialect, "name", None)):
            return ErrorAction.BACK_OFF
        is_disconnect = getattr(self._pool._dialect, "is_disconnect", None)
        if is_disconnect is not None and is_disconnect(error, None, None):
            return ErrorAction.DISCONNECT
        return super().classify(error)

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


def disown(connection: Any) -> None:
    """Close the copy of a parent's connection in a forked child. Never switches."""
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

    def __init__(
        self, pool: RecordOwner, maxsize: int, use_lifo: bool, **options: Any
    ) -> None:
        self.maxsize = maxsize
        self.use_lifo = use_lifo
        self._owner = pool
        self._outage: Outage = options.get("outage", Outage())
        self._connect_gate: ConnectGate | None = None
        #: of which pool of a process the gate is
        self._gate_of: object = None
        connector = RecordConnector(pool)
        self._resets = connector.resets
        super().__init__(connector, lifo=use_lifo, **options)

    @property
    def gate(self) -> ConnectGate:
        """The gate by which borrowers connect. A forked child has its own."""
        extension = self.extension
        gate = self._connect_gate
        if gate is None or self._gate_of is not extension:
            gate = self._connect_gate = ConnectGate(
                self._outage,
                extension.now,
                partial(judge, self.connector),
                extension.notify,
            )
            self._gate_of = extension
        return gate

    def stats(self) -> PoolStats:
        """The state of the pool at this moment; does not change later.

        Idle places count if they have a connection that is open. The core does not
        watch those of SQLAlchemy: it is noticed at the next loan if one was closed.
        """
        stats = super().stats()
        gone = sum(not record.is_open for record in self.idle_connections())
        return replace(
            stats,
            size=stats.size - gone,
            idle=stats.idle - gone,
            paused=stats.paused or self.gate.breaker.paused,
            max_idle_connections=self.maxsize or stats.max_connections,
        )

    def __repr__(self) -> str:
        # As stats() says: a place whose connection is closed is not idle, and borrowers
        # find the server away.
        stats = self.stats()
        return (
            f"<{type(self).__name__} {self.name!r}{' paused' * stats.paused} "
            f"{stats.size}/{stats.max_connections}: {stats.idle} idle, "
            f"{stats.in_use} in use, {stats.waiting} waiting>"
        )

    def connected(self, seconds: float) -> None:
        """Note that the connection of a record was made. Never switches."""
        if self.measures is not None:
            self.measures.connected(seconds)

    def disconnected(self, record: Record, *, is_told_next: bool = False) -> None:
        """Note that the connection of a record is closed. Never switches.

        :param is_told_next: the listeners will be told why.
        """
        if self.measures is not None:
            self.measures.disconnected(record, is_told_next=is_told_next)

    def was_reset(self, kind: str) -> None:
        """Count a loan that ended with a reset: ``skipped``, ``early`` or ``full``."""
        self._resets.update((kind,))

    def acquire_again(self, came: float, refusal: Exception) -> Record:
        """Lend another record, because the server has refused to connect the last one.

        The caller waits where it would be in line, had it not been served, and no
        longer than the pool's timeout in all. May switch.

        :param came: when it came.
        :raises PoolExhaustedError: no record in time. *refusal* is its cause.
        """
        extension, left = self.extension, None
        if extension.timeout is not None:
            left = max(0.0, came + extension.timeout - extension.now())
        try:
            with extension.in_line_since(came):
                return self.acquire(timeout=left)
        except PoolExhaustedError as error:
            error.__cause__ = refusal
            raise

    # Release

    @property
    def is_full(self) -> bool:
        """Whether one more idle record is too many. False while there are waiters."""
        return 0 < self.maxsize <= self.extension.idle

    def readmit(self, record: Record) -> bool:
        """Add a record that :meth:`dispose` has given up. Never switches.

        :return: False: there is no room.
        """
        # A record that the pool has was given back twice.
        if self.is_full and not self.extension.has(record):
            return False
        return self.extension.adopt(record)

    def give_back(
        self,
        record: Record,
        work: Callable[[Record, BaseException | None], object],
        error: BaseException | None,
    ) -> None:
        """Call *work* in a greenlet of the pool, within the time limit of a reset.

        If it does not give the record back, the place of the record is freed.
        """
        worker = self.extension.spawn(self._do, work, record, error)
        # A link, because ``finally`` is not run if it is killed before it has started.
        worker.rawlink(partial(self._done, record))

    def _do(self, work: Callable[..., object], record: Record, error: Any) -> None:
        try:
            within(self.extension.timeouts.reset, "a return", work, record, error)
        except Exception as failure:
            log.debug("%r was not given back cleanly: %r", record, failure)

    def _done(self, record: Record, worker: object) -> None:
        # If it was given back, it may be on loan again.
        if record.is_reclaimed:
            record.is_reclaimed = False
            self._owner.free_place(record)

    # The interface of SQLAlchemy's queue, for other code

    def qsize(self) -> int:
        """Return the number of idle records."""
        return self.extension.idle

    def empty(self) -> bool:
        """Return whether no record is idle."""
        return not self.extension.idle

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
