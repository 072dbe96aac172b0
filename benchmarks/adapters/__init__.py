"""Every pool that is compared, behind one interface: :class:`PoolAdapter`.

Each function of ``ours`` and ``peers`` sets one pool up as its documentation recommends
for this load. With *fakes* it lends fake connections, so that only the pool is
measured; without, it lends connections of its driver to the server that the options
name. Bound methods of the pool are taken where there are some: nothing stands between
the clock and the pool.

Some peers are made for one driver only. With fakes, pymysql-pool and psycopg_pool run
their own code unchanged over connections that answer as that driver's would, and
geventhttpclient's pool gets its sockets where its documentation says that subclasses
may supply them.

A peer is imported when it is built. One that is not installed is reported and left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

from benchmarks.adapters import base, ours, peers
from benchmarks.adapters.base import (
    FLOOR,
    GENERATOR,
    OURS,
    Builder,
    Builders,
    PoolAdapter,
)

__all__ = ["AT_SERVERS", "FLOOR", "GENERATOR", "OURS", "POOLS", "RIVALS", "Builder"]
__all__ += ["Builders", "PoolAdapter", "at_server", "close", "closing", "fake_pool"]
__all__ += ["installed", "ours", "peers"]

#: The peers whose fastest the targets are measured against.
RIVALS = (base.BLOCKING, base.QUEUE_POOL, base.POOLED_DB)

#: Every pool that fakes can be lent by, ours first.
POOLS: Builders = {
    OURS: ours.fake,
    base.BLOCKING: peers.redis_blocking,
    base.PLAIN: peers.redis_plain,
    base.QUEUE_POOL: peers.queue_pool,
    base.POOLED_DB: peers.pooled_db,
    base.GSOCKETPOOL: peers.gsocketpool,
    base.MYSQL_POOL: peers.pymysql_pool,
    base.HTTP_POOL: peers.http_pool,
    base.PSYCOPG_POOL: peers.psycopg_pool,
}

#: Every pool by the kind of server that its driver connects to, ours first.
AT_SERVERS: dict[str, Builders] = {
    "redis": {OURS: ours.redis}
    | {name: POOLS[name] for name in (base.BLOCKING, base.PLAIN)},
    "mysql": {OURS: ours.mysql}
    | {
        name: POOLS[name] for name in (base.QUEUE_POOL, base.POOLED_DB, base.MYSQL_POOL)
    },
    "echo": {OURS: ours.tcp, base.GSOCKETPOOL: peers.gsocketpool},
}


def at_server(kind: str, limit: int, **options: object) -> dict[str, PoolAdapter]:
    """Build all pools for that kind of server."""
    return {name: build(limit, **options) for name, build in AT_SERVERS[kind].items()}


def fake_pool(name: str, limit: int, **options: object) -> PoolAdapter:
    """Build one of :data:`POOLS` with fakes."""
    return POOLS[name](limit, fakes=True, **options)


def installed() -> tuple[Builders, dict[str, str]]:
    """Return how each pool with fakes is built, and why some cannot be."""
    found: Builders = {}
    missing: dict[str, str] = {}
    for name in POOLS:
        try:
            close(fake_pool(name, 1))
        except Exception as error:
            missing[name] = f"{type(error).__name__}: {error}"
        else:
            found[name] = partial(fake_pool, name)
    return found, missing


@contextlib.contextmanager
def closing(pools: dict[str, PoolAdapter]) -> Iterator[dict[str, PoolAdapter]]:
    """Close the pools at the end of the block. May switch."""
    yield pools
    close(*pools.values())


def close(*adapters: PoolAdapter) -> None:
    """Close them; a peer that cannot close is no reason to stop."""
    for adapter in adapters:
        with contextlib.suppress(Exception):
            adapter.close()
