"""
How many loans does a pool make as more and more greenlets want one?

Ten connections, held for a millisecond each, and from one greenlet to a thousand. Up
to ten greenlets nobody waits; from then on no more loans are to be had, and the
question is whether there are fewer, and what each costs in CPU time. "The possible" is
as many greenlets as there are connections, without a pool.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

from benchmarks import peers
from benchmarks.contention import best_peer, builders_of, pools_of, turn_of
from benchmarks.crowds import CONNECTIONS, HOLD, POSSIBLE, Crowd, Load, without_pool
from benchmarks.figures import Figure
from benchmarks.generator import GENERATOR
from benchmarks.report import Report, Section, duration, part
from benchmarks.rounds import Scale, Series, Spread, interleave

GREENLETS = (1, 3, 10, 30, 100, 300, 1000)
#: Part of the seconds of a crowd that one turn takes: there are many of them.
SHARE = 0.25
#: Loans that every greenlet should at least be able to have.
LOANS = 5

#: The series of every contestant, by the number of greenlets.
Grid = dict[int, dict[str, Series[Crowd]]]


def run(scale: Scale) -> Report:
    """Every contestant with every number of greenlets. **May switch.**"""
    report = Report("throughput", "how many loans are made as more want one?")
    builders, missing = builders_of(CONNECTIONS)
    sizes = [size for size in GREENLETS if size <= scale.greenlets]
    loads = {size: _load(size, scale) for size in sizes}
    turns: dict[str, Callable[[], Crowd]] = {}
    for size, load in loads.items():
        turns[_key(POSSIBLE, size)] = _possible(load)
        for name, build in builders.items():
            turns[_key(name, size)] = turn_of(build, load)
    series = interleave(turns, scale.long_rounds, "1 to 1000 greenlets")
    names = (POSSIBLE, *builders)
    grid: Grid = {
        size: {name: _renamed(series[_key(name, size)], name) for name in names}
        for size in sizes
    }
    report.sections += [_rates(grid, missing), _costs(grid)]
    report.figures += _figures(grid)
    return report


def _load(size: int, scale: Scale) -> Load:
    # Time enough that most of it is not spent on the first loan of everyone.
    enough = LOANS * size * HOLD / CONNECTIONS
    seconds = max(scale.seconds * SHARE, enough)
    return Load("handlers", size, seconds=seconds, hurried=False)


def _possible(load: Load) -> Callable[[], Crowd]:
    return lambda: without_pool(load)


def _key(name: str, size: int) -> str:
    return f"{name}, {size} greenlets"


def _renamed(entry: Series[Crowd], name: str) -> Series[Crowd]:
    return replace(entry, name=name)


def _throughput(sample: Crowd) -> float:
    return sample.throughput


def _cost(sample: Crowd) -> float:
    return sample.cpu_each


def _rates(grid: Grid, missing: dict[str, str]) -> Section:
    section = _section(
        "loans/s of ten connections held 1 ms, against the number of greenlets",
        "loans/s",
        grid,
        _throughput,
        lambda rate: f"{rate:,.0f}",
    )
    section.columns.append("of poss.")
    last = max(grid)
    pools = {entry.name: entry for entry in pools_of(grid[last])}
    for row in section.rows:
        entry = pools.get(row[0])
        if entry is not None and entry.error is None:
            row.append(part(entry.over(grid[last][POSSIBLE], _throughput)))
        else:
            row.append("")
    for name, reason in missing.items():
        section.fails(name, reason)
    for size, series in grid.items():
        counted = {name: each for name, each in series.items() if name != GENERATOR}
        quantity = f"loans/s of {size}"
        section.measure(counted, quantity, _throughput, "1/s", more_is_better=True)
    section.notes.append(f"of poss.: with {last} greenlets")
    return section


def _costs(grid: Grid) -> Section:
    section = _section(
        "CPU time of one loan, against the number of greenlets",
        "CPU each",
        grid,
        _cost,
        duration,
    )
    for size, series in grid.items():
        section.measure(series, f"CPU each of {size}", _cost)
    alone = grid[max(grid)][GENERATOR]
    if alone.error is None:
        limit = alone.spread(_throughput).median
        section.notes.append(f"the load generator alone makes {limit:,.0f} loans/s")
    return section


def _section(
    title: str,
    key: str,
    grid: Grid,
    value: Callable[[Crowd], float],
    written: Callable[[float], str],
) -> Section:
    section = Section(
        title, ["pool", *(f"{size:,}" for size in grid)], key=key, floor=POSSIBLE
    )
    last = grid[max(grid)]
    best = best_peer(last)
    section.best = best.name if best else None
    for name in last:
        entries = [series[name] for series in grid.values()]
        errors = [entry.error for entry in entries if entry.error is not None]
        section.add(
            name,
            *(
                "failed" if entry.error else written(entry.spread(value).median)
                for entry in entries
            ),
        )
        if errors:
            section.failed[name] = errors[0]
    return section


def _figures(grid: Grid) -> list[Figure]:
    alone = (GENERATOR,)
    caption = (
        f"{CONNECTIONS} connections, held 1 ms; everyone wants one again after a turn "
        "of the loop"
    )
    return [
        Figure.of_lines(
            "throughput",
            _message(grid, _throughput, lambda rate: f"{rate:,.0f} loans/s"),
            caption,
            "greenlets",
            "loans per second",
            _lines(grid, _throughput, without=alone),
            log_y=False,
        ),
        Figure.of_lines(
            "cpu-per-loan",
            _message(grid, _cost, lambda cost: f"{duration(cost)} of CPU a loan"),
            caption,
            "greenlets",
            "CPU time of one loan",
            _lines(grid, _cost),
            unit="s",
        ),
    ]


def _lines(
    grid: Grid, value: Callable[[Crowd], float], without: tuple[str, ...] = ()
) -> dict[str, dict[float, Spread]]:
    lines: dict[str, dict[float, Spread]] = {}
    for (size, series), name in product(grid.items(), grid[max(grid)]):
        if name not in without and series[name].error is None:
            lines.setdefault(name, {})[size] = series[name].spread(value)
    return lines


def _message(
    grid: Grid, value: Callable[[Crowd], float], written: Callable[[float], str]
) -> str:
    size = max(grid)
    ours = grid[size].get(peers.OURS)
    if ours is None or ours.error is not None:
        return f"{size:,} greenlets on {CONNECTIONS} connections"
    possible = grid[size][POSSIBLE]
    median = written(ours.spread(value).median)
    message = f"With {size:,} greenlets {ours.name} takes {median}"
    if value is _throughput:
        of = part(ours.over(possible, value))
        rest = (
            "as many as possible" if of == "no difference" else f"{of} of the possible"
        )
        message = f"With {size:,} greenlets {ours.name} makes {median}, {rest}"
    return message
