"""GreenletPool in QueuePool's place, on connections that do as they are told."""

from __future__ import annotations

import gc
import logging
import socket
import weakref
from functools import partial
from typing import Any

import gevent
import pytest
from gevent.event import Event
from sqlalchemy import event, exc
from sqlalchemy.pool import QueuePool

from geventpool import (
    ConnectionNotFoundError,
    Counters,
    Outage,
    PoolClosedError,
    PoolListener,
    PoolOverloadedError,
    Timeouts,
)
from geventpool.sqlalchemy import GreenletPool
from geventpool.sqlalchemy.interruptions import interruptions
from geventpool.testing import Clock, switches
from tests import parts
from tests.pauses import hang
from tests.sqlalchemy.conftest import Connection


def queue_of(pool):
    """The queue that SQLAlchemy's own pool has; of its connections: their pool."""
    return pool._pool


def numbers(pool):
    """What QueuePool calls size, checkedin, overflow and checkedout."""
    return pool.size(), pool.checkedin(), pool.overflow(), pool.checkedout()


def turn():
    """Let what was scheduled happen, several greenlets deep."""
    for _ in range(8):
        gevent.idle()


def logged(pool, *names):
    """A list that gets the names of these events as they happen."""
    seen = []
    for name in names:
        event.listen(pool, name, lambda *_, name=name: seen.append(name))
    return seen


# Numbers and limits


def test_it_is_a_queue_pool(make_pool):
    """What asks for QueuePool's numbers by its type gets them."""
    assert isinstance(make_pool(), QueuePool)


def test_a_connection_that_a_borrower_is_making_is_checked_out(make_pool):
    """As with QueuePool, which counts it before it connects."""
    answer = Event()

    def creator():
        answer.wait()
        return Connection(1)

    pools = [make_pool(creator), QueuePool(creator, pool_size=1)]
    borrowers = [gevent.spawn(pool.connect) for pool in pools]
    turn()
    assert [pool.checkedout() for pool in pools] == [1, 1]
    answer.set()
    for borrower in borrowers:
        borrower.get().close()
    assert [pool.checkedout() for pool in pools] == [0, 0]


def test_a_connection_that_the_pool_makes_for_itself_is_not_checked_out(make_pool):
    """A program that waits until nothing is borrowed must not wait for it."""
    answer = Event()

    def creator():
        answer.wait()
        return Connection(1)

    pool = make_pool(creator, min_connections=1)
    turn()
    assert pool.stats().opening == 1
    assert numbers(pool) == (1, 0, 0, 0)
    answer.set()
    turn()
    assert numbers(pool) == (1, 1, 0, 0)


def test_the_numbers_are_those_of_queue_pool(make_pool, database):
    """Side by side, step by step."""
    ours = make_pool(pool_size=2, max_overflow=1)
    stock = QueuePool(database, pool_size=2, max_overflow=1)
    held = []
    for step in ("borrow", "borrow", "borrow", "return", "return", "return", "borrow"):
        for pool in (ours, stock):
            if step == "borrow":
                held.append(pool.connect())
            else:
                next(
                    conn for conn in held if queue_of(conn) is pool and conn.is_valid
                ).close()
        assert numbers(ours) == numbers(stock)
        assert ours.status() == stock.status()
    for conn in held:
        if conn.is_valid:
            conn.close()
    assert ours.timeout() == 5
    stock.dispose()


def test_the_limit_is_size_and_overflow_together(make_pool, database):
    """However many ask at once."""
    pool = make_pool(pool_size=2, max_overflow=1)

    def use():
        with pool.connect():
            gevent.sleep(0)

    gevent.joinall([gevent.spawn(use) for _ in range(20)], raise_error=True)
    assert database.peak == 3


def test_overflow_is_closed_when_it_comes_back(make_pool, database):
    """By the time close() returns, and only if nobody waits for it."""
    pool = make_pool(pool_size=1, max_overflow=1)
    first, second = pool.connect(), pool.connect()
    waiter = gevent.spawn(pool.connect)
    gevent.idle()
    first.close()
    third = waiter.get()
    assert len(database.now_open) == 2
    second.close()
    third.close()
    assert len(database.now_open) == 1
    assert numbers(pool) == (1, 1, 0, 0)


def test_no_size_means_no_limit(make_pool, database):
    """pool_size=0, whatever the overflow; all are kept."""
    pool = make_pool(pool_size=0, max_overflow=-5)
    held = [pool.connect() for _ in range(30)]
    for conn in held:
        conn.close()
    assert len(database.now_open) == 30 == pool.checkedin()
    assert pool.overflow() == 0


def test_no_limit_of_overflow(make_pool, database):
    """max_overflow=-1: any number at a time, but only pool_size are kept."""
    pool = make_pool(pool_size=2, max_overflow=-1)
    held = [pool.connect() for _ in range(10)]
    for conn in held:
        conn.close()
    assert len(database.now_open) == 2


def test_a_refusal_is_queue_pools(make_pool):
    """A TimeoutError with its code; the cause says who holds what."""
    pool = make_pool(timeout=0)
    held = pool.connect()
    with pytest.raises(
        exc.TimeoutError, match="GreenletPool limit of size 1"
    ) as caught:
        pool.connect()
    assert caught.value.code == "3o7r"
    assert "held by" in str(caught.value.__cause__)
    held.close()


def test_so_many_may_wait_and_no_more(make_pool):
    """max_waiting; the error is of the same kind."""
    pool = make_pool(max_waiting=0, timeout=None)
    held = pool.connect()
    with pytest.raises(exc.TimeoutError, match="and max_waiting=0 is reached"):
        pool.connect()
    held.close()


def test_the_refusal_of_admission_says_why(make_pool):
    """The text of the core stands in that of SQLAlchemy's error."""
    pool = make_pool(pool_size=1, max_overflow=0, admission=True)
    held = pool.connect()
    waiter = gevent.spawn(pool.connect)
    gevent.idle()
    refusal = PoolOverloadedError("test", 2.0, 3, 1.0)
    parts.admission(pool.core).arrive = lambda *args: refusal
    with pytest.raises(exc.TimeoutError, match="is overloaded: expected wait 2.000 s"):
        pool.connect()
    held.close()
    waiter.get().close()


def test_a_place_is_free_without_waiting_for_it(make_pool):
    """timeout=0 does not refuse what there is room for."""
    pool = make_pool(timeout=0)
    pool.connect().close()


@pytest.mark.parametrize("lifo", [False, True])
def test_the_order_of_reuse(make_pool, lifo):
    """use_lifo: the last that came back goes first; else the first."""
    pool = make_pool(pool_size=2, use_lifo=lifo)
    first, second = pool.connect(), pool.connect()
    expected = [first.dbapi_connection, second.dbapi_connection]
    first.close()
    second.close()
    got = [pool.connect() for _ in range(2)]
    assert [conn.dbapi_connection for conn in got] == (
        expected[::-1] if lifo else expected
    )
    for conn in got:
        conn.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pool_size": -1}, "pool_size"),
        ({"max_overflow": -2}, "max_overflow"),
        ({"pool_size": 2, "min_connections": 3}, "min_connections must be at most"),
        ({"timeout": -1}, "timeout"),
        ({"max_waiting": -1}, "max_waiting"),
    ],
)
def test_bad_arguments_are_named(database, options, words):
    """ValueError, with the name of the argument."""
    with pytest.raises(ValueError, match=words):
        GreenletPool(database, **options)


# The line


def test_first_come_first_served(make_pool):
    """Also beside one who borrows again at once."""
    pool = make_pool()
    order = []

    def use(name, times):
        for _ in range(times):
            with pool.connect():
                order.append(name)
                gevent.sleep(0)

    crowd = [gevent.spawn(use, "hog", 4), *(gevent.spawn(use, n, 1) for n in range(3))]
    gevent.joinall(crowd, raise_error=True)
    assert order[:5] == ["hog", 0, 1, 2, "hog"]


def test_a_killed_waiter_loses_nothing(make_pool):
    """Also if the waiter got the place in the same turn of the loop."""
    pool = make_pool()
    held = pool.connect()
    victim, other = gevent.spawn(pool.connect), gevent.spawn(pool.connect)
    gevent.idle()
    gevent.get_hub().loop.run_callback(partial(victim.kill, block=False))
    held.close()
    other.get(timeout=1).close()
    assert numbers(pool) == (1, 1, 0, 0)


def test_all_holders_waiting_is_no_verdict(make_pool):
    """Any greenlet may close a connection: a waiter may wait for that."""
    pool = make_pool()
    held = pool.connect()
    gevent.spawn(held.close)
    pool.connect().close()


def test_a_circle_of_engines_is_named_when_the_time_is_up(make_pool):
    """Not before: any greenlet may close the connection that another one holds."""
    pools = [make_pool(timeout=0.05), make_pool(timeout=None)]

    def borrow(first, second):
        with first.connect():
            gevent.sleep(0)
            with second.connect():
                pass

    other = gevent.spawn(borrow, *pools)
    words = "timeout 0.05; all connections are held by greenlets that wait for one"
    with pytest.raises(exc.TimeoutError, match=words):
        borrow(*pools[::-1])
    other.get(timeout=5)


def test_who_fails_to_connect_makes_room(make_pool, database, hub_errors):
    """The next waiter makes its own attempt, and each gets its own error."""
    pool = make_pool(outage=Outage(failures=None))
    database.failure = OSError("down")
    crowd = [gevent.spawn(pool.connect) for _ in range(3)]
    gevent.joinall(crowd)
    errors = [each.exception for each in crowd]
    assert [str(error) for error in errors] == ["down"] * 3
    assert numbers(pool) == (1, 0, -1, 0)
    hub_errors.clear()
    database.failure = None
    pool.connect().close()


def test_nobody_is_told_of_a_return_of_what_never_was(make_pool, database):
    """A failure to connect is no checkin, as with QueuePool."""
    pool = make_pool()
    seen = logged(pool, "checkin", "connect", "close")
    database.failure = OSError("down")
    with pytest.raises(OSError):
        pool.connect()
    assert seen == []


def test_the_borrower_connects(make_pool, database):
    """In the borrower's own greenlet, which has its context variables."""
    greenlets = []

    def creator():
        greenlets.append(gevent.getcurrent())
        return database()

    pool = make_pool(creator)
    held = pool.connect()
    waiter = gevent.spawn(pool.connect)
    gevent.idle()
    held.invalidate()
    waiter.get().close()
    assert greenlets == [gevent.getcurrent(), waiter]


def test_a_waiter_connects_himself_too(make_pool, database):
    """When a place comes free for good, the pool makes none but an unconnected one."""
    greenlets = []

    def creator():
        greenlets.append(gevent.getcurrent())
        return database()

    pool = make_pool(creator)
    held = pool.connect()
    waiter = gevent.spawn(pool.connect)
    gevent.idle()
    pool.free_place(held._connection_record)
    waiter.get().close()
    assert greenlets == [gevent.getcurrent(), waiter]
    held.detach()


# Giving back


def test_it_is_reset_when_it_comes_back(make_pool, database):
    """Rolled back, committed or left alone, before close() returns."""
    for style, told in (("rollback", ["rollback"]), ("commit", ["commit"]), (None, [])):
        pool = make_pool(reset_on_return=style)
        pool.connect().close()
        assert database.opened[-1].told == told


@pytest.mark.parametrize(
    "interruption", [gevent.GreenletExit(), gevent.Timeout(1), KeyboardInterrupt()]
)
def test_what_interrupts_the_reset_costs_the_connection_only(
    make_pool, database, interruption
):
    """It is closed, and the place is free."""
    pool = make_pool()
    conn = pool.connect()
    database.opened[0].failure = interruption
    with pytest.raises(type(interruption)):
        conn.close()
    assert database.now_open == []
    pool.connect().close()
    assert len(database.now_open) == 1


def test_a_connection_is_not_kept_after_a_kill(make_pool, database):
    """The block is left by it: an answer may be under way, so nothing is sent."""
    pool = make_pool()

    def use():
        with pool.connect():
            hang()

    holder = gevent.spawn(use)
    gevent.idle()
    holder.kill()
    assert database.opened[0].told == ["close"]
    assert pool.checkedin() == 1
    pool.connect().close()


def test_no_goodbye_is_said_after_a_kill(make_pool):
    """It would wait behind half a statement: the socket is gone before the close."""
    ours, theirs = socket.socketpair()
    seen = []

    class Wired(Connection):
        sock = ours

        def close(self):
            seen.append(ours.fileno())

    pool = make_pool(lambda: Wired(1))

    def use():
        with pool.connect():
            hang()

    holder = gevent.spawn(use)
    gevent.idle()
    holder.kill()
    theirs.close()
    assert seen == [-1]


def test_a_connection_is_kept_after_an_ordinary_error(make_pool, database):
    """It is in step; so it is when a generator is closed early."""
    pool = make_pool()
    with pytest.raises(ValueError), pool.connect():
        raise ValueError

    def rows():
        with pool.connect():
            yield 1

    generator = rows()
    next(generator)
    generator.close()
    assert database.opened[0].told == ["rollback", "rollback"]


def test_a_loan_within_the_handling_of_a_timeout_is_as_good_as_any(make_pool, database):
    """What was interrupted before it began says nothing about it."""
    pool = make_pool()
    try:
        raise gevent.Timeout(1)
    except gevent.Timeout:
        with pool.connect():
            pass
    assert database.opened[0].told == ["rollback"]


def test_a_loan_begun_while_an_error_is_handled_notices_its_interruption(
    make_pool, database
):
    """A later exception may have the address of the one that was handled then."""
    pool = make_pool()

    def use():
        try:
            raise KeyError("not in the cache")
        except KeyError:
            conn = pool.connect()
        try:
            raise gevent.Timeout(1)
        finally:
            conn.close()

    for _ in range(50):
        with pytest.raises(gevent.Timeout):
            use()
    assert [conn.told for conn in database.opened] == [["close"]] * 50


def test_an_interruption_behind_an_ordinary_error_is_noticed(make_pool, database):
    """Code that turns a time-out into an error of its own has not read the answer."""
    pool = make_pool()
    with pytest.raises(ValueError), pool.connect():
        try:
            raise gevent.Timeout(1)
        except gevent.Timeout:
            raise ValueError from None
    assert database.opened[0].told == ["close"]


def test_an_older_interruption_is_told_from_a_new_one(make_pool, database):
    """Both are being handled at the end; one of a class without weak references."""
    pool = make_pool()
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        with pytest.raises(ValueError), pool.connect():
            raise ValueError from None
        assert database.opened[0].told == ["rollback"]
        with pytest.raises(gevent.Timeout), pool.connect():
            raise gevent.Timeout(1) from None
    assert database.opened[0].told == ["rollback", "close"]


def test_errors_that_refer_to_each_other_in_a_circle_are_looked_at_once():
    """Such contexts are made by hand only, and must not hang anybody."""
    first, second = ValueError(), gevent.Timeout(1)
    first.__context__, second.__context__ = second, first
    try:
        raise first
    except ValueError:
        assert list(interruptions()) == [second]


def test_a_connection_for_the_stock_has_no_transaction_open(make_pool, database):
    """A listener that reads begins one, and the connection may be idle for long."""
    pool = make_pool(min_connections=1)
    parts.lifecycle(pool.core).housekeeping.ensure_reaper()
    turn()
    assert database.opened[0].told == ["commit"] and pool.checkedin() == 1


def test_a_failing_commit_costs_the_connection_for_the_stock(make_pool, monkeypatch):
    """Nobody else knows of it."""

    class Failing(Connection):
        def commit(self):
            made.append(self)
            raise ValueError

    made: list[Any] = []
    pool = make_pool(lambda: Failing(1), min_connections=1)
    parts.lifecycle(pool.core).housekeeping.ensure_reaper()
    turn()
    assert len(made) == 1 and pool.core.size == 0


def test_a_failing_listener_of_checkin_costs_the_connection_only(make_pool, database):
    """The place is free, and the error is the caller's."""
    pool = make_pool()
    conn = pool.connect()
    failures = [gevent.Timeout(1)]

    @event.listens_for(pool, "checkin")
    def checkin(dbapi_connection, record):
        if failures:
            raise failures.pop()

    with pytest.raises(gevent.Timeout):
        conn.close()
    assert pool.core.size == 0
    pool.connect().close()


def test_a_second_return_changes_nothing(make_pool):
    """SQLAlchemy warns, as ever."""
    pool = make_pool()
    conn = pool.connect()
    record = conn._connection_record
    conn.close()
    with pytest.warns(exc.SAWarning, match="Double checkin"):
        record.checkin()
    pool._do_return_conn(record)
    assert numbers(pool) == (1, 1, 0, 0) and record.dbapi_connection is not None


def test_any_greenlet_may_close_a_connection(make_pool):
    """As with QueuePool."""
    pool = make_pool()
    conn = pool.connect()
    gevent.spawn(conn.close).get()
    assert pool.checkedin() == 1


# What was not given back


def test_a_forgotten_connection_comes_back(make_pool, database):
    """Rolled back by a greenlet of the pool, with all its events."""
    pool = make_pool()
    seen = logged(pool, "reset", "checkin")
    conn = pool.connect()
    with switches() as seen_switches:
        del conn
    assert not seen_switches and database.opened[0].told == []
    turn()
    assert database.opened[0].told == ["rollback"] and seen == ["reset", "checkin"]
    assert numbers(pool) == (1, 1, 0, 0)


def test_a_forgotten_connection_goes_to_who_waits(make_pool):
    """The waiter need not do anything for it."""
    pool = make_pool()
    held = [pool.connect()]
    waiter = gevent.spawn(pool.connect)
    gevent.idle()
    held.clear()
    waiter.get(timeout=1).close()


def test_the_collector_may_run_in_the_hub(make_pool, database):
    """Nothing is sent from there."""
    pool = make_pool()
    held = [pool.connect()]
    gevent.get_hub().loop.run_callback(held.clear)
    turn()
    assert database.opened[0].told == ["rollback"]
    assert pool.checkedin() == 1


def test_the_collector_may_run_in_another_thread(make_pool, database):
    """The loop of the pool is told."""
    pool = make_pool()
    held = [pool.connect()]
    gevent.get_hub().threadpool.apply(held.clear)
    turn()
    assert database.opened[0].told == ["rollback"]
    assert pool.checkedin() == 1


def test_the_collector_may_run_after_the_loop(make_pool, monkeypatch):
    """A finalizer has nobody to raise an error to."""
    pool = make_pool()
    conn = pool.connect()
    with monkeypatch.context() as patch:
        patch.setattr(parts.home(pool.core), "hub", lambda: None)
        del conn
    gevent.idle()
    assert pool.checkedout() == 1
    (record,) = pool.core.lent_connections()
    pool.free_place(record)


def test_a_reset_of_a_forgotten_connection_has_its_time(make_pool, database, caplog):
    """What does not answer is closed, and its place is free."""
    pool = make_pool(timeouts=Timeouts(reset=0.01))
    conn = pool.connect()
    database.opened[0].rollback = Event().wait
    del conn
    pool.connect().close()
    assert len(database.now_open) == 1
    assert "Exception during reset" in caplog.text


def test_a_greenlet_that_ends_gives_back_what_it_holds(make_pool, database):
    """Even if somebody still refers to it: it is closed without a rollback."""
    pool = make_pool()
    kept = []
    gevent.spawn(lambda: kept.append(pool.connect())).join()
    turn()
    assert database.opened[0].told == ["close"]
    assert numbers(pool) == (1, 1, 0, 0)
    assert not kept[0].is_valid
    kept[0].close()
    pool.connect().close()


def test_a_greenlet_that_forgets_and_ends_well_costs_no_connection(make_pool, database):
    """It was not interrupted, and nobody has the connection any more."""
    pool = make_pool()
    gevent.spawn(lambda: bool(pool.connect())).get()
    turn()
    assert database.opened[0].told == ["rollback"]
    assert pool.checkedin() == 1


def hold(pool, ready):
    conn = pool.connect()
    ready.set()
    hang()
    conn.close()


def hold_and_forget(pool, ready):
    conn = pool.connect()
    ready.set()
    try:
        hang()
    finally:
        del conn


@pytest.mark.parametrize("hold", [hold, hold_and_forget])
@pytest.mark.parametrize("error", [gevent.GreenletExit, KeyError])
def test_what_an_interrupted_greenlet_forgot_is_not_kept(
    make_pool, database, hub_errors, error, hold
):
    """Whether it was killed or failed; and nothing is sent but the goodbye."""
    pool = make_pool()
    ready = Event()
    holder = gevent.spawn(hold, pool, ready)
    ready.wait()
    holder.kill(error)
    del holder
    turn()
    gc.collect()
    turn()
    assert database.opened[0].told == ["close"]
    assert pool.checkedin() == 1
    hub_errors.clear()


def test_a_helper_that_is_killed_before_it_begins_loses_nothing(make_pool, database):
    """Then the connection is dropped, and its place is free."""
    pool = make_pool()
    conn = pool.connect()
    del conn
    gevent.sleep(0)
    (helper,) = parts.running(pool.core)
    assert not helper.started or not database.opened[0].told
    helper.kill(block=False)
    pool.connect().close()
    assert len(database.opened) == 2


def test_a_raw_greenlet_that_was_interrupted(make_pool, database):
    """One that cannot tell how it ended is not trusted."""
    import greenlet

    pool = make_pool()
    hub = gevent.get_hub()
    caught = []

    def use():
        try:
            conn = pool.connect()
            caught.append(conn.is_valid)
        finally:
            conn = None

    raw = greenlet.greenlet(use, hub)
    hub.loop.run_callback(raw.switch)
    turn()
    assert raw.dead and caught == [True]
    assert database.opened[0].told == ["close"]
    assert pool.checkedin() == 1


def test_reclaim_can_be_turned_off(make_pool):
    """Then a connection is its borrower's until it is closed or collected."""
    pool = make_pool(reclaim=False)
    kept = gevent.spawn(pool.connect).get()
    turn()
    assert kept.is_valid and pool.checkedout() == 1
    kept.close()


def test_a_loan_can_be_transferred(make_pool):
    """It ends with its new holder, or with nobody."""
    pool = make_pool()

    def borrow(heir):
        conn = pool.connect()
        pool.transfer(conn, heir)
        return conn

    heir = gevent.getcurrent()
    for to in (heir, None):
        kept = gevent.spawn(borrow, to).get()
        turn()
        assert kept.is_valid
        kept.close()
    with pytest.raises(ConnectionNotFoundError):
        pool.core.transfer(object(), None)


# All at once


def test_dispose_closes_the_idle_ones_only(make_pool, database):
    """At once; what is on loan is kept when it comes back."""
    pool = make_pool(pool_size=2)
    idle, lent = pool.connect(), pool.connect()
    idle.close()
    pool.dispose()
    assert [conn.is_open for conn in database.opened] == [False, True]
    assert numbers(pool) == (2, 0, -2, 0)
    lent.close()
    assert numbers(pool) == (2, 1, -1, 0)
    again = pool.connect()
    assert again.dbapi_connection is database.opened[1]
    again.close()


def test_dispose_serves_who_waits(make_pool):
    """There is room again; QueuePool lets them sleep."""
    pool = make_pool()
    lent = pool.connect()
    waiter = gevent.spawn(pool.connect)
    gevent.idle()
    pool.dispose()
    served = waiter.get(timeout=1)
    lent.close()
    served.close()
    assert pool.checkedin() == 1


def test_what_comes_back_late_is_closed_if_it_is_too_much(make_pool, database):
    """The pool has filled up meanwhile."""
    pool = make_pool()
    late = pool.connect()
    pool.dispose()
    fresh = pool.connect()
    late.close()
    fresh.close()
    assert len(database.now_open) == 1 == pool.checkedin()


def test_forgotten_after_dispose(make_pool, database):
    """It comes back as any other."""
    pool = make_pool()
    conn = pool.connect()
    pool.dispose()
    del conn
    turn()
    assert database.opened[0].told == ["rollback"]
    assert pool.checkedin() == 1


class Striking(PoolListener):
    """Does something when a record is made."""

    def __init__(self, act):
        self.act = act

    def opened(self, conn, seconds):
        self.act()


def stop():
    raise gevent.GreenletExit


def test_a_listener_of_new_places_that_is_killed_costs_none(make_pool):
    """The borrower will never know of the place."""
    listener = Striking(stop)
    pool = make_pool(listeners=[listener])
    for _ in range(2):
        with pytest.raises(gevent.GreenletExit):
            pool.connect()
    listener.act = lambda: None
    pool.connect().close()


def test_a_place_is_not_taken_for_lost_while_its_listener_switches(make_pool):
    """Another greenlet looks for lost places then, after a kill of its own."""

    def look_for_lost_places():
        parts.ledger(pool.core).is_torn = True
        parts.lifecycle(pool.core).recover()

    pool = make_pool(listeners=[Striking(look_for_lost_places)])
    pool.connect().close()
    assert numbers(pool) == (1, 1, 0, 0)


@pytest.mark.parametrize("is_late", [False, True])
def test_a_listener_of_new_places_may_close_the_pool(make_pool, is_late):
    """Then nothing is lent, and what comes back late is not kept."""
    listener = Striking(lambda: None)
    pool = make_pool(listeners=[listener])
    late = pool.connect() if is_late else None
    if late is not None:
        pool.dispose()
    listener.act = lambda: pool.core.close(timeout=0)
    if late is None:
        with pytest.raises(PoolClosedError):
            pool.connect()
    else:
        late.close()
    assert pool.core.size == 0


def test_dispose_may_be_interrupted(make_pool, database):
    """The connection that was being closed is gone, the others stay."""
    pool = make_pool(pool_size=2)
    held = [pool.connect(), pool.connect()]
    for conn in held:
        conn.close()
    closing = database.opened[0]
    closing.close = Event().wait
    victim = gevent.spawn(pool.dispose)
    gevent.idle()
    victim.kill()
    (left,) = queue_of(pool).queue
    assert left.dbapi_connection is database.opened[1]
    assert pool.core.size == 1


def test_a_new_pool_has_the_arguments_of_the_old(make_pool, database):
    """All of them, ours included; nothing is opened."""
    counters = Counters()
    options = {
        "pool_size": 7,
        "max_overflow": 3,
        "timeout": 2.5,
        "use_lifo": True,
        "recycle": 99,
        "pre_ping": False,
        "logging_name": "mine",
        "max_waiting": 4,
        "max_lifetime": 60.0,
        "max_idle": 50.0,
        "ping_after": 9.0,
        "ping_interval": 8.0,
        "reap_interval": 7.0,
        "reclaim": False,
        "listeners": (counters,),
        "timeouts": Timeouts(reset=1.0),
        "outage": Outage(failures=2),
    }
    pool = make_pool(**options)
    new = pool.recreate()
    assert type(new) is GreenletPool and new._options == pool._options
    assert numbers(new) == numbers(pool)
    assert new.timeout() == 2.5 and new._recycle == 99 and queue_of(new).use_lifo
    assert new.core.name == "mine" and new._max_overflow == 3
    assert database.opened == []


def test_a_forgotten_pool_is_collected(database):
    """Nothing of ours keeps it, nor its connections."""
    pool = GreenletPool(database)
    pool.connect().close()
    seen = [weakref.ref(pool), weakref.ref(database.opened[0])]
    del pool
    database.opened.clear()
    gc.collect()
    assert [ref() for ref in seen] == [None, None]


# Invalidation, age, checks


def test_hard_invalidation_makes_room_for_a_new_connection(make_pool, database):
    """The record stays, without a connection, as with QueuePool."""
    pool = make_pool()
    conn = pool.connect()
    conn.invalidate()
    assert database.now_open == [] and numbers(pool) == (1, 1, 0, 0)
    with pool.connect() as again:
        assert again.dbapi_connection is database.opened[1]


def test_soft_invalidation_waits_for_the_next_loan(make_pool, database):
    """The borrower may finish."""
    pool = make_pool()
    conn = pool.connect()
    conn.invalidate(soft=True)
    conn.close()
    assert len(database.now_open) == 1
    pool.connect().close()
    assert [one.is_open for one in database.opened] == [False, True]


def test_detached_connections_are_no_longer_counted(make_pool, database):
    """Closing one closes it."""
    pool = make_pool()
    conn = pool.connect()
    conn.detach()
    pool.connect().close()
    conn.close()
    assert [one.is_open for one in database.opened] == [False, True]


def test_recycle_replaces_an_old_connection(make_pool, database, monkeypatch):
    """At its next loan, in the greenlet of the borrower."""
    pool = make_pool(recycle=60)
    pool.connect().close()
    (record,) = pool.core.idle_connections()
    record.starttime -= 61
    pool.connect().close()
    assert [one.is_open for one in database.opened] == [False, True]


def test_old_and_idle_connections_are_closed_while_nobody_asks(make_pool, database):
    """max_lifetime and max_idle, which QueuePool has not."""
    clock = Clock()
    for options in ({"max_lifetime": 60.0}, {"max_idle": 60.0}):
        pool = make_pool(**options)
        clock.rule(pool.core)
        pool.connect().close()
        clock.advance(61)
        pool.core.drop_expired()
        turn()
        assert database.now_open == [] and pool.core.size == 0


def test_a_minimum_is_kept_open(make_pool, database):
    """min_connections, connected in the background."""
    pool = make_pool(pool_size=3, min_connections=2)
    turn()
    assert len(database.now_open) == 2 == pool.checkedin()
    with pool.connect():
        pass
    assert len(database.now_open) == 2
    pool.dispose()
    turn()
    assert database.now_open == []


class Dialect:
    """As much of a dialect as a pool asks."""

    is_async = has_terminate = False
    name = "mysql"

    def __init__(self, answer=True):
        self.answer = answer
        self.pinged = []

    def do_rollback(self, conn):
        conn.rollback()

    def do_close(self, conn):
        conn.close()

    do_terminate = do_close

    def get_driver_connection(self, conn):
        return conn

    def _do_ping_w_event(self, conn):
        self.pinged.append(conn)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize("answer", [True, False, OSError("dead")])
def test_what_was_long_idle_is_pinged(make_pool, database, answer):
    """ping_after: as pool_pre_ping, but only after a while; a dead one is replaced."""
    dialect = Dialect(answer)
    pool = make_pool(ping_after=30, dialect=dialect)
    clock = Clock()
    clock.rule(pool.core)
    pool.connect().close()
    pool.connect().close()
    assert dialect.pinged == []
    clock.advance(31)
    pool.connect().close()
    assert dialect.pinged == [database.opened[0]]
    assert len(database.opened) == (1 if answer is True else 2)
    assert len(database.now_open) == 1


def test_an_unconnected_place_is_not_pinged(make_pool):
    """There is nobody at the other end."""
    dialect = Dialect()
    pool = make_pool(ping_after=30, dialect=dialect)
    clock = Clock()
    clock.rule(pool.core)
    pool.connect().invalidate()
    clock.advance(31)
    pool.connect().close()
    assert dialect.pinged == []


def test_pre_ping_is_sqlalchemys(make_pool, database):
    """A dead connection is replaced at its loan; a fresh one is not asked."""
    dialect = Dialect(answer=False)
    pool = make_pool(pre_ping=True, dialect=dialect)
    pool.connect().close()
    assert dialect.pinged == []
    pool.connect().close()
    assert dialect.pinged == [database.opened[0]]
    assert [one.is_open for one in database.opened] == [False, True]


@pytest.mark.parametrize("recycle", [0, 3600])
def test_pool_recycle_renews_old_connections_only(make_pool, database, recycle):
    """Not one that was made just now for the same borrower, as QueuePool does."""
    pool = make_pool(recycle=recycle)
    pool.connect().close()
    assert len(database.opened) == 1
    pool.connect().close()
    assert [one.is_open for one in database.opened] == ([True], [False, True])[
        recycle == 0
    ]


def test_a_renewed_connection_that_is_lost_at_once_is_made_again(make_pool, database):
    """What was chosen for a borrower is what the borrower gets, or a new one."""
    pool = make_pool()
    record = pool._do_get()
    record.invalidate()
    assert record.get_connection() is database.opened[1]
    pool._do_return_conn(record)


# Events, logs, listeners, threads


def test_events_come_in_queue_pools_order(make_pool, database):
    """For a whole life, with both pools."""
    names = (
        *("first_connect", "connect", "checkout", "reset", "checkin"),
        *("invalidate", "soft_invalidate", "close", "detach", "close_detached"),
    )
    stories = []
    for pool in (make_pool(), QueuePool(database, pool_size=1, max_overflow=0)):
        seen = logged(pool, *names)
        pool.connect().close()
        pool.connect().invalidate()
        conn = pool.connect()
        conn.invalidate(soft=True)
        conn.close()
        conn = pool.connect()
        conn.detach()
        conn.close()
        pool.connect().close()
        pool.dispose()
        stories.append(seen)
    assert stories[0] == stories[1]
    assert len(stories[0]) > 20


def test_its_log_is_under_sqlalchemys(make_pool, caplog):
    """echo, and getLogger("sqlalchemy.pool")."""
    with caplog.at_level(logging.DEBUG, "sqlalchemy.pool"):
        make_pool(logging_name="mine").connect().close()
    names = {record.name for record in caplog.records}
    assert names == {"sqlalchemy.pool.impl.GreenletPool.mine"}
    assert "checked out from pool" in caplog.text
    assert make_pool(echo="debug").logger.getEffectiveLevel() == logging.DEBUG


def test_listeners_and_stats(make_pool):
    """Those of the core pool, told of records."""
    counters = Counters()
    pool = make_pool(pool_size=2, listeners=(counters,))
    held = pool.connect()
    pool.connect().close()
    held.close()
    pool.dispose()
    counts = pool.stats().totals
    assert (counts.opened, counts.acquired, counts.released) == (2, 2, 2)
    assert sum(counts.closed.values()) == 2


def test_another_thread_is_refused(make_pool, hub_errors):
    """A pool belongs to one event loop."""
    pool = make_pool()
    pool.connect().close()
    with pytest.raises(RuntimeError, match="another thread"):
        gevent.get_hub().threadpool.apply(pool.connect)
    hub_errors.clear()


def test_an_asynchronous_dialect_keeps_its_own_ways(make_pool, database):
    """SQLAlchemy's own tests put one under a pool; its finalizer is left to it."""

    class Asynchronous(Dialect):
        is_async = True

    pool = make_pool()
    pool._dialect = Asynchronous()
    conn = pool.connect()
    with pytest.warns(exc.SAWarning, match="garbage collector"):
        del conn
    assert database.opened[0].told == []


def test_idle_records_can_be_taken_out(make_pool, database):
    """Through the queue that QueuePool has, which some code reaches into."""
    pool = make_pool(pool_size=2)
    held = [pool.connect(), pool.connect()]
    held[0].close()
    held[1].invalidate()
    queue_of(pool).queue = [one for one in queue_of(pool).queue if one.dbapi_connection]
    assert pool.checkedin() == 1 and not queue_of(pool).empty()


def test_what_comes_back_to_a_closed_pool_is_closed(make_pool, database):
    """A connection that was lent when its pool was replaced and closed."""
    pool = make_pool()
    held = pool.connect()
    pool.dispose()
    pool.core.close(timeout=0)
    held.close()
    gevent.idle()
    assert not database.now_open


def test_a_death_ends_only_loans_that_are_still_its_own(make_pool):
    """A stale note of a loan must not close what another greenlet has."""
    pool = make_pool()
    records = pool.core
    record = pool.connect()
    [entry] = parts.ledger(records).entries.values()
    holder = entry.holder
    record.close()
    again = pool.connect()
    holder.loan = entry  # type: ignore[union-attr]
    entry.holder = None
    parts.claims(records).holder_died(holder)  # type: ignore[arg-type]
    assert again.dbapi_connection is not None
    entry.holder, holder.loan = holder, entry  # type: ignore[union-attr]
    again.close()
