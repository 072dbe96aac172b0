"""How much memory does a pool need for each connection, and for each waiter?

Each number is measured in a process of its own, as Python's allocator counts
(tracemalloc). Connections are fakes of a few bytes, and the same number of fakes
without a pool is subtracted: the result is what the pool adds. A socket with the
buffers of its driver takes many times that. A waiter is measured with its greenlet,
beside one that waits for an event.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
from gevent.event import Event

from benchmarks import adapters
from benchmarks.adapters import FLOOR, OURS, PoolAdapter, fake_pool
from benchmarks.adapters.ours import gevent_queue
from benchmarks.fakes import Fake
from benchmarks.report import Column, Report, Section
from benchmarks.rounds import Scale, Series
from benchmarks.subprocesses import run_apart, take_turns

#: Connections and waiters at full scale.
COUNT = 10_000

#: A waiter without a pool.
SLEEPER = "a greenlet that sleeps"

#: Seconds that one measurement may take before its pool counts as hung.
PATIENCE = 30.0

UNITS = {"idle": "an idle connection", "waiting": "a waiter"}


def run(scale: Scale) -> Report:
    """Measure idle connections, then waiters. May switch."""
    report = Report("memory", "how much memory does a connection or a waiter need?")
    builders, missing = adapters.installed()
    names = [OURS] if scale.name == "tiny" else list(builders)
    count = scale.part(COUNT)
    for what, floor in (("idle", FLOOR), ("waiting", SLEEPER)):
        turns: dict[str, Callable[[], Any]] = {
            name: partial(
                run_apart,
                __name__,
                "weigh",
                PATIENCE,
                what=what,
                name=name,
                count=count,
            )
            for name in (floor, *names)
        }
        series = take_turns(turns, max(1, scale.rounds // 7), f"memory, {what}")
        section = _section(series, missing, what, count)
        section.floor = floor
        report.sections.append(section)
        if what == "idle" and series[OURS].samples:
            each = series[OURS].spread(_allocated)
            report.target("bytes per idle connection", each, 1024)
    return report


def _allocated(weight: dict[str, float]) -> float:
    return weight["each"]


def _section(
    series: dict[str, Series[Any]], missing: dict[str, str], what: str, count: int
) -> Section:
    refusing = [
        name
        for name, entry in series.items()
        if any(weight["refused"] for weight in entry.samples)
    ]
    kept = {name: entry for name, entry in series.items() if name not in refusing}
    section = Section(f"bytes for {UNITS[what]}, of {count}", key=f"memory, {what}")
    section.fill(kept, [Column("allocated", _allocated, "B", spread=True)], missing)
    section.notes += [f"{name} refuses instead of waiting" for name in refusing]
    beyond = "beyond the connection itself" if what == "idle" else "with the greenlet"
    section.notes.append(f"allocated: by Python, {beyond}")
    return section


def weigh(what: str, name: str, count: int) -> dict[str, float]:
    """Return the bytes for each connection or waiter, and how many were refused.

    May switch.
    """
    build = gevent_queue if name == FLOOR else partial(fake_pool, name)
    if what == "idle":
        return {"each": _idle(build, count), "refused": 0}
    if name == SLEEPER:
        _sleepers(2)
        used, _ = _traced(partial(_sleepers, count))
        return {"each": used / count, "refused": 0}
    # What is made once is not counted.
    _Waiting(build(1), 2)
    used, waiting = _traced(lambda: _Waiting(build(1), count))
    return {"each": used / count, "refused": waiting.refused}


def _idle(build: Any, count: int) -> float:
    _filled(build(2), 2)
    used, _ = _traced(lambda: _filled(build(count), count))
    alone, _ = _traced(lambda: [Fake() for _ in range(count)])
    return (used - alone) / count


def _traced(make: Callable[[], Any]) -> tuple[int, Any]:
    gc.collect()
    tracemalloc.start()
    made = make()
    gc.collect()
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return used, made


def _filled(pool: PoolAdapter, count: int) -> PoolAdapter:
    lent = [pool.acquire() for _ in range(count)]
    while lent:
        pool.release(lent.pop(0))
    gevent.idle()
    return pool


def _sleepers(count: int) -> list[Any]:
    event = Event()
    greenlets = [gevent.spawn(event.wait) for _ in range(count)]
    gevent.idle()
    return greenlets


class _Waiting:
    """Greenlets that wait for the only connection of a pool."""

    def __init__(self, pool: PoolAdapter, count: int) -> None:
        self.refused = self.begun = 0
        self.pool = pool
        self.conn = pool.acquire()
        self.greenlets = [gevent.spawn(self._wait) for _ in range(count)]
        # When this one has run, all before it have begun.
        gevent.spawn(lambda: None).join()
        gevent.idle()
        gone = sum(each.ready() for each in self.greenlets) - self.refused
        if gone or self.begun != count:
            raise RuntimeError(f"{self.begun} of {count} began, {gone} did not wait")

    def _wait(self) -> None:
        self.begun += 1
        try:
            self.pool.acquire()
        except self.pool.refusals:
            self.refused += 1
