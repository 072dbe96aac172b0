"""The line at which a loan was borrowed is known, or inferred, and costs little."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.event import Event

from geventpool import Pool, PoolListener
from geventpool._core import borrow_sites
from geventpool._core.borrow_sites import BorrowSites, Site, position
from geventpool._core.ledger import Entry
from geventpool._core.loan_watch import weak_call
from geventpool._core.states import IN_USE
from geventpool.testing import ScriptedConnector
from tests import parts


@pytest.fixture
def pool() -> Iterator[Pool[Any]]:
    with Pool(ScriptedConnector(), max_connections=2, initial_connections=2) as pool:
        yield pool


def known(pool: Pool[Any]) -> list[str | None]:
    """The functions that borrowed the present loans."""
    sites = [
        parts.borrow_sites(pool).of(each) for each in parts.ledger(pool).all_in(IN_USE)
    ]
    return [None if site is None else site.function for site in sites]


def borrow(pool: Pool[Any]) -> Any:
    return pool.acquire()


def test_a_loan_of_the_fast_path_is_not_noted(pool: Pool[Any]) -> None:
    """It would cost as much as the loan."""
    conn = borrow(pool)
    assert known(pool) == [None]
    pool.release(conn)


@pytest.mark.parametrize("kind", ["block", "acquire"])
def test_the_next_loan_is_noted_on_demand(pool: Pool[Any], kind: str) -> None:
    """Both kinds of loan leave the fast path for it, and return to it."""
    pool.release(borrow(pool))
    parts.borrow_sites(pool).want()
    if kind == "block":
        with pool.connection():
            assert known(pool) == ["test_the_next_loan_is_noted_on_demand"]
    else:
        conn = borrow(pool)
        assert known(pool) == ["borrow"]
        pool.release(conn)
    assert not parts.loan_watch(pool).is_wanted and parts.is_unobserved(pool)
    pool.release(borrow(pool))
    assert known(pool) == []


def test_a_noted_line_does_not_outlive_its_loan(pool: Pool[Any]) -> None:
    """The next loan of the same connection is another one."""
    parts.borrow_sites(pool).want()
    conn = borrow(pool)
    pool.release(conn)
    with pool.connection():
        assert known(pool) == [None]


def test_every_loan_is_noted_while_all_are_wanted(pool: Pool[Any]) -> None:
    """Once a line has leaked."""
    parts.borrow_sites(pool).want_all()
    first, second = borrow(pool), borrow(pool)
    assert known(pool) == ["borrow", "borrow"]
    parts.borrow_sites(pool).want_all(False)
    pool.release(first)
    pool.release(second)
    assert parts.is_unobserved(pool)


def test_a_pool_with_listeners_is_noted_too() -> None:
    """It has no fast path to leave or to return to."""
    with Pool(ScriptedConnector(), listeners=[PoolListener()]) as pool:
        parts.borrow_sites(pool).want()
        conn = borrow(pool)
        assert known(pool) == ["borrow"] and not parts.is_unobserved(pool)
        pool.release(conn)
        conn = borrow(pool)
        assert known(pool) == [None]
        pool.release(conn)


def test_all_pools_are_noted_in_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that are made later."""
    monkeypatch.setattr(BorrowSites, "everywhere", 1)
    with Pool(ScriptedConnector()) as pool:
        for _ in range(2):
            conn = borrow(pool)
            assert known(pool) == ["borrow"]
            pool.release(conn)


def test_the_line_is_inferred_from_the_stack_of_the_holder(pool: Pool[Any]) -> None:
    """A function that is known to borrow has most probably borrowed."""
    done = Event()

    def hold() -> None:
        with pool.connection():
            done.wait()

    parts.borrow_sites(pool).want()
    holders = [gevent.spawn(hold) for _ in range(2)]
    gevent.idle()
    assert known(pool) == ["hold", "hold"]
    done.set()
    gevent.joinall(holders)


def test_the_last_known_line_before_the_present_one_is_inferred() -> None:
    """One function may borrow at several lines."""
    sites = BorrowSites(lambda: None)
    code = test_all_pools_are_noted_in_tests.__code__
    for line in (30, 10, 20, 20):
        sites._remember(code, line)
    entry: Entry[Any] = Entry()
    for line, expected in ((25, 20), (30, 30), (5, 10), (99, 30)):
        frame = SimpleNamespace(f_code=code, f_lineno=line, f_back=None)
        holder = SimpleNamespace(gr_frame=frame)
        entry.holder = lambda holder=holder: holder  # type: ignore[misc]
        site = sites.of(entry)
        assert site is not None and site.line == expected


def test_nothing_is_inferred_without_a_stack() -> None:
    """A holder may be gone, or run at this moment, or have a stack without end."""
    sites = BorrowSites(lambda: None)
    entry: Entry[Any] = Entry()
    assert sites.of(entry) is None
    entry.holder = lambda: None
    assert sites.of(entry) is None
    entry.holder = gevent.getcurrent
    assert sites.of(entry) is None
    endless = SimpleNamespace(f_code=known.__code__, f_globals={"__name__": "redis.x"})
    endless.f_back = endless
    entry.holder = lambda: SimpleNamespace(gr_frame=endless)
    assert sites.of(entry) is None
    assert position(endless) is None  # type: ignore[arg-type]


def test_frames_of_drivers_are_passed_over() -> None:
    """The line of the program is wanted, and not the line of its driver."""
    outer = SimpleNamespace(f_globals={"__name__": "shop.views"}, f_back=None)
    inner = SimpleNamespace(f_globals={"__name__": "redis.client"}, f_back=outer)
    assert position(inner) is outer  # type: ignore[arg-type, comparison-overlap]
    outer.f_globals = {}
    assert position(inner) is outer  # type: ignore[arg-type, comparison-overlap]
    assert position(None) is None


def test_a_loan_without_a_line_of_the_program_is_left_out(
    pool: Pool[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A greenlet may run nothing but a driver."""
    monkeypatch.setattr(borrow_sites, "DEPTH", 0)
    parts.borrow_sites(pool).want()
    conn = borrow(pool)
    assert known(pool) == [None]
    pool.release(conn)


def test_the_number_of_functions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may make functions without end."""
    monkeypatch.setattr(borrow_sites, "FUNCTIONS", 1)
    sites = BorrowSites(lambda: None)
    for code in (known.__code__, borrow.__code__):
        sites._remember(code, 1)
    assert len(sites._known) == 1


def test_a_site_reads_like_a_line_of_a_traceback() -> None:
    """So editors find it."""
    assert str(Site("views.py", 88, "checkout")) == "views.py:88 in checkout"


def test_a_weak_call_keeps_nothing_alive() -> None:
    """A pool that is forgotten must go."""

    class Target:
        called = 0

        def call(self) -> None:
            Target.called += 1

    target = Target()
    call: Callable[[], None] = weak_call(target.call)
    call()
    gone = weakref.ref(target)
    del target
    gc.collect()
    call()
    assert gone() is None and Target.called == 1
