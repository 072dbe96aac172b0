"""
How do greenlets, connections and the length of loans change the picture?

Every combination of them where greenlets outnumber connections, at every pool, with
everyone doing something else (a turn of the loop) between two loans. Three tables of
the same runs: how much of the possible throughput there is, how fair it is (Jain's
index of loans per greenlet), and the worst wait, those that never ended included, as a
multiple of what each would wait if all were served in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks import peers
from benchmarks.crowds import POSSIBLE, Crowd, Load, crowd, without_pool
from benchmarks.peers import Builder
from benchmarks.report import Measure, Report, Section, Target, duration, number
from benchmarks.rounds import Scale, Series, Spread, interleave

GREENLETS = (20, 200, 2000)
CONNECTIONS = (10, 100)
HOLDS = (0.001, 0.01)
#: Loans per second that a process can be expected to make.
MOST = 5000

Value = Callable[[Crowd, Crowd], float]


def run(scale: Scale) -> Report:
    """The three tables. **May switch.**"""
    report = Report("grid", "how do greenlets, connections and loans change it?")
    loads = list(_loads(scale))
    rounds = max(1, scale.rounds // 5)
    builders, missing = _builders()
    cells = {}
    for load in loads:
        turns: dict[str, Callable[[], Crowd]] = {POSSIBLE: partial(without_pool, load)}
        for name, build in builders.items():
            turns[name] = partial(_turn, build, load)
        cells[load.name] = interleave(turns, rounds, load.name)
    tables: dict[str, tuple[str, Value]] = {
        "throughput": (
            "loans per second, as a part of the possible",
            lambda mine, possible: mine.throughput / possible.throughput,
        ),
        "fairness": (
            "fairness: Jain's index of loans per greenlet",
            lambda mine, possible: mine.fairness,
        ),
        "worst wait": (
            "the worst wait, as a multiple of being served in turn",
            lambda mine, possible: mine.wait(1) / possible.wait(1),
        ),
    }
    for key, (title, value) in tables.items():
        section = _section(key, title, value, cells, list(builders))
        for name, reason in missing.items():
            section.fails(name, reason)
        report.sections.append(section)
    report.targets += _targets(cells)
    return report


def _loads(scale: Scale) -> list[Load]:
    greenlets = GREENLETS[:1] if scale.name == "tiny" else GREENLETS
    return [
        Load(
            f"{many}/{few}/{duration(hold)}",
            many,
            few,
            hold,
            # Everyone should have had a turn or two, even in a long line.
            max(scale.seconds / 4, 3 * many / min(few / hold, MOST)),
            hurried=False,
        )
        for many in greenlets
        for few in CONNECTIONS
        for hold in HOLDS
        if many > few and hold * many / few <= scale.seconds / 3
    ]


def _builders() -> tuple[dict[str, Builder], dict[str, str]]:
    builders: dict[str, Builder] = {}
    missing: dict[str, str] = {}
    for build in (peers.lifo_queue, *peers.POOLS):
        contestants, reasons = peers.built((build,), 1)
        peers.close_all(contestants)
        builders.update(dict.fromkeys(contestants, build))
        missing.update(reasons)
    return builders, missing


def _turn(build: Builder, load: Load) -> Crowd:
    contestant = build(load.connections)
    try:
        return crowd(contestant, load)
    finally:
        contestant.close()


Cells = dict[str, dict[str, Series[Crowd]]]


def _values(series: dict[str, Series[Crowd]], name: str, value: Value) -> list[float]:
    pairs = zip(series[name].samples, series[POSSIBLE].samples, strict=True)
    return [value(mine, possible) for mine, possible in pairs]


def _section(
    key: str, title: str, value: Value, cells: Cells, names: list[str]
) -> Section:
    section = Section(title, ["pool", *cells], key=key)
    section.floor = peers.FLOOR
    for name in names:
        errors = [series[name].error for series in cells.values() if series[name].error]
        row = []
        for cell, series in cells.items():
            if series[name].error:
                row.append("failed")
                continue
            values = _values(series, name, value)
            section.data.setdefault(name, {})[cell] = values
            row.append(number(Spread.of(values).median))
        section.add(name, *row)
        section.notes += [f"{name} failed: {error}" for error in errors[:1]]
        unserved = sum(
            sample.served.count(0)
            for series in cells.values()
            for sample in series[name].samples
        )
        if unserved and key == "fairness":
            section.starves(name, f"left {unserved} greenlets unserved in all")
    for cell, series in cells.items():
        for name in names:
            if not series[name].error:
                section.measures.append(
                    Measure(
                        name,
                        f"{key}, {cell}",
                        "",
                        _values(series, name, value),
                        key != "worst wait",
                    )
                )
    section.notes.append("columns: greenlets/connections/seconds a loan lasts")
    return section


def _targets(cells: Cells) -> list[Target]:
    ours = [
        _values(series, peers.OURS, lambda mine, possible: mine.fairness)
        for series in cells.values()
        if not series[peers.OURS].error
    ]
    if not ours:
        return []
    least = Spread.of([min(values) for values in ours])
    worst = Spread(min(min(values) for values in ours), least.low, least.high)
    return [Target("the least fairness of any cell", worst, 0.9, at_least=True)]
