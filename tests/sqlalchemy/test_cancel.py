"""Engines with a session reset end interrupted statements at the server."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import gevent
import gevent.os
import pytest
from sqlalchemy import create_engine, exc, text
from sqlalchemy.pool import QueuePool

from geventpool.sqlalchemy import reset_server_session
from geventpool.testing import check, wait_until
from tests.mysql.conftest import is_running
from tests.sqlalchemy.conftest import core


@pytest.fixture()
def make(make_engine: Any, mariadb_server: Any) -> Any:
    """Makes engines with two connections at most whose sessions are reset."""

    def make_one(cancel: bool = True, **options: Any) -> Any:
        options = {"pool_size": 2, "max_overflow": 0, **options}
        engine = make_engine(**options, pool_reset_on_return=None)
        reset_server_session(engine, cancel=cancel)
        return engine

    yield make_one
    mariadb_server.hang_up()
    wait_until(lambda: mariadb_server.connections() == 0, "at rest")


def interrupted(engine: Any, server: Any, number: int, way: str) -> str:
    """Interrupt a statement, and return it."""
    statement = f"SELECT SLEEP(60) + {number}"

    def work() -> None:
        # The greenlet would else print its traceback.
        with suppress(gevent.Timeout), engine.connect() as conn:
            conn.execute(text(statement))

    worker = gevent.spawn(work)
    wait_until(lambda: is_running(server, statement), "it runs")
    worker.kill(gevent.Timeout() if way == "timeout" else gevent.GreenletExit())
    return statement


@pytest.mark.parametrize("way", ["timeout", "kill"])
def test_an_interrupted_statement_is_ended_before_its_place_is_free(
    make: Any, mariadb_server: Any, way: str
) -> None:
    """A slow database must not be buried by clients that do not wait for it."""
    engine = make()
    with engine.connect() as conn:
        conn.execute(text("SELECT 1"))
    statement = interrupted(engine, mariadb_server, 1, way)
    wait_until(lambda: core(engine).stats().closing == 0, "let go")
    assert not is_running(mariadb_server, statement)
    assert core(engine).stats().cancelled == 1
    with engine.connect() as one, engine.connect() as two:
        assert [each.scalar(text("SELECT 2")) for each in (one, two)] == [2, 2]
    check(core(engine))


def test_the_time_limit_of_the_driver_interrupts_too(
    make: Any, mariadb_server: Any
) -> None:
    """It is the most usual one."""
    engine = make(connect_args={"read_timeout": 0.1})
    with pytest.raises(exc.OperationalError), engine.connect() as conn:
        conn.execute(text("SELECT SLEEP(60)"))
    wait_until(lambda: core(engine).stats().closing == 0, "let go")
    assert not is_running(mariadb_server, "SELECT SLEEP(60)")
    assert core(engine).stats().cancelled == 1


def test_the_connection_may_be_used_on(make: Any, mariadb_server: Any) -> None:
    """The engine makes another one for it, in another place."""
    engine = make()
    with engine.connect() as conn:
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.05):
            conn.execute(text("SELECT SLEEP(60)"))
        conn.rollback()
        assert conn.scalar(text("SELECT 3")) == 3
    wait_until(lambda: core(engine).stats().closing == 0, "let go")
    assert core(engine).stats().cancelled == 1


def test_it_may_be_switched_off(make: Any, mariadb_server: Any) -> None:
    """Then the place is free at once, and the statement runs on."""
    engine = make(cancel=False)
    statement = interrupted(engine, mariadb_server, 4, "kill")
    assert core(engine).stats().closing == 0
    assert is_running(mariadb_server, statement)


def test_an_engine_with_another_pool_is_left_alone(mysql_url: str) -> None:
    """Its places are not this pool's to keep."""
    engine = create_engine(mysql_url, poolclass=QueuePool, pool_reset_on_return=None)
    reset_server_session(engine)
    with engine.connect() as conn:
        assert conn.scalar(text("SELECT 1")) == 1
    engine.dispose()


def test_a_disposed_engine_cancels_too(make: Any, mariadb_server: Any) -> None:
    """SQLAlchemy has made a new pool for it; what was lent before is closed."""
    engine = make()
    lent = engine.raw_connection()
    engine.dispose()
    lent.dbapi_connection.set_aside()
    lent.invalidate()
    statement = interrupted(engine, mariadb_server, 5, "kill")
    wait_until(lambda: core(engine).stats().closing == 0, "let go")
    assert not is_running(mariadb_server, statement)


def test_a_statement_that_is_not_waited_for_leaves_no_socket(
    make: Any, mariadb_server: Any
) -> None:
    """When the pool is closed before the server has let go."""
    engine = make()
    pool = engine.pool
    seen: list[Any] = []
    strand = pool.stranding

    def note(conn: Any) -> Any:
        sock, stranded = conn.interrupted, strand(conn)
        # Kept: the collector would close the socket as well.
        seen.append((sock, stranded))
        return stranded

    pool.stranding = note
    interrupted(engine, mariadb_server, 6, "kill")
    core(engine).close(timeout=0)
    assert [sock.fileno() for sock, _ in seen] == [-1]


def test_only_connections_of_the_engine_are_cancelled(make: Any) -> None:
    """A connection that was opened before is one of PyMySQL."""
    assert make().pool.strand(object()) is None


def test_a_record_without_a_statement_has_nothing_to_cancel(make: Any) -> None:
    """Another greenlet may have let go of it."""
    engine = make()
    fairy = engine.raw_connection()
    record = fairy._connection_record
    assert core(engine).connector.cancel(record) is False
    fairy.close()


def test_a_forked_child_does_not_end_the_statements_of_its_parent(
    make: Any, mariadb_server: Any
) -> None:
    """It has a copy of the socket of each statement."""
    engine = make()
    statement = "SELECT SLEEP(0.5) + 8"

    def work() -> Any:
        with engine.connect() as conn:
            return conn.scalar(text(statement))

    worker = gevent.spawn(work)
    wait_until(lambda: is_running(mariadb_server, statement), "it runs")
    child = os.fork()
    if not child:
        try:
            engine.dispose()
        finally:
            os._exit(0)
    gevent.os.waitpid(child, 0)
    assert worker.get() == 8
