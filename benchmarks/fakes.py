"""Fake connections that cost nothing.

They answer to what each pool asks of its connections with the least work possible, so
that the pool is what is measured. What only one pool asks for is in a class of its own.
"""

from __future__ import annotations

import atexit
import itertools
import os
import socket
from functools import cache
from types import SimpleNamespace
from typing import Any, ClassVar

from geventpool import Connector

#: ``select`` accepts no descriptor from this number on. Some pools use it.
SELECT_LIMIT = 1024


class Fake:
    """A connection that is always healthy and never transfers anything.

    :cvar dialled: how many have been made.
    """

    __slots__ = ("__weakref__", "pid")

    dialled: ClassVar[int] = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        self.pid = os.getpid()
        Fake.dialled += 1

    def connect(self, *args: Any) -> None:
        """Do nothing."""

    commit = rollback = cursor = re_auth = disconnect = open = close = connect

    def should_reconnect(self, timeout: float = 0) -> bool:
        """Return False."""
        return False

    can_read = is_expired = should_reconnect

    def is_connected(self) -> bool:
        """Return True."""
        return True


class FakeConnector(Connector[Fake]):
    """The connector of our pool; everything else is the default."""

    def open(self) -> Fake:
        """Return a new fake."""
        return Fake()

    def close(self, conn: Fake) -> None:
        """Do nothing."""


class FakeDbApi:
    """As much of a DB-API module as PooledDB asks for."""

    threadsafety = 1
    OperationalError = InterfaceError = InternalError = OSError
    connect = Fake


class MySQLFake(Fake):
    """What pymysql-pool asks of the connections of PyMySQL."""

    __slots__ = ("_create_ts", "_pool", "_returned")

    cursor = get_autocommit = lambda self: self
    autocommit = _force_close = Fake.connect


class PostgresFake(Fake):
    """What psycopg_pool asks of the connections of psycopg."""

    __slots__ = ("_created_at", "_expire_at", "_pool")

    #: In the state that libpq calls idle.
    pgconn = SimpleNamespace(transaction_status=0)

    @classmethod
    def connect(cls, conninfo: str = "", **options: Any) -> Fake:  # type: ignore
        """Return a new one."""
        return cls()


class SocketFake(Fake):
    """What geventhttpclient asks of a socket: a descriptor without input.

    All share one descriptor. Fakes whose real descriptor would be too large for
    ``select`` get such a number here too.

    :param numbers: of the fakes of one pool.
    """

    __slots__ = ("number",)

    def __init__(self, numbers: itertools.count[int]) -> None:
        super().__init__()
        number = next(numbers)
        self.number = silent().fileno() if number < SELECT_LIMIT else number

    def fileno(self) -> int:
        """Return the descriptor."""
        return self.number


@cache
def _pair() -> tuple[socket.socket, socket.socket]:
    pair = socket.socketpair()
    for each in pair:
        # Used until the process ends, where Python warns of an open socket.
        atexit.register(each.close)
    return pair


def silent() -> socket.socket:
    """Return a socket to which nothing is ever sent."""
    return _pair()[0]
