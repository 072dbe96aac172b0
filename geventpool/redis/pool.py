"""The pool in the place of redis-py's: the core does the pooling, this translates.

Knows what redis-py, and the code written against it, asks of a connection pool. Who
gets which connection, and when one is opened or closed, is the core's affair alone:
there is no second book of it here.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from gevent import getcurrent
from gevent.monkey import get_original
from redis.connection import Connection
from redis.connection import ConnectionPool as RedisPyPool
from redis.retry import Retry

from geventpool.errors import PoolError, PoolExhaustedError
from geventpool.options import documented
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
from geventpool.redis.options import (
    POOL_OPTIONS,
    RedisOptions,
    check_limits,
    check_number,
    options_of,
    refuse_misspelt,
)
from geventpool.redis.returns import Returns
from geventpool.redis.sharing import Sharing
from geventpool.redis.telemetry import Telemetry
from geventpool.reports import Loan

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from geventpool.redis.keywords import RedisKeywords

__all__ = ["ConnectionPool"]

P = TypeVar("P", bound="ConnectionPool")

#: Of the thread. The patched one is of the greenlet.
get_ident: Callable[[], int] = get_original("_thread", "get_ident")

#: What redis-py's pools take when they are given no number (since 8.0).
DEFAULT_MAX_CONNECTIONS = 100


class ConnectionPool(Returns):
    """A pool for ``redis.Redis(connection_pool=...)``, in which one waits in line.

    ::

        client = redis.Redis(connection_pool=ConnectionPool(host="...", timeout=5))

    A drop-in: everything that redis-py's own pool does, this does. On top of that:
    at the limit the caller waits, first come, first served; connections can be given
    an age; a greenlet may be killed, or hit by a ``gevent.Timeout``, anywhere, and no
    connection is lost and no reply reaches the wrong caller.

    The keywords below are the pool's, as :class:`geventpool.Pool` describes them. All
    others (``host``, ``port``, ``db``, ``password``, ``protocol``, ``ssl_...``,
    ``socket_timeout``, ``cache_config`` ...) are redis-py's.

    Three things are different from redis-py's pools on purpose:

    * ``retry``, when not given, is what ``redis.Redis()`` gives to a pool of its own.
      redis-py silently retries nothing with a pool that the user made.
    * A connection that was closed, by its borrower or by the server, is not kept to be
      connected again later: its place is free at once, and the next one is new.
    * A loan that anybody but redis-py's own objects took by :meth:`get_connection`
      ends with the greenlet that took it, unless *reclaim* is False.

    It relies on some members of redis-py that are not documented; they are listed in
    ``geventpool/redis/internals.py``.

    :param connection_class: redis-py's, or one derived from it.
    :param int max_connections: the server never sees more sockets of this pool; None
        or 0: 100.
    :param float timeout: seconds a caller waits for a connection; None: without end;
        0: not at all, as redis-py's ``ConnectionPool``. Default 30.
    :param auto_pipeline: True: the commands of many greenlets share one connection,
        and are written together; a number: so many connections; or an
        :class:`AutoPipeline`. Commands that can't share take a connection of their
        own. False: every command does.
    :param int max_in_flight: commands that may be under way over a shared connection
        at a time; others wait in line, with the pool's *timeout*. Default 1000.
    :param str unpatched: what to do in a process whose ``socket`` gevent has not
        patched: ``"stock"`` is redis-py's ``BlockingConnectionPool`` with the same
        options; ``"error"`` is :exc:`~geventpool.NotPatchedError`.
    :raises TypeError: an argument is of the wrong kind.
    :raises ValueError: an argument is out of its range.
    """

    @documented(RedisOptions, others=True)
    def __init__(
        self,
        connection_class: type[Any] = Connection,
        max_connections: int | None = None,
        **keywords: Unpack[RedisKeywords],
    ) -> None:
        check_number(max_connections)
        owner = f"{type(self).__name__}()"
        connection_kwargs: dict[str, Any] = {**keywords}
        own = POOL_OPTIONS & connection_kwargs.keys()
        chosen = RedisOptions.of(
            owner,
            {
                "max_connections": max_connections or DEFAULT_MAX_CONNECTIONS,
                **{name: connection_kwargs.pop(name) for name in own},
            },
        )
        refuse_misspelt(owner, connection_kwargs, connection_class)
        pipelining = chosen.auto_pipeline
        if pipelining is not None:
            pipelining.check_places(chosen.max_connections)
        self._set_unpatched(chosen.unpatched, chosen.timeout)
        # Of redis-py's blocking pool, where gevent's users are told to give it.
        connection_kwargs.pop("queue_class", None)
        check_limits(connection_kwargs)
        #: Has the program said nothing of retries?
        self._retries_by_default = "retry" not in connection_kwargs
        connection_kwargs.setdefault("retry", self._retry_by_default())
        #: whom redis-py lets be told of releases, beside its own re-authentication
        self._dispatcher: Any = connection_kwargs.get("event_dispatcher")
        self.asks_owner = type(self).owns_connection is not RedisPyPool.owns_connection
        self._stock_retry: Retry | None = None
        self._loans = Loans(self._forgotten)
        self._special = self._loans.special
        self._readers = Readers()
        self._connector = RedisConnector(self)
        #: what redis-py said when it last failed to connect, if nothing has begun since
        self._failure: Exception | None = None
        self._telemetry = Telemetry(self, chosen.name)
        # Not super(): the pool for Sentinel is a sibling of redis-py's, whose
        # constructor would fill in the arguments too late for initial connections.
        RedisPyPool.__init__(
            self,
            connection_class,
            chosen.max_connections,
            **connection_kwargs,
        )
        initial = chosen.initial_connections
        #: the :class:`geventpool.Pool` that does the pooling
        self.core: Pool[Any] = Pool(
            self._connector,
            None,
            **chosen.for_core(
                initial_connections=initial if initial and self._pools_here() else 0,
                max_connections=self._limit,
                name=self._title() if chosen.name is None else chosen.name,
            ),
        )
        #: what commands share; None: each takes a connection of its own
        self._sharing: Sharing | None = None
        if pipelining is not None:
            self._sharing = Sharing(
                self,
                pipelining,
                chosen.max_in_flight,
                chosen.timeout,
                chosen.max_waiting,
                chosen.max_lifetime,
            )
        # What every command touches, bound once.
        self._take = self.core.acquire
        self._give_back = self.core.release

    @classmethod
    def from_url(cls: type[P], url: str, **kwargs: Any) -> P:
        """A pool for a ``redis://``, ``rediss://`` or ``unix://`` URL.

        The query may name redis-py's options and the pool's alike
        (``?db=2&max_connections=20&max_idle=60``), and wins over *kwargs*.

        :raises ValueError: what the URL says is not understood.
        """
        options = options_of(url)
        if "connection_class" in kwargs:
            options["connection_class"] = kwargs["connection_class"]
        return cls(**{**kwargs, **options})

    def _retry_by_default(self) -> Retry | None:
        return default_retry()

    def _retry_of_stock(self) -> Retry | None:
        """What retries on the connections of redis-py's own pools by default.

        Code that takes a connection itself is told of a lost one, as it expects.
        """
        if self._stock_retry is None:
            options = {**self.connection_kwargs, "retry": None}
            conn = self.connection_class(**options)
            self._stock_retry = getattr(conn, "retry", None)
        return self._stock_retry

    def address(self) -> tuple[str, Any]:
        """The host and the port; of a Unix socket ``"unix"`` and its path."""
        options = self.connection_kwargs
        if "path" in options:
            return "unix", options["path"]
        return options.get("host", "localhost"), options.get("port", 6379)

    def _title(self) -> str:
        """What error messages call this pool."""
        host, port = self.address()
        if host == "unix":
            return f"redis {port}"
        return f"redis {host}:{port}/{self.connection_kwargs.get('db', 0)}"

    # Borrowing and giving back.

    def get_connection(
        self, command_name: str | None = None, *keys: Any, **options: Any
    ) -> Any:
        """A connection, ready for a command; to be given back by :meth:`release`.

        May switch, if no idle connection is fit. The arguments are those of old
        versions of redis-py; they are ignored.

        :raises RedisPoolExhaustedError: no connection in time; it is a
            :exc:`geventpool.PoolExhaustedError` and a ``redis.MaxConnectionsError``.
        :raises NotPatchedError: the process is not patched, and the option *unpatched*
            is ``"error"``.
        :raises redis.RedisError: what redis-py raised when it connected.
        """
        if self._is_undecided:
            stock = self._decide()
            if stock is not None:
                return stock.get_connection()
        if self._sharing is not None:
            stand_in = self._sharing.stand_in()
            if stand_in is not None:
                return stand_in
        conn = self.own_connection()
        kept = False
        try:
            # Not f_back of our own frame: that would make two objects.
            is_command = sys._getframe(1).f_code is COMMAND
        except ValueError:
            # No caller: this call is all that a greenlet does.
            is_command = False
        if not is_command:
            retry = self._retry_of_stock() if self._retries_by_default else None
            kept = self._loans.note_loan(conn, sys._getframe().f_back, self, retry)
            if kept:
                self.core.transfer(conn, None)
        if self.cache is not None:
            self._let_readers_finish(conn, None if kept else getcurrent())
        return conn

    def own_connection(self) -> Any:
        """A connection for this greenlet alone, as :meth:`get_connection` lends it.

        May switch.
        """
        try:
            if recorder._metrics_collector is not None:
                return self._telemetry.timed(self._take)
            return self._take()
        except (PoolError, TimeoutError) as error:
            raise self.explained(error)

    def explained(self, error: Exception) -> Exception:
        """A refusal as redis-py's callers understand it.

        While there is room, and all that fails is to connect, the refusal is no matter
        of the pool: what redis-py said is the answer, also to a caller who did not
        have the patience to wait for the last retry.
        """
        failure, stats = self._failure, self.core.stats()
        if (
            type(error) is PoolExhaustedError
            and failure is not None
            and stats.in_use < stats.max_connections
        ):
            # A copy each, for many may wait for the same server.
            said = copy.copy(failure)
            said.__cause__ = error
            return said
        return translate_error(error)

    def _let_readers_finish(self, conn: Any, user: object) -> None:
        """Others may be reading what was pushed to *conn* while it was idle."""
        try:
            with self._lock:
                self._readers.lend(conn, user)
        except BaseException:
            # Killed while waiting: nobody else would give it back.
            self.release(conn)
            raise

    def make_connection(self) -> Any:
        """A new connection, not yet connected; it is not counted as one of the pool's.

        The pool itself calls this, after it has made sure of a place.
        """
        if self.cache is None:
            return self.connection_class(**self.connection_kwargs)
        conn = guarded(self.connection_class)(**self.connection_kwargs)
        conn.readers = self._readers
        return CachedConnection(conn, self.cache, self._lock)

    # All at once.

    def disconnect_free_connections(
        self, moving_address_src: str | None = None
    ) -> None:
        """Close the idle connections, or only those to one address."""
        super().disconnect_free_connections(moving_address_src)
        if self._stock is not None:
            # What is not connected stays: redis-py's pool connects it again.
            return
        for conn in self.core.idle_connections():
            if not is_connected(conn):
                self.core.drop(conn)

    def reset(self) -> None:
        """Renew every connection, those in use when they come back.

        For changed credentials: new connections are made from the present
        ``connection_kwargs``. The limit holds meanwhile. Never switches.
        """
        # redis-py's constructor calls this before there is anything to renew.
        if "core" not in self.__dict__:
            return
        if self._stock is not None:
            self._stock.reset()
        if self._stock is None or not self._is_undecided:
            self.core.drain()
        if self._sharing is not None:
            self._sharing.renew()

    def close(self) -> None:
        """Close all connections; the pool can be used again, as redis-py wants it.

        A client closes the pool it was made from when it is collected, and its
        subscriptions go on using the pool. :meth:`shutdown` is final.
        """
        self.disconnect()

    def __enter__(self: P) -> P:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def shutdown(self, timeout: float | None = None) -> list[Loan]:
        """Close for good, after waiting for what is on loan.

        May switch.

        :param timeout: seconds to wait at most; None: without end.
        :return: the loans that were cut off.
        """
        if self._sharing is not None:
            self._sharing.close()
        left = self.core.close(timeout)
        if self._stock is not None:
            self._stock.disconnect()
        return left

    # Called by others, to take note.

    def counted(self) -> None:
        """The number of connections in use has changed."""
        if recorder._metrics_collector is not None:
            self._telemetry.count()

    def demoted(self, error: Exception) -> Exception:
        """An error reply on a shared connection, as a client is to see it."""
        return error

    def opening(self) -> None:
        """What failed before is no news of this attempt."""
        self._failure = None

    def opened(self, conn: Any, seconds: float) -> None:
        """There is a new connection."""
        self._failure = None
        self._telemetry.opened(seconds)

    def failed(self, error: Exception) -> None:
        """An attempt has failed; there may be others."""
        self._failure = copy.copy(error)

    def terminated(self, conn: Any) -> None:
        """A connection is gone, whoever had it."""
        self._loans.forget_loan(conn)
        self._readers.give_back(conn)
        self._telemetry.count_soon()

    def __del__(self) -> None:
        # redis-py's would count down what our own telemetry has counted up.
        telemetry = self.__dict__.get("_telemetry")
        if telemetry is not None:
            telemetry.end()
