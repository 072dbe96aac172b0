"""SQLAlchemy's own book-keeping for one connection, made safe for greenlets.

Everything geventpool touches of SQLAlchemy's private parts is in this package, and
listed here, so that a new version is checked by reading one page:

* overridden of ``_ConnectionRecord``: ``fairy_ref``, ``needs_gc``, ``checkin``; and of
  ``_ConnectionFairy``: ``_checkin``, ``cursor``, and ``commit`` and ``rollback``, which
  it passes on to the driver;
* called: both constructors, ``_ConnectionFairy._checkout``;
* of a pool: ``_creator``, ``_dialect``, ``_do_get``, ``_do_return_conn``,
  ``_create_connection``, ``_close_connection``, ``_should_log_debug``,
  ``_pre_ping``, ``_recycle``, ``_reset_on_return``, ``_orig_logging_name``,
  ``_sqla_logger_namespace``, ``_max_overflow``, ``_timeout``, ``_pool``;
* of a dialect: ``_do_ping_w_event``;
* of PyMySQL: ``Connection._result``, ``MySQLResult.unbuffered_active``,
  ``SSCursor.read_next``.

Checked against SQLAlchemy 2.0.58 and 2.1.9.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import gevent
from sqlalchemy.pool.base import _ConnectionFairy, _ConnectionRecord

from geventpool import sockets

__all__ = [
    "Fairy",
    "Owner",
    "Record",
    "interruption",
    "terminate_connection",
    "interruptions",
]

#: Where MySQL's protocol is spoken, an idle connection with something to read has been
#: closed or is out of step. Other servers may send notices at any time.
SILENT = frozenset({"mysql", "mariadb"})


class Owner(Protocol):
    """What records, and the places for them, ask of the pool they belong to."""

    _dialect: Any

    @property
    def core(self) -> Any: ...
    def _create_connection(self) -> Record: ...
    def free_place(self, record: Record) -> None: ...
    def on_collected(self, record: Record, ref: weakref.ref[Any]) -> None: ...
    def reclaim(self, record: Record) -> None: ...


class Record(_ConnectionRecord):
    """A place of the pool, connected or not: what the core pool lends.

    SQLAlchemy's, but for two things. When the connection was forgotten by its
    borrower, nothing is done wherever the garbage collector happens to run: the pool is
    told, and sees to it in a greenlet of its own. And whatever interrupts the return
    of a connection, the place comes back.
    """

    #: the lent connection's proxy; None: not lent
    _lent: weakref.ref[Any] | None = None
    #: is the pool giving it back in the place of its borrower?
    is_reclaimed = False
    #: the connection that was asked for its socket, and the socket, if it has one
    _looked_at: Any = None
    _socket: Any = None

    def __init__(self, pool: Owner, connect: bool = True) -> None:
        self.green_pool = pool
        super().__init__(pool, connect)  # type: ignore[arg-type]

    @property
    def fairy_ref(self) -> weakref.ref[Any] | None:
        """Refers to the proxy by which the connection is lent; None: it is not.

        SQLAlchemy sets it. Its own reference would roll back and return a connection
        from within the collector, unless it finds another one here.
        """
        return self._lent

    @fairy_ref.setter
    def fairy_ref(self, ref: weakref.ref[Any] | None) -> None:
        if ref is not None and not self.green_pool._dialect.is_async:
            places = self.green_pool.core
            if places.loop is None:
                places.loop = gevent.get_hub().loop
            ref = weakref.ref(ref(), self._forgotten)
        self._lent = ref

    def _forgotten(self, ref: weakref.ref[Any]) -> None:
        # Runs anywhere, even in another thread: it only tells.
        self.green_pool.on_collected(self, ref)

    @property
    def needs_gc(self) -> bool:
        """May SQLAlchemy clean up in its finalizer? Not here."""
        ref = self._lent
        return self.green_pool._dialect.is_async and ref is not None and ref() is None

    @property
    def is_new(self) -> bool:
        """Was there never a connection here?"""
        return not self.starttime

    def is_quiet(self) -> bool:
        """Is the server still there, as far as its silence can tell? Never switches."""
        conn: Any = self.dbapi_connection
        if isinstance(getattr(conn, "pending", None), int):
            # One of geventpool.mysql: replies to its reset are no hang-up.
            return bool(conn.is_quiet())
        if conn is not self._looked_at:
            self._looked_at = conn
            talks = getattr(self.green_pool._dialect, "name", None) not in SILENT
            self._socket = None if talks else sockets.find_socket(conn)
        return self._socket is None or sockets.is_quiet(self._socket)

    def checkin(self, _fairy_was_created: bool = True) -> None:
        """Give the place back, whatever the listeners do. May switch, if they do."""
        if self._lent is None and _fairy_was_created:
            # Twice: there is a warning, and nothing to be done.
            super().checkin(_fairy_was_created)
            return
        try:
            super().checkin(_fairy_was_created)
        except BaseException:
            # Interrupted, or a listener failed: a connection that nobody knows
            # anything of is not kept.
            self.green_pool.free_place(self)
            raise


class Fairy(_ConnectionFairy):
    """A lent connection that notices how its loan ended."""

    __slots__ = ()

    def _checkin(self, transaction_was_reset: bool = False) -> None:
        if self.dbapi_connection is not None and not transaction_was_reset:
            error = self._interruption()
            if error is not None:
                # Killed, or timed out: the answer to what was sent last, or the other
                # half of it, may still be under way. A ROLLBACK would be taken for
                # that half, and wait without limit.
                stop_streaming(self.dbapi_connection)
                self.invalidate(error)
                return
        self._let_stream_go()
        super()._checkin(transaction_was_reset)

    # What a cursor of PyMySQL that streams has not read, its finalizer reads: all of
    # it, while a kill is on its way out. So the cursor is kept for as long as nobody
    # knows how the loan goes on.

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """A cursor of the driver."""
        made = self.dbapi_connection.cursor(*args, **kwargs)
        self.__dict__["_stream"] = made if hasattr(made, "read_next") else None
        return made

    def _let_stream_go(self) -> None:
        # If it was forgotten, this is where its finalizer runs.
        self.__dict__.pop("_stream", None)

    def commit(self) -> None:
        """Commit. May switch."""
        self._let_stream_go()
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
        self._let_stream_go()
        self.dbapi_connection.rollback()

    def note_surroundings(self) -> None:
        """Note the interruptions being handled as the loan begins: they are older."""
        before = [reference(error) for error in interruptions()]
        if before:
            self.__dict__["_before"] = before

    def _interruption(self) -> BaseException | None:
        """What has interrupted the loan and is still being handled; None: nothing."""
        before = self.__dict__.get("_before", ())
        for error in interruptions():
            if not any(refer() is error for refer in before):
                return error
        return None


def interruptions() -> Iterator[BaseException]:
    """The errors being handled now that interrupted this greenlet, the latest first.

    These are kills and timeouts, also behind the errors that were raised while they
    were handled. Never switches.
    """
    error = sys.exc_info()[1]
    seen = set()
    while error is not None and id(error) not in seen:
        # Closing a generator early is no interruption.
        if not isinstance(error, (Exception, GeneratorExit)):
            yield error
        seen.add(id(error))
        error = error.__context__


def interruption() -> BaseException | None:
    """The latest of the :func:`interruptions`, if there is one. Never switches."""
    return next(interruptions(), None)


def reference(error: BaseException) -> Callable[[], BaseException | None]:
    """What returns *error* for as long as it exists, and later None.

    An id would not do: the next exception may get the address of a freed one.
    """
    try:
        # Weak, because the frames of an error may hold the loan that notes it.
        return weakref.ref(error)
    except TypeError:
        return lambda: error


def stop_streaming(connection: Any) -> bool:
    """Forget the rows of PyMySQL that are still to be read; False: no rows.

    The connection must be closed then. Never switches.
    """
    result: Any = getattr(connection, "_result", None)
    if not getattr(result, "unbuffered_active", False):
        return False
    # Else the result's finalizer would read from the closed connection.
    result.unbuffered_active = False
    terminate_connection(connection)
    return True


def terminate_connection(conn: Any) -> None:
    """Drop the socket under *conn*, if it has one to be found. Never switches.

    After that nothing which closes the connection can wait for the other side.
    """
    sock = sockets.find_socket(conn)
    if sock is not None:
        sockets.terminate(sock)
