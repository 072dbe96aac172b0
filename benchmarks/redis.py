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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import cycle
from random import Random
from typing import Any

import redis
from redis.utils import HIREDIS_AVAILABLE

from benchmarks.adapters import AT_SERVERS, OURS, PoolAdapter
from benchmarks.adapters.base import BLOCKING, PLAIN
from benchmarks.adapters.ours import redis as our_redis
from benchmarks.crowd import (
    CONNECTIONS,
    Contestant,
    closing,
    compare,
    cpu_each,
    p99,
    throughput,
    turn,
)
from benchmarks.report import Column, Report, Section
from benchmarks.rounds import Scale, interleave_sizes, ratio_between
from tests.servers import RedisServer

#: Our pool with another option.
SHARED = "geventpool, auto_pipeline"

#: Clients without a pool.
OWN = "a connection each"

ONE_CORE = "server on the same core"
TWO_CORES = "server on another core"
ANYWHERE = "server anywhere"

#: Bytes of a large reply, and seconds for which a blocking command blocks.
LARGE, BLOCKED = 50_000, 0.005

#: Requests of each kind in a hundred of the mixture; the rest are reads.
WRITES, PIPELINES, LARGE_READS, BLOCKING_COMMANDS = 20, 10, 3, 1

#: Greenlets and bytes of the last table.
CASES = ((1, 64), (10, 64), (50, 64), (200, 64), (50, 1000), (50, 10_000))
CASES += ((50, 100_000),)

#: Targets of automatic pipelining: the case, the other contestant, what is compared,
#: the limit, and whether it is the least.
SHARED_TARGETS: tuple[tuple[tuple[int, int], str, Any, float, bool], ...] = (
    ((1, 64), OWN, throughput, 1.0, True),
    ((50, 64), OWN, throughput, 3.0, True),
    ((50, 64), BLOCKING, throughput, 6.0, True),
    ((50, 64), OWN, cpu_each, 0.4, False),
    ((50, 64), OWN, p99, 1.0, False),
    ((50, 100_000), OWN, throughput, 0.9, True),
)

#: Sends one request. May switch.
Request = Callable[[redis.Redis], object]


def run(scale: Scale) -> Report:
    """Measure GET, pipelines and the mixture. May switch."""
    if not HIREDIS_AVAILABLE:
        raise RuntimeError("hiredis is not installed: pip install redis[hiredis]")
    report = Report("redis", "what does a pool cost a Redis command?")
    with RedisServer() as server, _pools(server) as pools, _own(server) as own:
        values = {f"value-{size}": "v" * size for _, size in CASES}
        own[0].mset({"key": "value", "large": "x" * LARGE, **values})
        clients = {name: [pool.client] for name, pool in pools.items()}
        few = {**clients, OWN: own[:CONNECTIONS]}
        first, *others = _placements()
        for where in (first, *others):
            series, _ = _measure(report, scale, server, few, "GET", get, where)
            over = ratio_between(series, OURS, OWN, throughput)
            title = "throughput to a connection each"
            report.target(f"{title}, {where}", over, 0.92, at_least=True)
            over = ratio_between(series, OURS, BLOCKING, throughput)
            title = "throughput to redis-py's pool"
            report.target(f"{title}, {where}", over, 1.6, at_least=True)
        _measure(report, scale, server, few, "pipelines of 10", pipeline, first)
        series, _ = _measure(report, scale, server, clients, "GET", get, first)
        over = ratio_between(series, OURS, BLOCKING, p99)
        report.target("p99 latency to redis-py's pool", over, 0.1)
        _measure(report, scale, server, clients, "the mixture", Mixture(), first)
        _add_cases(report, scale, server, {**clients, OWN: own})
    return report


def _measure(
    report: Report,
    scale: Scale,
    server: RedisServer,
    clients: dict[str, list[redis.Redis]],
    what: str,
    request: Request,
    where: str,
) -> Any:
    size = CONNECTIONS if OWN in clients else scale.crowd
    with placed(server, where):
        return compare(
            report,
            f"{what}: {size} greenlets on {CONNECTIONS} connections, {where}",
            {name: _sending(each, request) for name, each in clients.items()},
            size,
            scale.seconds / 2,
            scale.rounds,
            rivals=[BLOCKING],
            floor=OWN if OWN in clients else None,
            # The number of greenlets depends on the scale.
            key=f"{what}, {len(clients)} contestants, {where}",
        )


def _sending(clients: list[redis.Redis], request: Request) -> Contestant:
    refusals = (redis.exceptions.MaxConnectionsError,)
    return Contestant([partial(request, client) for client in clients], refusals)


def get(client: redis.Redis, key: str = "key") -> object:
    """Send one small read. May switch."""
    return client.get(key)


def pipeline(client: redis.Redis) -> object:
    """Send ten of them together. May switch."""
    commands = client.pipeline(transaction=False)
    for _ in range(10):
        commands.get("key")
    return commands.execute()


class Mixture:
    """What an application sends, in a random order that is always the same."""

    def __init__(self) -> None:
        kinds: list[Request] = [lambda client: client.set("written", "value")] * WRITES
        kinds += [pipeline] * PIPELINES
        kinds += [lambda client: client.get("large")] * LARGE_READS
        kinds += [
            lambda client: client.blpop(["nothing"], timeout=BLOCKED)
        ] * BLOCKING_COMMANDS
        kinds += [get] * (100 - len(kinds))
        Random(5).shuffle(kinds)
        self._next = cycle(kinds)

    def __call__(self, client: redis.Redis) -> object:
        """Send the next request. May switch."""
        return next(self._next)(client)


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


def _pools(server: RedisServer) -> Any:
    builders = {**AT_SERVERS["redis"], SHARED: partial(our_redis, auto_pipeline=True)}
    pools: dict[str, PoolAdapter] = {
        name: builders[name](CONNECTIONS, host=server.host, port=server.port)
        for name in (OURS, SHARED, BLOCKING, PLAIN)
    }
    return closing(pools)


@contextmanager
def _own(server: RedisServer) -> Iterator[list[redis.Redis]]:
    """Yield as many clients with a connection each as any case needs."""
    with ExitStack() as stack:
        clients = []
        for _ in range(max(size for size, _ in CASES)):
            client = redis.Redis(
                host=server.host, port=server.port, single_connection_client=True
            )
            stack.callback(client.connection_pool.disconnect)
            stack.callback(client.close)
            clients.append(client)
        yield clients


def _add_cases(
    report: Report,
    scale: Scale,
    server: RedisServer,
    clients: dict[str, list[redis.Redis]],
) -> None:
    """Measure GET by few and many greenlets, each with a connection in one row."""
    where = _placements()[-1]
    cases = [(min(size, scale.crowd), length) for size, length in CASES]
    turns = {
        (name, case): partial(
            turn,
            _sending(each, partial(get, key=f"value-{case[1]}")),
            case[0],
            scale.seconds / 4,
        )
        for case in dict.fromkeys(cases)
        for name, each in clients.items()
        if name != PLAIN
    }
    with placed(server, where):
        series = interleave_sizes(turns, scale.long_rounds, "GET by greenlets, bytes")
    section = Section(f"GET/s by greenlets and bytes, {where}", floor=OWN)
    section.key = "GET by greenlets and bytes"
    column = Column(
        "GET/s", throughput, "1/s", True, text="{:,.0f}".format, ratios={"": OWN}
    )
    report.sections.append(section.fill_sizes(series, column))
    section.notes.append("greenlets, bytes; the ratio: to a connection each")
    for case, other, value, limit, at_least in SHARED_TARGETS:
        over = ratio_between(series.get(case, {}), SHARED, other, value)
        name = f"{value.__name__} of {SHARED}, {case[0]} greenlets, {case[1]} bytes"
        report.target(f"{name}, to {other}", over, limit, at_least)
