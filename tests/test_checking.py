"""Pinging idle connections: how many for a loan, and what an answer says of others."""

from __future__ import annotations

import time

import gevent
import pytest
from gevent.event import Event

from geventpool import Pool, PoolClosedError, PoolExhaustedError
from geventpool._core.states import IDLE as _IDLE
from geventpool.testing import Clock, ScriptedConnector, check, check_capacity
from tests import parts


def make(connector, number, **options):
    """A pool with so many idle connections, and its clock."""
    pool = Pool(
        connector,
        name="test",
        initial_connections=number,
        max_connections=number,
        **options,
    )
    clock = Clock(time.monotonic())
    clock.rule(pool)
    return pool, clock


def pings(connector):
    """How many were pinged so far."""
    return [verb for verb, _ in connector.calls].count("ping")


@pytest.mark.parametrize("lifo", [True, False])
@pytest.mark.parametrize("suspects", [True, False])
def test_one_loan_pings_one_idle_connection(lifo, suspects):
    """The others would not be idle meanwhile, and others would wait for them."""
    connector = ScriptedConnector()
    pool, clock = make(connector, 20, lifo=lifo, ping_after=None if suspects else 10.0)
    clock.advance(60)
    if suspects:
        pool.revalidate()
    for number in range(1, 4):
        with pool.connection():
            assert pings(connector) == number or not suspects
        clock.advance(60)
        if suspects:
            pool.revalidate()
    gevent.idle()
    assert pings(connector) == 3
    check(pool)


def test_each_who_waits_has_a_connection_checked():
    """One ping at a time for all of them would make a long line."""
    answers = [Event() for _ in range(3)]
    connector = ScriptedConnector(ping=answers)
    pool, clock = make(connector, 10, ping_after=10.0)
    clock.advance(60)
    waiters = [gevent.spawn(pool.acquire, reclaim=False) for _ in range(3)]
    gevent.idle()
    assert pings(connector) == 3 == pool.stats().checking
    check(pool)
    for answer in answers:
        answer.set()
    gevent.joinall(waiters, raise_error=True)
    assert pool.stats().idle == 7
    for waiter in waiters:
        pool.release(waiter.value, anyone=True)
    check_capacity(pool)


def test_a_failed_ping_has_the_next_one_checked():
    """The line does not stop beside idle connections."""
    connector = ScriptedConnector(ping=[OSError("lost")] * 2)
    pool, clock = make(connector, 3, ping_after=10.0, max_connecting=1)
    connector.script("open", Event())
    clock.advance(60)
    with pool.connection() as conn:
        assert conn in connector.opened[:3]
    assert pings(connector) == 3
    pool.close(timeout=0)


@pytest.mark.parametrize("lifo", [True, False])
def test_one_that_need_not_be_checked_is_lent_though_others_must_be(lifo):
    """A dead peer whose ping hangs must not hide it."""
    connector = ScriptedConnector(ping=[Event()] * 3)
    pool, clock = make(connector, 6, lifo=lifo, ping_after=10.0)
    clock.advance(60)
    entries = list(parts.ledger(pool).all_in(_IDLE))
    fresh = entries[0] if lifo else entries[-1]
    fresh.ready_until = clock() + 5
    assert pool.acquire() is fresh.conn
    assert pings(connector) == 0
    pool.release(fresh.conn)
    pool.close(timeout=0)


def test_who_joins_the_line_has_the_idle_ones_looked_through_as_well():
    """So one that need not be checked is found, however far behind it stands."""
    connector = ScriptedConnector(ping=[Event(), Event()])
    pool, clock = make(connector, 10, ping_after=10.0)
    clock.advance(60)
    fresh = next(iter(parts.ledger(pool).all_in(_IDLE)))
    fresh.ready_until = clock() + 5
    waiters = [gevent.spawn(pool.acquire, reclaim=False) for _ in range(2)]
    gevent.idle()
    assert [waiter.ready() for waiter in waiters] == [True, False]
    assert waiters[0].value is fresh.conn
    assert pings(connector) == 2
    pool.release(fresh.conn, anyone=True)
    gevent.joinall(waiters, raise_error=True)
    pool.close(timeout=0)


def test_one_behind_that_is_broken_or_too_old_is_seen_to():
    """Looking for a fit one is looking at each."""
    connector = ScriptedConnector()
    pool, clock = make(connector, 6, ping_after=10.0, min_connections=2)
    clock.advance(60)
    entries = list(parts.ledger(pool).all_in(_IDLE))
    entries[1].ready_until = clock() + 5
    entries[1].conn.is_usable = False
    entries[0].expires = clock()
    with pool.connection():
        gevent.idle()
        assert [each.conn.end for each in entries[:2]] == ["closed", "discarded"]
        check(pool)


def test_a_passed_check_that_nobody_waited_for_counts_for_a_moment():
    """Who asks again and again, and never waits, is served in the end."""
    connector = ScriptedConnector()
    pool, clock = make(connector, 1, ping_after=0)
    with pytest.raises(PoolExhaustedError):
        pool.acquire(timeout=0)
    gevent.idle()
    conn = pool.acquire(timeout=0)
    assert pings(connector) == 1
    pool.release(conn)
    with pytest.raises(PoolExhaustedError):
        pool.acquire(timeout=0)


def test_a_failed_routine_ping_makes_suspects_of_the_others():
    """By ping_interval as by ping_after: one server has them all."""
    connector = ScriptedConnector()
    pool, clock = make(connector, 3, ping_interval=10.0)
    first = next(iter(parts.ledger(pool).all_in(_IDLE)))
    first.alive = clock() - 60
    for entry in parts.ledger(pool).all_in(_IDLE):
        entry.alive = entry.alive if entry is first else clock()
    connector.script("ping", ConnectionResetError())
    parts.lifecycle(pool).housekeeping.sweep()
    gevent.idle()
    assert pings(connector) == 1
    with pool.connection():
        assert pings(connector) == 2


def test_can_ping_that_fails_costs_no_place(caplog):
    """The connection is renewed, as one that no ping can tell anything about."""

    class Broken:
        """Its ping is a property that raises."""

        @property
        def ping(self):
            raise RuntimeError("not now")

    pool = Pool(Broken, max_connections=2)
    lent = [pool.acquire(), pool.acquire()]
    for conn in lent:
        pool.release(conn)
    with pytest.raises(ConnectionResetError):
        with pool.connection():
            raise ConnectionResetError
    assert "can_ping failed" in caplog.text
    check_capacity(pool)


@pytest.mark.parametrize("error", [gevent.GreenletExit, gevent.Timeout])
def test_a_look_at_a_connection_that_is_interrupted_costs_no_place(error):
    """It must not switch; where it does, the time-out goes where it was aimed at."""
    connector = ScriptedConnector()
    pool, clock = make(connector, 2)

    def fail(conn):
        raise error()

    usable, connector.is_usable = connector.is_usable, fail  # type: ignore[method-assign]
    with pytest.raises(error):
        parts.lifecycle(pool).take_ready(clock())
    connector.is_usable = usable  # type: ignore[method-assign]
    check_capacity(pool)


@pytest.mark.parametrize("verb", ["lend", "return", "sweep"])
@pytest.mark.parametrize("usable", [True, False])
def test_a_look_that_switches_may_find_its_connection_closed(verb, usable):
    """It must not switch; where it does, the pool may be closed meanwhile."""
    connector = ScriptedConnector()
    pool, clock = make(connector, 1)
    asked, answer = Event(), Event()

    def look(conn):
        asked.set()
        answer.wait()
        return usable

    entry = next(iter(parts.ledger(pool).all_in(_IDLE)))
    work = {
        "lend": lambda: parts.lifecycle(pool).take_ready(clock()),
        "return": lambda: pool.release(entry.conn, anyone=True),
        "sweep": lambda: parts.lifecycle(pool).housekeeping.look_at(entry, clock()),
    }[verb]
    waiter = gevent.Greenlet(_refused, pool)
    if verb == "return":
        pool.acquire(reclaim=False)
        waiter.start()
        gevent.idle()
    connector.is_usable = look  # type: ignore[method-assign]
    looking = gevent.spawn(work)
    asked.wait()
    pool.close(timeout=0)
    answer.set()
    looking.get()
    if verb == "return":
        waiter.get()
    assert entry.conn.end and pool.size == 0
    check(pool)


def _refused(pool):
    with pytest.raises(PoolClosedError):
        pool.acquire()


class Awaiting(ScriptedConnector):
    """Its connections are unusable until the other side has reset them."""

    answer: bool | None = True

    def awaits_reset(self, conn):
        if self.answer is None:
            raise ValueError
        return self.answer


def test_a_connection_whose_reset_is_awaited_is_not_discarded():
    """A greenlet of the pool waits for that, whether it is idle or comes back."""
    answered = Event()
    connector = Awaiting(ping=[answered.wait], reset=[answered.wait])
    pool, _ = make(connector, 2)
    idle, lent = pool.acquire(), pool.acquire()
    idle.is_usable = lent.is_usable = False
    pool.release(idle)
    pool.drop_expired()
    assert pool.idle_connections() == [idle]
    waiters = [gevent.spawn(pool.acquire, reclaim=False) for _ in range(2)]
    gevent.idle()
    assert pool.stats().checking == 1
    pool.release(lent)
    assert pool.stats().resetting == 1
    idle.is_usable = lent.is_usable = True
    answered.set()
    gevent.joinall(waiters, timeout=5)
    assert {waiter.value for waiter in waiters} == {idle, lent}
    assert len(connector.opened) == 2


def test_a_question_after_a_reset_that_fails_counts_as_no(caplog):
    """The connection is unusable, and nothing is known to change that."""
    connector = Awaiting()
    connector.answer = None
    pool, _ = make(connector, 1)
    (idle,) = pool.idle_connections()
    idle.is_usable = False
    pool.drop_expired()
    assert idle.end == "discarded" and "awaits_reset failed" in caplog.text


@pytest.mark.parametrize("verb", ["ping", "reset"])
def test_a_refusal_tells_of_the_checks_that_failed_meanwhile(verb):
    """The cause is the error of the last one; those of earlier callers do not count."""
    connector = ScriptedConnector(open=[None, Event(), Event()])
    connector.script(verb, ZeroDivisionError("flawed"))
    pool, clock = make(connector, 1, ping_after=10.0)
    conn = pool.acquire()
    conn.needs_reset = verb == "reset"
    waiter = gevent.spawn(refused, pool)
    if verb == "ping":
        pool.release(conn)
        waiter.join()
        clock.advance(60)
        waiter = gevent.spawn(refused, pool)
    else:
        gevent.idle()
        pool.release(conn)
    error = waiter.get()
    assert "1 failed a check or reset, the last by ZeroDivisionError" in str(error)
    assert str(error.__cause__) == "flawed"
    clock.advance(60)
    error = refused(pool)
    assert "failed" not in str(error) and error.__cause__ is None


def refused(pool):
    """Why there is no connection in a moment; None: there is one, given back."""
    try:
        pool.release(pool.acquire(timeout=0.02))
    except PoolExhaustedError as error:
        return error
