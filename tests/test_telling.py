"""The listeners of a pool hear of a consistent state, and spoil nothing."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event

from geventpool import (
    Backoff,
    Outage,
    Pool,
    PoolClosedError,
    PoolExhaustedError,
    PoolListener,
)
from geventpool._core.states import CloseReason
from geventpool.testing import ScriptedConnector, check, check_capacity, wait_until
from tests.pauses import give_up_after, hang, turns

EVENTS = [
    "opened",
    "open_failed",
    "paused",
    "resumed",
    "acquired",
    "exhausted",
    "released",
    "closed",
]


class Acting(PoolListener):
    """Does *work* with the pool whenever one of *events* is told."""

    def __init__(self, work, *events):
        self.work = work
        self.pool = None
        for event in events:
            setattr(self, event, lambda *details, event=event: self.act(event))

    def act(self, event):
        if self.pool is not None:
            self.work(self.pool)


def make(connector, work, *events, **options):
    """A pool with a listener that does *work* at *events*."""
    listener = Acting(work, *events)
    options.setdefault("max_connections", 2)
    options.setdefault("outage", Outage(backoff=Backoff(0, jitter=0)))
    pool = Pool(connector, listeners=[listener], timeout=0.01, **options)
    listener.pool = pool
    return pool


def use(pool):
    """Something of everything, whatever goes wrong in it."""
    for work in (
        lambda: pool.release(pool.acquire()),
        lambda: pool.drop(pool.acquire()),
        lambda: pool.connection().__enter__(),
        lambda: [pool.acquire() for _ in range(2)],
    ):
        try:
            work()
        except Exception:
            pass
    for conn in pool.lent_connections():
        pool.drop(conn, anyone=True)


def script(connector):
    """Failures, so that every event happens: three in a row are an outage."""
    connector.script("open", *[OSError("down")] * 3)
    return connector


@pytest.mark.parametrize("event", EVENTS)
def test_a_listener_hears_of_a_consistent_state(event):
    """It may ask the pool whatever it likes."""
    heard = []

    def look(pool):
        check(pool)
        heard.append(pool.stats())

    pool = make(script(ScriptedConnector()), look, event)
    for _ in range(4):
        use(pool)
        gevent.idle()
    pool.close(timeout=0)
    assert heard


@pytest.mark.parametrize("event", EVENTS)
def test_a_listener_may_close_the_pool(event):
    """Nothing stays open, nothing that is closed is lent, and no books break."""
    connector = script(ScriptedConnector())
    pool = make(connector, lambda pool: pool.close(timeout=0), event)
    for _ in range(4):
        use(pool)
        gevent.idle()
    pool.close(timeout=0)
    check(pool)
    assert not connector.now_open and not pool.size


def test_a_pool_closed_by_a_listener_lends_nothing():
    """The connection was closed while its borrower was being told of."""
    connector = ScriptedConnector()
    pool = make(connector, lambda pool: pool.close(timeout=0), "acquired")
    with pytest.raises(PoolClosedError, match="closed by a listener"):
        pool.acquire()
    assert not connector.now_open


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("error", [gevent.GreenletExit, gevent.Timeout])
def test_a_listener_that_is_interrupted_loses_no_place(event, error, hub_errors):
    """What strikes in it strikes after the change, and goes where it was aimed at."""
    fails = [True]

    def fail(pool):
        if fails:
            raise error()

    pool = make(script(ScriptedConnector()), fail, event)
    for _ in range(4):
        try:
            use(pool)
        except error:
            pass
        gevent.idle()
    for conn in pool.lent_connections():
        try:
            pool.drop(conn, anyone=True)
        except error:
            pass
    fails.clear()
    check_capacity(pool)
    hub_errors.clear()


@pytest.mark.parametrize("event", ["acquired", "released", "closed", "opened"])
def test_a_listener_that_switches_loses_no_place(event):
    """It should not; but a time-out that strikes in it must not cost a connection."""
    pool = make(ScriptedConnector(), lambda pool: turns(2), event)

    def work():
        for turn in range(10):
            with give_up_after(0.001 * (turn % 4)):
                try:
                    with pool.connection():
                        turns(1)
                except PoolExhaustedError:
                    pass

    gevent.joinall([gevent.spawn(work) for _ in range(6)], raise_error=True)
    gevent.idle()
    check_capacity(pool)


def test_an_interruption_takes_nothing_from_a_greenlet_that_is_being_told():
    """What the one is told of has no holder yet. It must not be taken for lost."""
    go_on, told = Event(), []

    def wait(pool):
        told.append(pool)
        go_on.wait()

    pool = make(ScriptedConnector(), wait, "acquired")
    first, second = (
        gevent.spawn(pool.acquire, timeout=5, reclaim=False) for _ in range(2)
    )
    wait_until(lambda: len(told) == 2)
    first.kill()
    gevent.idle()
    go_on.set()
    assert pool.stats().in_use == 1
    assert second.get() in list(pool.lent_connections())


def test_the_other_listeners_are_told_though_one_is_interrupted():
    """One listener's end is not another's."""
    told = []

    class Second(PoolListener):
        def released(self, conn, used):
            told.append(conn)

    def fail(pool):
        raise gevent.Timeout(1)

    first = Acting(fail, "released")
    pool = Pool(ScriptedConnector(), listeners=[first, Second()])
    conn = pool.acquire()
    first.pool = pool
    with pytest.raises(gevent.Timeout):
        pool.release(conn)
    assert told == [conn] and pool.idle_connections() == [conn]


def test_what_happens_together_is_told_in_its_order():
    """A connection is released before it is closed, and opened before."""
    book = []

    class Diary(PoolListener):
        def opened(self, conn, seconds):
            book.append("opened")

        def released(self, conn, used):
            book.append("released")

        def closed(self, conn, reason):
            book.append(reason)

    pool = Pool(ScriptedConnector(), listeners=[Diary()])
    conn = pool.acquire()
    pool.drain()
    pool.release(conn)
    assert book == ["opened", "released", CloseReason.DRAINED]


def test_an_entry_that_is_gone_is_not_passed_on_by_an_interrupted_listener():
    """The pool was closed while the listener, which switches, was asleep."""
    asleep = Event()

    def sleep(pool):
        asleep.set()
        hang()

    connector = ScriptedConnector()
    pool = make(connector, sleep, "acquired")
    borrower = gevent.spawn(pool.acquire)
    asleep.wait()
    pool.close(timeout=0)
    borrower.kill()
    check(pool)
    assert not connector.now_open
