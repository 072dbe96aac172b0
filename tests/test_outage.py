"""The server cannot be reached: failures, waits and new attempts."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import gevent
import pytest
from gevent.event import Event

from geventpool import (
    Backoff,
    CloseReason,
    Counters,
    Outage,
    Pool,
    PoolClosedError,
    PoolExhaustedError,
)
from geventpool.connection import Connection
from geventpool.testing import (
    Clock,
    ScriptedConnector,
    check,
    check_capacity,
    no_switch,
    pool_greenlets,
    sweep,
)
from tests import parts

#: Tries without a pause between them.
AT_ONCE = Backoff(0, maximum=0)
#: Nobody tries before the test is over.
NEVER = Backoff(3600, maximum=3600)


class Full(Exception):
    """The server is at its own limit."""


def down(times):
    """So many refusals, each to be told from the others."""
    return [ConnectionRefusedError(111, f"refused {n + 1}") for n in range(times)]


def make(connector, *, failures=3, grace=0, wait=False, backoff=AT_ONCE, **options):
    options.setdefault("max_connections", 5)
    outage = Outage(failures=failures, grace=grace, wait=wait, backoff=backoff)
    return Pool(connector, name="test", outage=outage, **options)


def outcome(pool, timeout=None):
    """A loan that is over, or the error there was instead."""
    try:
        with pool.connection(timeout) as conn:
            return conn
    except Exception as error:
        return error


def paused_pool(connector=None, **options):
    """A pool whose server was not there three times."""
    connector = connector or ScriptedConnector()
    connector.script("open", *down(3))
    options.setdefault("backoff", NEVER)
    pool = make(connector, max_connecting=1, **options)
    asking = [gevent.spawn(outcome, pool) for _ in range(3)]
    gevent.idle()
    gevent.killall(asking)
    assert pool.stats().paused
    return pool


# Failing fast.


def test_those_who_wait_fail_at_once_when_the_pool_pauses():
    """Three attempts for twenty waiters; each gets an error of the driver."""
    connector = ScriptedConnector(open=down(20))
    pool = make(connector, max_connecting=1, backoff=NEVER)
    waiters = [gevent.spawn(outcome, pool) for _ in range(20)]
    gevent.idle()
    assert len(connector.calls) == 3
    errors = [waiter.get(block=False) for waiter in waiters]
    told = [str(error) for error in errors]
    assert told == [f"[Errno 111] refused {n}" for n in (1, 2, *[3] * 18)]
    assert len(set(map(id, errors))) == 20, "each has an error of its own"
    assert repr(pool).startswith("<Pool 'test' paused 0/5")
    check(pool)


def test_in_a_pause_an_acquirer_fails_at_once_with_the_last_error():
    """The server is not asked."""
    connector = ScriptedConnector()
    pool = paused_pool(connector)
    with pytest.raises(ConnectionRefusedError, match="refused 3"):
        pool.acquire()
    with pytest.raises(ConnectionRefusedError, match="refused 3"):
        pool.acquire(timeout=0)
    assert len(connector.calls) == 3
    check(pool)


def test_a_crowd_fails_without_a_switch():
    """None of it waits until all the others have been told."""
    pool = paused_pool()
    with no_switch():
        assert isinstance(outcome(pool), ConnectionRefusedError)
    check(pool)


def test_a_borrower_that_tries_again_at_once_lets_the_others_run():
    """Else the server would never be tried, and the program would hang."""
    pool = paused_pool()
    ran: list[bool] = []
    outcome(pool)
    gevent.spawn(ran.append, True)
    outcome(pool)
    assert ran
    check(pool)


def test_after_an_error_at_once_nothing_wakes_the_borrower():
    """Whatever it waits for next must not end early."""
    pool = paused_pool()
    awaited = Event()
    for timeout in (None, 0):
        outcome(pool, timeout)
        assert not awaited.wait(0.001)
    check(pool)


def test_each_who_fails_has_an_error_of_his_own():
    """One and the same would grow with each who raises it."""
    pool = paused_pool()
    errors = []
    for _ in range(3):
        errors.append(outcome(pool))
        # A second one in this turn would come another way.
        gevent.idle()
    assert len({id(error) for error in errors}) == 3
    lengths = set()
    for error in errors:
        trace, length = error.__traceback__, 0
        while trace is not None:
            trace, length = trace.tb_next, length + 1
        lengths.add(length)
    assert len(lengths) == 1


def test_an_error_that_cannot_be_copied_is_raised_itself():
    """Some drivers' errors want arguments that no copy has."""

    class Strange(Exception):
        def __init__(self, *, code):
            super().__init__(code)

    error = Strange(code=7)
    pool = make(ScriptedConnector(open=[error]), failures=1, backoff=NEVER)
    assert outcome(pool) is error
    assert outcome(pool) is error


def test_an_idle_connection_is_lent_in_a_pause():
    """It is open, and that is what counts."""
    connector = ScriptedConnector(open=[None, *down(3)])
    pool = make(connector, backoff=NEVER, max_connecting=1)
    with pool.connection() as conn:
        waiters = [gevent.spawn(outcome, pool, 3600) for _ in range(3)]
        gevent.idle()
        assert pool.stats().paused
    gevent.joinall(waiters)
    assert outcome(pool) is conn
    assert pool.stats().paused


def test_those_whom_a_connection_in_use_can_serve_wait_on():
    """Only the first tries failed for somebody; then what works serves all."""
    connector = ScriptedConnector(open=[None, *down(9)])
    pool = make(connector, max_connecting=1, backoff=NEVER)
    conn = pool.acquire()
    waiters = [gevent.spawn(outcome, pool) for _ in range(10)]
    gevent.idle()
    assert pool.stats().paused and pool.stats().waiting == 8
    pool.release(conn)
    gevent.idle()
    got = [waiter.get(block=False) for waiter in waiters]
    assert [answer is conn for answer in got] == [False] * 2 + [True] * 8
    check(pool)


def test_when_the_last_connection_in_use_goes_those_who_wait_fail():
    """Nothing can serve them any more."""
    connector = ScriptedConnector(open=[None, *down(9)])
    pool = make(connector, max_connecting=1, backoff=NEVER)
    conn = pool.acquire()
    waiters = [gevent.spawn(outcome, pool) for _ in range(4)]
    gevent.idle()
    assert pool.stats().waiting == 2
    pool.drop(conn)
    gevent.idle()
    assert all(isinstance(waiter.get(block=False), OSError) for waiter in waiters)
    check(pool)


def test_those_whose_try_is_under_way_wait_for_its_end():
    """A pause does not break off what has begun."""
    gate = Event()
    connector = ScriptedConnector(open=[gate, *down(3)])
    pool = make(connector, max_connecting=2, backoff=NEVER)
    waiters = [gevent.spawn(outcome, pool) for _ in range(4)]
    gevent.idle()
    assert pool.stats().paused and pool.stats().waiting == 1
    gate.set()
    gevent.joinall(waiters)
    assert waiters[0].value is connector.opened[0]
    assert not pool.stats().paused
    check(pool)


def test_a_full_server_is_no_outage():
    """However often it refuses: it is there."""
    connector = ScriptedConnector(open=[Full() for _ in range(9)])
    connector.exhausting = (Full,)
    pool = make(connector, failures=1, backoff=NEVER)
    parts.opener(pool).backoff = Backoff(0, maximum=0, retries=3)
    assert isinstance(outcome(pool), Full)
    assert not pool.stats().paused


def test_without_a_number_of_failures_each_has_a_try_of_his_own():
    """failures=None is how it was without pauses."""
    connector = ScriptedConnector(open=down(20))
    pool = make(connector, failures=None)
    waiters = [gevent.spawn(outcome, pool) for _ in range(20)]
    gevent.joinall(waiters)
    assert len({str(waiter.value) for waiter in waiters}) == 20
    assert not pool.stats().paused


# Waiting.


def test_told_to_wait_nobody_fails_because_the_server_is_not_there():
    """The outage is a delay, and nothing else."""
    connector = ScriptedConnector(open=down(50))
    pool = make(connector, wait=True)
    waiters = [gevent.spawn(outcome, pool) for _ in range(20)]
    gevent.joinall(waiters)
    assert {type(waiter.value) for waiter in waiters} == {type(connector.opened[0])}
    check_capacity(pool)


def test_told_to_wait_one_waits_no_longer_than_one_wants_to():
    """The refusal tells of the outage, and its cause is the last failure."""
    clock = Clock()
    connector = ScriptedConnector(open=down(3))
    pool = make(connector, wait=True, backoff=NEVER)
    clock.rule(pool)
    waiter = gevent.spawn(outcome, pool, 3600)
    gevent.idle()
    clock.advance(8)
    error = outcome(pool, 0)
    assert isinstance(error, PoolExhaustedError)
    assert "no connection could be opened for 8.0 s" in str(error)
    waiter.kill()
    with pytest.raises(PoolExhaustedError) as caught:
        pool.acquire(timeout=0.001)
    assert caught.value.__cause__ is None
    check(pool)


# Looking for the server.


def test_the_server_is_tried_by_one_at_a_time():
    """However many wait, and however many may be opened at a time otherwise."""
    connector = ScriptedConnector(open=down(40))
    pool = make(connector, wait=True, max_connecting=5)
    seen = []
    opens = connector.open

    def watched():
        seen.append((pool.stats().paused, connector.opening))
        return opens()

    connector.open = watched  # type: ignore[method-assign]
    waiters = [gevent.spawn(outcome, pool) for _ in range(30)]
    gevent.joinall(waiters)
    in_pause = [opening for paused, opening in seen if paused]
    assert len(in_pause) >= 30 and set(in_pause) == {0}


def test_the_first_success_ends_the_pause():
    """And is told, with the length of the outage."""
    clock, counters = Clock(), Counters()
    connector = ScriptedConnector()
    gate = Event()
    pool = make(connector, wait=True, listeners=[counters])
    clock.rule(pool)
    connector.script("open", *down(3), gate)
    waiter = gevent.spawn(outcome, pool)
    gevent.idle()
    assert pool.stats().paused and connector.opening == 1
    clock.advance(60)
    gate.set()
    assert waiter.get() is connector.opened[0]
    assert not pool.stats().paused
    counts = counters.snapshot()
    assert (counts.paused, counts.outage_seconds) == (1, 60)


def test_after_a_pause_as_many_are_opened_at_a_time_as_usual():
    """The first success proves the server, and all the others wait for a connection."""
    gates = [Event() for _ in range(9)]
    connector = ScriptedConnector(open=[*down(6), *gates])
    pool = make(connector, wait=True, max_connections=9, max_connecting=4)
    waiters = [gevent.spawn(pool.acquire, reclaim=False) for _ in range(9)]
    under_way = []
    for gate in gates[:6]:
        gevent.idle()
        under_way.append(connector.opening)
        gate.set()
    assert under_way == [1, 4, 4, 4, 4, 4]
    for gate in gates:
        gate.set()
    gevent.joinall(waiters)
    check(pool)


def test_the_pool_looks_for_the_server_only_while_somebody_asks():
    """Without a request nothing connects; the next request is the next attempt."""
    connector = ScriptedConnector(open=down(6))
    pool = make(connector, max_connecting=1, reap_expired_connections=False)
    assert [str(outcome(pool))[-1] for _ in range(3)] == ["1", "2", "3"]
    gevent.idle()
    tried = len(connector.calls)
    gevent.idle()
    assert len(connector.calls) == tried < 6
    assert not pool_greenlets(pool)
    # Not an old error, but that of a try of its own; which begins the next pause.
    assert str(outcome(pool)) == f"[Errno 111] refused {tried + 1}"
    assert pool.stats().paused


def test_what_min_connections_ask_for_is_not_opened_in_a_pause():
    """A sweep waits for its end like everybody."""
    connector = ScriptedConnector(open=down(1))
    pool = paused_pool(connector, min_connections=1)
    tried = len(connector.calls)
    sweep(pool)
    assert len(connector.calls) == tried


def test_whoever_looks_for_the_server_may_be_killed():
    """The next who asks tries it then."""
    connector = ScriptedConnector()
    pool = paused_pool(connector)
    parts.opener(pool).search.greenlet.kill()  # type: ignore[union-attr]
    gevent.idle()
    assert outcome(pool) is connector.opened[0]
    check(pool)


def test_killed_before_it_began_it_is_missed_as_well():
    """Of such a greenlet not a line is run."""
    connector = ScriptedConnector(open=down(1))
    pool = make(connector, failures=1, wait=True, backoff=NEVER)
    waiter = gevent.spawn(outcome, pool)
    spawn = parts.workers(pool).spawn

    def stillborn(work, *args):
        worker = spawn(work, *args)
        if getattr(work, "__self__", None) is parts.opener(pool).search:
            worker.kill(block=False)
        return worker

    parts.workers(pool).spawn = stillborn  # type: ignore[method-assign]
    assert waiter.get() is connector.opened[0]


def test_a_pool_that_has_no_room_does_not_look_for_the_server():
    """A place comes free first."""
    shrunk = Event()

    def shrink():
        pool.resize(1)
        shrunk.set()
        raise ConnectionRefusedError

    connector = ScriptedConnector(open=[None, *down(3), shrink])
    pool = make(connector, max_connections=2, max_connecting=1, wait=True)
    conn = pool.acquire()
    waiter = gevent.spawn(outcome, pool)
    shrunk.wait()
    for _ in range(3):
        gevent.sleep(0)
    assert len(connector.calls) == 5 and not waiter.dead
    pool.release(conn)
    assert waiter.get() is conn


def test_a_pause_that_follows_at_once_has_the_same_scout():
    """There is never a second one who looks for the server."""
    connector = ScriptedConnector()
    pool = paused_pool(connector)
    opener = parts.opener(pool)
    searcher = opener.search.greenlet
    opener.breaker.half_open()
    assert outcome(pool) is connector.opened[0]
    pool.drop(pool.idle_connections()[0])
    connector.script("open", *down(3))
    for _ in range(3):
        assert isinstance(outcome(pool), OSError)
    assert pool.stats().paused
    assert opener.search.greenlet is searcher and not searcher.dead  # type: ignore[union-attr]


def test_draining_ends_the_pause():
    """The server is available at another address, or with another password, now."""
    connector = ScriptedConnector()
    pool = paused_pool(connector)
    pool.drain()
    assert outcome(pool) is connector.opened[0]


def test_closing_ends_the_pause_and_the_line():
    """Nobody looks for the server of a pool that is closed."""
    pool = paused_pool(wait=True)
    waiter = gevent.spawn(outcome, pool)
    gevent.idle()
    pool.close()
    assert isinstance(waiter.get(), PoolClosedError)
    gevent.idle()
    assert parts.opener(pool).search.greenlet.dead  # type: ignore[union-attr]


def test_closed_while_it_knocks_the_scout_goes_home():
    """Its try comes to its end, and that is all."""
    gate = Event()
    connector = ScriptedConnector(open=[*down(3), gate])
    pool = make(connector, wait=True)
    waiter = gevent.spawn(outcome, pool)
    gevent.idle()
    pool.close(0)
    gate.set()
    gevent.idle()
    assert isinstance(waiter.get(), PoolClosedError)
    assert connector.now_open == []


def test_a_pool_that_pauses_can_be_forgotten():
    """The probe of the server does not keep the pool alive."""
    pool = paused_pool(backoff=Backoff(0.001, maximum=0.001))
    pool = weakref.ref(pool)
    gevent.idle()
    # The frames of the failed callers are in their errors.
    gc.collect()
    assert pool() is None


# Idle connections after a loss.


def two_idle(connector, **options):
    """A pool with two idle connections; and they."""
    pool = make(connector, **options)
    with pool.connection() as first, pool.connection() as second:
        pass
    return pool, first, second


def test_after_a_loss_the_idle_connections_are_pinged_before_they_are_lent():
    """They may be as dead; so the loss costs one borrower an error, and no more."""
    connector = ScriptedConnector(ping=[ConnectionResetError("gone")])
    pool, first, second = two_idle(connector)
    with pytest.raises(ConnectionResetError):
        with pool.connection():
            raise ConnectionResetError("broken")
    (left,) = pool.idle_connections()
    assert outcome(pool) not in (first, second)
    assert ("ping", left) in connector.calls and left.end


def test_what_has_passed_is_no_suspect_any_more():
    """One ping, not one a loan."""
    connector = ScriptedConnector()
    pool, *_ = two_idle(connector)
    pool.revalidate()
    pool.revalidate()
    for _ in range(3):
        with pool.connection(), pool.connection():
            pass
    assert [verb for verb, _ in connector.calls].count("ping") == 2


@pytest.mark.parametrize("error", [ValueError("mine"), KeyError("yours")])
def test_an_error_that_is_no_loss_makes_no_suspects(error):
    """It closes the connection it happened to, and that is all."""
    connector = ScriptedConnector()
    pool, *_ = two_idle(connector)
    with pytest.raises(type(error)):
        with pool.connection():
            raise error
    assert isinstance(outcome(pool).number, int)
    assert "ping" not in [verb for verb, _ in connector.calls]


def test_a_kill_makes_no_suspects():
    """It says nothing of the server."""
    connector = ScriptedConnector()
    pool, *_ = two_idle(connector)
    with pytest.raises(gevent.GreenletExit):
        with pool.connection():
            raise gevent.GreenletExit
    outcome(pool)
    assert "ping" not in [verb for verb, _ in connector.calls]


def test_a_routine_ping_that_is_lost_makes_suspects_of_the_others():
    """One that was a suspect already tells nothing new."""
    clock = Clock()
    connector = ScriptedConnector()
    pool = make(connector, ping_after=10)
    clock.rule(pool)
    with pool.connection() as first, pool.connection():
        clock.advance(20)
        pool.release(first)
        assert pool.idle_connections() == [first]
        clock.advance(20)
    connector.script("ping", ConnectionResetError("gone"))
    suspicions: list[Any] = []
    parts.lifecycle(pool).checks.revalidate_after = suspicions.append  # type: ignore[assignment, method-assign]
    clock.advance(5)
    with pool.connection(), pool.connection():
        pass
    assert len(suspicions) == 1
    connector.script("ping", ConnectionResetError("gone"))
    pool.revalidate()
    with pool.connection(), pool.connection():
        pass
    assert len(suspicions) == 1


def test_what_cannot_be_pinged_is_renewed_after_a_loss():
    """There is no way to tell whether it is dead."""

    class Plain(Connection):
        """Always there."""

        def open(self):
            pass

        def close(self):
            pass

        def is_connected(self):
            return True

        def is_quiet(self):
            return True

    counters = Counters()
    pool = make(Plain, listeners=[counters])
    with pool.connection() as first, pool.connection():
        pass
    with pytest.raises(EOFError):
        with pool.connection():
            raise EOFError
    with pool.connection() as conn:
        assert conn is not first
    assert counters.snapshot().closed[CloseReason.SUSPECT] == 1


def test_a_connector_that_fails_to_judge_a_loss_costs_nothing(caplog):
    """It is logged; the connection is closed as after any error."""
    connector = ScriptedConnector()
    connector.classify = lambda error: 1 / 0  # type: ignore[assignment, method-assign, return-value]
    pool, *_ = two_idle(connector)
    with pytest.raises(OSError):
        with pool.connection():
            raise OSError
    assert "ZeroDivisionError" in caplog.text
    assert pool.stats().idle == 1
    check(pool)


def test_an_error_that_was_handled_can_be_reported():
    """An adapter may handle what would otherwise leave a block."""
    connector = ScriptedConnector()
    pool, first, second = two_idle(connector)
    pool.report_error(None)
    pool.report_error(ValueError())
    with pool.connection() as conn:
        assert conn in (first, second)
    assert ("ping", conn) not in connector.calls
    pool.report_error(ConnectionResetError("gone"))
    with pool.connection() as conn:
        assert ("ping", conn) in connector.calls
