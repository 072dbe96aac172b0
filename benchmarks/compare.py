"""Compare two runs: what became faster or slower, and where there is no difference.

Machines are noisy and differ, so a quantity is compared as its ratio to the floor, or
to the best peer, of the same run, round by round; only without such a reference as it
is. Where the spreads of two runs overlap, there is no difference. Two processes never
run the same code at exactly the same speed, so a small difference is ignored too.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks import results
from benchmarks.report import Measure, duration, number, ratio, terminal
from benchmarks.results import Run
from benchmarks.rounds import Spread

#: The difference that is ignored, as a fraction of the quantity. Of 936 comparisons of
#: a run with its repetition, 10 % were beyond the spread alone, and 0.3 % beyond this.
IGNORED = 0.03

#: What should be equal in both runs.
EQUAL = (
    "scale",
    "cpu",
    "cores",
    "system",
    "kernel",
    "python",
    "implementation",
    "loop",
)

BETTER, WORSE, EQUAL_WORD = "better", "worse", "no difference"
STYLES = {BETTER: "green", WORSE: "red", EQUAL_WORD: "dim"}


@dataclass(frozen=True)
class Row:
    """One quantity of one contestant in both runs.

    :ivar reference: the contestant of the same run that it is compared with, if any.
    :ivar change: the ratio of new to old; None if one of them is 0.
    """

    section: str
    old: Measure
    new: Measure
    reference: str | None
    change: Spread | None

    @property
    def verdict(self) -> str:
        """Better, worse or no difference."""
        old, new = _median(self.old), _median(self.new)
        if self.change is not None:
            if self.change.is_no_difference:
                return EQUAL_WORD
            old, new = 1.0, self.change.median
        if old == new:
            return EQUAL_WORD
        return BETTER if (new > old) == self.new.more_is_better else WORSE


def warnings(old: Run, new: Run) -> Iterator[str]:
    """Yield what makes the comparison doubtful."""
    before, after = old.get("packages", {}), new.get("packages", {})
    pairs = [(key, old.get(key), new.get(key)) for key in EQUAL]
    pairs += [(key, before.get(key), after.get(key)) for key in {*before, *after}]
    for key, then, now in sorted(pairs):
        if then != now and key != "geventpool":
            yield f"different {key}: {then}, now {now}"


def rows(old: Run, new: Run) -> Iterator[Row]:
    """Yield all that is in both runs, in the order of the new one."""
    olds = dict(_sections(old))
    for key, section in _sections(new):
        if key not in olds:
            continue
        before, after = results.measures(olds[key]), results.measures(section)
        reference = _reference(olds[key], section, {name for name, _ in before})
        for (name, quantity), measure in after.items():
            if (name, quantity) in before:
                then = before[name, quantity]
                pair = (reference or "", quantity)
                yield _row(key, then, measure, before.get(pair), after.get(pair))


def missing(old: Run, new: Run) -> Iterator[str]:
    """Yield what is in one run and not in the other."""
    keys = [
        {
            f"{key}, {name}"
            for key, each in _sections(run)
            for name, _ in results.measures(each)
        }
        for run in (old, new)
    ]
    yield from (f"only in the old run: {key}" for key in sorted(keys[0] - keys[1]))
    yield from (f"only in the new run: {key}" for key in sorted(keys[1] - keys[0]))


def _sections(run: Run) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, workload in run["workloads"].items():
        for section in workload["sections"]:
            yield f"{name}: {section['key']}", section


def _reference(old: dict[str, Any], new: dict[str, Any], known: set[str]) -> str | None:
    # The best peer may have changed, and ratios to different peers cannot be compared.
    there = known & {each["contestant"] for each in new["measures"]}
    names = (new["floor"], new["best"], old["best"])
    return next((str(name) for name in names if name in there), None)


def _row(
    key: str,
    old: Measure,
    new: Measure,
    old_floor: Measure | None,
    floor: Measure | None,
) -> Row:
    if (
        old_floor is not None
        and floor is not None
        and floor.contestant != new.contestant
    ):
        then, now = _paired(old, old_floor), _paired(new, floor)
        if then is not None and now is not None:
            return Row(key, old, new, floor.contestant, _change(then, now))
    then, now = Spread.of(old.samples), Spread.of(new.samples)
    return Row(key, old, new, None, _change(then, now))


def _paired(mine: Measure, theirs: Measure) -> Spread | None:
    if len(mine.samples) != len(theirs.samples) or min(theirs.samples) <= 0:
        return None
    pairs = zip(mine.samples, theirs.samples, strict=True)
    return Spread.of([one / other for one, other in pairs])


def _change(old: Spread, new: Spread) -> Spread | None:
    if old.low <= 0 or new.low <= 0:
        return None
    over = new.over(old)
    return Spread(over.median, over.low / (1 + IGNORED), over.high * (1 + IGNORED))


def _median(measure: Measure) -> float:
    return Spread.of(measure.samples).median


def show(old: Run, new: Run, console: Console) -> None:
    """Print warnings, a table for each section, and a summary."""
    console.print(Text(f"compared with the run of {old.get('date')}", style="bold"))
    for warning in warnings(old, new):
        console.print(Text(f"  warning: {warning}", style="yellow"))
    verdicts: Counter[str] = Counter()
    tables: dict[str, Table] = {}
    for row in rows(old, new):
        verdicts[row.verdict] += 1
        if row.section not in tables:
            tables[row.section] = _table(row.section)
        text = duration if row.new.unit == "s" else number
        tables[row.section].add_row(
            row.new.contestant,
            row.new.quantity,
            text(_median(row.old)),
            text(_median(row.new)),
            ratio(row.change) if row.change else "",
            row.reference or "",
            Text(row.verdict, style=STYLES[row.verdict]),
        )
    for table in tables.values():
        console.print(table)
    for key in missing(old, new):
        console.print(Text(f"  {key}", style="dim"))
    counts = [f"{verdicts[word]} {word}" for word in (BETTER, WORSE, EQUAL_WORD)]
    console.print(Text("  " + ", ".join(counts), style="bold"))


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)
    for column in ("pool", "quantity", "old", "new", "change", "as a ratio to", ""):
        left = column in ("pool", "quantity")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    return table


def main(arguments: list[str]) -> int:
    """Run ``python -m benchmarks compare OLD NEW``; return 0 if both are runs."""
    parser = argparse.ArgumentParser("python -m benchmarks compare")
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args(arguments)
    try:
        old, new = results.load(options.old), results.load(options.new)
    except (OSError, results.NotARunError) as error:
        parser.exit(2, f"{error}\n")
    show(old, new, terminal())
    return 0
