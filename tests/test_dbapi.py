"""Connections of DB-API drivers: no transaction goes to the next borrower."""

from __future__ import annotations

import functools
import logging
import sqlite3
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import psycopg
import pymysql
import pytest

from geventpool import Counters, DBAPIConnector, ErrorAction, Pool
from geventpool.dbapi import driver_of
from geventpool.testing import wait_until
from tests.pauses import give_up_after
from tests.postgres import PostgresServer
from tests.servers import MariaDBServer

IDLE = psycopg.pq.TransactionStatus.IDLE


@pytest.fixture
def table(postgres_server: PostgresServer) -> Iterator[str]:
    """An empty table."""
    with psycopg.connect(**postgres_server.client_options, autocommit=True) as conn:
        conn.execute("CREATE TABLE one (number int PRIMARY KEY)")
        yield "one"
        conn.execute("DROP TABLE one")


@pytest.fixture
def pool(postgres_server: PostgresServer) -> Iterator[Pool[psycopg.Connection]]:
    """The pool that a user makes of the driver's own function."""
    options = postgres_server.client_options
    with Pool(
        psycopg.connect,
        options,
        max_connections=3,
        timeout=10,
        listeners=[Counters()],
    ) as made:
        yield made


def opened(pool: Pool[Any]) -> int:
    """Return how many connections the pool has opened so far."""
    totals = pool.stats().totals
    assert totals is not None
    return totals.opened


# A loan's transaction.


def test_an_open_transaction_is_rolled_back_before_the_next_loan(
    pool: Pool[psycopg.Connection], table: str
) -> None:
    """The function of a driver is recognised: no connector has to be written."""
    with pool.connection() as conn:
        conn.execute("INSERT INTO one VALUES (1)")
    with pool.connection() as again:
        assert again is conn
        assert again.info.transaction_status == IDLE
        assert again.execute("SELECT * FROM one").fetchall() == []


def test_what_was_committed_stays(
    pool: Pool[psycopg.Connection], table: str, postgres_server: PostgresServer
) -> None:
    with pool.connection() as conn:
        conn.execute("INSERT INTO one VALUES (1)")
        conn.commit()
    assert postgres_server.ask("SELECT * FROM one") == [(1,)]


def test_the_locks_of_a_loan_end_without_another_loan(
    pool: Pool[psycopg.Connection], table: str, postgres_server: PostgresServer
) -> None:
    with pool.connection() as conn:
        conn.execute("LOCK TABLE one")
    wait_until(
        lambda: (
            postgres_server.ask(
                "SELECT count(*) FROM pg_locks WHERE relation = 'one'::regclass"
            )
            == [(0,)]
        )
    )


def test_an_error_of_a_statement_keeps_the_connection(
    pool: Pool[psycopg.Connection],
) -> None:
    for _ in range(5):
        with pytest.raises(psycopg.errors.UndefinedTable), pool.connection() as conn:
            conn.execute("SELECT * FROM missing")
    assert opened(pool) == 1
    with pool.connection() as conn:
        assert conn.info.transaction_status == IDLE


def test_a_loan_that_left_nothing_is_not_reset() -> None:
    connector = DBAPIConnector(psycopg.connect)
    info = SimpleNamespace(transaction_status=IDLE)
    assert not connector.needs_reset(SimpleNamespace(info=info))


def test_a_driver_that_cannot_tell_is_reset_after_each_loan() -> None:
    assert DBAPIConnector(psycopg.connect).needs_reset(object())


def test_a_driver_with_a_flag_for_its_transaction_is_asked() -> None:
    connector = DBAPIConnector(sqlite3.connect, dict(database=":memory:"), sqlite3)
    conn = connector.open()
    assert not connector.needs_reset(conn)
    conn.execute("CREATE TABLE one (number int)")
    conn.execute("INSERT INTO one VALUES (1)")
    assert connector.needs_reset(conn)
    connector.reset(conn)
    assert not connector.needs_reset(conn)
    connector.close(conn)


def test_the_driver_of_a_function_in_c_is_found() -> None:
    """The module of sqlite3.connect is _sqlite3, which is no driver."""
    assert driver_of(sqlite3.connect) is sqlite3


def test_pymysql_in_a_plain_pool_is_rolled_back(mariadb_server: MariaDBServer) -> None:
    with Pool(pymysql.connect, mariadb_server.client_options) as pool:
        with pool.connection() as conn, conn.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE one (number int)")
            cursor.execute("INSERT INTO one VALUES (1)")
        with pool.connection() as again, again.cursor() as cursor:
            assert again is conn
            cursor.execute("SELECT * FROM one")
            assert cursor.fetchall() == ()


# Interruption and loss.


def test_a_statement_that_was_interrupted_reaches_nobody(
    pool: Pool[psycopg.Connection],
) -> None:
    with give_up_after(0.05), pool.connection() as conn:
        conn.execute("SELECT 1, pg_sleep(30)")
    with pool.connection() as conn:
        assert conn.execute("SELECT 2").fetchone() == (2,)


def test_a_connection_with_a_command_under_way_is_not_lent(
    pool: Pool[psycopg.Connection],
) -> None:
    with pool.connection() as conn:
        conn.pgconn.send_query(b"SELECT pg_sleep(30)")
    with pool.connection() as again:
        assert again is not conn


def test_a_closed_connection_is_not_lent(pool: Pool[psycopg.Connection]) -> None:
    with pool.connection() as conn:
        conn.close()
    with pool.connection() as again:
        assert again is not conn


def test_only_a_connection_at_rest_is_usable() -> None:
    connector = DBAPIConnector(psycopg.connect)
    for closed, status in ((True, IDLE), (False, 1), (False, 4)):
        info = SimpleNamespace(transaction_status=status)
        assert not connector.is_usable(SimpleNamespace(closed=closed, info=info))


def test_an_object_that_cannot_be_asked_is_not_usable() -> None:
    class Torn:
        @property
        def closed(self) -> bool:
            raise OSError

        @property
        def info(self) -> Any:
            raise OSError

        def fileno(self) -> int:
            return -1

    connector = DBAPIConnector(psycopg.connect)
    assert not connector.is_usable(Torn())
    assert connector.terminate(Torn())


def test_the_pool_serves_again_after_a_restart_of_the_server() -> None:
    with (
        PostgresServer() as server,
        Pool(psycopg.connect, server.client_options, max_connections=3) as pool,
    ):
        held = [pool.acquire() for _ in range(3)]
        for conn in held:
            pool.release(conn)
        server.restart()
        with pool.connection() as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)


def test_a_full_server_makes_borrowers_wait() -> None:
    with (
        PostgresServer(max_connections=3, superuser_reserved_connections=0) as server,
        Pool(
            psycopg.connect, server.client_options, max_connections=6, timeout=20
        ) as pool,
    ):

        def use(number: int) -> int:
            with pool.connection() as conn:
                row = conn.execute("SELECT %s::int, pg_sleep(0.01)", (number,))
                [answer, _] = row.fetchone() or ()  # type: ignore[misc]
                return int(answer)

        jobs = [gevent.spawn(use, number) for number in range(12)]
        assert [job.get() for job in jobs] == list(range(12))


def test_a_ping_leaves_no_transaction(postgres_server: PostgresServer) -> None:
    connector = DBAPIConnector(psycopg.connect, postgres_server.client_options)
    conn = connector.open()
    assert connector.can_ping(conn)
    connector.ping(conn)
    assert conn.info.transaction_status == IDLE
    conn.autocommit = True
    connector.ping(conn)
    connector.close(conn)
    with pytest.raises(psycopg.OperationalError):
        connector.ping(conn)


# What an error means.


class Refused(psycopg.OperationalError):
    """An error with a state of its own."""

    def __init__(self, text: str, state: str | None = None) -> None:
        super().__init__(text)
        self.sqlstate = state


@pytest.mark.parametrize(
    "error, action",
    [
        (psycopg.errors.UniqueViolation("twice"), ErrorAction.KEEP),
        (psycopg.DataError("no number"), ErrorAction.KEEP),
        (Refused("cancelled", "57014"), ErrorAction.DISCARD),
        (Refused("terminated by the administrator", "57P01"), ErrorAction.DISCONNECT),
        (Refused("connection refused"), ErrorAction.DISCONNECT),
        (Refused("FATAL:  sorry, too many clients already"), ErrorAction.BACK_OFF),
        (Refused("no room", "53300"), ErrorAction.BACK_OFF),
        (Refused("few has more than 'max_user_connections'"), ErrorAction.BACK_OFF),
        (Refused("the 'max_connections_per_hour' resource"), ErrorAction.BACK_OFF),
        (Refused("no socket: Too many open files"), ErrorAction.BACK_OFF),
        (psycopg.InterfaceError("is closed"), ErrorAction.DISCONNECT),
        (ConnectionResetError(), ErrorAction.DISCONNECT),
        (ValueError("the program's own"), ErrorAction.DISCARD),
    ],
)
def test_errors_of_statements_keep_and_those_of_connections_close(
    error: Exception, action: ErrorAction
) -> None:
    assert DBAPIConnector(psycopg.connect).classify(error) is action


# Being constructed.


def test_the_driver_is_found_from_its_function() -> None:
    assert driver_of(psycopg.connect) is psycopg
    assert driver_of(functools.partial(pymysql.connect, port=1)) is pymysql
    assert driver_of(lambda: None) is None
    assert driver_of(SimpleNamespace()) is None  # type: ignore[arg-type]


def test_a_function_of_no_driver_needs_one_named() -> None:
    with pytest.raises(ValueError, match="driver must be given, because <function"):
        DBAPIConnector(lambda: None)
    with pytest.raises(ValueError, match="driver must be the module of a DB-API"):
        DBAPIConnector(psycopg.connect, driver=logging)
    with pytest.raises(TypeError, match="ping must be a statement, not 1"):
        DBAPIConnector(psycopg.connect, ping=1)  # type: ignore[arg-type]


def test_a_function_of_the_program_that_makes_such_connections_is_warned_of(
    postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It is too late to change the connector when the first connection is seen."""
    options = postgres_server.client_options
    with Pool(lambda: psycopg.connect(**options), name="mine") as pool:
        first, second = pool.acquire(), pool.acquire()
        pool.release(first)
        pool.release(second)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "DBAPIConnector" in record.getMessage()
