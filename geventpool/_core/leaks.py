"""Loans that last too long, told once each with the line that borrowed.

Nothing here switches but the greenlet that looks at the loans.
"""

from __future__ import annotations

import logging
from typing import Any

from geventpool._core.borrow_sites import BorrowSites
from geventpool._core.ledger import Entry, Ledger, anyone
from geventpool._core.reaper import Reaper
from geventpool._core.reports import Leak, loans
from geventpool._core.states import IN_USE
from geventpool.listeners import Listeners

__all__ = ["LeakDetector"]

log = logging.getLogger("geventpool")

#: The loans are looked at so often in the time that a loan may last.
LOOKS = 4
#: Seconds between two looks at least.
SHORTEST = 0.05
#: So many lines are remembered.
SITES = 256
UNKNOWN = "a line that is not known yet"


class _Line:
    """What is known of the leaks of one line."""

    def __init__(self) -> None:
        self.place = ""
        self.count = 0
        self.open = 0
        self.longest = 0.0


class LeakDetector:
    """Finds the loans of one pool that last too long.

    :param str name: of the pool.
    :param float limit: seconds that a loan may last.
    """

    def __init__(
        self,
        name: str,
        ledger: Ledger[Any],
        listeners: Listeners,
        sites: BorrowSites,
        limit: float,
    ) -> None:
        self._name = name
        self._ledger = ledger
        self._listeners = listeners
        self._sites = sites
        self._limit = limit
        #: the loans that were reported: when each began, and its line
        self._reported: dict[Entry[Any], tuple[float, str]] = {}
        self._lines: dict[str, _Line] = {}
        self._reaper: Reaper[LeakDetector] | None = None

    def ensure_running(self) -> None:
        """See to it that a greenlet looks at the loans. Never switches."""
        if self._reaper is None or not self._reaper.is_alive:
            interval = max(SHORTEST, self._limit / LOOKS)
            self._reaper = Reaper(self, LeakDetector.look, interval)

    def look(self) -> None:
        """Report the loans that last too long, and those that have ended.

        Ends the greenlet that calls it if the pool is closed.
        """
        now = self._ledger.clock()
        self._report_ended(now)
        for entry in self._ledger.all_in(IN_USE):
            if now - entry.since >= self._limit and entry not in self._reported:
                # A subscription, for instance, is meant to last.
                if entry.holder is not anyone and entry.waiter is None:
                    self._report(entry, now)
        for since, name in self._reported.values():
            line = self._line(name)
            line.longest = max(line.longest, now - since)
        self._sites.want()
        if self._ledger.closed and self._reaper is not None:
            self._reaper.stop()

    def _report(self, entry: Entry[Any], now: float) -> None:
        site = self._sites.of(entry)
        borrowed_at = UNKNOWN if site is None else str(site)
        (loan,) = loans([entry], now)
        self._reported[entry] = entry.since, borrowed_at
        line = self._line(borrowed_at)
        line.place = loan.place
        line.count += 1
        line.open += 1
        # From now on the line of every loan is known.
        self._sites.want_all()
        log.warning(
            "pool %r: a loan lasts %.1f s; borrowed at %s; held by %s, now at %s",
            self._name,
            loan.seconds,
            borrowed_at,
            loan.holder,
            loan.place,
        )
        self._listeners.notify(
            "leaked", entry.conn, loan.seconds, borrowed_at, loan.place
        )

    def _report_ended(self, now: float) -> None:
        for entry, (since, borrowed_at) in list(self._reported.items()):
            if entry.state is IN_USE and entry.since == since:
                continue
            del self._reported[entry]
            self._line(borrowed_at).open -= 1
            log.warning(
                "pool %r: the loan borrowed at %s ended after at most %.1f s",
                self._name,
                borrowed_at,
                now - since,
            )
            self._listeners.notify("leak_ended", entry.conn, now - since, borrowed_at)

    def _line(self, borrowed_at: str) -> _Line:
        if borrowed_at not in self._lines and len(self._lines) >= SITES:
            borrowed_at = "other lines"
        return self._lines.setdefault(borrowed_at, _Line())

    def report(self) -> list[Leak]:
        """The lines whose loans lasted too long, those with most first."""
        leaks = [
            Leak(name, line.place, line.count, line.open, line.longest)
            for name, line in self._lines.items()
        ]
        return sorted(leaks, key=_weight)


def _weight(leak: Leak) -> tuple[int, int]:
    return (-leak.open, -leak.count)
