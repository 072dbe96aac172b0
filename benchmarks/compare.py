"""
Two runs beside each other: what became faster, and what only looks so.

Machines are noisy and one is not like the other, so what is compared first is not a
time but what is left of it when the machine is taken away: the ratio to the floor, or
to the best peer, of the same run, round by round. The ratio of the times themselves
comes second. Where the spreads of two runs overlap, there is no difference to tell.

Nor where they nearly do: two processes never run the same code at the same speed. The
seed of the hashes, addresses, and what else the machine was at stay the same for a
whole process, so that no spread within it shows them. Where both runs were made in
three processes or more (``--processes``), what is compared is one median for each of
them, which is the honest spread; else some room is left between the two.

It knows measures and their references, and nothing of workloads.
"""

from __future__ import annotations

import argparse
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks import saved
from benchmarks.report import Measure, duration, number, ratio, terminal
from benchmarks.rounds import Spread
from benchmarks.saved import Run

#: As far apart must the spreads of two runs be, as a part of the quantity. Measured:
#: of 936 comparisons of a run with itself run again, 10 % were beyond the spread alone,
#: and 0.3 % beyond this.
AGAIN = 0.03

#: As many processes are needed for their medians to be a spread.
PROCESSES = 3

#: What should be the same in both runs, and what to call it.
SAME = {
    "scale": "scale",
    "cpu": "processor",
    "cores": "cores",
    "system": "system",
    "kernel": "kernel",
    "python": "Python",
    "implementation": "Python",
    "loop": "event loop",
}

BETTER, WORSE, ALIKE = "better", "worse", "no difference"


@dataclass(frozen=True)
class Row:
    """
    One quantity of one contestant, then and now.

    :ivar reference: whom it is compared with within each run; None if with nobody.
    :ivar relative: new over old of the ratio to the reference.
    :ivar absolute: new over old of the quantity itself; None if one of them is 0.
    """

    workload: str
    section: str
    old: Measure
    new: Measure
    reference: str | None = None
    relative: Spread | None = None
    absolute: Spread | None = None

    @property
    def verdict(self) -> str:
        """Better, worse or no difference: by the ratio that can be believed more."""
        change = self.relative or self.absolute
        if change is None:
            # One of the two is 0, which has no ratio.
            older, newer = _median(self.old), _median(self.new)
            if older == newer:
                return ALIKE
            return BETTER if (newer > older) == self.new.more_is_better else WORSE
        if change.is_no_difference:
            return ALIKE
        return BETTER if (change.median > 1) == self.new.more_is_better else WORSE


def warnings(old: Run, new: Run) -> Iterator[str]:
    """What makes it doubtful that the two runs can be compared."""
    for key, name in SAME.items():
        if old.get(key) != new.get(key):
            yield f"another {name}: {old.get(key)}, now {new.get(key)}"
    before, after = old.get("packages", {}), new.get("packages", {})
    for name in sorted({*before, *after} - {"geventpool"}):
        if before.get(name) != after.get(name):
            yield f"another {name}: {before.get(name)}, now {after.get(name)}"


def rows(old: Run, new: Run) -> Iterator[Row]:
    """All that is in both runs, in the order of the new one."""
    for workload, section, earlier in _sections(old, new):
        reference = _reference(earlier, section)
        olds, news = saved.measures(earlier), saved.measures(section)
        for (contestant, quantity), measure in news.items():
            if (contestant, quantity) in olds:
                yield _row(
                    Row(workload, section["key"], olds[contestant, quantity], measure),
                    olds.get((reference or "", quantity)),
                    news.get((reference or "", quantity)),
                )


def missing(old: Run, new: Run) -> Iterator[str]:
    """What is in one run and not in the other."""
    known = [set(_keys(old)), set(_keys(new))]
    for key in sorted(known[0] - known[1]):
        yield f"no longer there: {', '.join(key)}"
    for key in sorted(known[1] - known[0]):
        yield f"not there before: {', '.join(key)}"


def _keys(run: Run) -> Iterator[tuple[str, ...]]:
    for name, workload in run["workloads"].items():
        for section in workload["sections"]:
            for contestant, _ in saved.measures(section):
                yield name, section["key"], contestant


def _sections(old: Run, new: Run) -> Iterator[tuple[str, Any, Any]]:
    for name, workload in new["workloads"].items():
        before = old["workloads"].get(name, {"sections": []})
        earlier = {section["key"]: section for section in before["sections"]}
        for section in workload["sections"]:
            if section["key"] in earlier:
                yield name, section, earlier[section["key"]]


def _reference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    # The best peer may be another this time; a ratio to somebody else says nothing.
    there = [{each["contestant"] for each in side["measures"]} for side in (old, new)]
    for name in (new["floor"], new["best"], old["best"]):
        if name in there[0] and name in there[1]:
            return str(name)
    return None


def _spread(values: list[float], measure: Measure) -> Spread:
    """Of one value for each process, if there are enough of them; else of all."""
    if not _is_of_many(measure):
        return Spread.of(values)
    medians, start = [], 0
    for count in measure.processes:
        medians.append(statistics.median(values[start : start + count]))
        start += count
    return Spread.of(medians)


def _is_of_many(measure: Measure) -> bool:
    return len(measure.processes) >= PROCESSES


def _row(row: Row, old: Measure | None, new: Measure | None) -> Row:
    room = 0.0 if _is_of_many(row.old) and _is_of_many(row.new) else AGAIN
    absolute = _over(
        _spread(row.new.samples, row.new), _spread(row.old.samples, row.old), room
    )
    if old is None or new is None or new.contestant == row.new.contestant:
        return Row(row.workload, row.section, row.old, row.new, absolute=absolute)
    then, now = _paired(row.old, old), _paired(row.new, new)
    relative = _over(now, then, room) if then and now else None
    name = new.contestant if relative else None
    return Row(
        row.workload, row.section, row.old, row.new, name, relative, absolute
    )  # fmt: skip


def _paired(mine: Measure, theirs: Measure) -> Spread | None:
    if len(mine.samples) != len(theirs.samples) or min(theirs.samples) <= 0:
        return None
    pairs = zip(mine.samples, theirs.samples, strict=True)
    return _spread([one / other for one, other in pairs], mine)


def _over(new: Spread, old: Spread, room: float) -> Spread | None:
    if old.low <= 0 or new.low <= 0:
        return None
    over = new.over(old)
    return Spread(over.median, over.low / (1 + room), over.high * (1 + room))


def _median(measure: Measure) -> float:
    return Spread.of(measure.samples).median


# What is shown of it.


def show(old: Run, new: Run, console: Console) -> None:
    """Print everything: warnings, a table for each section, a summary."""
    console.print()
    console.print(Text(f"compared with the run of {old.get('date')}", style="bold"))
    for warning in warnings(old, new):
        console.print(Text(f"  careful: {warning}", style="yellow"))
    verdicts: Counter[str] = Counter()
    tables: dict[tuple[str, str], Table] = {}
    for row in rows(old, new):
        verdicts[row.verdict] += 1
        place = row.workload, row.section
        if place not in tables:
            tables[place] = _table(f"{row.workload}: {row.section}")
        _add(tables[place], row)
    for table in tables.values():
        console.print(table)
    for key in missing(old, new):
        console.print(Text(f"  {key}", style="dim"))
    counts = [f"{verdicts[word]} {word}" for word in (BETTER, WORSE, ALIKE)]
    console.print(Text("  " + ", ".join(counts), style="bold"))
    console.print(
        Text(
            "  within: new over old of the ratio to the floor or the best peer of the "
            "same run; that is what is judged by",
            style="dim",
        )
    )


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    table.add_column("pool", no_wrap=True)
    table.add_column("quantity", no_wrap=True)
    for column in ("old", "new", "within", "to", "absolute", ""):
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _add(table: Table, row: Row) -> None:
    style = {BETTER: "green", WORSE: "red", ALIKE: "dim"}[row.verdict]
    table.add_row(
        row.new.contestant,
        row.new.quantity,
        _amount(row.old),
        _amount(row.new),
        ratio(row.relative) if row.relative else "",
        row.reference or "",
        ratio(row.absolute) if row.absolute else "",
        Text("" if row.verdict == ALIKE else row.verdict, style=style),
    )


def _amount(measure: Measure) -> str:
    median = _median(measure)
    return duration(median) if measure.unit == "s" else number(median)


def main(arguments: list[str]) -> int:
    """``python -m benchmarks compare OLD NEW``; 0 if both are runs."""
    parser = argparse.ArgumentParser("python -m benchmarks compare")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args(arguments)
    try:
        old, new = saved.load(options.old), saved.load(options.new)
    except (OSError, saved.NotARunError) as error:
        parser.exit(2, f"{error}\n")
    show(old, new, terminal())
    return 0
