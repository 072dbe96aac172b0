"""
Doors: one pool in front of one server, ours and the stock ones alike.

A door asks the server something through its pool and gives the answer; it knows
what its driver must do when it is interrupted, and nothing of who asks, or why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module
from typing import Any

import gevent

import geventpool
from benchmarks.demo.tally import Tally

#: A query that keeps its connection for a while, as queries do; so it is the
#: connections that are short, and not this process's time.
QUERY, QUERY_TIME = "SELECT %s, SLEEP(%s)", 0.003
#: Seconds in which all connections must be had at once, when all is over.
PATIENCE = 3.0


class Door:
    """
    A pool, the account of what is asked through it, and how to ask.

    :param name: of the pool, as the table shows it.
    :param limit: how many connections it may have.
    """

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.limit = limit
        self.tally = Tally()

    def ask(self, tag: str) -> object:
        """What the server answers to a request that carries a tag. **May switch.**"""
        raise NotImplementedError

    def take(self) -> object:
        """Borrow a connection, for :meth:`usable`. **May switch.**"""
        raise NotImplementedError

    def give_back(self, conn: Any) -> None:
        """Give back what :meth:`take` took."""
        raise NotImplementedError

    def places(self) -> tuple[int, int, int] | None:
        """How many connections are in use and idle, and how many wait; or None."""
        return None

    def usable(self) -> int:
        """How many connections can be had at once: lost ones can't. **May switch.**"""
        taken: list[object] = []
        try:
            with gevent.Timeout(PATIENCE):
                while len(taken) < self.limit:
                    taken.append(self.take())
        except (Exception, gevent.Timeout):
            # Told there is none, or waited for it in vain: the count says so.
            pass
        for conn in taken:
            self.give_back(conn)
        return len(taken)

    def close(self) -> None:
        """Close the pool. **May switch.**"""
        raise NotImplementedError


def _places(pool: Any) -> tuple[int, int, int]:
    stats = pool.stats()
    return stats.in_use, stats.idle, stats.waiting


class RedisDoor(Door):
    """
    A redis-py client on a pool; ours or redis-py's own.

    :param pool_class: a pool that ``redis.Redis(connection_pool=...)`` takes.
    :param options: of the pool.
    """

    def __init__(
        self, name: str, pool_class: type[Any], limit: int, **options: Any
    ) -> None:
        super().__init__(name, limit)
        redis = import_module("redis")
        never = import_module("redis.retry").Retry(
            import_module("redis.backoff").NoBackoff(), 0
        )
        waited = self.tally.waited

        class Clocked(pool_class):  # type: ignore[misc]
            """The pool with a clock at its door."""

            def get_connection(self, *args: Any, **kwargs: Any) -> Any:
                return waited(super().get_connection, *args)

        self._pool: Any = Clocked(max_connections=limit, retry=never, **options)
        self._client = redis.Redis(connection_pool=self._pool)

    def ask(self, tag: str) -> object:
        """The echo of the tag."""
        return self._client.echo(tag).decode()

    def take(self) -> object:
        """A connection of redis-py."""
        return self._pool.get_connection()

    def give_back(self, conn: Any) -> None:
        """Release it."""
        self._pool.release(conn)

    def places(self) -> tuple[int, int, int] | None:
        """As our pool says; redis-py's does not."""
        return _places(self._pool) if hasattr(self._pool, "stats") else None

    def close(self) -> None:
        """Close everything: ours for good, redis-py's to be opened again on demand."""
        self._pool.close()


class MySQLDoor(Door):
    """PyMySQL connections in our pool."""

    def __init__(self, name: str, limit: int, **options: Any) -> None:
        super().__init__(name, limit)
        mysql = import_module("geventpool.mysql")
        self._pool = mysql.ConnectionPool(
            max_connections=limit, autocommit=True, **options
        )

    def ask(self, tag: str) -> object:
        """The tag, selected."""
        block = self._pool.connection()
        conn = self.tally.waited(block.__enter__)
        # The `with` statement by hand, for the wait is what entering takes.
        try:
            with conn.cursor() as cursor:
                cursor.execute(QUERY, (tag, QUERY_TIME))
                reply = cursor.fetchone()[0]
        except BaseException as error:
            block.__exit__(type(error), error, error.__traceback__)
            raise
        block.__exit__(None, None, None)
        return reply

    def take(self) -> object:
        """A connection of PyMySQL."""
        return self._pool.acquire()

    def give_back(self, conn: Any) -> None:
        """Release it."""
        self._pool.release(conn)

    def places(self) -> tuple[int, int, int] | None:
        """As the pool says."""
        return _places(self._pool)

    def close(self) -> None:
        """Close the pool."""
        self._pool.close(PATIENCE)


class QueuePoolDoor(Door):
    """PyMySQL connections in SQLAlchemy's QueuePool, with its own defaults."""

    def __init__(self, name: str, limit: int, **options: Any) -> None:
        super().__init__(name, limit)
        pymysql = import_module("pymysql")
        # It logs a traceback whenever a greenlet is killed while giving back.
        logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
        self._pool: Any = import_module("sqlalchemy").pool.QueuePool(
            lambda: pymysql.connect(autocommit=True, **options),
            pool_size=limit,
            max_overflow=0,
        )

    def ask(self, tag: str) -> object:
        """The tag, selected."""
        conn = self.tally.waited(self._pool.connect)
        try:
            with conn.cursor() as cursor:
                cursor.execute(QUERY, (tag, QUERY_TIME))
                reply = cursor.fetchone()[0]
        except BaseException:
            # As SQLAlchemy's own engine does when it is interrupted.
            conn.invalidate()
            raise
        conn.close()
        return reply

    def take(self) -> object:
        """A connection in SQLAlchemy's wrapping."""
        return self._pool.connect()

    def give_back(self, conn: Any) -> None:
        """Release it."""
        conn.close()

    def close(self) -> None:
        """Close the idle ones."""
        self._pool.dispose()


class EchoDoor(Door):
    """
    Plain sockets to an echo server.

    :param pool: ours or gsocketpool's, of ``TcpConnection`` objects.
    """

    def __init__(
        self, name: str, limit: int, pool: Any, drop: Callable[[Any], object]
    ) -> None:
        super().__init__(name, limit)
        self._pool = pool
        self._drop = drop

    def ask(self, tag: str) -> object:
        """The echo of the tag."""
        conn = self.tally.waited(self._pool.acquire)
        wanted = tag.encode() + b"\n"
        reply = b""
        try:
            conn.send(wanted)
            while not reply.endswith(b"\n"):
                part = conn.recv(4096)
                if not part:
                    raise ConnectionError("the server hung up")
                reply += part
        except BaseException:
            # The answer to an interrupted request is still under way.
            self._drop(conn)
            raise
        self._pool.release(conn)
        return reply.decode().rstrip("\n")

    def take(self) -> object:
        """A connection."""
        return self._pool.acquire()

    def give_back(self, conn: Any) -> None:
        """Release it."""
        self._pool.release(conn)

    def places(self) -> tuple[int, int, int] | None:
        """As our pool says; gsocketpool's does not."""
        return _places(self._pool) if hasattr(self._pool, "stats") else None

    def close(self) -> None:
        """Close the pool, if it can."""
        if hasattr(self._pool, "close"):
            self._pool.close(PATIENCE)


def our_echo_door(limit: int, **options: Any) -> Door:
    """Our pool of our ``TcpConnection``."""
    pool = geventpool.Pool(geventpool.TcpConnection, options, max_connections=limit)
    return EchoDoor("echo, ours", limit, pool, pool.drop)


def gsocketpool_door(limit: int, **options: Any) -> Door:
    """gsocketpool, which can drop a connection once it has been given back."""
    package = import_module("gsocketpool")
    pool = package.Pool(package.TcpConnection, options, max_connections=limit)

    def drop(conn: Any) -> None:
        pool.release(conn)
        pool.drop(conn)

    return EchoDoor("echo, stock", limit, pool, drop)
