"""The end of loans: release, forgotten connections, and disconnect.

It decides which errors interrupt a command. Methods that a finalizer or another thread
may call only schedule the work in the event loop.
"""

from __future__ import annotations

import sys
from sys import exc_info
from time import monotonic
from types import FrameType
from typing import Any

from gevent import get_hub, getcurrent
from redis.exceptions import ReadOnlyError

from geventpool.errors import ConnectionNotFoundError
from geventpool.redis.caching import Readers
from geventpool.redis.callers import was_interrupted
from geventpool.redis.connector import FRESH_SECONDS, RedisConnector, is_in_step
from geventpool.redis.credentials import Credentials
from geventpool.redis.dialling import forbid, redirect_to_null
from geventpool.redis.internals import ReleasedEvent, awaits_auth, is_fit, recorder
from geventpool.redis.loans import Special
from geventpool.redis.standin import StandIn
from geventpool.redis.telemetry import Telemetry

__all__ = ["Returns"]


#: The least seconds between two renewals because the server became a replica.
RENEWAL = 1.0


class Returns(Credentials):
    """A pool that decides by the end of a loan whether to keep the connection."""

    _connector: RedisConnector
    _special: dict[int, Special]
    _readers: Readers
    _telemetry: Telemetry
    _give_back: Any
    #: monotonic time from which connections may be renewed again because of a replica
    _renew_again = 0.0

    def _forgotten(self, conn: Any) -> None:
        # The object that kept the connection was collected, so its state is unknown.
        # The finalizer that calls this may still use it, and must not wait for the
        # server.
        forbid(conn)
        redirect_to_null(conn, self._loop)
        self._in_borrowers_thread(self._drop_if_lent, conn, True)

    def _drop_if_lent(self, conn: Any, anyone: bool) -> None:
        try:
            self.core.drop(conn, anyone=anyone)
        except ConnectionNotFoundError:
            # It was given back meanwhile, or closed with the pool.
            pass

    def release(self, connection: Any) -> None:
        """Give a connection back. Never switches.

        It can be called in hub callbacks and finalizers. A connection that is not on
        loan from this pool is ignored, as in redis-py. A connection that is closed,
        marked for a reconnect, or has an interrupted command is not kept.
        """
        try:
            if isinstance(connection, StandIn):
                connection = connection.retire()
                if connection is None:
                    return
            # The fast path of nearly every command: it ended normally, and there is
            # nothing else to examine.
            if (
                self._release_is_fast
                and not self._special
                and exc_info()[1] is None
                and is_fit(connection)
            ):
                connector = self._connector
                connector.used = connection
                connector.until = monotonic() + FRESH_SECONDS
                try:
                    self._give_back(connection)
                except ConnectionNotFoundError:
                    # Not of this pool, given back before, or lent again meanwhile.
                    pass
            else:
                self._examine(connection, sys._getframe().f_back)
        except BaseException:
            # Such as a RecursionError, after which only C code can be called, or raised
            # by a signal handler. redis-py does not try a release again.
            if self._loop is not None:
                self._loop.run_callback_threadsafe(
                    self.end_torn_loan, connection, getcurrent()
                )
            raise
        if recorder._metrics_collector is not None:
            self._telemetry.count()

    def end_torn_loan(self, connection: Any, holder: object) -> None:
        """Close the connection of *holder*, whose release was interrupted. In the hub.

        It is unknown whether its replies were read.
        """
        if isinstance(connection, StandIn):
            connection = connection.retire()
        if connection is not None:
            self.core.extension.drop_of(connection, holder)

    def _examine(self, connection: Any, caller: FrameType | None) -> None:
        """Give back a connection whose loan must be examined."""
        self._connector.forget_use(connection)
        if self._thread_pool is not None and self._thread_pool.made(connection):
            self._thread_pool.release(connection)
            return
        error = exc_info()[1]
        if isinstance(error, ReadOnlyError) and was_interrupted(error, caller, self):
            self._in_borrowers_thread(self._leave_replica)
        if error is not None and not self._interrupted(error, connection, caller):
            error = None
        self._in_borrowers_thread(self._take_back, connection, error)

    def _leave_replica(self) -> None:
        """Renew all connections, because the server is no master any more.

        The name of the master may have moved. This is done only every :data:`RENEWAL`
        seconds, because the program may also write to a replica by mistake.
        """
        now = monotonic()
        if now >= self._renew_again:
            self._renew_again = now + RENEWAL
            self.core.drain()

    def _interrupted(
        self, error: BaseException, connection: Any, caller: FrameType | None
    ) -> bool:
        """Whether *error*, which is being handled, left replies unread."""
        if is_in_step(error):
            return False
        loan = self._special.get(id(connection))
        if loan is not None and loan.kept is None:
            return loan.began_before(error)
        return was_interrupted(error, caller, self)

    def _take_back(self, connection: Any, error: BaseException | None) -> None:
        """End a loan; *error*: what interrupted it."""
        is_command = id(connection) not in self._special
        loan = self._loans.forget_loan(connection)
        anyone = loan is not None and loan.kept is None
        self._readers.give_back(connection)
        keep = is_fit(connection) and not (
            self.asks_owner and not self.owns_connection(connection)
        )
        if error is not None and keep:
            # The command failed in the program's own code, such as a callback or an
            # argument that cannot be packed. Its unread replies are read before the
            # next loan.
            keep = is_command and self._connector.may_resynchronise(error)
            if keep:
                self._connector.unsure.add(id(connection))
        if keep and self._dispatcher is not None:
            self._announce(connection)
        try:
            if keep:
                self.core.release(connection, anyone=anyone)
            else:
                self.core.report_error(error)
                self.core.drop(connection, anyone=anyone)
        except ConnectionNotFoundError:
            # It was given back meanwhile, or closed with the pool.
            pass

    def _announce(self, connection: Any) -> None:
        # A connection that must authenticate again is announced after that.
        if not awaits_auth(connection) and any(
            each is connection for each in self.core.lent_connections()
        ):
            self._dispatcher.dispatch(ReleasedEvent(connection))

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the idle connections and, by default, those in use. Never switches.

        The holder of a connection in use gets an error or, with retries, a new socket.
        The pool stays open.
        """
        if self._thread_pool is not None:
            self._thread_pool.disconnect(inuse_connections)
        self._in_borrowers_thread(self._disconnect, inuse_connections)

    def _disconnect(self, inuse_connections: bool) -> None:
        for conn in self.core.idle_connections():
            conn.disconnect()
            self.core.drop(conn)
        if inuse_connections:
            # Not dropped, because a holder that reconnects keeps its place.
            for conn in self.core.lent_connections():
                redirect_to_null(conn, self._loop or get_hub().loop)
