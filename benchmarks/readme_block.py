"""What the page of benchmarks shows of a run: two pictures, two tables, remarks.

It knows which numbers are shown there and how they are written in reStructuredText, and
nothing about files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from textwrap import fill
from typing import Any

from benchmarks import results
from benchmarks.adapters.base import (
    BLOCKING,
    FLOOR,
    GSOCKETPOOL,
    HTTP_POOL,
    MYSQL_POOL,
    OURS,
    PLAIN,
    POOLED_DB,
    PSYCOPG_POOL,
    QUEUE_POOL,
)
from benchmarks.curves import Figure
from benchmarks.load import GENERATOR, POSSIBLE
from benchmarks.report import Measure, duration, ratio
from benchmarks.results import Run
from benchmarks.rounds import Spread, is_unsteady

COMMAND = "python -m benchmarks readme"
SHOWN = ("waits-job", "throughput")

#: Where pictures and numbers are, relative to the page.
PICTURES = Path("pictures")

#: The package of each pool.
PACKAGES = {
    BLOCKING: "redis",
    PLAIN: "redis",
    QUEUE_POOL: "SQLAlchemy",
    POOLED_DB: "DBUtils",
    GSOCKETPOOL: "gsocketpool",
    MYSQL_POOL: "pymysql-pool",
    HTTP_POOL: "geventhttpclient",
    PSYCOPG_POOL: "psycopg-pool",
}
WIDTH = 88

Numbers = dict[tuple[str, str], Measure]


def block_of(run: Run) -> str:
    """Return the text between the marks."""
    figures = {figure.name: figure for figure in results.figures(run)}
    pictures = [_picture(figures[name]) for name in SHOWN if name in figures]
    parts = [_where(run), *pictures, _table(run), *_loans(run), *_remarks(run)]
    return "\n\n".join(parts)


def _where(run: Run) -> str:
    versions = run["packages"]
    named = {name: versions[name] for name in ("gevent", *PACKAGES.values())}
    listed = ", ".join(f"{name} {found}" for name, found in named.items() if found)
    cycle = _by_quantity(run, "cycle", "uncontended").values()
    rounds = max(len(measure.samples) for measure in cycle)
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
    """Return those in the table: the floor, ours, and the peers, the fastest first."""
    names = dict.fromkeys(
        name
        for name, _ in (*cycle, *job)
        if name in PACKAGES or name in (FLOOR, OURS, POSSIBLE)
    )
    failed = dict.fromkeys(
        name
        for section in run["workloads"]["contention"]["sections"]
        for name in section["failed"]
    )
    first = [POSSIBLE, FLOOR, OURS]

    def place(name: str) -> tuple[int, float]:
        each = cycle.get((name, "each"))
        order = first.index(name) if name in first else len(first)
        return order, _median(each) if each else float("inf")

    return sorted(names | failed, key=place)


def _alone(cycle: Numbers, name: str) -> tuple[str, str]:
    each, floor = cycle.get((name, "each")), cycle.get((FLOOR, "each"))
    if name == POSSIBLE:
        return "", ""
    if each is None or floor is None:
        return "failed", ""
    if name == FLOOR:
        return duration(_median(each)), "1"
    return duration(_median(each)), ratio(_over(each, floor))


def _over(mine: Measure, theirs: Measure) -> Spread:
    pairs = zip(mine.samples, theirs.samples, strict=True)
    return Spread.of([one / other for one, other in pairs])


def _crowded(job: Numbers, name: str) -> tuple[str, str, str]:
    return (
        _cell(job, name, "loans/s", lambda rate: f"{rate:,.0f}"),
        _cell(job, name, "p99 wait", duration),
        _cell(job, name, "fairness", lambda index: f"{index:.2f}"),
    )


def _cell(numbers: Numbers, name: str, quantity: str, written: Any) -> str:
    measure = numbers.get((name, quantity))
    return str(written(_median(measure))) if measure else "failed"


def _drawn(rows: list[list[str]], head: int = 2) -> Iterator[str]:
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
        if line == head - 1:
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


def _loans(run: Run) -> Iterator[str]:
    numbers = _by_quantity(run, "loans", "loans")
    floor = numbers.get((FLOOR, "each"))
    if floor is None:
        return
    rows = [["a loan of a real connection, nothing sent", "time", "to the queue"]]
    ordered = sorted(numbers.values(), key=_median)
    for measure in ordered:
        over = "1" if measure is floor else ratio(_over(measure, floor))
        rows.append([measure.contestant, duration(_median(measure)), over])
    yield "\n".join(_drawn(rows, head=1))
    yield fill(
        "These connections are open to real servers, and the pools have their "
        "defaults; what is sent at each loan, such as a ROLLBACK, is part of the time. "
        'A socket is checked before it is lent, as "gevent queue, one poll" does. '
        "The loan of a Redis command is the time that the pool adds to a command.",
        WIDTH,
    )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


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
        for measure in results.measures(section).values()
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
        ("acquire + release, by connections, half lent", "connections"),
        ("one waiter served, by the number of waiters", "waiters"),
    )
    for key, what in lines:
        sizes = {
            int(quantity.removeprefix("each of ")): measure
            for (name, quantity), measure in _by_quantity(run, "scaling", key).items()
            if name == OURS
        }
        if len(sizes) < 2:
            continue
        few, many = sizes[min(sizes)], sizes[max(sizes)]
        over = _over(many, few)
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
    idle = _by_quantity(run, "memory", "memory, idle").get((OURS, "allocated"))
    if idle:
        yield f"An idle connection takes {_median(idle):.0f} bytes beyond itself."


def _by_quantity(run: Run, workload: str, key: str) -> Numbers:
    sections = run["workloads"].get(workload, {"sections": []})["sections"]
    for section in sections:
        if section["key"] == key:
            return results.measures(section)
    return {}


def _median(measure: Measure) -> float:
    return Spread.of(measure.samples).median
