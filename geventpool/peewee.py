"""peewee on a pool of this package: a database class for MySQL and MariaDB."""

from __future__ import annotations

from typing import Any

import peewee
from gevent.local import local

from geventpool.mysql import ConnectionPool

__all__ = ["PooledMySQLDatabase"]


class PooledMySQLDatabase(peewee.MySQLDatabase):  # type: ignore[misc]
    """A ``peewee.MySQLDatabase`` whose connections come from a pool.

    ::

        db = PooledMySQLDatabase("shop", host="127.0.0.1", user="u", max_connections=10)

    It takes the keywords of ``peewee.MySQLDatabase`` and the options of
    :class:`geventpool.mysql.ConnectionPool`. ``connect()`` borrows a connection for the
    current greenlet and may wait for one. ``close()`` gives it back. A greenlet that
    ends without ``close()`` gives it back too.

    peewee's transactions begin with BEGIN. So the connections are in autocommit mode,
    as without a pool.
    """

    #: The pool; None: ``init`` has not been called with a database yet.
    pool: ConnectionPool | None = None

    def init(
        self, database: str | None, mariadb: bool | None = None, **keywords: Any
    ) -> None:
        """Set the name of the database and the options, and make the pool. May switch.

        A pool made with earlier ones is closed, with the connections that are in use.

        :raises TypeError: an option is unknown or of the wrong type.
        :raises ValueError: an option is out of its range.
        """
        super().init(database, mariadb, **keywords)
        former, self.pool = self.pool, None
        #: The connection that a greenlet has borrowed for its ``connect()``.
        self._borrowed = local()
        # First, so that it is closed even if the new options are refused.
        if former is not None:
            former.close(timeout=0)
        if database is not None:
            self.pool = ConnectionPool(
                database=database, autocommit=True, **self.connect_params
            )

    def connect(self, reuse_if_open: bool = False) -> bool:
        """Borrow a connection for this greenlet. May switch.

        :return: False: it has one already, and *reuse_if_open* is given.
        :raises peewee.OperationalError: it has one already.
        :raises geventpool.PoolError: no connection in time, or the pool is closed.
        """
        if self.pool is None or not self.is_closed():
            return bool(super().connect(reuse_if_open))
        # peewee connects under the lock under which it closes. A greenlet that waited
        # there would hold up those that want to give a connection back.
        conn = self.pool.acquire()
        self._borrowed.conn = conn
        try:
            return bool(super().connect(reuse_if_open))
        except BaseException:
            if self.is_closed():
                self.pool.drop(conn)
            else:
                # peewee has it already.
                self.close()
            raise
        finally:
            del self._borrowed.conn

    def rollback(self) -> None:
        """Roll back, unless the transaction has ended with its connection. May switch.

        An interruption or a lost server closes a connection. The error that ends an
        ``atomic()`` block then passes unchanged.
        """
        if not self._is_lost():
            super().rollback()

    def execute_sql(self, sql: str, *args: Any, **keywords: Any) -> Any:
        """Execute a statement, and return its cursor. May switch.

        :return: None: it leads back to a savepoint that has ended with its connection.
        """
        if sql.startswith("ROLLBACK TO SAVEPOINT ") and self._is_lost():
            return None
        return super().execute_sql(sql, *args, **keywords)

    def _is_lost(self) -> bool:
        """Whether this greenlet's connection cannot be used any more."""
        return not self.is_closed() and not self.connection().open

    def _connect(self) -> Any:
        return self._borrowed.conn

    def _close(self, conn: Any) -> None:
        conn.close()
