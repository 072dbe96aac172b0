"""
Who waits how long when many want few connections?

Two hundred greenlets want ten connections again and again and hold each for a
millisecond. "The possible" comes from the same run: as many greenlets as there are
connections hold for a millisecond without any pool, which is all the throughput there
is to be had; and with everyone served in turn a wait lasts as long as it takes to
serve all those in front.

Three crowds. The job: everyone wants twenty loans in a row and the job is done when
the last has had them. The handlers: everyone does something else (a turn of the loop)
between two loans, for as long as the turn lasts. The greedy: everyone asks again at
once, without end; a pool that lets a running greenlet overtake the waiting ones then
serves as many greenlets as it has connections, and the rest never.

A wait that has not ended when the turn does is counted as long as it lasted, so a
pool that starves its waiters can't hide them. "The generator alone" is the same crowd
at a pool that lends to everybody at once: more loans than that this load generator
could not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from benchmarks import peers
from benchmarks.crowds import CONNECTIONS, POSSIBLE, Crowd, Load, crowd, without_pool
from benchmarks.figures import Figure
from benchmarks.generator import GENERATOR, no_op
from benchmarks.peers import Contestant
from benchmarks.report import (
    Report,
    Section,
    Target,
    duration,
    part,
    per_cent,
    plus_minus,
    ratio,
)
from benchmarks.rounds import Scale, Series, interleave


def run(scale: Scale) -> Report:
    """The crowds at every contestant's door. **May switch.**"""
    report = Report("contention", "who waits how long when many want few connections?")
    builders, missing = builders_of(CONNECTIONS)
    for load in _loads(scale):
        # A round takes many seconds, and a median of waits is of thousands already.
        rounds = scale.long_rounds
        series = interleave(_turns(builders, load), rounds, load.name)
        report.sections.append(_section(series, missing, load))
        report.targets.extend(_targets(series, load))
        report.figures.extend(_figures(series, load))
    return report


def _loads(scale: Scale) -> tuple[Load, ...]:
    greedy = Load("the greedy", scale.crowd, seconds=scale.seconds)
    return (
        replace(greedy, name="the job", loans=max(2, int(20 * scale.seconds))),
        replace(greedy, name="the handlers", hurried=False),
        greedy,
    )


def builders_of(
    limit: int,
) -> tuple[dict[str, Callable[[int], Contestant]], dict[str, str]]:
    """
    How every contestant is made, by name, and why some can't be.

    :param limit: connections of each.
    """
    # Each turn gets a new pool: one that lost connections to the killed crowd of its
    # last turn would start crippled.
    builders: dict[str, Callable[[int], Contestant]] = {}
    missing: dict[str, str] = {}
    for build in (no_op, peers.lifo_queue, *peers.POOLS):
        contestants, reasons = peers.built((build,), limit)
        builders.update(dict.fromkeys(contestants, build))
        missing.update(reasons)
        peers.close_all(contestants)
    return builders, missing


def _turns(
    builders: dict[str, Callable[[int], Contestant]], load: Load
) -> dict[str, Callable[[], Crowd]]:
    turns: dict[str, Callable[[], Crowd]] = {POSSIBLE: lambda: without_pool(load)}
    for name, build in builders.items():
        turns[name] = turn_of(build, load)
    return turns


def turn_of(build: Callable[[int], Contestant], load: Load) -> Callable[[], Crowd]:
    """A turn in which a new pool meets this load."""

    def turn() -> Crowd:
        contestant = build(load.connections)
        try:
            return crowd(contestant, load)
        finally:
            contestant.close()

    return turn


def _p99(sample: Crowd) -> float:
    return sample.wait(0.99)


def _throughput(sample: Crowd) -> float:
    return sample.throughput


def _section(
    series: dict[str, Series[Crowd]], missing: dict[str, str], load: Load
) -> Section:
    section = Section(
        load.title,
        ["pool", "loans/s", "spread", "of poss.", "wait p50", "p99", "max"]
        + ["to poss.", "fair", "unserved", "refused", "CPU each"],
        key=load.name,
        floor=POSSIBLE,
    )
    best = best_peer(series)
    section.best = best.name if best else None
    _measure(section, series)
    possible = series[POSSIBLE]
    for name, entry in series.items():
        if entry.error is not None:
            section.fails(name, entry.error)
            continue
        section.add(*_cells(name, entry, possible))
        section.data[name] = [_plain(sample) for sample in entry.samples]
        left_out = entry.spread(lambda sample: sample.unserved).median
        if left_out:
            everybody = f"{left_out:.0f} of {load.greenlets} greenlets"
            section.starves(name, f"{everybody} never got a connection")
    for name, reason in missing.items():
        section.fails(name, reason)
    section.notes.append(
        "fairness: Jain's index of loans per greenlet (of a job: when half is done); "
        "unserved: greenlets that never got any; refused: asked and was sent away"
    )
    _compare_with_generator(section, series)
    return section


def _measure(section: Section, series: dict[str, Series[Crowd]]) -> None:
    crowds = dict(series)
    alone = {GENERATOR: crowds.pop(GENERATOR)}
    for group in (crowds, alone):
        section.measure(group, "loans/s", _throughput, "1/s", more_is_better=True)
        section.measure(group, "CPU each", lambda sample: sample.cpu_each)
    section.measure(crowds, "p99 wait", _p99)
    section.measure(crowds, "unserved", lambda sample: sample.unserved, "")
    section.measure(crowds, "longest wait", lambda sample: sample.wait(1))
    section.measure(
        crowds, "fairness", lambda sample: sample.fairness, "", more_is_better=True
    )


def _compare_with_generator(section: Section, series: dict[str, Series[Crowd]]) -> None:
    alone = series[GENERATOR]
    ran = [entry for entry in pools_of(series) if entry.error is None]
    if alone.error is not None or not ran:
        return
    limit = alone.spread(_throughput).median
    most = max(entry.spread(_throughput).median for entry in ran)
    section.notes.append(
        f"the load generator alone makes {limit:,.0f} loans/s; the fastest pool needs "
        f"{per_cent(most / limit)} of that"
    )


def _cells(name: str, entry: Series[Crowd], possible: Series[Crowd]) -> tuple[str, ...]:
    def median(value: Callable[[Crowd], float]) -> float:
        return entry.spread(value).median

    spread = entry.spread(_throughput)
    rate = (name, f"{spread.median:,.0f}", plus_minus(spread))
    each = duration(median(lambda sample: sample.cpu_each))
    if name == GENERATOR:
        return (*rate, *[""] * 8, each)
    own = name == POSSIBLE
    return (
        *rate,
        "" if own else part(entry.over(possible, _throughput)),
        duration(median(lambda sample: sample.wait(0.5))),
        duration(median(_p99)),
        duration(median(lambda sample: sample.wait(1))),
        "" if own else ratio(entry.over(possible, _p99)),
        f"{median(lambda sample: sample.fairness):.3f}",
        f"{median(lambda sample: sample.unserved):.0f}",
        f"{median(lambda sample: sample.refused):,.0f}",
        each,
    )


def _plain(sample: Crowd) -> dict[str, object]:
    parts = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)
    return {
        "seconds": sample.seconds,
        "cpu": sample.cpu,
        "throughput": sample.throughput,
        "fairness": sample.fairness,
        "refused": sample.refused,
        "waits": {str(part): sample.wait(part) for part in parts},
    }


def _targets(series: dict[str, Series[Crowd]], load: Load) -> list[Target]:
    entry = series.get(peers.OURS)
    if entry is None or entry.error is not None:
        return []
    possible = series[POSSIBLE]
    targets = [
        Target(
            f"p99 wait, {load.name}, to the possible", entry.over(possible, _p99), 1.3
        ),
    ]
    best = best_peer(series)
    if best is not None:
        name = f"throughput, {load.name}, to {best.name}"
        over = entry.over(best, _throughput)
        targets.append(Target(name, over, 1.0, at_least=True))
    return targets


def pools_of(series: dict[str, Series[Crowd]]) -> list[Series[Crowd]]:
    """The pools, without what only shows what is possible."""
    floors = (POSSIBLE, peers.FLOOR, GENERATOR)
    return [entry for name, entry in series.items() if name not in floors]


def best_peer(series: dict[str, Series[Crowd]]) -> Series[Crowd] | None:
    """The pool, ours and the floor aside, with the highest throughput."""
    ran = [entry for entry in _peers(series) if entry.error is None]
    return max(ran, key=lambda entry: entry.spread(_throughput).median, default=None)


def _peers(series: dict[str, Series[Crowd]]) -> list[Series[Crowd]]:
    return [entry for entry in pools_of(series) if entry.name != peers.OURS]


# Pictures.


def _figures(series: dict[str, Series[Crowd]], load: Load) -> Iterator[Figure]:
    shown = [entry for entry in series.values() if entry.error is None]
    shown = [entry for entry in shown if entry.name != GENERATOR]
    stem = load.name.removeprefix("the ").replace(" ", "-")
    waits = {
        entry.name: [wait for sample in entry.samples for wait in sample.waits]
        for entry in shown
    }
    # The possible is one number; drawn as far as the others go.
    waits[POSSIBLE] = [series[POSSIBLE].spread(_p99).median] * max(
        len(each) for each in waits.values()
    )
    yield Figure.of_waits(f"waits-{stem}", _wait_message(series), load.title, waits)
    shares = {
        entry.name: _middling(entry).halfway
        for entry in shown
        if entry.name != POSSIBLE
    }
    message = _fairness_message(series)
    yield Figure.of_shares(f"fairness-{stem}", message, load.title, shares)


def _middling(entry: Series[Crowd]) -> Crowd:
    ordered = sorted(entry.samples, key=lambda sample: sample.fairness)
    return ordered[len(ordered) // 2]


def _wait_message(series: dict[str, Series[Crowd]]) -> str:
    def wait(entry: Series[Crowd]) -> float:
        return entry.spread(_p99).median

    said = _beside_the_others(series, wait, duration)
    return "99 % of the waits are shorter than " + said


def _beside_the_others(
    series: dict[str, Series[Crowd]],
    value: Callable[[Series[Crowd]], float],
    written: Callable[[float], str],
) -> str:
    said = []
    ours = series.get(peers.OURS)
    if ours is not None and ours.error is None:
        said.append(f"{written(value(ours))} with {ours.name}")
    others = [value(entry) for entry in _peers(series) if entry.error is None]
    if others:
        said.append(f"{written(min(others))} to {written(max(others))} with others")
    return ", ".join(said)


def _fairness_message(series: dict[str, Series[Crowd]]) -> str:
    def fairness(entry: Series[Crowd]) -> float:
        return entry.spread(lambda sample: sample.fairness).median

    said = _beside_the_others(series, fairness, lambda index: f"{index:.2f}")
    return "Jain's index of fairness: " + said
