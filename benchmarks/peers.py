"""
The contestants: our pool, the pools in use today, and the floor under all of them.

Each is set up as its own documentation would have it for this load, and lends
connections that cost nothing, so that what is timed is the pool. Bound methods are
taken directly where the pool has them: nothing stands between the clock and the pool.

Some peers are made for one driver alone. pymysql-pool and psycopg_pool run their own
code unchanged over connections that answer as that driver's would; geventhttpclient's
pool is given its sockets where its documentation says that subclasses may.

Peers are imported when they are built; one that is not installed is told of and
left out.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import Any

import gevent.queue
from gevent import monkey

from benchmarks.dummies import (
    Dummy,
    DummyApi,
    DummyConnector,
    with_descriptor,
    with_status,
    with_transactions,
)

OURS = "geventpool"
FLOOR = "gevent queue"
BLOCKING = "redis Blocking"
QUEUE_POOL = "QueuePool"
POOLED_DB = "PooledDB"
MYSQL_POOL = "pymysql-pool"
HTTP_POOL = "geventhttpclient"
PSYCOPG_POOL = "psycopg_pool"

#: Those whose fastest the targets are measured against.
RIVALS = (BLOCKING, QUEUE_POOL, POOLED_DB)

#: Seconds between two looks of a pool that polls, where it lets its user choose: of
#: 1, 3, 10, 30 and 100 ms the best for loans of a millisecond.
POLL = 0.003


@dataclass(frozen=True)
class Contestant:
    """One pool behind the verbs the workloads use."""

    name: str
    acquire: Callable[[], Any]
    release: Callable[[Any], object]
    close: Callable[[], object]
    #: Its own borrow block, where it has one.
    block: Callable[[], AbstractContextManager[Any]] | None = None
    #: What it raises when it is exhausted, for a load to try again.
    refusals: tuple[type[Exception], ...] = ()


#: Takes a limit, and then the kind of dummies to lend; some take a lifetime too.
Builder = Callable[..., Contestant]


def ours(
    limit: int, kind: type[Dummy] = Dummy, lifetime: float | None = None, **more: Any
) -> Contestant:
    """
    Our pool with a connector whose connections cost nothing.

    :param more: further options of the pool.
    """
    geventpool = import_module("geventpool")
    pool = geventpool.Pool(
        DummyConnector(kind), max_connections=limit, max_lifetime=lifetime, **more
    )
    return Contestant(
        OURS,
        pool.acquire,
        pool.release,
        pool.close,
        pool.connection,
        (geventpool.PoolExhaustedError,),
    )


def lifo_queue(limit: int, kind: type[Dummy] = Dummy) -> Contestant:
    """
    A bare gevent queue, filled beforehand: no pool can cost less.

    Its acquire is the one that may wait; without contention it costs the same.
    """
    queue: gevent.queue.LifoQueue[Dummy] = gevent.queue.LifoQueue()
    for _ in range(limit):
        queue.put_nowait(kind.dial())
    return Contestant(FLOOR, queue.get, queue.put_nowait, lambda: None)


def lifo_queue_nowait(limit: int) -> Contestant:
    """The floor of the uncontended cycle: ``get_nowait`` and ``put_nowait``."""
    queue: gevent.queue.LifoQueue[Dummy] = gevent.queue.LifoQueue()
    for _ in range(limit):
        queue.put_nowait(Dummy())
    return Contestant(FLOOR, queue.get_nowait, queue.put_nowait, lambda: None)


def redis_blocking(limit: int, kind: type[Dummy] = Dummy) -> Contestant:
    """redis-py's BlockingConnectionPool, protocol 2: no maintenance notifications."""
    redis = import_module("redis")
    pool = redis.BlockingConnectionPool(
        max_connections=limit, connection_class=kind, protocol=2
    )
    return Contestant(
        BLOCKING,
        pool.get_connection,
        pool.release,
        pool.disconnect,
        refusals=(redis.ConnectionError,),
    )


def redis_plain(limit: int, kind: type[Dummy] = Dummy) -> Contestant:
    """redis-py's ConnectionPool, which refuses at once when exhausted."""
    redis = import_module("redis")
    pool = redis.ConnectionPool(
        max_connections=limit, connection_class=kind, protocol=2
    )
    return Contestant(
        "redis Pool",
        pool.get_connection,
        pool.release,
        pool.disconnect,
        refusals=(redis.ConnectionError,),
    )


def queue_pool(
    limit: int, kind: type[Dummy] = Dummy, lifetime: float | None = None
) -> Contestant:
    """SQLAlchemy's QueuePool without its rollback on return."""
    sqlalchemy = import_module("sqlalchemy")
    pool = sqlalchemy.pool.QueuePool(
        kind.dial,
        pool_size=limit,
        max_overflow=0,
        reset_on_return=None,
        use_lifo=True,
        recycle=-1 if lifetime is None else lifetime,
    )
    return Contestant(
        QUEUE_POOL,
        pool.connect,
        operator.methodcaller("close"),
        pool.dispose,
        refusals=(sqlalchemy.exc.TimeoutError,),
    )


def pooled_db(limit: int, kind: type[Dummy] = Dummy) -> Contestant:
    """DBUtils' PooledDB with dedicated connections, neither pinged nor rolled back."""
    pool = import_module("dbutils.pooled_db").PooledDB(
        DummyApi(kind),
        maxconnections=limit,
        blocking=True,
        reset=False,
        ping=0,
    )
    return Contestant(
        POOLED_DB, pool.dedicated_connection, operator.methodcaller("close"), pool.close
    )


def gsocketpool(
    limit: int, kind: type[Dummy] = Dummy, lifetime: float | None = None
) -> Contestant:
    """gsocketpool, which looks for a free connection every tenth of a second."""
    package = import_module("gsocketpool")
    # Without a lifetime its reaper has nothing to do, and would outlive the pool.
    reaper = {"reap_interval": lifetime / 2} if lifetime is not None else {}
    pool = package.Pool(
        kind, max_connections=limit, reap_expired_connections=bool(reaper), **reaper
    )
    return Contestant(
        "gsocketpool",
        pool.acquire,
        pool.release,
        pool._reaper.kill if reaper else lambda: None,
        pool.connection,
        (import_module("gsocketpool.exceptions").PoolExhaustedError,),
    )


def pymysql_pool(limit: int, kind: type[Dummy] = Dummy) -> Contestant:
    """
    pymysql-pool, asked to look again as often and as long as it lets one ask.

    Without its lifetime, which is counted in whole seconds.
    """
    # A copy of the module of our own, for another kind of connection in it.
    found = find_spec("pymysqlpool")
    if found is None or found.loader is None:
        raise ImportError("No module named 'pymysqlpool'")
    module: Any = module_from_spec(found)
    found.loader.exec_module(module)
    module.Connection = with_transactions(kind).dial
    pool = module.ConnectionPool(size=limit, maxsize=limit, con_lifetime=0)
    return Contestant(
        MYSQL_POOL,
        partial(pool.get_connection, 10, POLL),
        # What the connection's own close() and block come down to.
        pool._put_connection,
        lambda: None,
        refusals=(module.GetConnectionFromPoolError,),
    )


def http_pool(limit: int, kind: type[Dummy] = Dummy) -> Contestant:
    """geventhttpclient's pool, which asks ``select`` about each socket it lends."""
    package = import_module("geventhttpclient.connectionpool")
    sockets = with_descriptor(kind)

    class Pool(package.ConnectionPool):  # type: ignore[misc]
        """With dummies for sockets."""

        def _create_socket(self) -> Any:
            return sockets.dial()

    pool = Pool("localhost", 0, "localhost", 0, size=limit)
    return Contestant(HTTP_POOL, pool.get_socket, pool.return_socket, pool.close)


def psycopg_pool(
    limit: int, kind: type[Dummy] = Dummy, lifetime: float | None = None
) -> Contestant:
    """
    psycopg_pool at a fixed size; its workers and locks are greenlets and gevent's.

    :raises RuntimeError: nothing is monkey-patched, so it would block the hub.
    """
    if not monkey.is_module_patched("threading"):
        raise RuntimeError("needs gevent.monkey.patch_all()")
    package = import_module("psycopg_pool")
    pool = package.ConnectionPool(
        connection_class=with_status(kind),
        min_size=limit,
        max_size=limit,
        max_lifetime=3600.0 if lifetime is None else lifetime,
        open=True,
    )
    return Contestant(
        PSYCOPG_POOL,
        pool.getconn,
        pool.putconn,
        pool.close,
        refusals=(package.PoolTimeout,),
    )


#: Every pool a load can be put on, ours first.
POOLS: tuple[Builder, ...] = (
    ours,
    redis_blocking,
    redis_plain,
    queue_pool,
    pooled_db,
    gsocketpool,
    pymysql_pool,
    http_pool,
    psycopg_pool,
)

#: Those that replace a connection when it has reached an age in fractions of a second.
AGEING: tuple[Builder, ...] = (ours, queue_pool, gsocketpool, psycopg_pool)


def built(
    builders: tuple[Builder, ...], limit: int
) -> tuple[dict[str, Contestant], dict[str, str]]:
    """The contestants by name, and those that could not be built with the reason."""
    contestants: dict[str, Contestant] = {}
    missing: dict[str, str] = {}
    for build in builders:
        try:
            contestant = build(limit)
        except ImportError as error:
            missing[build.__name__] = f"not installed ({error})"
        except Exception as error:
            missing[build.__name__] = f"failed: {type(error).__name__}: {error}"
        else:
            contestants[contestant.name] = contestant
    return contestants, missing


def close_all(contestants: dict[str, Contestant]) -> None:
    """Close every contestant; a peer that can't close is no reason to stop."""
    for contestant in contestants.values():
        with contextlib.suppress(Exception):
            contestant.close()
