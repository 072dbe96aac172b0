"""
What a workload has to say: tables, and targets met or missed.

It knows how a report looks on a terminal and in a JSON file, and nothing of how its
numbers came about.
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from benchmarks.rounds import Spread

#: The packages whose versions belong beside every number.
PACKAGES = (
    "gevent",
    "greenlet",
    "redis",
    "PyMySQL",
    "SQLAlchemy",
    "DBUtils",
    "gsocketpool",
)


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


@dataclass
class Section:
    """One table: a heading, columns, rows of text, and the same as numbers."""

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    #: What the rows say as numbers, by contestant; goes to the JSON file.
    data: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        """Append a row, filled up with empty cells."""
        self.rows.append([*cells, *[""] * (len(self.columns) - len(cells))])

    def fails(self, name: str, reason: str) -> None:
        """Append a row for a contestant that has no numbers, and say why below."""
        self.add(name, "failed")
        self.notes.append(f"{name} failed: {reason}")


@dataclass
class Report:
    """All that one run of a workload has to say."""

    workload: str
    question: str
    sections: list[Section] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The report as plain data."""
        plain = asdict(self)
        for target, entry in zip(self.targets, plain["targets"], strict=True):
            entry["is_met"] = target.is_met
        return plain


def surroundings() -> dict[str, Any]:
    """The machine, the versions and the command: without them a number is a rumour."""
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "command": "python -m benchmarks " + " ".join(sys.argv[1:]),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


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
        for note in section.notes:
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


def plus_minus(spread: Spread) -> str:
    """How far the quartiles are apart, as a part of the median."""
    return f"±{spread.width * 50:.0f} %"
