"""Each adapter takes a budget, as an object or in its URL."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import create_engine

import geventpool.mysql
import geventpool.redis
from geventpool import Budget
from geventpool.django.mysql.options import pool_options
from geventpool.sqlalchemy import GreenletPool
from tests import parts


@pytest.fixture
def budget(tmp_path: Path) -> Budget:
    return Budget(tmp_path / "b", 4)


def test_a_pool_for_redis_takes_a_budget(budget: Budget) -> None:
    """By name and by URL."""
    url = f"redis://localhost:1/0?budget={budget.path}:4"
    for pool in (
        geventpool.redis.ConnectionPool(budget=budget),
        geventpool.redis.ConnectionPool.from_url(url),
    ):
        assert parts.option(pool.core, "budget") == budget
        pool.core.close(timeout=0)


def test_a_pool_for_mysql_takes_a_budget(budget: Budget) -> None:
    """By name and by URL; its own default limit is above that of the budget."""
    for pool in (
        geventpool.mysql.ConnectionPool(host="localhost", budget=budget),
        geventpool.mysql.ConnectionPool(
            f"mysql://me@localhost/db?budget={budget.path}:4"
        ),
    ):
        assert parts.option(pool, "budget") == budget
        assert pool.max_connections == 4
        pool.close(timeout=0)


def test_a_pool_for_django_takes_a_budget(budget: Budget) -> None:
    """Among the other options of the pool, in the settings."""
    for value in (budget, f"{budget.path}:4"):
        options = {"pool": {"budget": value}}
        settings = {"OPTIONS": options, "CONN_HEALTH_CHECKS": False}
        assert pool_options("default", settings)["budget"] in (budget, value)


def test_an_engine_takes_a_budget(budget: Budget) -> None:
    """As an object and as text."""
    for value in (budget, f"{budget.path}:4"):
        engine = create_engine(
            "mysql+pymysql://127.0.0.1:1/", poolclass=GreenletPool, budget=value
        )
        assert parts.option(engine.pool.core, "budget") == budget  # type: ignore[attr-defined]
