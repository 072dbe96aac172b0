"""What a pool measures of itself while metrics are on.

One object for each pool and process: a forked child begins with zeros, because its
parent reports what happened before. All counts are integers, changed without a lock,
so they can be changed in the hub and in a finaliser.
"""

from __future__ import annotations

import os
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from geventpool._core.histograms import MANY, Histogram
from geventpool._core.measured import FrozenCounts, Measured
from geventpool._core.reports import LabelCounts
from geventpool._core.states import CloseReason
from geventpool.errors import PoolExhaustedError
from geventpool.listeners import PoolListener

__all__ = [
    "Measures",
    "is_default",
    "keep",
    "kept",
    "measure_by_default",
    "on_first_event",
    "retired",
]

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
    :param resets: what the connector had counted by then.
    :param bool has_connections: False: what the pool opens is only a place, whose
        connections others open and close; see :meth:`connected`, :meth:`disconnected`.
    """

    def __init__(
        self,
        in_use: int = 0,
        resets: Mapping[str, int] | None = None,
        *,
        has_connections: bool = True,
    ) -> None:
        self._before = in_use
        self._resets_before = dict(resets or {})
        self._has_connections = has_connections
        #: why the connection of a place is about to be closed
        self._reasons: weakref.WeakKeyDictionary[Any, CloseReason]
        self._reasons = weakref.WeakKeyDictionary()
        #: places whose connections were closed, and whose reason comes next
        self._unexplained: weakref.WeakSet[Any] = weakref.WeakSet()
        #: by the last snapshot
        self._last: tuple[float, Mapping[str, int], tuple[int, int]] = (
            0.0,
            self._resets_before,
            (0, 0),
        )
        self.wait = Histogram()
        self.use = Histogram()
        self.create = Histogram()
        self._refused: Counter[str] = Counter()
        self._closed: Counter[CloseReason] = Counter()
        self._open_failed = 0
        self._outages = 0
        self._outage_seconds = 0.0
        self._has_begun = False
        #: what is counted by label, and what was before; see :meth:`count_labels`
        self._labels: Mapping[str, LabelCounts] = {}
        self._labels_before: Mapping[str, LabelCounts] = {}

    def measured(
        self, put: Callable[[Any], object], clock: Callable[[], float]
    ) -> Callable[[Any], None]:
        """Return a function that counts the end of an entry's loan and calls *put*.

        It is the whole cost of an uncontended loan, so it makes no call for a count.

        :param clock: returns seconds.
        """
        use = self.use
        new, append = use.new, use.new.append

        def put_measured(entry: Any) -> None:
            append(clock() - entry.since)
            if len(new) >= MANY:
                use.count()
            put(entry)

        return put_measured

    def refused(self, kind: type[PoolExhaustedError]) -> None:
        """A borrower was refused with an error of *kind*. Never switches."""
        self._refused[kind.__name__] += 1
        self._begin()

    def count_labels(self, labels: Mapping[str, LabelCounts]) -> None:
        """Have snapshots tell what is counted by label from now on. Never switches.

        :param labels: the present counts, which are changed by others.
        """
        self._labels, self._labels_before = labels, dict(labels)

    def connected(self, seconds: float) -> None:
        """A connection was made, which took so long. Never switches."""
        self.create.observe(seconds)
        self._begin()

    def disconnected(self, place: Any, *, is_told_next: bool = False) -> None:
        """The connection of a place was closed. Never switches.

        :param is_told_next: :meth:`closed` will be called with the reason.
        """
        reason = self._reasons.pop(place, None)
        if reason is None and is_told_next:
            self._unexplained.add(place)
        else:
            self._closed[reason or CloseReason.DROPPED] += 1

    def opened(self, conn: Any, seconds: float) -> None:
        if self._has_connections:
            self.connected(seconds)

    def open_failed(self, error: BaseException, seconds: float) -> None:
        self._open_failed += 1
        self._begin()

    def paused(self, error: BaseException) -> None:
        self._outages += 1

    def resumed(self, seconds: float) -> None:
        self._outage_seconds += seconds

    def closed(self, conn: Any, reason: CloseReason) -> None:
        if self._has_connections:
            self._closed[reason] += 1
        elif conn in self._unexplained:
            self._unexplained.discard(conn)
            self._closed[reason] += 1
        else:
            self._reasons[conn] = reason

    def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            for action in _first_event:
                action()

    def snapshot(
        self,
        in_use: int = 0,
        loop_lag: float | None = None,
        resets: Mapping[str, int] | None = None,
        moves: tuple[int, int] | None = None,
    ) -> Measured:
        """What was measured so far; does not change any more.

        :param in_use: how many loans are under way.
        :param loop_lag: seconds; None: as in the last snapshot.
        :param resets: what the connector has counted; None: as in the last snapshot.
        :param moves: how many places of a budget were given and recovered; None: as in
            the last snapshot.
        """
        lag_before, resets_before, moves_before = self._last
        loop_lag = lag_before if loop_lag is None else loop_lag
        resets = resets_before if resets is None else resets
        moves = moves_before if moves is None else moves
        self._last = (loop_lag, dict(resets), moves)
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
            resets=FrozenCounts(
                {
                    kind: number - self._resets_before.get(kind, 0)
                    for kind, number in resets.items()
                }
            ),
            moved=moves[0],
            recovered=moves[1],
            labels=tuple(self._label_counts()),
        )

    def _label_counts(self) -> Iterator[LabelCounts]:
        for name, counts in [*self._labels.items()]:
            before = self._labels_before.get(name)
            if counts is not before:
                yield counts if before is None else counts.plus(before, -1)


#: the pools that are measured, weakly, with their names and counts
_kept: list[tuple[str, weakref.ref[Any], Measures]] = []
#: what pools had measured that are no more, by their names
_retired: dict[str, Measured] = {}


def keep(pool: Any, measures: Measures) -> None:
    """Have :func:`kept` and :func:`retired` tell of a pool. Never switches.

    What the same pool measured before counts as that of a pool that is no more.
    """
    _retire(lambda other: other is None or other is pool)
    _kept.append((pool.name, weakref.ref(pool), measures))


def kept() -> list[Any]:
    """The pools that are measured, also those that were closed. Never switches."""
    _retire(lambda pool: pool is None)
    return [pool for _, ref, _ in [*_kept] if (pool := ref()) is not None]


def retired() -> dict[str, Measured]:
    """What was measured by pools that are no more, by name. Never switches."""
    return dict(_retired)


def _retire(is_gone: Callable[[Any], bool]) -> None:
    for each in [*_kept]:
        name, ref, measures = each
        if is_gone(ref()):
            _kept.remove(each)
            _retired[name] = _retired.get(name, Measured()).plus(measures.snapshot())


def _forget_all() -> None:  # pragma: no cover (in the child, where nobody counts)
    """In a forked child: what was measured before is for the parent to report."""
    _kept.clear()
    _retired.clear()


# It runs before the pools of the child begin to measure, because the module of the
# pool registers its own function later.
os.register_at_fork(after_in_child=_forget_all)
