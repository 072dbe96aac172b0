"""What does it cost to notice hang-ups at once, and to be observed?

The same uncontended cycle with a pool that watches nothing, and with the watch as it is
(begun now and then, for nothing is done at a loan). Then with the listeners that count
and report: whatever else observes a pool becomes a row of :data:`OBSERVERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.adapters import close, ours
from benchmarks.cycle import borrowing, each, repeated
from benchmarks.fakes import Fake, FakeConnector, silent
from benchmarks.report import Column, Report
from benchmarks.rounds import Scale
from geventpool import Counters, Pool
from geventpool.sockets import is_quiet

BLIND = "nothing watched"
MEASURED = "with metrics"
WATCHED = "watched as it is"

#: What observes a pool, by its row: the options of the pool.
OBSERVERS: dict[str, Callable[[], dict[str, Any]]] = {
    "observed by Counters": lambda: {"listeners": [Counters()]}
}

#: Seconds that watching, and an observer, may add to a loan.
ALLOWED_WATCH, ALLOWED_OBSERVER = 0.3e-6, 0.35e-6


class Blind(FakeConnector):
    """Looks at a real descriptor before each loan, and does not tell it."""

    def is_usable(self, conn: Fake) -> bool:
        """Return whether there is nothing to read."""
        return is_quiet(silent())


class Seeing(Blind):
    """Tells the descriptor, so that the event loop can watch it."""

    def fileno(self, conn: Fake) -> int:
        """Return the descriptor."""
        return silent().fileno()


def run(scale: Scale) -> Report:
    """Measure a cycle with each way of watching and observing. May switch."""
    report = Report("hangup_cost", "what does watching and observing a pool cost?")
    pools = {BLIND: _pool(Blind()), WATCHED: _pool(Seeing())}
    for name, options in OBSERVERS.items():
        pools[name] = _pool(Blind(), **options())
    pools[MEASURED] = _pool(Blind())
    pools[MEASURED].measure()
    adapters = {name: ours.adapter(pool) for name, pool in pools.items()}
    turns = {
        name: repeated(borrowing(adapter), scale.slice)
        for name, adapter in adapters.items()
    }
    column = Column("each", each, to=("floor",))
    table = report.compare(
        "one loan",
        turns,
        scale.rounds,
        [column],
        key="watching",
        floor=BLIND,
        first="cycle",
    )
    close(*adapters.values())
    alone = table.spread(BLIND, each)
    for name in (WATCHED, *OBSERVERS, MEASURED):
        allowed = ALLOWED_WATCH if name == WATCHED else ALLOWED_OBSERVER
        limit = 1 + allowed / alone.median if alone else 0
        over = table.over(name, BLIND, each)
        report.target(f"{name}, to nothing watched", over, limit)
    return report


def _pool(connector: Blind, **options: Any) -> Pool[Fake]:
    return Pool(connector, initial_connections=1, max_connections=1, **options)
