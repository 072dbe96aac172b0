"""What does a pool cost a Redis command, and how long do commands wait?

First 10 greenlets on 10 connections, so that nobody ever waits, beside 10 clients that
have a connection each and no pool (``single_connection_client``). They GET, and then
send pipelines of ten. Then many greenlets on 10 connections, asking again and again
without a pause: GET, and then a mixture of reads, writes, pipelines, replies of 50 kB,
and a few commands that block for 5 ms. Last GET by 1 to 200 greenlets, and of larger
values, beside a connection for each greenlet. The peers are the pools of redis-py. Its
``ConnectionPool`` refuses when there is no idle connection, and is asked again after
half a millisecond.

Server and client run on a core each, where the system permits: the kernel would move
them during a comparison, and on one core a reply is mostly there before the client
looks for it. CPU time is that of this process, without the server.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from random import Random
from typing import Any

import redis
from redis.utils import HIREDIS_AVAILABLE

from benchmarks import crowd
from benchmarks.adapters import OURS, at_server, closing
from benchmarks.adapters.base import BLOCKING, PLAIN
from benchmarks.adapters.ours import redis as our_redis
from benchmarks.crowd import CONNECTIONS, Contestant, Turn
from benchmarks.figures import Figure
from benchmarks.report import Column, Report, Section
from benchmarks.rounds import Scale, Series, over
from tests.servers import RedisServer

#: Our pool with another option.
SHARED = "geventpool, auto_pipeline"

#: Clients without a pool.
OWN = "a connection each"

#: Bytes of a large reply, and seconds for which a blocking command blocks.
LARGE, BLOCKED = 50_000, 0.005

#: Requests of each kind in a hundred of the mixture; the rest are reads.
WRITES, PIPELINES, LARGE_READS, BLOCKING_COMMANDS = 20, 10, 3, 1

#: Greenlets and bytes of the last table.
SMALL = 64
CURVE = (1, 3, 10, 20, 50, 100, 200)
CASES = (*((size, SMALL) for size in CURVE), (50, 1000), (50, 10_000), (50, 100_000))

#: Targets of automatic pipelining: the case, the other contestant, what is compared,
#: the limit, and whether it is the least.
SHARED_TARGETS: tuple[tuple[tuple[int, int], str, Any, float, bool], ...] = (
    ((1, 64), OWN, crowd.throughput, 1.0, True),
    ((50, 64), OWN, crowd.throughput, 3.0, True),
    ((50, 64), BLOCKING, crowd.throughput, 6.0, True),
    ((50, 64), OWN, crowd.cpu_each, 0.4, False),
    ((50, 64), OWN, crowd.p99, 1.0, False),
    ((50, 100_000), OWN, crowd.throughput, 0.9, True),
)

#: Sends one request. May switch.
Request = Callable[[redis.Redis], object]

#: One for all greenlets, or one for each.
Clients = dict[str, list[redis.Redis]]


def run(scale: Scale) -> Report:
    """Measure GET, pipelines and the mixture. May switch."""
    if not HIREDIS_AVAILABLE:
        raise RuntimeError("hiredis is not installed: pip install redis[hiredis]")
    report = Report("redis", "what does a pool cost a Redis command?")
    connect = partial(redis.Redis, single_connection_client=True)
    size = max(size for size, _ in CASES)
    with (
        RedisServer() as server,
        placed(server),
        _pools(server) as pools,
        crowd.own(partial(connect, **server.client_options), size) as own,
    ):
        values = {f"value-{size}": "v" * size for _, size in CASES}
        own[0].mset({"key": "value", "large": "x" * LARGE, **values})
        clients = {name: [pool.client] for name, pool in pools.items()}
        clients[OWN] = own[:CONNECTIONS]
        measure = partial(_measure, report, scale)
        targets = ((OWN, 0.92), (BLOCKING, 1.6))
        measure("GET", get, clients, floor=OWN, targets=targets)
        measure("pipelines of 10", pipeline, clients, floor=OWN)
        del clients[OWN]
        limit = [(BLOCKING, 0.1)]
        measure("GET", get, clients, greenlets=scale.crowd, targets=limit)
        measure("the mixture", mixture(), clients, greenlets=scale.crowd)
        _add_cases(report, scale, {**clients, OWN: own})
    return report


def _measure(
    report: Report,
    scale: Scale,
    what: str,
    request: Request,
    clients: Clients,
    **more: Any,
) -> Section:
    contestants = {name: _sending(each, request) for name, each in clients.items()}
    return crowd.compare(report, scale, what, contestants, rivals=[BLOCKING], **more)


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


def mixture() -> Request:
    """Return what sends what an application sends, in a random order that is fixed."""
    kinds: list[Request] = [lambda client: client.set("written", "value")] * WRITES
    kinds += [pipeline] * PIPELINES
    kinds += [lambda client: client.get("large")] * LARGE_READS
    block: Request = lambda client: client.blpop(["nothing"], timeout=BLOCKED)  # noqa: E731
    kinds += [block] * BLOCKING_COMMANDS
    kinds += [get] * (100 - len(kinds))
    Random(5).shuffle(kinds)
    following = cycle(kinds)
    return lambda client: next(following)(client)


@contextmanager
def placed(server: RedisServer) -> Iterator[None]:
    """Place server and client on a core each, if this can be done."""
    if not hasattr(os, "sched_setaffinity") or len(os.sched_getaffinity(0)) == 1:
        yield
        return
    before = os.sched_getaffinity(0)
    first, second = sorted(before)[:2]
    os.sched_setaffinity(0, {first})
    os.sched_setaffinity(server.pid, {second})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _pools(server: RedisServer) -> Any:
    address = server.client_options
    pools = at_server("redis", CONNECTIONS, **address)
    shared = our_redis(CONNECTIONS, auto_pipeline=True, **address)
    pools = {OURS: pools.pop(OURS), SHARED: shared, **pools}
    return closing(pools)


def _add_cases(report: Report, scale: Scale, clients: Clients) -> None:
    """Measure GET by few and many greenlets, each with a connection in one row."""
    cases = [(min(size, scale.crowd), length) for size, length in CASES]
    turns = {
        (name, case): partial(
            crowd.turn,
            _sending(each, partial(get, key=f"value-{case[1]}")),
            case[0],
            scale.seconds / 4,
        )
        for case in dict.fromkeys(cases)
        for name, each in clients.items()
        if name != PLAIN
    }
    column = Column("GET/s", crowd.throughput, "1/s", True, to=("floor",))
    tables = {"GET/s by greenlets and bytes": column}
    series = report.compare_sizes(tables, turns, scale.long_rounds, OWN)
    note = "greenlets, bytes; the ratio: to a connection each"
    report.sections[-1].notes.append(note)
    report.figures.append(_figure(series))
    for case, other, value, limit, at_least in SHARED_TARGETS:
        ratio = over(series.get(case, {}), SHARED, other, value)
        name = f"{value.__name__} of {SHARED}, {case[0]} greenlets, {case[1]} bytes"
        report.target(f"{name}, to {other}", ratio, limit, at_least)


def _figure(series: dict[tuple[int, int], dict[str, Series[Turn]]]) -> Figure:
    """Return the curve of GET/s by greenlets, for the smallest values."""
    smallest = {
        size: entries for (size, length), entries in series.items() if length == SMALL
    }
    title = "Automatic pipelining"
    rates = [
        (entries[SHARED].spread(crowd.throughput).median, size, ratio.median)
        for size, entries in smallest.items()
        if (ratio := over(entries, SHARED, OWN, crowd.throughput)) is not None
    ]
    if rates:
        rate, best, times = max(rates)
        title += (
            f": with {best} greenlets {rate:,.0f} GET/s, {times:.1f} "
            "times connections without a pool"
        )
    caption = (
        f"GET of {SMALL} bytes; pools of {CONNECTIONS} connections; "
        "server and client on a core each"
    )
    labels = ("greenlets", "GET per second")
    how = (labels, smallest, crowd.throughput)
    return Figure.of_sizes("pipelining", title, caption, *how)
