"""A GreenletPool takes part in a budget, though it makes its records itself."""

from __future__ import annotations

import gc
from pathlib import Path

import gevent
import pytest
from sqlalchemy.exc import TimeoutError

from geventpool import Budget
from geventpool.testing import wait_until


@pytest.fixture
def budget(tmp_path: Path) -> Budget:
    return Budget(tmp_path / "b", 2)


def held(budget):
    return budget.stats().held


def test_two_pools_have_no_more_connections_than_the_budget(make_pool, budget):
    """One of them waits, and gets the place that the other one frees."""
    one, other = (make_pool(pool_size=5, budget=budget) for _ in range(2))
    first, second = one.connect(), one.connect()
    assert held(budget) == 2
    waiter = gevent.spawn(other.connect)
    gevent.idle()
    assert not waiter.dead
    first.close()
    third = waiter.get(timeout=10)
    assert held(budget) == 2
    for fairy in (second, third):
        fairy.close()


def test_a_waiter_gets_the_timeout_of_sqlalchemy(make_pool, budget):
    """As if the pool itself were exhausted."""
    one, other = (make_pool(pool_size=5, budget=budget, timeout=0.01) for _ in "12")
    fairies = [one.connect(), one.connect()]
    with pytest.raises(TimeoutError):
        other.connect()
    for fairy in fairies:
        fairy.close()


def test_what_is_on_loan_keeps_its_place_when_a_pool_is_disposed(make_pool, budget):
    """Its connection is open until its borrower gives it back."""
    pool = make_pool(pool_size=5, budget=budget)
    fairy, idle = pool.connect(), pool.connect()
    idle.close()
    pool.dispose()
    assert held(budget) == 1
    fairy.close()
    assert pool.core.size == held(budget) == 1


def test_a_place_is_free_when_a_forgotten_loan_is_collected(make_pool, budget):
    """Its borrower may keep it longer than the pool."""
    pool = make_pool(pool_size=5, budget=budget)
    fairy = pool.connect()
    fairy.detach()
    pool.dispose()
    second = pool.connect()
    pool.dispose()
    assert held(budget) == 1
    del second
    gc.collect()
    wait_until(lambda: pool.core.size == held(budget))


def test_a_record_is_not_taken_back_without_a_place(make_pool, budget):
    """It is closed, as if the pool were full."""
    pool = make_pool(pool_size=5, budget=budget)
    other = make_pool(pool_size=5, budget=budget)
    fairy = pool.connect()
    pool.free_place(fairy._connection_record)
    others = [other.connect(), other.connect()]
    assert not pool.core.readmit(fairy._connection_record)
    fairy.close()
    assert pool.core.size == 0
    for each in others:
        each.close()
