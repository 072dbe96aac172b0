"""The verbs for a Redis connection.

Knows what one connection needs; is given the pool only to ask it for new ones.
"""

from __future__ import annotations

import errno
import secrets
import weakref
from collections.abc import Iterator
from time import monotonic
from typing import Any, Protocol

from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    ResponseError,
    TimeoutError,
    WatchError,
)
from redis.retry import Retry

from geventpool.connector import Connector
from geventpool.redis.dialling import forbid
from geventpool.redis.internals import (
    awaits_auth,
    behind_cache,
    flush_cache,
    is_connected,
)
from geventpool.redis.probe import is_quiet
from geventpool.sockets import find_socket

__all__ = ["FRESH_SECONDS", "PoolHooks", "RedisConnector", "is_in_step"]

#: Seconds for which a reply proves that a connection is well. A network takes longer
#: than that to tell of anything new.
FRESH_SECONDS = 0.0001

#: The server, or this process, has no room for another connection.
SERVER_FULL = "max number of clients reached"
PROCESS_FULL = (errno.EMFILE, errno.ENFILE)


class PoolHooks(Protocol):
    """What the connector asks of the pool for redis-py."""

    def make_connection(self) -> Any:
        """A new connection, not yet connected."""

    def authenticate(self, conn: Any) -> None:
        """Authenticate *conn* anew. May switch."""

    def opening(self) -> None:
        """A connection is going to be opened."""

    def opened(self, conn: Any, seconds: float) -> None:
        """*conn* was connected; that took so long."""

    def failed(self, error: Exception) -> None:
        """An attempt to connect failed; there may be others."""

    def terminated(self, conn: Any) -> None:
        """*conn* is no more. Never switches."""


class RedisConnector(Connector[Any]):
    """How the connections of one ``ConnectionPool`` are opened, checked and closed.

    :param maker: the pool for redis-py, kept weakly.
    """

    def __init__(self, hooks: PoolHooks) -> None:
        # The core pool keeps us; we must not keep the pool that keeps the core.
        self._hooks = weakref.ref(hooks)
        #: the connection on which a command has just come to its end, its reply read
        self.used: Any = None
        #: seconds of the monotonic clock until which "just" holds
        self.until = 0.0
        #: by id: connections that may have replies to come, from a broken off command
        self.unsure: set[int] = set()

    def open(self) -> Any:
        """A connection after its handshake. May switch.

        Its own retries apply.

        :raises Exception: whatever redis-py raised.
        """
        hooks = self._hooks()
        if hooks is None:
            raise ReferenceError("the pool has been collected")
        started = monotonic()
        hooks.opening()
        conn = hooks.make_connection()
        try:
            self._connect(conn, hooks)
        except BaseException:
            # Interrupted as well: nobody else knows of the half-made connection.
            self.terminate(conn)
            raise
        hooks.opened(conn, monotonic() - started)
        return conn

    def _connect(self, conn: Any, hooks: PoolHooks) -> None:
        """Connect with the connection's own retries, of which the pool is told."""
        inner = behind_cache(conn)
        retry = getattr(inner, "retry", None)
        if not isinstance(retry, Retry):
            # A connection class of somebody's own making.
            conn.connect()
            return

        def failed(error: Exception) -> None:
            # Whose time is up before the last try is told why.
            hooks.failed(error)
            # The core knows better when to try again: connections that come back
            # serve those who wait, and make room.
            if self.is_exhausted(error):
                raise error

        inner.retry = Retry(NoBackoff(), 0)
        try:
            retry.call_with_retry(conn.connect, failed)
        finally:
            inner.retry = retry

    def close(self, conn: Any) -> None:
        # Redis needs no goodbye.
        self.terminate(conn)

    def terminate(self, conn: Any) -> None:
        """Close the socket; the process that did not open it closes its copy only."""
        flush_cache(conn)
        behind_cache(conn).disconnect()
        self.unsure.discard(id(conn))
        hooks = self._hooks()
        if hooks is not None:
            hooks.terminated(conn)
        # Code that still has it must not open a socket that the pool does not count.
        forbid(conn)

    def ping(self, conn: Any) -> None:
        """A round trip. May switch.

        :raises Exception: no answer. One that only refuses the command will do.
        """
        # Not through the cache, which has nothing to say to this.
        conn = behind_cache(conn)
        try:
            conn.send_command("PING", check_health=False)
            conn.read_response()
        except ResponseError:
            pass

    def is_usable(self, conn: Any) -> bool:
        # What was said this moment is not asked about: busy greenlets take the very
        # connection that they have just given back, and asking costs a system call.
        if conn is self.used:
            self.used = None
            if monotonic() < self.until and is_connected(conn):
                return True
        return is_quiet(conn)

    def fileno(self, conn: Any) -> int:
        sock = find_socket(behind_cache(conn))
        return -1 if sock is None else sock.fileno()

    def needs_reset(self, conn: Any) -> bool:
        if self.unsure and id(conn) in self.unsure:
            return True
        return awaits_auth(conn)

    def reset(self, conn: Any) -> None:
        """Bring *conn* into step; authenticate with credentials that came meanwhile.

        May switch.
        """
        if id(conn) in self.unsure:
            self._resynchronise(behind_cache(conn))
            self.unsure.discard(id(conn))
        hooks = self._hooks()
        if hooks is not None and awaits_auth(conn):
            hooks.authenticate(conn)

    def may_resynchronise(self, error: BaseException) -> bool:
        """May a connection that is still open after *error* be brought into step?

        Not after a kill or a lost connection. After any other error each message was
        sent and received whole: redis-py closes a connection in the middle of one.
        """
        return isinstance(error, Exception) and not self.is_disconnect(error)

    def _resynchronise(self, conn: Any) -> None:
        """Read what is unread, up to the answer to a question of our own."""
        question = secrets.token_hex(8)
        conn.send_command("PING", question, check_health=False)
        while True:
            try:
                answer = conn.read_response()
            except ResponseError:
                # The reply to the command that was broken off.
                continue
            if answer in (question, question.encode()):
                return
            if answer in ("QUEUED", b"QUEUED"):
                raise ConnectionError("a transaction was left open")

    def survives(self, error: Exception) -> bool:
        return is_in_step(error)

    def is_disconnect(self, error: BaseException) -> bool:
        """Was the connection lost, or did the server not answer in time?

        redis-py counts a wrong password as an error of the connection; the way to the
        server is not lost then.
        """
        lost = isinstance(error, (ConnectionError, TimeoutError))
        return lost and not isinstance(error, AuthenticationError)

    def is_exhausted(self, error: Exception) -> bool:
        """Did the server refuse one more client, or the system one more file?"""
        if isinstance(error, ConnectionError) and SERVER_FULL in str(error):
            return True
        return any(
            isinstance(each, OSError) and each.errno in PROCESS_FULL
            for each in _chain(error)
        )


def is_in_step(error: BaseException) -> bool:
    """Was every reply read, although *error* came out of the command?"""
    return isinstance(error, (ResponseError, WatchError))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came from: redis-py replaces errors of the system."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
