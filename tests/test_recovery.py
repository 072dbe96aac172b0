"""An exception in the pool's own code, wherever it strikes, loses no place."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import gevent
import pytest

from geventpool import (
    CloseReason,
    ConnectionNotFoundError,
    Counters,
    Pool,
    PoolClosedError,
    PoolExhaustedError,
)
from geventpool._core.holders import Holder
from geventpool._core.states import CHECKING, CLOSING, IDLE, IN_USE
from geventpool.testing import ScriptedConnector, both_orders, check, check_capacity
from tests import parts
from tests.event_loops import not_on_libuv
from tests.peers import run_script

#: So many of the deepest calls that the interpreter allows are tried.
DEPTHS = 80


def dive(depth: int, work: Callable[[], object]) -> object:
    """The result of *work*, called that many calls deeper."""
    return dive(depth - 1, work) if depth else work()


def made(is_unobserved: bool = True, **options: Any) -> Pool[Any]:
    """A pool with one place and one idle connection."""
    listeners = [] if is_unobserved else [Counters()]
    options = {"max_connections": 1, "listeners": listeners, **options}
    return Pool(ScriptedConnector(), initial_connections=1, **options)


def acquire(pool: Pool[Any]) -> None:
    pool.release(pool.acquire())


def acquire_unwatched(pool: Pool[Any]) -> None:
    pool.release(pool.acquire(reclaim=False))


def block(pool: Pool[Any]) -> None:
    with pool.connection():
        pass


def failed_block(pool: Pool[Any]) -> None:
    with pool.connection():
        raise ValueError


def drop(pool: Pool[Any]) -> None:
    pool.drop(pool.acquire())


def transfer(pool: Pool[Any]) -> None:
    conn = pool.acquire()
    pool.transfer(conn, gevent.getcurrent())
    pool.release(conn)


DEEDS = [acquire, acquire_unwatched, block, failed_block, drop, transfer]


@not_on_libuv("its run_callback() needs room on the stack as well")
def test_a_stack_overflow_at_any_depth_loses_no_place() -> None:
    """No waiter stays in line that does not wait, and each place can be lent."""
    # In a process of its own: an overflow ends the tracing that measures coverage.
    script = "from tests.test_recovery import overflow_everywhere as go; go()"
    assert run_script(script) == "done\n"


def overflow_everywhere() -> None:
    """Try each deed, for each state of the pool, with and without listeners."""
    for deed in DEEDS:
        for waits in (False, True, None):
            for is_unobserved in (True, False):
                overflow(deed, waits, is_unobserved)
    print("done")


def overflow(
    deed: Callable[[Pool[Any]], None], waits: bool | None, is_unobserved: bool
) -> None:
    """Let *deed* overflow the stack at each of the deepest calls.

    :param waits: for a connection that is in use; None: for one to be opened.
    """
    limit = sys.getrecursionlimit()
    overflows = 0

    def try_it(depth: int, pool: Pool[Any]) -> None:
        nonlocal overflows
        try:
            dive(depth, lambda: deed(pool))
        except RecursionError:
            overflows += 1
        except ValueError:
            pass

    for depth in range(limit - DEPTHS, limit):
        pool = made(is_unobserved)
        if waits is None:
            pool.drop(pool.idle_connections()[0])
            gevent.idle()
        if waits:
            held = pool.acquire()
        greenlet = gevent.spawn(try_it, depth, pool)
        gevent.idle()
        if waits:
            pool.release(held)
        greenlet.join()
        gevent.idle()
        assert not pool.stats().waiting, depth
        check(pool)
        check_capacity(pool)
        pool.close(timeout=0)
    assert 0 < overflows < DEPTHS


def test_an_interrupted_end_of_a_block_ends_the_loan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A block is left once; nobody could give its connection back later."""
    pool = made()
    with monkeypatch.context() as patch:
        patch.setattr(parts.connector(pool), "classify", interrupt)
        with pytest.raises(KeyboardInterrupt), pool.connection() as conn:
            raise ValueError
    gevent.idle()
    assert conn.end == "discarded"
    check_capacity(pool)


def test_an_interrupted_note_of_the_holder_ends_the_loan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The borrower never gets to know its connection."""
    pool = made()
    with monkeypatch.context() as patch:
        patch.setattr(parts.holders(pool), "register", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pool.acquire()
    gevent.idle()
    check_capacity(pool)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, gevent.Timeout])
@pytest.mark.parametrize("deed", [acquire, acquire_unwatched, block])
def test_an_interrupted_look_at_an_idle_connection_loses_no_place(
    deed: Callable[[Pool[Any]], None], error: type[BaseException]
) -> None:
    """The connection is not lent again, because nobody knows how far it came."""
    counters = Counters()
    for pool in made(), made(listeners=[counters]):
        (conn,) = pool.idle_connections()

        def interrupted(conn: Any) -> bool:
            raise error

        parts.connector(pool).is_usable = interrupted  # type: ignore[method-assign]
        parts.set_look(pool, interrupted)
        with pytest.raises(error):
            deed(pool)
        gevent.idle()
        parts.set_look(pool, None)
        check(pool)
        check_capacity(pool)
        assert conn.end == "discarded"
    assert sum(counters.snapshot().closed.values()) == 1


def result(work: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What *work* returns or raises, so that no error reaches the hub."""
    try:
        return work(*args, **options)
    except BaseException as error:
        return error


def interrupt(*args: Any) -> None:
    raise KeyboardInterrupt


def test_an_interrupted_release_ends_the_loan(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller need not try again: most cannot, being in a ``finally``."""
    for name in "end_loan_normally", "terminate":
        # With ages, a release is more than putting the connection back.
        pool = made(max_lifetime=60)
        conn = pool.acquire()
        with monkeypatch.context() as patch:
            patch.setattr(parts.lifecycle(pool), name, interrupt)
            with pytest.raises(KeyboardInterrupt):
                (pool.release if name == "end_loan_normally" else pool.drop)(conn)
        gevent.idle()
        assert conn.end == "discarded"
        check_capacity(pool)


def test_an_interrupted_release_in_a_helper_ends_the_loan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The long way, by which an adapter releases for anyone, is as safe."""
    pool = made()
    conn = pool.acquire()
    pool.transfer(conn, None)
    with monkeypatch.context() as patch:
        patch.setattr(parts.lifecycle(pool), "end_loan_normally", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pool.release(conn)
    gevent.idle()
    assert conn.end == "discarded"
    check_capacity(pool)


def test_what_was_interrupted_is_recovered_before_the_next_one_waits() -> None:
    """Even if the loop could not be told of it."""
    pool = made()
    conn = pool.acquire()
    (entry,) = parts.ledger(pool).entries.values()
    entry.holder = None
    parts.ledger(pool).is_torn = True
    assert pool.acquire(timeout=5) is not conn
    assert conn.end == "discarded"


def test_what_was_interrupted_is_recovered_while_somebody_waits() -> None:
    """A waiter that came before the interruption is served too."""
    pool = made()
    conn = pool.acquire()
    waiter = gevent.spawn(pool.acquire, timeout=5)
    gevent.idle()
    (entry,) = parts.ledger(pool).entries.values()
    entry.holder = None
    parts.ledger(pool).is_torn = True
    assert waiter.get() is not conn


@pytest.mark.parametrize("state", [IDLE, IN_USE, CHECKING, CLOSING])
def test_an_entry_that_is_where_it_belongs_is_left_there_unless_nobody_has_it(
    state: Any,
) -> None:
    """How far the handling came is seen by the state it left."""
    pool = made()
    ledger = parts.ledger(pool)
    (conn,) = pool.idle_connections()
    if state is IN_USE:
        assert pool.acquire() is conn
    (entry,) = ledger.entries.values()
    if state is CHECKING:
        assert ledger.take_idle() is entry
    if state is CLOSING:
        ledger.withdraw(entry, CLOSING)
    ledger.is_torn = True
    parts.lifecycle(pool).recover()
    if state in (IDLE, IN_USE):
        assert conn.end is None
    else:
        assert conn.end == "discarded" and pool.size == 0
    check(pool)


def test_an_idle_connection_that_could_not_be_queued_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody would be lent it: it is idle by its state alone."""
    pool = made(is_unobserved=False)
    conn = pool.acquire()

    def fail(entry: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(parts.ledger(pool), "make_idle", fail)
        with pytest.raises(MemoryError):
            pool.release(conn)
    gevent.idle()
    assert conn.end == "discarded" and pool.size == 0
    check_capacity(pool)


def test_an_interrupted_end_of_a_wait_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A killed waiter that was served already passes its connection on, or loses it."""
    pool = made()
    conn = pool.acquire()
    waiter = gevent.spawn(result, pool.acquire)
    gevent.idle()
    waiter.kill(ValueError(), block=False)
    pool.release(conn)
    with monkeypatch.context() as patch:
        patch.setattr(parts.lifecycle(pool), "assign", interrupt)
        assert isinstance(waiter.get(), KeyboardInterrupt)
    gevent.idle()
    assert conn.end == "discarded" and not pool.stats().waiting
    check_capacity(pool)


def test_an_interrupted_step_out_of_the_line_leaves_no_waiter_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing was handed over, so nothing is to be passed on."""
    pool = made()
    conn = pool.acquire()
    waiter = gevent.spawn(result, pool.acquire)
    gevent.idle()
    with monkeypatch.context() as patch:
        patch.setattr(parts.wait_timers(pool), "stop_if_unused", interrupt)
        waiter.kill(ValueError(), block=False)
        assert isinstance(waiter.get(), KeyboardInterrupt)
    assert not pool.stats().waiting
    pool.release(conn)
    check_capacity(pool)


# A hand-over that meets something else.


@pytest.mark.parametrize("is_block", [False, True])
@pytest.mark.parametrize("event", ["close", "fork"])
def test_who_was_served_before_a_close_or_a_fork_gets_no_closed_connection(
    event: str, is_block: bool
) -> None:
    """Both in one turn of the loop; in the child of a fork nothing is the parent's."""
    for order in (0, 1):
        pool = made()
        conn = pool.acquire()

        def wait() -> None:
            if is_block:
                with pool.connection():
                    raise AssertionError("lent")
            pool.acquire()

        waiter = gevent.spawn(result, wait)
        gevent.idle()
        end: partial[Any] = partial(parts.forked, pool)
        if event != "fork":
            end = partial(pool.close, timeout=0)
        turn = list(both_orders(lambda: pool.release(conn), end))[order]
        if event == "fork" and order:
            with pytest.raises(ConnectionNotFoundError):
                turn()
            # Its copy in the child waits forever.
            waiter.kill()
        else:
            turn()
            text = "closed" if event == "close" else "began anew in a forked child"
            assert isinstance(waiter.get(), PoolClosedError)
            assert text in str(waiter.get())
        assert conn.end is not None and pool.size == 0
        check(pool)
        if event == "fork":
            check_capacity(pool)


def test_who_was_served_before_a_close_and_then_killed_closes_nothing_twice() -> None:
    """What the close took away is not passed on."""
    pool = made()
    conn = pool.acquire()
    waiter = gevent.spawn(result, pool.acquire)
    gevent.idle()
    waiter.kill(ValueError(), block=False)
    pool.release(conn)
    pool.close(timeout=0)
    assert isinstance(waiter.get(), ValueError)
    assert pool.size == 0
    check(pool)


def test_a_second_release_does_not_end_the_loan_of_a_waiter_that_has_not_run() -> None:
    """Else one connection would have two borrowers."""
    pool = made(max_connections=1)
    conn = pool.acquire()
    waiters = [gevent.spawn(pool.acquire, reclaim=False) for _ in range(2)]
    gevent.idle()
    pool.release(conn)
    for end in pool.release, pool.drop:
        with pytest.raises(ConnectionNotFoundError, match="given back before"):
            end(conn, anyone=True)
    gevent.idle()
    assert waiters[0].value is conn and waiters[1].value is None
    pool.release(conn)
    assert waiters[1].get() is conn


def test_a_block_that_waits_is_in_use() -> None:
    """One block in two greenlets would give back what the other one uses."""
    pool = made()
    conn = pool.acquire()
    block = pool.connection(timeout=0.01)

    def enter() -> Any:
        with block as got:
            return got

    first = gevent.spawn(result, enter)
    gevent.idle()
    with pytest.raises(RuntimeError, match="this block is in use"):
        enter()
    assert isinstance(first.get(), PoolExhaustedError)
    pool.release(conn)
    assert enter() is conn


# Terminating what somebody else may be using.


def test_a_connection_of_another_greenlet_is_closed_in_a_turn_of_its_own() -> None:
    """The caller may be a finaliser, within which libev bears no closed descriptor."""
    counters = Counters()
    for pool in made(), made(listeners=[counters]):
        conn = pool.acquire()
        pool.transfer(conn, None)
        waiter = gevent.spawn(pool.acquire, reclaim=False)
        gevent.idle()
        pool.drop(conn)
        assert conn.end is None and pool.size == 1
        check(pool)
        assert waiter.get() is not conn
        assert conn.end == "discarded"
    assert counters.snapshot().closed == {CloseReason.DROPPED: 1}


def test_a_close_does_not_wait_for_the_turn_of_a_dropped_connection() -> None:
    """It is closed once, by whichever comes first."""
    pool = made()
    conn = pool.acquire()
    pool.transfer(conn, None)
    pool.drop(conn)
    pool.close(timeout=0)
    assert conn.end == "discarded" and pool.size == 0
    gevent.idle()
    check(pool)


@pytest.mark.parametrize("reclaim", [True, False])
def test_an_interruption_of_the_look_at_an_idle_connection_costs_no_place(reclaim):
    """A signal may arrive while the pool asks whether the connection is usable."""

    class Interrupted(ScriptedConnector):
        signals = 0

        def is_usable(self, conn):
            if self.signals:
                self.signals -= 1
                raise KeyboardInterrupt
            return True

    connector = Interrupted()
    pool = Pool(connector, max_connections=1, timeout=5)
    pool.release(pool.acquire())
    connector.signals = 1
    with pytest.raises(KeyboardInterrupt):
        pool.acquire(reclaim=reclaim)
    gevent.idle()
    check(pool)
    check_capacity(pool)


def test_a_waiter_whose_stack_overflows_leaves_the_pool_whole() -> None:
    """What was under way at such an error is unknown, so the pool looks for itself."""
    pool = made()
    conn = pool.acquire()
    waiter = gevent.spawn(result, pool.acquire)
    gevent.idle()
    waiter.kill(MemoryError(), block=False)
    assert isinstance(waiter.get(), MemoryError)
    gevent.idle()
    assert not parts.ledger(pool).is_torn
    pool.release(conn)
    check_capacity(pool)


def test_an_interruption_right_after_a_wait_loses_no_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The waiter has left the line and has a connection, but nobody has it yet."""
    pool = made()
    conn = pool.acquire()
    waiter = gevent.spawn(result, pool.acquire)
    gevent.idle()
    with monkeypatch.context() as patch:
        patch.setattr(parts.wait_timers(pool), "stop_if_unused", interrupt)
        pool.release(conn)
        assert isinstance(waiter.get(), KeyboardInterrupt)
    gevent.idle()
    check_capacity(pool)


def test_a_block_of_changes_that_was_interrupted_is_ended_by_the_recovery() -> None:
    """Its events are delivered, and later ones are not held back without limit."""
    pool = made(is_unobserved=False)
    listeners = parts.lifecycle(pool).listeners
    listeners.hold()
    listeners.hold()
    parts.ledger(pool).is_torn = True
    parts.lifecycle(pool).recover()
    before = pool.stats().totals
    acquire(pool)
    after = pool.stats().totals
    assert before is not None and after is not None
    assert after.acquired == before.acquired + 1


def test_a_death_ends_only_loans_that_are_still_its_own() -> None:
    """A stale note of a loan must not close what another greenlet has."""
    pool = made()
    conn = pool.acquire()
    holder = parts.ledger(pool).entries[id(conn)].holder
    assert isinstance(holder, Holder)
    pool.release(conn)
    with pool.connection() as again:
        assert again is conn
        holder.loan = parts.ledger(pool).entries[id(conn)]
        parts.claims(pool).holder_died(holder)
        assert again.end is None
    holder.loan = None


@pytest.mark.parametrize("borrow", [acquire, block])
def test_a_signal_handler_that_raises_costs_no_place(
    borrow: Callable[[Pool[Any]], None],
) -> None:
    """Nothing has the entry that was just taken; it is found by the recovery."""
    with made() as pool:
        # The first loan of a greenlet takes another path.
        borrow(pool)
        parts.interrupt_taking(pool, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            borrow(pool)
        gevent.idle()
        check(pool)
        check_capacity(pool)


def test_a_block_that_nothing_can_end_is_ended_while_somebody_waits() -> None:
    """A signal handler raised before the first line of its ``__exit__``."""
    with made() as pool:
        conn = pool.connection().__enter__()
        assert pool.acquire(timeout=5) is not conn
        assert conn.end == "discarded"
        check(pool)


def test_a_block_that_is_kept_is_not_ended_whoever_has_entered_it() -> None:
    """An ``ExitStack`` can be closed by another greenlet."""
    with made() as pool:
        blocks = gevent.spawn(entered, pool).get()
        waiter = gevent.spawn(pool.acquire, timeout=5)
        gevent.idle()
        assert parts.lifecycle(pool).recovery.attend()
        assert not waiter.dead
        blocks.close()
        assert waiter.get().end is None


def entered(pool: Pool[Any]) -> ExitStack:
    """A stack of one block."""
    blocks = ExitStack()
    blocks.enter_context(pool.connection())
    return blocks
