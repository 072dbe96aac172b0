"""The end of the demo: both runs side by side, and the verdict on ours."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.demo.show import Show, Sight
from benchmarks.demo.stores import LIMIT
from benchmarks.report import milliseconds

#: Waits are milliseconds; it all fits into 80 columns.
COLUMNS = ("", "per s", "p50 ms", "p99 ms", "longest", "failed", "astray", "sockets")
LAST_COLUMNS = ("places", "back ms")

LEGEND = """\
per s, p50, p99: in the calm act; longest: of all waits; sockets: the most that
the server counted; places: connections to be had at once in the end;
back: from the server's return to the first reply"""


def summary(shows: Sequence[Show]) -> Table:
    """One row for each pool of each show, store by store."""
    result = Table(
        title="The same crowd, the same kills, the same restart",
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in (*COLUMNS, *LAST_COLUMNS):
        result.add_column(column, justify="right" if column else "left", no_wrap=True)
    for pair in zip(*(show.sights for show in shows), strict=True):
        for sight in pair:
            style = "bold" if sight is pair[0] else None
            result.add_row(*_cells(sight), style=style)
    return result


def _cells(sight: Sight) -> tuple[str, ...]:
    tally = sight.door.tally
    return (
        sight.door.name,
        f"{sight.calm_rate:,.0f}",
        milliseconds(sight.calm.p50),
        milliseconds(sight.calm.p99),
        milliseconds(sight.whole.longest),
        str(sum(tally.errors.values())),
        str(tally.astray),
        f"{sight.peak}/{LIMIT}",
        f"{sight.usable}/{LIMIT}",
        "" if sight.recovered is None else milliseconds(sight.recovered),
    )


def verdict(show: Show, console: Console) -> bool:
    """Say whether our pool kept its promises, and what it did not."""
    console.print(LEGEND, style="dim", highlight=False)
    failures = [failure for sight in show.sights for failure in _failures(sight)]
    for failure in failures:
        console.print(f"FAILED  {failure}", style="red")
    if not failures:
        asked = sum(sight.door.tally.answered for sight in show.sights)
        console.print(
            f"{asked:,} replies, none astray; {show.killed} greenlets killed; never "
            f"more than {LIMIT} sockets at a server, and every place still there.",
            style="green",
            highlight=False,
        )
    return not failures


def _failures(sight: Sight) -> list[str]:
    name, tally = sight.store.name, sight.door.tally
    failures = []
    if tally.astray:
        failures.append(f"{name}: {tally.astray} replies went astray")
    if not sight.peak:
        failures.append(f"{name}: the server never said how many sockets it has")
    if sight.peak > LIMIT:
        failures.append(f"{name}: the server counted {sight.peak} sockets")
    if sight.usable < LIMIT:
        failures.append(f"{name}: only {sight.usable} of {LIMIT} places are left")
    if not tally.answered:
        errors = ", ".join(f"{kind} {count}" for kind, count in tally.errors.items())
        failures.append(f"{name}: nothing was ever answered ({errors})")
    return failures
