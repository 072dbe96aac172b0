"""Servers that are stopped and started, and the pools that connect to each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import gevent
from gevent import socket

from benchmarks.adapters import AT_SERVERS, PoolAdapter
from benchmarks.adapters.base import CONNECTIONS as LIMIT
from benchmarks.clients import Account

#: What each kind of server replies to. MariaDB greets without it.
QUESTIONS = {"redis": b"PING\r\n", "mysql": b"", "echo": b"\n"}

#: Seconds between two looks at a server that is being started.
LOOK_EVERY = 0.001

#: The looks at a server are not counted as dials of a pool.
CONNECT = socket.socket.connect

#: Seconds that a pool has at most to recover after the return of its server.
RECOVERY = 10.0


@dataclass(frozen=True)
class Outage:
    """One outage of a server, and when its clients had replies again.

    :ivar down, up: when it was told to stop, and when it replied first to anybody.
    :ivar first_reply: seconds from *up* to its first reply to a client.
    :ivar back: seconds from *up* until each client that waited then had its reply.
    """

    down: float
    up: float
    first_reply: float
    back: float


@dataclass(frozen=True)
class Server:
    """One running server.

    :ivar name: in the tables.
    :ivar kind: in :data:`benchmarks.adapters.AT_SERVERS`.
    :ivar options: where it is, for its driver.
    :ivar count: how many connections it has now.
    :ivar stop, start: of the server, at the same address.
    :ivar close: ends it.
    """

    name: str
    kind: str
    options: dict[str, Any]
    count: Callable[[], int]
    stop: Callable[[], object]
    start: Callable[[], object]
    close: Callable[[], object]

    def pool(self, name: str, **options: Any) -> PoolAdapter:
        """Build the pool of that name, with its defaults but for *options*."""
        return AT_SERVERS[self.kind][name](LIMIT, **self.options, **options)

    def sockets(self) -> int | None:
        """Return the number of connections; None while the server is down.

        A socket whose other end was just closed is counted until the server has read
        the end. So a number above the limit counts only if it lasts. May switch.
        """
        try:
            count = self.count()
            for _ in range(3):
                if count <= LIMIT:
                    break
                gevent.sleep(0.01)
                count = min(count, self.count())
        except Exception:
            return None
        return count

    def outage(self, seconds: float, account: Account) -> Outage:
        """Stop it for so many seconds, and wait for its clients. May switch."""
        down = time.monotonic()
        self.stop()
        gevent.sleep(max(0.0, down + seconds - time.monotonic()))
        answered, up = account.answered, self.start_again()
        pending, waiting = account.pending, set(account.pending.items())
        with gevent.Timeout(RECOVERY, False):
            while account.answered == answered or waiting & set(pending.items()):
                gevent.sleep(0.002)
        replied = [*account.answered_at[answered : answered + 1], up + RECOVERY]
        # A client may have had its reply before this greenlet was told.
        return Outage(down, up, max(0.0, replied[0] - up), time.monotonic() - up)

    def start_again(self) -> float:
        """Start it, and return when it replied first. May switch.

        ``start`` looks at intervals and returns later, by a time that depends on how
        busy this process is.

        :raises Exception: it could not be started.
        """
        starting = gevent.spawn(self._start)
        while starting.value is None and not self._replies():
            gevent.sleep(LOOK_EVERY)
        up = time.monotonic()
        if (error := starting.get()) is not None:
            raise error
        return up

    def _start(self) -> Exception | None:
        # The caller raises the error; the event loop need not print it.
        try:
            self.start()
        except Exception as error:
            return error
        return None

    def _replies(self) -> bool:
        # It may accept connections some time before it replies.
        with socket.socket() as sock:
            sock.settimeout(1.0)
            try:
                CONNECT(sock, (self.options["host"], self.options["port"]))
                sock.sendall(QUESTIONS[self.kind])
                return bool(sock.recv(1))
            except OSError:
                return False


def real_server(name: str) -> Server:
    """Start a redis-server or a MariaDB. May switch."""
    servers = import_module("tests.servers")
    kind = {"redis": servers.RedisServer, "mysql": servers.MariaDBServer}[name]
    server = kind().__enter__()
    options = server.client_options | ({"autocommit": True} if name == "mysql" else {})
    # The kernel's table of sockets is read in 20 to 70 ms, in which no client runs.
    count = server.connected_clients if name == "redis" else server.connections
    return Server(name, name, options, count, server.stop, server.start, server.close)


def echo_server(name: str) -> Server:
    """Start an echo server in this process, where *name* is not available."""
    server = import_module("tests.peers").Echo().__enter__()
    verbs = (lambda: int(server.open), server.stop, server.__enter__, server.stop)
    return Server(f"{name} (echo)", "echo", server.options, *verbs)
