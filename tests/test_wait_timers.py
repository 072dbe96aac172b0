"""Waiting: what wakes a waiter, when, and that it is woken once."""

from __future__ import annotations

import time

import gevent
import pytest
from gevent.event import Event

from geventpool import Pool, PoolExhaustedError
from geventpool._core import wait_timers
from geventpool._core.wait_timers import TimedWaiter
from geventpool.testing import Clock, ScriptedConnector
from tests import parts

#: Seconds of the waits that share a timer. Only the clock of the tests reaches them.
USUAL = 60.0


def timer_of(timers):
    """The timer that runs; None: nobody waits."""
    return timers._timer


@pytest.fixture
def clock(monkeypatch):
    """What the shared timer counts by."""
    clock = Clock()
    monkeypatch.setattr(wait_timers, "monotonic", clock)
    return clock


@pytest.fixture
def pool(clock):
    """One connection, which is lent; a caller waits *USUAL* and no longer."""
    with Pool(ScriptedConnector(), max_connections=1, timeout=USUAL) as pool:
        conn = pool.acquire()
        yield pool
        pool.release(conn)


def refused(pool, timeout=None):
    """A greenlet that waits, and is ready when it was refused."""

    def ask():
        with pytest.raises(PoolExhaustedError):
            pool.acquire(timeout=timeout)

    greenlet = gevent.spawn(ask)
    gevent.idle()
    return greenlet


def pass_time(pool, clock, seconds):
    """Let so many seconds pass: the shared timer fires, if it is set for that time."""
    clock.advance(seconds)
    timers = parts.wait_timers(pool)
    if timer_of(timers) is not None and timers._due <= clock():
        timers._on_timeout()
    gevent.idle()


def is_set(pool):
    """Is a timer running that several share?"""
    return timer_of(parts.wait_timers(pool)) is not None


def waiting(pool, greenlet):
    """The slot of one who stands in line."""
    gevent.idle()
    return parts.ledger(pool).waiters[greenlet]


def test_each_waits_as_long_as_it_asked(pool, clock):
    """One timer serves all waiters without a timeout of their own."""
    first = refused(pool)
    clock.advance(USUAL / 2)
    second = refused(pool)
    pass_time(pool, clock, USUAL / 2)
    assert first.ready() and not second.ready()
    pass_time(pool, clock, USUAL / 2 - 1)
    assert not second.ready()
    pass_time(pool, clock, 1)
    assert second.ready() and not is_set(pool)


@pytest.mark.parametrize("timeout", [None, 0.002])
def test_a_wait_ends_by_the_event_loop(timeout):
    """The timers are the loop's: here real time passes, as little as can be seen."""
    with Pool(ScriptedConnector(), max_connections=1, timeout=0.001) as pool:
        conn = pool.acquire()
        began = time.monotonic()
        refused(pool, timeout).join()
        assert time.monotonic() - began >= 0.001
        pool.release(conn)


def test_a_timeout_of_its_own_does_not_change_the_others(pool, clock):
    """Neither a longer nor a shorter wait in front delays a timeout."""
    long = refused(pool, timeout=50 * USUAL)
    brief = refused(pool, timeout=0.001)
    usual = refused(pool)
    brief.join()
    assert not long.ready() and not usual.ready()
    pass_time(pool, clock, USUAL)
    assert usual.ready() and not long.ready()
    long.kill()


@pytest.mark.parametrize("timeout", [None, 60, 3600])
def test_a_foreign_switch_ends_no_wait(timeout):
    """It would be a refusal without a cause; and the waiter is woken once, later."""
    pool = Pool(ScriptedConnector(), max_connections=1, timeout=60)
    if timeout is None:
        parts.line(pool).default_limit = parts.line(pool).timeout = None
    conn = pool.acquire(reclaim=False)
    waiter = gevent.spawn(  # type: ignore[call-overload]
        lambda: (pool.acquire(timeout=timeout, reclaim=False), gevent.sleep(0))[0]  # type: ignore[func-returns-value]
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


def test_the_timer_is_set_anew_for_the_next(pool, clock):
    """It was set for a waiter that has left: the first one now has its own time."""
    gone = refused(pool)
    clock.advance(USUAL / 2)
    patient = refused(pool)
    gone.kill()
    pass_time(pool, clock, USUAL / 2)
    assert not patient.ready() and is_set(pool)
    pass_time(pool, clock, USUAL / 2)
    assert patient.ready() and not is_set(pool)


def test_a_timer_set_anew_is_stopped_too(pool, clock):
    """Whichever it is that runs."""
    early = refused(pool)
    clock.advance(USUAL / 2)
    late = refused(pool)
    pass_time(pool, clock, USUAL / 2)
    timers = parts.wait_timers(pool)
    assert early.ready() and is_set(pool) and timer_of(timers) is not timers._whole
    late.kill()
    assert not is_set(pool)


def test_a_timer_for_the_rest_of_a_wait_is_closed(pool, clock):
    """It is made for one waiter: only the timer for whole waits is kept."""
    refused(pool)
    clock.advance(USUAL / 2)
    late = refused(pool)
    pass_time(pool, clock, USUAL / 2)
    timers, ends = parts.wait_timers(pool), []
    timer = timer_of(timers)

    class Noted:
        def stop(self):
            timer.stop()

        def close(self):
            timer.close()
            ends.append("closed")

    timers._timer = Noted()
    late.kill()
    assert ends == ["closed"]


def rest():
    """Wait for some turns of the event loop; False: nothing else switched here."""
    return Event().wait(0.001)


def test_who_is_woken_often_is_switched_to_once(pool):
    """A second switch would end whatever it waits for next."""
    woken = []

    def ask():
        with pytest.raises(PoolExhaustedError):
            pool.acquire()
        woken.append(rest())

    asking = gevent.spawn(ask)
    slot = waiting(pool, asking)
    # Of three switches two would be too many; one may be stopped by the first.
    for _ in range(3):
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
            words.append(rest())

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
