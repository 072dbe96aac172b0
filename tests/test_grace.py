"""A short outage is a delay; a long one fails at once, whatever else is lent."""

from __future__ import annotations

import time
from typing import Any

import gevent
import pytest
from gevent.event import Event

from geventpool import (
    Backoff,
    CloseReason,
    Outage,
    Pool,
    PoolExhaustedError,
    PoolListener,
)
from geventpool._core import opener
from geventpool._core.breaker import APART, LOOK, Breaker
from geventpool._core.server_probe import SHORT_LOAN
from geventpool.testing import (
    Clock,
    ScriptedConnector,
    check,
    check_capacity,
    no_switch,
    wait_until,
)
from tests import parts

#: Tries without a pause between them.
AT_ONCE = Backoff(0, maximum=0)
#: Nobody tries before the test is over, unless it is the grace.
NEVER = Backoff(3600, maximum=3600)


def down(times):
    """So many refusals."""
    return [ConnectionRefusedError(111, f"refused {n + 1}") for n in range(times)]


def reached(connector, *, backoff=AT_ONCE, grace=3.0, failures=3, **options):
    """A pool that has had a connection, which is lost, and its clock."""
    options.setdefault("max_connections", 5)
    outage = Outage(failures=failures, grace=grace, backoff=backoff)
    pool = Pool(connector, name="test", outage=outage, **options)
    with pool.connection() as conn:
        pass
    pool.drop(conn)
    gevent.idle()
    clock = Clock()
    clock.rule(pool)
    return pool, clock


def outcome(pool, timeout=None):
    """A loan that is over, or the error there was instead."""
    try:
        with pool.connection(timeout) as conn:
            return conn
    except Exception as error:
        return error


# After the outage.


def test_a_dial_that_hung_in_an_outage_says_nothing_about_the_time_after_it():
    """It would pause a pool whose server is back, and fail who has just asked."""
    connector, lost = ScriptedConnector(), Event()
    pool, clock = reached(connector, backoff=NEVER, max_connecting=2)

    def hang():
        lost.wait()
        raise TimeoutError("no answer")

    connector.script("open", hang, *down(2))
    first = gevent.spawn(outcome, pool)
    gevent.idle()
    clock.now += 20
    connector.script("open")
    breaker = parts.opener(pool).breaker
    with pool.connection():
        asker = gevent.spawn(outcome, pool)
        gevent.idle()
    lost.set()
    gevent.joinall([first, asker])
    assert not breaker.paused and breaker.since is None
    assert first.value in pool.idle_connections()
    assert asker.value in pool.idle_connections()


# Within the grace.


def test_within_the_grace_nobody_fails_because_the_server_is_not_there():
    """A restart is a delay: all waiters are served."""
    connector = ScriptedConnector()
    pool, clock = reached(connector)
    connector.script("open", *down(40))
    waiters = [gevent.spawn(outcome, pool) for _ in range(20)]
    gevent.joinall(waiters)
    assert {type(waiter.value) for waiter in waiters} == {type(connector.opened[0])}
    assert len(connector.calls) > 40
    check_capacity(pool)


def test_within_the_grace_one_waits_no_longer_than_one_wants_to():
    """The refusal names the last failure as its cause."""
    connector = ScriptedConnector()
    pool, clock = reached(connector, backoff=NEVER)
    # More than enough: both timers are due in one turn if the loop is held up.
    connector.script("open", *down(1000))
    with pytest.raises(PoolExhaustedError) as caught:
        pool.acquire(timeout=0.001)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    check(pool)


def test_a_server_that_was_never_reached_has_no_grace():
    """A wrong address is told at once."""
    connector = ScriptedConnector(open=down(3))
    pool = Pool(connector, outage=Outage(backoff=NEVER), max_connecting=1)
    waiters = [gevent.spawn(outcome, pool) for _ in range(9)]
    gevent.idle()
    assert all(isinstance(waiter.get(block=False), OSError) for waiter in waiters)


def test_an_error_that_is_no_loss_has_no_grace():
    """A wrong password stays wrong, however long one waits."""
    connector = ScriptedConnector()
    pool, clock = reached(connector, backoff=NEVER)
    connector.script("open", *[ValueError("wrong password") for _ in range(9)])
    waiters = [gevent.spawn(outcome, pool) for _ in range(9)]
    gevent.idle()
    assert all(isinstance(waiter.get(block=False), ValueError) for waiter in waiters)


@pytest.mark.parametrize(
    "error", [EOFError(), gevent.Timeout(1), OSError(113, "route")]
)
def test_what_keeps_one_from_the_server_is_a_loss(error):
    """Whatever the driver calls it."""
    connector = ScriptedConnector()
    pool, clock = reached(connector)
    connector.script("open", error)
    assert outcome(pool) is connector.opened[1]


def test_many_failures_allowed_are_no_leave_to_try_without_a_pause():
    """Within the grace nobody is told, so nothing else would end the tries."""
    connector = ScriptedConnector()
    pool, clock = reached(connector, failures=1000, backoff=NEVER, max_connecting=1)
    connector.script("open", *down(1000))
    waiter = gevent.spawn(outcome, pool)
    gevent.idle()
    assert pool.stats().paused
    assert connector.calls.count(("open", None)) == 1 + 3
    waiter.kill()


# After it.


def test_after_the_grace_all_fail_at_once_with_the_last_error():
    """The waiters, and callers that come later."""
    connector = ScriptedConnector()
    pool, clock = reached(connector, backoff=NEVER, grace=60.0, max_connecting=1)
    gate = Event()

    def fail():
        gate.wait()
        raise ConnectionRefusedError(111, "refused at last")

    connector.script("open", *down(3), fail)
    waiters = [gevent.spawn(outcome, pool, 3600) for _ in range(9)]
    wait_until(lambda: connector.opening)
    assert pool.stats().waiting == 9
    clock.advance(61)
    gate.set()
    gevent.joinall(waiters)
    assert {str(waiter.value) for waiter in waiters} == {"[Errno 111] refused at last"}
    assert str(outcome(pool)) == "[Errno 111] refused at last"
    check(pool)


@pytest.mark.parametrize("slow", [1.0, 0.001])
def test_the_end_of_the_grace_does_not_wait_for_an_attempt_that_hangs(
    slow, monkeypatch
):
    """The server may have vanished silently; nor do the waiters it was made for."""
    monkeypatch.setattr(opener, "SLOW", slow)
    connector = ScriptedConnector()
    most = 1 if slow == 1.0 else 4
    pool, clock = reached(connector, grace=0.05, max_connecting=most)
    parts.set_clock(pool, time.monotonic)
    connector.script("open", *down(3), *[Event()] * 9)
    waiters = [gevent.spawn(outcome, pool) for _ in range(9)]
    gevent.joinall(waiters)
    assert all(isinstance(waiter.value, ConnectionRefusedError) for waiter in waiters)
    assert connector.opening
    pool.close(timeout=0)


def test_a_success_begins_a_new_grace():
    """A server that comes and goes is worth waiting for."""
    connector = ScriptedConnector()
    pool, clock = reached(connector)
    for _ in range(3):
        connector.script("open", *down(5))
        assert outcome(pool) is connector.opened[-1]
        pool.drain()
        clock.advance(2)


def test_an_attempt_that_hangs_does_not_keep_others_from_finding_the_server(
    monkeypatch,
):
    """Its packets may have been lost, and the server be there again."""
    monkeypatch.setattr(opener, "SLOW", 0.001)
    connector = ScriptedConnector()
    pool, clock = reached(connector)
    hangs = Event()
    connector.script("open", *down(3), hangs)
    assert outcome(pool) is connector.opened[-1]
    assert connector.opening == 1
    hangs.set()


def test_a_slow_dial_after_an_outage_delays_no_others(monkeypatch):
    """A server that has just come back may need long for its first connections."""
    monkeypatch.setattr(opener, "SLOW", 3600)
    monkeypatch.setattr(opener, "PROMPT", 0.001)
    connector = ScriptedConnector()
    pool, clock = reached(connector)
    gate = Event()
    connector.script("open", *down(3), lambda: None, gate)
    taken, end = [], Event()

    def hold():
        with pool.connection() as conn:
            taken.append(conn)
            end.wait()

    crowd = [gevent.spawn(hold) for _ in range(3)]
    wait_until(lambda: len(taken) == 3)
    assert connector.opening == 1
    gate.set()
    end.set()
    gevent.joinall(crowd)
    pool.close()


# Who may still be served.


def lost(connector, **options):
    """A paused pool without grace: one loan, the clock at its beginning."""
    outage = Outage(grace=0, backoff=NEVER)
    pool = Pool(connector, max_connecting=1, outage=outage, **options)
    clock = Clock()
    clock.rule(pool)
    conn = pool.acquire(reclaim=False)
    connector.script("open", *down(3))
    waiters = [gevent.spawn(outcome, pool, 3600) for _ in range(3)]
    gevent.idle()
    assert pool.stats().paused
    return pool, clock, conn, waiters


def test_a_loan_that_lasts_is_no_reason_to_wait():
    """A subscription must not switch off failing fast."""
    pool, clock, conn, waiters = lost(ScriptedConnector(), max_connections=5)
    assert pool.stats().waiting == 1, "the loan has only begun"
    clock.advance(SHORT_LOAN)
    assert isinstance(outcome(pool, 3600), ConnectionRefusedError)
    assert all(isinstance(waiter.get(), OSError) for waiter in waiters)
    pool.release(conn)


def test_the_loan_of_one_who_waits_is_no_reason_to_wait():
    """Its holder cannot give it back before it is served itself."""
    pool, clock, conn, waiters = lost(ScriptedConnector(), max_connections=5)
    # The main greenlet holds the only loan, and asks for another one.
    assert isinstance(outcome(pool, 3600), ConnectionRefusedError)
    assert all(isinstance(waiter.get(), OSError) for waiter in waiters)
    pool.release(conn)


@pytest.mark.parametrize("verb, waiting", [("reset", 2), ("close", 0)])
def test_a_connection_that_is_being_reset_may_serve_and_one_being_closed_not(
    verb, waiting
):
    """The one comes back to the line, the other never does."""
    gate = Event()
    connector = ScriptedConnector(**{verb: [gate]})  # type: ignore[arg-type]
    pool, clock, conn, waiters = lost(connector, max_connections=5)
    conn.needs_reset = verb == "reset"
    waiter = gevent.spawn(outcome, pool, 3600)
    gevent.idle()
    if verb == "close":
        clock.advance(SHORT_LOAN)
        parts.lifecycle(pool).teardown.evict_all(CloseReason.DRAINED)
    pool.release(conn)
    clock.advance(SHORT_LOAN)
    parts.lifecycle(pool).serve()
    assert pool.stats().waiting == waiting
    gate.set()
    gevent.joinall([*waiters, waiter])
    assert (waiter.value is conn) == bool(waiting)


def test_who_finds_all_places_taken_waits_as_always():
    """There is nothing to be opened, so that nothing can be opened does not matter."""
    pool, clock, conn, waiters = lost(ScriptedConnector(), max_connections=2)
    clock.advance(3600)
    pool.resize(1)
    waiter = gevent.spawn(outcome, pool, 3600)
    gevent.idle()
    assert pool.stats().paused and pool.stats().waiting == 2
    pool.release(conn)
    assert waiter.get() is conn


class Reconnecting(ScriptedConnector):
    """A connector whose connections reconnect by themselves while they are lent.

    A descriptor of -1 means that the connection is lost, None that it cannot be seen.
    """

    descriptor = -1

    def fileno(self, conn):
        if self.descriptor is None:
            raise OSError("no descriptor")
        return self.descriptor


class Told(PoolListener):
    """Notes the beginning and the end of outages."""

    def __init__(self, notes):
        self.notes = notes

    def paused(self, error):
        self.notes.append("paused")

    def resumed(self, seconds):
        self.notes.append(("resumed", seconds))


def all_lent(connector, **options):
    """A pool whose connections are all lent, the loans, and one that waits."""
    pool, clock = reached(connector, backoff=NEVER, max_connections=2, **options)
    loans = [pool.acquire(), pool.acquire()]
    waiter = gevent.spawn(outcome, pool, 3600)
    gevent.idle()
    return pool, clock, loans, waiter


def test_what_a_borrower_finds_out_about_the_server_counts():
    """It may have the last place, so that the pool itself cannot try the server."""
    connector = Reconnecting()
    told: list[Any] = []
    pool, clock, loans, waiter = all_lent(connector, listeners=[Told(told)])
    for error in down(3):
        pool.extension.report_unreachable(error)
    assert told == ["paused"] and pool.stats().paused
    gevent.idle()
    assert not waiter.dead, "it is within the grace"
    clock.advance(4)
    assert str(outcome(pool, 3600)) == "[Errno 111] refused 3"
    assert str(waiter.get()) == "[Errno 111] refused 3"
    clock.advance(1)
    pool.extension.report_reachable()
    assert told == ["paused", ("resumed", 5)] and not pool.stats().paused
    for conn in loans:
        pool.release(conn)
    check_capacity(pool)


def test_a_borrower_fails_without_a_switch_though_useless_loans_have_all_places():
    """It does not wait for the next attempt to connect."""
    pool, clock, loans, waiter = all_lent(Reconnecting())
    for error in down(3):
        pool.extension.report_unreachable(error)
    clock.advance(4)
    with no_switch():
        assert str(outcome(pool, 3600)) == "[Errno 111] refused 3"
    twice = gevent.spawn(lambda: [outcome(pool, 3600), outcome(pool, 3600)])
    gevent.idle()
    assert [str(each) for each in twice.get(block=False)] == 2 * [
        "[Errno 111] refused 3"
    ]
    assert str(waiter.get()) == "[Errno 111] refused 3"
    pool.extension.report_reachable()
    for conn in loans:
        pool.release(conn)
    check_capacity(pool)


def test_the_attempts_of_borrowers_count_as_openings():
    """A server that has just come back must not be met by more at a time."""
    pool = Pool(ScriptedConnector(), max_connections=2, max_connecting=1)
    assert pool.extension.begin_reconnect()
    assert not pool.extension.begin_reconnect()
    borrower = gevent.spawn(outcome, pool)
    gevent.idle()
    assert pool.stats().opening == 0
    pool.extension.end_reconnect()
    assert borrower.get() in pool.idle_connections()
    assert pool.extension.begin_reconnect()
    pool.extension.end_reconnect()


@pytest.mark.parametrize("descriptor", [5, None])
def test_a_loan_that_still_has_its_connection_is_waited_for(descriptor):
    """The outage may be one of new connections alone."""
    connector = Reconnecting()
    connector.descriptor = descriptor
    pool, clock, loans, waiter = all_lent(connector)
    for error in down(3):
        pool.extension.report_unreachable(error)
    clock.advance(4)
    parts.lifecycle(pool).serve()
    gevent.idle()
    assert not waiter.dead
    connector.descriptor = -1
    pool.release(loans[0])
    assert waiter.get() is loans[0]
    pool.release(loans[1])


def test_a_loan_without_a_connection_is_not_waited_for():
    """However young it is."""
    connector = Reconnecting()
    pool, clock, conn, waiters = lost(connector, max_connections=5)
    waiter = gevent.spawn(outcome, pool, 3600)
    assert isinstance(waiter.get(), ConnectionRefusedError)
    assert all(isinstance(waiter.get(), OSError) for waiter in waiters)
    pool.release(conn)


# The stock.


def test_min_connections_are_looked_for_though_nobody_asks():
    """The next sweep may be minutes away."""
    connector = ScriptedConnector()
    pool, clock = reached(connector, min_connections=1, backoff=NEVER)
    wait_until(lambda: pool.size == 1)
    connector.script("open", *down(2))
    parts.opener(pool).backoff = AT_ONCE
    connector.opened[-1].is_usable = False
    pool.drop_expired()
    wait_until(lambda: pool.stats().idle == 1)
    assert connector.opened[-1].is_usable


# The breaker.


def breaker(**options):
    """One whose server was reached, and has failed once, at 100."""
    one = Breaker(Outage(**options), 4)
    one.succeeded(99)
    one.failed(100)
    return one


def test_the_grace_begins_with_the_first_failure():
    """Not with the one that begins the pause."""
    one = breaker(grace=3)
    one.failed(101)
    assert one.grace_left(101.5) == 1.5
    assert one.grace_left(104) == 0


def test_a_failure_long_before_is_not_the_first_one_of_the_outage():
    """Idle connections may have served since then, and nothing was opened."""
    one = breaker(grace=3)
    one.failed(100 + APART + 1)
    assert one.grace_left(100 + APART + 1) == 3
    assert one.succeeded(200) is None


def test_an_attempt_that_took_long_belongs_to_the_outage_it_began_in():
    """Else each that hangs until its time is over would grant a grace anew."""
    one = breaker(grace=3)
    one.failed(100 + 2 * APART, began=101)
    assert one.grace_left(100 + 2 * APART) == 0


@pytest.mark.parametrize(
    "options, left",
    [
        ({"grace": 0}, 0),
        ({"failures": None}, 0),
        ({"wait": True}, float("inf")),
        ({}, 3),
    ],
)
def test_how_long_one_may_wait_is_the_policys_affair(options, left):
    """No grace without pauses; told to wait, it has no end."""
    assert breaker(**options).grace_left(100) == left


def test_within_the_grace_the_server_is_looked_for_often_and_not_in_step():
    """However long the pauses are afterwards."""
    one = breaker(backoff=Backoff(10, maximum=10, jitter=0.2))
    pauses = {one.next_pause(101) for _ in range(50)}
    assert 0.8 * LOOK <= min(pauses) < max(pauses) <= LOOK
    assert one.next_pause(103) >= 8


def test_before_anything_failed_there_is_no_grace():
    """Nor after a success."""
    one = Breaker(Outage(), 4)
    assert one.grace_left(0) == 0
    one.failed(1)
    one.succeeded(2)
    assert one.grace_left(2) == 0


def test_an_adapter_can_end_the_grace_of_an_outage():
    """It knows that another server does the work; the next outage has a grace again."""
    connector = ScriptedConnector()
    pool, clock = reached(connector, backoff=NEVER, grace=1000.0)
    connector.script("open", *down(5))
    waiter = gevent.spawn(outcome, pool)
    wait_until(lambda: pool.stats().paused)
    assert pool.extension.is_in_grace and not waiter.ready()
    pool.extension.end_grace()
    assert not pool.extension.is_in_grace
    assert isinstance(waiter.get(timeout=5), ConnectionRefusedError)
    assert isinstance(outcome(pool), ConnectionRefusedError)
    one = breaker()
    one.give_up()
    one.failed(101)
    assert one.grace_left(101) == 0
    one.succeeded(102)
    one.failed(103)
    assert one.grace_left(103) == 3
