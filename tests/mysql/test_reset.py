"""How a session is reset, and what is done where the server can't."""

from __future__ import annotations

import gevent
import pytest
from pymysql import err
from pymysql.constants import COMMAND

from geventpool import Timeouts
from geventpool.mysql.reset import Nothing, Session
from geventpool.testing import wait_until
from tests.mysql.conftest import rows, value
from tests.mysql.proxy import RESET, UNKNOWN

NAMES = b"NAMES utf8mb4"


def said(proxy):
    """The messages since the last look."""
    messages, proxy.asked[:] = list(proxy.asked), []
    return messages


def is_clean(conn):
    """Whether its reset is answered; it takes what has come of the replies."""
    return conn.is_quiet() and not conn.pending


#: Plain, and in need of a reset.
SOIL = "SELECT @used:=1"


def use(pool, statement=SOIL):
    """One loan with one statement; returns the connection when it is clean."""
    with pool.connection() as conn:
        rows(conn, statement)

    def settled():
        pool.drop_expired()
        return not pool.size or any(map(is_clean, pool.idle_connections()))

    wait_until(settled, "clean")
    return conn


def test_a_reset_is_one_round_trip(through, proxy):
    """All its commands go out in one message."""
    pool = through(autocommit=True)
    use(pool)
    said(proxy)
    use(pool)
    messages = said(proxy)
    assert len(messages) == 2
    assert messages[1].startswith(RESET) and NAMES in messages[1]


def test_the_database_is_chosen_again_only_if_it_may_have_been_left(through, proxy):
    """After plain statements the session is still in its database."""
    pool = through(autocommit=True)
    use(pool)
    assert b"\x02geventpool" not in said(proxy)[-1]
    use(pool, "USE geventpool")
    assert said(proxy)[-1].endswith(b"\x02geventpool")


def test_what_connect_had_set_is_set_again(make_pool):
    """Charset, collation, sql_mode, autocommit and the init_command."""
    pool = make_pool(
        max_connections=1,
        charset="utf8mb4",
        collation="utf8mb4_bin",
        sql_mode="ANSI",
        autocommit=True,
        init_command="SET @mine=5, autocommit=0",
    )
    for _ in range(3):
        with pool.connection() as conn:
            assert rows(
                conn,
                "SELECT @@collation_connection, @@sql_mode LIKE '%ANSI%', "
                "@@autocommit, @mine",
            ) == [("utf8mb4_bin", 1, 1, 5)]


def test_attributes_are_restored_after_a_loan_without_statements(make_pool):
    """autocommit() sends nothing if the session has that value already."""
    pool = make_pool(max_connections=1, autocommit=None)
    with pool.connection() as conn:
        conn.autocommit(True)
        conn.encoding = "latin1"
    with pool.connection() as again:
        assert again is conn
        assert (conn.autocommit_mode, conn.encoding) == (None, "utf8")


def test_the_servers_own_autocommit_is_left_alone(make_pool):
    """autocommit=None means: as the server says."""
    pool = make_pool(max_connections=1, autocommit=None, init_command="SET @x=1")
    for _ in range(2):
        with pool.connection() as conn:
            assert value(conn, "SELECT @@autocommit") == 1
            rows(conn, "SET autocommit=0")


def test_a_pool_without_a_database_does_not_lend_one_that_has(make_pool):
    """No reset leaves a database for none; the connection is closed instead."""
    pool = make_pool(max_connections=1, database=None)
    with pool.connection() as conn:
        rows(conn, "USE geventpool")
    with pool.connection() as conn:
        assert value(conn, "SELECT DATABASE()") is None
        rows(conn, "SET @x=1")
    with pool.connection() as again:
        assert again is conn


def test_a_server_that_knows_no_reset_gets_a_rollback_for_good(through, proxy, table):
    """It is asked once; what connect had set is set all the same."""
    proxy.question = lambda data: data.replace(RESET, UNKNOWN)
    pool = through(max_connections=1)
    conn = use(pool, f"INSERT INTO {table} VALUES (1, 0)")
    assert any(message.startswith(RESET) for message in said(proxy))
    for _ in range(2):
        borrowed = pool.acquire()
        rows(borrowed, f"INSERT INTO {table} VALUES (2, 0)")
        borrowed.set_character_set("latin1")
        pool.release(borrowed)
        assert use(pool, "SET @x=1") is conn
    messages = said(proxy)
    assert not any(RESET in message for message in messages)
    assert any(b"\x03ROLLBACK" in message for message in messages)
    with pool.connection() as again:
        assert value(again, "SELECT @@character_set_client") == "utf8mb4"
        assert value(again, f"SELECT COUNT(*) FROM {table}") == 1


def hates_several(data):
    """Hangs up when a message has more than one command."""
    return None if data.startswith(RESET) and len(data) > len(RESET) else data


def is_silent_to_several(data):
    """Swallows a message that has more than one command."""
    return b"" if hates_several(data) is None else data


@pytest.mark.parametrize("dislike", [hates_several, is_silent_to_several])
def test_a_proxy_that_wants_one_command_at_a_time_gets_that(through, proxy, dislike):
    """The first connection is lost over it, no other."""
    proxy.question = dislike
    pool = through(max_connections=1, timeouts=Timeouts(reset=0.2))
    first = use(pool)
    assert not first.open
    second = use(pool)
    assert second.open
    assert use(pool) is second


def test_one_failure_does_not_end_what_has_worked(through, proxy):
    """A connection that dies in a reset says nothing about pipelines."""
    pool = through(max_connections=1)
    use(pool)
    proxy.question = lambda data: None if RESET in data else data
    use(pool)
    proxy.question = lambda data: data
    use(pool)
    said(proxy)
    use(pool)
    assert any(RESET in message and NAMES in message for message in said(proxy))


@pytest.mark.parametrize("one_by_one", [True, False])
def test_a_reset_that_fails_costs_the_connection(through, proxy, one_by_one):
    """A session that is only half reset is nobody's."""
    if one_by_one:
        proxy.question = hates_several
    pool = through(max_connections=1)
    use(pool)
    good = use(pool)
    before = proxy.question
    proxy.question = lambda data: before(data) and data.replace(NAMES, b"NAMES utf8mbX")
    assert use(pool) is good and not good.open
    proxy.question = before
    assert use(pool).open


def test_a_reset_in_vain_rolls_back_at_least(through, proxy, table):
    """Whatever happens in the reset, the transaction is gone with the connection."""
    pool = through(max_connections=1)
    conn = pool.acquire()
    rows(conn, f"INSERT INTO {table} VALUES (1, 0)")
    proxy.question = lambda data: None
    pool.release(conn)
    proxy.question = lambda data: data
    with pool.connection() as again:
        assert value(again, f"SELECT COUNT(*) FROM {table}") == 0


@pytest.mark.parametrize(
    ("statements", "trips"),
    [
        (["SELECT 1"], 0),
        (["INSERT INTO {0} VALUES (1, 1)"], 0),
        (["BEGIN", "INSERT INTO {0} VALUES (1, 1)", "COMMIT"], 0),
        (["BEGIN", "INSERT INTO {0} VALUES (1, 1)"], 1),
        (["SET TRANSACTION READ ONLY"], 1),
        (["CALL sys.nothing()"], 1),
        (["SELECT nonsense"], 1),
        (["SELECT nonsense", "INSERT INTO {0} VALUES (1, 1)"], 0),
    ],
)
def test_a_rollback_is_sent_only_where_one_may_be_needed(
    through, proxy, table, statements, trips
):
    """The server's own word spares the round trip; an error may hide a transaction."""
    pool = through(reset="rollback", autocommit=True, max_connections=1)
    conn = pool.acquire()
    for statement in statements:
        try:
            rows(conn, statement.format(table))
        except err.MySQLError:
            pass
    said(proxy)
    pool.release(conn)
    assert pool.acquire() is conn
    assert len(said(proxy)) == trips


def test_a_rollback_without_autocommit_is_spared_after_a_commit(through, proxy, table):
    """The last word was an OK that said: no transaction."""
    pool = through(reset="rollback", max_connections=1)
    conn = pool.acquire()
    rows(conn, f"SELECT * FROM {table}")
    pool.release(conn)
    assert pool.acquire() is conn
    assert b"ROLLBACK" in said(proxy)[-1]
    rows(conn, f"SELECT * FROM {table}")
    conn.commit()
    said(proxy)
    pool.release(conn)
    assert pool.acquire() is conn
    assert said(proxy) == []


def test_nothing_is_never_needed(make_pool):
    """A pool that resets nothing does not even ask."""
    pool = make_pool(reset=None, max_connections=1)
    conn = use(pool)
    nothing = Nothing()
    assert not nothing.is_needed(conn)
    assert nothing(conn) is None  # type: ignore[func-returns-value]


def test_waiters_get_a_clean_connection(make_pool):
    """A connection is reset before it goes to the next in line, not after."""
    pool = make_pool(max_connections=1)

    def borrow(number):
        with pool.connection() as conn:
            assert value(conn, "SELECT @x") is None
            rows(conn, f"SET @x={number}")

    gevent.joinall([gevent.spawn(borrow, i) for i in range(20)], raise_error=True)


def test_each_loan_is_counted_with_its_kind_of_reset(make_pool):
    """A reset that is waited for costs a round trip; one that is skipped, nothing."""
    pool = make_pool()
    pool.measure()
    use(pool)
    with pool.connection() as conn:
        rows(conn, "SELECT GET_LOCK('counted', 0)")
    wait_until(lambda: pool.stats().idle == 1)
    measured = pool.stats().measured
    assert sum(measured.resets.values()) == measured.use.count == 2
    assert measured.resets["full"] >= 1
    pool = make_pool(reset=None, autocommit=True)
    pool.measure()
    use(pool)
    assert pool.stats().measured.resets == {"skipped": 1, "early": 0, "full": 0}


def test_the_session_of_an_adapter_is_reset_by_its_own_statements(make_pool):
    """Django's isolation level is set again by each reset, and only if there is one."""
    statement = (COMMAND.COM_QUERY, b"SET @level=7")
    pool = make_pool(reset=Session(None, lambda conn: [statement]))
    pool.measure()
    use(pool)
    with pool.connection() as conn:
        assert rows(conn, "SELECT @used, @level") == [(None, 7)]
    use(pool, "SELECT 1")
    assert pool.stats().measured.resets["skipped"] == 1
