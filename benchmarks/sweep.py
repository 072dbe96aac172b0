"""
How long does a sweep of the reaper keep everybody else from running?

A pool is filled with idle connections and swept while one greenlet does nothing but
ask for its turn. What is told is the longest time it had to wait, in CPU seconds of
this thread, so that a busy machine is not blamed on the pool. Three sweeps: nothing
is to be done, everything has expired, and everything wants a ping.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gevent

from benchmarks.dummies import DummyConnector
from benchmarks.report import Report, Section, Target, duration, plus_minus
from benchmarks.rounds import Scale, Series, interleave
from geventpool import Pool

CONNECTIONS = 10_000
#: Seconds between two sweeps.
INTERVAL = 0.05
NO_POOL = "no pool"

#: What a sweep finds, and the options that make it so.
FINDINGS: dict[str, dict[str, Any]] = {
    "nothing to do": {},
    "everything expired": {"max_lifetime": INTERVAL / 2},
    "everything to ping": {"ping_interval": INTERVAL / 2},
}


@dataclass(frozen=True)
class Watch:
    """The longest wait for one's turn, in seconds on the wall and of the CPU."""

    wall: float
    cpu: float


def watch(seconds: float) -> Watch:
    """Ask for one's turn for so long, and note the longest wait. **May switch.**"""
    clock, cpu_clock, sleep = time.perf_counter, time.thread_time, gevent.sleep
    longest = longest_cpu = 0.0
    now, cpu = clock(), cpu_clock()
    end = now + seconds
    while now < end:
        sleep(0)
        before, cpu_before = now, cpu
        now, cpu = clock(), cpu_clock()
        longest = max(longest, now - before)
        longest_cpu = max(longest_cpu, cpu - cpu_before)
    return Watch(longest, longest_cpu)


def run(scale: Scale) -> Report:
    """The three sweeps over a full pool, and no pool at all. **May switch.**"""
    size = scale.part(CONNECTIONS)
    seconds = INTERVAL + scale.seconds / 4
    turns: dict[str, Callable[[], Watch]] = {NO_POOL: lambda: watch(seconds)}
    for finding, options in FINDINGS.items():
        turns[finding] = _turn(size, options, seconds)
    series = interleave(turns, scale.long_rounds, "sweeps")
    report = Report("sweep", "how long does a sweep keep everybody from running?")
    report.sections.append(_section(series, size))
    for finding in FINDINGS:
        entry = series[finding]
        if entry.error is None:
            held = entry.spread(lambda sample: sample.cpu * 1000)
            report.targets.append(Target(f"ms held, {finding}", held, 5.0))
    return report


def _turn(size: int, options: dict[str, Any], seconds: float) -> Callable[[], Watch]:
    def turn() -> Watch:
        pool = Pool(
            DummyConnector(), max_connections=size, reap_interval=INTERVAL, **options
        )
        lent = [pool.acquire() for _ in range(size)]
        for conn in lent:
            pool.release(conn)
        try:
            return watch(seconds)
        finally:
            pool.close()

    return turn


def _section(series: dict[str, Series[Watch]], size: int) -> Section:
    section = Section(
        f"longest wait for one's turn while {size} idle connections are swept",
        ["the sweep finds", "CPU", "spread", "wall"],
        key="longest wait for one's turn",
        floor=NO_POOL,
    )
    for name, entry in series.items():
        if entry.error is not None:
            section.fails(name, entry.error)
            continue
        held = entry.spread(lambda sample: sample.cpu)
        wall = entry.spread(lambda sample: sample.wall)
        section.add(
            name, duration(held.median), plus_minus(held), duration(wall.median)
        )
        section.data[name] = [[sample.wall, sample.cpu] for sample in entry.samples]
    section.measure(series, "CPU", lambda sample: sample.cpu)
    section.measure(series, "wall", lambda sample: sample.wall)
    section.notes.append("every turn fills a new pool, one connection at a time")
    return section
