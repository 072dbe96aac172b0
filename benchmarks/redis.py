"""
What does a pool cost a Redis command, and who waits how long for one?

First ten greenlets on ten connections, so that nobody ever waits: the measure is ten
clients that have a connection each and no pool at all (``single_connection_client``).
Then a crowd on ten connections, asking again and again without a pause. The third
contestant is redis-py's own pool that waits, ``BlockingConnectionPool``.

Server and client share the machine, and it matters which cores they run on. On one
core, where the kernel likes to put two processes that talk to each other, a reply is
mostly there before the client asks for it; with a core each it must be waited for, and
everything costs twice as much. Left to itself the kernel changes its mind in the middle
of a comparison, so here both are tried in turn, where the system allows that. CPU time
is this process's own, without the server's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import gevent
import redis
from redis.utils import HIREDIS_AVAILABLE

from benchmarks.report import Report, Section, Target, duration, plus_minus, ratio
from benchmarks.rounds import Scale, Series, interleave
from geventpool.redis import ConnectionPool
from tests.servers import RedisServer

CONNECTIONS = 10

OURS = "geventpool"
OWN = "a connection each"
STOCK = "BlockingConnectionPool"

ONE_CORE = "server on the same core"
CORE_EACH = "server on another core"
ANYWHERE = "server anywhere"

Clients = list[redis.Redis]


@dataclass
class Turn:
    """What a crowd of greenlets did: commands, time and waits."""

    wall: float
    cpu: float
    greenlets: int
    latencies: list[float] = field(default_factory=list)

    @property
    def throughput(self) -> float:
        return len(self.latencies) / self.wall

    @property
    def cpu_each(self) -> float:
        return self.cpu / len(self.latencies)

    @cached_property
    def waits(self) -> list[float]:
        """
        How long a command takes whenever anybody asks for one; sorted.

        Who waits asks nothing else meanwhile. So a pool that serves a few quickly and
        lets the others starve has very few long waits to show: those others ask once.
        The remedy is Gil Tene's: a wait longer than everybody's fair interval stands
        for the questions that would have been asked in the course of it.
        """
        fair = self.greenlets / self.throughput
        waits = list(self.latencies)
        for latency in self.latencies:
            missed = int(latency / fair)
            waits += [latency - fair * each for each in range(1, missed + 1)]
        return sorted(waits)

    def latency(self, part: float) -> float:
        """Seconds within which this part of the commands was answered."""
        return self.waits[min(len(self.waits) - 1, int(part * len(self.waits)))]


def run(scale: Scale) -> Report:
    """GET by ten greenlets and by a crowd. **May switch.**"""
    if not HIREDIS_AVAILABLE:
        raise RuntimeError("hiredis is not installed: pip install redis[hiredis]")
    report = Report("redis", "what does a pool cost a Redis command?")
    with RedisServer() as server, contestants(server) as clients:
        everybody = {name: _turn(each, CONNECTIONS, scale) for name, each in clients}
        for where in _places():
            with placed(server, where):
                series = interleave(everybody, scale.rounds)
            title = f"{CONNECTIONS} greenlets on {CONNECTIONS} connections, {where}"
            report.sections.append(_section(title, series))
            report.targets += _cost_targets(series, where)

        pools = {
            name: _turn(each, scale.crowd, scale)
            for name, each in clients
            if name != OWN
        }
        where = _places()[0]
        with placed(server, where):
            series = interleave(pools, scale.rounds)
        title = f"{scale.crowd} greenlets on {CONNECTIONS} connections, {where}"
        report.sections.append(_section(title, series))
        if _all_ran(series, OURS, STOCK):
            p99 = series[OURS].over(series[STOCK], lambda turn: turn.latency(0.99))
            report.targets.append(Target("p99 latency to redis-py's pool", p99, 0.1))
    return report


def _places() -> tuple[str, ...]:
    """Where server and client can be put on this machine."""
    if hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1:
        return ONE_CORE, CORE_EACH
    return (ANYWHERE,)


@contextmanager
def placed(server: RedisServer, where: str) -> Iterator[None]:
    """Server and client on one core, on a core each, or where the kernel likes."""
    if where == ANYWHERE:
        yield
        return
    before = os.sched_getaffinity(0)
    first, second = sorted(before)[:2]
    os.sched_setaffinity(0, {first})
    os.sched_setaffinity(server.pid, {first if where == ONE_CORE else second})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
        os.sched_setaffinity(server.pid, before)


@contextmanager
def contestants(server: RedisServer) -> Iterator[list[tuple[str, Clients]]]:
    """The contestants' clients: one that all share, or one for each greenlet."""
    address = {"host": server.host, "port": server.port}
    ours = ConnectionPool(max_connections=CONNECTIONS, **address)
    stock = redis.BlockingConnectionPool(max_connections=CONNECTIONS, **address)
    own = [
        redis.Redis(single_connection_client=True, **address)
        for _ in range(CONNECTIONS)
    ]
    own[0].set("key", "value")
    try:
        yield [
            (OURS, [redis.Redis(connection_pool=ours)]),
            (OWN, own),
            (STOCK, [redis.Redis(connection_pool=stock)]),
        ]
    finally:
        ours.shutdown(timeout=5)
        stock.disconnect()
        for client in own:
            client.close()


def _turn(clients: Clients, greenlets: int, scale: Scale) -> Callable[[], Turn]:
    def turn() -> Turn:
        latencies: list[float] = []
        clock = time.perf_counter
        cpu, began = time.process_time(), clock()
        end = began + scale.seconds

        def ask(number: int) -> None:
            get = clients[number % len(clients)].get
            while (start := clock()) < end:
                get("key")
                latencies.append(clock() - start)

        gevent.joinall([gevent.spawn(ask, number) for number in range(greenlets)])
        wall, cpu = clock() - began, time.process_time() - cpu
        return Turn(wall, cpu, greenlets, latencies)

    return turn


def _section(title: str, series: dict[str, Series[Turn]]) -> Section:
    columns = ["pool", "GET/s", "spread", "CPU each", "p50", "p99", "max"]
    section = Section(title, columns)
    for name, entry in series.items():
        if entry.error is not None:
            section.fails(name, entry.error)
            continue
        rate = entry.spread(lambda turn: turn.throughput)
        section.add(
            name,
            f"{rate.median:,.0f}",
            plus_minus(rate),
            duration(entry.spread(lambda turn: turn.cpu_each).median),
            *(duration(_latency(entry, part)) for part in (0.5, 0.99, 1.0)),
        )
        section.data[name] = [
            {
                "throughput": turn.throughput,
                "cpu_each": turn.cpu_each,
                "p50": turn.latency(0.5),
                "p99": turn.latency(0.99),
                "max": turn.latency(1.0),
            }
            for turn in entry.samples
        ]
    section.notes.append("latencies: of whoever asks, also while others starve")
    if _all_ran(series, OWN, STOCK):
        most = series[OWN].over(series[STOCK], lambda turn: turn.throughput)
        section.notes.append(f"no pool at all, to redis-py's pool: {ratio(most)}")
    if _all_ran(series, OURS, STOCK):
        cpu = series[OURS].over(series[STOCK], lambda turn: turn.cpu_each)
        section.notes.append(f"CPU per GET to redis-py's pool: {ratio(cpu)}")
    return section


def _latency(entry: Series[Turn], part: float) -> float:
    return entry.spread(lambda turn: turn.latency(part)).median


def _cost_targets(series: dict[str, Series[Turn]], where: str) -> Iterator[Target]:
    for other, name, limit in (
        (OWN, "throughput to a connection each", 0.92),
        (STOCK, "throughput to redis-py's pool", 1.6),
    ):
        if _all_ran(series, OURS, other):
            rate = series[OURS].over(series[other], lambda turn: turn.throughput)
            yield Target(f"{name}, {where}", rate, limit, at_least=True)


def _all_ran(series: dict[str, Series[Turn]], *names: str) -> bool:
    return all(name in series and series[name].error is None for name in names)
