"""The table of the demo, and the verdict on our pools."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table

from benchmarks.demo.scenario import Record, Scenario
from benchmarks.report import duration
from benchmarks.rounds import percentile
from benchmarks.servers import LIMIT

#: Seconds between two lines where nothing can be redrawn.
LINE_EVERY = 2.0

COLUMNS = ("", "per s", "p50", "p99", "longest", "replies", "failed", "wrong")
COLUMNS += ("sockets", "places", "back")

LEGEND = """\
per s: replies per second; p50, p99: time from a request to its reply, in the first,
calm phase; longest: of the whole run, from the first attempt of a request to its reply,
for a client tries a failed request again; failed: attempts that raised an error; wrong:
replies to another request; sockets: the most that the server had at once, of those
allowed (our pool for MySQL has one more, to end interrupted statements at the server);
places: connections that could be borrowed at once at the end; back: from the server's
return to the first reply. Replies, failed and wrong count the whole run; a request that
the client itself gave up is neither. Both runs have the same clients and the same
outage. Every pool has its defaults."""


class Screen:
    """Draws a scenario on a console, redrawn in place or as a line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        # Without a refreshing thread, which would be one greenlet more.
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._line_at = 0.0
        self._phase = ""

    def __enter__(self) -> Screen:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._live.stop()

    def draw(self, scenario: Scenario) -> None:
        """Show the present state."""
        if self._console.is_terminal:
            when = f"{scenario.elapsed:4.1f} of {scenario.seconds:g} s"
            title = f"{scenario.title}, {when}, {scenario.phase}"
            self._live.update(summary([scenario], title), refresh=True)
        elif scenario.phase != self._phase or scenario.elapsed >= self._line_at:
            self._phase, self._line_at = scenario.phase, scenario.elapsed + LINE_EVERY
            self._console.print(line(scenario), soft_wrap=True, highlight=False)


def line(scenario: Scenario) -> str:
    """Return the scenario as a line."""
    parts = []
    for record in scenario.records:
        sockets = "down" if record.sockets is None else f"{record.sockets} sockets"
        account = record.account
        counts = f"{account.answered:,} replies, {account.failed} failed"
        parts.append(f"{record.server.name} {counts}, {sockets}")
    return f"{scenario.elapsed:5.1f} s  {scenario.phase:22}  {';  '.join(parts)}"


def summary(scenarios: Sequence[Scenario], title: str) -> Table:
    """Return one row for each pool of each scenario, server by server."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for records in zip(*(scenario.records for scenario in scenarios), strict=True):
        for scenario, record in zip(scenarios, records, strict=True):
            name = f"{record.server.name}, {scenario.title}"
            style = "bold" if scenario.title == "ours" else None
            table.add_row(name, *_cells(record), style=style)
    return table


def _cells(record: Record) -> Iterator[str]:
    account = record.account
    yield f"{record.calm_rate:,.0f}"
    yield duration(percentile(record.calm, 0.5))
    yield duration(percentile(record.calm, 0.99))
    yield duration(max(record.whole, default=0.0))
    yield from map("{:,}".format, (account.answered, account.failed, account.wrong))
    yield f"{record.peak}/{LIMIT + record.pool.aside}"
    yield f"{record.places}/{LIMIT}"
    yield "" if record.back is None else duration(record.back)


def verdict(scenario: Scenario, console: Console) -> bool:
    """Say whether our pool kept its promises, and which it did not."""
    console.print(LEGEND, style="dim", highlight=False)
    broken = [promise for record in scenario.records for promise in _broken(record)]
    broken += [f"a line was named without a reason: {each}" for each in scenario.alarms]
    for promise in broken:
        console.print(f"FAILED  {promise}", style="red")
    if not broken:
        answered = sum(record.account.answered for record in scenario.records)
        console.print(
            f"{answered:,} replies, none wrong; {scenario.killed} greenlets killed; "
            "never more sockets at a server than allowed, and no place lost.",
            style="green",
            highlight=False,
        )
    return not broken


def _broken(record: Record) -> Iterator[str]:
    name, account = record.server.name, record.account
    if account.wrong:
        yield f"{name}: {account.wrong} replies were wrong"
    if not record.peak:
        yield f"{name}: the server never told how many sockets it had"
    if record.peak > LIMIT + record.pool.aside:
        yield f"{name}: the server had {record.peak} sockets"
    if record.places < LIMIT:
        yield f"{name}: only {record.places} of {LIMIT} places are left"
    if not account.answered:
        errors = ", ".join(f"{kind} {count}" for kind, count in account.errors.items())
        yield f"{name}: no request was answered ({errors})"
