"""What is watched of the loans of one pool: where they begin, last too long, or idle.

It knows the ledger and not the pool. Nothing is watched of a loan of the fast path.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakMethod

from geventpool._core.borrow_sites import BorrowSites
from geventpool._core.idle_holds import IdleHolds
from geventpool._core.leaks import LeakDetector
from geventpool._core.ledger import Entry, Ledger
from geventpool.listeners import Listeners

__all__ = ["LoanWatch", "weak_call"]

#: So many loans are noted before sampling begins, if leaks are looked for.
FIRST = 64


def weak_call(method: Callable[[], object]) -> Callable[[], None]:
    """A function that calls a bound method as long as its object lives."""
    weak = WeakMethod(method)

    def call() -> None:
        target = weak()
        if target is not None:
            target()

    return call


class LoanWatch:
    """The lines that borrow, the leaks and the idle holds of one pool.

    :param str name: of the pool.
    :param leak_after: seconds after which a loan is reported; None: never.
    :param on_change: called when :attr:`is_wanted` has changed.
    """

    def __init__(
        self,
        name: str,
        ledger: Ledger[Any],
        listeners: Listeners,
        leak_after: float | None,
        on_change: Callable[[], object],
    ) -> None:
        self._ledger = ledger
        self.sites = BorrowSites(on_change, 0 if leak_after is None else FIRST)
        self.idle_holds = IdleHolds(ledger, self.sites)
        self.leaks: LeakDetector | None = None
        if leak_after is not None:
            self.leaks = LeakDetector(name, ledger, listeners, self.sites, leak_after)

    @property
    def is_wanted(self) -> bool:
        """Whether the next loan is to be noted."""
        return self.sites.is_wanted

    def note(self, entry: Entry[Any]) -> None:
        """Note that the caller has borrowed *entry*. Never switches."""
        if self.leaks is not None:
            self.leaks.ensure_running()
        if self.sites.is_wanted:
            self.sites.note(entry)

    def sampling(self, attend: Callable[[], bool]) -> Callable[[], bool]:
        """A function that samples the holders if anybody waits, and calls *attend*."""

        def sample() -> bool:
            if self._ledger.waiters:
                self.idle_holds.sample()
            return attend()

        return sample
