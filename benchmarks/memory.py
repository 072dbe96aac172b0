"""How much memory does a pool need for each idle connection?

Python's allocator counts (tracemalloc). Connections are fakes of a few bytes, and the
same number of fakes without a pool is subtracted: the result is what the pool adds. A
socket with the buffers of its driver takes many times that.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent

from benchmarks import adapters
from benchmarks.adapters import FLOOR, OURS, PoolAdapter, fake_pool
from benchmarks.adapters.ours import gevent_queue
from benchmarks.fakes import Fake
from benchmarks.report import Column, Report
from benchmarks.rounds import Scale

#: Connections at full scale.
COUNT = 10_000


def run(scale: Scale) -> Report:
    """Measure idle connections. May switch."""
    report = Report("memory", "how much memory does an idle connection need?")
    builders, missing = adapters.installed()
    names = [FLOOR, OURS] if scale.name == "tiny" else [FLOOR, *builders]
    count = scale.part(COUNT)
    turns: dict[str, Callable[[], float]] = {
        name: partial(weigh, name, count) for name in names
    }
    table = report.compare(
        f"bytes for an idle connection, of {count}",
        turns,
        max(1, scale.rounds // 7),
        [Column("allocated", float, "B", to=("floor",))],
        key="memory, idle",
        floor=FLOOR,
        missing=missing,
    )
    table.notes.append("allocated: by Python, beyond the connection itself")
    report.target("bytes per idle connection", table.spread(OURS, float), 1024)
    return report


def weigh(name: str, count: int) -> float:
    """Return the bytes that a pool adds to each of so many connections. May switch."""
    build = gevent_queue if name == FLOOR else partial(fake_pool, name)
    # What is made once is not counted.
    _filled(build(2), 2)
    used = _traced(lambda: _filled(build(count), count))
    alone = _traced(lambda: [Fake() for _ in range(count)])
    return (used - alone) / count


def _traced(make: Callable[[], Any]) -> int:
    gc.collect()
    tracemalloc.start()
    made = make()
    gc.collect()
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del made
    return used


def _filled(pool: PoolAdapter, count: int) -> PoolAdapter:
    lent = [pool.acquire() for _ in range(count)]
    while lent:
        pool.release(lent.pop(0))
    gevent.idle()
    return pool
