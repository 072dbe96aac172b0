"""Does a loan cost more when the pool is large or many greenlets wait?

In powers of ten: the number of connections (half of them lent, half idle), and the
number of waiters while they are served. Then the memory that a pool adds to an idle
connection, as Python's allocator counts (tracemalloc). A socket with the buffers of its
driver takes many times that.

Many waiters have a cost that no pool can avoid: 50,000 greenlets do not fit into the
processor's caches. "A bare line" shows that cost: a deque of greenlets that are
switched to in turn. The peers take part as long as theirs are served in reasonable
time: many look through all waiters whenever one comes or goes.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
from gevent.event import Event

from benchmarks import adapters
from benchmarks.adapters import FLOOR, OURS, POOLS, Builder, Builders, PoolAdapter
from benchmarks.cycle import borrowing, each, repeated
from benchmarks.fakes import Fake
from benchmarks.report import Column, Report, Sizes
from benchmarks.rounds import Sample, Scale, Spread, over

FEW = 10
MANY_CONNECTIONS = 10_000
MANY_WAITERS = 100_000

#: Peers have fewer waiters than this fraction of the largest number.
PEERS_SHARE = 0.1

#: Peers whose waiters are not served in some order: they are refused, or poll.
WITHOUT_WAITERS = ("redis Pool", "gsocketpool", "pymysql-pool")

#: Seconds that serving may take before the pool counts as failed.
PATIENCE = 60.0

#: The least that waiters can cost.
BARE = "a bare line"

EACH = Column("each", each)


def run(scale: Scale) -> Report:
    """Measure each kind of growth. May switch."""
    report = Report("scaling", "does a loan cost more when pool or waiters grow?")
    builders, report.missing = adapters.installed()
    _add_connections(report, builders, scale)
    _add_waiters(report, builders, scale)
    _add_memory(report, builders, scale)
    return report


def sizes_upto(many: int) -> list[int]:
    """Return the powers of ten from few to many, and many."""
    sizes = [FEW]
    while sizes[-1] * 10 < many:
        sizes.append(sizes[-1] * 10)
    return [*sizes, many]


def _add_connections(report: Report, builders: Builders, scale: Scale) -> None:
    turns: dict[tuple[str, int], Callable[[], Sample]] = {}
    pools, lent = [], []
    for size in sizes_upto(scale.part(MANY_CONNECTIONS)):
        contestants = {FLOOR: adapters.ours.gevent_queue_nowait, **builders}
        for name, build in contestants.items():
            pool = build(size)
            pools.append(pool)
            # One peer takes a lent connection back that nobody refers to any more.
            conns = [pool.acquire() for _ in range(size)]
            lent.append(conns[size // 2 :])
            for conn in conns[: size // 2]:
                pool.release(conn)
            turns[name, size] = repeated(borrowing(pool), scale.slice)
    del conns, conn
    tables = {"acquire + release, by connections, half lent": EACH}
    grid = report.compare_sizes(tables, turns, scale.rounds, FLOOR)
    lent.clear()
    adapters.close(*pools)
    _add_growth(report, grid, "connections")


def _add_waiters(report: Report, builders: Builders, scale: Scale) -> None:
    many = scale.part(MANY_WAITERS)
    sizes = sizes_upto(many)
    turns: dict[tuple[str, int], Callable[[], Sample]] = {}
    for size in sizes:
        contestants: Builders = {BARE: bare_line, OURS: POOLS[OURS]}
        if size < many * PEERS_SHARE:
            contestants = {**contestants, FLOOR: adapters.ours.gevent_queue, **builders}
        for name, build in contestants.items():
            if name not in WITHOUT_WAITERS:
                loans = max(size, many // 10)
                turns[name, size] = served_turn(build, size, loans)
    tables = {"one waiter served, by the number of waiters": EACH}
    grid = report.compare_sizes(tables, turns, scale.long_rounds, BARE)
    _add_growth(report, grid, "waiters")
    # Round by round: what the pool adds to the bare line, with many and with few.
    ends = [grid[size][name].samples for size in (many, FEW) for name in (OURS, BARE)]
    added = [(a.each - b.each) / (c.each - d.each) for a, b, c, d in zip(*ends)]
    name = f"growth with {many} waiters of what the pool adds to a bare line"
    report.target(name, Spread.of(added) if added else None, 1.5)


def _add_growth(report: Report, grid: Sizes, what: str) -> None:
    ends = {str(size): grid[size][OURS] for size in grid}
    growth = over(ends, str(max(grid)), str(min(grid)), each)
    report.target(f"growth with {max(grid)} {what}", growth, 1.5)


# Waiters


def bare_line(limit: int) -> PoolAdapter:
    """One connection and a deque of greenlets that are switched to in turn."""
    waiting: deque[Any] = deque()
    idle = [Fake()]
    hub = gevent.get_hub()

    def get() -> Fake:
        if not idle:
            waiting.append(gevent.getcurrent())
            hub.switch()
        return idle.pop()

    def put(conn: Fake) -> None:
        idle.append(conn)
        if waiting:
            hub.loop.run_callback(waiting.popleft().switch)

    return PoolAdapter(BARE, get, put, lambda: None)


def served_turn(build: Builder, count: int, loans: int) -> Callable[[], Sample]:
    """Return a turn in which that many loans go to that many waiters.

    They wait for the only connection of a pool, and their number stays the same.
    """

    def turn() -> Sample:
        pool, done = build(1), Event()
        left, ended = loans, 0.0

        def wait() -> None:
            nonlocal left, ended
            while True:
                conn = pool.acquire()
                left -= 1
                if left <= 0:
                    ended = ended or time.perf_counter()
                    done.set()
                pool.release(conn)
                if left <= 0:
                    return
                # Without this, the bare queue would never serve another greenlet.
                gevent.sleep(0)

        conn = pool.acquire()
        greenlets = [gevent.spawn(wait) for _ in range(count)]
        gevent.idle()
        try:
            began = time.perf_counter()
            pool.release(conn)
            with gevent.Timeout(PATIENCE):
                done.wait()
            return Sample(ended - began, 0.0, loans)
        finally:
            gevent.killall(greenlets)
            pool.close()

    return turn


# Memory


def _add_memory(report: Report, builders: Builders, scale: Scale) -> None:
    count = scale.part(MANY_CONNECTIONS)
    contestants = {FLOOR: adapters.ours.gevent_queue, **builders}
    table = report.compare(
        f"bytes for an idle connection, of {count}, beyond the connection itself",
        {name: partial(weigh, build, count) for name, build in contestants.items()},
        max(1, scale.rounds // 7),
        [Column("allocated", float, "B", to=("floor",))],
        floor=FLOOR,
    )
    report.target("bytes per idle connection", table.spread(OURS, float), 1024)


def weigh(build: Builder, count: int) -> float:
    """Return the bytes that a pool adds to each of so many connections. May switch."""

    def filled(size: int) -> PoolAdapter:
        pool = build(size)
        for conn in [pool.acquire() for _ in range(size)]:
            pool.release(conn)
        gevent.idle()
        return pool

    # What is made once is not counted.
    adapters.close(filled(2))
    used, pool = _traced(lambda: filled(count))
    alone, _ = _traced(lambda: [Fake() for _ in range(count)])
    adapters.close(pool)
    return (used - alone) / count


def _traced(make: Callable[[], Any]) -> tuple[int, Any]:
    gc.collect()
    tracemalloc.start()
    made = make()
    gc.collect()
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return used, made
