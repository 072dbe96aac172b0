"""What a pool measures of itself while metrics are on.

One object for each pool and process: a forked child begins with zeros, because its
parent reports what happened before. All counts are integers, changed without a lock,
so they can be changed in the hub and in a finaliser.
"""

from __future__ import annotations

from bisect import bisect_left as bisect
from collections import Counter
from collections.abc import Callable
from typing import Any

from geventpool._core.histograms import BOUNDS, Histogram
from geventpool._core.ledger import CloseReason
from geventpool._core.measured import FrozenCounts, Measured
from geventpool.errors import PoolExhaustedError
from geventpool.listeners import PoolListener

__all__ = ["Measures", "is_default", "measure_by_default", "on_first_event"]

#: called when a pool that is measured has its first event in this process
_first_event: list[Callable[[], object]] = []
_default: list[bool] = [False]


def measure_by_default() -> None:
    """Have each pool that is made from now on measured. Never switches."""
    _default[0] = True


def is_default() -> bool:
    """Whether a new pool is measured without being asked to."""
    return _default[0]


def on_first_event(action: Callable[[], object]) -> None:
    """Have *action* called at a pool's first event in a process. Never switches.

    It may be called in the hub and must not switch. It is called at least once in each
    process that has anything to report, so also after a fork.
    """
    if action not in _first_event:
        _first_event.append(action)


class Measures(PoolListener):
    """The counts of one pool.

    Loans that did not wait are not counted when they begin, so the fastest path of a
    loan is the same with and without metrics. Their number follows from the others:
    each loan has ended or is under way, and has waited or not.

    :param in_use: how many loans were under way when measuring began.
    """

    def __init__(self, in_use: int = 0) -> None:
        self._before = in_use
        self.wait = Histogram()
        self.use = Histogram()
        self.create = Histogram()
        self._refused: Counter[str] = Counter()
        self._closed: Counter[CloseReason] = Counter()
        self._open_failed = 0
        self._outages = 0
        self._outage_seconds = 0.0
        self._has_begun = False

    def measured(
        self, put: Callable[[Any], object], clock: Callable[[], float]
    ) -> Callable[[Any], None]:
        """Return a function that counts the end of an entry's loan and calls *put*.

        It is the whole cost of an uncontended loan, so it makes no call for a count.

        :param clock: returns seconds.
        """
        counts, total = self.use.counts, self.use.total

        bounds, find = BOUNDS, bisect

        def put_measured(entry: Any) -> None:
            seconds = clock() - entry.since
            counts[find(bounds, seconds)] += 1
            total[0] += seconds
            put(entry)

        return put_measured

    def refused(self, kind: type[PoolExhaustedError]) -> None:
        """A borrower was refused with an error of *kind*. Never switches."""
        self._refused[kind.__name__] += 1
        self._begin()

    def opened(self, conn: Any, seconds: float) -> None:
        self.create.observe(seconds)
        self._begin()

    def open_failed(self, error: BaseException, seconds: float) -> None:
        self._open_failed += 1
        self._begin()

    def paused(self, error: BaseException) -> None:
        self._outages += 1

    def resumed(self, seconds: float) -> None:
        self._outage_seconds += seconds

    def closed(self, conn: Any, reason: CloseReason) -> None:
        self._closed[reason] += 1

    def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            for action in _first_event:
                action()

    def snapshot(self, in_use: int, loop_lag: float) -> Measured:
        """What was measured so far; does not change any more.

        :param in_use: how many loans are under way.
        :param loop_lag: seconds.
        """
        use = self.use.snapshot()
        waits = self.wait.snapshot().count
        without = use.count + in_use - self._before - waits
        return Measured(
            wait=self.wait.snapshot(max(0, without)),
            use=use,
            create=self.create.snapshot(),
            refused=FrozenCounts(self._refused),
            closed=FrozenCounts(self._closed),
            open_failed=self._open_failed,
            outages=self._outages,
            outage_seconds=self._outage_seconds,
            loop_lag=loop_lag,
        )
