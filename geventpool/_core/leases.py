"""The places that one pool has leased from a budget.

Each place of the pool is leased before its connection is opened and given back after
its descriptor is closed. Nothing here switches.
"""

from __future__ import annotations

import logging
import os
import weakref
from dataclasses import replace
from typing import Any

from geventpool._core.ledger import Ledger
from geventpool.budget import Budget, BudgetShare, BudgetStats
from geventpool.budget.client import Client
from geventpool.budget.seat import Seat
from geventpool.budget.table import parts_in
from geventpool.errors import BudgetError

__all__ = ["Leases"]

log = logging.getLogger("geventpool")


class Leases:
    """The leases of one pool.

    :param name: the pool's.
    """

    def __init__(self, budget: Budget, name: str, ledger: Ledger[Any]) -> None:
        self.budget = budget
        self._name = name
        self._ledger = ledger
        #: what answers the questions of the seat; set before the first lease
        self.client: Client | None = None
        #: None: no place was leased yet
        self.seat: Seat | None = None
        self._ledger.on_closed = self.settle
        #: what gives up the places of connections that the pool has forgotten, by the
        #: id of the connection
        self._left: dict[int, weakref.finalize[..., Any]] = {}

    def lease(self, wish: bool) -> bool:
        """Lease a place for a connection that is to be opened.

        :param wish: if there is none, have others give one and call ``serve`` then.
        :raises BudgetError: the file of the budget cannot be used.
        """
        seat = self.seat
        if seat is None:
            assert self.client is not None, "a pool sets its client first"
            seat = self.budget.seat(self._name)
            try:
                seat.join(self.client)
            except BaseException:
                # Such as a RecursionError.
                seat.close()
                raise
            self.seat = seat
        if self._ledger.unreturned:
            self.settle()
        return seat.lease(wish)

    @property
    def is_blocked(self) -> bool:
        """Whether the budget had no place, and nothing has changed since."""
        return self.seat is not None and self.seat.is_blocked

    def lease_for(self, conn: Any) -> bool:
        """Lease a place for a connection that is open: its own, if it still has one.

        :raises BudgetError: the file of the budget cannot be used.
        """
        finalizer = self._left.pop(id(conn), None)
        if finalizer is not None and finalizer.detach() is not None:
            return True
        return self.lease(wish=False)

    def settle(self) -> None:
        """Give up the places that the ledger counts as unreturned.

        If this fails, they are given up soon.
        """
        ledger, seat = self._ledger, self.seat
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
        if self.seat is not None:
            self.seat.give_back_soon()

    def leave_to(self, conn: Any) -> None:
        """Give up a place when *conn* is collected, because its pool forgets it."""
        seat = self.seat
        if seat is None:
            return
        key = id(conn)
        try:
            finalizer = weakref.finalize(conn, _left, self._left, key, seat)
        except TypeError:
            log.debug("%r keeps its place until the process ends", conn)
            return
        finalizer.atexit = False
        self._left[key] = finalizer

    def forget(self) -> None:
        """Give up all places at once: their connections are gone."""
        if self.seat is not None:
            self.seat.close(forked=os.getpid() != self.seat.pid)

    # What is shown.

    def stats(self) -> BudgetStats | None:
        """How the budget stands; None: its file cannot be used."""
        try:
            stats = self.budget.stats()
        except BudgetError:
            return None
        return replace(stats, own=self._own())

    def _own(self) -> BudgetShare | None:
        seat = self.seat
        if seat is None or self.client is None:
            return None
        held, lacking = len(seat.table.held), self.client.lacking()
        return BudgetShare(
            seat.pid, self._name, held, lacking, seat.moved, seat.recovered
        )

    def moves(self) -> tuple[int, int]:
        """How many places were given to others, and taken over from the dead."""
        seat = self.seat
        return (0, 0) if seat is None else (seat.moved, seat.recovered)

    def holders(self) -> object:
        """Who holds the places at this moment, as text if it is converted to text."""
        data = b"" if self.seat is None else self.seat.table.raw()
        return _Holders(self.budget.name, data)


def _left(left: dict[int, Any], key: int, seat: Seat) -> None:
    """Give up the place of a connection that was collected, in a finalizer."""
    left.pop(key, None)
    seat.give_back_soon()


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
