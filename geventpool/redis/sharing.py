"""The shared connections of a pool.

It decides which callers and commands use them, and connects the queues with the pool.
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from time import monotonic
from types import FrameType
from typing import Any, Protocol

import gevent
from gevent import get_hub, getcurrent
from redis.client import NEVER_DECODE
from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,
    ResponseError,
)

from geventpool.errors import ConnectionNotFoundError, PoolClosedError, PoolError
from geventpool.fork_listeners import ForkListeners
from geventpool.pool import Pool
from geventpool.redis.autopipeline import AutoPipeline
from geventpool.redis.callers import sharing_frame, wants_raw_replies
from geventpool.redis.internals import (
    awaits_auth,
    fast_packer_of,
    handle_push,
    has_standard_methods,
    is_fit,
)
from geventpool.redis.multiplexer import UNIT, Multiplexer, place_of
from geventpool.redis.options import RedisOptions
from geventpool.redis.probe import is_quiet
from geventpool.redis.shareable import (
    SHAREABLE,
    are_shareable,
    is_shareable,
    waits_for_replicas,
)
from geventpool.redis.source import Source

__all__ = ["Sharing", "SharingPool"]

#: Stands for the hub before there is one.
_NO_HUB = object()

#: Each of this process.
_all = ForkListeners()

log = logging.getLogger("geventpool")

#: Seconds after which a shared connection is given back to the pool even if it is used,
#: so that a pending decision to close it takes effect.
RENEW_AFTER = 60.0
#: A connection may exceed ``max_lifetime`` by this fraction of it.
PART_OF_LIFETIME = 20

#: A channel without subscribers; see :meth:`Sharing.prepare`.
CHANNEL = "geventpool:wait"


class SharingPool(Protocol):
    """What shared connections need of the pool for redis-py that they belong to.

    A pool for one server, for Sentinel and for a node of a cluster answer differently.
    """

    #: lends the connections
    core: Pool[Any]
    #: the client-side cache; None: there is none, so connections can be shared
    cache: Any
    #: what makes a connection, and with which arguments
    connection_class: Any
    connection_kwargs: dict[str, Any]
    #: whether to call owns_connection()
    asks_owner: bool

    def release(self, connection: Any) -> None:
        """Take *connection* back. Never switches."""

    def own_connection(self) -> Any:
        """Return a connection on loan to this greenlet.

        May switch.
        """

    def explained(self, error: Any) -> Any:
        """Return *error* as an error that redis-py's callers expect."""

    def owns_connection(self, connection: Any) -> Any:
        """Return whether *connection* is to the right server."""

    def demoted(self, error: Exception) -> Exception:
        """Return the error that a client gets for an error reply, and react to it."""

    def counted(self) -> None:
        """Note that the number of connections in use has changed. Never switches."""


class Sharing(Source):
    """The shared connections of one pool.

    :param pool: the pool for redis-py. Only a weak reference is kept.
    :param AutoPipeline policy: what is shared, and how.
    :param RedisOptions options: those of *pool*.
    :param kind_for: returns the class of what a caller gets in place of a connection,
        or None if there can be none: it is given a connection that is like all others.
    """

    def __init__(
        self,
        pool: SharingPool,
        policy: AutoPipeline,
        options: RedisOptions,
        kind_for: Callable[[Any], type | None],
    ) -> None:
        self._kind_for = kind_for
        self._pool = weakref.ref(pool)
        # The multiplexers outlive the pool until their connections are quiet.
        self._core = pool.core
        self._asks_owner = pool.asks_owner
        self.name = pool.core.name
        self.timeout = options.timeout
        self.max_waiting = options.max_waiting
        self.renew_after = RENEW_AFTER
        if options.max_lifetime is not None:
            part = options.max_lifetime / PART_OF_LIFETIME
            self.renew_after = min(RENEW_AFTER, part)
        self._policy = policy
        self.max_size = policy.max_size
        #: bytes of a command that may take one unit of room
        self.small = min(UNIT, policy.max_size)
        self._max_in_flight = options.max_in_flight
        self._never = frozenset(name.upper() for name in policy.never_share)
        self._also = frozenset(name.upper() for name in policy.share)
        #: names of commands that may share, whatever their arguments are
        self.names = (SHAREABLE | self._also) - self._never
        #: made at first use, because an unused pool must not create a hub
        self.multiplexers: list[Multiplexer] = []
        self._only: Multiplexer | None = None
        #: of the greenlets that share; before first use, nothing that is a hub
        self._hub: Any = _NO_HUB
        #: the class of stand-ins
        self.kind: Any = None
        #: name and port of the server; None: a connection has none
        self.place: tuple[Any, Any] | None = None
        #: a connection that is never connected, for properties that all share
        self.template: Any = None
        #: packs a command of *names*, or raises TypeError because of an argument
        self.fast_pack: Callable[[Any], bytes] = self.pack
        self._is_possible: bool | None = None
        #: whether replies are decoded; before first use, they may be
        self.decodes = True
        self._pushes: deque[tuple[Any, Any]] = deque()
        #: the greenlet that handles them
        self._handling: Any = None
        _all.add(self)

    # Which callers and commands share.

    def serves(self, caller: FrameType) -> bool:
        """Return whether what *caller* sends may share a connection.

        :param caller: the caller of ``get_connection``.
        """
        frame = sharing_frame(caller)
        return frame is not None and not (self.decodes and wants_raw_replies(frame))

    def stand_in(self) -> Any:
        """Return a stand-in for the next command or pipeline of this greenlet.

        It is made here and not by a constructor, because one is made for each command:
        a call would cost as much as half of this.

        :return: None: this greenlet must get a connection.
        """
        current = getcurrent()
        # The parent of most greenlets is the hub of their thread.
        if current.parent is not self._hub and not self._may_wait(current):
            return None
        queue = self._only or self._multiplexer_of(current)
        template = self.template
        it = self.kind()
        it.queue = queue
        it.other = it.own = it.data = it.replies = it.waiter = it.error = None
        it.left = 0
        it.retry = template.retry
        it.db = template.db
        place = queue.place
        if place is not None:
            it.host, it.port = place
        return it

    def _may_wait(self, greenlet: Any) -> bool:
        """Return whether *greenlet*, which is running, can wait for a reply."""
        if self._hub is _NO_HUB and not self._start():
            return False
        # The hub cannot wait for a reply, and other threads have other event loops.
        return greenlet is not self._hub and get_hub() is self._hub

    def _multiplexer_of(self, greenlet: Any) -> Multiplexer:
        # The lowest bits of an address are always 0.
        number = (id(greenlet) >> 4) * 2654435761 >> 12
        return self.multiplexers[number % len(self.multiplexers)]

    def _start(self) -> bool:
        """Make the queues; False: this pool's connections cannot be shared."""
        pool = self._pool()
        if self._is_possible is None and pool is not None:
            self._is_possible = pool.cache is None and has_standard_methods(
                pool.connection_class
            )
        if pool is None or not self._is_possible:
            return False
        template = self.template = pool.connection_class(**pool.connection_kwargs)
        self.kind = self._kind_for(template)
        if self.kind is None or not has_standard_methods(template):
            self._is_possible = False
            return False
        self.decodes = template.encoder.decode_responses
        self.fast_pack = fast_packer_of(template) or self.pack
        self.place = place_of(template)
        hub = get_hub()
        self.multiplexers = [
            Multiplexer(self, self._max_in_flight, hub)
            for _ in range(self._policy.connections)
        ]
        if len(self.multiplexers) == 1:
            self._only = self.multiplexers[0]
        self._hub = hub
        return True

    def allows(self, args: Sequence[Any]) -> bool:
        """Return whether a command may go over a shared connection."""
        name = args[0]
        if isinstance(name, bytes):
            name = name.decode("latin-1")
        words = name.upper().split() if isinstance(name, str) else []
        if not words or words[0] in self._never:
            return False
        return words[0] in self._also or is_shareable(args)

    def shares(self, args: Sequence[Any], options: dict[str, Any]) -> bool:
        """Return whether a command may go over a shared connection.

        :param options: redis-py's for this command.
        """
        # Replies of a shared connection are decoded.
        return not (self.decodes and NEVER_DECODE in options) and self.allows(args)

    def fits(self, commands: Sequence[Sequence[Any]]) -> bool:
        """Return whether a pipeline may go over a shared connection."""
        if self._never or self._also:
            if tuple(commands[:1]) == (("MULTI",),):
                commands = commands[1:-1]
            return bool(commands) and all(self.allows(each) for each in commands)
        return are_shareable(commands)

    def has_room_for(self, packed: Sequence[bytes], count: int) -> bool:
        """Return whether a pipeline is small enough for a shared connection."""
        size = sum(map(len, packed))
        units = max(count, -(-size // UNIT))
        return size <= self.max_size and units <= self._max_in_flight

    def pack(self, args: Sequence[Any]) -> bytes:
        """Return the bytes of a command, as redis-py packs it.

        :raises redis.DataError: an argument is of a type that cannot be sent.
        """
        return b"".join(self.template.pack_command(*args))

    # The interface for a stand-in.

    def own_connection(self, multiplexer: Multiplexer, args: Sequence[Any]) -> Any:
        """Return a connection on loan to this greenlet.

        May switch. ``WAIT`` waits until replicas have the writes of its own connection.
        The writes of this greenlet went over the shared connection, so it gets that
        one.

        :param args: the command that needs it; empty: not known.
        """
        if args and waits_for_replicas(args):
            conn = multiplexer.take()
            # It may have been closed before this greenlet ran again.
            if conn is not None and self._core.extension.is_lent(conn):
                return conn
        pool = self._pool()
        if pool is None:
            raise ReferenceError("the pool has been collected")
        return pool.own_connection()

    def prepare(self, conn: Any, args: Sequence[Any]) -> None:
        """Make *args* have the same result on *conn* as on the shared connection.

        May switch. ``WAIT`` needs a write on its own connection. A published message is
        replicated like a write, after the earlier writes. (Not in a cluster.)
        """
        if args and waits_for_replicas(args):
            conn.send_command("PUBLISH", CHANNEL, "")
            try:
                conn.read_response()
            except ResponseError:
                # The user must not publish.
                pass

    def error_of(self, error: Exception, multiplexer: Multiplexer) -> Exception:
        """Return the exception that the caller gets for an error reply."""
        pool = self._pool()
        if pool is not None:
            error = pool.demoted(error)
        if isinstance(error, ConnectionError) and not isinstance(
            error, BusyLoadingError
        ):
            # Other calls would get the same error on this connection.
            multiplexer.renew(spoiled=True)
        return error

    # The interface for a multiplexer: Source.

    def acquire(self, timeout: float | None) -> Any:
        """Return a connection on loan, with nothing to read.

        May switch. If the calling greenlet ends and the connection is not shared then,
        the pool closes it; see :meth:`has`.
        """
        started = monotonic()
        conn = self._acquire(timeout)
        if conn is None:
            # The server has closed it since the last reply, as after QUIT.
            passed = monotonic() - started
            conn = self._acquire(
                None if timeout is None else max(0.0, timeout - passed)
            )
        if conn is None:
            raise ConnectionError("The new connection sent something, or was closed.")
        return conn

    def _acquire(self, timeout: float | None) -> Any:
        """Return a connection on loan; None: it has something to read, and was closed.

        May switch.
        """
        core = self._core
        conn = core.acquire(None, timeout)
        try:
            # As redis-py does: only if health_check_interval has passed.
            conn.check_health()
            if is_quiet(conn):
                pool = self._pool()
                if pool is not None:
                    pool.counted()
                return conn
        except BaseException:
            core.drop(conn, anyone=True)
            raise
        core.drop(conn, anyone=True)
        return None

    def waiting_for(self, other: Callable[[], Any]) -> AbstractContextManager[None]:
        """Note that this greenlet waits until the greenlet *other* has a connection."""
        return self._core.extension.waiting_for(other)

    def waits_in_vain(self, greenlet: Any) -> bool:
        """Return whether *greenlet* waits for what will not come. Never switches."""
        return self._core.extension.waits_in_vain(greenlet)

    def give_back(self, conn: Any) -> None:
        """Give back a connection that is in step and not used any more.

        Never switches.
        """
        pool = self._pool()
        if conn.health_check_interval:
            conn.next_health_check = monotonic() + conn.health_check_interval
        if pool is not None:
            pool.release(conn)
        else:
            self.drop(conn, None)

    def drop(self, conn: Any, error: BaseException | None) -> None:
        """Close a connection; *error*: why it has ended. Never switches."""
        core = self._core
        core.report_error(error)
        try:
            core.drop(conn, anyone=True)
        except ConnectionNotFoundError:
            # The core pool has already closed it.
            pass

    def hand_over(self, conn: Any, greenlet: Any) -> bool:
        """Make *greenlet* the holder of the loan; False: the connection was closed."""
        try:
            self._core.transfer(conn, greenlet)
            return True
        except ConnectionNotFoundError:
            return False

    def end_torn(self, conn: Any, holder: object) -> None:
        """Close a connection, if *holder* still has it on loan. Never switches."""
        self._core.extension.drop_of(conn, holder)

    def is_current(self, conn: Any) -> bool:
        """Return whether *conn* may still be used. Never switches."""
        if not is_fit(conn) or awaits_auth(conn) or self._core.closed:
            return False
        if not self._asks_owner:
            return True
        pool = self._pool()
        return pool is None or bool(pool.owns_connection(conn))

    def explained(self, error: BaseException) -> BaseException:
        """Return *error* as an error that redis-py's callers expect."""
        pool = self._pool()
        if pool is None or not isinstance(error, (PoolError, OSError)):
            return error
        translated: BaseException = pool.explained(error)
        return translated

    def pushed(self, conn: Any, reply: Any) -> None:
        """Handle a push of the server, in a greenlet. Never switches.

        redis-py's handlers take locks and start threads, so they cannot run in the hub.
        """
        self._pushes.append((conn, reply))
        if self._handling is None or self._handling.dead:
            self._handling = gevent.spawn(self._handle_pushes)

    def _handle_pushes(self) -> None:
        pushes = self._pushes
        while pushes:
            conn, reply = pushes[0]
            try:
                handle_push(conn, reply)
            except Exception:
                log.exception("a handler of redis-py failed with %r", reply)
            finally:
                pushes.popleft()

    # All connections.

    def check_places(self, max_connections: int) -> None:
        """Refuse a pool that has no place for a command that needs its own connection.

        :raises ValueError: *max_connections* is too small.
        """
        self._policy.check_places(max_connections)

    def set_retry(self, retry: Any) -> None:
        """Use *retry* for later commands."""
        if self.template is not None:
            self.template.retry = retry

    def renew(self) -> None:
        """Give the connections back when all calls are answered. Never switches."""
        for each in self.multiplexers:
            each.renew()

    def close(self) -> None:
        """Send nothing more. Written calls are still answered. Never switches."""
        ended, closed = (
            self.explained(PoolClosedError(f"Pool {self.name!r} {what}"))
            for what in ("was closed while you waited", "is closed")
        )
        for each in self.multiplexers:
            each.close(ended, closed)

    def has(self, conn: Any) -> bool:
        """Whether *conn* is shared at present. Never switches."""
        for each in self.multiplexers:
            if each.shared is not None and each.shared.conn is conn:
                return True
        return False

    def in_flight(self) -> int:
        """Return how many units of the room for calls are taken."""
        return sum(each.room.size - each.room.free for each in self.multiplexers)

    def forked(self) -> None:
        """Set the initial state in a forked child."""
        self._pushes.clear()
        self._handling = None
        for each in self.multiplexers:
            each.forget()
