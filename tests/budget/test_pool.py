"""Pools that share a budget: two pools of one process share as two processes do."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event

from geventpool import (
    Budget,
    BudgetError,
    CloseReason,
    Outage,
    Pool,
    PoolClosedError,
    PoolExhaustedError,
    TooManyWaitingError,
)
from geventpool._core.breaker import Breaker
from geventpool._core.states import IDLE
from geventpool.options import PoolOptions, from_text
from geventpool.testing import ScriptedConnection, ScriptedConnector, check, wait_until
from tests import parts
from tests.pauses import turns


@pytest.fixture
def budget(tmp_path: Path) -> Budget:
    return Budget(tmp_path / "b", 4)


Make = Callable[..., Any]


@pytest.fixture
def make(budget: Budget) -> Any:
    pools = []

    def make(connector: Any = None, **options: Any) -> Any:
        usual: dict[str, Any] = {"budget": budget, "timeout": 10}
        options = usual | options
        pools.append(Pool(connector or ScriptedConnector(), **options))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close(timeout=0)


def caught(work: Callable[[], object]) -> object:
    """What *work* returned or raised."""
    try:
        return work()
    except Exception as error:
        return error


def held(budget: Budget) -> int:
    return budget.stats().held


def test_a_pool_has_no_more_places_than_the_budget(make: Make) -> None:
    """So a pool that holds all of them can tell a deadlock."""
    pool = make(max_connections=200)
    assert pool.max_connections == 4
    pool.resize(100)
    assert pool.max_connections == 4
    pool.resize(3)
    assert pool.max_connections == 3


def test_two_pools_have_no_more_connections_than_the_budget(make: Make) -> None:
    """Whatever each of them may have; and both are served."""
    one, other = make(), make()
    connectors = [parts.connector(one), parts.connector(other)]
    most = 0

    def use(pool: Any) -> None:
        nonlocal most
        for _ in range(5):
            with pool.connection():
                most = max(most, sum(len(each.now_open) for each in connectors))
                turns(2)

    users = [gevent.spawn(use, pool) for pool in (one, other) for _ in range(5)]
    gevent.joinall(users, timeout=20, raise_error=True)
    assert all(user.successful() for user in users)
    assert 1 < most <= 4


def test_a_waiter_is_served_by_the_idle_connections_of_another_pool(
    make: Make, budget: Budget
) -> None:
    """The one that was unused for longest is closed."""
    one, other = make(), make()
    conns = [one.acquire() for _ in range(4)]
    for conn in conns:
        one.release(conn)
    now = parts.ledger(one).clock() + 60
    for entry in parts.ledger(one).all_in(IDLE):
        entry.used = now - 60 if entry.conn is not conns[2] else now - 90
    parts.set_clock(one, lambda: now)
    conn = other.acquire()
    assert one.idle_connections() == [conns[0], conns[1], conns[3]]
    assert held(budget) == 4
    other.release(conn)


def test_a_place_is_free_only_when_its_connection_is_closed(
    make: Make, budget: Budget
) -> None:
    """Else the server would see one connection too many for a while."""
    gate = Event()
    pool = make(ScriptedConnector(close=[gate]))
    conn = pool.acquire()
    pool.release(conn)
    pool.drop(conn)
    gevent.idle()
    assert held(budget) == 1
    gate.set()
    wait_until(lambda: held(budget) == 0)


@pytest.mark.parametrize("outcome", [OSError("no"), None])
def test_an_attempt_to_open_gives_its_place_back(
    make: Make, budget: Budget, outcome: Any
) -> None:
    """If it fails, and if the pool is closed before it ends."""
    gate = Event()
    pool = make(ScriptedConnector(open=[outcome or gate]))
    waiter = gevent.spawn(caught, pool.acquire)
    gevent.idle()
    if outcome is None:
        assert held(budget) == 1
        pool.close(timeout=0)
    wait_until(lambda: held(budget) == 0)
    assert isinstance(waiter.get(timeout=10), (OSError, PoolClosedError))


def test_an_attempt_that_cannot_begin_gives_its_place_back(
    make: Make, budget: Budget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A RecursionError may strike anywhere."""
    pool = make()

    def fails(*args: object) -> None:
        raise RecursionError

    monkeypatch.setattr(parts.workers(pool), "spawn", fails)
    with pytest.raises(RecursionError):
        pool.acquire()
    assert held(budget) == 0


def test_without_a_budget_nothing_changes_if_none_can_begin(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same error reaches the caller."""
    pool = make(budget=None)

    def fails(*args: object) -> None:
        raise RecursionError

    monkeypatch.setattr(parts.workers(pool), "spawn", fails)
    with pytest.raises(RecursionError):
        pool.acquire()


def test_connections_in_use_are_given_when_they_come_back(
    make: Make, budget: Budget
) -> None:
    """A pool above its fair share closes them, in favour of one below."""
    one, other = make(), make()
    conns = [one.acquire() for _ in range(4)]
    waiter = gevent.spawn(other.acquire, reclaim=False)
    wait_until(lambda: parts.ledger(one).most == 3)
    entry = parts.ledger(one).entries[id(conns[0])]
    assert entry.close_reason is CloseReason.SURPLUS
    one.release(conns[0])
    assert waiter.get(timeout=10) is not None
    wait_until(lambda: parts.ledger(one).most > 4)
    one.release(conns[1])
    assert one.idle_connections() == [conns[1]]
    check(one)


def test_what_must_go_anyhow_keeps_its_reason(make: Make) -> None:
    """A drained connection is not spared because nobody waits any more."""
    one = make()
    conn = one.acquire()
    one.drain()
    parts.leases(one).client.give_used(1)
    assert parts.ledger(one).entries[id(conn)].close_reason is CloseReason.DRAINED
    one.release(conn)


def test_a_refusal_tells_which_processes_have_the_places(
    make: Make, budget: Budget
) -> None:
    """Else "0 of 4" would look like a mistake of the pool."""
    one, other = make(name="one"), make()
    for _ in range(4):
        one.acquire(reclaim=False)
    with pytest.raises(PoolExhaustedError) as caught:
        other.acquire(timeout=0)
    one.close(timeout=0)
    told = f"4 places of budget '{budget.name}' are taken: 4 by process "
    assert told in str(caught.value)
    assert "(one)" in str(caught.value)


def test_before_the_first_lease_the_holders_are_unknown_without_a_file(
    make: Make,
) -> None:
    """Nothing is known of the others then."""
    assert "0 places of budget" in str(parts.leases(make()).holders())


def test_who_may_not_wait_gets_the_place_that_it_was_refused_a_little_later(
    make: Make,
) -> None:
    """max_waiting=0: another process has the place, and gives it when it is idle."""
    one = make(max_connections=4)
    for conn in [one.acquire(reclaim=False) for _ in range(4)]:
        one.release(conn)
    other = make(max_waiting=0)
    for _ in range(2):
        with pytest.raises(TooManyWaitingError, match="4 by process"):
            other.acquire()
    assert other.stats().waiting == 0
    wait_until(lambda: isinstance(caught(other.acquire), ScriptedConnection))


def test_free_places_of_the_budget_serve_those_who_may_not_wait(make: Make) -> None:
    """They do not wait for another process."""
    pool = make(max_waiting=0)
    jobs = [gevent.spawn(pool.acquire, reclaim=False) for _ in range(4)]
    gevent.joinall(jobs, raise_error=True)
    assert pool.stats().in_use == 4


def test_the_stats_show_the_budget(make: Make, budget: Budget) -> None:
    """And a file that was damaged meanwhile is no error there."""
    pool = make()
    pool.acquire(reclaim=False)
    stats = pool.stats()
    assert stats.budget is not None
    assert (stats.budget.held, stats.budget.total) == (1, 4)
    Path(budget.path).unlink()
    Path(budget.path).write_text("something else")
    assert pool.stats().budget is None


def test_a_damaged_file_is_an_error_of_the_first_caller(
    make: Make, budget: Budget
) -> None:
    """It was in order when the budget was made."""
    Path(budget.path).write_text("something else")
    pool = make()
    with pytest.raises(BudgetError, match="is not the file of a budget"):
        pool.acquire()


def test_initial_connections_are_as_many_as_there_are_places(make: Make) -> None:
    """A worker that starts while the others have all places starts all the same."""
    one = make(initial_connections=3)
    assert one.size == 3
    other = make(initial_connections=2)
    assert other.size == 1
    third = make(initial_connections=2)
    assert third.size == 0


def test_minimum_connections_take_nothing_from_others(make: Make) -> None:
    """They are for places that nobody wants."""
    one = make()
    for _ in range(3):
        one.acquire(reclaim=False)
    other = make(min_connections=2)
    wait_until(lambda: other.size == 1)
    assert (one.size, other.size) == (3, 1)
    assert not parts.leases(other).seat.is_looking


def test_a_server_that_is_looked_for_takes_a_place(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one it is looked for later."""
    gate, looks = Event(), []

    def next_pause(breaker: Breaker, now: float) -> float:
        looks.append(now)
        gate.wait()
        return 0.0

    monkeypatch.setattr(Breaker, "next_pause", next_pause)
    one = make()
    conns = [one.acquire(reclaim=False) for _ in range(3)]
    connector = ScriptedConnector(open=[OSError("down")])
    other = make(connector, outage=Outage(1, wait=True))
    waiter = gevent.spawn(other.acquire)
    wait_until(lambda: bool(looks))
    conns.append(one.acquire(reclaim=False))
    gate.set()
    wait_until(lambda: len(looks) > 3)
    assert len(connector.calls) == 1 and not waiter.dead
    one.drop(conns.pop())
    assert waiter.get(timeout=5) is connector.opened[0]
    one.close(timeout=0)


def test_a_pool_that_was_forgotten_gives_its_places_back(
    make: Make, budget: Budget
) -> None:
    """The idle ones at once, a lent one when its borrower forgets it."""
    pool = Pool(ScriptedConnector(), budget=budget)
    lent, idle = pool.acquire(reclaim=False), pool.acquire()
    pool.release(idle)
    del pool
    gc.collect()
    wait_until(lambda: held(budget) == 1)
    del lent
    # What gives the first place back may still refer to the pool.
    wait_until(lambda: gc.collect() >= 0 and held(budget) == 0)


def test_a_forgotten_pool_that_leased_nothing_gives_nothing(budget: Budget) -> None:
    """Its finaliser finds no seat."""
    leases = parts.leases(Pool(ScriptedConnector(), budget=budget))
    leases.settle()
    leases.give_back_soon()
    leases.leave_to(object())
    leases.forget()
    assert budget.stats().shares == ()


def test_what_cannot_be_watched_keeps_its_place(make: Make, budget: Budget) -> None:
    """A connection that takes no weak reference: the limit is what counts."""
    pool = make()
    pool.acquire(reclaim=False)
    parts.leases(pool).leave_to(())
    gevent.idle()
    assert held(budget) == 1


def test_a_pool_that_begins_anew_has_no_places(make: Make, budget: Budget) -> None:
    """After a fork, and after its event loop was destroyed."""
    pool = make()
    pool.acquire(reclaim=False)
    parts.forked(pool)
    assert held(budget) == 0
    assert pool.acquire() is not None
    assert held(budget) == 1


def test_a_loop_that_is_gone_takes_nothing_back(make: Make) -> None:
    """A finaliser may run at the very end."""
    pool = make()
    pool.acquire(reclaim=False)
    seat = parts.leases(pool).seat
    seat.loop = None
    seat.give_back_soon()
    assert seat.table.fd == -1


def test_more_connections_from_the_start_than_the_budget_has_are_refused(
    budget: Budget,
) -> None:
    """The message names option, value and rule."""
    for name in ("initial_connections", "min_connections"):
        with pytest.raises(ValueError, match=rf"{name} .* total of the budget \(4\)"):
            PoolOptions.of("Pool()", {name: 5, "budget": budget})


def test_a_budget_is_a_budget_or_its_text(budget: Budget) -> None:
    """The text names file and total; it is for URLs and settings."""
    text = f"{budget.path}:4"
    assert PoolOptions(budget=text).shared_budget == budget
    assert from_text("budget", text) == text
    assert from_text("budget", "none") is None
    with Pool(ScriptedConnector(), budget=text) as pool:
        pool.acquire()
        assert held(budget) == 1


@pytest.mark.parametrize(
    ("value", "error", "told"),
    [
        (40, TypeError, "budget must be a Budget, its text form or None, not 40"),
        ("shop", ValueError, "budget='shop': a budget must be NAME:TOTAL or"),
        ("shop:0", ValueError, "budget='shop:0': total must be a whole number"),
    ],
)
def test_what_is_no_budget_is_refused(
    value: Any, error: type[Exception], told: str
) -> None:
    """The message names option, value and rule."""
    with pytest.raises(error, match=told):
        Pool(ScriptedConnector(), budget=value)


def test_a_folder_that_has_no_room_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of the system is in the message."""

    def full(fd: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.ftruncate", full)
    with pytest.raises(BudgetError, match="No space left"):
        Budget(tmp_path / "c", 1)
    assert not list(tmp_path.glob("c*"))


def test_a_connection_that_could_not_be_added_keeps_no_place(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler raised between the lease and the entry."""

    class AtOnce(ScriptedConnector):
        def open_at_once(self) -> Any:
            return self.open()

    pool = make(AtOnce())
    ledger = parts.ledger(pool)

    def fail(entry: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "reserve", fail)
        with pytest.raises(MemoryError):
            pool.acquire()
    wait_until(lambda: pool.stats().budget.own.held == 0)
    pool.release(pool.acquire())
    assert pool.stats().budget.own.held == 1
