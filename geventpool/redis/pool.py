"""A drop-in replacement for redis-py's pools, on top of the core pool.

It implements redis-py's interface of a pool. The core pool alone decides which greenlet
gets which connection, and when connections are opened and closed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from gevent import getcurrent
from gevent.monkey import get_original
from redis.connection import Connection
from redis.connection import ConnectionPool as RedisPyPool
from redis.retry import Retry

from geventpool.errors import PoolError, PoolExhaustedError
from geventpool.extension import Loan, copy_error
from geventpool.pool import Pool
from geventpool.redis.caching import CachedConnection, Readers, guarded
from geventpool.redis.callers import COMMAND
from geventpool.redis.connector import RedisConnector
from geventpool.redis.errors import translate_error
from geventpool.redis.internals import (
    default_retry,
    is_connected,
    recorder,
)
from geventpool.redis.loans import Loans
from geventpool.redis.node_watch import NodeWatch
from geventpool.redis.options import (
    RedisOptions,
    chosen,
    options_of,
    with_driver_info,
)
from geventpool.redis.returns import Returns
from geventpool.redis.sharing import Sharing
from geventpool.redis.standin import kind_for
from geventpool.redis.telemetry import Telemetry
from geventpool.redis.turns import Turns
from geventpool.signatures import documented

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from geventpool.redis.keywords import RedisKeywords

__all__ = ["ConnectionPool"]

P = TypeVar("P", bound="ConnectionPool")

#: Returns the id of the thread. The patched function returns one of the greenlet.
get_ident: Callable[[], int] = get_original("_thread", "get_ident")


class ConnectionPool(Returns):
    """A pool for ``redis.Redis(connection_pool=...)``.

    ::

        client = redis.Redis(connection_pool=ConnectionPool(host="...", timeout=5))

    A drop-in: it does everything that redis-py's own pool does. In addition, callers
    wait at the limit, and are served in the order in which they came. Connections can
    have age limits. A kill or a ``gevent.Timeout`` at any point loses no connection,
    and no reply reaches the wrong caller.

    The keywords below are the pool's, as :class:`geventpool.Pool` describes them. All
    others (``host``, ``port``, ``db``, ``password``, ``protocol``, ``ssl_...``,
    ``socket_timeout``, ``cache_config`` ...) are redis-py's.

    Intended differences from redis-py's pools:

    * The default of ``retry`` is what ``redis.Redis()`` gives to its own pool. redis-py
      does not retry with a pool that the user made.
    * A connection that the borrower or the server has closed is not kept to be
      connected again. Its place is freed at once.
    * If the program itself calls :meth:`get_connection`, the loan ends with the calling
      greenlet, unless *reclaim* is False.

    The private members of redis-py that it uses are listed in
    ``geventpool/redis/internals.py``.

    :param connection_class: redis-py's class, or one derived from it.
    :param int max_connections: the limit of sockets; None or 0: 100.
    :param float timeout: the most seconds that a caller waits for a connection; None:
        no limit; 0: do not wait, not even for a new connection, which is opened for the
        next caller. Default 30.
    :param auto_pipeline: True: the commands of many greenlets share one connection, and
        are written together; a number: they share that many connections; or an
        :class:`AutoPipeline`. Commands that cannot share take a connection of their
        own. False: every command does.
    :param int max_in_flight: commands that may be unanswered on a shared connection.
        Further ones wait, with the pool's *timeout*. Default 1000.
    :param str unpatched: what to do in a process whose ``socket`` gevent has not
        patched: ``"stock"`` is redis-py's ``BlockingConnectionPool`` with the same
        options; ``"error"`` is :exc:`~geventpool.NotPatchedError`.
    :raises TypeError: an argument is of the wrong type.
    :raises ValueError: an argument is out of its range.
    """

    #: told of failures to connect; None: the server is no node of a cluster
    node_watch: NodeWatch | None = None

    @documented(RedisOptions, others=True)
    def __init__(
        self,
        connection_class: type[Any] = Connection,
        max_connections: int | None = None,
        **keywords: Unpack[RedisKeywords],
    ) -> None:
        connection_kwargs: dict[str, Any] = {**keywords}
        owner = f"{type(self).__name__}()"
        options = chosen(owner, max_connections, connection_kwargs, connection_class)
        self._set_unpatched(options.unpatched, options.timeout)
        #: Whether the program has not given any retries.
        self._retries_by_default = "retry" not in connection_kwargs
        connection_kwargs.setdefault("retry", self._retry_by_default())
        #: redis-py's dispatcher of events, for releases
        self._dispatcher: Any = connection_kwargs.get("event_dispatcher")
        self.asks_owner = type(self).owns_connection is not RedisPyPool.owns_connection
        self._plain_retry: Retry | None = None
        self._loans = Loans(self._forgotten)
        self._special = self._loans.special
        self._readers = Readers()
        self._connector = RedisConnector(self, options.outage)
        #: the last failure to connect; None: since then, another attempt has begun
        self._failure: Exception | None = None
        self._telemetry = Telemetry(self, options.name)
        # Not super(): the pool for Sentinel also derives from redis-py's, whose
        # constructor would set the arguments too late for initial connections.
        RedisPyPool.__init__(
            self,
            connection_class,
            options.max_connections,
            **with_driver_info(connection_kwargs, connection_class),
        )
        #: the shared connections; None: each command takes a connection of its own
        self._sharing: Sharing | None = None
        self._make_core(options)
        if options.auto_pipeline is not None:
            self._sharing = Sharing(self, options.auto_pipeline, options, kind_for)
        # Bound once, because every command calls them.
        self._turns = Turns(time.monotonic)
        self._take = self.core.acquire
        self._give_back = self.core.release

    def _make_core(self, options: RedisOptions) -> None:
        #: the :class:`geventpool.Pool` that manages the connections; set first, because
        #: the retries of initial connections use it
        self.core: Pool[Any] = Pool.__new__(Pool)
        initial = options.initial_connections
        Pool.__init__(
            self.core,
            self._connector,
            None,
            **options.for_core(
                initial_connections=initial if initial and self._pools_here() else 0,
                max_connections=self._limit,
                name=self._title() if options.name is None else options.name,
            ),
        )

    @classmethod
    def from_url(cls: type[P], url: str, **kwargs: Any) -> P:
        """Make a pool for a ``redis://``, ``rediss://`` or ``unix://`` URL.

        The query may have options of redis-py and of the pool
        (``?db=2&max_connections=20&max_idle=60``). They take precedence over *kwargs*.

        :raises ValueError: the URL cannot be parsed.
        """
        options = options_of(url)
        if "connection_class" in kwargs:
            options["connection_class"] = kwargs["connection_class"]
        return cls(**{**kwargs, **options})

    def _retry_by_default(self) -> Retry | None:
        return default_retry()

    def _retry_without_client(self) -> Retry | None:
        """Return the default retries of connections of redis-py's own pools.

        Code that takes a connection itself expects an error when the connection is
        lost.
        """
        if self._plain_retry is None:
            options = {**self.connection_kwargs, "retry": None}
            conn = self.connection_class(**options)
            self._plain_retry = getattr(conn, "retry", None)
        return self._plain_retry

    def address(self) -> tuple[str, Any]:
        """Return host and port; for a Unix socket ``"unix"`` and its path."""
        options = self.connection_kwargs
        if "path" in options:
            return "unix", options["path"]
        return options.get("host", "localhost"), options.get("port", 6379)

    def _title(self) -> str:
        """Return the name of this pool in error messages."""
        host, port = self.address()
        if host == "unix":
            return f"redis {port}"
        return f"redis {host}:{port}/{self.connection_kwargs.get('db', 0)}"

    # Acquire and release.

    def get_connection(
        self, command_name: str | None = None, *keys: Any, **options: Any
    ) -> Any:
        """Lend a connection, to be given back by :meth:`release`. May switch.

        It switches if no idle connection is usable, or if the event loop has not run
        for some commands. The arguments are those of old versions of redis-py, and are
        ignored.

        :raises RedisPoolExhaustedError: no connection became available in time. It is a
            :exc:`geventpool.PoolExhaustedError` and a ``redis.MaxConnectionsError``.
        :raises NotPatchedError: the process is not patched, and the option *unpatched*
            is ``"error"``.
        :raises redis.RedisError: connecting failed.
        """
        if self._is_undecided:
            stock = self._decide()
            if stock is not None:
                return stock.get_connection()
        if self._sharing is not None:
            try:
                caller = sys._getframe(1)
                shares = caller.f_code is COMMAND or self._sharing.serves(caller)
            except ValueError:
                # No caller: this call is the whole work of a greenlet.
                shares = False
            stand_in = self._sharing.stand_in() if shares else None
            if stand_in is not None:
                return stand_in
        turns = self._turns
        if turns.unseen:
            turns.unseen -= 1
        else:
            turns.let_others_run()
        conn = self.own_connection()
        kept = False
        try:
            try:
                # Cheaper than f_back of the own frame, which would make two objects.
                is_command = sys._getframe(1).f_code is COMMAND
            except ValueError:
                # No caller: this call is the whole work of a greenlet.
                is_command = False
            if not is_command:
                retry = (
                    self._retry_without_client() if self._retries_by_default else None
                )
                kept = self._loans.note_loan(conn, sys._getframe().f_back, self, retry)
                if kept:
                    self.core.transfer(conn, None)
            if self.cache is not None:
                self._let_readers_finish(conn, None if kept else getcurrent())
        except BaseException:
            # Such as a RecursionError, after which only C code can be called, or raised
            # by a signal handler. The caller does not have the connection yet.
            self._loop.run_callback_threadsafe(self.end_torn_loan, conn, getcurrent())
            raise
        return conn

    def own_connection(self) -> Any:
        """Lend a connection that is not shared with other greenlets. May switch."""
        try:
            if recorder._metrics_collector is not None:
                return self._telemetry.timed(self._take)
            return self._take()
        except (PoolError, TimeoutError) as error:
            raise self.explained(error)

    def explained(self, error: Exception) -> Exception:
        """Return *error* as an error that redis-py's callers expect.

        If there is room and only connecting fails, redis-py's own error is returned.
        This holds also if the caller's timeout passed before the last retry.
        """
        failure, stats = self._failure, self.core.stats()
        if (
            type(error) is PoolExhaustedError
            and failure is not None
            and stats.in_use < stats.max_connections
        ):
            # A copy for each caller, because several may wait for the same server.
            translated = copy_error(failure)
            if translated is not failure:
                translated.__cause__ = error
            return translated
        return translate_error(error)

    def _let_readers_finish(self, conn: Any, user: object) -> None:
        """Make *user* the reader of *conn*, after others have read its pushes.

        May switch.
        """
        try:
            with self._lock:
                self._readers.lend(conn, user)
        except BaseException:
            # Interrupted while waiting: the caller does not have the connection yet.
            self.release(conn)
            raise

    def make_connection(self) -> Any:
        """Make a connection that is not yet connected and not counted by the pool.

        The pool itself calls this when it has a place for it.
        """
        if self.cache is None:
            return self.connection_class(**self.connection_kwargs)
        conn = guarded(self.connection_class)(**self.connection_kwargs)
        conn.readers = self._readers
        return CachedConnection(conn, self.cache, self._lock)

    # All connections.

    def disconnect_free_connections(
        self, moving_address_src: str | None = None
    ) -> None:
        """Close the idle connections, or only those to one address. Never switches."""
        super().disconnect_free_connections(moving_address_src)
        if self._thread_pool is not None:
            # redis-py's pool keeps closed connections, and connects them again.
            return
        for conn in self.core.idle_connections():
            if not is_connected(conn):
                self.core.drop(conn)

    def reset(self) -> None:
        """Renew every connection: idle ones now, others when they are given back.

        For changed credentials: new connections are made from the present
        ``connection_kwargs``. The limit holds meanwhile. Never switches.
        """
        # redis-py's constructor calls this before there is anything to renew.
        if "core" not in self.__dict__:
            return
        if self._thread_pool is not None:
            self._thread_pool.reset()
        if self._thread_pool is None or not self._is_undecided:
            self.core.drain()
        if self._sharing is not None:
            self._sharing.renew()

    def close(self) -> None:
        """Close all connections. The pool can be used again, as in redis-py.

        A collected client closes the pool that it was made from, while its
        subscriptions still use the pool. :meth:`shutdown` is final.
        """
        self.disconnect()

    def __enter__(self: P) -> P:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def shutdown(self, timeout: float | None = None) -> list[Loan]:
        """Close the pool for good, after waiting for the loans to end. May switch.

        :param timeout: the most seconds to wait; None: no limit.
        :return: the loans whose connections were terminated.
        """
        if self._sharing is not None:
            self._sharing.close()
        left = self.core.close(timeout)
        if self._thread_pool is not None:
            self._thread_pool.disconnect()
        return left

    # Notifications from other parts.

    def counted(self) -> None:
        """Note that the number of connections in use has changed."""
        if recorder._metrics_collector is not None:
            self._telemetry.count()

    def demoted(self, error: Exception) -> Exception:
        """Return the client's error for an error reply on a shared connection."""
        return error

    def opening(self) -> None:
        """Forget the last failure, because another attempt to connect begins."""
        # While the pool tries a lost server, those that wait are told why.
        if not self.is_probe():
            self._failure = None

    def opened(self, conn: Any, seconds: float) -> None:
        """Note that a connection was opened."""
        self._failure = None
        self._telemetry.opened(seconds)

    def failed(self, error: Exception) -> None:
        """Note that an attempt to connect failed. Others may follow."""
        self._failure = copy_error(error)
        if self.node_watch is not None:
            self.node_watch.failed(self)

    def is_shared(self, conn: Any) -> bool:
        """Whether the commands of many greenlets share *conn*. Never switches."""
        return self._sharing is not None and self._sharing.has(conn)

    def retries_by_default(self) -> bool:
        """Whether the user has not chosen the retries. Never switches."""
        return self._retries_by_default

    def is_probe(self) -> bool:
        """Whether the pool only tries whether the server is back. Never switches."""
        return self.core.extension.is_probe()

    def retry_pause(self) -> AbstractContextManager[None]:
        """For a block in which redis-py pauses before it connects again."""
        return self.core.extension.retry_pause()

    def begin_reconnect(self) -> bool:
        """Count a borrower's attempt to reconnect; False: too many are under way."""
        return self.core.extension.begin_reconnect()

    def end_reconnect(self) -> None:
        """Count it no more."""
        self.core.extension.end_reconnect()

    def reconnected(self, error: Exception | None) -> None:
        """Note how a borrower's attempt to reconnect has ended; None: well."""
        if error is None:
            self.core.extension.report_reachable()
        else:
            self.core.extension.report_unreachable(error)

    def commands_in_flight(self) -> int:
        """How many commands are under way on shared connections. Never switches."""
        return 0 if self._sharing is None else int(self._sharing.in_flight())

    def terminated(self, conn: Any) -> None:
        """Note that a connection was closed."""
        self._loans.forget_loan(conn)
        self._readers.give_back(conn)
        self._telemetry.count_soon()

    def __del__(self) -> None:
        # redis-py's method would count down what this telemetry has counted.
        telemetry = self.__dict__.get("_telemetry")
        if telemetry is not None:
            telemetry.end()
