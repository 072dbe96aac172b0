"""What do commands gain that share a connection? ``python -m benchmarks.autopipe``.

``redis.Redis.get`` by one greenlet and by many: with ``auto_pipeline=True``, over a
connection for each greenlet without any pool, over a pool of ten connections, and over
redis-py's own ``BlockingConnectionPool`` of ten. Then larger values, and a mixture of
reads, writes, pipelines and a few commands that block. The contestants take turns in
one run. Each row shows medians and the ratio to a connection for each greenlet. The
server runs on another core, where the system allows that. CPU time is that of this
process.
"""

from __future__ import annotations

from gevent import monkey

if __name__ == "__main__":
    monkey.patch_all()

import argparse
import gc
import os
import time
from collections.abc import Callable, Sequence
from random import Random
from statistics import median
from typing import Any, NamedTuple

import gevent
import redis

from geventpool.redis import ConnectionPool
from tests.servers import RedisServer

__all__ = ["main"]

SHARED = "auto_pipeline"
POOLED = "pool of 10"
STOCK = "redis Blocking of 10"
OWN = "a connection each"

#: How many greenlets, and how many commands each sends in one turn.
PLAN = ((1, 1500), (10, 300), (50, 80), (200, 25))
#: Sizes of values beside 64 bytes, for 50 greenlets.
SIZES = ((1_000, 60), (10_000, 40), (100_000, 12))

#: What one greenlet does, again and again.
Deed = Callable[[redis.Redis], object]


class Turn(NamedTuple):
    """What one contestant did in one turn."""

    #: commands in a second
    rate: float
    #: seconds of CPU for one command
    cpu: float
    #: seconds within which 99 of 100 commands were answered
    p99: float


def get(client: redis.Redis) -> object:
    """Read one value."""
    return client.get("key")


def mixture() -> Deed:
    """Return a deed that is a read, a write, a pipeline of ten or a BLPOP."""
    chance = Random(5)

    def deed(client: redis.Redis) -> object:
        kind = chance.random()
        if kind < 0.01:
            return client.blpop("nothing", 0.005)
        if kind < 0.11:
            pipe = client.pipeline(transaction=False)
            for _ in range(10):
                pipe.get("key")
            return pipe.execute()
        return client.set("other", "v" * 64) if kind < 0.31 else client.get("key")

    return deed


def turn(clients: Sequence[redis.Redis], times: int, deed: Deed) -> Turn:
    """Let a greenlet for each client do *deed* so many times. *May switch*."""
    waits: list[float] = []

    def work(client: redis.Redis) -> None:
        for _ in range(times):
            began = time.perf_counter()
            deed(client)
            waits.append(time.perf_counter() - began)

    gc.collect()
    began, cpu = time.perf_counter(), time.process_time()
    gevent.joinall([gevent.spawn(work, each) for each in clients], raise_error=True)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    waits.sort()
    return Turn(len(waits) / seconds, cpu / len(waits), waits[int(len(waits) * 0.99)])


def contestants(server: RedisServer) -> dict[str, Callable[[int], list[redis.Redis]]]:
    """Return, by name, what makes the clients of so many greenlets."""
    address: dict[str, Any] = {"host": server.host, "port": server.port}
    shared = redis.Redis(connection_pool=ConnectionPool(auto_pipeline=True, **address))
    pooled = redis.Redis(connection_pool=ConnectionPool(max_connections=10, **address))
    stock = redis.Redis(
        connection_pool=redis.BlockingConnectionPool(
            max_connections=10, timeout=60, **address
        )
    )
    own = [
        redis.Redis(single_connection_client=True, **address)
        for _ in range(max(number for number, _ in PLAN))
    ]
    return {
        SHARED: lambda number: [shared] * number,
        OWN: lambda number: own[:number],
        POOLED: lambda number: [pooled] * number,
        STOCK: lambda number: [stock] * number,
    }


def compare(
    title: str,
    makers: dict[str, Callable[[int], list[redis.Redis]]],
    greenlets: int,
    times: int,
    rounds: int,
    deed: Deed,
) -> None:
    """Let all take turns, and print a row for each. *May switch*."""
    turns: dict[str, list[Turn]] = {name: [] for name in makers}
    for _ in range(rounds):
        for name, make in makers.items():
            turns[name].append(turn(make(greenlets), times, deed))
    print(f"\n{title}, {greenlets} greenlets")
    print(f"{'':22}{'1/s':>9}{'':>7}{'CPU us':>9}{'':>7}{'p99 ms':>9}{'':>7}")
    base = Turn(*map(median, zip(*turns[OWN], strict=True)))
    for name, series in turns.items():
        mine = Turn(*map(median, zip(*series, strict=True)))
        cells = (
            (f"{mine.rate:9,.0f}", mine.rate / base.rate),
            (f"{mine.cpu * 1e6:9.1f}", mine.cpu / base.cpu),
            (f"{mine.p99 * 1e3:9.2f}", mine.p99 / base.p99),
        )
        row = "".join(f"{text}{f'{ratio:.2f}':>7}" for text, ratio in cells)
        print(f"{name:22}{row}", flush=True)


def place(server: RedisServer) -> str:
    """Put this process and the server on cores of their own, if there are two."""
    if not hasattr(os, "sched_setaffinity"):
        return "server anywhere"
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return "server on the same core"
    os.sched_setaffinity(0, {cores[0]})
    os.sched_setaffinity(server.pid, {cores[1]})
    return "server on another core"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it all. *May switch*."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="only 64 bytes")
    chosen = parser.parse_args(arguments)
    with RedisServer() as server:
        print(f"GET through redis.Redis; {place(server)}")
        makers = contestants(server)
        with redis.Redis(host=server.host, port=server.port) as client:
            client.set("key", "v" * 64)
            for greenlets, times in PLAN:
                compare("64 bytes", makers, greenlets, times, chosen.rounds, get)
            if chosen.quick:
                return
            compare("mixture", makers, 50, 60, chosen.rounds, mixture())
            for size, times in SIZES:
                client.set("key", "v" * size)
                compare(f"{size:,} bytes", makers, 50, times, chosen.rounds, get)


if __name__ == "__main__":
    main()
