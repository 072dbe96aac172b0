"""A wait that nothing can end is refused; one that may end is not."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from geventpool import Pool, PoolDeadlockError, PoolExhaustedError
from geventpool._core.deadlocks import waiting
from geventpool.testing import ScriptedConnector, check


def made(**options: Any) -> Pool[Any]:
    """A pool whose waiters would wait for long."""
    return Pool(ScriptedConnector(), timeout=60, **options)


def nested(outer: Pool[Any], inner: Pool[Any], **options: Any) -> str:
    """Borrow from one pool in a block of the other: how that ended."""
    with outer.connection():
        gevent.sleep(0)
        try:
            with inner.connection(**options):
                return "served"
        except PoolExhaustedError as error:
            return type(error).__name__


@pytest.fixture(autouse=True)
def nobody_waits_any_more() -> Any:
    """The table of waiters is empty after each test."""
    yield
    assert not waiting


def test_a_block_in_a_block_of_a_pool_of_one_is_refused_at_once() -> None:
    """Only the greenlet that waits could give the connection back."""
    pool = made(max_connections=1)
    assert nested(pool, pool) == "PoolDeadlockError"
    check(pool)


def test_a_bare_loan_proves_nothing_before_the_time_is_up() -> None:
    """A worker may give it back, and the pool knows nothing of the worker."""
    pool = made(max_connections=1)
    conn = pool.acquire()
    gevent.spawn(pool.release, conn)
    assert pool.acquire() is conn
    with pytest.raises(PoolDeadlockError):
        pool.acquire(timeout=0.001)
    pool.release(conn)


def test_a_bare_loan_that_only_its_owner_gives_back_is_a_proof() -> None:
    """With owner_only nobody else can."""
    pool = made(max_connections=1, owner_only=True)
    conn = pool.acquire()
    with pytest.raises(PoolDeadlockError):
        pool.acquire()
    pool.release(conn)


def test_owner_only_proves_nothing_without_reclaim() -> None:
    """Then the loan outlives its holder, and another greenlet gives it back."""
    pool = made(max_connections=1, owner_only=True, reclaim=False)
    conn = pool.acquire()
    helper = gevent.spawn(pool.release, conn, anyone=True)
    assert pool.acquire() is conn
    helper.get()
    pool.release(conn)


@pytest.mark.parametrize("owner_only", [False, True])
@pytest.mark.parametrize("how", ["unwatched", "transferred"])
def test_a_loan_that_anyone_gives_back_proves_nothing(
    how: str, owner_only: bool
) -> None:
    """Its holder may wait, but is not needed."""
    pool = made(max_connections=1, owner_only=owner_only)
    conn = pool.acquire(reclaim=how != "unwatched")
    if how == "transferred":
        pool.transfer(conn, None)
    gevent.spawn(pool.release, conn, anyone=True)
    assert pool.acquire() is conn
    pool.release(conn)


def test_a_holder_that_waits_for_a_shorter_time_gives_back() -> None:
    """It goes on without a second connection, and the others are served."""
    pool = made(max_connections=2)
    brief = gevent.spawn(nested, pool, pool, timeout=0.01)
    long = gevent.spawn(nested, pool, pool)
    gevent.joinall([brief, long], raise_error=True)
    assert (brief.value, long.value) == ("PoolDeadlockError", "served")


def test_a_circle_through_two_pools_is_broken_in_the_greenlet_that_closes_it() -> None:
    """Else both would wait until their time is up, and both fail."""
    one, other = made(max_connections=1), made(max_connections=1)
    both = [gevent.spawn(nested, one, other), gevent.spawn(nested, other, one)]
    gevent.joinall(both, raise_error=True)
    assert [greenlet.value for greenlet in both] == ["served", "PoolDeadlockError"]


def test_a_circle_through_pools_of_several_places_costs_one_victim_at_a_time() -> None:
    """Each victim frees the places that let the others go on."""
    one, other = made(max_connections=2), made(max_connections=2)
    pairs = [(one, other), (other, one)] * 4
    greenlets = [gevent.spawn(nested, *pair) for pair in pairs]
    gevent.joinall(greenlets, raise_error=True)
    ends = [greenlet.value for greenlet in greenlets]
    assert ends.count("served") >= 4


def test_a_free_place_anywhere_in_the_circle_is_no_deadlock() -> None:
    """It is about to be opened, or to come free."""
    one, other = made(max_connections=1), made(max_connections=2)
    both = [gevent.spawn(nested, one, other), gevent.spawn(nested, other, one)]
    gevent.joinall(both, raise_error=True)
    assert [greenlet.value for greenlet in both] == ["served", "served"]


def test_a_place_that_is_being_closed_is_no_deadlock() -> None:
    """The waiter is served by the one that is opened in its place."""
    from gevent.event import Event

    closed = Event()
    pool = Pool(ScriptedConnector(close=[closed]), max_connections=2, timeout=60)
    leaving = pool.acquire()
    pool.release(leaving)
    with pool.connection():
        with pool.connection():
            pass
        pool.drop(pool.idle_connections()[0])
        gevent.idle()
        waiter = gevent.spawn(nested, pool, pool)
        gevent.spawn(closed.set)
        with pool.connection():
            pass
    assert waiter.get() in ("served", "PoolDeadlockError")


def test_a_waiter_that_was_just_served_does_not_wait() -> None:
    """It has not run yet, but it will, and give back what it holds."""
    pool = made(max_connections=2)
    with pool.connection() as conn:
        first = gevent.spawn(nested, pool, pool)
        gevent.idle()
        second = gevent.spawn(nested, pool, pool)
        gevent.idle()
        assert pool.lent_connections() == [conn] or first
    gevent.joinall([first, second], raise_error=True)
    assert "served" in (first.value, second.value)
