"""
Does a loan cost more when the pool is large or the line is long?

The following are made large, one after the other and in powers of ten: the number of
connections (half of them lent, half idle), the length of the line while it is served,
the length of the line while it is killed. What they take of memory is asked elsewhere.

A long line has a price no pool can avoid: fifty thousand greenlets do not fit into the
processor's caches. "A bare line" is that price: a deque of greenlets, switched to in
turn, and nothing else. The peers stand in line as far as a line of theirs is served in
reasonable time: many walk the whole of it for every waiter that comes or leaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks import peers
from benchmarks.cycle import borrowing, repeated
from benchmarks.figures import Figure
from benchmarks.lines import BARE, Builder, Line, bare_line
from benchmarks.peers import Contestant
from benchmarks.report import Report, Section, Target, duration, ratio
from benchmarks.rounds import Sample, Scale, Series, Spread, interleave

FEW = 10
MANY_CONNECTIONS = 10_000
MANY_WAITERS = 100_000
#: Lines of peers are shorter than this part of the longest.
PEERS_SHARE = 0.1

#: The series of every contestant, by size.
Grid = dict[int, dict[str, Series[Sample]]]


def run(scale: Scale) -> Report:
    """Every kind of growth in turn. **May switch.**"""
    report = Report("growth", "does a loan cost more when pool or line grow?")
    _connections(report, scale)
    _waiters(report, scale)
    return report


def sizes_upto(many: int) -> list[int]:
    """The powers of ten from few to many, and many."""
    sizes = [FEW]
    while sizes[-1] * 10 < many:
        sizes.append(sizes[-1] * 10)
    return [*sizes, many]


# Many connections.


def _connections(report: Report, scale: Scale) -> None:
    sizes = sizes_upto(scale.part(MANY_CONNECTIONS))
    turns, filled, failed = {}, {}, {}
    # A peer takes a lent connection that nobody refers to any more back.
    lent = []
    for size in sizes:
        for build in (peers.lifo_queue_nowait, *peers.POOLS):
            contestants, missing = peers.built((build,), size)
            failed.update(missing)
            for name, contestant in contestants.items():
                filled[_named(name, size)] = contestant
                lent.append(half_lent(contestant, size))
                cycles = borrowing(contestant)
                turns[_named(name, size)] = repeated(cycles, scale.slice)
    grid = _grid(interleave(turns, scale.rounds, "pools of every size"), sizes)
    lent.clear()
    peers.close_all(filled)
    section = _compared("acquire + release, against connections, half lent", grid)
    section.floor = peers.FLOOR
    for name, reason in failed.items():
        section.fails(name, reason)
    report.sections.append(section)
    _promise(report, grid, "connections")
    report.figures.append(
        Figure.of_lines(
            "cost-connections",
            _message(grid, "connections"),
            "acquire and release; half of the connections are lent, half idle",
            "connections of the pool",
            "time of one loan",
            _lines(grid),
            unit="s",
        )
    )


def half_lent(contestant: Contestant, size: int) -> list[object]:
    """Have the pool open ``size`` connections; the half still lent. **May switch.**"""
    lent = [contestant.acquire() for _ in range(size)]
    for conn in lent[: size // 2]:
        contestant.release(conn)
    del lent[: size // 2]
    return lent


# Many waiters.


def _waiters(report: Report, scale: Scale) -> None:
    sizes = sizes_upto(scale.part(MANY_WAITERS))
    rounds = scale.long_rounds
    kinds = {"served": Line.served_turn, "killed": Line.killed_turn}
    for kind, turn_of in kinds.items():
        turns = {
            _named(name, size): turn_of(build, size, max(2 * size, sizes[-1] // 10))
            for size in sizes
            for name, build in contenders(size, scale)
        }
        grid = _grid(interleave(turns, rounds, f"lines {kind}"), sizes)
        section = _compared(f"one waiter {kind}, against the length of the line", grid)
        section.floor = BARE
        report.sections.append(section)
        if kind == "served":
            _promise(report, grid, "waiters")
            _promise_beyond(report, grid)
        report.figures.append(
            Figure.of_lines(
                f"cost-waiters-{kind}",
                _message(grid, "waiters"),
                f"a line of greenlets for one connection; each of them is {kind}",
                "greenlets in line",
                f"time of one {'loan' if kind == 'served' else 'kill'}",
                _lines(grid),
                unit="s",
            )
        )


def contenders(size: int, scale: Scale) -> Iterator[tuple[str, Builder]]:
    """Who stands in a line of this length."""
    yield BARE, bare_line
    yield peers.OURS, peers.ours
    if size < scale.part(MANY_WAITERS) * PEERS_SHARE:
        for name, build in LINED_UP.items():
            if peers.built((build,), 1)[0]:
                yield name, build


#: The peers whose waiters stand in line; the others are refused or look again.
LINED_UP: dict[str, Builder] = {
    peers.FLOOR: peers.lifo_queue,
    peers.BLOCKING: peers.redis_blocking,
    peers.QUEUE_POOL: peers.queue_pool,
    peers.POOLED_DB: peers.pooled_db,
    peers.HTTP_POOL: peers.http_pool,
    peers.PSYCOPG_POOL: peers.psycopg_pool,
}


# What all of them share.


def _named(name: str, size: int) -> str:
    return f"{name}, {size}"


def _each(sample: Sample) -> float:
    return sample.each


def _grid(series: dict[str, Series[Sample]], sizes: list[int]) -> Grid:
    grid: Grid = {size: {} for size in sizes}
    for key, entry in series.items():
        name, _, size = key.rpartition(", ")
        grid[int(size)][name] = replace(entry, name=name)
    return grid


def _names(grid: Grid) -> list[str]:
    return list(dict.fromkeys(name for series in grid.values() for name in series))


def _compared(title: str, grid: Grid) -> Section:
    columns = ["pool", *(f"{size:,}" for size in grid), "growth"]
    section = Section(title, columns)
    for size, series in grid.items():
        section.measure(series, f"each of {size}", _each)
    for name in _names(grid):
        entries = [series[name] for series in grid.values() if name in series]
        errors = [entry.error for entry in entries if entry.error is not None]
        cells = [_cell(series.get(name)) for series in grid.values()]
        if errors:
            section.failed[name] = errors[0]
            section.add(name, *cells)
            continue
        if len(entries) > 1:
            cells.append(ratio(entries[-1].over(entries[0], _each)))
        section.add(name, *cells)
    section.notes.append("growth: the last number of a row over its first")
    return section


def _cell(entry: Series[Sample] | None) -> str:
    if entry is None:
        return ""
    return "failed" if entry.error else duration(entry.spread(_each).median)


def _lines(grid: Grid) -> dict[str, dict[float, Spread]]:
    lines: dict[str, dict[float, Spread]] = {}
    for size, series in grid.items():
        for name, entry in series.items():
            if entry.error is None:
                lines.setdefault(name, {})[size] = entry.spread(_each)
    return lines


def _ends(grid: Grid, name: str) -> tuple[Series[Sample], Series[Sample]] | None:
    """What a contestant did with few and with many, if it could do both."""
    ends = [grid[size].get(name) for size in (min(grid), max(grid))]
    ran = [entry for entry in ends if entry is not None and entry.error is None]
    return (ran[0], ran[1]) if len(ran) == 2 else None


def _message(grid: Grid, what: str) -> str:
    many, few = max(grid), min(grid)
    ends = _ends(grid, peers.OURS)
    if ends is None:
        return f"from {few} to {many:,} {what}"
    grown = ratio(ends[1].over(ends[0], _each))
    if grown == "no difference":
        return f"{many:,} {what} make no difference to {peers.OURS}"
    than = f"of the time it needs with {few}"
    return f"With {many:,} {what} {peers.OURS} needs {grown} {than}"


def _promise(report: Report, grid: Grid, what: str) -> None:
    ends = _ends(grid, peers.OURS)
    if ends is not None:
        growth = ends[1].over(ends[0], _each)
        report.targets.append(Target(f"growth with {max(grid)} {what}", growth, 1.5))


def _promise_beyond(report: Report, grid: Grid) -> None:
    ours, bare = _ends(grid, peers.OURS), _ends(grid, BARE)
    if ours is None or bare is None:
        return
    # Round by round: what the pool adds to the bare line, long over short.
    columns = [
        [sample.each for sample in entry.samples]
        for entry in (ours[1], bare[1], ours[0], bare[0])
    ]
    added = [
        (ours_many - bare_many) / (ours_few - bare_few)
        for ours_many, bare_many, ours_few, bare_few in zip(*columns, strict=True)
    ]
    name = f"growth with {max(grid)} waiters of what the pool adds to a bare line"
    report.targets.append(Target(name, Spread.of(added), 1.5))
