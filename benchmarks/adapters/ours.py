"""Our pools, and the bare queue that is the floor under all of them."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

import gevent.queue

from benchmarks.adapters import base
from benchmarks.adapters.base import PoolAdapter, echo, select
from benchmarks.fakes import Fake, FakeConnector


def fake(limit: int, fakes: bool = True, **options: Any) -> PoolAdapter:
    """Our pool with a connector of fakes."""
    pool = import_module("geventpool").Pool
    return adapter(pool(FakeConnector(), max_connections=limit, **options))


def tcp(limit: int, host: str, port: int, **options: Any) -> PoolAdapter:
    """Our pool of ``TcpConnection``."""
    package = import_module("geventpool")
    address = {"host": host, "port": port}
    pool = package.Pool(
        package.TcpConnection, address, max_connections=limit, **options
    )
    return adapter(pool, talk=echo)


def redis(limit: int, **options: Any) -> PoolAdapter:
    """``geventpool.redis`` with its defaults."""
    kind = import_module("geventpool.redis").ConnectionPool
    pool = kind(max_connections=limit, **options)
    return base.redis_adapter(base.OURS, pool, pool.shutdown)


def mysql(limit: int, **options: Any) -> PoolAdapter:
    """``geventpool.mysql`` with its defaults, which reset the whole session."""
    kind = import_module("geventpool.mysql").ConnectionPool
    pool = kind(max_connections=limit, **options)
    # One more connection ends interrupted statements at the server.
    return adapter(pool, talk=select, commits=True, aside=1)


def adapter(pool: Any, **more: Any) -> PoolAdapter:
    """Adapt one of our pools."""
    return PoolAdapter(
        base.OURS,
        pool.acquire,
        pool.release,
        partial(pool.close, base.PATIENCE),
        pool.connection,
        (import_module("geventpool").PoolExhaustedError,),
        pool.drop,
        **more,
    )


def gevent_queue(limit: int, fakes: bool = True, take: str = "get") -> PoolAdapter:
    """A bare gevent queue, filled beforehand: no pool can cost less.

    :param take: the method that may wait, or ``get_nowait``.
    """
    queue: gevent.queue.LifoQueue[Fake] = gevent.queue.LifoQueue()
    for _ in range(limit):
        queue.put_nowait(Fake())
    return PoolAdapter(base.FLOOR, getattr(queue, take), queue.put_nowait, lambda: None)


#: The floor of the uncontended cycle.
gevent_queue_nowait = partial(gevent_queue, take="get_nowait")


def generator(limit: int) -> PoolAdapter:
    """No pool at all, see :data:`~benchmarks.adapters.base.GENERATOR`."""
    conn = Fake()
    return PoolAdapter(base.GENERATOR, lambda: conn, lambda conn: None, lambda: None)
