"""
The doors of the storms: every pool before the server that its driver speaks to.

A pool is judged together with its driver here, for who cleans up after a kill is a
matter between the two. So redis-py's pools meet a Redis, those for DB-API modules a
MariaDB with PyMySQL, and those for plain sockets an echo server; ours meets all
three. psycopg_pool has no server here: it meets the echo server too, with connections
that keep the state libpq keeps, so that it knows what it is given back.

Each is used as its documentation has it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib import import_module
from typing import Any

import gevent
from gevent import socket

from benchmarks import peers
from benchmarks.demo import doors
from benchmarks.demo.doors import QUERY, QUERY_TIME, Door
from benchmarks.demo.stores import LIMIT

#: Where a server is, as its driver wants it.
Address = dict[str, Any]


def usable(door: Door, patience: float) -> int:
    """How many connections can be had at once, within so long. **May switch.**"""
    taken: list[object] = []
    try:
        with gevent.Timeout(patience):
            while len(taken) < door.limit:
                taken.append(door.take())
    except (Exception, gevent.Timeout):
        # Told there is none, or waited for it in vain: the count says so.
        pass
    return len(taken)


class PooledDBDoor(Door):
    """PyMySQL connections in DBUtils' PooledDB, with its own defaults."""

    def __init__(self, limit: int, **options: Any) -> None:
        super().__init__(peers.POOLED_DB, limit)
        self._pool: Any = import_module("dbutils.pooled_db").PooledDB(
            import_module("pymysql"),
            maxconnections=limit,
            blocking=True,
            autocommit=True,
            ssl_disabled=True,
            **options,
        )

    def ask(self, tag: str) -> object:
        """The tag, selected."""
        with self.tally.waited(self._pool.connection) as conn:
            with conn.cursor() as cursor:
                cursor.execute(QUERY, (tag, QUERY_TIME))
                return cursor.fetchone()[0]

    def take(self) -> object:
        """A connection in DBUtils' wrapping."""
        return self._pool.dedicated_connection()

    def close(self) -> None:
        """Close the idle ones."""
        self._pool.close()


class MySQLPoolDoor(Door):
    """pymysql-pool."""

    def __init__(self, limit: int, **options: Any) -> None:
        super().__init__(peers.MYSQL_POOL, limit)
        self._pool: Any = import_module("pymysqlpool").ConnectionPool(
            size=limit, maxsize=limit, ssl_disabled=True, **options
        )

    def ask(self, tag: str) -> object:
        """The tag, selected."""
        with self.tally.waited(self.take) as conn:
            with conn.cursor() as cursor:
                cursor.execute(QUERY, (tag, QUERY_TIME))
                return cursor.fetchone()[0]

    def take(self) -> Any:
        """A connection of its own kind, pinged before it is lent."""
        return self._pool.get_connection(10, peers.POLL, pre_ping=True)

    def close(self) -> None:
        """It can't be closed."""


class SocketDoor(Door):
    """What the doors of plain sockets to an echo server share."""

    def ask(self, tag: str) -> object:
        """The echo of the tag."""
        sock = self.tally.waited(self.take)
        try:
            reply = echoed(sock, tag)
        except BaseException:
            self.spoil(sock)
            raise
        self.give_back(sock)
        return reply

    def spoil(self, sock: Any) -> None:
        """Give back a socket with an answer still under way."""
        raise NotImplementedError


def echoed(sock: Any, tag: str) -> str:
    """What comes back for the tag. **May switch.**"""
    sock.sendall(tag.encode() + b"\n")
    reply = b""
    while not reply.endswith(b"\n"):
        part = sock.recv(4096)
        if not part:
            raise ConnectionError("the server hung up")
        reply += part
    return reply.decode().rstrip("\n")


class HttpDoor(SocketDoor):
    """geventhttpclient's pool of sockets."""

    def __init__(self, limit: int, host: str, port: int) -> None:
        super().__init__(peers.HTTP_POOL, limit)
        package = import_module("geventhttpclient.connectionpool")
        self._pool: Any = package.ConnectionPool(host, port, host, port, size=limit)
        self.take = self._pool.get_socket  # type: ignore[method-assign]
        self.give_back = self._pool.return_socket  # type: ignore[method-assign]
        self.spoil = self._pool.release_socket  # type: ignore[method-assign]
        self.close = self._pool.close  # type: ignore[method-assign]


class Status:
    """The word of libpq for the state of a connection."""

    #: In step; in the middle of a command; lost.
    IDLE, ACTIVE, UNKNOWN = 0, 1, 4

    def __init__(self) -> None:
        self.transaction_status = self.IDLE


class StatedSocket:
    """A socket to the echo server with the manners of a psycopg connection."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.pgconn = Status()
        self._pool: Any = None
        self._socket = socket.create_connection(address, timeout=5)

    def ask(self, tag: str) -> str:
        """The echo of the tag. **May switch.**"""
        self.pgconn.transaction_status = Status.ACTIVE
        try:
            reply = echoed(self._socket, tag)
        except OSError:
            self.close()
            raise
        self.pgconn.transaction_status = Status.IDLE
        return reply

    def close(self) -> None:
        """Hang up."""
        self.pgconn.transaction_status = Status.UNKNOWN
        self._socket.close()


class PsycopgDoor(Door):
    """psycopg_pool over sockets that keep libpq's states."""

    def __init__(self, limit: int, host: str, port: int) -> None:
        super().__init__(peers.PSYCOPG_POOL, limit)

        class Connection(StatedSocket):
            @classmethod
            def connect(cls, conninfo: str, **options: Any) -> StatedSocket:
                return cls((host, port))

        self._pool: Any = import_module("psycopg_pool").ConnectionPool(
            connection_class=Connection, min_size=limit, max_size=limit, open=True
        )

    def ask(self, tag: str) -> object:
        """The echo of the tag."""
        conn = self.tally.waited(self._pool.getconn)
        try:
            return conn.ask(tag)
        finally:
            # Also after a kill, as its own block does.
            self._pool.putconn(conn)

    def take(self) -> object:
        """A connection."""
        return self._pool.getconn()

    def close(self) -> None:
        """Stop its workers."""
        self._pool.close(timeout=1)


def _redis(module: str, kind: str) -> Callable[[Address], Door]:
    def build(address: Address) -> Door:
        pool_class = getattr(import_module(module), kind)
        return doors.RedisDoor(kind, pool_class, LIMIT, **address)

    return build


def _quiet_queue_pool(address: Address) -> Door:
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    return doors.QueuePoolDoor(peers.QUEUE_POOL, LIMIT, ssl_disabled=True, **address)


#: The doors by the server they lead to, and by name; ours first.
DOORS: dict[str, dict[str, Callable[[Address], Door]]] = {
    "redis": {
        peers.OURS: _redis("geventpool.redis", "ConnectionPool"),
        peers.BLOCKING: _redis("redis", "BlockingConnectionPool"),
        "redis Pool": _redis("redis", "ConnectionPool"),
    },
    "mysql": {
        peers.OURS: lambda address: doors.MySQLDoor(peers.OURS, LIMIT, **address),
        peers.QUEUE_POOL: _quiet_queue_pool,
        peers.POOLED_DB: lambda address: PooledDBDoor(LIMIT, **address),
        peers.MYSQL_POOL: lambda address: MySQLPoolDoor(LIMIT, **address),
    },
    "echo": {
        peers.OURS: lambda address: doors.our_echo_door(LIMIT, **address),
        "gsocketpool": lambda address: doors.gsocketpool_door(LIMIT, **address),
        peers.HTTP_POOL: lambda address: HttpDoor(LIMIT, **address),
        peers.PSYCOPG_POOL: lambda address: PsycopgDoor(LIMIT, **address),
    },
}
