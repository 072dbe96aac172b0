"""
What a workload has to say: tables, measures, figures, and targets met or missed.

It knows how a report looks on a terminal and in a JSON file, and nothing of how its
numbers came about.
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

from benchmarks.figures import Figure
from benchmarks.rounds import Series, Spread, is_unsteady

T = TypeVar("T")

#: Columns of what is printed into a file.
WIDTH = 140

#: As many contestants are named one by one in a remark; of more, only how many.
NAMED = 3


@dataclass(frozen=True)
class Target:
    """A promise about a number: at most, or at least, so much."""

    name: str
    value: Spread
    limit: float
    at_least: bool = False

    @property
    def is_met(self) -> bool:
        """
        Whether the median keeps to the limit.

        "No less than the other" (a limit of 1) is also kept where no difference can
        be told.
        """
        if self.limit == 1.0 and self.value.is_no_difference:
            return True
        if self.at_least:
            return self.value.median >= self.limit
        return self.value.median <= self.limit

    @property
    def is_unclear(self) -> bool:
        """Whether the limit lies within the spread, so that another run may differ."""
        return self.value.low < self.limit < self.value.high


@dataclass(frozen=True)
class Measure:
    """
    One quantity of one contestant, a number for each round: what is compared.

    :ivar processes: how many of the samples, one after the other, are from each
        process, if the workload was run in several.
    """

    contestant: str
    quantity: str
    unit: str
    samples: list[float]
    more_is_better: bool = False
    processes: list[int] = field(default_factory=list)


@dataclass
class Section:
    """
    One table: a heading, columns, rows of text, and the same as numbers.

    :ivar key: what it is called from run to run, whatever the scale; else the title.
    :ivar floor: the contestant that no pool can beat, if it is in this table.
    :ivar best: the best of the peers in this run.
    """

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    #: What the rows say as numbers, by contestant; goes to the JSON file.
    data: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    key: str = ""
    floor: str | None = None
    best: str | None = None
    measures: list[Measure] = field(default_factory=list)
    #: Who has no numbers, and who let somebody starve, with the reason.
    failed: dict[str, str] = field(default_factory=dict)
    starved: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.key = self.key or self.title

    def add(self, *cells: str) -> None:
        """Append a row, filled up with empty cells."""
        self.rows.append([*cells, *[""] * (len(self.columns) - len(cells))])

    def fails(self, name: str, reason: str) -> None:
        """Append a row for a contestant that has no numbers, and say why below."""
        self.add(name, "failed")
        self.failed[name] = reason

    def starves(self, name: str, reason: str) -> None:
        """Say below that a contestant, which has numbers, left somebody out."""
        self.starved[name] = reason

    def measure(
        self,
        series: Mapping[str, Series[T]],
        quantity: str,
        value: Callable[[T], float],
        unit: str = "s",
        more_is_better: bool = False,
    ) -> None:
        """Keep one quantity of everyone who ran, round by round, for comparisons."""
        for name, entry in series.items():
            if entry.error is None:
                samples = [float(value(sample)) for sample in entry.samples]
                self.measures.append(
                    Measure(name, quantity, unit, samples, more_is_better)
                )

    def remarks(self) -> list[str]:
        """All that is to be said below the table."""
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


def _unsteady(found: dict[str, list[str]]) -> list[str]:
    if not found:
        return []
    said = [
        f"{quantity} ({', '.join(names) if len(names) <= NAMED else len(names)})"
        for quantity, names in found.items()
    ]
    return ["deviates by more than a tenth from round to round: " + "; ".join(said)]


@dataclass
class Report:
    """All that one run of a workload has to say."""

    workload: str
    question: str
    sections: list[Section] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The report as plain data, with None for what is no number."""
        plain = asdict(self)
        for target, entry in zip(self.targets, plain["targets"], strict=True):
            entry["is_met"] = target.is_met
        finite: dict[str, Any] = _finite(plain)
        return finite


def _finite(plain: Any) -> Any:
    # JSON knows neither "not a number" nor infinity, and no run of ten minutes should
    # be lost to one of them.
    if isinstance(plain, float):
        return plain if math.isfinite(plain) else None
    if isinstance(plain, dict):
        return {key: _finite(value) for key, value in plain.items()}
    if isinstance(plain, list | tuple):
        return [_finite(value) for value in plain]
    return plain


def terminal() -> Console:
    """Where reports are printed; wide enough for our tables if it is a file."""
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
    """A number in three significant digits, without an exponent."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    if seconds < 1e-6:
        return f"{seconds * 1e9:.0f} ns"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.2f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds:.2f} s"


def milliseconds(seconds: float) -> str:
    """A time in milliseconds, without the unit: for columns that must be narrow."""
    value = seconds * 1000
    return f"{value:.1f}" if value >= 1 or value == 0 else f"{value:.3f}"


def ratio(spread: Spread) -> str:
    """A ratio, or "no difference" where its spread is wider than the difference."""
    if spread.is_no_difference:
        return "no difference"
    return f"{number(spread.median)}×"


def part(spread: Spread) -> str:
    """A ratio in per cent, or "no difference"."""
    return "no difference" if spread.is_no_difference else per_cent(spread.median)


def per_cent(share: float) -> str:
    """A part of a whole."""
    return f"{share * 100:.0f} %"


def plus_minus(spread: Spread) -> str:
    """How far the bounds are from each other, as a part of the median, halved."""
    return f"±{spread.width * 50:.0f} %"
