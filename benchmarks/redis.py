"""
What does a pool cost a Redis command, and who waits how long for one?

First ten greenlets on ten connections, so that nobody ever waits: the measure is ten
clients that have a connection each and no pool at all (``single_connection_client``).
They GET, and then send pipelines of ten. Then a crowd on ten connections, asking again
and again without a pause: GET, and then a mixture of reads, writes, pipelines, replies
of 50 kB, and now and then a command that blocks for 5 ms. The others are redis-py's
own pools, ``BlockingConnectionPool`` and ``ConnectionPool``; the latter refuses who
finds no connection, and is asked again after half a millisecond.

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
from itertools import cycle
from random import Random

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
STOCK = "redis Blocking"
REFUSING = "redis Pool"

ONE_CORE = "server on the same core"
CORE_EACH = "server on another core"
ANYWHERE = "server anywhere"

#: Seconds whoever was refused waits before asking again.
AGAIN = 0.0005
#: Bytes of a big reply, and seconds for which a blocking command blocks.
BIG, BLOCKED = 50_000, 0.005
#: Of a hundred requests of the mixture, so many are of each kind; the rest are reads.
WRITES, PIPELINES, BIG_READS, BLOCKING_COMMANDS = 20, 10, 3, 1

Clients = list[redis.Redis]
#: One request.
Deed = Callable[[redis.Redis], object]


#: Seconds a turn may take beyond its time.
PATIENCE = 10.0


@dataclass
class Turn:
    """What a crowd of greenlets did: commands, time and waits."""

    wall: float
    cpu: float
    greenlets: int
    latencies: list[float] = field(default_factory=list)
    #: How often somebody was sent away, and who never came back.
    refused: int = 0
    unserved: int = 0

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


_Turns = dict[str, Series[Turn]]


def run(scale: Scale) -> Report:
    """GET, pipelines and the mixture, by ten greenlets and a crowd. **May switch.**"""
    if not HIREDIS_AVAILABLE:
        raise RuntimeError("hiredis is not installed: pip install redis[hiredis]")
    report = Report("redis", "what does a pool cost a Redis command?")
    seconds = scale.seconds / 2
    first = _places()[0]
    with RedisServer() as server, contestants(server) as clients:

        def section(what: str, deed: Deed, size: int, where: str) -> _Turns:
            turns = {
                name: _turn(each, size, seconds, deed)
                for name, each in clients
                if size == CONNECTIONS or name != OWN
            }
            many = f"{size} greenlets on {CONNECTIONS} connections"
            with placed(server, where):
                series = interleave(turns, scale.rounds, f"{what}, {many}, {where}")
            report.sections.append(_section(f"{what}: {many}, {where}", series, what))
            report.sections[-1].key = f"{what}, {len(turns)} contestants, {where}"
            return series

        for where in _places():
            series = section("GET", get, CONNECTIONS, where)
            report.targets += _cost_targets(series, where)
        section("pipelines of 10", pipeline, CONNECTIONS, first)
        series = section("GET", get, scale.crowd, first)
        if _all_ran(series, OURS, STOCK):
            p99 = series[OURS].over(series[STOCK], lambda turn: turn.latency(0.99))
            report.targets.append(Target("p99 latency to redis-py's pool", p99, 0.1))
        section("the mixture", Mixture(), scale.crowd, first)
    return report


def get(client: redis.Redis) -> object:
    """One small read. **May switch.**"""
    return client.get("key")


def pipeline(client: redis.Redis) -> object:
    """Ten of them in one go. **May switch.**"""
    commands = client.pipeline(transaction=False)
    for _ in range(10):
        commands.get("key")
    return commands.execute()


class Mixture:
    """What an application asks: now this, now that, in an order by chance."""

    def __init__(self) -> None:
        kinds = [self._write] * WRITES + [pipeline] * PIPELINES
        kinds += [self._big] * BIG_READS + [self._block] * BLOCKING_COMMANDS
        kinds += [get] * (100 - len(kinds))
        Random(5).shuffle(kinds)
        self._next = cycle(kinds)

    def __call__(self, client: redis.Redis) -> object:
        """The next request. **May switch.**"""
        return next(self._next)(client)

    @staticmethod
    def _write(client: redis.Redis) -> object:
        return client.set("written", "value")

    @staticmethod
    def _big(client: redis.Redis) -> object:
        return client.get("big")

    @staticmethod
    def _block(client: redis.Redis) -> object:
        return client.blpop(["nothing"], timeout=BLOCKED)


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
    refusing = redis.ConnectionPool(max_connections=CONNECTIONS, **address)
    own = [
        redis.Redis(single_connection_client=True, **address)
        for _ in range(CONNECTIONS)
    ]
    own[0].mset({"key": "value", "big": "x" * BIG})
    try:
        yield [
            (OURS, [redis.Redis(connection_pool=ours)]),
            (OWN, own),
            (STOCK, [redis.Redis(connection_pool=stock)]),
            (REFUSING, [redis.Redis(connection_pool=refusing)]),
        ]
    finally:
        ours.shutdown(timeout=5)
        stock.disconnect()
        refusing.disconnect()
        for client in own:
            client.close()


def _turn(
    clients: Clients, greenlets: int, seconds: float, deed: Deed
) -> Callable[[], Turn]:
    def turn() -> Turn:
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
                        deed(client)
                        break
                    except redis.exceptions.MaxConnectionsError:
                        refused += 1
                        gevent.sleep(AGAIN)
                latencies.append(clock() - start)

        crowd = [gevent.spawn(ask, number) for number in range(greenlets)]
        gevent.joinall(crowd, timeout=PATIENCE + seconds, raise_error=True)
        unserved = sum(not each.ready() for each in crowd)
        gevent.killall(crowd)
        wall, cpu = clock() - began, time.process_time() - cpu
        return Turn(wall, cpu, greenlets, latencies, refused, unserved)

    return turn


def _section(title: str, series: _Turns, what: str) -> Section:
    unit = f"{what}/s" if what == "GET" else "requests/s"
    columns = ["pool", unit, "spread", "CPU each", "p50", "p99", "max", "refused"]
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
            f"{entry.spread(lambda turn: turn.refused).median:,.0f}",
        )
        unserved = max(turn.unserved for turn in entry.samples)
        if unserved:
            section.starves(name, f"left {unserved} unserved")
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
    section.measure(series, unit, lambda turn: turn.throughput, "1/s", True)
    section.measure(series, "p99 latency", lambda turn: turn.latency(0.99))
    section.measure(series, "CPU of a request", lambda turn: turn.cpu_each)
    section.floor = OWN if OWN in series else None
    section.best = STOCK if STOCK in series else None
    section.notes.append("latencies: of whoever asks, also while others starve")
    if _all_ran(series, OWN, STOCK):
        most = series[OWN].over(series[STOCK], lambda turn: turn.throughput)
        section.notes.append(f"no pool at all, to redis-py's pool: {ratio(most)}")
    if _all_ran(series, OURS, STOCK):
        cpu = series[OURS].over(series[STOCK], lambda turn: turn.cpu_each)
        section.notes.append(f"CPU per request to redis-py's pool: {ratio(cpu)}")
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
