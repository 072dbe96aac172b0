"""Our pools, and the bare queue that is the floor under all of them."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

import gevent.queue

from benchmarks.adapters.base import (
    FLOOR,
    OURS,
    PATIENCE,
    PoolAdapter,
    echo,
    redis_adapter,
    select,
    stats_of,
    through,
)
from benchmarks.fakes import Fake, FakeConnector

# Our pools.


def fake(limit: int, kind: type[Fake] = Fake, **options: Any) -> PoolAdapter:
    """Our pool with a connector of fakes."""
    package = import_module("geventpool")
    pool = package.Pool(FakeConnector(kind), max_connections=limit, **options)
    return _our_core(package, pool)


def tcp(limit: int, host: str, port: int, **options: Any) -> PoolAdapter:
    """Our pool of ``TcpConnection``."""
    package = import_module("geventpool")
    pool = package.Pool(
        package.TcpConnection,
        {"host": host, "port": port},
        max_connections=limit,
        **options,
    )
    return _our_core(package, pool)


def _our_core(package: Any, pool: Any) -> PoolAdapter:
    return PoolAdapter(
        OURS,
        pool.acquire,
        pool.release,
        pool.close,
        pool.connection,
        (package.PoolExhaustedError,),
        pool.drop,
        through(pool.connection, echo),
        stats_of(pool),
    )


def redis(limit: int, **options: Any) -> PoolAdapter:
    """``geventpool.redis`` with its defaults."""
    kind = import_module("geventpool.redis").ConnectionPool
    pool = kind(max_connections=limit, **options)
    return redis_adapter(OURS, pool, pool.shutdown, stats_of(pool))


def mysql(limit: int, **options: Any) -> PoolAdapter:
    """``geventpool.mysql`` with its defaults, which reset the whole session."""
    kind = import_module("geventpool.mysql").ConnectionPool
    pool = kind(max_connections=limit, **options)
    return PoolAdapter(
        OURS,
        pool.acquire,
        pool.release,
        partial(pool.close, PATIENCE),
        pool.connection,
        (import_module("geventpool").PoolExhaustedError,),
        pool.drop,
        through(pool.connection, select),
        stats_of(pool),
        commits=True,
    )


# The floor.


def gevent_queue(limit: int, kind: type[Fake] = Fake) -> PoolAdapter:
    """A bare gevent queue, filled beforehand: no pool can cost less.

    Its acquire is the one that may wait; without contention that costs the same.
    """
    queue = _filled_queue(limit, kind)
    return PoolAdapter(FLOOR, queue.get, queue.put_nowait, lambda: None)


def gevent_queue_nowait(limit: int, kind: type[Fake] = Fake) -> PoolAdapter:
    """The floor of the uncontended cycle: ``get_nowait`` and ``put_nowait``."""
    queue = _filled_queue(limit, kind)
    return PoolAdapter(FLOOR, queue.get_nowait, queue.put_nowait, lambda: None)


def _filled_queue(limit: int, kind: type[Fake]) -> gevent.queue.LifoQueue[Fake]:
    queue: gevent.queue.LifoQueue[Fake] = gevent.queue.LifoQueue()
    for _ in range(limit):
        queue.put_nowait(kind.dial())
    return queue
