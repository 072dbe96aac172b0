"""The line: who is served, in which order, and by what."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event
from gevent.monkey import get_original

from geventpool import (
    Backoff,
    Pool,
    PoolDeadlockError,
    PoolExhaustedError,
    PoolListener,
    TooManyWaitingError,
)
from geventpool.testing import Clock, ScriptedConnector, both_orders, check
from tests import parts

hold_the_hub = get_original("time", "sleep")


def make(connector=None, **options):
    options.setdefault("max_connections", 1)
    return Pool(connector or ScriptedConnector(), name="test", **options)


def test_first_come_first_served():
    """Waiters are served in the order of their arrival."""
    pool = make()
    conn = pool.acquire()
    served = []

    def wait(number):
        with pool.connection():
            served.append(number)

    waiters = [gevent.spawn(wait, number) for number in range(20)]
    gevent.idle()
    assert pool.stats().waiting == 20
    pool.release(conn)
    gevent.joinall(waiters)
    assert served == list(range(20))


def test_a_waiter_is_served_before_a_newcomer():
    """Release and acquire without a switch between gets the end of the line."""
    pool = make()
    conn = pool.acquire()
    waiter = gevent.spawn(pool.acquire)
    gevent.idle()
    pool.release(conn)
    with pytest.raises(PoolExhaustedError):
        pool.acquire(timeout=0)
    assert waiter.get() is conn


def test_a_greedy_greenlet_gets_no_more_than_the_others():
    """A borrower that borrows again at once takes turns with the waiters."""
    pool = make()
    turns = {name: 0 for name in "abc"}

    def work(name):
        for _ in range(100):
            with pool.connection():
                turns[name] += 1
                gevent.sleep(0)

    greenlets = [gevent.spawn(work, name) for name in turns]
    while min(turns.values()) < 20:
        gevent.sleep(0)
    assert max(turns.values()) - min(turns.values()) <= 1
    gevent.killall(greenlets)


def test_a_waiter_who_gives_up_leaves_the_line():
    """No waiter is served after it has left."""
    pool = make()
    conn = pool.acquire()
    gone = gevent.spawn(pool.acquire)
    waiter = gevent.spawn(pool.acquire)
    gevent.idle()
    gone.kill()
    assert pool.stats().waiting == 1
    pool.release(conn)
    assert waiter.get() is conn


@pytest.mark.parametrize("error", [gevent.GreenletExit, gevent.Timeout, ValueError])
def test_handover_and_interruption_in_one_turn_lose_nothing(error):
    """Either the waiter has the connection, or the next in line gets it."""
    for order in range(2):
        pool = make()
        conn = pool.acquire()
        outcome = []

        def wait():
            try:
                with pool.connection():
                    outcome.append("served")
                    gevent.sleep(0)
            except BaseException as raised:
                outcome.append(type(raised))  # type: ignore[arg-type]

        victim = gevent.spawn(wait)
        following = gevent.spawn(pool.acquire)
        gevent.idle()
        turn = list(
            both_orders(
                lambda: pool.release(conn),
                lambda: victim.kill(error(), block=False),
            )
        )[order]
        turn()
        got = following.get()
        assert outcome == (["served", error] if order == 0 else [error])
        assert (got is conn) is (order == 1)
        pool.drop(got)
        check(pool)
        pool.close()


def test_holder_and_first_waiter_killed_together_do_not_strand_the_next():
    """A wake-up cannot be lost with the one it was for."""
    pool = make()

    def hold():
        with pool.connection():
            gevent.get_hub().switch()

    greenlets = [gevent.spawn(hold), gevent.spawn(hold)]
    gevent.idle()
    last = gevent.spawn(pool.acquire)
    gevent.idle()
    gevent.killall(greenlets)
    assert last.get().number == 2


def test_a_time_out_and_a_release_in_one_turn_serve_the_waiter():
    """Delivery wins over the waiter's own deadline."""
    pool = make()
    conn = pool.acquire()
    waiter = gevent.spawn(pool.acquire, timeout=0.001)
    gevent.idle()
    # The loop is held until the deadline is over; then the release comes first.
    hold_the_hub(0.005)
    pool.release(conn)
    assert waiter.get() is conn


def test_no_connection_in_time_is_an_error_that_tells_why():
    """Counts, holders and the line each holder stands on."""
    pool = make()

    def keep():
        with pool.connection():
            gevent.get_hub().switch()

    keeper = gevent.spawn(keep)
    gevent.idle()
    with pytest.raises(PoolExhaustedError) as caught:
        pool.acquire(timeout=0.01)
    message = str(caught.value)
    assert "Pool 'test' exhausted: no connection within 0.0 s" in message
    assert "(1/1: 0 idle, 1 in use, 0 opening, 0 closing, 0 waiting)" in message
    assert "held by <Greenlet" in message and "in keep" in message
    assert caught.value.__cause__ is None
    keeper.kill()


def test_an_exhausted_pool_blames_a_blocked_hub(hub_errors):
    """A time-out caused by a busy event loop is told from a small pool."""
    pool = make()
    conn = pool.acquire()
    waiter = gevent.spawn(pool.acquire, timeout=0.05)
    gevent.sleep(0)
    hold_the_hub(0.4)
    with pytest.raises(PoolExhaustedError, match="hub was blocked for 0.[34] s"):
        waiter.get()
    hub_errors.clear()
    pool.release(conn)


def test_time_out_zero_does_not_wait_but_has_a_connection_opened():
    """The next one who tries finds it."""
    pool = make()
    with pytest.raises(PoolExhaustedError):
        pool.acquire(timeout=0)
    gevent.idle()
    with pool.connection(timeout=0) as conn:
        assert conn.number == 1


def test_in_the_hub_nothing_is_waited_for():
    """An acquire in a hub callback is served at once, or refused."""
    pool = make()
    outcome = []

    def callback():
        try:
            outcome.append(pool.acquire())
        except PoolExhaustedError as error:
            outcome.append(error)

    run = gevent.get_hub().loop.run_callback
    run(callback)
    gevent.idle()
    run(callback)
    gevent.idle()
    assert isinstance(outcome[0], PoolExhaustedError)
    assert outcome[1].number == 1


def test_a_short_deadline_does_not_abort_an_opening():
    """A connection slower to open than any caller's patience is made all the same."""
    gate = Event()
    connector = ScriptedConnector(open=[gate])
    pool = make(connector)
    with pytest.raises(PoolExhaustedError):
        pool.acquire(timeout=0.001)
    follower = gevent.spawn(pool.acquire)
    gevent.idle()
    gate.set()
    assert follower.get().number == 1
    assert connector.peak == 1


def test_a_returned_connection_serves_a_waiter_before_his_own_is_open():
    """Whichever comes first."""
    gate = Event()
    connector = ScriptedConnector(open=[None, gate])
    pool = make(connector, max_connections=2)
    conn = pool.acquire()
    waiter = gevent.spawn(pool.acquire)
    gevent.idle()
    assert connector.opening == 1
    pool.release(conn)
    assert waiter.get() is conn
    gate.set()
    gevent.idle()
    assert pool.stats().idle == 1


def test_the_line_has_a_limit():
    """One too many is refused at once, before joining."""
    pool = make(max_waiting=1)
    conn = pool.acquire()
    waiter = gevent.spawn(pool.acquire)
    gevent.idle()
    with pytest.raises(TooManyWaitingError, match="max_waiting is reached"):
        pool.acquire()
    assert pool.stats().waiting == 1
    pool.release(conn)
    assert waiter.get() is conn


def test_a_pool_without_time_out_waits_for_as_long_as_it_takes():
    """None is no limit."""
    pool = make(timeout=None)
    conn = pool.acquire()
    waiter = gevent.spawn(pool.acquire)
    gevent.idle()
    pool.release(conn)
    assert waiter.get() is conn


def test_retries_bound_the_wait_by_the_pauses_they_would_have_been():
    """The line is not polled, so a number of tries means a time."""
    pool = make(backoff=Backoff(0.001, factor=1, jitter=0))
    conn = pool.acquire()
    for retry in (0, 3):
        with pytest.raises(PoolExhaustedError):
            pool.acquire(retry=retry)
    parts.line(pool).timeout = None
    with pytest.raises(PoolExhaustedError):
        pool.acquire(retry=3)
    pool.release(conn)


def test_a_nested_acquire_of_the_last_connection_is_a_deadlock():
    """The greenlet that would wait for itself is told at once."""
    pool = make()
    with pool.connection():
        with pytest.raises(PoolDeadlockError, match="held by greenlets that wait"):
            pool.acquire()
        assert pool.stats().waiting == 0


def test_a_circle_of_holders_is_broken_in_the_one_who_would_close_it():
    """With every holder in line, the newest waiter is refused; the others go on."""
    pool = make(max_connections=2)
    refused = []

    def nest():
        with pool.connection():
            gevent.sleep(0)
            try:
                with pool.connection():
                    pass
            except PoolDeadlockError:
                refused.append(gevent.getcurrent())

    both = [gevent.spawn(nest), gevent.spawn(nest)]
    gevent.joinall(both)
    assert refused == both[1:]
    assert all(greenlet.successful() for greenlet in both)
    check(pool)


def test_no_deadlock_is_seen_while_one_holder_is_free():
    """Somebody who does not wait here may still give back."""
    pool = make(max_connections=2)
    free = pool.acquire()

    def nest():
        with pool.connection():
            with pool.connection():
                pass

    nested = gevent.spawn(nest)
    gevent.idle()
    assert pool.stats().waiting == 1
    pool.release(free)
    nested.get()


def test_a_wait_that_can_never_end_leaves_no_trace():
    """A LoopExit takes its waiter out of the line."""
    import subprocess
    import sys

    code = """if True:
        import gevent
        from geventpool import Pool, Connector
        class C(Connector):
            def open(self): return object()
            def close(self, conn): pass
        pool = Pool(C(), max_connections=1, timeout=None)
        other = gevent.spawn(pool.acquire, reclaim=False); other.join()
        try:
            pool.acquire()
        except gevent.exceptions.LoopExit:
            print(pool.stats().waiting)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "0\n", done.stderr


def test_time_is_read_from_one_clock():
    """A pool whose clock stands still measures nothing."""
    pool = make()
    clock = Clock()
    clock.rule(pool)
    with pool.connection():
        clock.advance(5)
        (loan,) = pool.loans()
        assert loan.seconds == 5


def test_a_block_on_an_idle_connection_counts_from_its_own_beginning():
    """The age of a loan is not that of the loan before it."""
    pool = make()
    clock = Clock()
    clock.rule(pool)
    with pool.connection():
        pass
    clock.advance(100)
    with pool.connection():
        clock.advance(5)
        (loan,) = pool.loans()
        assert loan.seconds == 5


def test_a_listener_hears_of_the_wait_by_the_pools_clock():
    """The seconds of "acquired" are those of the clock that ages everything else."""
    waits = []

    class Ear(PoolListener):
        def acquired(self, conn, waited):
            waits.append(waited)

    pool = make(listeners=[Ear()])
    clock = Clock()
    clock.rule(pool)
    conn = pool.acquire()
    waiter = gevent.spawn(pool.acquire, reclaim=False)
    gevent.idle()
    clock.advance(7)
    pool.release(conn)
    waiter.get()
    assert waits == [0, 7]


@pytest.mark.parametrize(
    ("retry", "timeout", "pause"), [(3, 0.001, 100), (1, 100, 0.001)]
)
def test_whichever_of_retry_and_timeout_ends_first_counts(retry, timeout, pause):
    """The other one would have the waiter stand in line for minutes."""
    pool = make(backoff=Backoff(pause, factor=1, maximum=pause, jitter=0))
    gevent.spawn(pool.acquire, reclaim=False).join()
    with gevent.Timeout(5), pytest.raises(PoolExhaustedError):
        pool.acquire(retry=retry, timeout=timeout)


def test_a_block_right_before_the_refusal_is_told():
    """Blocked time counts before the next beat has noted it."""
    pool = make()
    clock = Clock()
    clock.rule(pool)
    pool.acquire()

    def wait():
        with pytest.raises(PoolExhaustedError, match="hub was blocked for (2.9|3.0) s"):
            pool.acquire(timeout=0.001)

    waiter = gevent.spawn(wait)
    gevent.sleep(0)
    clock.advance(3)
    waiter.get()


def test_a_loan_that_was_handed_over_counts_from_the_hand_over():
    """Its age is not that of the loan of the holder before."""
    pool = make()
    clock = Clock()
    clock.rule(pool)
    conn = pool.acquire()
    waiter = gevent.spawn(pool.acquire, reclaim=False)
    gevent.idle()
    clock.advance(100)
    pool.release(conn)
    waiter.join()
    clock.advance(5)
    (loan,) = pool.loans()
    assert loan.seconds == 5
