"""A loan that lasts too long is told once, with the line that borrowed."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event

from geventpool import Pool, PoolListener
from geventpool._core import leaks
from geventpool._core.reports import Leak
from geventpool.testing import Clock, ScriptedConnector
from tests import parts

Log = pytest.LogCaptureFixture


def reaper_of(detector):
    """What looks at the loans at intervals; None: none is looked at."""
    return detector._reaper


class Told(PoolListener):
    """What a listener was told of leaks."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def leaked(self, conn: Any, seconds: float, borrowed_at: str, place: str) -> None:
        self.events.append(("leaked", seconds, borrowed_at))

    def leak_ended(self, conn: Any, seconds: float, borrowed_at: str) -> None:
        self.events.append(("ended", seconds, borrowed_at))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pool(clock: Clock) -> Iterator[Pool[Any]]:
    with Pool(ScriptedConnector(), name="shop", leak_after=10) as pool:
        clock.rule(pool)
        yield pool


def look(pool: Pool[Any]) -> tuple[Leak, ...]:
    """Have the loans looked at, and return what is known of leaks."""
    assert parts.leaks(pool) is not None
    parts.leaks(pool).look()
    return pool.stats().leaks


def borrow(pool: Pool[Any]) -> Any:
    return pool.acquire()


def test_a_loan_is_reported_once_with_the_line_that_borrowed(
    pool: Pool[Any], clock: Clock, caplog: Log
) -> None:
    """The line of the holder is somewhere else by then."""
    conn = borrow(pool)
    clock.advance(9)
    assert look(pool) == ()
    clock.advance(2)
    with caplog.at_level(logging.WARNING, "geventpool"):
        for _ in range(2):
            (leak,) = look(pool)
    assert "in borrow" in leak.borrowed_at and "test_leaks.py" in leak.place
    assert (leak.count, leak.open, leak.longest) == (1, 1, 11)
    (record,) = caplog.records
    assert "'shop': a loan lasts 11.0 s; borrowed at" in record.getMessage()
    pool.release(conn)


def test_it_is_told_when_the_loan_comes_back_after_all(
    pool: Pool[Any], clock: Clock, caplog: Log
) -> None:
    """Then it was slow, and did not leak."""
    conn = borrow(pool)
    clock.advance(11)
    look(pool)
    pool.release(conn)
    # The same connection is lent again, which is another loan.
    clock.advance(1)
    conn = borrow(pool)
    with caplog.at_level(logging.WARNING, "geventpool"):
        (leak,) = look(pool)
    assert (leak.count, leak.open) == (1, 0)
    assert "ended after at most 12.0 s" in caplog.text
    pool.release(conn)


def test_listeners_are_told(clock: Clock) -> None:
    """They can count, or raise an alarm."""
    told = Told()
    with Pool(ScriptedConnector(), leak_after=10, listeners=[told]) as pool:
        clock.rule(pool)
        conn = borrow(pool)
        clock.advance(11)
        look(pool)
        pool.release(conn)
        look(pool)
    assert [event[:2] for event in told.events] == [("leaked", 11), ("ended", 11)]


def test_every_line_is_known_after_the_first_leak(
    pool: Pool[Any], clock: Clock
) -> None:
    """The first one may have passed through the fast path."""
    pool.release(borrow(pool))
    while parts.borrow_sites(pool).is_wanted:
        pool.release(borrow(pool))
    clock.advance(1)
    conn = borrow(pool)
    clock.advance(11)
    (leak,) = look(pool)
    assert leak.borrowed_at == leaks.UNKNOWN
    another = borrow(pool)
    clock.advance(11)
    assert "in borrow" in look(pool)[1].borrowed_at
    pool.release(conn)
    pool.release(another)


def test_what_nobody_in_particular_holds_is_no_leak(
    pool: Pool[Any], clock: Clock
) -> None:
    """It was handed over on purpose, as a subscription is."""
    conn = borrow(pool)
    pool.transfer(conn, None)
    clock.advance(99)
    assert look(pool) == ()
    pool.release(conn)


def test_a_pool_without_leak_after_looks_for_none() -> None:
    """It is an option."""
    with Pool(ScriptedConnector()) as pool:
        pool.release(borrow(pool))
        assert parts.leaks(pool) is None and pool.stats().leaks == ()


def test_the_lines_with_most_open_leaks_come_first_and_are_bounded(
    pool: Pool[Any], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long list helps nobody, and must not fill the memory."""
    monkeypatch.setattr(leaks, "SITES", 1)
    conns = [borrow(pool)]
    clock.advance(11)
    look(pool)
    conns += [pool.acquire(), pool.acquire()]
    clock.advance(11)
    others, first = look(pool)
    assert others.borrowed_at == "other lines" and others.open == 2
    assert "in borrow" in first.borrowed_at
    for conn in conns:
        pool.release(conn)


def test_a_greenlet_looks_while_there_may_be_loans() -> None:
    """From the first loan on, and until the pool is closed or forgotten."""
    reported = Event()

    class Listener(PoolListener):
        def leaked(self, *details: Any) -> None:
            reported.set()

    pool = Pool(ScriptedConnector(), leak_after=0.01, listeners=[Listener()])
    detector = parts.leaks(pool)
    assert detector is not None and reaper_of(detector) is None
    conn = borrow(pool)
    assert reported.wait(10)
    reaper = reaper_of(detector)
    assert reaper is not None and reaper.is_alive
    pool.release(conn)
    pool.release(borrow(pool))
    assert reaper_of(detector) is reaper
    pool.close()
    detector.look()
    gevent.idle()
    assert not reaper.is_alive


def test_a_closed_pool_that_lent_nothing_is_looked_at() -> None:
    """There is no greenlet to end."""
    pool = Pool(ScriptedConnector(), leak_after=1)
    pool.close()
    assert look(pool) == ()


def test_a_forgotten_pool_goes() -> None:
    """Looking for leaks keeps no pool alive."""
    pool = Pool(ScriptedConnector(), leak_after=1)
    pool.release(borrow(pool))
    gone = weakref.ref(pool)
    del pool
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), "x", True])
def test_the_limit_must_be_above_zero(wrong: Any) -> None:
    """A limit of 0 would report each loan."""
    with pytest.raises((TypeError, ValueError), match="leak_after"):
        Pool(ScriptedConnector(), leak_after=wrong)
