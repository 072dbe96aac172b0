"""Opening: how many at a time, for which waiter, and what a failure does."""

from __future__ import annotations

import asyncio
from typing import Any

import gevent
import pytest
from gevent.event import Event

from geventpool import (
    Backoff,
    Connector,
    Counters,
    Outage,
    Pool,
    PoolExhaustedError,
    PoolListener,
    Timeouts,
)
from geventpool._core import opener
from geventpool.testing import (
    Clock,
    ScriptedConnector,
    check,
    check_capacity,
    pool_greenlets,
    wait_until,
)
from tests import parts


class Full(Exception):
    """The server is at its own limit."""


def make(connector, **options):
    options.setdefault("max_connections", 5)
    return Pool(connector, name="test", **options)


def caught(work, *args, **kwargs):
    """What *work* returned or raised."""
    try:
        return work(*args, **kwargs)
    except Exception as error:
        return error


def test_the_limit_holds_while_opening_is_slow():
    """Places are taken before anything is opened."""
    gate = Event()
    connector = ScriptedConnector(open=[gate] * 50)
    pool = make(connector, max_connecting=50)
    waiters = [gevent.spawn(pool.acquire, reclaim=False) for _ in range(50)]
    gevent.idle()
    assert connector.opening == 5 == pool.size
    gate.set()
    gevent.idle()
    assert connector.peak == 5
    gevent.killall(waiters)


def test_the_limit_holds_while_closing_is_slow():
    """A connection that is being closed still has its place."""
    gate = Event()
    connector = ScriptedConnector(close=[gate])
    pool = make(connector, max_connections=1)
    with pool.connection():
        pass
    pool.drain()
    waiter = gevent.spawn(pool.acquire)
    gevent.idle()
    assert pool.stats().closing == 1 and pool.stats().waiting == 1
    assert repr(pool).endswith("1 closing, 1 waiting>")
    gate.set()
    assert waiter.get().number == 2
    assert connector.peak == 1


def test_only_so_many_are_opened_at_a_time():
    """max_connecting bounds what is under way."""
    gates = [Event() for _ in range(5)]
    connector = ScriptedConnector(open=gates)
    pool = make(connector, max_connecting=2)
    waiters = [gevent.spawn(pool.acquire, reclaim=False) for _ in range(5)]
    gevent.idle()
    assert connector.opening == 2
    gates[0].set()
    gevent.idle()
    assert connector.opening == 2 and pool.stats().in_use == 1
    for gate in gates:
        gate.set()
    gevent.joinall(waiters)
    assert connector.peak == 5


def test_no_more_are_opened_than_there_are_waiters():
    """One waiter, one connection under way."""
    gate = Event()
    connector = ScriptedConnector(open=[gate])
    pool = make(connector)
    waiter = gevent.spawn(pool.acquire, reclaim=False)
    gevent.idle()
    assert connector.opening == 1
    gate.set()
    waiter.get()
    gevent.idle()
    assert pool.size == 1


def test_a_waiter_gets_what_opening_raised_unchanged():
    """The driver's own exception object."""
    error = OSError("refused")
    connector = ScriptedConnector(open=[error])
    pool = make(connector)
    with pytest.raises(OSError) as raised:
        pool.acquire()
    assert raised.value is error
    assert pool.size == 0
    check_capacity(pool)


def test_a_failed_opening_wakes_the_next_in_line():
    """Room that comes free by a failure serves like any other."""
    first, second = OSError("first"), OSError("second")
    connector = ScriptedConnector(open=[first, second])
    pool = make(connector, max_connecting=1)
    waiters = [gevent.spawn(caught, pool.acquire, reclaim=False) for _ in range(3)]
    gevent.joinall(waiters)
    assert [waiter.value for waiter in waiters[:2]] == [first, second]
    assert waiters[2].value.number == 1  # type: ignore[union-attr]
    check(pool)


def test_a_failure_reaches_the_waiter_it_was_opened_for():
    """One that was served meanwhile is not told, and the next has its own attempt."""
    gate = Event()

    def fail():
        gate.wait()
        raise OSError("late")

    connector = ScriptedConnector(open=[None, fail])
    pool = make(connector, max_connections=2, max_connecting=1)
    conn = pool.acquire()
    served = gevent.spawn(pool.acquire, reclaim=False)
    later = gevent.spawn(pool.acquire, reclaim=False)
    gevent.idle()
    pool.release(conn)
    assert served.get() is conn
    gate.set()
    assert later.get().number == 2


@pytest.mark.parametrize("error", [gevent.GreenletExit, KeyboardInterrupt])
def test_an_opening_that_dies_loses_no_place(error, hub_errors):
    """Whatever hits a greenlet of the pool, its place and the line go on."""
    connector = ScriptedConnector(open=[error()])
    pool = make(connector, max_connections=1)
    waiter = gevent.spawn(pool.acquire, reclaim=False)
    try:
        conn = waiter.get()
    except KeyboardInterrupt:
        # The hub passes it on to the main greenlet, wherever it was raised.
        conn = waiter.get()
    hub_errors.clear()
    assert conn.number == 1
    check(pool)


class Mine(BaseException):
    """No Exception, and nobody's interruption."""


@pytest.mark.parametrize("error", [Mine, GeneratorExit, asyncio.CancelledError])
def test_an_opening_that_always_ends_by_no_exception_is_told_to_its_waiter(
    error, hub_errors
):
    """Once may be an accident. Always would be a loop at full speed."""
    connector = ScriptedConnector(open=[error() for _ in range(100)])
    pool = make(connector)
    with pytest.raises(error):
        pool.acquire()
    hub_errors.clear()
    assert len(connector.calls) == 2
    check(pool)


def test_an_opening_that_is_always_killed_does_not_kill_its_waiter():
    """A GreenletExit would silently end the waiter's greenlet."""
    connector = ScriptedConnector(open=[gevent.GreenletExit() for _ in range(100)])
    pool = make(connector)
    with pytest.raises(ConnectionAbortedError, match="was killed"):
        pool.acquire()
    with pytest.raises(ConnectionAbortedError, match="was killed"):
        make(connector, initial_connections=1)
    assert len(connector.calls) == 3
    check(pool)


@pytest.mark.parametrize("minimum", [0, 1])
def test_an_opening_that_is_killed_before_it_begins_loses_no_place(minimum):
    """Of such a greenlet no line is run, so only its link can tell."""
    pool = make(ScriptedConnector(), max_connections=1, min_connections=minimum)
    if not minimum:
        with pytest.raises(PoolExhaustedError):
            pool.acquire(timeout=0)
    for it in pool_greenlets(pool):
        it.kill(block=False)  # type: ignore[attr-defined]
    gevent.idle()
    assert pool.size == 0
    check_capacity(pool)
    assert pool.close() == []


def test_an_opening_whose_place_could_not_be_taken_opens_nothing(monkeypatch):
    """The greenlet is there before the place, so that no place can be lost."""
    connector = ScriptedConnector()
    pool = make(connector)
    parts.ledger(pool).min_connections = 1

    def fail(entry):
        raise MemoryError

    monkeypatch.setattr(parts.ledger(pool), "reserve", fail)
    with pytest.raises(MemoryError):
        parts.opener(pool).serve(retry=True)
    monkeypatch.undo()
    gevent.idle()
    assert not connector.calls
    check_capacity(pool)


def test_a_slow_opening_holds_up_nobody_who_comes_later(monkeypatch):
    """A peer that does not answer has a place, but not the turn of the others."""
    monkeypatch.setattr(opener, "SLOW", 0.0)
    hangs = [Event(), Event()]
    connector = ScriptedConnector(open=hangs)
    pool = make(connector, max_connecting=1, max_connections=6)
    stuck = [gevent.spawn(pool.acquire, reclaim=False) for _ in range(2)]
    wait_until(lambda: connector.opening == 2)
    served = [gevent.spawn(pool.acquire, reclaim=False) for _ in range(2)]
    gevent.joinall(served)
    assert connector.opening == 2
    for hang in hangs:
        hang.set()
    gevent.joinall(stuck)
    assert connector.peak <= 6
    check(pool)


def test_a_pause_because_the_server_is_full_is_not_a_slow_opening(monkeypatch):
    """Else the full server would be tried over and over, without a pause."""
    monkeypatch.setattr(opener, "SLOW", 0.0)
    connector = ScriptedConnector(open=[Full()])
    connector.exhausting = (Full,)
    pool = make(connector, backoff=Backoff(30, maximum=30), max_connecting=1)
    waiters = [gevent.spawn(caught, pool.acquire) for _ in range(3)]
    gevent.idle()
    assert pool.stats().opening == 1 == len(connector.calls)
    pool.close(timeout=0)
    gevent.joinall(waiters)


def test_opening_has_a_time_limit():
    """A server that accepts and never answers does not hold the place without limit."""
    connector = ScriptedConnector(open=[Event()])
    pool = make(connector, timeouts=Timeouts(open=0.001))
    with pytest.raises(TimeoutError, match="opening took longer than 0.001 s"):
        pool.acquire()
    check_capacity(pool)


def test_an_exhausted_pool_names_the_last_failure_to_open():
    """The cause separates "all in use" from "the server is down"."""
    error = Full("too many")
    connector = ScriptedConnector(open=[error] * 100)
    connector.exhausting = (Full,)
    pool = make(connector, backoff=Backoff(0.001, maximum=0.001))
    with pytest.raises(PoolExhaustedError) as raised:
        pool.acquire(timeout=0.01)
    cause = raised.value.__cause__
    assert type(cause) is Full and cause.args == error.args


def test_a_refusal_names_no_failure_of_long_ago():
    """Only one from the time of the wait can be its cause."""
    connector, clock = ScriptedConnector(open=[None, *[Full()] * 100]), Clock()
    connector.exhausting = (Full,)
    pool = make(connector, max_connections=2)
    clock.rule(pool)
    pool.acquire(reclaim=False)
    with pytest.raises(PoolExhaustedError) as raised:
        pool.acquire(timeout=0.001)
    assert type(raised.value.__cause__) is Full
    pool.resize(1)
    clock.advance(1)
    with pytest.raises(PoolExhaustedError) as raised:
        pool.acquire(timeout=0.001)
    assert raised.value.__cause__ is None


def test_a_full_server_is_tried_again_after_a_pause():
    """Its refusal is no failure: the waiter is served when there is room."""
    connector = ScriptedConnector(open=[Full(), Full()])
    connector.exhausting = (Full,)
    counters = Counters()
    pool = make(connector, backoff=Backoff(0.001, maximum=0.001), listeners=[counters])
    assert pool.acquire().number == 1
    assert connector.calls == [("open", None)] * 3
    assert counters.snapshot().open_failed == 0


def test_while_the_server_is_full_returned_connections_serve_the_line():
    """The pause of one opening holds up nobody."""
    connector = ScriptedConnector(open=[None, *[Full()] * 3])
    connector.exhausting = (Full,)
    pool = make(connector, backoff=Backoff(30, maximum=30))
    conn = pool.acquire()
    waiters = [gevent.spawn(pool.acquire, reclaim=False) for _ in range(3)]
    gevent.idle()
    assert pool.stats().opening == 1, "one at a time while the server is full"
    for waiter in waiters:
        pool.release(conn, anyone=True)
        assert waiter.get() is conn
    pool.close(timeout=0)


def test_missing_connections_are_opened_when_a_full_server_has_room():
    """There may be no borrower for long, and the next sweep may be minutes away."""
    connector = ScriptedConnector(open=[Full(), Full()])
    connector.exhausting = (Full,)
    pool = make(connector, min_connections=2, backoff=Backoff(0.001, maximum=0.001))
    wait_until(lambda: pool.stats().idle == 2)
    check(pool)


def test_a_full_server_is_not_tried_for_nobody():
    """When the last waiter has gone, so has the reason to try again."""
    connector = ScriptedConnector(open=[None, Full(), Full()])
    connector.exhausting = (Full,)
    pool = make(connector, backoff=Backoff(0.001, maximum=0.001))
    conn = pool.acquire()
    waiter = gevent.spawn(pool.acquire, reclaim=False)
    gevent.sleep(0)
    gevent.sleep(0)
    pool.release(conn)
    waiter.get()
    wait_until(lambda: not pool.stats().opening)
    assert connector.calls == [("open", None)] * 2
    check(pool)


def test_a_full_server_is_given_up_after_so_many_tries():
    """backoff.retries bounds it; then the waiter gets the driver's own error."""
    last = Full("last")
    connector = ScriptedConnector(open=[Full(), Full(), last])
    connector.exhausting = (Full,)
    pool = make(connector, backoff=Backoff(0.001, maximum=0.01, retries=2))
    with pytest.raises(Full) as raised:
        pool.acquire(retry=1000)
    assert raised.value is last


def test_a_greenlet_of_the_pool_killed_in_its_pause_loses_no_place():
    """The line is served by another."""
    connector = ScriptedConnector(open=[Full()])
    connector.exhausting = (Full,)
    pool = make(connector, backoff=Backoff(30, maximum=30))
    waiter = gevent.spawn(pool.acquire)
    gevent.idle()
    parts.workers(pool).kill_all()
    assert waiter.get().number == 1
    check(pool)


def test_a_connector_that_opens_the_same_object_twice_is_refused():
    """Two loans of one object would be two users of one socket."""

    class Same(Connector):
        def open(self):
            return self

        def close(self, conn):
            pass

    pool = Pool(Same(), max_connections=2)
    pool.acquire()
    with pytest.raises(RuntimeError, match="opened twice"):
        pool.acquire()
    assert pool.size == 1
    check(pool)


def test_a_failed_check_does_not_make_the_first_in_line_wait_for_the_next():
    """Where idle connections are cut off silently, one lost ping is enough."""
    hangs = Event()
    connector = ScriptedConnector(ping=[OSError("lost"), hangs])
    pool = make(connector, ping_after=0, max_connections=3)
    lent = [pool.acquire(), pool.acquire()]
    for conn in lent:
        pool.release(conn)
    with pool.connection() as conn:
        assert conn.number == 3
    assert pool.stats().checking == 1
    hangs.set()


def test_a_connector_that_fails_to_judge_a_refusal_costs_nobody_his_answer(caplog):
    """The waiter gets what opening raised."""
    error = OSError("refused")
    connector = ScriptedConnector(open=[error])
    connector.classify = lambda error: 1 / 0  # type: ignore[assignment, method-assign, return-value]
    pool = make(connector)
    with pytest.raises(OSError) as raised:
        pool.acquire()
    assert raised.value is error and "asked about" in caplog.text
    check_capacity(pool)


def test_a_time_out_of_the_driver_is_a_failure_to_open():
    """It reaches the waiter like any other; the dial is not taken for killed."""
    error = gevent.Timeout(5)
    connector = ScriptedConnector(open=[error])
    pool = make(connector)
    with pytest.raises(gevent.Timeout) as raised:
        pool.acquire()
    assert raised.value is error
    check_capacity(pool)


def test_a_driver_that_times_out_while_the_server_is_full_tells_its_waiter():
    """Only the server's own word that it is full keeps a waiter in line."""
    gate = Event()

    def time_out():
        gate.wait()
        raise gevent.Timeout(5)

    connector = ScriptedConnector(open=[Full(), time_out, Full()])
    connector.exhausting = (Full,)
    pool = make(connector, backoff=Backoff(30, maximum=30))
    outcomes = []

    def wait():
        try:
            outcomes.append(pool.acquire(reclaim=False))
        except gevent.Timeout as error:
            outcomes.append(error)

    waiters = [gevent.spawn(wait), gevent.spawn(wait)]
    gevent.idle()
    gate.set()
    waiters[1].join()
    assert isinstance(outcomes[0], gevent.Timeout)
    gevent.killall(waiters)
    pool.close(timeout=0)


def test_a_connector_that_opens_none_is_refused():
    """Nobody could tell it from "no connection"."""

    class Nothing(Connector):
        def open(self):
            return None

        def close(self, conn):
            pass

    pool = make(Nothing())
    with pytest.raises(TypeError, match="returned None"):
        pool.acquire()
    check(pool)


def test_the_stock_is_made_up_as_soon_as_the_server_is_there_again():
    """min_connections must not wait for the next look at the idle ones."""
    connector = ScriptedConnector()
    pool = make(
        connector,
        initial_connections=3,
        min_connections=3,
        outage=Outage(failures=None),
    )
    connector.script("open", *[OSError("down")] * 3)
    for conn in connector.opened:
        conn.is_usable = False
    pool.drop_expired()
    gevent.idle()
    assert pool.size == 0
    with pool.connection():
        gevent.idle()
        assert pool.size == 3


def test_initial_connections_that_are_lost_at_once_are_not_replaced():
    """A peer that accepts and hangs up would keep the constructor dialling."""

    class HangsUp(PoolListener):
        def opened(self, conn, seconds):
            conn.is_usable = False
            holder[0].drop_expired()

    holder: list[Any] = []

    class Known(Pool):
        def __init__(self, *args, **options):
            holder[:] = [self]
            super().__init__(*args, **options)

    connector = ScriptedConnector()
    pool = Known(connector, initial_connections=5, listeners=[HangsUp()])
    assert len(connector.opened) == 5 and pool.size == 0


def test_initial_connections_are_there_when_the_constructor_returns():
    """Also such as are being opened for min_connections at the same time."""
    gates = [Event(), Event(), Event()]
    connector = ScriptedConnector(open=gates)
    for moment, gate in enumerate(gates):
        gevent.spawn_later(0.001 * moment, gate.set)
    pool = make(connector, initial_connections=3, min_connections=2, max_connecting=2)
    assert pool.stats().idle == 3 == len(connector.opened)


def test_a_constructor_that_is_killed_ends_its_dials_at_once():
    """A caller that is killed while pre-filling has no pool to close."""
    gate = Event()
    connector = ScriptedConnector(open=[None, gate, gate])
    victim = gevent.spawn(make, connector, initial_connections=3)
    gevent.idle()
    assert connector.opening == 2
    victim.kill()
    gevent.idle()
    assert not connector.opening and not connector.now_open


def test_a_connection_that_is_being_reset_is_under_way():
    """The waiter gets it: one greenlet alone never needs a second connection."""
    connector = ScriptedConnector(switching=True)
    pool = make(connector)

    def borrow():
        for _ in range(3):
            conn = pool.acquire()
            conn.needs_reset = True
            pool.release(conn)

    gevent.joinall([gevent.spawn(borrow) for _ in range(2)], raise_error=True)
    assert len(connector.opened) == 2


def test_a_reset_that_takes_long_holds_nobody_up():
    """Such as a big rollback: after a moment another connection is opened."""
    clean = Event()
    connector = ScriptedConnector(reset=[clean])
    pool = make(connector)
    first = pool.acquire()
    first.needs_reset = True
    pool.release(first)
    second = pool.acquire(timeout=5)
    assert second is not first and pool.stats().resetting == 1
    clean.set()
    wait_until(lambda: pool.stats().idle == 1, "reset")
    assert not parts.ledger(pool).lagging


def test_an_error_that_is_raised_again_closes_no_generator():
    """Its traceback has the frames of an earlier borrower, which may be suspended."""
    error = ConnectionRefusedError("the same each time")

    def borrower():
        with Pool(ScriptedConnector(open=[error, error])) as pool:
            with pytest.raises(ConnectionRefusedError):
                pool.acquire()
            yield pool

    suspended = borrower()
    pool = next(suspended)
    with pytest.raises(ConnectionRefusedError):
        pool.acquire()
    assert not pool.closed
    suspended.close()
    assert pool.closed
