"""Changes of the credentials and retries of all connections of a pool."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any

from redis.retry import Retry

from geventpool.errors import ConnectionNotFoundError, PoolExhaustedError
from geventpool.redis.connector import RedisConnector
from geventpool.redis.internals import ReleasedEvent
from geventpool.redis.loans import Loans
from geventpool.redis.sharing import Sharing
from geventpool.redis.unpatched import Unpatched

__all__ = ["Credentials"]


class Credentials(Unpatched):
    """A pool whose credentials may change while connections are in use."""

    #: redis-py's dispatcher of events, for releases
    _dispatcher: Any
    #: the shared connections; None: each command takes a connection of its own
    _sharing: Sharing | None
    _loans: Loans
    _retries_by_default: bool
    _connector: RedisConnector

    def _check_places(self, number: int) -> None:
        if self._sharing is not None:
            self._sharing.check_places(number)

    def set_retry(self, retry: Retry) -> None:
        """Use *retry* for all connections, present and future. Never switches."""
        self.connection_kwargs.update({"retry": retry})
        self._retries_by_default = False
        for loan in self._loans.special.values():
            loan.forget_retries()
        for conn in (*self._available_connections, *self._in_use_connections):
            # A copy for each, as redis-py makes one for each new connection.
            conn.retry = copy.deepcopy(retry)
            self._connector.pauses.cover(conn)
        if self._sharing is not None:
            self._sharing.set_retry(retry)

    def re_auth_callback(self, token: Any) -> None:
        """Authenticate all connections with *token*. May switch.

        Idle connections are authenticated now, and those on loan before their next
        loan.

        :raises redis.RedisError: the server refused. The idle connections are closed.
        """
        if self._thread_pool is not None:
            self._thread_pool.re_auth_callback(token)
        for conn in self.core.lent_connections():
            conn.set_re_auth_token(token)
        mine = self._take_idle()
        try:
            while mine:
                mine[-1].set_re_auth_token(token)
                mine[-1].re_auth()
                conn = mine.pop()
                # The pool may have been closed while the server answered.
                with suppress(ConnectionNotFoundError):
                    self.core.release(conn)
        finally:
            # Refused or interrupted: the remaining connections have the old token, or
            # an unfinished command.
            for conn in mine:
                with suppress(ConnectionNotFoundError):
                    self.core.drop(conn)

    def _take_idle(self) -> list[Any]:
        """Borrow all idle connections. New connections have the token already."""
        mine: list[Any] = []
        try:
            for _ in self.core.idle_connections():
                mine.append(self.core.acquire(timeout=0))
        except PoolExhaustedError:
            # Some were not usable, and were closed.
            pass
        return mine

    def authenticate(self, conn: Any) -> None:
        """Authenticate *conn* with the token that came during its loan. May switch.

        Called in a greenlet of the core pool, while the connection cannot be borrowed.
        """
        if self._dispatcher is not None:
            self._dispatcher.dispatch(ReleasedEvent(conn))
        conn.re_auth()
