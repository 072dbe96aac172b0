"""An error at any call, such as a RecursionError, loses no place of a budget."""

from __future__ import annotations

import contextlib
import gc
import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import gevent
import pytest

from geventpool import Budget, Pool, PoolError
from geventpool._core import leases, seat_client
from geventpool.budget import locks, seat, sharing, table, wakeups
from geventpool.testing import ScriptedConnector, exhaust_stack_everywhere, wait_until
from tests import parts
from tests.conftest import HubError

#: Whose functions fail.
OWNERS = (
    leases.Leases,
    seat_client.SeatClient,
    seat.Seat,
    table.Table,
    wakeups.Mailbox,
    seat,
    table,
    locks,
)
MODULES = {
    each.__name__
    for each in (leases, seat_client, seat, sharing, table, wakeups, locks)
}
#: A finaliser cannot be called again; the other is referred to weakly.
SPARED = {"__del__", "_hear"}


def attend(one: seat.Seat) -> None:
    """Have a seat see to its places; nothing is left to do then."""
    assert not one.attend()


def is_known(one: seat.Seat) -> bool:
    """Whether this process would find the seat again."""
    return one in seat.open_seats


class Fault:
    """Fails one call of a function of a budget; counts the calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.at = -1
        self.error: type[Exception] = RecursionError
        for owner in OWNERS:
            for name, function in list(vars(owner).items()):
                is_ours = inspect.isfunction(function) and name not in SPARED
                if is_ours and function.__module__ in MODULES:
                    monkeypatch.setattr(owner, name, self._failing(function))

    def _failing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self.at:
                raise self.error
            return function(*args, **kwargs)

        return called


class Counted(ScriptedConnector):
    """Counts the connections of all pools, and compares them with the places."""

    opened = 0  # type: ignore[assignment]
    most = 0

    def open(self) -> Any:
        Counted.opened += 1
        Counted.most = max(Counted.most, Counted.opened)
        return super().open()

    def terminate(self, conn: Any) -> Any:
        Counted.opened -= 1
        return super().terminate(conn)

    def close(self, conn: Any) -> Any:
        Counted.opened -= 1
        return super().close(conn)


def work(one: Pool[Any], other: Pool[Any]) -> None:
    """Take all places, lose some, and pass some on to the other pool."""
    with contextlib.suppress(RecursionError, MemoryError, PoolError):
        first = one.acquire(timeout=1)
        second = one.acquire(timeout=1)
        one.drop(first)
        waiter = gevent.spawn(other.acquire, timeout=1, reclaim=False)
        gevent.sleep(0)
        one.release(second)
        waiter.join()


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Fault:
    return Fault(monkeypatch)


# Python reports errors of finalisers, and sockets that it had to close.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("error", "step"), [(RecursionError, 1), (MemoryError, 5)])
def test_an_error_at_any_call_loses_no_place(
    fault: Fault,
    error: type[Exception],
    step: int,
    tmp_path: Path,
    hub_errors: list[HubError],
) -> None:
    """Neither for this process nor for the others; and no place is used twice."""
    fault.error = error
    at, total = 0, 2
    while at <= fault.calls:
        at += step
        budget = Budget(tmp_path / f"{at}", total)
        pools = [Pool(Counted(), budget=budget, timeout=1) for _ in range(2)]
        Counted.opened = Counted.most = 0
        fault.calls, fault.at = 0, at
        work(*pools)
        fault.at = -1
        for pool in pools:
            for conn in pool.lent_connections():
                pool.release(conn, anyone=True)
        # Whatever was left is given back now, or is taken by the next borrower.
        pools[0].resize(1)
        conns = [pool.acquire(timeout=10, reclaim=False) for pool in pools]
        assert Counted.opened == total, f"call {at}"
        assert budget.stats().held == total, f"call {at}"
        for pool, conn in zip(pools, conns):
            pool.drop(conn)
            pool.close(timeout=10)
        wait_until(lambda budget=budget: budget.stats().held == 0)  # type: ignore[misc]
        assert Counted.most <= total, f"call {at}"
    assert at > 50
    hub_errors.clear()
    del pools, pool, conns, conn
    gc.collect()


def test_a_place_that_could_not_be_given_back_is_used_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is noted in a way that needs no call."""
    budget = Budget(tmp_path / "b", 1)
    with Pool(ScriptedConnector(), budget=budget) as pool:
        conn = pool.acquire()
        ledger = parts.ledger(pool)
        on_closed = ledger.on_closed

        def fail() -> None:
            raise RecursionError

        ledger.on_closed = fail
        pool.drop(conn)
        wait_until(lambda: ledger.unreturned == 1)
        ledger.on_closed = on_closed
        pool.release(pool.acquire())
        assert (ledger.unreturned, budget.stats().held) == (0, 1)


def test_a_seat_without_a_pool_is_closed_when_its_last_place_is_given_late(
    tmp_path: Path,
) -> None:
    """The pool was collected after an error had kept a place."""
    budget = Budget(tmp_path / "b", 1)
    one = budget.seat("")
    assert one.lease()
    one.ready += 1
    attend(one)
    assert not is_known(one)


def test_a_place_that_an_error_kept_is_given_when_another_wants_one(
    tmp_path: Path,
) -> None:
    """The places in use stay."""
    budget = Budget(tmp_path / "b", 2)
    one = budget.seat("")
    assert one.lease() and one.lease()
    one.ready += 1
    attend(one)
    assert len(one.table.held) == 1 and is_known(one)
    one.close()


def test_a_full_stack_loses_no_place(
    tmp_path: Path, hub_errors: list[HubError]
) -> None:
    """At each depth: the lease is taken, or given up, or not touched at all."""
    budgets: list[Budget] = []

    def scenario() -> Any:
        if budgets:
            wait_until(lambda: budgets[-1].stats().held == 0)
        budget = Budget(tmp_path / f"{len(budgets)}", 1)
        budgets.append(budget)
        pool: Pool[Any] = Pool(ScriptedConnector(), budget=budget, timeout=1)

        def use() -> None:
            conn = pool.acquire()
            pool.drop(conn)
            pool.release(pool.acquire())

        return use, [pool]

    assert exhaust_stack_everywhere(scenario) >= 5
    hub_errors.clear()


def test_a_loan_of_an_open_connection_calls_nothing_of_the_budget(
    fault: Fault, tmp_path: Path
) -> None:
    """So it costs nothing more than without a budget, and makes no system call."""
    with Pool(ScriptedConnector(), budget=Budget(tmp_path / "b", 2)) as pool:
        pool.release(pool.acquire())
        before = fault.calls
        for _ in range(3):
            pool.release(pool.acquire())
            with pool.connection():
                pass
        assert fault.calls == before > 0
