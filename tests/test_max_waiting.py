"""Who counts for ``max_waiting``: those that no place will serve."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from gevent.event import Event

from geventpool import (
    Backoff,
    Pool,
    PoolExhaustedError,
    TooManyWaitingError,
)
from geventpool.testing import ScriptedConnector, check, wait_until
from tests import parts


def come_at_once(pool: Pool[Any], number: int) -> list[Any]:
    """Have so many greenlets borrow; return what each got, an error or a connection."""

    def borrow() -> Any:
        try:
            return pool.acquire(reclaim=False)
        except PoolExhaustedError as error:
            return error

    jobs = [gevent.spawn(borrow) for _ in range(number)]
    gevent.idle()
    return [job.get(timeout=5) for job in jobs]


@pytest.mark.parametrize("max_waiting", [0, 1])
def test_as_many_as_there_are_places_may_come_at_once(max_waiting: int) -> None:
    """Each of them waits for its own connection, and for nobody."""
    pool = Pool(ScriptedConnector(), max_connections=10, max_waiting=max_waiting)
    got = come_at_once(pool, 10)
    assert not [each for each in got if isinstance(each, Exception)]
    assert pool.stats().in_use == 10
    check(pool)


def test_one_more_than_may_wait_is_refused_while_connections_are_opened() -> None:
    """Two places and two that may wait are enough for four."""
    gate = Event()
    pool = Pool(ScriptedConnector(open=[gate, gate]), max_connections=2, max_waiting=2)
    jobs = [gevent.spawn(pool.acquire, reclaim=False) for _ in range(4)]
    gevent.idle()
    with pytest.raises(TooManyWaitingError, match="2/2: .* 2 opening, .* 4 waiting"):
        pool.acquire()
    gate.set()
    gevent.joinall(jobs[:2])
    for job in jobs[:2]:
        pool.release(job.get(), anyone=True)
    assert {job.get() for job in jobs[2:]} == {job.get() for job in jobs[:2]}


def test_nobody_waits_for_a_place_that_another_has_if_none_may() -> None:
    """max_waiting=0."""
    pool = Pool(ScriptedConnector(), max_connections=1, max_waiting=0)
    with pool.connection():
        with pytest.raises(TooManyWaitingError, match="max_waiting is reached"):
            pool.acquire()
        assert pool.stats().waiting == 0


def test_a_connection_that_is_reset_serves_one_who_does_not_count() -> None:
    """Nobody has it, and it will be idle soon."""
    gate = Event()
    pool = Pool(ScriptedConnector(reset=[gate]), max_connections=1, max_waiting=0)
    conn = pool.acquire()
    conn.needs_reset = True
    pool.release(conn)
    gevent.idle()
    first = gevent.spawn(pool.acquire, reclaim=False)
    gevent.idle()
    with pytest.raises(TooManyWaitingError, match="1 waiting, 1 resetting"):
        pool.acquire()
    gate.set()
    assert first.get(timeout=5) is conn


def test_a_place_whose_connection_is_closed_serves_one_who_does_not_count() -> None:
    """A connection is opened in it then."""
    gate = Event()
    pool = Pool(ScriptedConnector(close=[gate]), max_connections=1, max_waiting=0)
    conn = pool.acquire()
    pool.drain()
    pool.release(conn)
    gevent.idle()
    assert pool.stats().closing == 1
    first = gevent.spawn(pool.acquire, reclaim=False)
    gevent.idle()
    with pytest.raises(TooManyWaitingError):
        pool.acquire()
    gate.set()
    assert first.get(timeout=5) is not conn


def test_after_the_limit_was_lowered_there_are_no_places_to_wait_for() -> None:
    """More are lent than there are places."""
    pool = Pool(ScriptedConnector(), max_connections=3, max_waiting=1)
    lent = come_at_once(pool, 3)
    pool.resize(1)
    waiter = gevent.spawn(pool.acquire)
    gevent.idle()
    with pytest.raises(TooManyWaitingError):
        pool.acquire()
    waiter.kill()
    for conn in lent:
        pool.release(conn, anyone=True)


def test_free_places_do_not_count_while_the_server_is_full() -> None:
    """They would be of no use."""
    connector = ScriptedConnector(open=[None, OSError("full"), None])
    connector.exhausting = (OSError,)
    pause = Backoff(30, maximum=30, jitter=0)
    pool = Pool(connector, max_connections=10, max_waiting=1, backoff=pause)
    conn = pool.acquire()
    waiter = gevent.spawn(pool.acquire, reclaim=False)
    wait_until(lambda: parts.opener(pool).refused)
    with pytest.raises(TooManyWaitingError):
        pool.acquire()
    pool.release(conn)
    assert waiter.get(timeout=5) is conn
    pool.close(timeout=0)


def test_who_is_refused_leaves_no_trace_in_line() -> None:
    """The next connection goes to those that stayed."""
    pool = Pool(ScriptedConnector(), max_connections=1, max_waiting=1)
    conn = pool.acquire(reclaim=False)
    stays = gevent.spawn(pool.acquire, reclaim=False)
    gevent.idle()
    got = come_at_once(pool, 5)
    assert {type(each) for each in got} == {TooManyWaitingError}
    pool.release(conn)
    assert stays.get(timeout=5) is conn
    check(pool)
