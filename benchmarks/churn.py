"""
What does a lifetime of connections cost those who borrow them?

A crowd borrows from a pool whose connections are replaced when they have reached an
age, and from the same pool without that; both in every round. A dial takes a few
milliseconds. What a lifetime costs is told as the ratio of the two: CPU time of a
loan, loans per second, the wait of the slowest hundredth. A pool that dials in its
borrowers' own time shows it there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks import peers
from benchmarks.crowds import CONNECTIONS, Crowd, Load, crowd
from benchmarks.dummies import dialled
from benchmarks.peers import Builder
from benchmarks.report import Report, Section, Target, duration, number, ratio
from benchmarks.rounds import Scale, Series, interleave

#: Seconds a dial takes, and a loan.
DIAL, HOLD = 0.005, 0.001
#: Seconds a connection may live, as a part of the turn.
PART = 0.25
#: Greenlets for each connection: few, for a wait to be the dial's and not the line's.
CROWDED = 2

NONE = ", no lifetime"


@dataclass(frozen=True)
class Churn:
    """What a crowd did, and the dials it took."""

    crowd: Crowd
    dials: int
    peak: int

    @property
    def per_second(self) -> float:
        """Dials."""
        return self.dials / self.crowd.seconds


def run(scale: Scale) -> Report:
    """Every pool that knows lifetimes, with and without one. **May switch.**"""
    report = Report("churn", "what does a lifetime of connections cost?")
    lifetime = PART * scale.seconds
    load = Load("churn", CROWDED * CONNECTIONS, hold=HOLD, seconds=scale.seconds)
    turns: dict[str, Callable[[], Churn]] = {}
    failed: dict[str, str] = {}
    for build in peers.AGEING:
        contestants, missing = peers.built((build,), CONNECTIONS)
        peers.close_all(contestants)
        failed.update(missing)
        for name in contestants:
            turns[name] = partial(_churned, build, load, lifetime)
            turns[name + NONE] = partial(_churned, build, load, None)
    series = interleave(turns, max(2, scale.rounds // 2), "lifetimes")
    section = _section(series, load, lifetime)
    for name, reason in failed.items():
        section.fails(name, reason)
    report.sections.append(section)
    report.targets += _targets(series)
    return report


def _churned(build: Builder, load: Load, lifetime: float | None) -> Churn:
    kind = dialled(DIAL)
    # What gsocketpool's reaper asks the connection itself.
    kind.board.lifetime = lifetime
    contestant = build(load.connections, kind, lifetime)
    try:
        done = crowd(contestant, load)
        return Churn(done, kind.board.dials, kind.board.peak)
    finally:
        contestant.close()


def _p99(churn: Churn) -> float:
    return churn.crowd.wait(0.99)


def _cpu(churn: Churn) -> float:
    return churn.crowd.cpu_each


def _rate(churn: Churn) -> float:
    return churn.crowd.throughput


def _section(series: dict[str, Series[Churn]], load: Load, lifetime: float) -> Section:
    section = Section(
        f"{load.greenlets} greenlets on {load.connections} connections that live "
        f"{duration(lifetime)}, each dial {duration(DIAL)}, each loan {duration(HOLD)}",
        ["pool", "loans/s", "to none", "CPU each", "to none", "p99 wait", "to none"]
        + ["longest", "dials/s", "open"],
        key="churn",
    )
    for name in [each for each in series if not each.endswith(NONE)]:
        entry, none = series[name], series[name + NONE]
        error = entry.error or none.error
        if error is not None:
            section.fails(name, error)
            continue
        peak = max(churn.peak for churn in entry.samples)
        section.add(
            name,
            number(entry.spread(_rate).median),
            ratio(entry.over(none, _rate)),
            duration(entry.spread(_cpu).median),
            ratio(entry.over(none, _cpu)),
            duration(entry.spread(_p99).median),
            ratio(entry.over(none, _p99)),
            duration(entry.spread(lambda churn: churn.crowd.wait(1)).median),
            number(entry.spread(lambda churn: churn.per_second).median),
            str(peak),
        )
        if peak > load.connections:
            section.notes.append(f"{name} opened {peak} of {load.connections}")
        unserved = max(churn.crowd.served.count(0) for churn in entry.samples)
        if unserved:
            section.starves(name, f"left {unserved} of {load.greenlets} unserved")
        section.data[name] = [
            {
                "throughput": churn.crowd.throughput,
                "cpu": churn.crowd.cpu_each,
                "p99": churn.crowd.wait(0.99),
                "dials": churn.dials,
            }
            for churn in entry.samples
        ]
    section.measure(series, "loans/s", _rate, "1/s", more_is_better=True)
    section.measure(series, "p99 wait", _p99)
    section.measure(series, "CPU of a loan", _cpu)
    section.notes.append(
        "to none: to the same pool without a lifetime; open: at once, with those under "
        "way. Without a lifetime: redis-py's, geventhttpclient's; PooledDB counts "
        "uses, pymysql-pool whole seconds"
    )
    return section


def _targets(series: dict[str, Series[Churn]]) -> list[Target]:
    entry, none = series[peers.OURS], series[peers.OURS + NONE]
    if entry.error or none.error:
        return []
    return [
        Target("p99 wait with a lifetime to none", entry.over(none, _p99), 1.5),
        Target("CPU of a loan with a lifetime to none", entry.over(none, _cpu), 1.5),
    ]
