"""What a budget asks of a pool: the interface that a pool implements to take part."""

from __future__ import annotations

from typing import NamedTuple, Protocol

__all__ = ["Client", "Standing"]


class Standing(NamedTuple):
    """What a client has at a moment.

    :param idle: connections that nobody uses and that could be given.
    :param used: connections in use.
    :param leaving: connections that are being closed.
    :param promised: those in use that will be given when they come back.
    """

    idle: int
    used: int
    leaving: int
    promised: int


class Client(Protocol):
    """What a seat asks of a pool. None of this switches."""

    def settle(self) -> None:
        """Give up the places of connections that are closed, if any are left."""

    def lacking(self) -> int:
        """How many more places its waiters need."""

    def serve(self) -> None:
        """Lease what is lacking: there may be free places."""

    def standing(self) -> Standing:
        """What it has now."""

    def give_idle(self, number: int) -> int:
        """Begin to close so many that nobody uses; return how many that are."""

    def give_used(self, number: int) -> None:
        """Close the next *number* that come back. It replaces an earlier number."""
