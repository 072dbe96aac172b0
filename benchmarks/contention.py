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
pool that starves its waiters can't hide them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import repeat

import gevent

from benchmarks import peers
from benchmarks.peers import Contestant
from benchmarks.report import (
    Report,
    Section,
    Target,
    duration,
    number,
    plus_minus,
    ratio,
)
from benchmarks.rounds import Scale, Series, interleave

CONNECTIONS = 10
#: Seconds each loan lasts.
HOLD = 0.001
POSSIBLE = "the possible"
#: Seconds a job may take before its pool counts as failed.
PATIENCE = 20.0


@dataclass(frozen=True)
class Crowd:
    """One turn: how many were served, how long each waited, and at what price."""

    seconds: float
    cpu: float
    #: Seconds of every wait, those that never ended included, sorted.
    waits: list[float]
    #: Loans per greenlet.
    served: list[int]
    #: The same at the time fairness is judged.
    halfway: list[int]
    refused: int

    @property
    def throughput(self) -> float:
        """Loans per second."""
        return sum(self.served) / self.seconds

    @property
    def cpu_each(self) -> float:
        """Seconds of CPU per loan, in the whole process."""
        return self.cpu / max(1, sum(self.served))

    @property
    def fairness(self) -> float:
        """Jain's index: 1 if all were served alike, 1/n if one got everything."""
        squares = sum(count * count for count in self.halfway)
        total = sum(self.halfway)
        return total**2 / (len(self.halfway) * squares) if squares else 0.0

    def wait(self, part: float) -> float:
        """The wait that ``part`` of all waits kept below; 1 gives the longest."""
        return self.waits[min(len(self.waits) - 1, int(len(self.waits) * part))]


@dataclass(frozen=True)
class Load:
    """What the crowd wants."""

    name: str = "crowd"
    greenlets: int = 200
    connections: int = CONNECTIONS
    hold: float = HOLD
    seconds: float = 1.0
    #: Whether everyone asks again at once, or lets the others run first.
    hurried: bool = True
    #: How often everyone borrows; None is till time is up.
    loans: int | None = None

    @property
    def title(self) -> str:
        """The load in words."""
        end = f"for {duration(self.seconds)}"
        if self.loans is not None:
            end = f"{self.loans} times each"
        again = "at once" if self.hurried else "after a turn of the loop"
        return (
            f"{self.name}: {self.greenlets} greenlets, {self.connections} connections, "
            f"held {duration(self.hold)}, wanted again {again}, {end}"
        )


class Stall:
    """One greenlet's place in the crowd: borrows, holds, gives back."""

    def __init__(self, contestant: Contestant, load: Load) -> None:
        self.contestant = contestant
        self.load = load
        self.waits: list[float] = []
        self.refused = 0
        self.asked_at: float | None = None
        self.ended_at: float | None = None

    def run(self) -> None:
        """Borrow as often as the load says. **May switch.**"""
        acquire, release = self.contestant.acquire, self.contestant.release
        hold, hurried = self.load.hold, self.load.hurried
        clock, sleep = time.perf_counter, gevent.sleep
        refusals = self.contestant.refusals
        turns = repeat(None) if self.load.loans is None else range(self.load.loans)
        for _ in turns:
            asked_at = self.asked_at = clock()
            while True:
                try:
                    conn = acquire()
                    break
                except refusals:
                    # A pool that refuses is asked again after the time of one loan.
                    self.refused += 1
                    sleep(hold)
            self.waits.append(clock() - asked_at)
            self.asked_at = None
            sleep(hold)
            release(conn)
            if not hurried:
                sleep(0)
        self.ended_at = clock()


def crowd(contestant: Contestant, load: Load) -> Crowd:
    """What becomes of a crowd at this contestant's door. **May switch.**"""
    stalls = [Stall(contestant, load) for _ in range(load.greenlets)]
    cpu, began = time.process_time(), time.perf_counter()
    greenlets = [gevent.spawn(stall.run) for stall in stalls]
    try:
        if load.loans is None:
            gevent.sleep(load.seconds)
            halfway = _served(stalls)
        else:
            halfway = _finish(stalls, greenlets, load.loans)
        now, spent = time.perf_counter(), time.process_time() - cpu
        waits = [wait for stall in stalls for wait in stall.waits]
        waits += [now - stall.asked_at for stall in stalls if stall.asked_at]
        return Crowd(
            max(stall.ended_at or now for stall in stalls) - began,
            spent,
            sorted(waits),
            _served(stalls),
            halfway,
            sum(stall.refused for stall in stalls),
        )
    finally:
        gevent.killall(greenlets)


def _served(stalls: list[Stall]) -> list[int]:
    return [len(stall.waits) for stall in stalls]


def _finish(
    stalls: list[Stall], greenlets: list[gevent.Greenlet[..., None]], loans: int
) -> list[int]:
    # In the end all have had the same, so fairness is looked at when half is done.
    halfway: list[int] = []
    with gevent.Timeout(PATIENCE):
        while not all(greenlet.dead for greenlet in greenlets):
            gevent.sleep(0.005)
            served = _served(stalls)
            if not halfway and sum(served) >= len(stalls) * loans / 2:
                halfway = served
    return halfway


def without_pool(load: Load) -> Crowd:
    """What is to be had: a holder for each connection, and nobody waits."""
    nobody = Contestant(POSSIBLE, lambda: None, lambda conn: None, lambda: None)
    seats = replace(load, greenlets=load.connections, loans=None, hurried=True)
    free = crowd(nobody, seats)
    # In a crowd served in turn, all others are served between two loans of one's own,
    # and of that time one's own loan is no wait.
    hold = load.connections / free.throughput
    wait = (load.greenlets - load.connections) * hold / load.connections
    return Crowd(free.seconds, free.cpu, [wait], free.served, free.served, 0)


def run(scale: Scale) -> Report:
    """The crowds at every contestant's door. **May switch.**"""
    report = Report("contention", "who waits how long when many want few connections?")
    builders, missing = _builders(CONNECTIONS)
    for load in _loads(scale):
        # A round takes many seconds, and a median of waits is of thousands already.
        series = interleave(_turns(builders, load), max(2, scale.rounds // 3))
        report.sections.append(_section(series, missing, load))
        report.targets.extend(_targets(series, load))
    return report


def _loads(scale: Scale) -> tuple[Load, ...]:
    greedy = Load("the greedy", scale.crowd, seconds=scale.seconds)
    return (
        replace(greedy, name="the job", loans=max(2, int(20 * scale.seconds))),
        replace(greedy, name="the handlers", hurried=False),
        greedy,
    )


def _builders(
    limit: int,
) -> tuple[dict[str, Callable[[int], Contestant]], dict[str, str]]:
    # Each turn gets a new pool: one that lost connections to the killed crowd of its
    # last turn would start crippled.
    builders: dict[str, Callable[[int], Contestant]] = {}
    missing: dict[str, str] = {}
    for build in (peers.lifo_queue, *peers.POOLS):
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
        turns[name] = _turn(build, load)
    return turns


def _turn(build: Callable[[int], Contestant], load: Load) -> Callable[[], Crowd]:
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
    )
    possible = series[POSSIBLE]
    for name, entry in series.items():
        if entry.error is not None:
            section.fails(name, entry.error)
            continue
        section.add(*_cells(name, entry, possible))
        section.data[name] = [_plain(sample) for sample in entry.samples]
    for name, reason in missing.items():
        section.fails(name, reason)
    section.notes.append(
        "fairness: Jain's index of loans per greenlet (of a job: when half is done); "
        "unserved: greenlets that never got any; refused: asked and was sent away"
    )
    return section


def _cells(name: str, entry: Series[Crowd], possible: Series[Crowd]) -> tuple[str, ...]:
    def median(value: Callable[[Crowd], float]) -> float:
        return entry.spread(value).median

    spread = entry.spread(_throughput)
    own = name == POSSIBLE
    return (
        name,
        f"{spread.median:,.0f}",
        plus_minus(spread),
        "" if own else f"{entry.over(possible, _throughput).median:.0%}",
        duration(median(lambda sample: sample.wait(0.5))),
        duration(median(_p99)),
        duration(median(lambda sample: sample.wait(1))),
        "" if own else ratio(entry.over(possible, _p99)),
        f"{median(lambda sample: sample.fairness):.3f}",
        number(median(lambda sample: sample.served.count(0))),
        number(median(lambda sample: sample.refused)),
        duration(median(lambda sample: sample.cpu_each)),
    )


def _plain(sample: Crowd) -> dict[str, object]:
    parts = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)
    return {
        "seconds": sample.seconds,
        "cpu": sample.cpu,
        "throughput": sample.throughput,
        "fairness": sample.fairness,
        "refused": sample.refused,
        "served": sorted(sample.served),
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


def best_peer(series: dict[str, Series[Crowd]]) -> Series[Crowd] | None:
    """The pool, ours and the floor aside, with the highest throughput."""
    floors = (POSSIBLE, peers.FLOOR, peers.OURS)
    ran = [
        entry
        for name, entry in series.items()
        if name not in floors and entry.error is None
    ]
    return max(ran, key=lambda entry: entry.spread(_throughput).median, default=None)
