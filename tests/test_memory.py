"""What nobody remembers goes; what is used for long does not grow."""

from __future__ import annotations

import gc
import subprocess
import sys
import types
import weakref
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import gevent
import greenlet
import pytest
from gevent.event import Event

from geventpool import Pool, PoolExhaustedError, TcpConnection
from geventpool._core.holders import Holders
from geventpool._core.pool_parts import PoolParts
from geventpool.testing import (
    ScriptedConnection,
    ScriptedConnector,
    check,
    check_capacity,
    sweep,
)
from tests import parts
from tests.peers import Echo


def settle() -> None:
    """Let everything end that has ended, and collect it."""
    for _ in range(3):
        gevent.idle()
        gc.collect()


# A forgotten pool.


def test_a_forgotten_pool_is_collected_and_its_idle_sockets_are_closed() -> None:
    """The oracle is the server, which sees them go."""
    with Echo() as echo:
        pool = Pool(TcpConnection, echo.options, initial_connections=3)
        with pool.connection() as conn:
            conn.send(b"x")
            assert conn.recv() == b"x"
        forgotten = weakref.ref(pool)
        del pool
        settle()
        assert forgotten() is None
        echo.wait_open(0)


def test_a_forgotten_pool_leaves_its_borrowers_alone() -> None:
    """What is lent is the borrower's, and stays open as long as it wants."""
    with Echo() as echo:
        pool = Pool(TcpConnection, echo.options, initial_connections=2)
        conn = pool.acquire()
        forgotten = weakref.ref(pool)
        del pool
        settle()
        assert forgotten() is None
        echo.wait_open(1)
        conn.send(b"still mine")
        assert conn.recv() == b"still mine"
        conn.close()
        echo.wait_open(0)


@pytest.mark.parametrize("state", ["opening", "checking", "resetting", "closing"])
def test_what_a_forgotten_pool_was_at_is_let_go(state: str) -> None:
    """A connection that its greenlets have at that moment is not left open."""
    done = Event()
    verbs = dict(opening="open", checking="ping", resetting="reset", closing="close")
    connector = ScriptedConnector(**{verbs[state]: [done]})  # type: ignore[arg-type]
    minimum = 1 if state == "opening" else 0
    pool = Pool(connector, min_connections=minimum, ping_interval=0)
    if state != "opening":
        conn = pool.acquire()
        conn.needs_reset = state == "resetting"
        pool.release(conn)
    if state == "closing":
        pool.drop(conn)
    if state == "checking":
        sweep(pool)
    gevent.idle()
    assert getattr(pool.stats(), state) == 1
    del pool
    settle()
    done.set()
    settle()
    assert [conn.end is None for conn in connector.opened] == [False]


def test_a_connection_that_cannot_be_let_go_does_not_hinder_the_collector() -> None:
    """A finaliser raises nothing, and goes on with the next connection."""
    connector = ScriptedConnector()
    pool = Pool(connector, initial_connections=2)
    first, second = pool.idle_connections()
    terminate = connector.terminate

    def fail(conn: ScriptedConnection) -> None:
        if conn is first:
            raise OSError
        terminate(conn)

    connector.terminate = fail  # type: ignore[method-assign]
    del pool
    settle()
    assert second.end == "discarded"


def test_a_finalizer_raises_nothing_at_the_end_of_the_interpreter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it needs may be gone then. At any other time an error is a mistake."""
    pool = Pool(ScriptedConnector())

    def fail(self: PoolParts[Any]) -> None:
        raise AttributeError

    with monkeypatch.context() as patch:
        patch.setattr(PoolParts, "let_go", fail)
        pool.__del__(lambda: True)
        with pytest.raises(AttributeError):
            pool.__del__(lambda: False)


def test_a_pool_that_was_never_made_can_be_collected() -> None:
    """The finaliser runs also when a bad argument ended the constructor."""
    with pytest.raises(TypeError):
        Pool(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        Pool(ScriptedConnector(), max_connections=0)
    settle()


def test_a_pool_somebody_waits_for_is_not_forgotten() -> None:
    """A borrower in a block keeps the pool as long as it needs it."""
    connector = ScriptedConnector()
    done = Event()

    def borrow(pool: Pool[Any]) -> None:
        with pool.connection():
            del pool
            done.wait()

    pool = Pool(connector, initial_connections=1)
    borrower = gevent.spawn(borrow, pool)
    gevent.idle()
    del pool
    settle()
    assert connector.opened[0].end is None
    done.set()
    borrower.get()
    del borrower
    settle()
    assert connector.opened[0].end == "discarded"


def test_a_closed_pool_is_collected() -> None:
    """Nothing of it lives on in the loop."""
    pool = Pool(ScriptedConnector(), initial_connections=2)
    pool.close()
    forgotten = weakref.ref(pool)
    del pool
    settle()
    assert forgotten() is None


def test_a_process_that_ends_with_open_pools_says_nothing() -> None:
    """No pool has to be closed for the interpreter to end in peace."""
    with Echo() as echo:
        script = f"""
import gevent
from geventpool import Pool, TcpConnection
from geventpool.testing import ScriptedConnector
idle = Pool(TcpConnection, {echo.options!r}, 2)
used = Pool(TcpConnection, {echo.options!r}, 1, ping_interval=1)
lent = used.acquire()
waiting = Pool(ScriptedConnector(), max_connections=1, timeout=None)
waiting.acquire()
waiter = gevent.spawn(waiting.acquire)
gevent.idle()
print("the end")
"""
        assert silent(script) == "the end\n"
        echo.wait_open(0)


def test_a_pool_that_outlives_the_modules_says_nothing() -> None:
    """Its finalizer cannot use them any more, and the system closes the sockets."""
    with Echo() as echo:
        script = f"""
import greenlet
from geventpool import Pool, TcpConnection
# A module that is cleared after those of this package.
greenlet.pool = Pool(TcpConnection, {echo.options!r}, 2)
"""
        assert silent(script) == ""
        echo.wait_open(0)


def silent(script: str) -> str:
    """All that a process has printed on either channel, to its very end."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    return done.stdout


# A forgotten loan.


def parked(pool: Pool[Any]) -> greenlet.greenlet:
    """A greenlet that borrowed, and now stands where only its parent can wake it."""

    def borrow() -> None:
        pool.acquire()
        greenlet.getcurrent().parent.switch()  # type: ignore[union-attr]

    sleeper = greenlet.greenlet(borrow)
    sleeper.switch()
    return sleeper


def test_the_collection_of_a_greenlet_gives_its_place_back() -> None:
    """A greenlet that nothing can wake any more holds no connection."""
    connector = ScriptedConnector()
    pool = Pool(connector, max_connections=1, initial_connections=1)
    sleeper = parked(pool)
    settle()
    assert pool.stats().in_use == 1
    del sleeper
    settle()
    assert connector.opened[0].end == "discarded"
    check_capacity(pool)


def test_a_collected_holder_lets_the_next_in_line_in() -> None:
    """Nobody sleeps beside the place of somebody who is no more."""
    connector = ScriptedConnector()
    pool = Pool(connector, max_connections=1, initial_connections=1)
    sleepers = [parked(pool)]
    waiter = gevent.spawn(pool.acquire, reclaim=False)
    gevent.idle()
    assert not waiter.dead
    sleepers.clear()
    settle()
    assert waiter.get() is connector.opened[1]


def raw(work: Callable[[], object]) -> greenlet.greenlet:
    """A greenlet without links that has done its work."""
    done = greenlet.greenlet(work)
    done.switch()
    return done


def test_a_dead_greenlet_without_links_is_found_by_a_sweep() -> None:
    """Though somebody remembers it, and nothing told of its end."""
    connector = ScriptedConnector()
    pool = Pool(connector, max_connections=1, initial_connections=1)
    dead = raw(pool.acquire)
    gevent.idle()
    assert dead.dead and pool.stats().in_use == 1
    sweep(pool)
    assert connector.opened[0].end == "discarded"
    check_capacity(pool)


def test_a_greenlet_never_started_can_be_forgotten_as_a_holder() -> None:
    """A loan made over to a greenlet that is killed before it begins comes back."""
    connector = ScriptedConnector()
    pool = Pool(connector, max_connections=1)
    heir = gevent.Greenlet(lambda: None)
    pool.transfer(pool.acquire(), heir)
    heir.kill(block=False)
    gevent.idle()
    assert connector.opened[0].end == "discarded"
    check_capacity(pool)


def test_a_loan_is_not_lost_to_a_dead_greenlets_address() -> None:
    """A new greenlet at the address of a dead one is not taken for it."""
    pool = Pool(ScriptedConnector(), max_connections=2, initial_connections=2)
    borrowed: list[ScriptedConnection] = []

    def borrow_and_park() -> None:
        borrowed.append(pool.acquire())
        greenlet.getcurrent().parent.switch()  # type: ignore[union-attr]

    address = id(raw(lambda: pool.release(pool.acquire())))
    others = []
    for _ in range(1000):
        heir = greenlet.greenlet(borrow_and_park)
        if id(heir) == address:
            break
        others.append(heir)
    else:
        raise AssertionError("the address was not used again")
    # All within one turn of the loop.
    heir.switch()
    settle()
    assert borrowed[0].end is None
    assert pool.lent_connections() == borrowed
    check(pool)


# No growth.


def test_greenlets_that_ended_are_not_remembered() -> None:
    """Thousands of short borrowers leave nothing behind."""
    pool = Pool(ScriptedConnector(), max_connections=3)

    def borrow(badly: bool) -> None:
        conn = pool.acquire()
        if not badly:
            pool.release(conn)

    for number in range(500):
        gevent.spawn(borrow, number % 10 == 0).join()
    pool.release(pool.acquire())
    settle()
    assert len(parts.holders(pool).by_id) == 1
    check_capacity(pool)


def links_to(holders: Holders) -> int:
    """How many links of greenlets lead there."""
    return sum(
        type(thing) is types.MethodType and thing.__self__ is holders
        for thing in gc.get_objects()
    )


def test_a_long_lived_greenlet_is_linked_once() -> None:
    """However often it borrows."""
    pool = Pool(ScriptedConnector(), max_connections=3)
    counts: list[int] = []

    def work() -> None:
        for _ in range(3):
            for _ in range(50):
                conns = [pool.acquire(), pool.acquire()]
                for conn in conns:
                    pool.release(conn)
            counts.append(links_to(parts.holders(pool)))

    gevent.spawn(work).get()
    assert counts[0] == counts[1] == counts[2]
    settle()
    assert links_to(parts.holders(pool)) < counts[0]


def test_a_long_lived_greenlet_does_not_collect_the_links_of_pools() -> None:
    """It may use and forget any number of them."""

    def count() -> int:
        settle()
        return sum(type(thing) is Holders for thing in gc.get_objects())

    def work() -> int:
        before = count()
        for _ in range(50):
            pool = Pool(ScriptedConnector(), initial_connections=1)
            pool.release(pool.acquire())
            pool.close()
            del pool
        return count() - before

    assert gevent.spawn(work).get() <= 1


def cycles(pool: Pool[Any], number: int) -> None:
    """Everything that can happen to a borrower, so many times."""
    for _ in range(number):
        conn = pool.acquire()
        with pool.connection():
            waiter = gevent.spawn(pool.acquire, timeout=5)
            killed = gevent.spawn(pool.acquire, timeout=5)
            gevent.sleep(0)
            killed.kill()
            try:
                pool.acquire(timeout=0)
            except PoolExhaustedError:
                pass
            pool.release(conn)
        waiter.join()
        gevent.idle()
        try:
            with pool.connection():
                raise KeyError
        except KeyError:
            pass
        pool.drop(pool.acquire())
        pool.drain()
        gevent.idle()


def test_nothing_grows_over_many_cycles() -> None:
    """Neither objects nor what the pool remembers."""
    connector = ScriptedConnector()
    pool = Pool(connector, max_connections=2, max_lifetime=1000)
    sizes = []
    for _ in range(5):
        cycles(pool, 20)
        # What the connector itself writes down is not the pool's.
        connector.calls.clear()
        connector.opened.clear()
        settle()
        sizes.append(len(gc.get_objects()))
    # Others in this process make objects too, now and then; what a cycle leaves behind
    # grows in every round.
    assert min(after - before for before, after in pairwise(sizes)) < 20, sizes
    assert pool.size <= 2 and len(parts.holders(pool).by_id) <= 1
    check_capacity(pool)


def test_a_closed_connection_is_not_kept_in_memory() -> None:
    """Of those that left the middle of the queue no more linger than are idle."""
    connector = ScriptedConnector()
    pool = Pool(connector, initial_connections=20)
    refs = [weakref.ref(conn) for conn in pool.idle_connections()]
    for conn in pool.idle_connections()[5:]:
        pool.drop(conn)
    del conn
    gevent.idle()
    connector.calls.clear()
    connector.opened.clear()
    settle()
    alive = sum(ref() is not None for ref in refs)
    assert pool.stats().idle == 5
    assert alive <= 2 * 5


def test_a_failed_opening_is_not_kept_in_memory() -> None:
    """The pool remembers the error, but not the sockets in its frames."""
    refs: list[weakref.ref[Any]] = []

    class Failing(ScriptedConnector):
        def open(self) -> ScriptedConnection:
            half_open = super().open()
            refs.append(weakref.ref(half_open))
            self.opened.clear()
            raise OSError("handshake failed")

    pool = Pool(Failing())
    with pytest.raises(OSError, match="handshake failed"):
        pool.acquire()
    settle()
    assert parts.opener(pool).failure is not None
    assert refs[0]() is None


def test_a_refusal_keeps_no_greenlet_alive() -> None:
    """It tells of the holders in words."""
    pool = Pool(ScriptedConnector(), max_connections=1, initial_connections=1)
    done = Event()

    def hold() -> None:
        with pool.connection():
            done.wait()

    holder = gevent.spawn(hold)
    gevent.idle()
    with pytest.raises(PoolExhaustedError) as refusal:
        pool.acquire(timeout=0)
    assert repr(holder) in str(refusal.value)
    forgotten = weakref.ref(holder)
    done.set()
    gevent.idle()
    del holder
    settle()
    assert forgotten() is None


def test_a_holder_is_not_kept_alive_by_its_loan() -> None:
    """The pool refers to greenlets weakly, in a block and without."""
    pool = Pool(ScriptedConnector(), max_connections=2, initial_connections=2)
    done = Event()

    def hold() -> None:
        pool.acquire()
        with pool.connection():
            done.wait()

    holder = gevent.spawn(hold)
    gevent.idle()
    forgotten = weakref.ref(holder)
    done.set()
    gevent.idle()
    del holder
    settle()
    assert forgotten() is None
    check_capacity(pool)
