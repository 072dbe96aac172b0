"""The values of the metrics, which all exporters read."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import pytest

from geventpool import Budget, Labels, Pool, PoolExhaustedError
from geventpool._core.measured import LABELS, Measured
from geventpool._core.reports import IdleHold, LabelCounts, Leak
from geventpool.series import VALUES, Instrument, Reading, prometheus_name, read
from geventpool.testing import Clock, ScriptedConnector, wait_until
from tests import parts
from tests.telemetry import isolated


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with isolated(monkeypatch):
        yield


def values(reading: Reading, name: str) -> dict[tuple[str, ...], float]:
    """The values of one metric, by its attributes."""
    (value,) = [each for each in VALUES if each.name == f"geventpool.{name}"]
    return {
        tuple(attributes.values()): number
        for attributes, number in value.points(reading)
    }


def reading_of(*pools: Pool[Any]) -> Reading:
    (reading,) = read(pools)
    return reading


def is_waiting(pool: Pool[Any]) -> bool:
    return pool.stats().waiting == 1


@pytest.fixture
def budget(tmp_path: Path) -> Budget:
    return Budget(tmp_path / "b", 4)


def test_a_budget_is_told_once_and_parts_are_added_up(budget: Budget) -> None:
    """Two pools of one name have one limit, and each a part of its own."""
    one: Pool[Any] = Pool(ScriptedConnector(), name="p", budget=budget)
    other: Pool[Any] = Pool(ScriptedConnector(), name="p", budget=budget)
    unused: Pool[Any] = Pool(ScriptedConnector(), name="p", budget=budget)
    with one, other, unused:
        one.acquire(), one.acquire(), other.acquire()
        reading = reading_of(one, other, unused)
    key = (budget.name,)
    assert values(reading, "budget.limit") == {key: 4}
    assert values(reading, "budget.taken") == {key: 3}
    assert values(reading, "budget.held") == {key: 3}
    assert values(reading, "budget.waiting") == {key: 0}


def test_places_that_moved_are_counted_for_the_giver(budget: Budget) -> None:
    """Also when it is no more, for a count must not fall."""
    giver: Pool[Any] = Pool(ScriptedConnector(), name="giver", budget=budget)
    taker: Pool[Any] = Pool(ScriptedConnector(), name="taker", budget=budget)
    giver.measure(), taker.measure()  # type: ignore[func-returns-value]
    conns = [giver.acquire() for _ in range(4)]
    waiter = gevent.spawn(taker.acquire, reclaim=False)
    wait_until(partial(is_waiting, taker))
    assert values(reading_of(taker), "budget.waiting") == {(budget.name,): 1}
    for conn in conns:
        giver.release(conn)
    waiter.get(timeout=10)
    readings = {each.name: each for each in read()}
    (moved,) = values(readings["giver"], "budget.moved").values()
    assert moved >= 1
    assert values(readings["taker"], "budget.moved") == {(): 0}
    assert values(readings["taker"], "budget.recovered") == {(): 0}
    assert budget.stats().moved >= moved
    giver.close(timeout=0), taker.close(timeout=0)
    del giver, taker, conns, conn, readings
    gc.collect()
    readings = {each.name: each for each in read()}
    assert values(readings["giver"], "budget.moved") == {(): moved}
    assert values(readings["taker"], "budget.moved") == {}


def test_a_pool_without_a_budget_tells_of_none() -> None:
    """Most pools have none."""
    with Pool(ScriptedConnector(), name="p") as pool:
        pool.measure()
        reading = reading_of(pool)
    budgets = [each.name for each in VALUES if "budget" in each.name]
    assert len(budgets) == 6
    for name in budgets:
        assert values(reading, name.removeprefix("geventpool.")) == {}


def test_idle_holds_and_leaks_are_told_by_line() -> None:
    """The highest share of a line, and the sum of what it leaks."""
    with Pool(ScriptedConnector(), name="p") as pool:
        stats = pool.stats()
    one = replace(
        stats,
        idle_holds=(IdleHold("a.py:1", "b.py:2", 0.8, 20),),
        leaks=(Leak("a.py:1", "b.py:2", 3, 2, 9.0),),
    )
    other = replace(
        stats,
        idle_holds=tuple(IdleHold(f"a.py:{n}", "b.py:2", 0.6, 20) for n in range(9)),
        leaks=(Leak("a.py:1", "b.py:2", 1, 1, 9.0),),
    )
    reading = replace(reading_of(pool), stats=(one, other))
    found = values(reading, "idle_holds")
    assert len(found) == 8
    assert (found[("a.py:1",)], found[("a.py:2",)]) == (0.8, 0.6)
    assert values(reading, "leaks") == {("a.py:1",): 3}


def labelled(reading: Reading) -> dict[str, dict[tuple[str, ...], float]]:
    """The metrics by label."""
    names = ("loans", "refusals", "wait_time", "use_time")
    return {name: values(reading, f"label.{name}") for name in names}


def use(pool: Pool[Any], name: str) -> None:
    """One loan with a label of the pool."""
    with pool.label(name), pool.connection():
        pass


def test_labels_are_told_once_they_are_used() -> None:
    """Also those of a pool that was measured before its first label."""
    clock = Clock()
    with Pool(ScriptedConnector(), name="p", max_connections=1) as pool:
        clock.rule(pool)
        pool.measure()
        with pool.connection():
            pass
        assert not any(labelled(reading_of(pool)).values())
        with pool.label("checkout"), pool.connection():
            clock.advance(3)
            with pool.label("search"), pytest.raises(PoolExhaustedError):
                pool.acquire(timeout=0)
        assert labelled(reading_of(pool)) == {
            "loans": {("checkout",): 1, ("search",): 0},
            "refusals": {("checkout",): 0, ("search",): 1},
            "wait_time": {("checkout",): 0.0, ("search",): 0.0},
            "use_time": {("checkout",): 3.0, ("search",): 0.0},
        }


def test_labels_of_pools_that_are_not_measured_are_not_told() -> None:
    """Nothing else is told of them either that only grows."""
    with Pool(ScriptedConnector(), name="p") as pool:
        use(pool, "a")
        assert not any(labelled(reading_of(pool)).values())


def test_labels_are_counted_since_measuring_began() -> None:
    """In a forked child that is its begin: the parent tells what was before."""
    with Pool(ScriptedConnector(), name="p", listeners=[Labels()]) as pool:
        use(pool, "a"), use(pool, "b")  # type: ignore[func-returns-value]
        pool.measure()
        use(pool, "b")
        assert labelled(reading_of(pool))["loans"] == {("b",): 1}
        parts.forked(pool)
        assert labelled(reading_of(pool))["loans"] == {}
        use(pool, "a")
        assert labelled(reading_of(pool))["loans"] == {("a",): 1}


def test_counts_by_label_outlive_their_pool() -> None:
    """A count must not fall."""
    for name in "a", "b":
        pool: Pool[Any] = Pool(ScriptedConnector(), name="p")
        pool.measure()
        use(pool, name), use(pool, "both")  # type: ignore[func-returns-value]
        pool.close()
    del pool
    gc.collect()
    (reading,) = read()
    assert labelled(reading)["loans"] == {("a",): 1, ("both",): 2, ("b",): 1}


def test_the_number_of_labels_of_one_name_is_bounded() -> None:
    """Pools that come and go may each have labels of their own."""
    sums = Measured()
    for number in range(LABELS + 6):
        sums = sums.plus(Measured(labels=(LabelCounts(f"a{number}", loans=1),)))
    assert len(sums.labels) == LABELS + 1
    assert sums.labels[0] == LabelCounts("a0", loans=1)
    assert sums.labels[-1] == LabelCounts("(others)", loans=6)


def test_a_share_has_the_suffix_of_a_ratio() -> None:
    """As OpenTelemetry names it in Prometheus."""
    assert prometheus_name(Instrument("a.b", "1", "")) == "a_b_ratio"
