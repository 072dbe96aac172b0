"""
What README.rst shows of a run: where it was made, two pictures, a table, remarks.

It knows the numbers that are worth a place there and how they are written in
reStructuredText, and nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from textwrap import fill
from typing import Any

from benchmarks import peers, saved
from benchmarks.crowds import POSSIBLE
from benchmarks.figures import Figure
from benchmarks.generator import GENERATOR
from benchmarks.report import Measure, duration, ratio
from benchmarks.rounds import Spread, is_unsteady
from benchmarks.saved import Run

COMMAND = "python -m benchmarks readme"
SHOWN = ("waits-job", "throughput")
#: Where pictures and numbers stand, seen from README.rst.
PICTURES = Path("benchmarks/pictures")
#: The package behind each pool, where its name does not say it.
PACKAGES = {
    peers.BLOCKING: "redis",
    "redis Pool": "redis",
    peers.QUEUE_POOL: "SQLAlchemy",
    peers.POOLED_DB: "DBUtils",
    "gsocketpool": "gsocketpool",
    peers.MYSQL_POOL: "pymysql-pool",
    peers.HTTP_POOL: "geventhttpclient",
    peers.PSYCOPG_POOL: "psycopg-pool",
}
WIDTH = 88

Numbers = dict[tuple[str, str], Measure]


def block_of(run: Run) -> str:
    """What stands between the marks."""
    figures = {figure.name: figure for figure in saved.figures(run)}
    pictures = [_picture(figures[name]) for name in SHOWN if name in figures]
    return "\n\n".join(
        [_where(run), *pictures, _table(run), *_remarks(run)]
    )  # fmt: skip


def _where(run: Run) -> str:
    versions = run["packages"]
    named = {name: versions[name] for name in ("gevent", *PACKAGES.values())}
    listed = ", ".join(f"{name} {found}" for name, found in named.items() if found)
    rounds = max(
        len(measure.samples) for measure in _numbers(run, "cycle", "uncontended")
    )
    return fill(
        f"Measured on {run['date'][:10]} by ``{COMMAND}`` (``make bench-readme``) on "
        f"{run['cpu']}, {run['cores']} cores, with Python {run['python']}, {listed}; "
        f"medians of up to {rounds} rounds, in which all pools take turns in one "
        "process.",
        WIDTH,
    )


def _picture(figure: Figure) -> str:
    path = (PICTURES / f"{figure.name}.svg").as_posix()
    return f".. image:: {path}\n   :alt: {figure.title} ({figure.caption})"


# The table.


def _table(run: Run) -> str:
    cycle = _by_quantity(run, "cycle", "uncontended")
    job = _by_quantity(run, "contention", "the job")
    greedy = _by_quantity(run, "contention", "the greedy")
    rows = [
        ["", "alone", "", "the job", "", "", "the greedy"],
        ["pool", "a loan", "to the queue", "loans/s", "p99 wait", "fairness"]
        + ["never served"],
    ]
    for name in _pools(run, cycle, job):
        rows.append(
            [
                name,
                *_alone(cycle, name),
                *_crowded(job, name),
                _cell(greedy, name, "unserved", lambda count: f"{count:.0f}"),
            ]
        )
    return "\n".join([*_drawn(rows), "", _legend(run)])


def _pools(run: Run, cycle: Numbers, job: Numbers) -> list[str]:
    """Those in the table: the floor, ours, and the peers, the fastest first."""
    names = dict.fromkeys(
        name
        for name, _ in (*cycle, *job)
        if name in PACKAGES or name in (peers.FLOOR, peers.OURS, POSSIBLE)
    )
    failed = dict.fromkeys(
        name
        for section in run["workloads"]["contention"]["sections"]
        for name in section["failed"]
    )
    first = [POSSIBLE, peers.FLOOR, peers.OURS]

    def place(name: str) -> tuple[int, float]:
        each = cycle.get((name, "each"))
        order = first.index(name) if name in first else len(first)
        return order, _median(each) if each else float("inf")

    return sorted(names | failed, key=place)


def _alone(cycle: Numbers, name: str) -> tuple[str, str]:
    each, floor = cycle.get((name, "each")), cycle.get((peers.FLOOR, "each"))
    if name == POSSIBLE:
        return "", ""
    if each is None or floor is None:
        return "failed", ""
    if name == peers.FLOOR:
        return duration(_median(each)), "1"
    pairs = zip(each.samples, floor.samples, strict=True)
    over = Spread.of([mine / theirs for mine, theirs in pairs])
    return duration(_median(each)), ratio(over)


def _crowded(job: Numbers, name: str) -> tuple[str, str, str]:
    return (
        _cell(job, name, "loans/s", lambda rate: f"{rate:,.0f}"),
        _cell(job, name, "p99 wait", duration),
        _cell(job, name, "fairness", lambda index: f"{index:.2f}"),
    )


def _cell(numbers: Numbers, name: str, quantity: str, written: Any) -> str:
    measure = numbers.get((name, quantity))
    return str(written(_median(measure))) if measure else "failed"


def _drawn(rows: list[list[str]]) -> Iterator[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows)]
    rule = "  ".join("=" * width for width in widths)
    yield rule
    for line, row in enumerate(rows):
        cells = [
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths))
        ]
        # An empty first cell would continue the row above.
        cells[0] = cells[0] if row[0] else "\\".ljust(widths[0])
        yield "  ".join(cells).rstrip()
        if line == 1:
            yield rule
    yield rule


def _legend(run: Run) -> str:
    titles = {
        section["key"]: section["title"]
        for section in run["workloads"]["contention"]["sections"]
    }
    return fill(
        '"redis Blocking" and "redis Pool" are redis-py\'s BlockingConnectionPool and '
        "ConnectionPool, QueuePool is SQLAlchemy's, PooledDB is of DBUtils. "
        "Alone: acquire and release when nobody else wants one, beside the bare gevent "
        f"queue underneath. {_capital(titles['the job'])}; fairness is Jain's index "
        'when half of it is done, and the wait "the possible" has is what everyone '
        f"must wait if all are served in turn. {_capital(titles['the greedy'])}; never "
        "served is how many of them got nothing.",
        WIDTH,
    )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


# What is said below.


def _remarks(run: Run) -> Iterator[str]:
    failures = {
        name: reason
        for key in ("cycle", "contention")
        for section in run["workloads"][key]["sections"]
        for name, reason in section["failed"].items()
    }
    for name, reason in failures.items():
        yield fill(f"{name} failed: {reason}", WIDTH)
    grown = [*_grown(run), *_weighed(run)]
    if grown:
        yield fill(" ".join(grown), WIDTH)
    everything = [
        measure
        for workload in run["workloads"].values()
        for section in workload["sections"]
        for measure in saved.measures(section).values()
    ]
    unsteady = sum(is_unsteady(measure.samples) for measure in everything)
    alone = _by_quantity(run, "contention", "the job").get((GENERATOR, "loans/s"))
    said = (
        f"How noisy it was: {unsteady} of the {len(everything)} quantities measured "
        "deviated by more than a tenth from round to round."
    )
    for warning in run["warnings"]:
        said += f" {_capital(warning)}."
    if alone:
        said += f" The load generator alone makes {_median(alone):,.0f} loans/s."
    yield fill(said, WIDTH)


def _grown(run: Run) -> Iterator[str]:
    lines = (
        ("acquire + release, against connections, half lent", "connections"),
        ("one waiter served, against the length of the line", "waiters"),
    )
    for key, what in lines:
        sizes = {
            int(quantity.removeprefix("each of ")): measure
            for (name, quantity), measure in _by_quantity(run, "growth", key).items()
            if name == peers.OURS
        }
        if len(sizes) < 2:
            continue
        few, many = sizes[min(sizes)], sizes[max(sizes)]
        pairs = zip(many.samples, few.samples, strict=True)
        over = Spread.of([large / small for large, small in pairs])
        least, most = min(sizes), f"{max(sizes):,} {what}"
        if over.is_no_difference:
            bounds = f"{over.low:.2f} to {over.high:.2f} times as much"
            yield (
                f"Between {least} and {most} no difference can be told from noise "
                f"({bounds})."
            )
        else:
            costs = f"a loan costs {ratio(over)} as much as with {least}"
            yield f"With {most} {costs}."


def _weighed(run: Run) -> Iterator[str]:
    idle = _by_quantity(run, "memory", "memory, idle").get((peers.OURS, "allocated"))
    if idle:
        yield f"An idle connection takes {_median(idle):.0f} bytes beyond itself."


# Numbers of a run.


def _by_quantity(run: Run, workload: str, key: str) -> Numbers:
    sections = run["workloads"].get(workload, {"sections": []})["sections"]
    for section in sections:
        if section["key"] == key:
            return saved.measures(section)
    return {}


def _numbers(run: Run, workload: str, key: str) -> Iterator[Measure]:
    yield from _by_quantity(run, workload, key).values()


def _median(measure: Measure) -> float:
    return Spread.of(measure.samples).median
