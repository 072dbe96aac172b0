"""What a pool for SQLAlchemy measures."""

from __future__ import annotations

import sqlite3

from sqlalchemy import create_engine

from geventpool.sqlalchemy import GreenletPool


def test_opening_is_the_connecting_that_sqlalchemy_does() -> None:
    """The core pool opens places, which takes no time."""
    engine = create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(":memory:"),
        poolclass=GreenletPool,
        pool_size=3,
    )
    pool = engine.pool
    assert isinstance(pool, GreenletPool)
    pool.core.measure()
    for _ in range(2):
        with engine.connect():
            pass
    stats = pool.stats()
    assert stats.measured is not None and stats.max_idle_connections == 3
    assert stats.measured.create.count == 1 and stats.measured.create.total > 0
    assert stats.measured.use.count == stats.measured.wait.count == 2
    engine.dispose()
