"""What does a pool cost a Redis command, and how long do commands wait?

First 10 greenlets on 10 connections, so that nobody ever waits, beside 10 clients that
have a connection each and no pool (``single_connection_client``). They GET, and then
send pipelines of ten. Then many greenlets on 10 connections, asking again and again
without a pause: GET, and then a mixture of reads, writes, pipelines, replies of 50 kB,
and a few commands that block for 5 ms. Last GET by 1 to 200 greenlets, and of larger
values, beside a connection for each greenlet. The peers are the pools of redis-py. Its
``ConnectionPool`` refuses when there is no idle connection, and is asked again after
half a millisecond.

Server and client share the machine, and it matters which cores they run on. On one core
a reply is mostly there before the client looks for it; on two cores the client must
wait for it, and everything costs twice as much. The kernel changes its mind during a
comparison, so both are measured where the system permits. CPU time is that of this
process, without the server.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import cycle
from random import Random
from typing import Any

import gevent
import redis
from redis.utils import HIREDIS_AVAILABLE

from benchmarks.adapters.base import BLOCKING, OURS, PLAIN
from benchmarks.report import Column, Report, Section, ratio
from benchmarks.rounds import Scale, Series, interleave, ratio_between
from geventpool.redis import ConnectionPool
from tests.servers import RedisServer

CONNECTIONS = 10

#: Ours, by its row, with the options that differ from the defaults. Another mode of the
#: pool becomes a row here.
SHARED = "geventpool, auto_pipeline"
VARIANTS: dict[str, dict[str, Any]] = {OURS: {}, SHARED: {"auto_pipeline": True}}

#: Clients without a pool.
OWN = "a connection each"

ONE_CORE = "server on the same core"
TWO_CORES = "server on another core"
ANYWHERE = "server anywhere"

#: Seconds until a refused request is sent again.
AGAIN = 0.0005

#: Bytes of a large reply, and seconds for which a blocking command blocks.
LARGE, BLOCKED = 50_000, 0.005

#: Requests of each kind in a hundred of the mixture; the rest are reads.
WRITES, PIPELINES, LARGE_READS, BLOCKING_COMMANDS = 20, 10, 3, 1

#: Seconds that a turn may take beyond its time.
PATIENCE = 10.0

#: Sends one request. May switch.
Request = Callable[[redis.Redis], object]


@dataclass
class Turn:
    """What the greenlets did: time and latencies."""

    wall: float
    cpu: float
    greenlets: int
    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    unserved: int = 0

    @property
    def throughput(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.wall

    @property
    def cpu_each(self) -> float:
        """CPU seconds per request."""
        return self.cpu / len(self.latencies)

    @cached_property
    def waits(self) -> list[float]:
        """The latency at any moment, sorted.

        A greenlet that waits asks nothing else meanwhile. So a pool that serves a few
        quickly and starves the others has very few long latencies to show. The remedy
        is Gil Tene's: a latency longer than everybody's fair interval represents the
        requests that would have been sent during it.
        """
        fair = self.greenlets / self.throughput
        waits = list(self.latencies)
        for latency in self.latencies:
            missed = int(latency / fair)
            waits += [latency - fair * each for each in range(1, missed + 1)]
        return sorted(waits)

    def latency(self, part: float) -> float:
        """Return the latency that this fraction does not exceed."""
        return self.waits[min(len(self.waits) - 1, int(part * len(self.waits)))]


Turns = Mapping[str, Series[Turn]]


def run(scale: Scale) -> Report:
    """Measure GET, pipelines and the mixture. May switch."""
    if not HIREDIS_AVAILABLE:
        raise RuntimeError("hiredis is not installed: pip install redis[hiredis]")
    report = Report("redis", "what does a pool cost a Redis command?")
    first = _placements()[0]
    with RedisServer() as server, contestants(server) as clients:
        measure = partial(_measure, report, scale, server, clients)
        for where in _placements():
            series = measure("GET", get, CONNECTIONS, where)
            over = ratio_between(series, OURS, OWN, _throughput)
            title = "throughput to a connection each"
            report.target(f"{title}, {where}", over, 0.92, at_least=True)
            over = ratio_between(series, OURS, BLOCKING, _throughput)
            title = "throughput to redis-py's pool"
            report.target(f"{title}, {where}", over, 1.6, at_least=True)
        measure("pipelines of 10", pipeline, CONNECTIONS, first)
        series = measure("GET", get, scale.crowd, first)
        over = ratio_between(series, OURS, BLOCKING, lambda turn: turn.latency(0.99))
        report.target("p99 latency to redis-py's pool", over, 0.1)
        measure("the mixture", Mixture(), scale.crowd, first)
        _add_greenlets(report, scale, server, clients)
    return report


def _throughput(turn: Turn) -> float:
    return turn.throughput


def _measure(
    report: Report,
    scale: Scale,
    server: RedisServer,
    clients: Mapping[str, list[redis.Redis]],
    what: str,
    request: Request,
    size: int,
    where: str,
) -> Turns:
    turns = {
        name: partial(_turn, each, size, scale.seconds / 2, request)
        for name, each in clients.items()
        if size == CONNECTIONS or name != OWN
    }
    title = f"{what}: {size} greenlets on {CONNECTIONS} connections, {where}"
    with placed(server, where):
        series = interleave(turns, scale.rounds, title)
    report.sections.append(_section(title, series, what, where))
    return series


def get(client: redis.Redis) -> object:
    """Send one small read. May switch."""
    return client.get("key")


def pipeline(client: redis.Redis) -> object:
    """Send ten of them together. May switch."""
    commands = client.pipeline(transaction=False)
    for _ in range(10):
        commands.get("key")
    return commands.execute()


class Mixture:
    """What an application sends, in a random order that is always the same."""

    def __init__(self) -> None:
        kinds = [self._write] * WRITES + [pipeline] * PIPELINES
        kinds += [self._large] * LARGE_READS + [self._block] * BLOCKING_COMMANDS
        kinds += [get] * (100 - len(kinds))
        Random(5).shuffle(kinds)
        self._next = cycle(kinds)

    def __call__(self, client: redis.Redis) -> object:
        """Send the next request. May switch."""
        return next(self._next)(client)

    @staticmethod
    def _write(client: redis.Redis) -> object:
        return client.set("written", "value")

    @staticmethod
    def _large(client: redis.Redis) -> object:
        return client.get("large")

    @staticmethod
    def _block(client: redis.Redis) -> object:
        return client.blpop(["nothing"], timeout=BLOCKED)


def _placements() -> tuple[str, ...]:
    """Return where server and client can be placed on this machine."""
    if hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1:
        return ONE_CORE, TWO_CORES
    return (ANYWHERE,)


@contextmanager
def placed(server: RedisServer, where: str) -> Iterator[None]:
    """Place server and client on one core, on a core each, or anywhere."""
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
def contestants(server: RedisServer) -> Iterator[dict[str, list[redis.Redis]]]:
    """Yield the clients of each contestant: one for all, or one for each greenlet."""
    address: dict[str, Any] = {"host": server.host, "port": server.port}
    limit = {"max_connections": CONNECTIONS, **address}
    ours = {name: ConnectionPool(**limit, **more) for name, more in VARIANTS.items()}
    peers = {
        BLOCKING: redis.BlockingConnectionPool(**limit),
        PLAIN: redis.ConnectionPool(**limit),
    }
    own = [
        redis.Redis(single_connection_client=True, **address)
        for _ in range(CONNECTIONS)
    ]
    own[0].mset({"key": "value", "large": "x" * LARGE})
    shared = {
        name: [redis.Redis(connection_pool=pool)]
        for name, pool in {**ours, **peers}.items()
    }
    try:
        yield {**shared, OWN: own}
    finally:
        for pool in ours.values():
            pool.shutdown(timeout=5)
        for peer in peers.values():
            peer.disconnect()
        for client in own:
            client.close()
            client.connection_pool.disconnect()


def _turn(
    clients: list[redis.Redis], greenlets: int, seconds: float, request: Request
) -> Turn:
    latencies: list[float] = []
    refused = 0
    clock = time.perf_counter
    cpu, began = time.process_time(), clock()
    end = began + seconds

    def ask(number: int) -> None:
        nonlocal refused
        client = clients[number % len(clients)]
        while (start := clock()) < end:
            while True:
                try:
                    request(client)
                    break
                except redis.exceptions.MaxConnectionsError:
                    refused += 1
                    gevent.sleep(AGAIN)
            latencies.append(clock() - start)

    asking = [gevent.spawn(ask, number) for number in range(greenlets)]
    gevent.joinall(asking, timeout=PATIENCE + seconds, raise_error=True)
    unserved = sum(not each.ready() for each in asking)
    gevent.killall(asking)
    wall, cpu = clock() - began, time.process_time() - cpu
    return Turn(wall, cpu, greenlets, latencies, refused, unserved)


#: Greenlets of the last table, and bytes of the values.
GREENLETS, SIZES = (1, 10, 50, 200), (64, 1_000, 10_000, 100_000)


SHARED_TARGETS = (
    ("1 greenlets, 64 bytes", OWN, 1.0),
    ("50 greenlets, 64 bytes", OWN, 3.0),
    ("50 greenlets, 64 bytes", BLOCKING, 6.0),
    ("50 greenlets, 100000 bytes", OWN, 0.9),
)


def _add_greenlets(
    report: Report,
    scale: Scale,
    server: RedisServer,
    clients: dict[str, list[redis.Redis]],
) -> None:
    """Measure GET by few and many greenlets, each with a connection in one row."""
    where = _placements()[-1]
    sizes = [size for size in GREENLETS if size <= scale.crowd]
    cases = [(64, number) for number in sizes]
    cases += [(size, min(50, scale.crowd)) for size in SIZES[1:]]
    address: dict[str, Any] = {"host": server.host, "port": server.port}
    more = [
        redis.Redis(single_connection_client=True, **address)
        for _ in range(max(number for _, number in cases) - CONNECTIONS)
    ]
    contestants = {**clients, OWN: [*clients[OWN], *more]}
    del contestants[PLAIN]
    series: dict[str, Series[Turn]] = {}
    try:
        for size, number in cases:
            clients[OWN][0].set("key", "v" * size)
            case = f"{number} greenlets, {size} bytes"
            turns = {
                f"{name}, {case}": partial(_turn, each, number, scale.seconds / 4, get)
                for name, each in contestants.items()
            }
            with placed(server, where):
                series |= interleave(turns, scale.long_rounds, case)
    finally:
        for client in more:
            client.close()
            client.connection_pool.disconnect()
    columns = ["pool", *(f"{number}, {size} B" for size, number in cases)]
    section = Section(f"GET/s by greenlets and bytes, {where}", columns, floor=OWN)
    section.key = "GET by greenlets and bytes"
    for name in contestants:
        row = []
        for size, number in cases:
            case = f"{number} greenlets, {size} bytes"
            mine, own = f"{name}, {case}", f"{OWN}, {case}"
            over = ratio_between(series, mine, own, _throughput)
            rate = (
                f"{series[mine].spread(_throughput).median:,.0f}" if over else "failed"
            )
            row.append(rate if over is None or name == OWN else f"{rate} {ratio(over)}")
            section.measure(
                {name: series[mine]}, f"GET/s, {case}", _throughput, "1/s", True
            )
        section.add(name, *row)
    section.notes.append("the ratio: to a connection for each greenlet")
    report.sections.append(section)
    for case, other, limit in SHARED_TARGETS:
        mine, theirs = f"{SHARED}, {case}", f"{other}, {case}"
        over = ratio_between(series, mine, theirs, _throughput)
        report.target(f"{mine}, to {other}", over, limit, at_least=True)


def _section(title: str, series: Turns, what: str, where: str) -> Section:
    # The number of greenlets depends on the scale; that of the contestants does not.
    section = Section(title, key=f"{what}, {len(series)} contestants, {where}")
    section.floor = OWN if OWN in series else None
    section.best = BLOCKING
    rate = f"{what}/s" if what == "GET" else "requests/s"
    to_peer = {"to redis-py": BLOCKING}
    columns = [
        Column(rate, _throughput, "1/s", True, spread=True, ratios=to_peer),
        Column("CPU of a request", lambda turn: turn.cpu_each, ratios=to_peer),
        Column("p50", lambda turn: turn.latency(0.5), is_measured=False),
        Column("p99 latency", lambda turn: turn.latency(0.99)),
        Column("max", lambda turn: turn.latency(1.0), is_measured=False),
        Column(
            "refused",
            lambda turn: turn.refused,
            "",
            text="{:,.0f}".format,
            is_measured=False,
        ),
    ]
    section.fill(series, columns)
    for name, entry in series.items():
        unserved = max((turn.unserved for turn in entry.samples), default=0)
        greenlets = max((turn.greenlets for turn in entry.samples), default=0)
        section.starves(name, unserved, greenlets)
    section.notes.append("to redis-py: to its BlockingConnectionPool")
    section.notes.append("latencies: at any moment, also while others starve")
    return section
