"""The table of the demo, and the verdict on our pools."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import inf
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from benchmarks.demo.scenario import OURS_ALONE, STOCK_POOLS, Record, Scenario
from benchmarks.report import Column, Section, table_of
from benchmarks.rounds import Series, percentile
from benchmarks.servers import LIMIT

#: Seconds between two lines where nothing can be redrawn.
LINE_EVERY = 2.0

#: What is told of one pool, in all its rounds, is worse by more than this fraction
#: before it is named as worse: less is within the spread of the rounds.
MARGIN = 0.1

LEGEND = """\
A pass of a client is a request to Redis and then one to MySQL. Passes are timed, and
not the requests to one server, because clients that are held up at one server are not
in line at the other. per s: passes per second; p50, p99: seconds of a pass in the
first, calm phase; longest: of the whole run. A client tries a failed request again, and
its time goes on. replies, failed, wrong: right replies, attempts that raised an error,
and replies to another request; a request that the client itself gave up does not count.
sockets: the most that the server had at once, of those allowed (our pool for MySQL has
one more, to end interrupted statements at the server); places: connections that could
be borrowed at once at the end; back: from the server's first reply to anybody until
each client that waited then has its reply. Replies, failed and wrong count all rounds;
longest, sockets and places are those of the worst round; the others are medians. Who
runs first changes from round to round. All runs have the same clients and the same
outage. Every pool has its defaults, but for auto_pipeline: with it the commands of all
greenlets to Redis share one connection. In an outage our pool makes one attempt to
connect at a time, every 5 to 50 ms; each client of the stock pool makes its own, some
1,500 in a second: one of them meets the server first, and the failed ones are the
price."""


#: Of a Scenario.
OF_PASSES = (
    Column("per s", lambda each: each.rate, "", True),
    Column("p50", lambda each: percentile(each.calm, 0.5)),
    Column("p99", lambda each: percentile(each.calm, 0.99)),
    Column("longest", lambda each: max(each.whole, default=0.0), total=max),
)

FAILED = Column("failed", lambda each: each.account.failed, "", total=sum)
#: As many as are allowed are right: fewer are not better.
SOCKETS = Column(f"sockets of {LIMIT}", lambda each: each.peak, "", total=max)

#: Of a Record.
OF_POOLS = (
    Column("replies", lambda each: each.account.answered, "", True, total=sum),
    FAILED,
    Column("wrong", lambda each: each.account.wrong, "", total=sum),
    SOCKETS,
    Column(f"places of {LIMIT}", lambda each: each.places, "", True, total=min),
    Column("back", lambda each: each.outage and each.outage.back),
)

#: Told beside the tables: the pool that connects most often meets the server first.
FIRST_REPLY = Column("first reply", lambda it: it.outage and it.outage.first_reply)


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
            self._live.update(Group(title, *summary([scenario])), refresh=True)
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


def subjects(
    scenarios: Sequence[Scenario],
) -> Iterator[tuple[str, tuple[Column, ...], dict[str, Series[Any]]]]:
    """Return each subject, its columns, and its rounds by the title of the pools."""
    runs: dict[str, Series[Any]] = {}
    for scenario in sorted(scenarios, key=lambda each: each.title):
        series = runs.setdefault(scenario.title, Series(scenario.title))
        series.samples.append(scenario)
    yield "a pass", OF_PASSES, runs
    for number, record in enumerate(scenarios[0].records):
        records = {
            title: Series(title, [each.records[number] for each in series.samples])
            for title, series in runs.items()
        }
        yield record.server.name, OF_POOLS, records


def summary(scenarios: Sequence[Scenario]) -> list[Table]:
    """Return a table of the passes and of each server, with a row for each pool."""
    return [
        table_of(Section(name).fill(series, columns, first="pools"))
        for name, columns, series in subjects(scenarios)
    ]


def worse(scenarios: Sequence[Scenario]) -> Iterator[str]:
    """Name each number of ours that is worse than that of the stock pools.

    That is, by more than the margin, or there is none.
    """
    for name, columns, found in subjects(scenarios):
        for column in columns if len(found) > 1 else ():
            ours, stock = (found[each].samples for each in (OURS_ALONE, STOCK_POOLS))
            mine, theirs = column.of(ours), column.of(stock)
            if theirs is None or column is SOCKETS:
                continue
            lead = theirs - mine if mine is not None else inf
            lead *= 1 if column.more_is_better or mine is None else -1
            if lead > MARGIN * theirs:
                shown = [column.cell(each) for each in (ours, stock)]
                yield f"{name}, {column.name}: {shown[0]}, stock {shown[1]}"


def first_replies(scenarios: Sequence[Scenario]) -> Iterator[str]:
    """Tell how soon the first client was served after an outage, and by what."""
    for name, columns, found in subjects(scenarios):
        for whose, series in found.items() if FAILED in columns else ():
            if first := FIRST_REPLY.cell(series.samples):
                failed = FAILED.cell(series.samples)
                yield f"{name}, {whose}: after {first}, {failed} failed attempts"


def verdict(scenarios: Sequence[Scenario], console: Console) -> bool:
    """Say whether our pools kept their promises, and which they did not."""
    console.print(LEGEND, style="dim", highlight=False)
    for each in first_replies(scenarios):
        console.print(f"first reply to a client: {each}", style="dim", highlight=False)
    for each in worse(scenarios):
        console.print(f"worse than stock: {each}", style="yellow", highlight=False)
    ours = [scenario for scenario in scenarios if scenario.title != STOCK_POOLS]
    records = [record for scenario in ours for record in scenario.records]
    broken = [promise for record in records for promise in _broken(record)]
    alarms = {alarm for scenario in ours for alarm in scenario.alarms}
    broken += [f"a line was named without a reason: {each}" for each in sorted(alarms)]
    for promise in broken:
        console.print(f"FAILED  {promise}", style="red")
    if not broken:
        answered = sum(record.account.answered for record in records)
        killed = sum(scenario.killed for scenario in ours)
        console.print(
            f"{answered:,} replies, none wrong; {killed} greenlets killed; "
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
