"""The pool for threads, in a process that gevent has not patched.

Such a process has no event loop that greenlets could share. This pool has the same
limit, connections and resets, and does all work in the borrower's thread.
"""

from __future__ import annotations

import threading
from time import monotonic, sleep
from types import TracebackType
from typing import Any

from geventpool.errors import PoolClosedError, PoolExhaustedError
from geventpool.mysql.check_pauses import CheckPauses
from geventpool.mysql.connection import Connection
from geventpool.mysql.connector import MySQLConnector
from geventpool.threaded import ThreadedPools, as_thread_waits

__all__ = ["ThreadedLoan", "ThreadedPool", "threaded_pools"]

#: Those of this process.
threaded_pools = ThreadedPools()


class ThreadedPool:
    """A bounded pool for threads.

    :param connector: opens, resets and closes the connections.
    :param max_connections: the most connections that may be open.
    :param timeout: the most seconds to wait for a connection; None: no limit.
    :param check: called with a connection before it is lent.
    """

    def __init__(
        self,
        connector: MySQLConnector,
        max_connections: int,
        timeout: float | None,
        check: Any,
    ) -> None:
        self._connector = connector
        self._timeout = timeout
        self._check = check
        self._most = max_connections
        self._closed = False
        self._begin()
        threaded_pools.add(self)

    def _begin(self) -> None:
        self._room = threading.Semaphore(self._most)
        self._idle: list[Connection] = []
        self._lent: dict[int, Connection] = {}
        #: ids of connections that are closed when they are given back
        self._outdated: set[int] = set()

    def acquire(
        self,
        retry: int | None = None,
        timeout: float | None = None,
        reclaim: bool = True,
    ) -> Connection:
        """Lend a connection. Blocks the thread.

        :param retry: ignored, like *reclaim*: both concern greenlets.
        :raises PoolExhaustedError: no connection became free in time.
        :raises PoolClosedError: the pool is closed.
        """
        self._check_open()
        limit = self._timeout if timeout is None else timeout
        if not self._room.acquire(timeout=as_thread_waits(limit)):
            raise PoolExhaustedError(f"no connection within {limit:.1f} s")
        try:
            conn = self._passed(limit)
        except BaseException:
            self._room.release()
            raise
        self._lent[id(conn)] = conn
        return conn

    def _check_open(self) -> None:
        if self._closed:
            raise PoolClosedError("the pool is closed")

    def _ready(self) -> Connection:
        # It may have been closed while this thread waited.
        self._check_open()
        while True:
            try:
                conn = self._idle.pop()
            except IndexError:
                return self._connector.open()
            if self._connector.is_usable(conn):
                return conn
            self._connector.terminate(conn)

    def _passed(self, limit: float | None) -> Connection:
        """Return a connection that has passed the check. Blocks the thread.

        :param limit: seconds; None: it is tried until one passes.
        """
        end = None if limit is None else monotonic() + limit
        failed = 0
        pauses = CheckPauses()
        while True:
            conn = self._ready()
            conn.lend(self)
            if self._check is None:
                return conn
            try:
                self._check(conn)
                return conn
            except BaseException as error:
                self._connector.terminate(conn)
                failed += 1
                if not isinstance(error, Exception):
                    raise
                left = None if end is None else end - monotonic()
                if left is not None and left <= 0:
                    raise PoolExhaustedError(
                        f"no connection within {limit:.1f} s: {failed} failed the check"
                    ) from error
                sleep(pauses.after_failure(len(self._idle), left))

    def release(self, conn: Connection, anyone: bool = False) -> None:
        """Reset a connection that is on loan, and make it idle. Blocks the thread."""
        del self._lent[id(conn)]
        try:
            if self._connector.end_loan(conn):
                self._connector.reset(conn)
        except BaseException as failure:
            self._connector.terminate(conn)
            if not isinstance(failure, Exception):
                raise
        else:
            self._keep(conn)
        finally:
            self._outdated.discard(id(conn))
            self._room.release()

    def _keep(self, conn: Connection) -> None:
        if self._closed or id(conn) in self._outdated:
            self._connector.terminate(conn)
        else:
            self._idle.append(conn)

    def drop(self, conn: Connection, anyone: bool = False) -> None:
        """Close a connection that is on loan."""
        del self._lent[id(conn)]
        self._outdated.discard(id(conn))
        self._connector.terminate(conn)
        self._room.release()

    def counts(self) -> tuple[int, int]:
        """The numbers of idle and of lent connections."""
        return len(self._idle), len(self._lent)

    def is_lent(self, conn: Connection) -> bool:
        """Is the connection on loan?"""
        return self._lent.get(id(conn)) is conn

    def close(self) -> None:
        """Close idle connections now, and those on loan when they are given back."""
        self._closed = True
        self._close_idle()

    def drain(self) -> None:
        """Close idle connections now, and those on loan when they are given back.

        Others are opened in their places. It may be called in any thread.
        """
        self._outdated.update(list(self._lent))
        self._close_idle()

    def _close_idle(self) -> None:
        while True:
            try:
                conn = self._idle.pop()
            except IndexError:
                # Another thread may have taken the last one.
                return
            self._connector.terminate(conn)

    def forked(self) -> None:  # pragma: no cover (in the child, where nobody counts)
        """Begin without connections in a forked child: they are the parent's."""
        for conn in (*self._idle, *self._lent.values()):
            conn.terminate()
        self._begin()


class ThreadedLoan:
    """A loan for a ``with`` block; see ``ConnectionPool.connection``.

    :param timeout: the most seconds to wait; None: the pool's.
    """

    def __init__(self, pool: ThreadedPool, timeout: float | None) -> None:
        self._pool = pool
        self._timeout = timeout
        self._conn: Connection | None = None

    def __enter__(self) -> Connection:
        self._conn = self._pool.acquire(timeout=self._timeout)
        return self._conn

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        conn, self._conn = self._conn, None
        if conn is None or not self._pool.is_lent(conn):
            return  # given back in the block
        try:
            conn.finish_transaction(error)
        except BaseException as failure:
            # Also a KeyboardInterrupt, which must not cost the place.
            self._pool.drop(conn)
            if error is None or not isinstance(failure, Exception):
                raise
            return
        if error is None or isinstance(error, Exception):
            self._pool.release(conn)
        else:
            self._pool.drop(conn)
