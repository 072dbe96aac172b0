"""Nobody is refused because the event loop was blocked."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent import socket

from geventpool import Pool, PoolExhaustedError, Timeouts
from geventpool._core import checking, deadline, opener, wait_timers
from geventpool._core.deadline import LATE, MOMENT, Deadline
from geventpool._core.workers import within
from geventpool.connector import Connector
from geventpool.testing import wait_until
from tests.pauses import block_loop

#: Seconds of a limit that is over while the loop is blocked.
LIMIT = 0.1


def block() -> None:
    """Hold up the event loop until every limit is over."""
    block_loop(time.monotonic() + LIMIT + 2 * LATE)


class Peer:
    """Answers each byte with a byte, in a greenlet; so a dialogue takes some turns."""

    def __init__(self) -> None:
        self.near, self._far = socket.socketpair()
        self._greenlet = gevent.spawn(self._answer)

    def _answer(self) -> None:
        while byte := self._far.recv(1):
            self._far.sendall(byte)

    def ask(self, times: int = 3) -> None:
        for _ in range(times):
            self.near.sendall(b"?")
            assert self.near.recv(1) == b"?"

    def close(self) -> None:
        # With the greenlet that reads from it.
        self._greenlet.kill()
        self._far.close()
        self.near.close()


class Dialogue(Connector[Peer]):
    """Each verb is a dialogue, and the loop is blocked in the middle of one of them."""

    def __init__(self, blocked: str) -> None:
        self.blocked = blocked

    def _talk(self, verb: str, peer: Peer) -> None:
        peer.ask(1)
        if verb == self.blocked:
            gevent.get_hub().loop.run_callback(block)
        peer.ask()

    def open(self) -> Peer:
        peer = Peer()
        self._talk("open", peer)
        return peer

    def ping(self, conn: Peer) -> None:
        self._talk("ping", conn)

    def reset(self, conn: Peer) -> None:
        self._talk("reset", conn)

    def needs_reset(self, conn: Peer) -> bool:
        return True

    def close(self, conn: Peer) -> None:
        conn.close()

    def discard(self, conn: Peer) -> None:
        self.blocked = "nothing, but something was discarded"
        gevent.spawn(conn.close)


@pytest.fixture()
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no busy machine exceed the extra time after a blocked loop."""
    for module in deadline, wait_timers:
        monkeypatch.setattr(module, "MOMENT", 60.0)


@pytest.mark.parametrize("options", [{"timeout": LIMIT}, {}], ids=["usual", "own"])
def test_a_waiter_is_served_whose_connection_comes_though_its_time_was_blocked(
    options: Any, patient: None
) -> None:
    """The timer and the socket come due together, and the timer must not win."""
    pool = Pool(Dialogue("open"), **options)
    conn = pool.acquire(timeout=None if options else LIMIT)
    pool.drop(conn)
    pool.close(timeout=0)


@pytest.mark.parametrize("verb", ["open", "ping", "reset"])
def test_a_limit_of_the_pool_is_not_over_because_the_loop_was_blocked(
    verb: str, patient: None
) -> None:
    """The answer was there; only nobody could read it."""
    connector = Dialogue(verb)
    pool = Pool(connector, timeouts=Timeouts(**{verb: LIMIT}), ping_after=0)
    with pool.connection() as first:
        pass
    wait_until(lambda: not pool.stats().resetting)
    with pool.connection() as second:
        assert second is first
    assert connector.blocked == verb
    pool.close()


def test_an_attempt_is_not_slow_because_the_loop_was_blocked(
    monkeypatch: pytest.MonkeyPatch, patient: None
) -> None:
    """An attempt that is slow permits another one beside it."""
    monkeypatch.setattr(opener, "SLOW", LIMIT)
    open_at_most, under_way = 0, 0

    class Counted(Dialogue):
        """Counts how many are opened at a time."""

        def open(self) -> Peer:
            nonlocal open_at_most, under_way
            under_way += 1
            open_at_most = max(open_at_most, under_way)
            try:
                return super().open()
            finally:
                under_way -= 1

    pool = Pool(Counted("open"), max_connections=2, max_connecting=1)
    borrowers = [gevent.spawn(pool.acquire) for _ in range(2)]
    gevent.joinall(borrowers, raise_error=True)
    assert open_at_most == 1
    pool.close(timeout=0)


def test_a_reset_does_not_lag_because_the_loop_was_blocked(
    monkeypatch: pytest.MonkeyPatch, patient: None
) -> None:
    """A reset that takes long has another connection opened for the waiter."""
    monkeypatch.setattr(checking, "PROMPT", LIMIT)
    pool = Pool(Dialogue("reset"), max_connections=2)
    with pool.connection() as first:
        pass
    with pool.connection() as second:
        assert second is first
    wait_until(lambda: not pool.stats().resetting)
    assert pool.size == 1
    pool.close()


@pytest.mark.parametrize("options", [{"timeout": LIMIT}, {}], ids=["usual", "own"])
def test_a_moment_after_a_blocked_limit_it_is_over_all_the_same(options: Any) -> None:
    """It is one chance, and no leave to wait on."""
    connector = Dialogue("nothing")
    pool = Pool(connector, max_connections=1, **options)
    conn = pool.acquire(timeout=5)

    def ask() -> None:
        with pytest.raises(PoolExhaustedError):
            pool.acquire(timeout=None if options else LIMIT)

    waiter = gevent.spawn(ask)
    gevent.get_hub().loop.run_callback(block)
    waiter.get()
    pool.drop(conn)
    pool.close(timeout=0)


def test_work_that_hangs_is_ended_though_the_loop_was_blocked() -> None:
    """A moment later."""
    gevent.get_hub().loop.run_callback(block)
    with pytest.raises(TimeoutError, match="it took longer than 0.1 s"):
        within(LIMIT, "it", gevent.sleep, 60)


class Loop:
    """Makes timers that fire when the test says so."""

    def __init__(self) -> None:
        self.timers: list[Timer] = []

    def timer(self, after: float, priority: int) -> Timer:
        self.timers.append(Timer(after))
        return self.timers[-1]


class Timer:
    """One of them."""

    def __init__(self, after: float) -> None:
        self.after = after
        self.fire: Callable[[], object] | None = None

    def start(self, callback: Callable[[], object], update: bool) -> None:
        self.fire = callback

    def close(self) -> None:
        self.fire = None


@pytest.mark.parametrize("late", [False, True])
def test_only_a_timer_that_is_late_is_given_a_moment(
    late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that turns has looked at its sockets."""
    now = 100.0
    monkeypatch.setattr("geventpool._core.deadline.monotonic", lambda: now)
    loop, struck = Loop(), []
    deadline = Deadline(loop, 5.0, lambda: struck.append(now))
    now += 5.0 + late * (LATE + 0.001)
    first = loop.timers[0].fire
    assert first is not None and loop.timers[0].after == 5.0
    first()
    assert bool(struck) is not late
    if late:
        assert loop.timers[1].after == MOMENT
        second = loop.timers[1].fire
        assert second is not None and loop.timers[0].fire is None
        second()
        assert struck
    deadline.close()
    assert all(timer.fire is None for timer in loop.timers)


def test_a_deadline_that_is_closed_does_not_strike() -> None:
    """Whatever it watched has ended in time."""
    struck: list[int] = []
    deadline = Deadline(gevent.get_hub().loop, 0.001, lambda: struck.append(1))
    deadline.close()
    other = Deadline(gevent.get_hub().loop, 0.002, lambda: struck.append(2))
    wait_until(lambda: struck)
    other.close()
    assert struck == [2]
