"""What a test has left behind in the pools: loans, waiters and greenlets.

The pytest plugin of this package uses it, and other test runners can.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import gevent
from gevent._hub_local import get_hub_if_exists

from geventpool._core.borrow_sites import BorrowSites
from geventpool._core.ledger import Entry
from geventpool._core.reports import Loan, loans, name_of
from geventpool._core.states import IN_USE
from geventpool.pool import Pool, pools
from geventpool.testing.checks import pool_greenlets

__all__ = ["Leftovers"]

#: loans, and when they began
_Starts = WeakKeyDictionary[Entry[Any], float]


class Leftovers:
    """A block that finds what its code has left behind in the pools.

    ::

        with Leftovers() as leftovers:
            run_the_test()
        assert not leftovers.found()

    Each loan that begins in the block is noted with the line that borrowed, which takes
    all pools off their fast path.

    :param bool with_greenlets: also look for greenlets of pools that were made in the
        block and left open.
    """

    def __init__(self, with_greenlets: bool = True) -> None:
        self._with_greenlets = with_greenlets
        #: the pools at the begin of the block, with the start times of their loans and
        #: their waiters; by weak references, because the next object may get the
        #: address of one that was collected
        self._before: WeakKeyDictionary[Pool[Any], tuple[_Starts, WeakSet[Any]]]
        self._before = WeakKeyDictionary()

    def __enter__(self) -> Leftovers:
        for pool in pools():
            lent: _Starts = WeakKeyDictionary()
            for entry in pool._ledger.all_in(IN_USE):
                lent[entry] = entry.since
            self._before[pool] = lent, WeakSet(pool._ledger.waiters)
        BorrowSites.everywhere += 1
        if BorrowSites.everywhere == 1:
            _note_all(True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        BorrowSites.everywhere -= 1
        if BorrowSites.everywhere == 0:
            _note_all(False)

    def found(self) -> list[str]:
        """Describe what was left behind, one line for each; empty: nothing.

        May switch, so that work which is already scheduled can end.
        """
        if not any(self._look()):
            return []
        # A pool in a reference cycle is not left behind, and neither is a greenlet that
        # was killed and has not run yet.
        gc.collect()
        gevent.idle()
        return list(self._look())

    def _look(self) -> Iterator[str]:
        for pool in pools():
            if not _is_of_this_thread(pool):
                continue
            is_new = pool not in self._before
            lent, waiters = self._before.get(pool, ({}, ()))
            yield from _loans_left(pool, lent)
            for waiter in list(pool._ledger.waiters):
                if waiter not in waiters:
                    name = name_of(waiter)
                    yield f"pool {pool.name!r}: {name} waits for a connection"
            if self._with_greenlets and is_new and (left := _at_work(pool)):
                yield (
                    f"pool {pool.name!r}: was made in the test and left open with "
                    f"{left} greenlets; close it, or make it in a fixture"
                )


def _at_work(pool: Pool[Any]) -> int:
    return sum(not each.dead for each in pool_greenlets(pool))


def _is_of_this_thread(pool: Pool[Any]) -> bool:
    hub = pool._parts.home.hub()
    return hub is not None and hub is get_hub_if_exists()


def _loans_left(pool: Pool[Any], before: Mapping[Entry[Any], float]) -> Iterator[str]:
    for entry in list(pool._ledger.all_in(IN_USE)):
        if before.get(entry) == entry.since:
            continue
        (loan,) = loans([entry], pool._clock())
        yield f"pool {pool.name!r}: a connection {_told(pool, entry, loan)}"


def _told(pool: Pool[Any], entry: Entry[Any], loan: Loan) -> str:
    site = pool._parts.watch.sites.of(entry)
    borrowed = "" if site is None else f"borrowed at {site} "
    return f"{borrowed}was not given back; held by {loan.holder}, now at {loan.place}"


def _note_all(always: bool) -> None:
    for pool in pools():
        pool._parts.watch.sites.want_all(always)
