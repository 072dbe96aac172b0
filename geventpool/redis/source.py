"""What the queue of calls for a shared connection needs of the pool."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from geventpool.redis.parting import Lender

__all__ = ["Source"]


class Source(Lender, Protocol):
    """Where a multiplexer gets its connections from, and gives them back.

    It knows the pool and redis-py's errors; a multiplexer knows neither.
    """

    #: the pool's, for messages
    name: str
    #: name and port of the server; None: connections have none
    place: tuple[Any, Any] | None
    #: the most seconds that a caller waits; None: no limit
    timeout: float | None
    #: how many callers may wait for room; None: no limit
    max_waiting: int | None
    #: seconds after which a connection is given back in any case
    renew_after: float

    def acquire(self, timeout: float | None) -> Any:
        """Return a connection on loan.

        May switch.
        """

    def waiting_for(self, other: Callable[[], Any]) -> AbstractContextManager[None]:
        """Note that this greenlet waits until the greenlet *other* has a connection."""

    def waits_in_vain(self, greenlet: Any) -> bool:
        """Return whether *greenlet* waits for what will not come. Never switches."""

    def is_current(self, conn: Any) -> bool:
        """Return whether *conn* may still be used. Never switches."""

    def explained(self, error: BaseException) -> BaseException:
        """Return *error* as an error that redis-py's callers expect."""

    def pushed(self, conn: Any, reply: Any) -> None:
        """Handle a push of the server. Never switches."""
