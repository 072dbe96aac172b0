"""Waiting: what wakes a waiter, when, and that it is woken once."""

from __future__ import annotations

import time

import gevent
import pytest
from gevent.event import Event

from geventpool import Pool, PoolExhaustedError
from geventpool._core.wait_timers import TimedWaiter
from geventpool.testing import ScriptedConnector
from tests import parts

SOON = 0.02


@pytest.fixture
def pool():
    """One connection, which is lent; a caller waits *SOON* and no longer."""
    with Pool(ScriptedConnector(), max_connections=1, timeout=SOON) as pool:
        conn = pool.acquire()
        yield pool
        pool.release(conn)


def patience(pool, timeout=None):
    """A greenlet that tells how long it was let wait."""

    def ask():
        began = time.monotonic()
        with pytest.raises(PoolExhaustedError):
            pool.acquire(timeout=timeout)
        return time.monotonic() - began

    return gevent.spawn(ask)


def is_set(pool):
    """Is a timer running that several share?"""
    return parts.wait_timers(pool)._timer is not None


def waiting(pool, greenlet):
    """The slot of one who stands in line."""
    gevent.idle()
    return parts.ledger(pool).waiters[greenlet]


def test_each_waits_as_long_as_he_asked(pool):
    """One timer serves all waiters without a timeout of their own."""
    first = patience(pool)
    gevent.sleep(SOON / 2)
    second = patience(pool)
    gevent.joinall([first, second])
    assert first.value >= SOON and second.value >= SOON
    assert not is_set(pool)


def test_patience_of_ones_own_does_not_change_the_others(pool):
    """Neither a longer nor a shorter wait in front delays a timeout."""
    long = patience(pool, timeout=5 * SOON)
    usual = patience(pool)
    brief = patience(pool, timeout=SOON / 4)
    gevent.joinall([brief, usual])
    assert not long.ready()
    assert brief.value < SOON <= usual.value
    long.join()
    assert long.value >= 5 * SOON


@pytest.mark.parametrize("timeout", [None, 60, 3600])
def test_a_foreign_switch_ends_no_wait(timeout):
    """It would be a refusal without a cause; and the waiter is woken once, later."""
    pool = Pool(ScriptedConnector(), max_connections=1, timeout=60)
    if timeout is None:
        parts.line(pool).default_limit = parts.line(pool).timeout = None
    conn = pool.acquire(reclaim=False)
    waiter = gevent.spawn(
        lambda: (pool.acquire(timeout=timeout, reclaim=False), gevent.sleep(0))[0]
    )
    gevent.idle()
    gevent.get_hub().loop.run_callback(waiter.switch)
    gevent.idle()
    assert pool.stats().waiting == 1
    # The next one comes before the wake-up.
    gevent.get_hub().loop.run_callback(waiter.switch)
    pool.release(conn)
    assert waiter.get() is conn


def test_a_wait_of_ages_is_no_error(pool):
    """libuv refuses what its counter of milliseconds cannot hold."""
    conn = pool.lent_connections()[0]
    waiter = gevent.spawn(lambda: pool.release(pool.acquire(timeout=1e300)))
    gevent.idle()
    pool.release(conn)
    waiter.get()
    assert pool.acquire() is conn


def test_who_is_served_stops_the_timer(pool):
    """With nobody in line it would keep a program from ending."""
    conn = pool.lent_connections()[0]
    served = gevent.spawn(lambda: pool.release(pool.acquire()))
    gevent.idle()
    assert is_set(pool)
    pool.release(conn)
    served.join()
    assert not is_set(pool)
    assert pool.acquire() is conn


def test_who_is_killed_stops_the_timer(pool):
    """As if it had never been in line."""
    victims = [gevent.spawn(pool.acquire) for _ in range(2)]
    gevent.idle()
    victims[0].kill()
    assert is_set(pool)
    victims[1].kill()
    assert not is_set(pool)


def test_the_timer_is_set_anew_for_the_next(pool):
    """It was set for a waiter that has left: the first one now has its own time."""
    gone = gevent.spawn(pool.acquire)
    gevent.sleep(SOON / 2)
    patient = patience(pool)
    gevent.idle()
    gone.kill()
    patient.join()
    assert patient.value >= SOON
    assert not is_set(pool)


def test_a_timer_set_anew_is_stopped_too(pool):
    """Whichever it is that runs."""
    early = patience(pool)
    gevent.sleep(SOON / 2)
    late = gevent.spawn(pool.acquire)
    early.join()
    assert (
        is_set(pool)
        and parts.wait_timers(pool)._timer is not parts.wait_timers(pool)._whole
    )
    late.kill()
    assert not is_set(pool)


def test_who_is_woken_twice_is_switched_to_once(pool):
    """A second switch would end whatever it waits for next."""
    woken = []

    def ask():
        with pytest.raises(PoolExhaustedError):
            pool.acquire()
        woken.append(Event().wait(SOON))

    asking = gevent.spawn(ask)
    slot = waiting(pool, asking)
    slot.wake()
    slot.wake()
    asking.join()
    assert woken == [False]


def test_who_is_woken_and_killed_at_once_is_not_switched_to(pool):
    """A switch that was scheduled would interrupt the greenlet while it ends."""
    words = []

    def ask():
        try:
            pool.acquire()
        except gevent.GreenletExit:
            words.append(Event().wait(SOON))

    asking = gevent.spawn(ask)
    slot = waiting(pool, asking)
    asking.kill(block=False)
    slot.wake()
    asking.join()
    assert words == [False]


def test_who_was_not_woken_has_no_switch_to_stop():
    """Killed in line, with nothing under way."""
    sleeper: TimedWaiter[object] = TimedWaiter(
        gevent.getcurrent(), gevent.get_hub().loop
    )
    sleeper.cancel_wake()
    assert sleeper.call is None


def test_a_wait_of_ones_own_length_leaves_no_timer():
    """A waiter that is served before its timeout leaves nothing in the loop."""
    loop = gevent.get_hub().loop
    pool = Pool(ScriptedConnector(), max_connections=1)
    conn = pool.acquire()
    before = loop.activecnt
    waiter = gevent.spawn(pool.acquire, timeout=999)
    gevent.idle()
    pool.release(conn)
    assert waiter.get() is conn
    gevent.idle()
    assert loop.activecnt <= before
