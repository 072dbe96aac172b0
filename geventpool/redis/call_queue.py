"""What a shared connection needs of the queue of its calls."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from geventpool.redis.calls import Call
from geventpool.redis.room import Room

__all__ = ["CallQueue"]


class CallQueue(Protocol):
    """Where a shared connection takes its calls from, and what it tells of them.

    The queue outlives the connection: what is not written when a connection ends is
    written to the next one.
    """

    #: the hub of the greenlets that call
    hub: Any
    #: calls of which no byte was written
    out: deque[Call]
    #: calls that were written completely or in part, in the order of their replies
    sent: deque[Call]
    #: calls whose callers the hub will switch to
    ready: list[Call]
    #: the room that unanswered calls take
    room: Room
    #: the present connection; None: none is open
    shared: Any

    def resume(self) -> None:
        """Switch to the callers in *ready*. Runs in the hub, and does not raise."""

    def wake(self, call: Call) -> None:
        """Let the hub switch to the caller, if it waits."""

    def schedule(self) -> None:
        """Let the hub write the queue in this turn of the loop."""

    def pushed(self, conn: Any, reply: Any) -> None:
        """Handle a push of the server."""

    def ended(self, shared: Any, error: BaseException | None) -> None:
        """Part with the connection, which is not watched any more. Can be repeated.

        :param error: why it was lost; None: it is quiet and not used any more.
        """
