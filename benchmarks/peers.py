"""
The contestants: our pool, the pools in use today, and the floor under all of them.

Each is set up as its own documentation would have it for this load, and lends
connections that cost nothing, so that what is timed is the pool. Bound methods are
taken directly where the pool has them: nothing stands between the clock and the pool.

Peers are imported when they are built; one that is not installed is told of and
left out.
"""

from __future__ import annotations

import contextlib
import operator
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import gevent.queue

OURS = "geventpool"
GENERATOR = "the generator alone"
FLOOR = "gevent queue"
BLOCKING = "redis Blocking"
QUEUE_POOL = "QueuePool"
POOLED_DB = "PooledDB"

#: Those whose fastest the targets are measured against.
RIVALS = (BLOCKING, QUEUE_POOL, POOLED_DB)


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


class Dummy:
    """
    A connection that is always well and never talks.

    It answers to what each of the pools asks of its connections while idle, with the
    least work possible.
    """

    __slots__ = ("pid", "__weakref__")

    def __init__(self, **options: Any) -> None:
        self.pid = os.getpid()

    def connect(self) -> None:
        """Do nothing: connected."""

    def disconnect(self, *args: Any) -> None:
        """Do nothing."""

    def can_read(self, timeout: float = 0) -> bool:
        """Say that nothing waits to be read."""
        return False

    def should_reconnect(self) -> bool:
        """Say no."""
        return False

    def re_auth(self) -> None:
        """Do nothing: there is no new password."""

    def open(self) -> None:
        """Do nothing: open."""

    def close(self) -> None:
        """Do nothing."""

    def is_connected(self) -> bool:
        """Say yes."""
        return True

    def is_expired(self) -> bool:
        """Say no."""
        return False

    def commit(self) -> None:
        """Do nothing."""

    def rollback(self) -> None:
        """Do nothing."""

    def cursor(self) -> None:
        """Do nothing."""


class DummyApi:
    """As much of a DB-API module as PooledDB asks for."""

    threadsafety = 1
    OperationalError = InterfaceError = InternalError = OSError
    connect = Dummy


class NoPool:
    """Lends the same connection to everybody at once: all a pool does but pooling."""

    def __init__(self) -> None:
        self.conn = Dummy()

    def acquire(self) -> Dummy:
        """The one connection, whoever has it."""
        return self.conn

    def release(self, conn: Dummy) -> None:
        """Do nothing: it was never taken."""


def no_op(limit: int) -> Contestant:
    """The load generator's own limit: what it does if the pool takes no time at all."""
    pool = NoPool()
    return Contestant(GENERATOR, pool.acquire, pool.release, lambda: None)


def ours(limit: int) -> Contestant:
    """Our pool with a connector whose connections cost nothing."""
    geventpool = import_module("geventpool")
    connector = import_module("benchmarks.dummies").DummyConnector
    pool = geventpool.Pool(connector(), max_connections=limit)
    return Contestant(
        OURS,
        pool.acquire,
        pool.release,
        pool.close,
        pool.connection,
        (geventpool.PoolExhaustedError,),
    )


def lifo_queue(limit: int) -> Contestant:
    """
    A bare gevent queue, filled beforehand: no pool can cost less.

    Its acquire is the one that may wait; without contention it costs the same.
    """
    queue: gevent.queue.LifoQueue[Dummy] = gevent.queue.LifoQueue()
    for _ in range(limit):
        queue.put_nowait(Dummy())
    return Contestant(FLOOR, queue.get, queue.put_nowait, lambda: None)


def lifo_queue_nowait(limit: int) -> Contestant:
    """The floor of the uncontended cycle: ``get_nowait`` and ``put_nowait``."""
    queue: gevent.queue.LifoQueue[Dummy] = gevent.queue.LifoQueue()
    for _ in range(limit):
        queue.put_nowait(Dummy())
    return Contestant(FLOOR, queue.get_nowait, queue.put_nowait, lambda: None)


def redis_blocking(limit: int) -> Contestant:
    """redis-py's BlockingConnectionPool, protocol 2: no maintenance notifications."""
    redis = import_module("redis")
    pool = redis.BlockingConnectionPool(
        max_connections=limit, connection_class=Dummy, protocol=2
    )
    return Contestant(
        BLOCKING,
        pool.get_connection,
        pool.release,
        pool.disconnect,
        refusals=(redis.ConnectionError,),
    )


def redis_plain(limit: int) -> Contestant:
    """redis-py's ConnectionPool, which refuses at once when exhausted."""
    redis = import_module("redis")
    pool = redis.ConnectionPool(
        max_connections=limit, connection_class=Dummy, protocol=2
    )
    return Contestant(
        "redis Pool",
        pool.get_connection,
        pool.release,
        pool.disconnect,
        refusals=(redis.ConnectionError,),
    )


def queue_pool(limit: int) -> Contestant:
    """SQLAlchemy's QueuePool without its rollback on return."""
    sqlalchemy = import_module("sqlalchemy")
    pool = sqlalchemy.pool.QueuePool(
        Dummy, pool_size=limit, max_overflow=0, reset_on_return=None, use_lifo=True
    )
    return Contestant(
        QUEUE_POOL,
        pool.connect,
        operator.methodcaller("close"),
        pool.dispose,
        refusals=(sqlalchemy.exc.TimeoutError,),
    )


def pooled_db(limit: int) -> Contestant:
    """DBUtils' PooledDB with dedicated connections, neither pinged nor rolled back."""
    pool = import_module("dbutils.pooled_db").PooledDB(
        DummyApi,
        maxconnections=limit,
        blocking=True,
        reset=False,
        ping=0,
    )
    return Contestant(
        POOLED_DB, pool.dedicated_connection, operator.methodcaller("close"), pool.close
    )


def gsocketpool(limit: int) -> Contestant:
    """gsocketpool, which looks for a free connection every tenth of a second."""
    package = import_module("gsocketpool")
    pool = package.Pool(Dummy, max_connections=limit, reap_expired_connections=False)
    return Contestant(
        "gsocketpool",
        pool.acquire,
        pool.release,
        lambda: None,
        pool.connection,
        (import_module("gsocketpool.exceptions").PoolExhaustedError,),
    )


#: Every pool a load can be put on, ours first.
POOLS: tuple[Callable[[int], Contestant], ...] = (
    ours,
    redis_blocking,
    redis_plain,
    queue_pool,
    pooled_db,
    gsocketpool,
)


def built(
    builders: tuple[Callable[[int], Contestant], ...], limit: int
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
