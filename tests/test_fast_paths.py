"""The fast paths of a loan, which are written out, do what the slow path does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from geventpool import ConnectionNotFoundError, Connector, Pool, PoolListener
from geventpool.testing import Clock, ScriptedConnector, check, check_capacity
from tests.calls import called

Steps = Iterator[object]


class NeverReset(ScriptedConnector):
    """Asks for no reset, so that the release of a connection has a fast path too."""

    needs_reset = Connector.needs_reset


SCENARIOS: dict[str, Callable[[Pool[Any], ScriptedConnector], Steps]] = {}


def scenario(
    steps: Callable[[Pool[Any], ScriptedConnector], Steps],
) -> Callable[[Pool[Any], ScriptedConnector], Steps]:
    SCENARIOS[steps.__name__] = steps
    return steps


@scenario
def loans_in_a_row(pool, connector):
    for _ in range(3):
        conn = pool.acquire()
        yield conn
        pool.release(conn)
        yield None
        with pool.connection() as conn:
            yield conn


@scenario
def loans_within_loans(pool, connector):
    with pool.connection() as outer:
        inner = pool.acquire()
        yield outer, inner
        pool.release(inner)
        with pool.connection() as inner:
            yield inner


@scenario
def a_connection_that_is_unusable(pool, connector):
    for borrow in "acquire", "connection":
        with pool.connection() as conn:
            pass
        conn.is_usable = False
        if borrow == "acquire":
            fresh = pool.acquire()
            yield fresh
            pool.release(fresh)
        else:
            with pool.connection() as fresh:
                yield fresh
        yield conn.end


@scenario
def a_drain_in_a_loan(pool, connector):
    conn = pool.acquire()
    pool.drain()
    pool.release(conn)
    yield conn.end
    with pool.connection() as conn:
        pool.drain()
    gevent.idle()
    yield conn.end


@scenario
def fewer_places_in_a_loan(pool, connector):
    first, second = pool.acquire(), pool.acquire()
    pool.resize(1)
    pool.release(first)
    gevent.idle()
    yield first.end
    # There are no more than allowed any longer.
    pool.release(second)
    yield second.end


@scenario
def waiters(pool, connector):
    served = []

    def borrow(number):
        with pool.connection() as conn:
            served.append((number, conn))

    lent = [pool.acquire(), pool.acquire()]
    greenlets = [gevent.spawn(borrow, number) for number in range(4)]
    gevent.idle()
    yield None
    for conn in lent:
        pool.release(conn)
        yield None
    gevent.joinall(greenlets)
    yield served


@scenario
def an_unusable_connection_for_a_waiter(pool, connector):
    first, second = pool.acquire(), pool.acquire()
    waiter = gevent.spawn(pool.acquire)
    gevent.idle()
    first.is_usable = False
    pool.release(first)
    yield first.end
    conn = waiter.get()
    yield conn
    pool.release(second)
    pool.drop(conn, anyone=True)


@scenario
def an_error_in_a_block(pool, connector):
    try:
        with pool.connection() as conn:
            raise ValueError
    except ValueError:
        yield conn.end


@scenario
def a_second_release(pool, connector):
    conn = pool.acquire()
    pool.release(conn)
    for _ in range(2):
        try:
            pool.release(conn)
        except ConnectionNotFoundError as error:
            yield type(error)


@scenario
def a_release_within_a_block(pool, connector):
    with pool.connection() as conn:
        pool.release(conn)
        yield conn.end
    yield None


@scenario
def loans_for_some_time(pool, connector):
    # One connection is idle since some time of the machine, which may have just begun.
    clock = Clock(time.monotonic())
    clock.rule(pool)
    for _ in range(3):
        with pool.connection() as conn:
            clock.advance(1)
            yield conn, round(pool.loans()[0].seconds, 3)
        clock.advance(1)
        conn = pool.acquire()
        clock.advance(1)
        yield conn, round(pool.loans()[0].seconds, 3)
        pool.release(conn)


def walk(
    steps: Callable[[Pool[Any], ScriptedConnector], Steps], options: dict[str, Any]
) -> list[str]:
    """What can be seen of the pool at each step."""
    connector = NeverReset()
    pool = Pool(connector, name="pool", max_connections=2, **options)
    # Only a greenlet that is known takes the fast path of acquire().
    pool.release(pool.acquire())
    seen = [f"{each} {pool!r} {connector.now_open}" for each in steps(pool, connector)]
    gevent.idle()
    seen.append(f"{pool!r} {connector.calls}")
    check(pool)
    check_capacity(pool)
    pool.close(timeout=0)
    return seen


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize(
    "options", [{"listeners": [PoolListener()]}, {"max_idle": 60}], ids=str
)
def test_both_paths_of_a_loan_do_the_same(name, options):
    """Listeners and age limits switch the fast paths off, and change nothing else."""
    fast, slow = walk(SCENARIOS[name], {}), walk(SCENARIOS[name], options)
    assert len(fast) > 1
    assert slow == fast


def names(work):
    """The names of the functions that *work* calls."""
    return [code.co_name for code in called(work)]


def test_the_fast_paths_are_what_is_compared():
    """A pool without options takes them, and one with a listener does not."""

    def bare():
        pool.release(pool.acquire())

    def in_block():
        with pool.connection():
            pass

    for listeners in (), [PoolListener()]:
        pool = Pool(NeverReset(), listeners=listeners)
        bare()
        for work in bare, in_block:
            slow = {"borrow", "end_loan_normally"} & set(names(work))
            assert len(slow) == (2 if listeners else 0)
