"""
What does borrowing a connection cost when nobody else wants one?

An idle connection is there, nobody waits: acquire and release, then the same with the
``with`` block. The floor is the bare gevent queue under our pool. What the load
generator itself costs is part of every number: "the loop alone" goes round and does
nothing, "the generator alone" calls a pool that does nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import Any

from benchmarks import peers
from benchmarks.generator import GENERATOR, no_op
from benchmarks.peers import Contestant
from benchmarks.report import (
    Report,
    Section,
    Target,
    duration,
    plus_minus,
    ratio,
)
from benchmarks.rounds import Sample, Scale, Series, calibrated, interleave, timed

LOOP = "the loop alone"
BLOCK = " with block"
LIMIT = 10


def run(scale: Scale) -> Report:
    """The cost of one uncontended cycle, ours and the peers'. **May switch.**"""
    builders = (no_op, peers.lifo_queue_nowait, *peers.POOLS)
    contestants, missing = peers.built(builders, LIMIT)
    try:
        series = interleave(_turns(contestants, scale.slice), scale.rounds, "loans")
    finally:
        peers.close_all(contestants)
    report = Report("cycle", "what does borrowing cost when nobody else wants one?")
    report.sections.append(_section(series, missing))
    report.targets.extend(_targets(series))
    return report


def _turns(
    contestants: dict[str, Contestant], seconds: float
) -> dict[str, Callable[[], Sample]]:
    turns = {LOOP: repeated(_written(EMPTY, None), seconds)}
    for name, contestant in contestants.items():
        turns[name] = repeated(borrowing(contestant), seconds)
        if contestant.block is not None:
            turns[name + BLOCK] = repeated(_blocks(contestant.block), seconds)
    return turns


def repeated(cycles: Callable[[int], object], seconds: float) -> Callable[[], Sample]:
    """
    A turn that repeats a cycle for about as long as asked.

    :param cycles: does as many cycles as it is told.
    :param seconds: how long the turn should take.
    """
    counts: list[int] = []

    def turn() -> Sample:
        # Calibrated in the warm-up round, where an error is caught as in any other.
        if not counts:
            counts.append(calibrated(cycles, seconds))
        return timed(lambda: _counted(cycles, counts[0]))

    return turn


def _counted(cycles: Callable[[int], object], count: int) -> int:
    cycles(count)
    return count


def borrowing(contestant: Contestant) -> Callable[[int], None]:
    """
    The cycle itself, as a program writes it, as often as told.

    ``conn = pool.acquire(); pool.release(conn)`` with the pool a global of its module,
    and for the floor the same with a queue's ``get_nowait`` and ``put_nowait``: finding
    the object and its method is part of calling it. Where one object does not have
    both verbs, the callables stand in for them, which is in favour of that contestant.
    """
    take, give = contestant.acquire, contestant.release
    owner = getattr(take, "__self__", None)
    if owner is None or getattr(give, "__self__", None) is not owner:
        return lambda count: _cycles(take, give, count)
    source = WRITTEN.format(take=take.__name__, give=give.__name__)
    return _written(source, owner)


def _written(source: str, pool: object) -> Callable[[int], None]:
    names: dict[str, Any] = {"pool": pool}
    exec(source, names)
    cycles: Callable[[int], None] = names["cycles"]
    return cycles


WRITTEN = """
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


def _blocks(block: Callable[[], object]) -> Callable[[int], None]:
    owner = block.__self__  # type: ignore[attr-defined]
    return _written(BLOCKS.format(block=block.__name__), owner)


def _each(sample: Sample) -> float:
    return sample.each


def _section(series: dict[str, Series[Sample]], missing: dict[str, str]) -> Section:
    section = Section(
        "uncontended acquire + release",
        ["pool", "each", "spread", "CPU", "to the floor", "to the best peer"],
        key="uncontended",
        floor=peers.FLOOR,
    )
    floor, best = series[peers.FLOOR], best_rival(series)
    section.best = best.name if best else None
    section.measure(series, "each", _each)
    section.measure(series, "CPU each", lambda sample: sample.cpu_each)
    for name, entry in series.items():
        if entry.error is not None:
            section.fails(name, entry.error)
            continue
        wall = entry.spread(_each)
        section.add(
            name,
            duration(wall.median),
            plus_minus(wall),
            duration(entry.spread(lambda sample: sample.cpu_each).median),
            "1" if entry is floor else ratio(entry.over(floor, _each)),
            "1" if entry is best else ratio(entry.over(best, _each)) if best else "",
        )
    for name, reason in missing.items():
        section.fails(name, reason)
    alone = series[GENERATOR].spread(_each).median
    section.notes.append(
        f"of each number {duration(alone)} is the load generator's own; it can tell "
        f"{1 / alone:,.0f} cycles a second from more"
    )
    section.notes.append("to the best peer: of " + ", ".join(peers.RIVALS))
    return section


def best_rival(series: dict[str, Series[Sample]]) -> Series[Sample] | None:
    """The fastest of the rivals that ran at all."""
    ran = [series[name] for name in peers.RIVALS if name in series]
    ran = [entry for entry in ran if entry.error is None]
    return min(ran, key=lambda entry: entry.spread(_each).median, default=None)


def _targets(series: dict[str, Series[Sample]]) -> list[Target]:
    targets = []
    floor, best = series[peers.FLOOR], best_rival(series)
    for name, times in ((peers.OURS, 6.0), (peers.OURS + BLOCK, 8.0)):
        if name not in series or series[name].error is not None:
            continue
        entry = series[name]
        targets.append(Target(f"{name} to the floor", entry.over(floor, _each), times))
        if best is not None:
            over = entry.over(best, _each)
            targets.append(Target(f"{name} to {best.name}", over, 0.4))
    return targets
