"""What a workload reports: tables, measures, curves, and targets met or missed.

It knows how a report looks on a terminal and in a JSON file, and nothing about how the
numbers were measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from benchmarks.curves import Figure
from benchmarks.rounds import Series, Spread, is_unsteady

T = TypeVar("T")

#: Width of what is printed into a file, in characters.
WIDTH = 140

#: A remark names up to so many contestants; of more it tells only the number.
NAMED = 3


@dataclass(frozen=True)
class Target:
    """A limit that a number must keep: at most, or at least, so much."""

    name: str
    value: Spread
    limit: float
    at_least: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the median keeps the limit.

        "Not worse than the other" (a limit of 1) is also met where there is no
        difference.
        """
        if self.limit == 1.0 and self.value.is_no_difference:
            return True
        if self.at_least:
            return self.value.median >= self.limit
        return self.value.median <= self.limit

    @property
    def is_unclear(self) -> bool:
        """Whether the limit is within the spread, so that another run may differ."""
        return self.value.low < self.limit < self.value.high


@dataclass(frozen=True)
class Measure:
    """One quantity of one contestant, a number for each round: what is compared."""

    contestant: str
    quantity: str
    unit: str
    samples: list[float]
    more_is_better: bool = False


@dataclass(frozen=True)
class Column:
    """One quantity of a table.

    :ivar name: its heading, and its name in comparisons.
    :ivar value: reads it off a sample.
    :ivar text: how a number is written; by default as *unit* suggests.
    :ivar pick: which value stands in the table, of those of all rounds.
    :ivar spread: whether the spread stands beside it.
    :ivar ratios: further columns, by heading: the ratio to that contestant.
    :ivar as_part: write these ratios in per cent.
    :ivar is_measured: whether it is kept for comparisons.
    """

    name: str
    value: Callable[[Any], float]
    unit: str = "s"
    more_is_better: bool = False
    text: Callable[[float], str] | None = None
    pick: Callable[[list[float]], float] | None = None
    spread: bool = False
    ratios: Mapping[str, str | None] = field(default_factory=dict)
    as_part: bool = False
    is_measured: bool = True

    def headings(self) -> list[str]:
        """Return the headings of all its columns."""
        return [self.name, *["spread"] * self.spread, *self.ratios]

    def cells(self, entry: Series[Any], series: Mapping[str, Series[Any]]) -> list[str]:
        """Return the cells of one contestant."""
        spread = entry.spread(self.value)
        text = self.text or (duration if self.unit == "s" else number)
        values = [self.value(sample) for sample in entry.samples]
        cells = [text(self.pick(values) if self.pick else spread.median)]
        if self.spread:
            cells.append(plus_minus(spread) if len(values) > 1 else "one round")
        for name in self.ratios.values():
            other = series.get(name or "")
            if other is None or other.error is not None:
                cells.append("")
            elif other is entry:
                cells.append("1")
            else:
                over = entry.over(other, self.value)
                cells.append(part(over) if self.as_part else ratio(over))
        return cells


@dataclass
class Section:
    """One table: a title, columns, rows of text, and the same as numbers.

    :ivar key: its name from run to run at any scale; by default the title.
    :ivar floor: the contestant that no pool can beat, if it is in this table.
    :ivar best: the best of the peers in this run.
    :ivar failed: contestants without numbers, with the reason.
    :ivar starved: contestants that left somebody unserved, with the number.
    """

    title: str
    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    key: str = ""
    floor: str | None = None
    best: str | None = None
    measures: list[Measure] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    starved: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.key = self.key or self.title

    def fill(
        self,
        series: Mapping[str, Series[Any]],
        columns: list[Column],
        missing: Mapping[str, str] | None = None,
        first: str = "pool",
    ) -> Section:
        """Make a row for each contestant, and keep the numbers.

        :param missing: contestants that could not be built, with the reason.
        :param first: the heading of the names.
        """
        self.columns = [first]
        for column in columns:
            self.columns += column.headings()
        for name, entry in series.items():
            if entry.error is not None:
                self.fails(name, entry.error)
                continue
            self.add(
                name, *(cell for each in columns for cell in each.cells(entry, series))
            )
        for name, reason in (missing or {}).items():
            self.fails(name, reason)
        for column in columns:
            if column.is_measured:
                self.measure(
                    series,
                    column.name,
                    column.value,
                    column.unit,
                    column.more_is_better,
                )
        return self

    def fill_sizes(
        self, sizes: Mapping[Any, Mapping[str, Series[Any]]], column: Column
    ) -> Section:
        """Make a row for each contestant and a column for each size.

        :param sizes: by a number, or by a tuple of numbers.
        """
        self.columns = ["pool", *map(_size, sizes)]
        for name in dict.fromkeys(name for series in sizes.values() for name in series):
            cells = []
            for series in sizes.values():
                entry = series.get(name)
                if entry is None:
                    cells.append("")
                elif entry.error is not None:
                    cells.append("failed")
                    self.failed[name] = entry.error
                else:
                    cells.append(" ".join(column.cells(entry, series)))
            self.add(name, *cells)
        more = (column.value, column.unit, column.more_is_better)
        for size, series in sizes.items():
            self.measure(series, f"{column.name} of {size}", *more)
        return self

    def add(self, *cells: str) -> None:
        """Append a row, filled up with empty cells."""
        self.rows.append([*cells, *[""] * (len(self.columns) - len(cells))])

    def fails(self, name: str, reason: str) -> None:
        """Append a row for a contestant without numbers, and say why below."""
        self.add(name, "failed")
        self.failed[name] = reason

    def starves(self, name: str, unserved: float, total: int) -> None:
        """Say below that a contestant left some greenlets unserved, if it did."""
        if unserved:
            self.starved[name] = (
                f"{unserved:.0f} of {total} greenlets never got a connection"
            )

    def measure(
        self,
        series: Mapping[str, Series[T]],
        quantity: str,
        value: Callable[[T], float],
        unit: str = "s",
        more_is_better: bool = False,
    ) -> None:
        """Keep one quantity of all that ran, round by round, for comparisons."""
        for name, entry in series.items():
            if entry.error is None:
                samples = [float(value(sample)) for sample in entry.samples]
                self.measures.append(
                    Measure(name, quantity, unit, samples, more_is_better)
                )

    def remarks(self) -> list[str]:
        """Return all that is said below the table."""
        unsteady: dict[str, list[str]] = {}
        for measure in self.measures:
            if is_unsteady(measure.samples):
                unsteady.setdefault(measure.quantity, []).append(measure.contestant)
        return [
            *(f"{name} failed: {reason}" for name, reason in self.failed.items()),
            *(f"{name} starves: {reason}" for name, reason in self.starved.items()),
            *self.notes,
            *_unsteady(unsteady),
        ]


def _size(size: int | tuple[int, ...]) -> str:
    return f"{size:,}" if isinstance(size, int) else ", ".join(map(_size, size))


def _unsteady(found: dict[str, list[str]]) -> list[str]:
    if not found:
        return []
    quantities = [
        f"{quantity} ({', '.join(names) if len(names) <= NAMED else len(names)})"
        for quantity, names in found.items()
    ]
    return ["varies by more than a tenth from round to round: " + "; ".join(quantities)]


@dataclass
class Report:
    """All that one run of a workload reports."""

    workload: str
    question: str
    sections: list[Section] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    def target(
        self, name: str, value: Spread | None, limit: float, at_least: bool = False
    ) -> None:
        """Add a target, unless there is no value for it."""
        if value is not None:
            self.targets.append(Target(name, value, limit, at_least))

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain data, with None for what is not a number."""
        plain = asdict(self)
        for target, entry in zip(self.targets, plain["targets"], strict=True):
            entry["is_met"] = target.is_met
        finite: dict[str, Any] = _finite(plain)
        return finite


def _finite(plain: Any) -> Any:
    # JSON has neither NaN nor infinity, and a run of ten minutes must not be lost to
    # one of them.
    if isinstance(plain, float):
        return plain if math.isfinite(plain) else None
    if isinstance(plain, dict):
        return {key: _finite(value) for key, value in plain.items()}
    if isinstance(plain, list | tuple):
        return [_finite(value) for value in plain]
    return plain


def terminal() -> Console:
    """Return the console for reports, wide enough for the tables if it is a file."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def show(report: Report, console: Console) -> None:
    """Print the report's tables, notes and targets."""
    console.print()
    console.print(Text(f"{report.workload}: {report.question}", style="bold"))
    for section in report.sections:
        table = Table(
            title=section.title,
            title_justify="left",
            box=box.SIMPLE,
            pad_edge=False,
            collapse_padding=True,
        )
        for number, column in enumerate(section.columns):
            justify: JustifyMethod = "right" if number else "left"
            table.add_column(column, justify=justify, no_wrap=True)
        for row in section.rows:
            style = "bold" if row[0].startswith("geventpool") else None
            table.add_row(*row, style=style)
        console.print(table)
        for note in section.remarks():
            console.print(Text(f"  {note}", style="dim"))
    for target in report.targets:
        console.print(_verdict(target))


def _verdict(target: Target) -> Text:
    word, style = ("met   ", "green") if target.is_met else ("MISSED", "red")
    relation = ">=" if target.at_least else "<="
    text = Text(f"  {word} ", style=style)
    text.append(
        f"{target.name}: {number(target.value.median)} {relation} {target.limit:g}",
        style="default",
    )
    if target.is_unclear:
        text.append(" (the spread reaches beyond the limit)", style="dim")
    return text


def number(value: float) -> str:
    """Write a number in three significant digits, without an exponent."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def duration(seconds: float) -> str:
    """Write a time in the unit that suits it."""
    if seconds < 1e-6:
        return f"{seconds * 1e9:.0f} ns"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.2f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds:.2f} s"


def milliseconds(seconds: float) -> str:
    """Write milliseconds without the unit, for narrow columns."""
    value = seconds * 1000
    return f"{value:.1f}" if value >= 1 or value == 0 else f"{value:.3f}"


def ratio(spread: Spread) -> str:
    """Write a ratio, or "no difference" where its spread includes 1."""
    if spread.is_no_difference:
        return "no difference"
    return f"{number(spread.median)}×"


def part(spread: Spread) -> str:
    """Write a ratio in per cent, or "no difference"."""
    return "no difference" if spread.is_no_difference else per_cent(spread.median)


def per_cent(share: float) -> str:
    """Write a fraction in per cent."""
    return f"{share * 100:.0f} %"


def plus_minus(spread: Spread) -> str:
    """Write half the distance of the bounds, as a fraction of the median."""
    return f"±{spread.width * 50:.0f} %"
