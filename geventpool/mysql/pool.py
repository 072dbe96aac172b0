"""The pool of PyMySQL connections."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from inspect import signature
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gevent import GreenletExit, get_hub, getcurrent, sleep
from pymysql import err
from pymysql.cursors import Cursor

from geventpool.extension import Loan as LoanReport
from geventpool.extension import within
from geventpool.mysql.arguments import KEYWORDS, merged
from geventpool.mysql.check_pauses import CheckPauses
from geventpool.mysql.connection import Connection
from geventpool.mysql.connector import CredentialSource, MySQLConnector
from geventpool.mysql.threaded import ThreadedLoan, ThreadedPool, threaded_pools
from geventpool.mysql.url import parse_url
from geventpool.options import PoolOptions, names, refuse_unknown
from geventpool.patching import STOCK, check_unpatched, pools_here
from geventpool.policies import check_optional_callable
from geventpool.pool import ConnectionContext, Pool
from geventpool.signatures import documented

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from geventpool.mysql.keywords import MySQLKeywords

__all__ = ["ConnectionPool"]

#: Used if neither a keyword nor the URL gives them.
DEFAULTS = {"max_connections": 10, "cancel": True, "unpatched": STOCK}


class ConnectionPool(Pool[Connection]):
    """A pool of PyMySQL connections.

    ::

        pool = ConnectionPool(host="db1", user="shop", password="...", database="shop")
        with pool.connection() as conn:
            with conn.cursor() as cursor:
                cursor.execute("INSERT INTO orders VALUES (%s)", [42])

    Takes every keyword of ``pymysql.connect`` and every option of
    :class:`~geventpool.Pool`, and:

    :param source: a URL (``mysql://user:password@host:port/database?charset=utf8mb4``),
        to which keywords are added, and which may name the pool's options too
        (``?max_connections=20&max_idle=60``); or a callable that is asked before each
        connect for keywords or a URL, for credentials that change. ``user`` and
        ``password`` may be callables too.
    :param hosts: several servers instead of ``host``: ``["db1", "db2:3307"]``.
    :param str host_order: ``"listed"``, or ``"random"`` to spread the load.
    :param str target: what a server must be: ``"primary"`` (writable; the default with
        *hosts*), ``"replica"`` (read-only) or ``"any"`` (the default without).
    :param reset: what is done to a connection between two borrowers: ``"session"``,
        ``"rollback"``, None, or a callable that takes the connection.
    :param configure: called with each new connection, and after each reset of its
        session.
    :param check: called with a connection before it is lent; if it raises an
        :exc:`Exception`, the connection is dropped and the next one tried.
    :param cancel: True: end interrupted statements at the server, over one more
        connection, and keep their places until then; behind a proxy their connections
        are closed at once. False: they are always closed at once, and the statements
        run on. None: what the URL says, or True.
    :param max_connections: None: what the URL says, or 10. A MariaDB server serves 151
        clients in all.
    :param unpatched: what to do in a process whose ``socket`` gevent has not
        patched: ``"stock"`` is a plain pool for threads with the same limit and
        clean-up; ``"error"`` is :exc:`~geventpool.NotPatchedError`. Asked at the first
        loan. None: what the URL says, or ``"stock"``.
    :raises TypeError: an unknown argument, or one of the wrong kind.
    :raises ValueError: an argument is out of its range, or contradicts another.
    """

    @documented(PoolOptions, others=True)
    def __init__(
        self,
        source: str | CredentialSource | None = None,
        *,
        max_connections: int | None = None,
        hosts: Any = None,
        host_order: str | None = None,
        target: str | None = None,
        reset: Any = "session",
        configure: Callable[[Any], object] | None = None,
        check: Callable[[Any], object] | None = None,
        cancel: bool | None = None,
        unpatched: str | None = None,
        **keywords: Unpack[MySQLKeywords],
    ) -> None:
        #: Whether it is still unknown if gevent has patched this process.
        self._is_undecided = True
        #: the pool that lends in a process that gevent has not patched
        self._threads: ThreadedPool | None = None
        self._check_loan = check_optional_callable("check", check)
        refuse_unknown(f"{type(self).__name__}()", keywords, _KNOWN)
        url = parse_url(source) if isinstance(source, str) else None
        options, found = merged(
            {**DEFAULTS, **(url or {})},
            keywords,
            hosts=hosts,
            host_order=host_order,
            target=target,
            max_connections=max_connections,
            cancel=cancel,
            unpatched=unpatched,
        )
        self._unpatched = check_unpatched(found.pop("unpatched"))
        own: Any = {name: options.pop(name) for name in names() & options.keys()}
        own["max_connections"] = found.pop("max_connections")
        #: whether connections are reset between loans
        self._is_reset = reset is not None
        connector = MySQLConnector(
            source if url is None else None,
            reset=reset,
            configure=configure,
            **found,
            **options,
        )
        if own.get("name") is None:
            own["name"] = connector.title()
        if own.get("initial_connections") and not self._pools_here():
            own["initial_connections"] = 0
        # First, for close() may be called in there.
        self._canceller = connector.canceller
        super().__init__(connector, **own)
        self._unsettled = connector.unsettled
        self._wait_for_locks = connector.wait_for_locks
        # A weak reference, so that neither the connector nor a greenlet of the pool
        # keeps the pool alive.
        connector.on_demotion = weakref.WeakMethod(self.drain)

    @classmethod
    def from_url(cls, url: str, **options: Any) -> ConnectionPool:
        """Make a pool of connections to the server that *url* names.

        :param url: ``mysql://`` or ``mysql+pymysql://``.
        :param options: as for the class. They take precedence over the URL.
        """
        return cls(url, **options)

    # A process that gevent has not patched

    def _pools_here(self) -> bool:
        return pools_here("geventpool.mysql", self._unpatched, "a pool for threads")

    def _decide(self) -> ThreadedPool | None:
        """Return the pool that lends in this process; None: this one.

        The answer is final only once gevent has patched: a server may use the pool,
        fork, and patch in the child.
        """
        if self._pools_here():
            self._is_undecided = False
            return None
        with threaded_pools.making:
            if self._threads is None:
                self._threads = ThreadedPool(
                    self.connector,  # type: ignore[arg-type]
                    self.max_connections,
                    self.extension.timeout,
                    self._check_loan,
                )
                self.connector.stock = self._threads.counts
        return self._threads

    def release(self, conn: Connection, anyone: bool = False) -> None:
        """Give a connection back; see :meth:`geventpool.Pool.release`."""
        if self._threads is not None and self._threads.is_lent(conn):
            self._threads.release(conn)
        else:
            super().release(conn, anyone)

    def drop(self, conn: Connection, anyone: bool = False) -> None:
        """Close a connection that is on loan; see :meth:`geventpool.Pool.drop`."""
        if self._threads is not None and self._threads.is_lent(conn):
            self._threads.drop(conn)
        else:
            super().drop(conn, anyone)

    def drain(self) -> None:
        """Renew all connections; see :meth:`geventpool.Pool.drain`. Never switches."""
        if self._threads is not None:
            self._threads.drain()
        if self._threads is None or not self._is_undecided:
            super().drain()

    def close(self, timeout: float | None = None) -> list[LoanReport]:
        """Close the pool; see :meth:`geventpool.Pool.close`. May switch."""
        if self._threads is not None:
            self._threads.close()
            if self._is_undecided:
                return []
        canceller = self._canceller
        if canceller is None:
            return super().close(timeout)
        # Without a time to wait it may not switch.
        if timeout != 0 and getcurrent() is not get_hub():
            canceller.collect()
        try:
            return super().close(timeout)
        finally:
            canceller.close()

    @property
    def side_connections(self) -> int:
        """How many connections are open beside the pool's, to cancel statements."""
        return 0 if self._canceller is None else self._canceller.side_connections

    # Borrowing

    def connection(self, timeout: float | None = None) -> TransactionContext:
        """Lend a connection for a ``with`` block.

        If the block ends without an error, COMMIT is sent. An :exc:`Exception`, or
        closing a generator that contains the block, leads to ROLLBACK. Any other
        :exc:`BaseException` (a kill, a :exc:`gevent.Timeout`) closes the connection
        without sending anything. With autocommit nothing is sent, unless a transaction
        was begun explicitly.

        Entering and leaving the block may switch.

        :param timeout: the most seconds to wait; None: the pool's *timeout*.
        :raises PoolError: as :meth:`acquire`, on entering.
        :raises pymysql.err.Error: the commit failed, on leaving.
        """
        if self._is_undecided and (threads := self._decide()) is not None:
            return ThreadedLoan(threads, timeout)  # type: ignore[return-value]
        return TransactionContext().of(self, timeout)

    def cursor(
        self,
        cursorclass: type[Cursor] | None = None,
        timeout: float | None = None,
    ) -> CursorContext:
        """Lend a connection, and a cursor on it, for a ``with`` block.

        :param cursorclass: the class of the cursor; None: the connection's.
        :param timeout: as for :meth:`connection`, whose rules apply.
        """
        return CursorContext(self, cursorclass, timeout)

    def acquire(
        self,
        retry: int | None = None,
        timeout: float | None = None,
        reclaim: bool = True,
    ) -> Connection:
        """Lend a connection. May switch.

        Give it back by :meth:`release`, :meth:`drop` or its own ``close``. Prefer
        :meth:`connection`, which commits, and rolls back after an error.

        :param retry: as for :class:`~geventpool.Pool`.
        :param timeout: the most seconds to wait; None: the pool's *timeout*.
        :raises PoolError: as for :meth:`geventpool.Pool.acquire`.
        :raises pymysql.err.Error: a connection could not be opened.
        """
        if self._is_undecided and (threads := self._decide()) is not None:
            return threads.acquire(retry, timeout)
        started = self.extension.now()
        conn = super().acquire(retry, timeout=timeout, reclaim=reclaim)
        if self._unsettled:
            try:
                self._wait_for_locks()
            except BaseException:
                self.drop(conn)
                raise
        pauses = CheckPauses()
        while not self._begin_loan(conn):
            self._pause(pauses, self._left(started, timeout))
            left = self._left(started, timeout)
            with self.extension.in_line_since(started):
                conn = super().acquire(retry, timeout=left, reclaim=reclaim)
        return conn

    def _begin_loan(self, conn: Connection) -> bool:
        """Begin the loan. May switch if there is a check.

        :return: False: the connection failed the check, and was closed.
        """
        try:
            conn.lend(self)
            if self._check_loan is None:
                return True
            passed = self._passes(self._check_loan, conn)
        except BaseException:
            # Interrupted before the borrower got it.
            self.drop(conn)
            raise
        if not passed:
            self.drop(conn)
        return passed

    def _passes(self, check: Callable[[Any], object], conn: Connection) -> bool:
        """Whether the user's check accepts the connection. May switch.

        The check runs in a greenlet of the pool. So an error that it raises cannot be
        confused with one that is thrown into the borrower, such as the exception of a
        :exc:`gevent.Timeout`.

        :raises BaseException: raised by the check, if it is no :exc:`Exception`.
        """
        extension = self.extension
        worker = extension.spawn(_check_outcome, extension.timeouts.ping, check, conn)
        try:
            worker.join()
        except BaseException:
            worker.kill(block=False)
            raise
        outcome = worker.value
        if isinstance(outcome, (Exception, GreenletExit)):
            extension.reject(outcome)
        elif outcome is not None:
            raise outcome
        return outcome is None

    def _pause(self, pauses: CheckPauses, left: float | None) -> None:
        if pause := pauses.after_failure(self.extension.idle, left):
            sleep(pause)

    def _wait_for_locks_in(self, block: TransactionContext) -> None:
        try:
            self._wait_for_locks()
        except BaseException as error:
            _exit(block, type(error), error, None)
            raise

    def _left(self, started: float, timeout: float | None) -> float | None:
        limit = self.extension.timeout if timeout is None else timeout
        if limit is None:
            return None
        return max(0.0, started + limit - self.extension.now())


#: All keywords of the pool.
_KNOWN = KEYWORDS | set(signature(ConnectionPool).parameters) - {"keywords"}

# Looked up once, because super() would cost more for every loan.
_enter = ConnectionContext.__enter__
_exit = ConnectionContext.__exit__


class TransactionContext(ConnectionContext[Connection]):
    """A loan for a ``with`` block; see :meth:`ConnectionPool.connection`."""

    __slots__ = ()
    pool: ConnectionPool

    def __enter__(self) -> Connection:
        pool = self.pool
        if pool._check_loan is None:
            conn = _enter(self)
            if pool._unsettled:
                pool._wait_for_locks_in(self)
            try:
                conn.lend(pool)
            except BaseException:
                # The borrower does not get it, so nothing else would end the loan.
                pool.drop(conn)
                self.entry = None
                raise
            return conn
        limit = self.timeout
        started = pool.extension.now()
        if pool._unsettled:
            pool._wait_for_locks()
        conn = _enter(self)
        pauses = CheckPauses()
        while not pool._begin_loan(conn):
            # The connection was dropped, which has ended this block.
            self.entry = None
            pool._pause(pauses, pool._left(started, limit))
            self.timeout = pool._left(started, limit)
            with pool.extension.in_line_since(started):
                conn = _enter(self)
        return conn

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            conn = self.held()
            if conn is None or (error is None and conn.nothing_to_commit):
                _exit(self, kind, error, trace)
                return
            self.pool.report_error(error)
        except BaseException:
            # Such as a MemoryError. A transaction may be open, so the connection is
            # closed, as after a kill. If the loan has ended, this does nothing.
            _exit(self, GreenletExit, GreenletExit(), None)
            raise
        try:
            conn.finish_transaction(error)
            is_fine = self._is_fine(conn, error)
        except Exception as failure:
            _exit(self, type(failure), failure, None)
            if error is None or not isinstance(failure, (err.Error, OSError)):
                # Not an error of the driver: it was thrown into this greenlet.
                raise
        except BaseException as failure:
            # Interrupted: it is unknown whether the server has committed.
            _exit(self, type(failure), failure, None)
            raise
        else:
            _exit(self, *((None, None, None) if is_fine else (kind, error, trace)))

    def _is_fine(self, conn: Connection, error: BaseException | None) -> bool:
        """Whether the connection may be lent again, its transaction being over."""
        if isinstance(error, GeneratorExit):
            # The generator that contains the block was closed early, perhaps by the
            # garbage collector. Nothing can be sent here, but no command was
            # interrupted either. The reset ends the transaction.
            return self.pool._is_reset or not conn.may_hold_transaction
        return error is None or isinstance(error, Exception)


class CursorContext:
    """A loan of a connection with a cursor; see :meth:`ConnectionPool.cursor`."""

    __slots__ = ("_loan", "_cursorclass", "_cursor")

    def __init__(
        self, pool: ConnectionPool, cursorclass: Any, timeout: float | None
    ) -> None:
        self._loan = pool.connection(timeout)
        self._cursorclass = cursorclass
        self._cursor: Any = None

    def __enter__(self) -> Any:
        conn = self._loan.__enter__()
        try:
            self._cursor = conn.cursor(self._cursorclass)
        except Exception as error:
            self._loan.__exit__(type(error), error, None)
            raise
        return self._cursor

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        cursor, self._cursor = self._cursor, None
        if error is None:
            try:
                cursor.close()
            except BaseException as failure:
                # Unread rows ended with an error, or reading them was interrupted.
                self._loan.__exit__(type(failure), failure, None)
                raise
        # After an error the cursor is not closed, because that would read the unread
        # rows. It is detached when the loan ends.
        self._loan.__exit__(kind, error, trace)


def _check_outcome(
    limit: float, check: Callable[[Any], object], conn: Connection
) -> BaseException | None:
    """Call *check* on a connection. May switch.

    :return: what it raised; None: the connection passed.
    """
    try:
        within(limit, "a check", check, conn)
    except BaseException as error:
        # It is the borrower's, unless it only means that the connection is not wanted.
        return error
    return None
