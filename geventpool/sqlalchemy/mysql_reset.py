"""The whole session cleaned between two borrowers, for engines on PyMySQL.

Knows SQLAlchemy's events and the clean-up of :mod:`geventpool.mysql`, and brings them
together; works with any pool of SQLAlchemy's.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from functools import partial
from itertools import dropwhile, islice
from typing import Any

from gevent import getcurrent
from sqlalchemy import Engine, event
from sqlalchemy.pool import ConnectionPoolEntry, PoolResetState

from geventpool.mysql.connection import Connection
from geventpool.mysql.connector import MySQLConnector
from geventpool.mysql.errors import Reaction, reaction
from geventpool.mysql.reset import Session
from geventpool.sqlalchemy.pool import GreenletPool

__all__ = ["reset_server_session"]

#: COM_QUERY, for a pipeline.
_QUERY = 3


def reset_server_session(
    engine: Engine, configure: Callable[[Any], object] | None = None
) -> None:
    """Let no borrower of *engine* find anything that another one left in the session.

    ::

        engine = create_engine("mysql+pymysql://...", pool_reset_on_return=None, ...)
        reset_server_session(engine)

    SQLAlchemy's ROLLBACK ends a transaction. What else a borrower left behind stays:
    session variables such as ``time_zone``, ``sql_mode`` and the isolation level, user
    variables, temporary tables, named locks, ``LOCK TABLES``, prepared statements, the
    current database. With this every connection is as new when it is lent: the server
    is sent COM_RESET_CONNECTION, and in the same round trip what ``connect`` had set.

    What listeners of ``connect`` set with ``SET`` statements (and SQLAlchemy for
    ``isolation_level``) is noted, and is set again after each reset. Listeners of
    ``connect`` and ``do_connect`` may be registered before or after this call. For
    anything else of the kind there is *configure*. A loan that took a role, or chose a
    database where there was none, ends with a new connection.

    A loan that is known to have left nothing costs nothing: its statements only read or
    write, they call no functions but such as compute, and the server has reported no
    change of the session. Otherwise the reset is sent at the return, and its replies
    are read when the connection is used next; only a loan that may hold locks waits for
    them. It takes the place of the pool's ROLLBACK if ``pool_reset_on_return=None`` is
    given; else both are sent. (That by which an engine's connection ends its own
    transaction, if it is closed without a commit, is sent in any case.) A server that
    does not know the command (before MySQL 5.7.3 and MariaDB 10.2.4, and some proxies)
    gets a ROLLBACK.

    The engine's connections are those of :mod:`geventpool.mysql`, which also notice
    interrupted writes and foreign greenlets and share one TLS context. After an error
    which says that the server is read-only now, a :class:`GreenletPool` renews all of
    them. A connection that was opened before this call is rolled back at its return,
    and renewed before its next loan.

    :param engine: on ``mysql+pymysql`` or ``mariadb+pymysql``, without ``creator``.
    :param configure: called with the DBAPI connection after each reset. May switch.
    :raises TypeError: no engine; *configure* can't be called.
    :raises ValueError: an engine of another driver.
    """
    if not isinstance(engine, Engine):
        raise TypeError(f"engine must be an Engine, not {engine!r}")
    if configure is not None and not callable(configure):
        raise TypeError(f"configure must be a callable or None, not {configure!r}")
    dialect = engine.dialect
    if dialect.name not in ("mysql", "mariadb") or dialect.driver != "pymysql":
        raise ValueError(
            "engine must be one on mysql+pymysql or mariadb+pymysql, "
            f"not {dialect.name}+{dialect.driver}"
        )
    sessions = _Sessions(engine, configure)
    event.listen(engine, "do_connect", sessions.connect)
    event.listen(engine, "connect", sessions.connected)
    event.listen(engine, "reset", sessions.reset)


class _Sessions:
    """Opens the connections of one engine, and cleans them. Lends them for good."""

    def __init__(
        self, engine: Engine, configure: Callable[[Any], object] | None
    ) -> None:
        # Weakly: the engine's listeners refer to this object.
        self._engine = weakref.ref(engine)
        #: what each greenlet that connects wants to connect with
        self._wanted: dict[Any, Mapping[str, Any]] = {}
        self._connector = MySQLConnector(lambda: self._wanted[getcurrent()])
        self._clean = Session(configure, _setup)

    # Listeners

    def connect(self, dialect: Any, record: Any, args: Any, options: Any) -> Any:
        """Open a connection. May switch.

        SQLAlchemy calls no listener after the one that returns a connection, which is
        this one. So it calls the others itself: they may change the arguments.

        :return: the connection; one of another listener's if that has returned one.
        """
        self._come_last()
        listeners = dropwhile(
            lambda listener: listener != self.connect, dialect.dispatch.do_connect
        )
        for listener in islice(listeners, 1, None):
            theirs = listener(dialect, record, args, options)
            if theirs is not None:
                return theirs
        current = getcurrent()
        self._wanted[current] = options
        try:
            conn = self._connector.open()
        finally:
            del self._wanted[current]
        conn.lend(self)
        #: the statements that set the session up
        noted: list[str] = []
        conn.__dict__["setup"] = noted
        # Until all is set up; PyMySQL's cursors look for it here.
        conn.__dict__["query"] = partial(_noted, conn, noted)
        return conn

    def _come_last(self) -> None:
        """See to it that :meth:`connected` is called after all other listeners.

        They are called after the connection was opened, so this is early enough.
        """
        engine = self._engine()
        if engine is not None and [*engine.pool.dispatch.connect][-1] != self.connected:
            event.remove(engine, "connect", self.connected)
            event.listen(engine, "connect", self.connected)

    def connected(self, conn: Any, record: Any) -> None:
        """Take the connection as it is now as what everybody finds. May switch."""
        if not isinstance(conn, Connection) or conn.lender is not self:
            raise TypeError(
                "the session of a connection can only be reset if the engine opens it "
                f"itself, without a creator; this one is {conn!r}"
            )
        del conn.__dict__["query"]
        conn.end_transaction()
        conn.remember()
        conn.end_loan()
        conn.lend(self)

    def reset(
        self, conn: Any, record: ConnectionPoolEntry, state: PoolResetState
    ) -> None:
        """Clean a connection that comes back. May switch.

        :raises pymysql.err.Error: it could not; SQLAlchemy closes it then.
        """
        if state.terminate_only:
            return
        if not isinstance(conn, Connection) or conn.lender is not self:
            # Opened before there was this listener.
            conn.rollback()
            record.invalidate(soft=True)
            return
        if conn.fatal_error is not None:
            self._obey(conn.fatal_error)
            record.invalidate()
            return
        if not conn.in_step:
            # Rows that nobody has read: to read them could take long.
            record.invalidate()
            return
        stays = self._clean.is_possible(conn)
        try:
            self._reset(conn)
        finally:
            # Also one that is to be closed must be let.
            conn.end_loan()
            conn.lend(self)
        if not stays:
            record.invalidate(soft=True)

    def _reset(self, conn: Connection) -> None:
        clean = self._clean
        if clean.spares(conn):
            return
        clean.restore(conn)
        if not clean.is_needed(conn):
            return
        # The locks of a loan must be released when this returns.
        waits = conn.may_hold_transaction or conn.may_hold_locks
        if waits or not clean.begin(conn):
            clean(conn)

    def _obey(self, verdict: Exception) -> None:
        """Renew all if the server is no primary any more. Never switches."""
        engine = self._engine()
        pool = None if engine is None else engine.pool
        if reaction(verdict) is Reaction.DRAIN and isinstance(pool, GreenletPool):
            pool.core.drain()

    # The lender, for connections

    def release(self, conn: Connection) -> None:
        """Close it: SQLAlchemy says ``close`` when it means it. May switch."""
        conn.lender = None
        if conn.open:
            conn.send_quit()


def _setup(conn: Any) -> list[tuple[int, bytes]]:
    """The commands that listeners of ``connect`` have set the session up with."""
    return [(_QUERY, text.encode(conn.encoding)) for text in conn.setup]


def _noted(
    conn: Connection, noted: list[str], sql: Any, unbuffered: bool = False
) -> Any:
    """``query`` while a session is set up."""
    text = sql if isinstance(sql, str) else bytes(sql).decode(conn.encoding)
    words = text.split(None, 2)
    if words[:1] and words[0].upper() == "SET":
        again = [word.upper() for word in words[1:2]]
        # That is sent with each reset anyway.
        known = (
            again == ["NAMES"] and words[2:] == [conn.charset] and not conn.collation
        )
        if not known:
            noted.append(text)
    return Connection.query(conn, sql, unbuffered)
