"""The servers that ``advise`` can measure, through the pool and the driver.

A server is only asked for round trips and for its connection limit. Nothing is written.
An address is shown without the password.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib import import_module
from typing import Any

from geventpool.advise.sizing import Capacity
from geventpool.listeners import PoolListener

__all__ = ["AddressError", "MySQLTarget", "RedisTarget", "Target"]

#: Seconds that opening a connection, and one answer, may take.
TIMEOUT = 3.0


class AddressError(ValueError):
    """The URL is not usable. The message does not contain the password."""


class _Dials(PoolListener):
    """Notes how long each dial took."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def opened(self, conn: Any, seconds: float) -> None:
        self.seconds.append(seconds)


class Target(ABC):
    """One server and the pool that is measured against it."""

    #: The commands that are sent, for the announcement.
    questions: str

    #: Its address, without the password.
    place: str

    #: The pool: ``geventpool.redis`` or ``geventpool.mysql``.
    pool: Any

    def __init__(self) -> None:
        self.dials = _Dials()
        self.secret: str | None = None

    def acquire(self) -> Any:
        """Borrow a connection.

        May switch.
        """
        return self.pool.acquire()

    def release(self, conn: Any) -> None:
        """Give a connection back."""
        self.pool.release(conn)

    @abstractmethod
    def ask(self, conn: Any) -> None:
        """Do one round trip.

        May switch.
        """

    @abstractmethod
    def capacity(self) -> Capacity:
        """Return the limit of the server, and how many connections others use.

        May switch.
        """

    def set_limit(self, size: int) -> None:
        """Set the maximum number of connections of the pool."""
        self.pool.resize(size)

    def open(self, size: int) -> None:
        """Let the pool have *size* connections and open all of them.

        May switch.

        :raises Exception: the first error of a dial.
        """
        self.set_limit(size)
        # A connection that is lent cannot satisfy the next acquire(), so each call
        # makes the pool open one more. They are opened one after the other, to keep the
        # load low.
        lent = []
        try:
            for _ in range(size):
                lent.append(self.acquire())
        finally:
            for conn in lent:
                self.release(conn)

    def close(self) -> None:
        """Close the pool.

        May switch.
        """
        self.pool.close(timeout=1)

    def describe(self, error: BaseException) -> str:
        """The error in words that do not contain the password."""
        text = f"{type(error).__name__}: {error}"
        return text.replace(self.secret, "***") if self.secret else text


class RedisTarget(Target):
    """A Redis server.

    :param url: a URL of redis-py.
    :raises AddressError: redis-py cannot read it.
    :raises ImportError: redis-py is not installed.
    """

    questions = "PING and INFO clients"

    def __init__(self, url: str) -> None:
        super().__init__()
        redis = import_module("redis")
        try:
            options = import_module("redis.connection").parse_url(url)
        except Exception:
            # The original message may quote a part of the URL, and so the password.
            raise AddressError(
                "redis-py cannot read this URL. It must look like "
                "redis://user:password@host:port/db, with special characters "
                "percent-encoded"
            ) from None
        self.secret = options.get("password")
        host, port = options.get("host", "localhost"), options.get("port", 6379)
        self.place = f"Redis at {options.get('path') or f'{host}:{port}'}"
        self.pool = import_module("geventpool.redis").ConnectionPool.from_url(
            url,
            max_connections=1,
            timeout=None,
            socket_connect_timeout=TIMEOUT,
            socket_timeout=TIMEOUT,
            retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
            listeners=[self.dials],
        )

    def acquire(self) -> Any:
        """Borrow a connection of redis-py.

        May switch.
        """
        return self.pool.get_connection()

    def set_limit(self, size: int) -> None:
        """Set the maximum by the attribute of redis-py's pools."""
        self.pool.max_connections = size

    def ask(self, conn: Any) -> None:
        """Send PING and read the answer.

        May switch.
        """
        conn.send_command("PING")
        conn.read_response()

    def capacity(self) -> Capacity:
        """Return what INFO reports; unknown if the account must not use INFO.

        May switch.
        """
        redis = import_module("redis")
        try:
            info = redis.Redis(connection_pool=self.pool).info("clients")
        except redis.ResponseError:
            return Capacity()
        used = info.get("connected_clients", 0) - len(self.dials.seconds)
        return Capacity(info.get("maxclients"), max(0, used))

    def close(self) -> None:
        """Close the pool.

        May switch.
        """
        self.pool.shutdown(timeout=1)


class MySQLTarget(Target):
    """A MySQL or MariaDB server.

    :param url: a URL for ``geventpool.mysql.ConnectionPool.from_url``.
    :raises AddressError: it cannot be read.
    :raises ImportError: PyMySQL is not installed.
    """

    questions = "SELECT 1, SELECT @@max_connections and SHOW STATUS"

    def __init__(self, url: str) -> None:
        super().__init__()
        package = import_module("geventpool.mysql")
        try:
            options = import_module("geventpool.mysql.url").parse_url(url)
            self.pool = package.ConnectionPool.from_url(
                url,
                max_connections=1,
                timeout=None,
                autocommit=True,
                connect_timeout=TIMEOUT,
                read_timeout=TIMEOUT,
                write_timeout=TIMEOUT,
                listeners=[self.dials],
            )
        except (TypeError, ValueError) as error:
            raise AddressError(str(error)) from None
        self.secret = options.get("password")
        host = options.get("unix_socket") or options.get("host", "localhost")
        self.place = f"MySQL at {host}:{options.get('port', 3306)}"

    def ask(self, conn: Any) -> None:
        """Send SELECT 1 and read the row.

        May switch.
        """
        with conn.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.fetchall()

    def capacity(self) -> Capacity:
        """Return the server's limit, or the account's if that is lower.

        May switch.
        """
        with self.pool.connection() as conn, conn.cursor() as cursor:
            cursor.execute("SELECT @@max_connections, @@max_user_connections")
            maximum, of_account = map(int, cursor.fetchone())
            cursor.execute("SHOW GLOBAL STATUS LIKE 'Threads_connected'")
            connected = int(cursor.fetchone()[1])
        if 0 < of_account < maximum:
            # An ordinary account cannot see how many it has open elsewhere.
            return Capacity(of_account, 0)
        return Capacity(maximum, max(0, connected - len(self.dials.seconds)))
