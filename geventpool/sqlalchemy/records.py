"""SQLAlchemy's records and proxies of connections, made safe for greenlets.

All use of SQLAlchemy's private members is in this package and listed here. To check a
new version, read this list:

* overridden of ``_ConnectionRecord``: ``fairy_ref``, ``needs_gc``, ``checkin``,
  ``invalidate``, ``get_connection``, ``__connect``; and of
  ``_ConnectionFairy``: ``_checkin``, ``cursor``, and ``commit`` and ``rollback``, which
  it passes on to the driver;
* called: both constructors, ``_ConnectionFairy._checkout``,
  ``_ConnectionRecord._checkin_failed``;
* read of a record: ``_soft_invalidate_time``;
* of a pool: ``_creator``, ``_dialect``, ``_do_get``, ``_do_return_conn``,
  ``_create_connection``, ``_invoke_creator``, ``_close_connection``,
  ``_should_log_debug``, ``_pre_ping``, ``_recycle``, ``_invalidate_time``,
  ``_reset_on_return``,
  ``_orig_logging_name``, ``_sqla_logger_namespace``, ``_max_overflow``, ``_timeout``,
  ``_pool``;
* of a dialect: ``_do_ping_w_event``;
* of PyMySQL: ``Connection._result``, ``MySQLResult.unbuffered_active``,
  ``SSCursor.read_next``.

Checked against SQLAlchemy 2.0.58 and 2.1.9.
"""

from __future__ import annotations

import sys
import time
import weakref
from typing import Any, Protocol

import gevent
from sqlalchemy.pool.base import _ConnectionFairy, _ConnectionRecord

from geventpool import sockets
from geventpool.sqlalchemy.interruptions import interruptions, reference

__all__ = [
    "Fairy",
    "RecordOwner",
    "Record",
    "Stranded",
    "terminate_connection",
]

#: Dialects whose server never sends anything on its own: an idle connection with
#: something to read was closed or is out of step. Other servers may send notices.
SILENT = frozenset({"mysql", "mariadb"})


class Stranded(Protocol):
    """A statement that may run at the server after its connection was closed."""

    def cancel(self) -> None:
        """End the statement. May switch."""

    def close(self) -> None:
        """Give it up. Never switches."""


class RecordOwner(Protocol):
    """What records, and the core pool that lends them, need of SQLAlchemy's pool.

    The names with an underscore are SQLAlchemy's.
    """

    #: tells how to talk to the driver
    _dialect: Any

    @property
    def core(self) -> Any:
        """The core pool, which counts what its records connect."""

    def _create_connection(self) -> Record:
        """Make a record, and connect it. May switch."""

    def free_place(self, record: Record) -> None:
        """Free the place of a record that is on loan, for good. Never switches."""

    def strand(self, connection: Any) -> Stranded | None:
        """Take over what *connection* has left running. Never switches."""

    def on_collected(self, record: Record, ref: weakref.ref[Any]) -> None:
        """Note that the proxy of a lent connection was collected. Never switches.

        May run in any greenlet or thread.
        """

    def reclaim(self, record: Record) -> None:
        """Give a record back in the place of its borrower. Runs in the hub."""


class Record(_ConnectionRecord):
    """A place of the pool, connected or not: the core pool lends these.

    It differs from SQLAlchemy's class in two ways. If the borrower forgot the
    connection, the finalizer only notifies the pool, which then gives it back in a
    greenlet of its own. And if the return of a connection is interrupted, its place is
    freed.
    """

    #: refers to the proxy of the lent connection; None: not lent
    _lent: weakref.ref[Any] | None = None
    #: Whether the pool is giving it back in the place of its borrower.
    is_reclaimed = False
    #: Whether its borrower takes another record if the server is full. Otherwise the
    #: connecting waits until the server has room.
    gives_way = False
    #: Whether the pool has chosen it for the borrower that now asks for its connection.
    is_chosen = False
    #: What its last connection has left running at the server; None: nothing.
    stranded: Stranded | None = None
    #: The connection whose socket was looked up, and the socket; None: it has none.
    _socket_owner: Any = None
    _socket: Any = None

    def __init__(self, pool: RecordOwner, connect: bool = True) -> None:
        self.green_pool = pool
        super().__init__(pool, connect)  # type: ignore[arg-type]

    def _ConnectionRecord__connect(self) -> None:
        started = time.monotonic()
        super()._ConnectionRecord__connect()  # type: ignore[misc]
        self.green_pool.core.connected(time.monotonic() - started)

    def _ConnectionRecord__close(self, *, terminate: bool = False) -> None:
        self.green_pool.core.disconnected(self)
        super()._ConnectionRecord__close(terminate=terminate)  # type: ignore[misc]

    @property
    def fairy_ref(self) -> weakref.ref[Any] | None:
        """Refers to the proxy of the lent connection; None: not lent.

        SQLAlchemy sets it. SQLAlchemy's own reference would roll back and return a
        forgotten connection within the garbage collector, unless it finds another
        reference here.
        """
        return self._lent

    @fairy_ref.setter
    def fairy_ref(self, ref: weakref.ref[Any] | None) -> None:
        if ref is not None and not self.green_pool._dialect.is_async:
            ref = weakref.ref(ref(), self._forgotten)
        self._lent = ref

    def _forgotten(self, ref: weakref.ref[Any]) -> None:
        # May run in any greenlet or thread, so it only notifies the pool.
        self.green_pool.on_collected(self, ref)

    @property
    def needs_gc(self) -> bool:
        """Whether SQLAlchemy may clean up in its finalizer. Here it must not."""
        ref = self._lent
        return self.green_pool._dialect.is_async and ref is not None and ref() is None

    def invalidate(self, e: BaseException | None = None, soft: bool = False) -> None:
        """Close the connection, or with *soft* replace it before its next loan.

        A statement that was interrupted is ended before the place is free. May switch.
        """
        if not soft and self.dbapi_connection is not None and self.stranded is None:
            self.stranded = self.green_pool.strand(self.dbapi_connection)
        super().invalidate(e, soft)

    def is_ready(self) -> bool:
        """Whether its connection can be lent as it is. Never switches.

        False if SQLAlchemy would close it because of its age, and connect it again.
        """
        if self.dbapi_connection is None:
            return False
        pool: Any = self.green_pool
        since = self.starttime
        if pool._invalidate_time > since or self._soft_invalidate_time > since:
            return False
        recycle = pool._recycle
        return (recycle <= -1 or time.time() - since <= recycle) and self.is_quiet()

    def get_connection(self) -> Any:
        """Return the connection, made anew if it is due. May switch."""
        chosen, self.is_chosen = self.is_chosen, False
        if chosen and self.dbapi_connection is not None:
            # With a short pool_recycle a connection made just now would be due again.
            return self.dbapi_connection
        return super().get_connection()

    @property
    def is_new(self) -> bool:
        """Whether this record never had a connection."""
        return not self.starttime

    def is_quiet(self) -> bool:
        """Whether the connection has nothing to read, so seems open. Never switches."""
        conn: Any = self.dbapi_connection
        if isinstance(getattr(conn, "pending", None), int):
            # A connection of geventpool.mysql: it can have replies to its reset to
            # read.
            return bool(conn.is_quiet())
        if conn is not self._socket_owner:
            self._socket_owner = conn
            talks = getattr(self.green_pool._dialect, "name", None) not in SILENT
            self._socket = None if talks else sockets.find_socket(conn)
        return self._socket is None or sockets.is_quiet(self._socket)

    @property
    def is_open(self) -> bool:
        """Whether it has a connection that the server has not closed. Never switches.

        For statistics: it takes a system call, and may be asked in any thread.
        """
        conn: Any = self.dbapi_connection
        if conn is None:
            return False
        found: Any = sockets.find_socket(conn) or conn
        return not hasattr(found, "fileno") or not sockets.has_hung_up(found)

    def checkin(self, _fairy_was_created: bool = True) -> None:
        """Give the place back even if a listener fails. May switch."""
        if self._lent is None and _fairy_was_created:
            # Given back twice. SQLAlchemy warns, and there is nothing to do.
            super().checkin(_fairy_was_created)
            return
        try:
            super().checkin(_fairy_was_created)
        except BaseException:
            # Interrupted, or a listener failed. The state of the connection is unknown,
            # so it is not kept.
            try:
                self.green_pool.free_place(self)
            except BaseException:
                # Such as a RecursionError, after which only C code can be called.
                gevent.get_hub().loop.run_callback(self.green_pool.free_place, self)
                raise
            raise


class Fairy(_ConnectionFairy):
    """The proxy of a lent connection, which checks how the loan ended."""

    __slots__ = ()

    def _checkin(self, transaction_was_reset: bool = False) -> None:
        if self.dbapi_connection is not None and not transaction_was_reset:
            error = self._interruption()
            if error is not None:
                # A kill or a timeout. Half a statement may have been sent, or the
                # answer to the last one may be unread. The server could take a ROLLBACK
                # for the other half, which would wait without limit.
                stop_streaming(self.dbapi_connection)
                self.invalidate(error)
                return
        self._release_stream()
        super()._checkin(transaction_was_reset)

    # The finalizer of a streaming cursor of PyMySQL reads all unread rows, even while a
    # kill propagates. So the cursor is kept until it is known how the loan goes on.

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """Make a cursor of the driver."""
        made = self.dbapi_connection.cursor(*args, **kwargs)
        self.__dict__["_stream"] = made if hasattr(made, "read_next") else None
        return made

    def _release_stream(self) -> None:
        # The finalizer of a forgotten cursor runs here.
        self.__dict__.pop("_stream", None)

    def commit(self) -> None:
        """Commit. May switch."""
        self._release_stream()
        self.dbapi_connection.commit()

    def rollback(self) -> None:
        """Roll back, or close a connection that an interruption left streaming.

        May switch.
        """
        if sys.exc_info()[1] is not None:
            error = self._interruption()
            if error is not None and stop_streaming(self.dbapi_connection):
                self.invalidate(error)
                return
        self._release_stream()
        self.dbapi_connection.rollback()

    def note_older_interruptions(self) -> None:
        """Note the interruptions that are being handled when the loan begins.

        They did not interrupt this loan.
        """
        before = [reference(error) for error in interruptions()]
        if before:
            self.__dict__["_before"] = before

    def _interruption(self) -> BaseException | None:
        """Return the interruption of the loan that is being handled; None: none."""
        before = self.__dict__.get("_before", ())
        for error in interruptions():
            if not any(refer() is error for refer in before):
                return error
        return None


def stop_streaming(connection: Any) -> bool:
    """Discard the unread rows of a PyMySQL connection and terminate it. Never switches.

    :return: False: there were no unread rows, and nothing was done.
    """
    result: Any = getattr(connection, "_result", None)
    # Other drivers, and doubles of them, may have another kind of "_result".
    if getattr(result, "unbuffered_active", False) is not True:
        return False
    # Otherwise the result's finalizer would read from the closed connection.
    result.unbuffered_active = False
    terminate_connection(connection)
    return True


def terminate_connection(conn: Any) -> None:
    """Close the socket under *conn*, if one can be found. Never switches.

    After that, closing the connection cannot wait for the server.
    """
    sock = sockets.find_socket(conn)
    if sock is not None:
        sockets.terminate(sock)
