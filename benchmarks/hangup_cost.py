"""What does it cost to notice hang-ups at once, and to be observed?

The same uncontended cycle on real socket pairs: with a pool that watches nothing, and
with the watch as it is (begun now and then, for nothing is done at a loan). Then with
the listeners that count and report: whatever else observes a pool becomes a row of
:data:`OBSERVERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from gevent import socket

from benchmarks.cycle import each, repeated
from benchmarks.report import Column, Report, Section
from benchmarks.rounds import Scale, interleave, ratio_between
from geventpool import Connector, Counters, Pool
from geventpool.sockets import is_quiet

BLIND = "nothing watched"
MEASURED = "with metrics"
WATCHED = "watched as it is"

#: What observes a pool, by its row: the options of the pool.
OBSERVERS: dict[str, Callable[[], dict[str, Any]]] = {
    "observed by Counters": lambda: {"listeners": [Counters()]},
}

#: Seconds that watching, and an observer, may add to a loan.
ALLOWED_WATCH, ALLOWED_OBSERVER = 0.3e-6, 0.35e-6


class Blind(Connector[Any]):
    """Lends one end of a socket pair and does not tell its descriptor."""

    def __init__(self) -> None:
        self.others: list[Any] = []

    def open(self) -> Any:
        """Return one end; the other is kept."""
        mine, other = socket.socketpair()
        self.others.append(other)
        return mine

    def close(self, conn: Any) -> None:
        """Close this end."""
        conn.close()

    def is_usable(self, conn: Any) -> bool:
        """Return whether there is nothing to read."""
        return is_quiet(conn)


class Seeing(Blind):
    """Tells the descriptor, so that the event loop can watch it."""

    def fileno(self, conn: Any) -> int:
        """Return the descriptor of this end."""
        return int(conn.fileno())


def run(scale: Scale) -> Report:
    """Measure a cycle with each way of watching and observing. May switch."""
    report = Report("hangup_cost", "what does watching and observing a pool cost?")
    with ExitStack() as stack:
        blind = stack.enter_context(_pool(Blind()))
        turns = {
            BLIND: _cycles(blind),
            WATCHED: _cycles(stack.enter_context(_pool(Seeing()))),
        }
        for name, options in OBSERVERS.items():
            turns[name] = _cycles(stack.enter_context(_pool(Blind(), **options())))
        measured = stack.enter_context(_pool(Blind()))
        measured.measure()
        turns[MEASURED] = _cycles(measured)
        series = interleave(
            {name: repeated(cycles, scale.slice) for name, cycles in turns.items()},
            scale.rounds,
            "loans",
        )
    section = Section("one loan", key="watching", floor=BLIND)
    ratios = {"to nothing watched": BLIND}
    column = Column("each", each, spread=True, ratios=ratios)
    report.sections.append(section.fill(series, [column], first="cycle"))
    if series[BLIND].samples:
        alone = series[BLIND].spread(each).median
        for name in (WATCHED, *OBSERVERS, MEASURED):
            allowed = ALLOWED_WATCH if name == WATCHED else ALLOWED_OBSERVER
            over = ratio_between(series, name, BLIND, each)
            report.target(f"{name}, to nothing watched", over, 1 + allowed / alone)
    return report


@contextmanager
def _pool(connector: Blind, **options: Any) -> Iterator[Pool[Any]]:
    pool: Pool[Any] = Pool(
        connector, initial_connections=1, max_connections=1, **options
    )
    try:
        yield pool
    finally:
        pool.close()
        for other in connector.others:
            other.close()


def _cycles(pool: Pool[Any]) -> Callable[[int], None]:
    def cycles(count: int) -> None:
        for _ in range(count):
            conn = pool.acquire()
            pool.release(conn)

    return cycles
