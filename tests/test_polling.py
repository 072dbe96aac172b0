"""handoff=False: at its limit the pool is polled, as gsocketpool is."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event

from geventpool import (
    Backoff,
    Pool,
    PoolClosedError,
    PoolExhaustedError,
    TooManyWaitingError,
)
from geventpool.testing import Clock, ScriptedConnector, check

sleep = gevent.sleep


class Pauses:
    """Stands in for gevent.sleep; notes the pauses, and acts after some of them."""

    def __init__(self, **after):
        self.seen = []
        self.after = after

    def __call__(self, check_seconds, ref=True):
        if not ref:
            # The reaper's.
            return sleep(check_seconds, ref)
        self.seen.append(check_seconds)
        act = self.after.get(f"pause_{len(self.seen)}")
        if act is not None:
            act()


@pytest.fixture
def pauses(monkeypatch):
    pauses = Pauses()
    monkeypatch.setattr("geventpool._core.line.gevent.sleep", pauses)
    return pauses


def make(**options):
    options.setdefault("backoff", Backoff(0.1, factor=1, jitter=0, retries=10))
    return Pool(ScriptedConnector(), max_connections=1, handoff=False, **options)


def test_the_ancestor_to_the_letter(pauses):
    """Ten pauses of a tenth of a second, then the refusal."""
    pool = make()
    pool.acquire()
    with pytest.raises(PoolExhaustedError):
        pool.acquire()
    assert pauses.seen == [0.1] * 10


def test_retry_counts_the_pauses(pauses):
    """As many as asked for; none for 0."""
    pool = make()
    pool.acquire()
    for retry in (3, 0):
        pauses.seen.clear()
        with pytest.raises(PoolExhaustedError):
            pool.acquire(retry=retry)
        assert len(pauses.seen) == retry


def test_pauses_grow_as_the_backoff_says(pauses):
    """The pool's backoff is the one that counts."""
    pool = make(backoff=Backoff(0.1, factor=2, maximum=1, jitter=0, retries=5))
    pool.acquire()
    with pytest.raises(PoolExhaustedError):
        pool.acquire()
    assert pauses.seen == [0.1, 0.2, 0.4, 0.8, 1]


def test_what_was_returned_meanwhile_is_found(pauses):
    """After a pause the idle ones are looked at."""
    pool = make()
    conn = pool.acquire()
    pauses.after["pause_2"] = lambda: pool.release(conn)
    assert pool.acquire() is conn
    assert len(pauses.seen) == 2


def test_room_that_came_free_is_used(pauses):
    """A dropped connection makes way for a new one."""
    pool = make()
    conn = pool.acquire()
    pauses.after["pause_2"] = lambda: pool.drop(conn)
    assert pool.acquire().number == 2
    check(pool)


def test_room_that_came_free_is_used_without_a_time_limit_too(pauses):
    """timeout=None waits for the opening as long as it takes."""
    pool = make(timeout=None)
    conn = pool.acquire()
    pauses.after["pause_1"] = lambda: pool.drop(conn)
    assert pool.acquire().number == 2


def test_the_time_limit_ends_the_polling():
    """Whichever ends first, the tries or the time."""
    pool = make(backoff=Backoff(0.001, factor=1, jitter=0))
    pool.acquire()
    with pytest.raises(PoolExhaustedError):
        pool.acquire(timeout=0.005)
    with pytest.raises(PoolExhaustedError):
        pool.acquire(timeout=0)


def test_a_closed_pool_ends_the_polling():
    """After the pause the poller is told."""
    pool = make(backoff=Backoff(0.001, factor=1, jitter=0))
    pool.acquire()
    seen = []

    def poll():
        try:
            pool.acquire()
        except PoolClosedError as error:
            seen.append(str(error))

    poller = gevent.spawn(poll)
    gevent.idle()
    assert pool.stats().waiting == 1
    pool.close(timeout=0)
    poller.join()
    assert seen and "closed while you waited" in seen[0]
    assert pool.stats().waiting == 0


def test_a_poller_is_no_waiter_in_the_line():
    """A release makes the connection idle, and the next who asks gets it."""
    pool = make(backoff=Backoff(30, maximum=30))
    conn = pool.acquire()
    poller = gevent.spawn(pool.acquire)
    gevent.idle()
    pool.release(conn)
    assert pool.acquire() is conn
    poller.kill()
    assert pool.stats().waiting == 0


def test_a_poller_counts_as_waiting():
    """max_waiting bounds pollers as well as waiters."""
    pool = make(backoff=Backoff(30, maximum=30), max_waiting=1)
    pool.acquire()
    poller = gevent.spawn(pool.acquire)
    gevent.idle()
    with pytest.raises(TooManyWaitingError):
        pool.acquire(timeout=0)
    poller.kill()


def test_polling_and_opening_share_one_timeout(pauses):
    """The wait for a new connection has what the polling has left of the time."""
    connector = ScriptedConnector(open=[None, Event()])
    pool = Pool(connector, max_connections=1, handoff=False, timeout=60)
    clock = Clock()
    clock.rule(pool)
    conn = pool.acquire()

    def make_room():
        clock.advance(60)
        pool.drop(conn)

    pauses.after["pause_1"] = make_room
    with gevent.Timeout(5), pytest.raises(PoolExhaustedError):
        pool.acquire()
    gevent.idle()
    assert connector.opening == 1
    pool.close(timeout=0)


def test_a_poll_in_the_hub_is_refused_at_once():
    """The hub cannot pause."""
    pool = Pool(ScriptedConnector(), max_connections=1, handoff=False)
    conn = pool.acquire()
    caught = []

    def ask():
        with pytest.raises(PoolExhaustedError) as refusal:
            pool.acquire()
        caught.append(refusal)

    gevent.get_hub().loop.run_callback(ask)
    gevent.idle()
    assert caught
    pool.release(conn)
