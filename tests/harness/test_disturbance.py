"""The harness that disturbs: it does what it says, and finds what that breaks."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.monkey import get_original

from geventpool import Pool, PoolListener
from geventpool.fork_listeners import ForkListeners
from geventpool.testing import (
    PLACES,
    ScriptedConnector,
    disturb_everywhere,
    exhaust_stack_everywhere,
    fail_calls_everywhere,
    fork_everywhere,
    in_finaliser,
    in_hub,
    in_thread,
    tell_everywhere,
)
from tests import parts
from tests.conftest import HubError
from tests.pauses import hang

get_ident = get_original("_thread", "get_ident")


def with_pool(work: Callable[[Pool[Any]], object], **options: Any) -> Callable[[], Any]:
    """A scenario: a pool of one place, and what the main greenlet does with it."""

    def scenario() -> Any:
        pool: Pool[Any] = Pool(
            ScriptedConnector(switching=True), **{"max_connections": 1, **options}
        )
        return lambda: work(pool), [pool]

    return scenario


def use(pool: Pool[Any]) -> None:
    """Three switches: while it opens, in the block, and after it."""
    with pool.connection():
        gevent.sleep(0)
    gevent.sleep(0)


def nothing(pool: Pool[Any]) -> None:
    """Does no harm."""


@pytest.mark.parametrize("place", PLACES)
def test_work_is_done_where_it_is_said(place: Callable[..., None]) -> None:
    """In this thread or another; what it raises is raised here, if it waits."""
    threads: list[int] = []
    place(lambda: threads.append(get_ident()))
    gevent.idle()
    assert (threads == [get_ident()]) is ("thread" not in place.__name__)


@pytest.mark.parametrize("place", [in_hub, in_finaliser, in_thread])
def test_what_work_raises_is_raised(place: Callable[..., None]) -> None:
    """Not even a finaliser swallows it."""

    def fail() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        place(fail)


def test_each_switch_point_is_disturbed_once() -> None:
    """The points are those of a run that nobody disturbs."""
    calls: list[Any] = []
    assert disturb_everywhere(with_pool(use), calls.append) == 4
    assert len(calls) == 4


def lose_a_place(pool: Pool[Any]) -> None:
    """Take it for a connection that nobody opens."""
    parts.ledger(pool).max_connections += 1
    parts.ledger(pool).reserve()
    parts.ledger(pool).max_connections -= 1


def test_what_a_disturbance_breaks_is_found() -> None:
    """The message says what was done, where, and at which point."""
    with pytest.raises(AssertionError, match="lose_a_place in_hub at switch 1, .*: "):
        disturb_everywhere(with_pool(use), lose_a_place, patience=0.1)


def test_an_error_that_a_disturbance_may_not_cause_is_found() -> None:
    """A closed pool may refuse; it may not fail otherwise."""

    def fail(pool: Pool[Any]) -> None:
        raise KeyError("unexpected")

    with pytest.raises(AssertionError, match="not expected: KeyError"):
        disturb_everywhere(with_pool(fail), nothing)


def test_a_closed_pool_with_a_connection_is_found() -> None:
    """Closing it closes all."""

    def half_close(pool: Pool[Any]) -> None:
        parts.ledger(pool).closed = True

    with pytest.raises(AssertionError, match="closed, and not empty"):
        disturb_everywhere(with_pool(use), half_close)


def test_what_a_fork_breaks_in_the_child_is_found() -> None:
    """The child tells its parent."""
    listeners = ForkListeners()

    class Losing:
        def __init__(self, pool: Pool[Any]) -> None:
            self.pool = pool
            listeners.add(self)

        def forked(self) -> None:
            lose_a_place(self.pool)

        def work(self) -> None:
            gevent.sleep(0)

    def scenario() -> Any:
        pool: Pool[Any] = Pool(ScriptedConnector(), max_connections=1)
        return Losing(pool).work, [pool]

    with pytest.raises(AssertionError, match="fork at switch 1, .*: in the child: "):
        fork_everywhere(scenario, patience=0.1)


def test_each_switch_point_is_forked_at_once() -> None:
    """As many points as of a run without forks; the children end."""

    def run() -> None:
        gevent.sleep(0)
        gevent.sleep(0)

    assert fork_everywhere(lambda: (run, [])) == 3


def test_what_goes_wrong_in_the_parent_is_found_too() -> None:
    """Its child ends all the same."""

    def fail() -> None:
        gevent.sleep(0)
        raise KeyError("mine")

    with pytest.raises(AssertionError, match="not expected: KeyError"):
        fork_everywhere(lambda: (fail, []))


def test_a_listener_is_told_of_nothing_that_the_harness_does() -> None:
    """The events are those of the scenario alone."""
    calls: list[int] = []

    def scenario(listener: PoolListener) -> Any:
        return with_pool(use, listeners=[listener])()

    # Opened, acquired and released.
    assert tell_everywhere(scenario, lambda: calls.append(1)) == 3
    assert len(calls) == 3


def test_a_stack_is_full_at_each_depth_once() -> None:
    """From the first frame of the scenario to its last."""
    depths: list[int] = []

    def three() -> None:
        depths.append(1)
        (lambda: depths.append(2))()

    assert exhaust_stack_everywhere(lambda: (three, [])) >= 1
    assert depths[-2:] == [1, 2]


def test_a_place_that_a_greenlet_which_goes_on_keeps_is_lost() -> None:
    """A worker that never ends would hold it forever."""

    def keeping() -> Any:
        pool = Pool(ScriptedConnector(), max_connections=1)

        def work() -> None:
            conn = pool.acquire()
            deep(40)
            pool.release(conn)

        return work, [pool]

    def deep(frames: int) -> None:
        if frames:
            deep(frames - 1)

    exhaust_stack_everywhere(keeping)
    with pytest.raises(AssertionError, match="lost until the greenlet ends"):
        exhaust_stack_everywhere(keeping, lives_on=True)


def test_a_child_that_ends_before_its_checks_is_found() -> None:
    """A signal ends it without a report, as when the event loop aborts."""
    parent = os.getpid()

    def end_the_child() -> None:
        # The fork comes after the second.
        for _ in range(3):
            gevent.sleep(0)
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(AssertionError, match="in the child: it ended before"):
        fork_everywhere(lambda: (end_the_child, []))


def test_a_run_with_fewer_points_is_repeated() -> None:
    """A reply that is there already is read without a switch."""
    runs: list[int] = []

    def run() -> None:
        runs.append(1)
        # In every second run the first of its two switches is left out.
        for _ in range(1 if len(runs) % 2 else 2):
            gevent.sleep(0)

    assert disturb_everywhere(lambda: (run, []), nothing, tries=2) == 3


def test_each_call_fails_once(hub_errors: list[HubError]) -> None:
    """Those of the pool in every greenlet; none of the program or of the harness."""
    assert fail_calls_everywhere(with_pool(use)) >= 50
    # Those of the pool's greenlets are reported by the hub.
    assert {type(each.error) for each in hub_errors} == {MemoryError}, hub_errors
    hub_errors.clear()


def test_what_a_failed_call_breaks_is_found() -> None:
    """The message names the call and the line."""

    def fragile(pool: Pool[Any]) -> None:
        try:
            use(pool)
        except MemoryError:
            lose_a_place(pool)

    with pytest.raises(AssertionError, match="call 1 .*pool.py"):
        fail_calls_everywhere(with_pool(fragile), patience=0.1)


def test_a_run_that_a_failed_call_keeps_from_ending_is_found() -> None:
    """The call is named as well."""

    def endless(pool: Pool[Any]) -> None:
        try:
            use(pool)
        except MemoryError:
            hang()

    with pytest.raises(AssertionError, match="pool.py.*never ended"):
        fail_calls_everywhere(with_pool(endless), patience=0.1)
