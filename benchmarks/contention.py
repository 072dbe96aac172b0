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

Then the same for 1 to 1000 greenlets, and for other numbers of connections and lengths
of loans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from benchmarks import adapters
from benchmarks.adapters import FLOOR, OURS, Builder
from benchmarks.curves import Figure
from benchmarks.load import (
    CONNECTIONS,
    GENERATOR,
    HOLD,
    POSSIBLE,
    Load,
    Outcome,
    generator,
    turn_of,
    without_pool,
)
from benchmarks.report import Column, Report, Section, duration, part, per_cent
from benchmarks.rounds import (
    Scale,
    Series,
    Spread,
    best_of,
    interleave,
    interleave_sizes,
    ratio_between,
)

#: Numbers of greenlets, and the fraction of the seconds of a load that one turn takes.
GREENLETS = (1, 3, 10, 30, 100, 300, 1000)
SHARE = 0.25

#: Loans that every greenlet should at least be able to have.
MIN_LOANS = 5

#: Greenlets, connections and seconds of a loan.
GRID = ((20, 10, 0.01), (200, 100, 0.001), (200, 100, 0.01), (2000, 100, 0.001))

#: Loans per second that one process can be expected to make.
MOST = 5000

Outcomes = Mapping[str, Series[Outcome]]


def run(scale: Scale) -> Report:
    """Put every load on every pool. May switch."""
    report = Report("contention", "how long do greenlets wait for few connections?")
    builders, missing = adapters.installed()
    builders = {
        GENERATOR: generator,
        FLOOR: adapters.ours.gevent_queue,
        **builders,
    }
    for load in _loads(scale):
        # A round takes seconds, and a percentile of waits is one of thousands.
        series = interleave(_turns(builders, load), scale.long_rounds, load.name)
        report.sections.append(_section(series, missing, load))
        _add_targets(report, series, load)
        report.figures.append(_waits(series, load))
    for load in _grid(scale):
        series = interleave(
            _turns(builders, load), max(1, scale.rounds // 5), load.name
        )
        report.sections.append(_section(series, missing, load))
    _add_curve(report, builders, scale)
    return report


def _loads(scale: Scale) -> tuple[Load, ...]:
    greedy = Load("the greedy", scale.crowd, seconds=scale.seconds)
    return (
        replace(greedy, name="the job", loans=max(2, int(20 * scale.seconds))),
        replace(greedy, name="the handlers", is_greedy=False),
        greedy,
    )


def _grid(scale: Scale) -> Iterator[Load]:
    for greenlets, connections, hold in GRID[:1] if scale.name == "tiny" else GRID:
        # Everybody should have had a loan or two, also behind many others.
        least = 3 * greenlets / min(connections / hold, MOST)
        seconds = max(scale.seconds / 4, least)
        name = f"{greenlets} on {connections}, {duration(hold)}"
        yield Load(name, greenlets, connections, hold, seconds, is_greedy=False)


def _turns(
    builders: Mapping[str, Builder], load: Load
) -> dict[str, Callable[[], Outcome]]:
    return {
        POSSIBLE: partial(without_pool, load),
        **{name: turn_of(build, load) for name, build in builders.items()},
    }


def throughput(outcome: Outcome) -> float:
    """Return the loans per second."""
    return outcome.throughput


def p99(outcome: Outcome) -> float:
    """Return the 99th percentile of the waits."""
    return outcome.p99


def pools_of(series: Outcomes) -> list[str]:
    """Return the names of the pools, without what only shows what is possible."""
    return [name for name in series if name not in (POSSIBLE, FLOOR, GENERATOR)]


def best_peer(series: Outcomes) -> str | None:
    """Return the peer with the highest throughput."""
    peers = [name for name in pools_of(series) if name != OURS]
    return best_of(series, peers, throughput)


def _section(series: Outcomes, missing: dict[str, str], load: Load) -> Section:
    section = Section(load.title, key=load.name, floor=POSSIBLE)
    section.best = best_peer(series)
    rate = Column(
        "loans/s",
        throughput,
        "1/s",
        more_is_better=True,
        text=lambda value: f"{value:,.0f}",
        spread=True,
        ratios={"of poss.": POSSIBLE},
        as_part=True,
    )
    columns = [
        rate,
        Column("p50 wait", lambda each: each.wait(0.5), is_measured=False),
        Column("p99 wait", p99, ratios={"to poss.": POSSIBLE}),
        Column("longest wait", lambda each: each.wait(1)),
        Column("fairness", lambda each: each.fairness, "", more_is_better=True),
        Column("unserved", lambda each: each.unserved, "", text="{:.0f}".format),
        Column("refused", lambda each: each.refused, "", is_measured=False),
        Column("CPU each", lambda each: each.cpu_each),
    ]
    section.fill(series, columns, missing)
    # The generator lends to everybody at once: its waits mean nothing.
    for row in section.rows:
        if row[0] == GENERATOR:
            row[3:-1] = [""] * len(row[3:-1])
    section.measures = [
        each
        for each in section.measures
        if each.contestant != GENERATOR or each.quantity in ("loans/s", "CPU each")
    ]
    for name in set(series) - {GENERATOR}:
        if series[name].samples:
            left_out = series[name].spread(lambda each: each.unserved).median
            section.starves(name, left_out, load.greenlets)
    section.notes.append(
        "fairness: Jain's index of loans per greenlet (of a job: at half time); "
        "unserved: greenlets without a loan; refused: attempts that were refused"
    )
    fastest = best_of(series, pools_of(series), throughput)
    if fastest is not None and series[GENERATOR].samples:
        limit = series[GENERATOR].spread(throughput).median
        most = series[fastest].spread(throughput).median
        section.notes.append(
            f"the load generator alone makes {limit:,.0f} loans/s; the fastest pool "
            f"makes {per_cent(most / limit)} of that"
        )
    return section


def _add_targets(report: Report, series: Outcomes, load: Load) -> None:
    over = ratio_between(series, OURS, POSSIBLE, p99)
    report.target(f"p99 wait, {load.name}, to the possible", over, 1.3)
    best = best_peer(series)
    if best is not None:
        over = ratio_between(series, OURS, best, throughput)
        report.target(f"throughput, {load.name}, to {best}", over, 1.0, at_least=True)


def _waits(series: Outcomes, load: Load) -> Figure:
    waits = {
        name: [wait for outcome in entry.samples for wait in outcome.waits]
        for name, entry in series.items()
        if entry.samples and name != GENERATOR
    }
    # The possible is one number; it is drawn as far as the others go.
    longest = max(len(each) for each in waits.values())
    waits[POSSIBLE] = [series[POSSIBLE].spread(p99).median] * longest
    stem = load.name.removeprefix("the ")
    return Figure.of_waits(f"waits-{stem}", _wait_message(series), load.title, waits)


def _wait_message(series: Outcomes) -> str:
    names = [name for name in pools_of(series) if series[name].samples]
    medians = {name: series[name].spread(p99).median for name in names}
    parts = []
    ours = medians.pop(OURS, None)
    if ours is not None:
        parts.append(f"{duration(ours)} with {OURS}")
    if medians:
        least, most = min(medians.values()), max(medians.values())
        parts.append(f"{duration(least)} to {duration(most)} with others")
    return "99 % of the waits are shorter than " + ", ".join(parts)


# From 1 to 1000 greenlets

#: The series of every contestant, by the number of greenlets.
Curve = dict[int, dict[str, Series[Outcome]]]


def _add_curve(report: Report, builders: dict[str, Builder], scale: Scale) -> None:
    turns: dict[tuple[str, int], Callable[[], Outcome]] = {}
    for size in (size for size in GREENLETS if size <= scale.greenlets):
        # Most of the time must not be spent on everybody's first loan.
        least = MIN_LOANS * size * HOLD / CONNECTIONS
        seconds = max(scale.seconds * SHARE, least)
        load = Load("handlers", size, seconds=seconds, is_greedy=False)
        for name, turn in _turns(builders, load).items():
            turns[name, size] = turn
    curve = interleave_sizes(turns, scale.long_rounds, "1 to 1000 greenlets")
    rate = Column("loans/s", throughput, "1/s", True, text="{:,.0f}".format)
    for column in (rate, Column("CPU each", lambda outcome: outcome.cpu_each)):
        how = f"{CONNECTIONS} connections held {duration(HOLD)}, by greenlets"
        section = Section(f"{column.name}, {how}", key=column.name, floor=POSSIBLE)
        section.best = best_peer(curve[max(curve)])
        report.sections.append(section.fill_sizes(curve, column))
    report.figures.append(_curve_figure(curve))


def _curve_figure(curve: Curve) -> Figure:
    last = curve[max(curve)]
    lines: dict[str, dict[float, Spread]] = {}
    for size, series in curve.items():
        for name, entry in series.items():
            if name != GENERATOR and entry.samples:
                lines.setdefault(name, {})[size] = entry.spread(throughput)
    title = f"{max(curve):,} greenlets on {CONNECTIONS} connections"
    over = ratio_between(last, OURS, POSSIBLE, throughput)
    if over is not None:
        rate = f"{last[OURS].spread(throughput).median:,.0f} loans/s"
        share = part(over)
        of = (
            "as many as possible"
            if over.is_no_difference
            else f"{share} of the possible"
        )
        title = f"With {max(curve):,} greenlets {OURS} makes {rate}, {of}"
    return Figure.of_lines(
        "throughput",
        title,
        f"{CONNECTIONS} connections, held 1 ms; everyone wants one again after a turn "
        "of the loop",
        "greenlets",
        "loans per second",
        lines,
        log_y=False,
    )
