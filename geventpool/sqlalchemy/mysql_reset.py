"""A reset of the whole session between two loans, for engines on PyMySQL.

It runs the reset of :mod:`geventpool.mysql` in SQLAlchemy's events. It works with any
pool of SQLAlchemy.
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

from geventpool.connector import ErrorAction
from geventpool.mysql.cancel import Stranded
from geventpool.mysql.connection import Connection
from geventpool.mysql.connector import MySQLConnector
from geventpool.mysql.errors import action_after
from geventpool.mysql.reset import Session
from geventpool.policies import check_optional_callable
from geventpool.sqlalchemy.pool import GreenletPool
from geventpool.sqlalchemy.records import Record

__all__ = ["reset_server_session"]

#: COM_QUERY, for a pipeline.
_QUERY = 3


def reset_server_session(
    engine: Engine,
    configure: Callable[[Any], object] | None = None,
    cancel: bool = True,
) -> None:
    """Reset the session of each connection of *engine* between two loans.

    ::

        engine = create_engine("mysql+pymysql://...", pool_reset_on_return=None, ...)
        reset_server_session(engine)

    SQLAlchemy's ROLLBACK ends a transaction. All else that a borrower left stays:
    session variables such as ``time_zone``, ``sql_mode`` and the isolation level, user
    variables, temporary tables, named locks, ``LOCK TABLES``, prepared statements, the
    current database. This function removes all of it: COM_RESET_CONNECTION is sent and,
    in the same round trip, the settings of ``connect``.

    ``SET`` statements of ``connect`` listeners (and of SQLAlchemy for
    ``isolation_level``) are recorded, and repeated after each reset. Listeners of
    ``connect`` and ``do_connect`` may be registered before or after this call. Use
    *configure* for all other settings. A connection on which SET ROLE was sent, or USE
    in a session without a database, is replaced after the loan.

    Nothing is sent after a loan that is known to have left nothing: its statements only
    read or wrote, they called no functions with side effects, and the server reported
    no change of the session. Otherwise the reset is sent at the return, and its replies
    are read when the connection is used next. Only a loan that may hold locks waits for
    the replies. With ``pool_reset_on_return=None`` the reset replaces the pool's
    ROLLBACK; otherwise both are sent. (The ROLLBACK of an engine's connection that is
    closed without a commit is always sent.) A server that does not know the command
    (before MySQL 5.7.3 and MariaDB 10.2.4, and some proxies) gets a ROLLBACK.

    The engine's connections are those of :mod:`geventpool.mysql`. They also handle
    interrupted writes, refuse use by a second greenlet, and share one TLS context.
    After an error that means that the server is read-only now, a :class:`GreenletPool`
    renews all of them. A connection that was opened before this call is rolled back at
    its return, and renewed before its next loan.

    :param engine: an engine on ``mysql+pymysql`` or ``mariadb+pymysql``, without
        ``creator``.
    :param configure: called with the DBAPI connection after each reset. May switch.
    :param bool cancel: with a :class:`GreenletPool`, end interrupted statements at the
        server before their places are free, over one more connection. False: close
        their connections at once, and let the statements run on.
    :raises TypeError: *engine* is no engine, *configure* is no callable, or *cancel* is
        no bool.
    :raises ValueError: *engine* has another driver.
    """
    if not isinstance(engine, Engine):
        raise TypeError(f"engine must be an Engine, not {engine!r}")
    check_optional_callable("configure", configure)
    dialect = engine.dialect
    if dialect.name not in ("mysql", "mariadb") or dialect.driver != "pymysql":
        raise ValueError(
            "engine must be one on mysql+pymysql or mariadb+pymysql, "
            f"not {dialect.name}+{dialect.driver}"
        )
    sessions = _Sessions(engine, configure, cancel)
    if isinstance(engine.pool, GreenletPool):
        engine.pool.stranding = sessions.strand
    event.listen(engine, "do_connect", sessions.connect)
    event.listen(engine, "connect", sessions.connected)
    event.listen(engine, "reset", sessions.reset)


class _Sessions:
    """Opens and resets the connections of one engine, by listeners."""

    def __init__(
        self,
        engine: Engine,
        configure: Callable[[Any], object] | None,
        cancel: bool,
    ) -> None:
        # A weak reference, because the engine's listeners refer to this object.
        self._engine = weakref.ref(engine)
        #: the arguments of each greenlet that is connecting
        self._wanted: dict[Any, Mapping[str, Any]] = {}
        #: those of the last one
        self._latest: Mapping[str, Any] = {}
        self._connector = MySQLConnector(self._arguments, cancel=cancel)
        self._clean = Session(configure, _setup)

    def _arguments(self) -> Mapping[str, Any]:
        """The arguments for the present greenlet, or for a side connection."""
        return self._wanted.get(getcurrent(), self._latest)

    def strand(self, conn: Any) -> Stranded | None:
        """Take over what *conn* has left running at the server. Never switches."""
        if not isinstance(conn, Connection):
            return None
        return self._connector.strand(conn)

    # Listeners

    def connect(self, dialect: Any, record: Any, args: Any, options: Any) -> Any:
        """Open a connection. May switch.

        SQLAlchemy calls no further listener after one that returns a connection. So
        this one calls the remaining listeners itself, because they may change the
        arguments.

        :return: the connection, or the one that another listener has returned.
        """
        self._move_to_last()
        listeners = dropwhile(
            lambda listener: listener != self.connect, dialect.dispatch.do_connect
        )
        for listener in islice(listeners, 1, None):
            theirs = listener(dialect, record, args, options)
            if theirs is not None:
                return theirs
        current = getcurrent()
        self._wanted[current] = self._latest = options
        try:
            conn = self._connector.open()
        finally:
            del self._wanted[current]
        conn.lend(self)
        #: the statements that set the session up
        noted: list[str] = []
        conn.__dict__["setup"] = noted
        # PyMySQL's cursors call this attribute. It is removed after the set-up.
        conn.__dict__["query"] = partial(_noted, conn, noted)
        return conn

    def _move_to_last(self) -> None:
        """Register :meth:`connected` anew, so that it is called last.

        This is early enough, because they are called after the connection was opened.
        """
        engine = self._engine()
        if engine is not None and [*engine.pool.dispatch.connect][-1] != self.connected:
            event.remove(engine, "connect", self.connected)
            event.listen(engine, "connect", self.connected)

    def connected(self, conn: Any, record: Any) -> None:
        """Note the present state of the connection as that of every loan.

        May switch.
        """
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
        """Reset a connection that is given back. May switch.

        :raises pymysql.err.Error: the reset failed. SQLAlchemy then closes the
            connection.
        """
        if state.terminate_only:
            return
        if not isinstance(conn, Connection) or conn.lender is not self:
            # Opened before this listener was registered.
            conn.rollback()
            record.invalidate(soft=True)
            return
        if conn.fatal_error is not None:
            self._drain_if_demoted(conn.fatal_error)
            record.invalidate()
            return
        if not conn.in_step:
            # Unread rows: reading them could take long.
            record.invalidate()
            return
        stays = self._clean.is_possible(conn)
        try:
            kind = self._reset(conn)
            if isinstance(record, Record):
                record.green_pool.core.was_reset(kind)
        finally:
            # A connection that is to be closed must be on loan as well.
            conn.end_loan()
            conn.lend(self)
        if not stays:
            record.invalidate(soft=True)

    def _reset(self, conn: Connection) -> str:
        """Reset a connection, if need be; return how. May switch."""
        clean = self._clean
        if clean.spares(conn):
            return "skipped"
        clean.restore(conn)
        if not clean.is_needed(conn):
            return "skipped"
        # The locks of the loan must be released when this method returns.
        waits = conn.may_hold_transaction or conn.may_hold_locks(clean.kinds)
        if not waits and clean.begin(conn):
            return "early"
        clean(conn)
        return "full"

    def _drain_if_demoted(self, error: Exception) -> None:
        """Renew all connections if the server is no primary any more.

        Never switches.
        """
        engine = self._engine()
        pool = None if engine is None else engine.pool
        if action_after(error) is ErrorAction.DRAIN and isinstance(pool, GreenletPool):
            pool.core.drain()

    # The lender, for connections

    def release(self, conn: Connection) -> None:
        """Close *conn*: SQLAlchemy calls ``close`` only to close. May switch."""
        conn.lender = None
        if conn.open:
            conn.send_quit()


def _setup(conn: Any) -> list[tuple[int, bytes]]:
    """Return the recorded commands of the ``connect`` listeners."""
    return [(_QUERY, text.encode(conn.encoding)) for text in conn.setup]


def _noted(
    conn: Connection, noted: list[str], sql: Any, unbuffered: bool = False
) -> Any:
    """Run a query while a session is set up, and record it if it is SET."""
    text = sql if isinstance(sql, str) else bytes(sql).decode(conn.encoding)
    words = text.split(None, 2)
    if words[:1] and words[0].upper() == "SET":
        again = [word.upper() for word in words[1:2]]
        # Each reset sends this anyway.
        known = (
            again == ["NAMES"] and words[2:] == [conn.charset] and not conn.collation
        )
        if not known:
            noted.append(text)
    return Connection.query(conn, sql, unbuffered)
