"""Fake connections that cost nothing, or only the time that a dial takes.

They answer to what each pool asks of its connections with the least work possible, so
that the pool is what is measured. What only one pool asks for is in a class of its own;
:mod:`benchmarks.adapters` selects it.
"""

from __future__ import annotations

import itertools
import os
import socket
from types import SimpleNamespace
from typing import Any, ClassVar

import gevent

from geventpool import Connector

#: ``select`` accepts no descriptor from this number on. Some pools use it.
SELECT_LIMIT = 1024


class Fake:
    """A connection that is always healthy and never transfers anything."""

    __slots__ = ("__weakref__", "pid")

    def __init__(self, *args: Any, **options: Any) -> None:
        self.pid = os.getpid()

    @classmethod
    def dial(cls, *args: Any, **options: Any) -> Fake:
        """Return a new, open connection."""
        conn = cls()
        conn.connect()
        return conn

    def connect(self, *args: Any) -> None:
        """Do nothing."""

    def disconnect(self, *args: Any) -> None:
        """Do nothing."""

    commit = rollback = cursor = re_auth = connect

    def should_reconnect(self, timeout: float = 0) -> bool:
        """Return False."""
        return False

    can_read = is_expired = should_reconnect

    def is_connected(self) -> bool:
        """Return True."""
        return True

    def open(self) -> None:
        """Connect."""
        self.connect()

    def close(self) -> None:
        """Disconnect."""
        self.disconnect()


class FakeServer:
    """Counts the dials of one kind of fakes.

    :param seconds: how long one dial takes.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        #: All dials; those open now, and the most that were, with those being opened.
        self.dials = self.open = self.peak = 0

    def accept(self) -> None:
        """Take the time of a dial. May switch."""
        self.dials += 1
        self.open += 1
        self.peak = max(self.peak, self.open)
        try:
            gevent.sleep(self.seconds)
        except BaseException:
            self.open -= 1
            raise


class SlowFake(Fake):
    """A fake whose dial takes time and is counted; see :func:`slow_fake`."""

    __slots__ = ("is_up",)

    server: ClassVar[FakeServer]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__()
        self.is_up = False

    def connect(self, *args: Any) -> None:
        """Dial, unless connected. May switch."""
        if not self.is_up:
            self.server.accept()
            self.is_up = True

    def disconnect(self, *args: Any) -> None:
        """Close, unless closed."""
        self.server.open -= self.is_up
        self.is_up = False


def slow_fake(seconds: float) -> type[SlowFake]:
    """Return a new kind of fakes whose ``server`` counts their dials."""
    namespace = {"__slots__": (), "server": FakeServer(seconds)}
    return type("SlowFake", (SlowFake,), namespace)


class FakeConnector(Connector[Fake]):
    """The connector of our pool; everything else is the default.

    :param kind: of fakes.
    """

    def __init__(self, kind: type[Fake] = Fake) -> None:
        self._kind = kind

    def open(self) -> Fake:
        """Return a new fake. May switch if its dial takes time."""
        return self._kind.dial()

    def close(self, conn: Fake) -> None:
        """Disconnect."""
        conn.disconnect()

    discard = close


class FakeDbApi:
    """As much of a DB-API module as PooledDB asks for.

    :param kind: of fakes.
    """

    threadsafety = 1
    OperationalError = InterfaceError = InternalError = OSError

    def __init__(self, kind: type[Fake]) -> None:
        self.connect = kind.dial


def mysql_fake(kind: type[Fake]) -> type[Fake]:
    """Add what pymysql-pool asks of the connections of PyMySQL."""

    class MySQLFake(kind):  # type: ignore[misc,valid-type]
        __slots__ = ("_create_ts", "_pool", "_returned")

        cursor = get_autocommit = lambda self: self
        autocommit = lambda self, value: None  # noqa: E731

        def close(self) -> None:
            # pymysql-pool also closes the cursor of a returned connection, which is
            # the fake itself. So it disconnects only after it has left the pool.
            if self._pool is None:
                self.disconnect()

        _force_close = close

    return MySQLFake


def postgres_fake(kind: type[Fake]) -> type[Fake]:
    """Add what psycopg_pool asks of the connections of psycopg."""

    class PostgresFake(kind):  # type: ignore[misc,valid-type]
        __slots__ = ("_created_at", "_expire_at", "_pool")

        #: In the state that libpq calls idle.
        pgconn = SimpleNamespace(transaction_status=0)

        @classmethod
        def connect(cls, conninfo: str = "", **options: Any) -> Fake:  # type: ignore
            conn = cls()
            kind.connect(conn)
            return conn

    return PostgresFake


def socket_fake(kind: type[Fake]) -> type[Fake]:
    """Add what geventhttpclient asks of a socket: a descriptor without input.

    All share one descriptor. Fakes whose real descriptor would be too large for
    ``select`` get such a number here too.
    """
    numbers = itertools.count()

    class SocketFake(kind):  # type: ignore[misc,valid-type]
        __slots__ = ("number",)

        def __init__(self) -> None:
            super().__init__()
            number = next(numbers)
            self.number = silent().fileno() if number < SELECT_LIMIT else number

        def fileno(self) -> int:
            return self.number

    return SocketFake


_silent_pair: list[socket.socket] = []


def silent() -> socket.socket:
    """Return a socket to which nothing is ever sent."""
    if not _silent_pair:
        _silent_pair.extend(socket.socketpair())
    return _silent_pair[0]
