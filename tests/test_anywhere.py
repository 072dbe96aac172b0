"""A pool that is closed, changed, forked or listened to at every switch point."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from geventpool import (
    Outage,
    Pool,
    PoolError,
    PoolListener,
)
from geventpool.testing import (
    PLACES,
    ScriptedConnector,
    disturb_everywhere,
    exhaust_stack_everywhere,
    fail_calls_everywhere,
    fork_everywhere,
    in_greenlet,
    in_hub,
    tell_everywhere,
)
from tests.conftest import HubError
from tests.deeds import close_now, drain, drop, give_back
from tests.event_loops import not_on_libuv

LATER = range(-1, 3)


def with_pool(work: Callable[[Pool[Any]], object], **options: Any) -> Callable[[], Any]:
    """A scenario: a pool of one place, and what the main greenlet does with it."""

    def scenario() -> Any:
        pool: Pool[Any] = Pool(
            ScriptedConnector(switching=True), **{"max_connections": 1, **options}
        )
        return lambda: work(pool), [pool]

    return scenario


def borrow(pool: Pool[Any]) -> None:
    with pool.connection() as conn:
        gevent.sleep(0)
        conn.needs_reset = True
        gevent.sleep(0)


def borrow_bare(pool: Pool[Any]) -> None:
    conn = pool.acquire()
    try:
        gevent.sleep(0)
    finally:
        pool.release(conn)


def wait_in_line(pool: Pool[Any]) -> None:
    """Wait for a connection that another greenlet gives back; others wait as well."""

    def hold() -> None:
        with pool.connection():
            gevent.sleep(0)
            gevent.sleep(0)

    others = [gevent.spawn(_silently, hold) for _ in range(2)]
    gevent.sleep(0)
    with pool.connection():
        gevent.sleep(0)
    gevent.joinall(others)


def _silently(work: Callable[[], object]) -> None:
    try:
        work()
    except Exception:
        # Of a pool that was closed; who looks is the main greenlet.
        pass


WORK = [borrow, borrow_bare, wait_in_line]


def shrink_and_grow(pool: Pool[Any]) -> None:
    pool.resize(2)
    pool.resize(1)


@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("act", [close_now, drain, shrink_and_grow])
@pytest.mark.parametrize("place", [in_hub, in_greenlet])
def test_a_pool_may_be_closed_and_changed_anywhere(
    place: Any, act: Any, work: Any, later: int
) -> None:
    """The hand-over between two greenlets included: nobody gets a closed connection."""
    assert disturb_everywhere(with_pool(work), act, place=place, later=later) >= 2


@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize("work", WORK)
def test_a_process_may_fork_anywhere(work: Any, later: int) -> None:
    """Parent and child each go on with books in order and all places."""
    assert fork_everywhere(with_pool(work), later=later) >= 2


def raise_error() -> None:
    raise ValueError("of a listener")


def raise_exit() -> None:
    raise gevent.GreenletExit


def switch() -> None:
    gevent.sleep(0)


@pytest.mark.parametrize("act", [raise_error, raise_exit, switch])
@pytest.mark.parametrize("work", WORK)
def test_a_listener_may_do_anything_at_any_event(
    work: Any, act: Any, hub_errors: list[HubError]
) -> None:
    """It is told when the change is complete, so nothing is lost with it."""

    def scenario(listener: PoolListener) -> Any:
        return with_pool(work, listeners=[listener])()

    expected = (gevent.GreenletExit, Exception)
    assert tell_everywhere(scenario, act, expected=expected) >= 3
    hub_errors.clear()


@not_on_libuv("a full stack leaves gevent's timers half stopped")
@pytest.mark.parametrize("work", WORK)
def test_a_stack_may_be_full_at_any_depth(
    work: Any, hub_errors: list[HubError]
) -> None:
    """A RecursionError costs its borrower the loan, and the pool nothing."""
    assert exhaust_stack_everywhere(with_pool(work)) >= 5
    hub_errors.clear()


@not_on_libuv("gevent raises errors of callbacks in the main greenlet")
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("work", WORK)
def test_any_call_of_the_pool_may_fail(
    work: Any, after: bool, hub_errors: list[HubError]
) -> None:
    """For want of memory, or by a signal handler: no place and no waiter is lost."""
    # The block is entered, and Python has not noted it yet.
    skipped = ("__enter__", "__exit__") if after else ("__exit__",)
    assert fail_calls_everywhere(with_pool(work), after=after, skipped=skipped) >= 100
    hub_errors.clear()


@not_on_libuv("gevent raises errors of callbacks in the main greenlet")
def test_any_call_may_fail_while_nothing_can_be_opened(
    hub_errors: list[HubError],
) -> None:
    """The place of the attempt is free, and its waiter gets an error."""

    def scenario() -> Any:
        is_down = [True]

        def open_if_up() -> None:
            if is_down:
                raise OSError("down")

        pool: Pool[Any] = Pool(
            ScriptedConnector(open=[open_if_up], switching=True),
            max_connections=1,
            outage=Outage(grace=0),
        )

        def work() -> None:
            try:
                borrow(pool)
            finally:
                is_down.clear()

        return work, [pool]

    assert fail_calls_everywhere(scenario, expected=(OSError, PoolError)) >= 50
    hub_errors.clear()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("act", [give_back, drop])
@pytest.mark.parametrize("work", WORK)
def test_a_loan_may_be_ended_anywhere(work: Any, act: Any, place: Any) -> None:
    """In native threads and finalisers too; the borrower's own end finds it gone."""
    assert disturb_everywhere(with_pool(work), act, place=place) >= 2


@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize("places", [1, 2])
def test_two_greenlets_may_meet_in_one_block(places: int, later: int) -> None:
    """One of them is refused, or they come one after the other; nothing is shared."""
    blocks: list[Any] = []
    using: list[Any] = []

    def enter() -> None:
        with blocks[-1] as conn:
            assert conn not in using, "two use one connection"
            using.append(conn)
            gevent.sleep(0)
            using.remove(conn)

    def scenario() -> Any:
        pool: Pool[Any] = Pool(
            ScriptedConnector(switching=True), max_connections=places
        )
        blocks.append(pool.connection())
        return enter, [pool]

    def enter_too(pool: Pool[Any]) -> None:
        with contextlib.suppress(RuntimeError):
            enter()

    points = disturb_everywhere(
        scenario,
        enter_too,
        place=in_greenlet,
        later=later,
        expected=(RuntimeError,),
    )
    assert points >= 2 and not using
