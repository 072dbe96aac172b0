"""The id of an inserted row is not seen by the next borrower, and costs little."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from pymysql import err
from pymysql.constants import COMMAND, FIELD_TYPE
from pymysql.converters import conversions

from geventpool.mysql import ConnectionPool, protocol
from geventpool.mysql.ahead import FORGET_ID, packed
from geventpool.testing import interrupt_everywhere, no_switch
from tests.mysql.conftest import MakePool, rows, value
from tests.mysql.proxy import RESET, Proxy
from tests.mysql.test_reset import said, use
from tests.servers import MariaDBServer

LONG = "SELECT LAST_INSERT_ID() /*" + 20_000 * "x" + "*/"


@pytest.fixture()
def made(mariadb_server: MariaDBServer) -> Iterator[str]:
    """A table that makes ids."""
    name = f"{mariadb_server.database}.made"
    mariadb_server.ask(
        f"CREATE OR REPLACE TABLE {name} "
        "(i INT AUTO_INCREMENT PRIMARY KEY, v INT DEFAULT 0)"
    )
    yield name
    mariadb_server.ask(f"DROP TABLE {name}")


@pytest.fixture()
def pool(through: MakePool, proxy: Proxy, made: str) -> ConnectionPool:
    """A pool of one connection, whose last loan has made an id."""
    pool = through(max_connections=1, autocommit=True)
    use(pool)
    insert(pool, made)
    said(proxy)
    return pool


def insert(pool: ConnectionPool, table: str) -> None:
    with pool.connection() as conn:
        rows(conn, f"INSERT INTO {table} (v) VALUES (1)")


def test_nothing_is_sent_for_the_id_when_the_loan_ends(
    pool: ConnectionPool, proxy: Proxy, made: str
) -> None:
    """A greenlet that comes back at once would wait for the reply."""
    conn = pool.acquire()
    rows(conn, f"INSERT INTO {made} (v) VALUES (1)")
    said(proxy)
    with no_switch():
        pool.release(conn)
        assert pool.acquire() is conn
    assert not conn.pending and not said(proxy)
    pool.release(conn)


@pytest.mark.parametrize(
    "statement", ["SELECT v FROM {}", "UPDATE {} SET v = 2", "INSERT INTO {} VALUES ()"]
)
def test_a_query_that_cannot_ask_for_the_id_is_sent_with_what_clears_it(
    pool: ConnectionPool, proxy: Proxy, made: str, statement: str
) -> None:
    """In one write, and without another wait; changes are still reported."""
    statement = statement.format(made)
    with pool.connection() as conn:
        with conn.cursor() as cursor:
            cursor.execute(statement)
            cursor.fetchall()
            assert cursor.rowcount == 1
        (sent,) = said(proxy)
        assert sent.startswith(FORGET_ID) and sent.endswith(statement.encode())
        assert conn.tracks
        own = 2 if statement.startswith("INSERT") else 0
        assert value(conn, "SELECT LAST_INSERT_ID()") == own
        assert len(said(proxy)) == 1


@pytest.mark.parametrize(
    "statement", ["SELECT LAST_INSERT_ID()", "SELECT @@last_insert_id", LONG]
)
def test_a_statement_that_may_ask_for_the_id_is_sent_after_what_clears_it(
    pool: ConnectionPool, proxy: Proxy, statement: str
) -> None:
    """A ping before it changes nothing."""
    with pool.connection() as conn:
        conn.ping()
        said(proxy)
        assert value(conn, statement) == 0
        assert said(proxy)[0] == FORGET_ID
        assert conn.tracks


def test_a_loan_sees_what_its_own_statements_did(
    pool: ConnectionPool, made: str
) -> None:
    """What clears the id is never sent between two statements of one loan."""
    with pool.connection() as conn:
        rows(conn, f"UPDATE {made} SET v = 7")
        assert value(conn, "SELECT ROW_COUNT()") == 1
    insert(pool, made)
    with pool.connection() as conn:
        rows(conn, f"SELECT SQL_CALC_FOUND_ROWS i FROM {made} LIMIT 1")
        assert value(conn, "SELECT FOUND_ROWS()") == 2
    with pool.connection() as conn:
        rows(conn, f"INSERT INTO {made} (v) VALUES (1)")
        assert value(conn, "SELECT LAST_INSERT_ID()") == 3


@pytest.mark.parametrize("reset", ["session", "rollback", None])
def test_a_connection_tells_nothing_of_the_statements_of_an_earlier_loan(
    make_pool: MakePool, made: str, reset: str | None
) -> None:
    """The driver answers from what it keeps, without asking the server."""
    pool = make_pool(max_connections=1, autocommit=True, reset=reset)
    insert(pool, made)
    with pool.connection() as conn:
        assert not conn.insert_id() and not conn.affected_rows()
        rows(conn, f"INSERT INTO {made} (v) VALUES (1)")
        assert (conn.insert_id(), conn.affected_rows()) == (2, 1)


def test_an_idle_connection_keeps_no_rows(make_pool: MakePool) -> None:
    """A pool whose connections have each read much would need the memory of all."""

    class Number(float):
        """It can be referred to weakly."""

    pool = make_pool(conv={**conversions, FIELD_TYPE.LONG: Number})
    use(pool)
    with pool.connection() as conn:
        kept = weakref.ref(rows(conn, "SELECT 1")[0][0])
        assert kept() is not None
    assert kept() is None and pool.stats().idle == 1


def test_a_reset_of_the_session_clears_the_id(
    pool: ConnectionPool, proxy: Proxy, made: str
) -> None:
    """Then nothing more is sent for it."""
    with pool.connection() as conn:
        rows(conn, f"INSERT INTO {made} (v) VALUES (1)")
        rows(conn, "SET @used=1")
    with pool.connection() as conn:
        assert value(conn, "SELECT LAST_INSERT_ID()") == 0
    sent = b"".join(said(proxy))
    assert RESET in sent and sent.count(FORGET_ID) == 1


@pytest.mark.parametrize("clearing", [b"DO nonsense(", b"SELECT 1"])
@pytest.mark.parametrize("statement", ["SELECT 1", "SELECT LAST_INSERT_ID()"])
def test_a_connection_whose_id_is_not_cleared_is_closed(
    pool: ConnectionPool,
    monkeypatch: pytest.MonkeyPatch,
    clearing: bytes,
    statement: str,
) -> None:
    """Its next borrower would get another's id, or another's reply."""
    bad = packed([(COMMAND.COM_QUERY, clearing)])
    for module in (protocol, protocol.Ahead.forget_id.__globals__):  # type: ignore[attr-defined]
        names: Any = module if isinstance(module, dict) else vars(module)
        monkeypatch.setitem(names, "FORGET_ID", bad)
    conn = pool.acquire()
    with pytest.raises(err.OperationalError, match="could not be reset"):
        rows(conn, statement)
    assert not conn.open
    pool.release(conn)
    monkeypatch.undo()
    gevent.idle()
    with pool.connection() as conn:
        assert value(conn, "SELECT LAST_INSERT_ID()") == 0


@pytest.mark.parametrize("later", [-1, 0, 1])
def test_an_interruption_while_the_id_is_cleared_leads_nobody_astray(
    proxy: Proxy, made: str, later: int
) -> None:
    """Whatever was sent, the replies of the next loan are its own."""
    number = 0
    # Each answer of a proxy in this very process makes the victim wait.
    where: dict[str, Any] = {
        **proxy.server.client_options,
        "host": proxy.host,
        "port": proxy.port,
    }

    def scenario() -> Any:
        pool = ConnectionPool(**where, max_connections=1, autocommit=True)
        use(pool)

        def work() -> None:
            nonlocal number
            for statement in ("SELECT {}", "SELECT {} + LAST_INSERT_ID()"):
                number += 1
                insert(pool, made)
                with pool.connection() as conn:
                    assert value(conn, statement.format(number)) == number

        return work, [pool]

    assert interrupt_everywhere(scenario, later=later) > 4
