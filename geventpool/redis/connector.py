"""Opens, checks, resets and closes Redis connections.

It deals with one connection at a time, and uses the pool only to make and report
connections.
"""

from __future__ import annotations

import os
import secrets
import weakref
from functools import partial
from time import monotonic
from typing import Any, Protocol

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    ResponseError,
    TimeoutError,
    WatchError,
)
from redis.retry import Retry

from geventpool.connector import Connector, ErrorAction
from geventpool.extension import chain, lacks_descriptor
from geventpool.policies import Outage
from geventpool.redis.caching import NoCacheError
from geventpool.redis.dialling import connect_once, forbid
from geventpool.redis.endings import EndNoter
from geventpool.redis.internals import (
    awaits_auth,
    behind_cache,
    fail_readers,
    flush_cache,
    is_connected,
    watch_commands,
)
from geventpool.redis.probe import is_quiet
from geventpool.redis.retry_pauses import Hooks, RetryPauses
from geventpool.sockets import find_socket, terminate

__all__ = ["FRESH_SECONDS", "PoolHooks", "RedisConnector", "is_in_step"]

#: Seconds during which a reply proves that a connection is usable. News from the
#: network takes longer.
FRESH_SECONDS = 0.0001

#: The text by which the server refuses another client.
SERVER_FULL = "max number of clients reached"


class PoolHooks(Hooks, Protocol):
    """The interface of the pool that the connector uses."""

    def make_connection(self) -> Any:
        """Make a connection, not yet connected. Never switches."""

    def authenticate(self, conn: Any) -> None:
        """Authenticate *conn* again. May switch."""

    def opening(self) -> None:
        """Note that an attempt to open a connection begins."""

    def opened(self, conn: Any, seconds: float) -> None:
        """Note that *conn* was connected, and how many seconds that took."""

    def failed(self, error: Exception) -> None:
        """Note that an attempt to connect failed. Others may follow."""

    def terminated(self, conn: Any) -> None:
        """Note that *conn* was closed. Never switches."""

    def commands_in_flight(self) -> int:
        """How many commands are under way on shared connections. Never switches."""

    def is_shared(self, conn: Any) -> bool:
        """Whether the commands of many greenlets share *conn*. Never switches."""

    def retries_by_default(self) -> bool:
        """Whether the user has not chosen the retries. Never switches."""

    def is_probe(self) -> bool:
        """Whether the pool only tries whether the server is back. Never switches."""


class RedisConnector(Connector[Any]):
    """The :class:`~geventpool.Connector` of one ``ConnectionPool``.

    :param hooks: the pool for redis-py. Only a weak reference is kept.
    :param Outage outage: what the pool does while the server cannot be reached.
    """

    def __init__(self, hooks: PoolHooks, outage: Outage = Outage()) -> None:
        # A weak reference, because the pool refers to the core, and the core to this.
        self._hooks = weakref.ref(hooks)
        #: the connection on which a command has just ended, with its reply read
        self.used: Any = None
        #: monotonic time until which *used* needs no check
        self.until = 0.0
        #: ids of connections that may have unread replies, from an interrupted command
        self.unsure: set[int] = set()
        #: ids of connections that the server may close after its last reply
        self.ending: set[int] = set()
        #: the borrowers whose commands redis-py repeats
        self.pauses = RetryPauses(outage.backoff, _is_away, self._hooks)
        self._waits_in_outage = outage.failures is not None and (
            outage.wait or outage.grace > 0
        )
        self._was_reached = False

    def in_flight(self) -> int:
        """How many commands are under way on shared connections. Never switches."""
        hooks = self._hooks()
        return 0 if hooks is None else hooks.commands_in_flight()

    def open(self) -> Any:
        """Open a connection, with its handshake. May switch.

        The connection's own retries apply.

        :raises Exception: raised by redis-py.
        """
        hooks = self._hooks()
        if hooks is None:
            raise ReferenceError("the pool has been collected")
        started = monotonic()
        hooks.opening()
        conn = hooks.make_connection()
        # An earlier one may have had this address.
        self._forget(conn)
        self.pauses.cover(behind_cache(conn))
        watch_commands(conn, partial(EndNoter, note=partial(self.ending.add, id(conn))))
        try:
            self._connect(conn, hooks)
            self._was_reached = True
            self.pauses.reached()
            hooks.opened(conn, monotonic() - started)
        except BaseException:
            # Nothing else refers to the half-made connection, so it must be closed
            # here, also if a signal handler raises at the end.
            self.terminate(conn)
            raise
        return conn

    def _connect(self, conn: Any, hooks: PoolHooks) -> None:
        """Connect with the connection's own retries, and report each failure."""
        retry = getattr(behind_cache(conn), "retry", None)
        if not isinstance(retry, Retry):
            # A connection class that is not redis-py's.
            conn.connect()
            return

        def failed(error: Exception) -> None:
            # A waiter whose time ends before the last attempt gets this error.
            hooks.failed(error)
            # The core decides when to try again, because connections that are given
            # back serve the waiters and make room. A server that is too old stays so.
            if _means_full(error) or isinstance(error, NoCacheError):
                raise error
            if _is_away(error):
                self.pauses.failed()
                if self._leaves_retries_to_core(hooks):
                    raise error

        retry.call_with_retry(partial(connect_once, conn), failed)

    def _leaves_retries_to_core(self, hooks: PoolHooks) -> bool:
        """Whether the core tries a lost server again, and keeps its waiters.

        It tries more often than redis-py. But retries that the user has chosen may last
        longer than the grace.
        """
        if hooks.is_probe():
            return True
        return (
            self._was_reached and self._waits_in_outage and hooks.retries_by_default()
        )

    def close(self, conn: Any) -> None:
        # The protocol has no closing message.
        self.terminate(conn)

    def terminate(self, conn: Any) -> None:
        """Close the socket. A forked child closes only its copy. Never switches."""
        flush_cache(conn)
        inner = behind_cache(conn)
        sock = find_socket(inner)
        if sock is not None and inner.pid != os.getpid():  # pragma: no cover (a child)
            # redis-py's way would wake the copies of the parent's greenlets.
            terminate(sock)
        inner.disconnect()
        fail_readers(inner)
        self._forget(conn)
        self.forget_use(conn)
        hooks = self._hooks()
        if hooks is not None:
            hooks.terminated(conn)
        # Code that still refers to it must not open a socket that the pool does not
        # count.
        forbid(conn)

    def _forget(self, conn: Any) -> None:
        self.unsure.discard(id(conn))
        self.ending.discard(id(conn))

    def forget_use(self, conn: Any) -> None:
        """Do not take the last reply on *conn* for a proof any more. Never switches."""
        if conn is self.used:
            self.used = None

    def holder_died(self, conn: Any) -> bool:
        # The greenlet that opens a shared connection ends, and others use it.
        hooks = self._hooks()
        return hooks is not None and hooks.is_shared(conn)

    def ping(self, conn: Any) -> None:
        """Send a PING and wait for the reply. May switch.

        :raises Exception: no reply. An error reply counts as one.
        """
        # Not through the cache, which does not handle PING.
        conn = behind_cache(conn)
        try:
            conn.send_command("PING", check_health=False)
            conn.read_response()
        except ResponseError:
            pass

    def is_usable(self, conn: Any) -> bool:
        # A connection with a reply just now needs no check: a busy greenlet takes the
        # same connection that it has just given back, and a check costs a system call.
        if self.ending and id(conn) in self.ending:
            return False
        if conn is self.used:
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
        """Read unread replies of *conn*, and authenticate it with new credentials.

        May switch.
        """
        if id(conn) in self.unsure:
            self._resynchronise(behind_cache(conn))
            self.unsure.discard(id(conn))
        hooks = self._hooks()
        if hooks is not None and awaits_auth(conn):
            hooks.authenticate(conn)

    def may_resynchronise(self, error: BaseException) -> bool:
        """Whether the unread replies of a connection can be read after *error*.

        Not after a kill or a lost connection. After any other error each message was
        sent and received completely, because redis-py closes a connection that is in
        the middle of a message.
        """
        return isinstance(error, Exception) and not _is_lost(error)

    def _resynchronise(self, conn: Any) -> None:
        """Send a PING with a random text, and read replies until its answer."""
        question = secrets.token_hex(8)
        conn.send_command("PING", question, check_health=False)
        while True:
            try:
                answer = conn.read_response()
            except ResponseError:
                # The reply to the interrupted command.
                continue
            if answer in (question, question.encode()):
                return
            if answer in ("QUEUED", b"QUEUED"):
                raise ConnectionError("a transaction was left open")

    def classify(self, error: Exception) -> ErrorAction:
        """Return what the pool does after *error*. Never switches."""
        if is_in_step(error):
            return ErrorAction.KEEP
        if _means_full(error):
            return ErrorAction.BACK_OFF
        return ErrorAction.DISCONNECT if _is_lost(error) else ErrorAction.DISCARD


def is_in_step(error: BaseException) -> bool:
    """Whether every reply was read although the command ended with *error*."""
    return isinstance(error, (ResponseError, WatchError))


def _is_lost(error: BaseException) -> bool:
    """Whether *error* means a lost connection or a timeout of the server.

    redis-py raises a connection error for a wrong password as well, or for a server
    that is too old. This does not mean that the connection is lost.
    """
    lost = isinstance(error, (ConnectionError, TimeoutError))
    return lost and not isinstance(error, (AuthenticationError, NoCacheError))


def _is_away(error: Exception) -> bool:
    """Whether *error* means that the server cannot be reached."""
    return (
        _is_lost(error)
        and not isinstance(error, BusyLoadingError)
        and not _means_full(error)
    )


def _means_full(error: BaseException) -> bool:
    """Whether the server has no room for a client, or the system no descriptor."""
    if isinstance(error, ConnectionError) and SERVER_FULL in str(error):
        return True
    # redis-py replaces errors of the system, and does not name them as the cause.
    return any(map(lacks_descriptor, chain(error)))
