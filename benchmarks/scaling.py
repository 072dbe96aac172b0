"""Does a loan cost more when the pool is large or many greenlets wait?

In powers of ten: the number of connections (half of them lent, half idle), the number
of waiters while they are served, and the number of waiters while they are killed.
:mod:`benchmarks.memory` measures the memory that they need.

Many waiters have a cost that no pool can avoid: 50,000 greenlets do not fit into the
processor's caches. "A bare line" shows that cost: a deque of greenlets that are
switched to in turn. The peers take part as long as theirs are served in reasonable
time: many look through all waiters whenever one comes or goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks import adapters
from benchmarks.adapters import FLOOR, OURS, POOLS, Builder, PoolAdapter
from benchmarks.cycle import borrowing, each, repeated
from benchmarks.report import Column, Report, Section, ratio
from benchmarks.rounds import Sample, Scale, Series, Spread, interleave_sizes
from benchmarks.waiters import BARE, bare_line, killed_turn, served_turn

FEW = 10
MANY_CONNECTIONS = 10_000
MANY_WAITERS = 100_000

#: Peers have fewer waiters than this fraction of the largest number.
PEERS_SHARE = 0.1

#: Peers whose waiters are served in some order; the others refuse or poll.
WITHOUT_WAITERS = ("redis Pool", "gsocketpool", "pymysql-pool")

#: The series of every contestant, by size.
Grid = dict[int, dict[str, Series[Sample]]]


def run(scale: Scale) -> Report:
    """Measure each kind of growth. May switch."""
    report = Report("scaling", "does a loan cost more when pool or waiters grow?")
    builders, missing = adapters.installed()
    _add_connections(report, builders, missing, scale)
    _add_waiters(report, builders, scale)
    return report


def sizes_upto(many: int) -> list[int]:
    """Return the powers of ten from few to many, and many."""
    sizes = [FEW]
    while sizes[-1] * 10 < many:
        sizes.append(sizes[-1] * 10)
    return [*sizes, many]


def _add_connections(
    report: Report,
    builders: dict[str, Builder],
    missing: dict[str, str],
    scale: Scale,
) -> None:
    sizes = sizes_upto(scale.part(MANY_CONNECTIONS))
    turns: dict[tuple[str, int], Callable[[], Sample]] = {}
    pools, lent = [], []
    for size in sizes:
        contestants = {FLOOR: adapters.ours.gevent_queue_nowait, **builders}
        for name, build in contestants.items():
            pools.append(build(size))
            # One peer takes a lent connection back that nobody refers to any more.
            lent.append(half_lent(pools[-1], size))
            turns[name, size] = repeated(borrowing(pools[-1]), scale.slice)
    grid = interleave_sizes(turns, scale.rounds, "pools of every size")
    lent.clear()
    adapters.close(*pools)
    section = _section("acquire + release, by connections, half lent", grid, FLOOR)
    for name, reason in missing.items():
        section.fails(name, reason)
    report.sections.append(section)
    _add_growth_target(report, grid, "connections")


def half_lent(pool: PoolAdapter, size: int) -> list[object]:
    """Let the pool open *size* connections and keep half of them lent. May switch."""
    lent = [pool.acquire() for _ in range(size)]
    for conn in lent[: size // 2]:
        pool.release(conn)
    return lent[size // 2 :]


def _add_waiters(report: Report, builders: dict[str, Builder], scale: Scale) -> None:
    sizes = sizes_upto(scale.part(MANY_WAITERS))
    for what, turn_of in (("served", served_turn), ("killed", killed_turn)):
        turns = {
            (name, size): turn_of(build, size, max(2 * size, sizes[-1] // 10))
            for size in sizes
            for name, build in _contestants(builders, size, scale)
        }
        grid = interleave_sizes(turns, scale.long_rounds, f"waiters {what}")
        section = _section(f"one waiter {what}, by the number of waiters", grid, BARE)
        report.sections.append(section)
        if what == "served":
            _add_growth_target(report, grid, "waiters")
            _add_growth_beyond_bare(report, grid)


def _contestants(
    builders: dict[str, Builder], size: int, scale: Scale
) -> Iterator[tuple[str, Builder]]:
    yield BARE, bare_line
    yield OURS, POOLS[OURS]
    if size < scale.part(MANY_WAITERS) * PEERS_SHARE:
        yield FLOOR, adapters.ours.gevent_queue
        for name, build in builders.items():
            if name != OURS and name not in WITHOUT_WAITERS:
                yield name, build


# What all kinds of growth share.


def _section(title: str, grid: Grid, floor: str) -> Section:
    section = Section(title, floor=floor).fill_sizes(grid, Column("each", each))
    section.columns.append("growth")
    for row in section.rows:
        ends = _ends(grid, row[0])
        row.append(ratio(ends[1].over(ends[0], each)) if ends else "")
    section.notes.append("growth: the last number of a row to its first")
    return section


def _ends(grid: Grid, name: str) -> tuple[Series[Sample], Series[Sample]] | None:
    """Return the series of a contestant with few and with many, if it has both."""
    ends = [grid[size].get(name) for size in (min(grid), max(grid))]
    ran = [entry for entry in ends if entry is not None and entry.samples]
    return (ran[0], ran[1]) if len(ran) == 2 else None


def _add_growth_target(report: Report, grid: Grid, what: str) -> None:
    ends = _ends(grid, OURS)
    growth = ends[1].over(ends[0], each) if ends else None
    report.target(f"growth with {max(grid)} {what}", growth, 1.5)


def _add_growth_beyond_bare(report: Report, grid: Grid) -> None:
    ours, bare = _ends(grid, OURS), _ends(grid, BARE)
    if ours is None or bare is None:
        return
    # Round by round: what the pool adds to the bare line, with many and with few.
    values = [
        [sample.each for sample in entry.samples]
        for entry in (ours[1], bare[1], ours[0], bare[0])
    ]
    added = [
        (ours_many - bare_many) / (ours_few - bare_few)
        for ours_many, bare_many, ours_few, bare_few in zip(*values, strict=True)
    ]
    name = f"growth with {max(grid)} waiters of what the pool adds to a bare line"
    report.target(name, Spread.of(added), 1.5)
