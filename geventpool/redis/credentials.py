"""What changes for all connections of a pool at once: credentials and retries.

Knows redis-py's tokens; asks the core pool for its connections.
"""

from __future__ import annotations

import copy
from typing import Any

from redis.retry import Retry

from geventpool.errors import PoolExhaustedError
from geventpool.redis.internals import ReleasedEvent
from geventpool.redis.loans import Loans
from geventpool.redis.sharing import Sharing
from geventpool.redis.unpatched import Unpatched

__all__ = ["Credentials"]


class Credentials(Unpatched):
    """A pool whose credentials may change while connections are in use."""

    #: redis-py tells it of releases, beside its own re-authentication
    _dispatcher: Any
    #: what commands share; None: each takes a connection of its own
    _sharing: Sharing | None
    _loans: Loans
    _retries_by_default: bool

    def _check_places(self, number: int) -> None:
        if self._sharing is not None:
            self._sharing.check_places(number)

    def set_retry(self, retry: Retry) -> None:
        """Use *retry* for all connections, the present ones and those to come."""
        self.connection_kwargs.update({"retry": retry})
        self._retries_by_default = False
        for loan in self._loans.special.values():
            loan.forget_retries()
        for conn in (*self._available_connections, *self._in_use_connections):
            # A copy each, as redis-py makes one for each new connection.
            conn.retry = copy.deepcopy(retry)
        if self._sharing is not None:
            self._sharing.set_retry(retry)

    def re_auth_callback(self, token: Any) -> None:
        """Authenticate all connections with *token*: idle ones now.

        May switch. Those in use follow when they are given back, before anybody else
        gets them.

        :raises redis.RedisError: the server refused; the idle connections are closed.
        """
        if self._stock is not None:
            self._stock.re_auth_callback(token)
        for conn in self.core.lent_connections():
            conn.set_re_auth_token(token)
        mine = self._take_idle()
        try:
            while mine:
                mine[-1].set_re_auth_token(token)
                mine[-1].re_auth()
                self.core.release(mine.pop())
        finally:
            # Refused, or killed: what is left knows an old token or half a new one.
            for conn in mine:
                self.core.drop(conn)

    def _take_idle(self) -> list[Any]:
        """All idle connections, on loan to the caller; those to come have the token."""
        mine: list[Any] = []
        try:
            for _ in self.core.idle_connections():
                mine.append(self.core.acquire(timeout=0))
        except PoolExhaustedError:
            # Some were found unusable.
            pass
        return mine

    def authenticate(self, conn: Any) -> None:
        """Give *conn* the token that came while it was lent.

        May switch. Called in a greenlet of the core pool, while nobody else can get
        it.
        """
        if self._dispatcher is not None:
            self._dispatcher.dispatch(ReleasedEvent(conn))
        conn.re_auth()
