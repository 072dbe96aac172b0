"""What does borrowing a connection cost when nobody else wants one?

An idle connection is there and nobody waits: acquire and release, then the same with
the ``with`` block. The connections are fakes, and the floor is the bare gevent queue;
:mod:`benchmarks.loans` measures real connections. The cost of the load generator is a
part of every number: "the loop alone" does nothing, "the generator alone" calls a pool
that does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import adapters
from benchmarks.adapters import FLOOR, GENERATOR, OURS, RIVALS, PoolAdapter
from benchmarks.adapters.base import CONNECTIONS
from benchmarks.report import Column, Report, Section
from benchmarks.rounds import Sample, Scale, calibrated, timed

LOOP = "the loop alone"
BLOCK = " with block"

CYCLES = """
def cycles(count):
    for _ in range(count):
        {body}
"""


def run(scale: Scale) -> Report:
    """Measure one uncontended cycle of every pool. May switch."""
    report = Report("cycle", "what does borrowing cost when nobody else wants one?")
    builders, report.missing = adapters.installed()
    alone, floor = adapters.ours.generator, adapters.ours.gevent_queue_nowait
    builders = {GENERATOR: alone, FLOOR: floor, **builders}
    pools = {name: build(CONNECTIONS) for name, build in builders.items()}
    cycles = {LOOP: _compiled("pass")}
    for name, pool in pools.items():
        cycles[name] = borrowing(pool)
        if pool.block is not None:
            cycles[name + BLOCK] = blocks(pool.block)
    title, ends = "uncontended acquire + release", {"floor": FLOOR, "rivals": RIVALS}
    table = compare(report, scale, title, cycles, COLUMNS, **ends)
    adapters.close(*pools.values())
    for name, limit in ((OURS, 6.0), (OURS + BLOCK, 8.0)):
        over = table.over(name, FLOOR, each)
        report.target(f"{name} to the floor", over, limit)
        over = table.over(name, table.peer, each)
        report.target(f"{name} to {table.peer}", over, 0.4)
    return report


def each(sample: Sample) -> float:
    """Return the seconds of one cycle."""
    return sample.each


COLUMNS = (
    Column("each", each, to=("floor", "peer")),
    Column("CPU each", lambda sample: sample.cpu / sample.count),
)


def compare(
    report: Report,
    scale: Scale,
    title: str,
    cycles: Mapping[str, Callable[[int], object]],
    columns: Sequence[Column] = COLUMNS[:1],
    **more: Any,
) -> Section:
    """Let cycles take turns, and add their table. May switch.

    :param more: of :meth:`~benchmarks.report.Report.compare`.
    """
    turns = {name: repeated(each, scale.slice) for name, each in cycles.items()}
    return report.compare(title, turns, scale.rounds, columns, **more)


def repeated(cycles: Callable[[int], object], seconds: float) -> Callable[[], Sample]:
    """Return a turn that repeats a cycle for about as long as asked.

    :param cycles: does as many cycles as it is told.
    """
    counts: list[int] = []

    def counted() -> int:
        cycles(counts[0])
        return counts[0]

    def turn() -> Sample:
        # Calibrated in the warm-up round, where an error is handled as in any other.
        if not counts:
            counts.append(calibrated(cycles, seconds))
        return timed(counted)

    return turn


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
        return _compiled("give(take())", take=take, give=give)
    body = f"conn = pool.{take.__name__}(); pool.{give.__name__}(conn)"
    return _compiled(body, pool=owner)


def blocks(block: Callable[[], Any]) -> Callable[[int], None]:
    """Return the cycle with the ``with`` block of a pool."""
    owner = block.__self__  # type: ignore[attr-defined]
    body = f"with pool.{block.__name__}() as conn: pass"
    return _compiled(body, pool=owner)


def _compiled(body: str, **names: Any) -> Callable[[int], None]:
    exec(CYCLES.format(body=body), names)
    cycles: Callable[[int], None] = names["cycles"]
    return cycles
