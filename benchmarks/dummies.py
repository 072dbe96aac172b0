"""
Connections that cost nothing, or nothing but the time their dial takes.

They answer to what each of the pools asks of its connections, with the least work
possible, so that what is timed is the pool. What only one pool asks for stands in a
class of its own; :mod:`benchmarks.peers` picks it.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from typing import Any, ClassVar

import gevent

from geventpool import Connector

#: A number from here on is beyond ``select``, which some pools ask about a socket.
SELECT_LIMIT = 1024


class Dummy:
    """A connection that is always well and never talks."""

    __slots__ = ("pid", "__weakref__")

    def __init__(self, *args: Any, **options: Any) -> None:
        self.pid = os.getpid()

    @classmethod
    def dial(cls, *args: Any, **options: Any) -> Dummy:
        """A new connection, open."""
        conn = cls()
        conn.connect()
        return conn

    def connect(self) -> None:
        """Do nothing: connected."""

    def disconnect(self, *args: Any) -> None:
        """Do nothing."""

    def can_read(self, timeout: float = 0) -> bool:
        """Say that nothing waits to be read."""
        return False

    def should_reconnect(self) -> bool:
        """Say no."""
        return False

    def re_auth(self) -> None:
        """Do nothing: there is no new password."""

    def open(self) -> None:
        """Do what a dial does."""
        self.connect()

    def close(self) -> None:
        """Do what a hang-up does."""
        self.disconnect()

    def is_connected(self) -> bool:
        """Say yes."""
        return True

    def is_expired(self) -> bool:
        """Say no."""
        return False

    def commit(self) -> None:
        """Do nothing."""

    def rollback(self) -> None:
        """Do nothing."""

    def cursor(self) -> None:
        """Do nothing."""


class Switchboard:
    """What becomes of the dials of one turn."""

    def __init__(self, seconds: float) -> None:
        #: Seconds one dial takes.
        self.seconds = seconds
        #: Seconds after which a connection says itself that it is too old.
        self.lifetime: float | None = None
        self.dials = 0
        self.open = 0
        #: The most connections that were open, or being opened, at once.
        self.peak = 0

    def ring(self) -> None:
        """Take the time of a dial. **May switch.**"""
        self.dials += 1
        self.open += 1
        self.peak = max(self.peak, self.open)
        try:
            gevent.sleep(self.seconds)
        except BaseException:
            self.open -= 1
            raise


class Dialled(Dummy):
    """A dummy whose dial takes time and is counted; see :func:`dialled`."""

    __slots__ = ("is_up", "born")

    board: ClassVar[Switchboard]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__()
        self.is_up = False

    def connect(self) -> None:
        """Take the time of a dial, unless connected. **May switch.**"""
        if not self.is_up:
            self.board.ring()
            self.is_up = True
            self.born = time.monotonic()

    def disconnect(self, *args: Any) -> None:
        """Be counted no more."""
        if self.is_up:
            self.is_up = False
            self.board.open -= 1

    def is_expired(self) -> bool:
        """Whether it has reached the age that the board has."""
        lifetime = self.board.lifetime
        return lifetime is not None and time.monotonic() - self.born > lifetime


def dialled(seconds: float) -> type[Dialled]:
    """A kind of dummies of its own, whose ``board`` counts their dials."""
    board = Switchboard(seconds)
    return type("Dialled", (Dialled,), {"__slots__": (), "board": board})


class DummyConnector(Connector[Dummy]):
    """
    Our pool's connector for dummies; everything else is the default.

    :param kind: of dummies.
    """

    def __init__(self, kind: type[Dummy] = Dummy) -> None:
        self._kind = kind

    def open(self) -> Dummy:
        """A new dummy. **May switch** if its dial takes time."""
        return self._kind.dial()

    def close(self, conn: Dummy) -> None:
        """Hang up."""
        conn.disconnect()

    def discard(self, conn: Dummy) -> None:
        """Hang up."""
        conn.disconnect()


class DummyApi:
    """
    As much of a DB-API module as PooledDB asks for.

    :param kind: of dummies.
    """

    threadsafety = 1
    OperationalError = InterfaceError = InternalError = OSError

    def __init__(self, kind: type[Dummy] = Dummy) -> None:
        self.connect = kind.dial


def with_transactions(kind: type[Dummy]) -> type[Dummy]:
    """
    What pymysql-pool asks of PyMySQL's connections when they come back.

    :param kind: of dummies.
    """

    class MySQLDummy(kind):  # type: ignore[misc,valid-type]
        __slots__ = ("_pool", "_create_ts", "_returned")

        def cursor(self) -> Any:
            return self

        def get_autocommit(self) -> bool:
            return True

        def autocommit(self, value: bool) -> None:
            pass

        def close(self) -> None:
            # A returned connection's cursor is closed too, and that is the connection
            # itself here: it hangs up only if it has left its pool.
            if self._pool is None:
                self.disconnect()

        _force_close = close

    return MySQLDummy


class _Idle:
    """libpq's word for a connection in step."""

    transaction_status = 0


def with_status(kind: type[Dummy]) -> type[Dummy]:
    """
    What psycopg_pool asks of psycopg's connections.

    :param kind: of dummies.
    """

    class PostgresDummy(kind):  # type: ignore[misc,valid-type]
        __slots__ = ("_pool", "_created_at", "_expire_at")

        pgconn = _Idle

        @classmethod
        def connect(cls, conninfo: str = "", **options: Any) -> Dummy:  # type: ignore
            conn = cls()
            kind.connect(conn)
            return conn

    return PostgresDummy


def with_descriptor(kind: type[Dummy]) -> type[Dummy]:
    """
    What geventhttpclient asks of a socket: a descriptor that ``select`` finds quiet.

    All share one, but those that would have a number beyond ``select`` have it here.

    :param kind: of dummies.
    """
    numbers = itertools.count()

    class SocketDummy(kind):  # type: ignore[misc,valid-type]
        __slots__ = ("number",)

        def __init__(self) -> None:
            super().__init__()
            number = next(numbers)
            self.number = _quiet().fileno() if number < SELECT_LIMIT else number

        def fileno(self) -> int:
            return self.number

    return SocketDummy


_quiet_pair: list[socket.socket] = []


def _quiet() -> socket.socket:
    """A socket that nobody ever sends anything to."""
    if not _quiet_pair:
        _quiet_pair.extend(socket.socketpair())
    return _quiet_pair[0]
