"""The places that one pool has leased from a budget, and what it gives to others.

Each place of the pool is leased before its connection is opened and given back after
its descriptor is closed. Nothing here switches.
"""

from __future__ import annotations

import logging
import os
import sys
import weakref
from dataclasses import replace
from typing import Any, Generic, Protocol, TypeVar

from geventpool._core.ledger import IDLE, IN_USE, CloseReason, Entry, Ledger
from geventpool.budget import Budget, BudgetShare, BudgetStats
from geventpool.budget.seat import Seat, Standing
from geventpool.budget.table import parts_in
from geventpool.errors import BudgetError

__all__ = ["Leases"]

C = TypeVar("C")

log = logging.getLogger("geventpool")

#: A connection that was used in the last so many seconds is not given to others.
RECENT = 0.02


class Home(Protocol[C]):
    """What this asks of the pool."""

    ledger: Ledger[C]

    def serve(self) -> None: ...
    def lacking(self) -> int: ...
    def close_entry(self, entry: Entry[C], reason: CloseReason) -> None: ...


class Leases(Generic[C]):
    """The leases of one pool.

    :param name: the pool's.
    :param home: the pool's connections.
    """

    def __init__(self, budget: Budget, name: str, home: Home[C]) -> None:
        self.budget = budget
        self._name = name
        self._home = home
        self._ledger = home.ledger
        #: None: no place was leased yet
        self._seat: Seat | None = None
        #: with more connections than this, those that come back are closed
        self.most = sys.maxsize
        self._ledger.on_closed = self.settle

    def lease(self, wish: bool) -> bool:
        """Lease a place for a connection that is to be opened.

        :param wish: if there is none, have others give one and call ``serve`` then.
        :raises BudgetError: the file of the budget cannot be used.
        """
        seat = self._seat
        if seat is None:
            seat = self.budget.seat(self._name)
            try:
                seat.join(self)
            except BaseException:
                # Such as a RecursionError.
                seat.close()
                raise
            self._seat = seat
        if self._ledger.unreturned:
            self.settle()
        return seat.lease(wish)

    def settle(self) -> None:
        """Give up the places that the ledger counts as unreturned.

        If this fails, they are given up soon.
        """
        ledger, seat = self._ledger, self._seat
        if seat is not None:
            # There is no call between these lines, so no place is counted twice.
            seat.ready += ledger.unreturned
            ledger.unreturned = 0
            try:
                seat.give_ready()
            except BaseException:
                # Such as a RecursionError. In the hub the stack is nearly empty.
                seat.loop.run_callback(seat.give_ready)
                raise
        ledger.unreturned = 0

    def give_back_soon(self) -> None:
        """Give up a place in a turn of the event loop of its own."""
        if self._seat is not None:
            self._seat.give_back_soon()

    def leave_to(self, conn: Any) -> weakref.finalize[..., Any] | None:
        """Give up a place when *conn* is collected: its pool knows it no more.

        :return: what does that; None: nothing does.
        """
        seat = self._seat
        if seat is None:
            return None
        try:
            finalizer = weakref.finalize(conn, seat.give_back_soon)
        except TypeError:
            log.debug("%r keeps its place until the process ends", conn)
            return None
        finalizer.atexit = False
        return finalizer

    def forget(self) -> None:
        """Give up all places at once: their connections are gone."""
        if self._seat is not None:
            self._seat.close(forked=os.getpid() != self._seat.pid)

    # What the seat asks.

    def lacking(self) -> int:
        return 0 if self._ledger.closed else self._home.lacking()

    def serve(self) -> None:
        self._home.serve()

    def standing(self) -> Standing:
        ledger = self._ledger
        leaving = len(ledger.closing)
        return Standing(
            idle=len(self._unused()),
            used=ledger.in_use,
            leaving=leaving,
            promised=max(0, ledger.size - leaving - self.most),
        )

    def _unused(self) -> list[Entry[C]]:
        """The idle connections that can be given, the one unused for longest first."""
        before = self._ledger.clock() - RECENT
        unused = [
            entry
            for entry in self._ledger.all_in(IDLE)
            if max(entry.used, entry.since) <= before
        ]
        return sorted(unused, key=lambda entry: max(entry.used, entry.since))

    def give_idle(self, number: int) -> int:
        given = self._unused()[:number]
        for entry in given:
            self._home.close_entry(entry, CloseReason.SURPLUS)
        return len(given)

    def give_used(self, number: int) -> None:
        ledger = self._ledger
        if not number:
            self.most = sys.maxsize
            return
        self.most = ledger.size - len(ledger.closing) - number
        # Those that come back first will be closed; the others stay.
        for entry in ledger.all_in(IN_USE):
            if entry.close_reason is None:
                entry.close_reason = CloseReason.SURPLUS

    # What is shown.

    def stats(self) -> BudgetStats | None:
        """How the budget stands; None: its file cannot be used."""
        try:
            stats = self.budget.stats()
        except BudgetError:
            return None
        return replace(stats, own=self._own())

    def _own(self) -> BudgetShare | None:
        seat = self._seat
        if seat is None:
            return None
        held, lacking = len(seat.table.held), self.lacking()
        return BudgetShare(
            seat.pid, self._name, held, lacking, seat.moved, seat.recovered
        )

    def moves(self) -> tuple[int, int]:
        """How many places were given to others, and taken over from the dead."""
        seat = self._seat
        return (0, 0) if seat is None else (seat.moved, seat.recovered)

    def holders(self) -> object:
        """Who holds the places at this moment, as text if it is converted to text."""
        data = b"" if self._seat is None else self._seat.table.raw()
        return _Holders(self.budget.name, data)


class _Holders:
    """Reads the rows only if the text is wanted."""

    def __init__(self, name: str, data: bytes) -> None:
        self._name = name
        self._data = data

    def __str__(self) -> str:
        parts = [part for part in parts_in(self._data) if part.held]
        parts.sort(key=lambda part: -part.held)
        taken = sum(part.held for part in parts)
        text = ", ".join(
            f"{part.held} by process {part.pid} ({part.name})" for part in parts[:8]
        )
        return f"{taken} places of budget {self._name!r} are taken: {text}"
