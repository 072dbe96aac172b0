"""How connections come back: released, forgotten, or closed under their holders.

Knows by which errors a command is broken off. Whatever a finaliser or another thread
may call only notes, and has the work done in the event loop.
"""

from __future__ import annotations

import sys
from sys import exc_info
from time import monotonic
from types import FrameType
from typing import Any

from gevent import get_hub
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


#: Seconds between two renewals because a server turned out to be a replica.
RENEWAL = 1.0


class Returns(Credentials):
    """A pool that looks at how a loan ended before it lends the connection again."""

    _connector: RedisConnector
    _special: dict[int, Special]
    _readers: Readers
    _telemetry: Telemetry
    _give_back: Any
    #: when the connections may be renewed again because of a replica
    _renew_again = 0.0

    def _forgotten(self, conn: Any) -> None:
        # The object that kept it has ended, so its state is unknown. The finaliser that
        # calls this may go on to use it, and must not wait for the server then.
        forbid(conn)
        redirect_to_null(conn, self._loop)
        self._at_home(self._part, conn, True)

    def _part(self, conn: Any, anyone: bool) -> None:
        try:
            self.core.drop(conn, anyone=anyone)
        except ConnectionNotFoundError:
            # Given back meanwhile, or closed with the pool.
            pass

    def release(self, connection: Any) -> None:
        """Give a connection back.

        Never switches; works in hub callbacks and finalisers. A connection that is
        not on loan from this pool is ignored, as redis-py ignores it. One that is
        closed, marked for reconnection, or whose command was broken off is not kept.
        """
        if type(connection) is StandIn:
            connection = connection.retire()
            if connection is None:
                return
        # The way of nearly every command: it came to its end, and nobody else cares.
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
                # Never ours, given back before, or on to the next one meanwhile.
                pass
        else:
            self._examine(connection, sys._getframe().f_back)
        if recorder._metrics_collector is not None:
            self._telemetry.count()

    def _examine(self, connection: Any, caller: FrameType | None) -> None:
        """Give back a connection about which there may be something to know."""
        if self._stock is not None and self._stock.made(connection):
            self._stock.release(connection)
            return
        error = exc_info()[1]
        if isinstance(error, ReadOnlyError) and was_interrupted(error, caller, self):
            self._at_home(self._leave_replica)
        if error is not None and not self._broke_off(error, connection, caller):
            error = None
        self._at_home(self._take_back, connection, error)

    def _leave_replica(self) -> None:
        """Renew all connections: the server is no master, and its name may have moved.

        Once in a while, because it may also be a replica that a program writes to.
        """
        now = monotonic()
        if now >= self._renew_again:
            self._renew_again = now + RENEWAL
            self.core.drain()

    def _broke_off(
        self, error: BaseException, connection: Any, caller: FrameType | None
    ) -> bool:
        """Did *error*, which is being handled, leave replies unread?"""
        if is_in_step(error):
            return False
        loan = self._special.get(id(connection))
        if loan is not None and loan.kept is None:
            return loan.began_before(error)
        return was_interrupted(error, caller, self)

    def _take_back(self, connection: Any, error: BaseException | None) -> None:
        """End a loan that *error* broke off, if there was one."""
        is_command = id(connection) not in self._special
        loan = self._loans.forget_loan(connection)
        anyone = loan is not None and loan.kept is None
        self._readers.give_back(connection)
        keep = is_fit(connection) and not (
            self.asks_owner and not self.owns_connection(connection)
        )
        if error is not None and keep:
            # A command that failed in the program's own code, an argument that can't
            # be packed or a callback: the connection is brought into step again.
            keep = is_command and self._connector.may_resynchronise(error)
            if keep:
                self._connector.unsure.add(id(connection))
        if keep and self._dispatcher is not None:
            self._announce(connection)
        try:
            if keep:
                self.core.release(connection, anyone=anyone)
            else:
                if error is not None and self._connector.is_disconnect(error):
                    self.core.revalidate()
                self.core.drop(connection, anyone=anyone)
        except ConnectionNotFoundError:
            # As above.
            pass

    def _announce(self, connection: Any) -> None:
        # One that must authenticate anew is announced when it does: see below.
        if not awaits_auth(connection) and any(
            each is connection for each in self.core.lent_connections()
        ):
            self._dispatcher.dispatch(ReleasedEvent(connection))

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the idle connections and, unless told otherwise, those in use.

        The holder of one in use gets an error or, with retries, a new socket. The
        pool stays open. Never switches.
        """
        if "core" not in self.__dict__:
            # An initial connection has found out where the master is.
            return
        if self._stock is not None:
            self._stock.disconnect(inuse_connections)
        self._at_home(self._disconnect, inuse_connections)

    def _disconnect(self, inuse_connections: bool) -> None:
        for conn in self.core.idle_connections():
            conn.disconnect()
            self.core.drop(conn)
        if inuse_connections:
            # Not dropped: a holder that connects again still has its place.
            for conn in self.core.lent_connections():
                redirect_to_null(conn, self._loop or get_hub().loop)
