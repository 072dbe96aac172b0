"""How long do greenlets wait when many want few connections?

200 greenlets want 10 connections again and again and hold each for a millisecond. "The
possible" is measured in the same run: as many greenlets as there are connections hold
them without any pool. There cannot be more throughput than that, and if everybody is
served in turn, a wait lasts as long as all the others need for one loan each.

Three loads. The job: every greenlet needs 20 loans in a row, and the job is done when
the last has had them. The handlers: every greenlet does something else between two
loans (a turn of the loop). The greedy: every greenlet borrows again at once. A pool
that lets a running greenlet overtake the waiting ones then serves as many greenlets as
it has connections, and the others never.

Then the same for 1 to 1000 greenlets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gevent

from benchmarks import adapters, crowd
from benchmarks.adapters import FLOOR, GENERATOR, OURS, Builder, Builders
from benchmarks.adapters.base import CONNECTIONS
from benchmarks.crowd import Contestant, Turn, throughput, unserved
from benchmarks.figures import Figure
from benchmarks.report import Column, Report, Section, duration, per_cent
from benchmarks.rounds import Scale, Series, over, percentile

#: Seconds that each loan lasts.
HOLD = 0.001

#: What the same connections could serve without a pool.
POSSIBLE = "the maximum"

#: Numbers of greenlets, and the fraction of the seconds of a load that one turn takes.
GREENLETS = (1, 3, 10, 30, 100, 300, 1000)
SHARE = 0.25

#: Loans that every greenlet should at least be able to have.
MIN_LOANS = 5


def run(scale: Scale) -> Report:
    """Put every load on every pool. May switch."""
    report = Report("contention", "how long do greenlets wait for few connections?")
    builders, report.missing = adapters.installed()
    alone, floor = adapters.ours.generator, adapters.ours.gevent_queue
    builders = {GENERATOR: alone, FLOOR: floor, **builders}
    for load in _loads(scale):
        # A round takes seconds, and a percentile of waits is one of thousands.
        table = _compare(report, builders, load, scale.long_rounds)
        ratio = table.over(OURS, POSSIBLE, p99)
        report.target(f"p99 wait, {load.name}, to the maximum", ratio, 1.3)
        ratio = table.over(OURS, table.peer, throughput)
        title = f"throughput, {load.name}, to {table.peer}"
        report.target(title, ratio, 1.0, at_least=True)
        report.figures.append(_waits(table.series, load))
    _add_curve(report, builders, scale)
    return report


def _loads(scale: Scale) -> tuple[Load, ...]:
    greedy = Load("the greedy", scale.crowd, seconds=scale.seconds)
    return (
        replace(greedy, name="the job", loans=max(2, int(20 * scale.seconds))),
        replace(greedy, name="the handlers", is_greedy=False),
        greedy,
    )


@dataclass(frozen=True)
class Load:
    """What the greenlets want.

    :ivar hold: seconds that a loan lasts.
    :ivar is_greedy: whether a greenlet borrows again at once, or lets the event loop
        turn first.
    :ivar loans: how often each greenlet borrows; None: for *seconds*.
    """

    name: str = "load"
    greenlets: int = 200
    connections: int = CONNECTIONS
    hold: float = HOLD
    seconds: float = 1.0
    is_greedy: bool = True
    loans: int | None = None

    @property
    def title(self) -> str:
        """The load in words."""
        each = f"{self.loans} times each"
        end = f"for {duration(self.seconds)}" if self.loans is None else each
        again = "at once" if self.is_greedy else "after a turn of the event loop"
        return (
            f"{self.name}: {self.greenlets} greenlets, {self.connections} connections, "
            f"held {duration(self.hold)}, borrowed again {again}, {end}"
        )

    def put_on(self, build: Builder) -> Turn:
        """Return what becomes of this load on a new pool. May switch.

        A pool that lost connections to the killed greenlets of its last turn would
        begin the next one with fewer.
        """
        pool = build(self.connections)
        release, sleep = pool.release, gevent.sleep
        hold, is_greedy = self.hold, self.is_greedy

        def use(conn: Any) -> None:
            sleep(hold)
            release(conn)
            if not is_greedy:
                sleep(0)

        # Who is refused tries again after the time of one loan.
        borrowers = Contestant([pool.acquire], pool.refusals, int, False, use, hold)
        length = (self.greenlets, self.seconds, self.loans)
        try:
            return crowd.turn(borrowers, *length, cuts=self.loans is None)
        finally:
            pool.close()

    def possible(self) -> Turn:
        """Return what is possible: a holder for each connection. May switch."""
        holders = min(self.greenlets, self.connections)
        alone = replace(self, greenlets=holders, loans=None, is_greedy=True)
        free = alone.put_on(adapters.ours.generator)
        # If all are served in turn, each waits while all the others have their loan.
        hold = holders / throughput(free)
        return replace(free, waits=[(self.greenlets - holders) * hold / holders])


def jain(counts: Sequence[float]) -> float:
    """Return Jain's index: 1 for equal shares, 1/n if one got all, 0 for nothing."""
    squares = sum(count * count for count in counts)
    return float(sum(counts) ** 2 / (len(counts) * squares)) if squares else 0.0


def _turns(builders: Builders, load: Load) -> dict[str, Callable[[], Turn]]:
    pools = {name: partial(load.put_on, each) for name, each in builders.items()}
    return {POSSIBLE: load.possible, **pools}


def p99(turn: Turn) -> float:
    """Return the 99th percentile of the waits."""
    return percentile(turn.waits, 0.99)


RATE = Column("loans/s", throughput, "1/s", True, text="{:,.0f}".format, to=("floor",))
COLUMNS = (
    RATE,
    Column("p50 wait", lambda each: percentile(each.waits, 0.5)),
    Column("p99 wait", p99, to=("floor",)),
    Column("longest wait", lambda each: max(each.waits)),
    Column("fairness", lambda each: jain(each.halfway), "", more_is_better=True),
    Column("unserved", unserved, "", text="{:.0f}".format),
    Column("refused", lambda each: each.refused, ""),
    Column("CPU each", crowd.cpu_each),
)


def _compare(report: Report, builders: Builders, load: Load, rounds: int) -> Section:
    table = report.compare(
        load.title,
        _turns(builders, load),
        rounds,
        COLUMNS,
        floor=POSSIBLE,
        rivals=[name for name in builders if name not in (FLOOR, GENERATOR, OURS)],
    )
    table.notes.append(
        "fairness: Jain's index of loans per greenlet (of a job: at half time); "
        "unserved: greenlets without a loan; refused: attempts that were refused; the "
        "generator alone lends to everybody at once, so its waits mean nothing"
    )
    table.starves(unserved, load.greenlets)
    return table


def _waits(series: Mapping[str, Series[Turn]], load: Load) -> Figure:
    waits = {
        name: [wait for turn in entry.samples for wait in turn.waits]
        for name, entry in series.items()
        if entry.samples and name != GENERATOR
    }
    # The possible is one number; it is drawn as far as the others go.
    longest = max(len(each) for each in waits.values())
    waits[POSSIBLE] = [series[POSSIBLE].spread(p99).median] * longest
    stem = load.name.removeprefix("the ")
    medians = {
        name: entry.spread(p99).median
        for name, entry in series.items()
        if entry.samples and name not in (POSSIBLE, FLOOR, GENERATOR)
    }
    ours = medians.pop(OURS, 0.0)
    least, most = min(medians.values(), default=0), max(medians.values(), default=0)
    title = (
        f"99 % of the waits are shorter than {duration(ours)} with {OURS}, "
        f"{duration(least)} to {duration(most)} with others"
    )
    return Figure.of_waits(f"waits-{stem}", title, load.title, waits)


# From 1 to 1000 greenlets


def _add_curve(report: Report, builders: Builders, scale: Scale) -> None:
    turns: dict[tuple[str, int], Callable[[], Turn]] = {}
    for size in (size for size in GREENLETS if size <= scale.greenlets):
        # Most of the time must not be spent on everybody's first loan.
        least = MIN_LOANS * size * HOLD / CONNECTIONS
        seconds = max(scale.seconds * SHARE, least)
        load = Load("handlers", size, seconds=seconds, is_greedy=False)
        for name, turn in _turns(builders, load).items():
            turns[name, size] = turn
    how = f"{CONNECTIONS} connections held {duration(HOLD)}, by greenlets"
    columns = (replace(RATE, to=None), COLUMNS[-1])
    tables = {f"{column.name}, {how}": column for column in columns}
    curve = report.compare_sizes(tables, turns, scale.long_rounds, POSSIBLE)
    last = max(curve)
    title = f"{last:,} greenlets on {CONNECTIONS} connections"
    ratio = over(curve[last], OURS, POSSIBLE, throughput)
    if ratio is not None:
        rate = f"{curve[last][OURS].spread(throughput).median:,.0f} loans/s"
        share = f"{per_cent(ratio.median)} of the maximum"
        title = f"With {last:,} greenlets {OURS} makes {rate}, {share}"
    caption = (
        f"{CONNECTIONS} connections, held {duration(HOLD)}; each greenlet borrows "
        "again after a turn of the event loop"
    )
    labels = ("greenlets", "loans per second")
    for series in curve.values():
        series.pop(GENERATOR)
    figure = Figure.of_sizes("throughput", title, caption, labels, curve, throughput)
    report.figures.append(figure)
