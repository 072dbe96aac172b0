"""What a pool tells the other processes of its budget, and gives to them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from geventpool._core.closing import Closer
from geventpool._core.leases import Leases
from geventpool._core.ledger import Entry, Ledger
from geventpool._core.opener import Opener
from geventpool._core.states import IDLE, IN_USE, CloseReason
from geventpool.budget.client import Client, Standing

__all__ = ["SeatClient"]

C = TypeVar("C")

#: A connection that was used in the last so many seconds is not given to others.
RECENT = 0.02


class SeatClient(Client, Generic[C]):
    """Answers the questions of a seat for one pool. Its methods never switch.

    :param serve: called when there may be free places.
    """

    def __init__(
        self,
        ledger: Ledger[C],
        leases: Leases,
        closer: Closer[C],
        opener: Opener[C],
        serve: Callable[[], object],
    ) -> None:
        self._ledger = ledger
        self._leases = leases
        self._closer = closer
        self._opener = opener
        self._serve = serve

    def settle(self) -> None:
        """Give up the places of connections that are closed, if any are left."""
        self._leases.settle()

    def lacking(self) -> int:
        """Return how many more places the waiters need."""
        return 0 if self._ledger.closed else self._opener.lacking()

    def serve(self) -> None:
        """Lease what is lacking: there may be free places."""
        self._serve()

    def standing(self) -> Standing:
        """Return what the pool has now."""
        ledger = self._ledger
        leaving = len(ledger.closing)
        return Standing(
            idle=len(self._unused()),
            used=ledger.in_use,
            leaving=leaving,
            promised=max(0, ledger.size - leaving - ledger.most),
        )

    def _unused(self) -> list[Entry[Any]]:
        """Return the idle connections that can be given, the longest unused first."""
        before = self._ledger.clock() - RECENT
        unused = [
            entry
            for entry in self._ledger.all_in(IDLE)
            if max(entry.used, entry.since) <= before
        ]
        return sorted(unused, key=lambda entry: max(entry.used, entry.since))

    def give_idle(self, number: int) -> int:
        """Begin to close so many that nobody uses; return how many that are."""
        given = self._unused()[:number]
        for entry in given:
            self._closer.close(entry, CloseReason.SURPLUS)
        return len(given)

    def give_used(self, number: int) -> None:
        """Close the next *number* that come back. It replaces an earlier number."""
        ledger = self._ledger
        if not number:
            ledger.most = sys.maxsize
            return
        ledger.most = ledger.size - len(ledger.closing) - number
        # Those that come back first will be closed; the others stay.
        for entry in ledger.all_in(IN_USE):
            if entry.close_reason is None:
                entry.close_reason = CloseReason.SURPLUS
