"""What several of these tests need: hidden switches found, places counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import greenlet
import redis
from gevent.event import AsyncResult
from gevent.monkey import get_original

from geventpool.redis import ConnectionPool

__all__ = [
    "assert_all_places",
    "chain",
    "interrupted_everywhere",
    "outcome",
    "outcome_elsewhere",
    "pool_of",
    "present",
    "waitpid",
]

#: The patched one now and then misses a child that ends at once.
waitpid = get_original("os", "waitpid")


def outcome(work: Callable[..., Any], *args: Any) -> Any:
    """What *work* returns, or the error it raises.

    In the current greenlet, which lives on: the end of another greenlet would give back
    what *work* has lost.
    """
    try:
        return work(*args)
    except Exception as error:
        return error


def outcome_elsewhere(work: Callable[..., Any], *args: Any) -> Any:
    """The outcome of *work* in another greenlet, for a caller that holds connections.

    That greenlet waits forever afterwards, so its end gives nothing back.
    """
    result: AsyncResult[Any] = AsyncResult()

    def run() -> None:
        result.set(outcome(work, *args))
        _alive.append(gevent.getcurrent())
        gevent.get_hub().switch()

    gevent.spawn(run)
    return result.get()


#: Greenlets that must not end before the tests do.
_alive: list[Any] = []


def pool_of(client: redis.Redis) -> ConnectionPool:
    """Where a client gets its connections, as a pool of ours."""
    pool = client.connection_pool
    assert isinstance(pool, ConnectionPool)
    return pool


def chain(pipe: Any) -> Any:
    """A pipeline, whose methods return it.

    redis-py's types say what a client would return.
    """
    return pipe


def present(reply: bytes | str | None) -> bytes | str:
    """A reply that is not None."""
    assert reply is not None
    return reply


def assert_all_places(pool: ConnectionPool) -> None:
    """Every place of *pool* can be lent, and none is taken by nobody."""
    lent = [pool.get_connection() for _ in range(pool.max_connections)]
    for conn in lent:
        pool.release(conn)
    stats = pool.stats()
    assert stats.in_use == stats.opening == stats.waiting == 0, repr(pool.core)
    assert stats.idle == stats.size == pool.max_connections, repr(pool.core)


def interrupted_everywhere(
    scenario: Callable[[], object], interrupt: Callable[[gevent.Greenlet], object]
) -> Iterator[int]:
    """Run *scenario* again and again, interrupted where it switches for the n-th time.

    Yields n after each run, for the caller to look at what is left behind, until the
    scenario is over before there is anything to interrupt.
    """
    for number in range(1, 1000):
        victim = gevent.Greenlet(scenario)
        if not _run_until(victim, number, interrupt):
            victim.get()
            return
        yield number
    raise AssertionError("the scenario does not come to an end")


def _run_until(
    victim: gevent.Greenlet, number: int, interrupt: Callable[[Any], object]
) -> bool:
    left = 0
    reached = False

    def trace(event: str, greenlets: tuple[Any, Any]) -> None:
        nonlocal left, reached
        if greenlets[0] is victim and not victim.dead:
            left += 1
            if left == number:
                reached = True
                gevent.get_hub().loop.run_callback(interrupt, victim)

    before = greenlet.settrace(trace)
    try:
        victim.start()
        victim.join()
    finally:
        greenlet.settrace(before)
    return reached
