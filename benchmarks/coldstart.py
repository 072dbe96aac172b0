"""
What does a burst make of a pool that has no connection yet?

All at once greenlets ask an empty pool for a connection, and a dial takes as long as
one to another town. Each holds its connection for a moment and is done. The fewer
dials the better, as long as nobody waits for it: a connection that is given back may
serve sooner than one that is still being opened. What is told is when the first and
the last were served, how many connections were opened, and how many were open at once.

"The possible" opens all connections at the same time and serves everyone in turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import gevent

from benchmarks import peers
from benchmarks.crowds import POSSIBLE
from benchmarks.dummies import dialled
from benchmarks.figures import Figure
from benchmarks.peers import Builder, Contestant
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

LIMIT = 20
#: Seconds a loan lasts.
HOLD = 0.005
#: Seconds a dial takes: to the next room, and to another continent.
DIALS = (0.005, 0.05)
#: Seconds a turn may take before its pool counts as failed.
PATIENCE = 8.0

HURRIED = "geventpool, 20 dials at a time"


@dataclass(frozen=True)
class Start:
    """One burst: seconds to each one's reply, sorted, and what was opened for it."""

    replies: list[float]
    dials: int
    peak: int
    unserved: int

    @property
    def first(self) -> float:
        """Seconds to the first reply."""
        return self.replies[0] if self.replies else PATIENCE

    @property
    def last(self) -> float:
        """Seconds to the last reply."""
        return PATIENCE if self.unserved else self.replies[-1]

    @property
    def median(self) -> float:
        """Seconds within which half were served."""
        return self.replies[len(self.replies) // 2] if self.replies else PATIENCE


def run(scale: Scale) -> Report:
    """The burst at every pool, with short and with long dials. **May switch.**"""
    report = Report("coldstart", "what does a burst make of an empty pool?")
    dials = DIALS[:1] if scale.name == "tiny" else DIALS
    rounds = max(1, scale.rounds // 3)
    for dial in dials:
        turns: dict[str, Callable[[], Start]] = {
            POSSIBLE: partial(burst, possible, dial, scale.crowd)
        }
        for name, build in _builders().items():
            turns[name] = partial(burst, build, dial, scale.crowd)
        series = interleave(turns, rounds, f"dials of {duration(dial)}")
        report.sections.append(_section(series, dial, scale.crowd))
        report.targets += _targets(series, dial)
    report.figures.append(_figure(series, dials[-1], scale.crowd))
    return report


def _figure(series: dict[str, Series[Start]], dial: float, size: int) -> Figure:
    """Who had a reply when; of those that kept to the limit."""
    firm = {
        name: entry
        for name, entry in series.items()
        if entry.error is None and all(start.peak <= LIMIT for start in entry.samples)
    }
    last = {name: entry.spread(_last).median for name, entry in firm.items()}
    title = (
        f"A burst at an empty pool: the last reply after {duration(last[peers.OURS])}, "
        f"{duration(last[POSSIBLE])} is possible"
        if peers.OURS in last
        else "A burst at an empty pool"
    )
    return Figure.of_waits(
        "cold-start-replies",
        title,
        f"{size} greenlets at once at an empty pool of {LIMIT}, each dial "
        f"{duration(dial)}, each loan {duration(HOLD)}; without pools that opened more",
        {
            name: [reply for start in entry.samples for reply in start.replies]
            for name, entry in firm.items()
        },
    )


def _builders() -> dict[str, Builder]:
    builders: dict[str, Builder] = {
        peers.OURS: peers.ours,
        HURRIED: partial(peers.ours, max_connecting=LIMIT),
    }
    for build in peers.POOLS[1:]:
        contestants, missing = peers.built((build,), 1)
        peers.close_all(contestants)
        # One that is not installed is told of when its turn fails.
        name = next(iter(contestants or missing))
        builders[name] = build
    return builders


def possible(limit: int, kind: type) -> Contestant:
    """All dials at once, at the first call; then a queue."""
    queue: gevent.queue.Queue[object] = gevent.queue.Queue()
    opening: list[gevent.Greenlet[..., None]] = []

    def acquire() -> object:
        if not opening:
            opening.extend(
                gevent.spawn(lambda: queue.put_nowait(kind.dial()))  # type: ignore
                for _ in range(limit)
            )
        return queue.get()

    return Contestant(
        POSSIBLE, acquire, queue.put_nowait, lambda: gevent.killall(opening)
    )


def burst(build: Builder, dial: float, greenlets: int) -> Start:
    """One burst at a new pool. **May switch.**"""
    kind = dialled(dial)
    replies: list[float] = []
    began = time.perf_counter()
    contestant = build(LIMIT, kind)

    def ask() -> None:
        while True:
            try:
                conn = contestant.acquire()
                break
            except contestant.refusals:
                gevent.sleep(HOLD)
        gevent.sleep(HOLD)
        replies.append(time.perf_counter() - began)
        contestant.release(conn)

    crowd = [gevent.spawn(ask) for _ in range(greenlets)]
    try:
        gevent.joinall(crowd, timeout=PATIENCE)
        unserved = sum(not each.successful() for each in crowd)
        return Start(sorted(replies), kind.board.dials, kind.board.peak, unserved)
    finally:
        gevent.killall(crowd)
        contestant.close()


def _last(start: Start) -> float:
    return start.last


def _section(series: dict[str, Series[Start]], dial: float, size: int) -> Section:
    section = Section(
        f"{size} greenlets at once at an empty pool of {LIMIT}, each dial "
        f"{duration(dial)}, each loan {duration(HOLD)}",
        ["pool", "last reply", "spread", "to poss.", "first", "p50", "opened", "open"],
        key=f"dials of {duration(dial)}",
        floor=POSSIBLE,
    )
    floor = series[POSSIBLE]
    for name, entry in series.items():
        if entry.error is not None:
            section.fails(name, entry.error)
            continue
        last = entry.spread(_last)
        opened = entry.spread(lambda start: start.dials)
        peak = max(start.peak for start in entry.samples)
        unserved = max(start.unserved for start in entry.samples)
        section.add(
            name,
            duration(last.median),
            plus_minus(last),
            "1" if entry is floor else ratio(entry.over(floor, _last)),
            duration(entry.spread(lambda start: start.first).median),
            duration(entry.spread(lambda start: start.median).median),
            number(opened.median),
            str(peak),
        )
        faults = []
        if peak > LIMIT:
            section.notes.append(f"{name} opened {peak} of {LIMIT}")
        if unserved:
            faults.append(f"left {unserved} of {size} unserved")
        if faults:
            section.starves(name, ", ".join(faults))
        section.data[name] = [vars(start) for start in entry.samples]
    section.measure(series, "last reply", _last)
    section.measure(series, "dials", lambda start: start.dials, "dials")
    section.notes.append("opened: dials in all; open: at once, with those under way")
    return section


def _targets(series: dict[str, Series[Start]], dial: float) -> list[Target]:
    targets = []
    for name in (peers.OURS, HURRIED):
        entry = series[name]
        if entry.error is None:
            over = entry.spread(lambda start: start.peak / LIMIT)
            targets.append(
                Target(f"open at once to the limit, {name}, {duration(dial)}", over, 1)
            )
    return targets
