"""What a pool for SQLAlchemy measures."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import gevent
import pytest
from sqlalchemy import Engine, create_engine, text

from geventpool import CloseReason
from geventpool._core.measured import Measured
from geventpool.sqlalchemy import GreenletPool
from geventpool.sqlalchemy.mysql_reset import reset_server_session
from tests.servers import MariaDBServer


@pytest.fixture
def engine() -> Iterator[Engine]:
    made: list[sqlite3.Connection] = []

    def connect() -> sqlite3.Connection:
        made.append(sqlite3.connect(":memory:"))
        return made[-1]

    yield create_engine(
        "sqlite://", creator=connect, poolclass=GreenletPool, pool_size=3
    )
    for conn in made:
        # Python 3.13 and later warn of those that are not.
        conn.close()


def measured(engine: Engine) -> Measured:
    pool = engine.pool
    assert isinstance(pool, GreenletPool)
    pool.core.measure()
    found = pool.stats().measured
    assert found is not None
    return found


def test_opening_is_the_connecting_that_sqlalchemy_does(engine: Engine) -> None:
    """The core pool opens places, which takes no time."""
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


def test_connections_that_sqlalchemy_closes_are_counted(engine: Engine) -> None:
    """It may keep the place, and connect it again; the core does not see that."""
    measured(engine)
    conn = engine.connect()
    conn.invalidate()
    conn.close()
    assert measured(engine).closed == {CloseReason.DROPPED: 1}
    with engine.connect():
        pass
    assert measured(engine).create.count == 2
    assert measured(engine).closed == {CloseReason.DROPPED: 1}


def test_connections_that_the_core_closes_are_counted_by_reason(
    engine: Engine,
) -> None:
    """With a goodbye or without; and a place without a connection does not count."""
    measured(engine)
    core = engine.pool.core  # type: ignore[attr-defined]
    with engine.connect():
        pass
    core.drain()
    gevent.idle()
    assert measured(engine).closed == {CloseReason.DRAINED: 1}
    engine.connect().detach()
    core.drop(core.acquire())
    record = core.acquire()
    record.get_connection()
    core.drop(record)
    assert measured(engine).closed == {CloseReason.DRAINED: 1, CloseReason.DROPPED: 1}


def test_resets_of_sessions_are_counted(own_server: MariaDBServer) -> None:
    """By what was done, as those of a pool for MySQL are."""
    engine = create_engine(
        "mysql+pymysql://",
        connect_args=own_server.client_options,
        poolclass=GreenletPool,
    )
    with engine.connect():
        pass
    reset_server_session(engine)
    engine.pool.core.drain()  # type: ignore[attr-defined]
    assert measured(engine).resets == {}
    with engine.connect():
        pass
    assert measured(engine).resets == {"skipped": 1}
    with engine.connect() as conn:
        conn.execute(text("SET @a = 1"))
    with engine.connect() as conn:
        conn.execute(text("SELECT GET_LOCK('x', 1)"))
    found = measured(engine).resets
    assert found["skipped"] == 1 and sum(found.values()) == 3
    assert found["full"] >= 1
    engine.dispose()


def test_connections_that_the_server_closed_are_not_idle(
    own_server: MariaDBServer,
) -> None:
    """The metrics tell what the server does, although nobody has borrowed since."""
    engine = create_engine(
        "mysql+pymysql://",
        connect_args=own_server.client_options,
        poolclass=GreenletPool,
    )
    first, second = engine.connect(), engine.connect()
    first.close()
    pool = engine.pool
    assert isinstance(pool, GreenletPool)
    assert (pool.stats().size, pool.stats().idle) == (2, 1)
    own_server.restart()
    assert (pool.stats().size, pool.stats().idle) == (1, 0)
    # The place is there, and connected again by its next borrower.
    assert pool.core.size == 2
    with engine.connect():
        assert (pool.stats().size, pool.stats().in_use) == (2, 2)
    assert pool.stats().idle == 1
    second.invalidate()
    second.close()
    assert pool.stats().idle == 1 and pool.core.idle_connections()
    engine.dispose()


def test_what_has_no_descriptor_counts_as_open(engine: Engine) -> None:
    """SQLite has no server that could close it."""
    pool = engine.pool
    assert isinstance(pool, GreenletPool)
    conn = engine.connect()
    conn.close()
    assert (pool.stats().size, pool.stats().idle) == (1, 1)
    with engine.connect() as conn:
        conn.invalidate()
    assert (pool.core.size, pool.stats().size, pool.stats().idle) == (1, 0, 0)
