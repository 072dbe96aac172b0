"""peewee on the MySQL pool."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import gevent
import peewee
import pytest

from geventpool.mysql import ConnectionPool
from geventpool.peewee import PooledMySQLDatabase
from geventpool.testing import wait_until
from tests.pauses import give_up_after
from tests.servers import MariaDBServer


@pytest.fixture
def db(mariadb_server: MariaDBServer) -> Iterator[PooledMySQLDatabase]:
    """A database with two connections."""
    made = PooledMySQLDatabase(None)
    reinit(made, mariadb_server)
    yield made
    if made.pool is not None:
        made.pool.close(timeout=0)


def reinit(db: PooledMySQLDatabase, server: MariaDBServer, **options: Any) -> None:
    """Give the database its server, as programs do that read their settings late."""
    keywords = {**server.client_options, "max_connections": 2, "timeout": 10, **options}
    db.init(keywords.pop("database"), **keywords)


def pool_of(db: PooledMySQLDatabase) -> ConnectionPool:
    """Where the connections of an initialized database come from."""
    assert db.pool is not None
    return db.pool


def test_waiters_do_not_hold_up_those_that_give_back(db: PooledMySQLDatabase) -> None:
    """peewee connects and closes under one lock."""

    def work(number: int) -> int:
        with db.connection_context():
            statement = "SELECT %s, SLEEP(0.005)"
            return int(db.execute_sql(statement, (number,)).fetchone()[0])

    jobs = [gevent.spawn(work, number) for number in range(10)]
    assert [job.get(timeout=10) for job in jobs] == list(range(10))
    assert pool_of(db).size <= 2


def test_models_and_transactions_work(db: PooledMySQLDatabase) -> None:
    class Hit(peewee.Model):  # type: ignore[misc]
        page = peewee.CharField()

        class Meta:
            database = db

    with db.connection_context():
        db.create_tables([Hit])
        try:
            with pytest.raises(ZeroDivisionError), db.atomic():
                Hit.create(page="/lost")
                1 / 0
            with db.atomic():
                Hit.create(page="/kept")
            assert [hit.page for hit in Hit.select()] == ["/kept"]
        finally:
            db.drop_tables([Hit])


def test_a_greenlet_that_forgets_to_close_gives_its_connection_back(
    db: PooledMySQLDatabase,
) -> None:
    def forget() -> None:
        db.execute_sql("SELECT 1")

    for _ in range(5):
        gevent.spawn(forget).get()
    wait_until(lambda: pool_of(db).stats().in_use == 0)
    assert pool_of(db).size <= 2


def test_a_connection_that_was_interrupted_reaches_nobody(
    db: PooledMySQLDatabase,
) -> None:
    with give_up_after(0.05), db.connection_context():
        db.execute_sql("SELECT 1, SLEEP(30)")
    with db.connection_context():
        assert db.execute_sql("SELECT 2").fetchone() == (2,)


@pytest.mark.parametrize("depth", [1, 2])
def test_an_interruption_passes_through_transactions(
    db: PooledMySQLDatabase, depth: int
) -> None:
    """There is no connection on which peewee could roll back."""
    with db.connection_context(), give_up_after(0.05), ExitStack() as stack:
        for _ in range(depth):
            stack.enter_context(db.atomic())
        db.execute_sql("SELECT 1, SLEEP(30)")
    with db.connection_context(), db.atomic(), db.atomic() as inner:
        assert db.execute_sql("SELECT 2").fetchone() == (2,)
        inner.rollback()


def test_a_second_connect_is_refused_or_reuses(db: PooledMySQLDatabase) -> None:
    """As without a pool."""
    assert db.connect()
    assert not db.connect(reuse_if_open=True)
    with pytest.raises(peewee.OperationalError, match="already opened"):
        db.connect()
    assert db.close()
    assert not db.close()
    assert pool_of(db).stats().in_use == 0


def test_a_deferred_database_cannot_connect() -> None:
    with pytest.raises(peewee.InterfaceError, match="must be initialized"):
        PooledMySQLDatabase(None).connect()


def test_a_connection_goes_back_when_connecting_fails(
    db: PooledMySQLDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(conn: object) -> None:
        raise peewee.InternalError("no settings")

    monkeypatch.setattr(db, "_initialize_connection", fail)
    with pytest.raises(peewee.InternalError, match="no settings"):
        db.connect()
    assert not db.close()
    assert pool_of(db).stats().in_use == 0


def test_a_connection_goes_back_when_peewee_does_not_take_it(
    db: PooledMySQLDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(db, "_connect", fail)
    with pytest.raises(KeyboardInterrupt):
        db.connect()
    assert pool_of(db).stats().in_use == 0


def test_the_options_of_the_pool_are_keywords(
    db: PooledMySQLDatabase, mariadb_server: MariaDBServer
) -> None:
    former = pool_of(db)
    reinit(db, mariadb_server, max_connections=7)
    assert former.closed
    former = pool_of(db)
    assert former.max_connections == 7
    with pytest.raises(TypeError, match="max_conections"):
        reinit(db, mariadb_server, max_conections=1)
    assert db.pool is None
    assert former.closed
