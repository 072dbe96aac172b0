"""What does borrowing a connection cost when nobody else wants one?

An idle connection is there and nobody waits: acquire and release, then the same with
the ``with`` block. The connections are fakes, and the floor is the bare gevent queue;
:mod:`benchmarks.loans` measures real connections. The cost of the load generator is a
part of every number: "the loop alone" does nothing, "the generator alone" calls a pool
that does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import Any

from benchmarks import adapters
from benchmarks.adapters import FLOOR, OURS, RIVALS, PoolAdapter
from benchmarks.load import GENERATOR, generator
from benchmarks.report import Column, Report, Section, duration
from benchmarks.rounds import (
    Sample,
    Scale,
    Series,
    best_of,
    calibrated,
    interleave,
    ratio_between,
    timed,
)

LOOP = "the loop alone"
BLOCK = " with block"
LIMIT = 10


def run(scale: Scale) -> Report:
    """Measure one uncontended cycle of every pool. May switch."""
    builders, missing = adapters.installed()
    builders = {
        GENERATOR: generator,
        FLOOR: adapters.ours.gevent_queue_nowait,
        **builders,
    }
    pools = {name: build(LIMIT) for name, build in builders.items()}
    try:
        series = interleave(_turns(pools, scale.slice), scale.rounds, "loans")
    finally:
        adapters.close(*pools.values())
    report = Report("cycle", "what does borrowing cost when nobody else wants one?")
    report.sections.append(_section(series, missing))
    best = best_rival(series)
    for name, limit in ((OURS, 6.0), (OURS + BLOCK, 8.0)):
        over = ratio_between(series, name, FLOOR, each)
        report.target(f"{name} to the floor", over, limit)
        if best is not None:
            over = ratio_between(series, name, best, each)
            report.target(f"{name} to {best}", over, 0.4)
    return report


def each(sample: Sample) -> float:
    """Return the seconds of one cycle."""
    return sample.each


def _turns(
    pools: dict[str, PoolAdapter], seconds: float
) -> dict[str, Callable[[], Sample]]:
    turns = {LOOP: repeated(_compiled(EMPTY, None), seconds)}
    for name, pool in pools.items():
        turns[name] = repeated(borrowing(pool), seconds)
        if pool.block is not None:
            turns[name + BLOCK] = repeated(blocks(pool.block), seconds)
    return turns


def repeated(cycles: Callable[[int], object], seconds: float) -> Callable[[], Sample]:
    """Return a turn that repeats a cycle for about as long as asked.

    :param cycles: does as many cycles as it is told.
    """
    counts: list[int] = []

    def turn() -> Sample:
        # Calibrated in the warm-up round, where an error is handled as in any other.
        if not counts:
            counts.append(calibrated(cycles, seconds))
        return timed(lambda: _counted(cycles, counts[0]))

    return turn


def _counted(cycles: Callable[[int], object], count: int) -> int:
    cycles(count)
    return count


def borrowing(pool: PoolAdapter) -> Callable[[int], None]:
    """Return the cycle as a program writes it.

    ``conn = pool.acquire(); pool.release(conn)`` with the pool a global of its module:
    finding the object and its method is part of the call. For the floor it is the same
    with ``get_nowait`` and ``put_nowait`` of a queue. Where one object does not have
    both methods, the callables replace them, which favours that contestant.
    """
    take, give = pool.acquire, pool.release
    owner = getattr(take, "__self__", None)
    if owner is None or getattr(give, "__self__", None) is not owner:
        return lambda count: _cycles(take, give, count)
    source = CYCLES.format(take=take.__name__, give=give.__name__)
    return _compiled(source, owner)


def _compiled(source: str, pool: object) -> Callable[[int], None]:
    names: dict[str, Any] = {"pool": pool}
    exec(source, names)
    cycles: Callable[[int], None] = names["cycles"]
    return cycles


CYCLES = """
def cycles(count):
    for _ in range(count):
        conn = pool.{take}()
        pool.{give}(conn)
"""
EMPTY = """
def cycles(count):
    for _ in range(count):
        pass
"""
BLOCKS = """
def cycles(count):
    for _ in range(count):
        with pool.{block}() as conn:
            pass
"""


def _cycles(
    acquire: Callable[[], object], release: Callable[[object], object], count: int
) -> None:
    for _ in repeat(None, count):
        release(acquire())


def blocks(block: Callable[[], object]) -> Callable[[int], None]:
    """Return the cycle with the ``with`` block of a pool."""
    owner = block.__self__  # type: ignore[attr-defined]
    return _compiled(BLOCKS.format(block=block.__name__), owner)


def _section(series: dict[str, Series[Sample]], missing: dict[str, str]) -> Section:
    best = best_rival(series)
    section = Section("uncontended acquire + release", key="uncontended", floor=FLOOR)
    section.best = best
    columns = [
        Column(
            "each",
            each,
            spread=True,
            ratios={"to the floor": FLOOR, "to the best peer": best},
        ),
        Column("CPU each", lambda sample: sample.cpu_each),
    ]
    section.fill(series, columns, missing)
    alone = series[GENERATOR].spread(each).median
    section.notes.append(
        f"{duration(alone)} of each number is the load generator; it can tell "
        f"{1 / alone:,.0f} cycles a second from more"
    )
    section.notes.append("to the best peer: of " + ", ".join(RIVALS))
    return section


def best_rival(series: dict[str, Series[Sample]]) -> str | None:
    """Return the fastest of the rivals that ran."""
    return best_of(series, RIVALS, lambda sample: -sample.each)
