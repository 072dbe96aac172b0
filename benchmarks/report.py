"""What a workload reports: tables, figures, and targets met or missed.

It knows how a report looks on a terminal and as plain data, and nothing about how the
numbers were measured.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure
from benchmarks.rounds import WARM_UP, Series, Spread, best_of, interleave, over

#: The series by size, which is a number or a tuple of numbers, and then by contestant.
Sizes = dict[Any, dict[str, Series[Any]]]

#: Width of what is printed into a file, in characters.
WIDTH = 160


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

    def __str__(self) -> str:
        wanted = "wanted >=" if self.at_least else "wanted <="
        text = f"{self.name}: {number(self.value.median)}, {wanted} {self.limit:g}"
        if self.value.low < self.limit < self.value.high:
            text += " (the limit is within the spread)"
        return text


@dataclass(frozen=True)
class Column:
    """One quantity of a table.

    :ivar name: its heading.
    :ivar value: reads it off a sample; None: it has none.
    :ivar unit: "s" for times, else empty.
    :ivar text: how a number is written; by default as *unit* suggests.
    :ivar to: further columns with ratios: to the "floor" of the table, to the best
        "peer". The spread stands beside it too.
    :ivar total: of the values of all rounds; what is shown.
    """

    name: str
    value: Callable[[Any], float | None]
    unit: str = "s"
    more_is_better: bool = False
    text: Callable[[float], str] | None = None
    to: tuple[str, ...] | None = None
    total: Callable[[Sequence[float]], float] = median

    def values(self, samples: Sequence[Any]) -> list[float]:
        """Return the values of all rounds that have one."""
        values = map(self.value, samples)
        return [float(value) for value in values if value is not None]

    def of(self, samples: Sequence[Any]) -> float | None:
        """Return what is shown of all rounds, as a number."""
        values = self.values(samples)
        return self.total(values) if values else None

    def cell(self, samples: Sequence[Any]) -> str:
        """Return what is shown of all rounds; empty if there is nothing."""
        text = self.text or (duration if self.unit == "s" else number)
        value = self.of(samples)
        return "" if value is None else text(value)


@dataclass
class Section:
    """One table: a title, columns, rows of text, and the same as numbers.

    :ivar floor: the contestant that no pool can beat, if it is in this table.
    :ivar peer: the best of the peers in this run.
    :ivar numbers: of all rounds, by contestant and quantity.
    :ivar failed: contestants without numbers, with the reason.
    :ivar series: what it was filled with.
    """

    title: str
    floor: str | None = None
    peer: str | None = None
    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    numbers: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    series: Mapping[str, Series[Any]] = field(default_factory=dict)

    def fill(
        self,
        series: Mapping[str, Series[Any]],
        columns: Sequence[Column],
        missing: Mapping[str, str] | None = None,
        first: str = "pool",
    ) -> Section:
        """Make a row for each contestant, and keep the numbers.

        :param missing: contestants that could not be built, with the reason.
        :param first: the heading of the names.
        """
        self.series = series
        self.columns = [first]
        for column in columns:
            spread = [] if column.to is None else ["spread"]
            ratios = [f"to {role}" for role in self._others(column)]
            self.columns += [column.name, *spread, *ratios]
        failed = {name: each.error for name, each in series.items() if each.error}
        for name, entry in series.items():
            if name not in failed:
                cells = (self._cells(entry, each, each.name) for each in columns)
                self.add(name, *(text for each in cells for text in each))
        for name, reason in {**failed, **(missing or {})}.items():
            self.add(name, "failed")
            self.failed[name] = reason
        return self

    def _others(self, column: Column) -> dict[str, str]:
        """Return the contestants that a column compares with, by their role."""
        roles = {"floor": self.floor, "peer": self.peer}
        found = {role: roles[role] or "" for role in column.to or ()}
        return {role: name for role, name in found.items() if name in self.series}

    def _cells(self, entry: Series[Any], column: Column, key: str) -> Iterator[str]:
        values = column.values(entry.samples)
        self.numbers.setdefault(entry.name, {})[key] = values
        yield column.cell(entry.samples)
        if column.to is not None:
            spread = Spread.of(values)
            yield f"±{spread.width * 50:.0f} %" if len(values) > 1 else "one round"
        for name in self._others(column).values():
            ratio = self.over(entry.name, name, column.value)
            yield "1" if name == entry.name else times(ratio) if ratio else ""

    def fill_sizes(self, sizes: Sizes, column: Column) -> Section:
        """Make a row for each contestant and a column for each size."""
        self.columns = ["pool", *map(_size, sizes)]
        for name in dict.fromkeys(name for series in sizes.values() for name in series):
            cells = []
            for size, self.series in sizes.items():
                entry = self.series.get(name)
                if entry is not None and entry.error is not None:
                    self.failed[name] = entry.error
                    cells.append("failed")
                elif entry is None:
                    cells.append("")
                else:
                    cells.append(" ".join(self._cells(entry, column, _size(size))))
            self.add(name, *cells)
        return self

    def over(
        self, name: str, other: str | None, value: Callable[[Any], float]
    ) -> Spread | None:
        """Return the ratio of two contestants; None unless both have samples."""
        return over(self.series, name, other or "", value)

    def spread(self, name: str, value: Callable[[Any], float]) -> Spread | None:
        """Return the spread of a contestant; None unless it has samples."""
        entry = self.series[name]
        return entry.spread(value) if entry.samples else None

    def add(self, *cells: str) -> None:
        """Append a row, filled up with empty cells."""
        self.rows.append([*cells, *[""] * (len(self.columns) - len(cells))])

    def starves(self, unserved: Callable[[Any], float], total: int) -> None:
        """Say below which contestants left some greenlets unserved."""
        for name, entry in self.series.items():
            most = max((unserved(sample) for sample in entry.samples), default=0)
            if most:
                who = f"{most:.0f} of {total} greenlets"
                self.notes.append(f"{name} starves: {who} never got a connection")

    def remarks(self) -> list[str]:
        """Return all that is said below the table."""
        roles = {"floor": self.floor, "peer": self.peer}
        shown = [role for role in roles if f"to {role}" in self.columns]
        return [
            *(f"{name} failed: {reason}" for name, reason in self.failed.items()),
            *(f"{role}: {roles[role]}" for role in shown),
            *self.notes,
        ]


@dataclass
class Report:
    """All that one run of a workload reports.

    :ivar missing: contestants that could not be built, with the reason.
    """

    workload: str
    question: str
    sections: list[Section] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    missing: Mapping[str, str] = field(default_factory=dict)

    def compare(
        self,
        title: str,
        turns: Mapping[str, Callable[[], Any]],
        rounds: int,
        columns: Sequence[Column],
        *,
        floor: str | None = None,
        rivals: Sequence[str] = (),
        first: str = "pool",
        warm_up: int = WARM_UP,
    ) -> Section:
        """Let contestants take turns, and add their table. May switch.

        :param rivals: the best of them in the first column is the peer.
        """
        series = interleave(turns, rounds, title.partition(":")[0], warm_up)
        sign = 1 if columns[0].more_is_better else -1
        peer = best_of(series, rivals, lambda each: sign * columns[0].value(each))
        section = Section(title, floor, peer)
        self.sections.append(section.fill(series, columns, self.missing, first))
        return section

    def compare_sizes(
        self,
        tables: Mapping[str, Column],
        turns: Mapping[tuple[str, Any], Callable[[], Any]],
        rounds: int,
        floor: str,
    ) -> Sizes:
        """Let contestants of several sizes take turns, and add tables. May switch.

        :param tables: the column that each title shows.
        :param turns: by the name of the contestant and the size.
        """
        sizes: Sizes = {}
        for (name, size), entry in interleave(
            turns, rounds, next(iter(tables))
        ).items():
            sizes.setdefault(size, {})[name] = replace(entry, name=name)
        for title, column in tables.items():
            section = Section(title, floor=floor).fill_sizes(sizes, column)
            section.failed.update(self.missing)
            self.sections.append(section)
        return sizes

    def target(
        self, name: str, value: Spread | None, limit: float, at_least: bool = False
    ) -> None:
        """Add a target, unless there is no value for it."""
        if value is not None:
            self.targets.append(Target(name, value, limit, at_least))

    def as_plain(self) -> dict[str, Any]:
        """Return the report as plain data, with what is said of it."""
        plain = {"question": self.question}
        sections = [{**vars(each), "remarks": each.remarks()} for each in self.sections]
        for section in sections:
            del section["series"]
        targets = [{"is_met": each.is_met, "text": str(each)} for each in self.targets]
        figures = list(map(asdict, self.figures))
        return {**plain, "sections": sections, "targets": targets, "figures": figures}


def terminal() -> Console:
    """Return the console for reports, wide enough for the tables if it is a file."""
    width = None if sys.stdout.isatty() else WIDTH
    return Console(width=width, markup=False, highlight=False)


def table_of(section: Section) -> Table:
    """Return the table as a terminal shows it."""
    look = {"title_justify": "left", "box": box.SIMPLE, "pad_edge": False}
    table = Table(title=section.title, **look)
    for place, column in enumerate(section.columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=True)
    for row in section.rows:
        is_ours = row[0].startswith(("geventpool", "ours"))
        table.add_row(*row, style="bold" if is_ours else None)
    return table


def show(report: Report, console: Console) -> None:
    """Print the report's tables, notes and targets."""
    console.print(f"\n{report.workload}: {report.question}", style="bold")
    for section in report.sections:
        console.print(table_of(section))
        for note in section.remarks():
            console.print(f"  {note}", style="dim")
    for target in report.targets:
        word, style = ("met   ", "green") if target.is_met else ("MISSED", "red")
        console.print(f"  {word} {target}", style=style)


def number(value: float) -> str:
    """Write a whole number as it is, and any other in three significant digits."""
    return f"{value:,.0f}" if float(value).is_integer() else _significant(value)


def _significant(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def duration(seconds: float) -> str:
    """Write a time in the unit that suits it."""
    if seconds < 1e-6:
        return f"{seconds * 1e9:.0f} ns"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.2f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _size(size: int | tuple[int, ...]) -> str:
    return f"{size:,}" if isinstance(size, int) else ", ".join(map(_size, size))


def times(ratio: Spread) -> str:
    """Write a ratio, or "no difference" where its spread includes 1."""
    return (
        "no difference" if ratio.is_no_difference else f"{_significant(ratio.median)}×"
    )


def per_cent(share: float) -> str:
    """Write a fraction in per cent."""
    return f"{share * 100:.0f} %"
