"""
What does a pool cost a Redis command, and who waits how long for one?

First ten greenlets on ten connections, so that nobody ever waits: the measure is ten
clients that have a connection each and no pool at all (``single_connection_client``).
Then a crowd on ten connections, asking again and again without a pause. The third
contestant is redis-py's own pool that waits, ``BlockingConnectionPool``.

Server and client share the machine, and the kernel decides who runs where, so
throughput varies by a factor from one minute to the next. The ratios within a round
do not, and the CPU time of this process per command is steadier still.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

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

Clients = list[redis.Redis]


@dataclass
class Turn:
    """What a crowd of greenlets did: commands, time and waits."""

    wall: float
    cpu: float
    latencies: list[float] = field(default_factory=list)

    @property
    def throughput(self) -> float:
        return len(self.latencies) / self.wall

    @property
    def cpu_each(self) -> float:
        return self.cpu / len(self.latencies)

    def latency(self, part: float) -> float:
        """Seconds within which this part of the commands was answered."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def run(scale: Scale) -> Report:
    """GET by ten greenlets and by a crowd. **May switch.**"""
    if not HIREDIS_AVAILABLE:
        raise RuntimeError("hiredis is not installed: pip install redis[hiredis]")
    report = Report("redis", "what does a pool cost a Redis command?")
    with RedisServer() as server, contestants(server) as clients:
        everybody = {name: _turn(each, CONNECTIONS, scale) for name, each in clients}
        series = interleave(everybody, scale.rounds)
        title = f"{CONNECTIONS} greenlets on {CONNECTIONS} connections, GET, hiredis"
        report.sections.append(_section(title, series))
        report.targets += _cost_targets(series)

        pools = {
            name: _turn(each, scale.crowd, scale)
            for name, each in clients
            if name != OWN
        }
        series = interleave(pools, scale.rounds)
        title = f"{scale.crowd} greenlets on {CONNECTIONS} connections, GET, hiredis"
        report.sections.append(_section(title, series))
        if _all_ran(series, OURS, STOCK):
            p99 = series[OURS].over(series[STOCK], lambda turn: turn.latency(0.99))
            report.targets.append(Target("p99 latency to redis-py's pool", p99, 0.1))
    return report


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
        asked: dict[int, float] = {}
        clock = time.perf_counter
        cpu, began = time.process_time(), clock()
        end = began + scale.seconds

        def ask(number: int) -> None:
            get = clients[number % len(clients)].get
            while (start := clock()) < end:
                asked[number] = start
                get("key")
                latencies.append(clock() - start)
                del asked[number]

        crowd = [gevent.spawn(ask, number) for number in range(greenlets)]
        gevent.joinall(crowd, timeout=scale.seconds)
        # Who was not served to the end has waited all the same.
        late = [clock() - start for start in asked.values()]
        gevent.joinall(crowd)
        wall, cpu = clock() - began, time.process_time() - cpu
        return Turn(wall, cpu, latencies[: len(latencies) - len(late)] + late)

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
    if _all_ran(series, OURS, STOCK):
        cpu = series[OURS].over(series[STOCK], lambda turn: turn.cpu_each)
        section.notes.append(f"CPU per GET to redis-py's pool: {ratio(cpu)}")
    return section


def _latency(entry: Series[Turn], part: float) -> float:
    return entry.spread(lambda turn: turn.latency(part)).median


def _cost_targets(series: dict[str, Series[Turn]]) -> Iterator[Target]:
    for other, name, limit in (
        (OWN, "throughput to a connection each", 0.92),
        (STOCK, "throughput to redis-py's pool", 1.6),
    ):
        if _all_ran(series, OURS, other):
            rate = series[OURS].over(series[other], lambda turn: turn.throughput)
            yield Target(name, rate, limit, at_least=True)


def _all_ran(series: dict[str, Series[Turn]], *names: str) -> bool:
    return all(series[name].error is None for name in names)
