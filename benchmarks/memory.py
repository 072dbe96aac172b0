"""
What does a pool take of the memory for each connection, and for each who waits?

Each number has a process of its own, a fork that has imported everything and done
nothing: what Python's allocator was asked for (tracemalloc), and what the process
then has more of the machine's memory (resident set size), which also counts what is
lost between the objects. Connections are dummies of a few bytes, and the same number
of dummies without a pool is subtracted: what is told is what the pool adds, and a
socket with its driver's buffers takes many times that. A waiter is told with the
greenlet that it is, beside one that waits for an event.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gevent
import psutil
from gevent.event import Event

from benchmarks import peers
from benchmarks.children import Nursery, in_turn
from benchmarks.peers import Contestant, Dummy
from benchmarks.report import Report, Section, Target, number, plus_minus
from benchmarks.rounds import Scale, Series, Spread

#: How many connections and how many waiters, at full scale.
CONNECTIONS = WAITERS = 10_000
#: A waiter without a pool.
SLEEPER = "a greenlet that sleeps"
#: Seconds one weighing may take before its pool counts as hung.
PATIENCE = 30.0

BUILDERS = (peers.lifo_queue, *peers.POOLS)


@dataclass(frozen=True)
class Weight:
    """Bytes for each waiter, or for each connection beyond the connection itself."""

    traced: float
    resident: float
    #: Waiters that were sent away instead.
    refused: int = 0


def run(scale: Scale) -> Report:
    """Idle connections, lent ones, and waiters. **May switch.**"""
    report = Report("memory", "what does a pool take for a connection and a waiter?")
    builders = BUILDERS[:2] if scale.name == "tiny" else BUILDERS
    rounds = max(1, scale.rounds // 7)
    names, missing = {}, {}
    for build in builders:
        contestants, reasons = peers.built((build,), 1)
        peers.close_all(contestants)
        names.update({name: build.__name__ for name in contestants})
        missing.update(reasons)
    with Nursery("benchmarks.memory") as nursery:
        for what, full in (("idle", CONNECTIONS), ("waiting", WAITERS)):
            count = scale.part(full)
            if what == "waiting":
                names = {SLEEPER: "", **names}
            turns: dict[str, Callable[[], Weight]] = {
                name: partial(_turn, nursery, what, build, count)
                for name, build in names.items()
            }
            series = in_turn(turns, rounds, f"memory, {what}")
            section = _section(series, what, count)
            for name, reason in missing.items():
                section.fails(name, reason)
            report.sections.append(section)
            entry = series[peers.OURS]
            if what == "idle" and entry.error is None:
                each = entry.spread(lambda weight: weight.traced)
                report.targets.append(Target("bytes per idle connection", each, 1024))
    return report


def _turn(nursery: Nursery, what: str, build: str, count: int) -> Weight:
    asked = {"what": what, "build": build, "count": count}
    if what == "waiting":
        traced, refused = nursery.turn("weigh", PATIENCE, **asked, is_traced=True)
        resident, _ = nursery.turn("weigh", PATIENCE, **asked, is_traced=False)
        return Weight(traced / count, resident / count, int(refused))
    weighed = [
        nursery.turn(
            "weigh", PATIENCE, what=what, build=each, count=count, is_traced=is_traced
        )
        for is_traced in (True, False)
        for each in (build, "")
    ]
    (traced, refused), (bare, _), (resident, _), (bare_resident, _) = weighed
    return Weight(
        (traced - bare) / count, (resident - bare_resident) / count, int(refused)
    )


def weigh(what: str, build: str, count: int, is_traced: bool) -> tuple[int, int]:
    """
    Bytes that so many connections or waiters take, and how many were refused.

    :param build: a builder of :mod:`benchmarks.peers`; empty for no pool at all.
    :param is_traced: as Python's allocator has it; else as the system has it.
    """
    make: Callable[[], Any]
    if not build:
        make = {"idle": _dummies, "waiting": _sleepers}[what]
    else:
        builder = getattr(peers, build)
        warm = {"idle": _filled, "waiting": _waited}[what]
        # What is made once and for all is none of the connection's.
        _built(builder, warm, what, 2)
        make = partial(_built, builder, warm, what)
    if what == "waiting":
        gevent.spawn(lambda: None).join()
    gc.collect()
    if is_traced:
        tracemalloc.start()
    before = _used(is_traced)
    made = make(count)
    gc.collect()
    return _used(is_traced) - before, getattr(made, "refused", 0)


def _built(build: peers.Builder, warm: Any, what: str, count: int) -> Any:
    return warm(build(count if what == "idle" else 1), count)


def _used(is_traced: bool) -> int:
    if is_traced:
        return tracemalloc.get_traced_memory()[0]
    return int(psutil.Process().memory_info().rss)


def _dummies(count: int) -> list[Dummy]:
    return [Dummy() for _ in range(count)]


def _filled(contestant: Contestant, count: int) -> Contestant:
    lent = [contestant.acquire() for _ in range(count)]
    lent.reverse()
    while lent:
        contestant.release(lent.pop())
    gevent.idle()
    return contestant


def _sleepers(count: int) -> list[Any]:
    event = Event()
    greenlets = [gevent.spawn(event.wait) for _ in range(count)]
    gevent.idle()
    return greenlets


class _Waiters:
    def __init__(self, contestant: Contestant, count: int) -> None:
        self.refused = self.begun = 0
        self.contestant = contestant
        self.conn = contestant.acquire()
        self.greenlets = [gevent.spawn(self.wait) for _ in range(count)]
        # Every one of them has begun when the last has.
        gevent.spawn(lambda: None).join()
        gevent.idle()
        gone = sum(each.ready() for each in self.greenlets) - self.refused
        if gone or self.begun != count:
            raise RuntimeError(f"{self.begun} of {count} began, {gone} did not wait")

    def wait(self) -> None:
        self.begun += 1
        try:
            self.contestant.acquire()
        except self.contestant.refusals:
            self.refused += 1


def _waited(contestant: Contestant, count: int) -> _Waiters:
    return _Waiters(contestant, count)


def _section(series: dict[str, Series[Weight]], what: str, count: int) -> Section:
    each = {"idle": "an idle connection", "waiting": "a waiter"}[what]
    section = Section(
        f"bytes the pool takes for {each}, of {count}",
        ["pool", "allocated", "spread", "resident", "spread"],
        key=f"memory, {what}",
        floor=peers.FLOOR if what == "idle" else SLEEPER,
    )
    for name, entry in series.items():
        if entry.error is not None:
            section.fails(name, entry.error)
            continue
        if any(weight.refused for weight in entry.samples):
            section.add(name, "refused")
            section.notes.append(f"{name} sends waiters away")
            continue
        traced = entry.spread(lambda weight: weight.traced)
        resident = entry.spread(lambda weight: weight.resident)
        section.add(
            name,
            number(traced.median),
            _spread(traced, entry.samples),
            number(resident.median),
            _spread(resident, entry.samples),
        )
        section.data[name] = [vars(weight) for weight in entry.samples]
    waiting = {
        name: entry
        for name, entry in series.items()
        if not any(weight.refused for weight in entry.samples)
    }
    section.measure(waiting, "allocated", lambda weight: weight.traced, "B")
    section.measure(waiting, "resident", lambda weight: weight.resident, "B")
    section.notes.append(
        "allocated: by Python; resident: of the process; both "
        + (
            "beyond the connection itself"
            if what == "idle"
            else "with the greenlet itself"
        )
    )
    return section


def _spread(spread: Spread, samples: Sequence[object]) -> str:
    return plus_minus(spread) if len(samples) > 1 else "one round"
