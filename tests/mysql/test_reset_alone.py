"""Resets without the settings of ``connect``: when they are sent, and when not."""

from __future__ import annotations

import pytest
from pymysql import err
from pymysql.constants import COMMAND

from geventpool.mysql.reset import STREAK, Session
from geventpool.testing import wait_until
from tests.mysql.conftest import rows, value
from tests.mysql.proxy import RESET, UNKNOWN
from tests.mysql.test_reset import said, use

CHANGE = "SET @used=1"
SETTINGS = b"NAMES utf8mb4"

#: The reply to a reset of a session in autocommit, and of one that is not.
OK = b"\x07\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00"
MANUAL = OK.replace(b"\x02", b"\x00")


@pytest.fixture()
def changing(through, proxy):
    """Makes a pool that expects each loan to change the session."""

    def make(**options):
        pool = through(**{"max_connections": 1, "autocommit": True, **options})
        for _ in range(STREAK + 1):
            use(pool, CHANGE)
        said(proxy)
        return pool

    return make


def resets(proxy):
    """The resets since the last look."""
    return [message for message in said(proxy) if RESET in message]


def test_after_many_changes_in_a_row_the_settings_are_left_out(through, proxy):
    """The first reset is not sent ahead, and does not count."""
    pool = through(max_connections=1, autocommit=True)
    for number in range(STREAK + 2):
        use(pool, CHANGE)
        assert (SETTINGS in resets(proxy)[-1]) is (number < STREAK)
    with pool.connection() as conn:
        assert rows(
            conn, "SELECT @used, @@character_set_client, @@collation_connection"
        ) == [(None, "utf8mb4", "utf8mb4_general_ci")]


def test_a_loan_that_is_not_reported_is_reset_with_the_settings(changing, proxy):
    """From then on changes are reported, and loans that leave nothing cost nothing."""
    pool = changing()
    use(pool, "SELECT 1")
    (message,) = resets(proxy)
    assert SETTINGS in message
    use(pool, "SELECT 1")
    assert not resets(proxy)


def test_after_a_loan_that_left_nothing_the_settings_are_sent_again(changing, proxy):
    """The next loan may leave nothing too, if the server reports that."""
    pool = changing()
    for statement in ("SELECT 1", "SELECT 1", *[CHANGE] * (STREAK - 1)):
        use(pool, statement)
    assert all(SETTINGS in message for message in resets(proxy))
    use(pool, "SELECT 1")
    use(pool, CHANGE)
    (message,) = resets(proxy)
    assert SETTINGS in message


@pytest.mark.parametrize(
    "options",
    [
        {"autocommit": False},
        {"sql_mode": "ANSI"},
        {"collation": "utf8mb4_bin"},
        {"reset": Session(None, lambda conn: [(COMMAND.COM_QUERY, b"SET @level=7")])},
    ],
    ids=["autocommit", "SQL mode", "collation", "adapter"],
)
def test_what_a_reset_does_not_restore_is_set_each_time(changing, proxy, options):
    """The login tells the server a charset only."""
    pool = changing(**options)
    for _ in range(2):
        use(pool, CHANGE)
        (message,) = resets(proxy)
        assert SETTINGS in message


def test_a_database_that_may_have_been_left_is_chosen_again(changing, proxy):
    """The settings and the database are one reset."""
    pool = changing()
    use(pool, "USE geventpool")
    (message,) = resets(proxy)
    assert SETTINGS in message and message.endswith(b"\x02geventpool")


@pytest.mark.parametrize("version", [b"10.4.34-MariaDB", b"8.4.3-something-el"])
def test_another_server_gets_the_settings_each_time(changing, proxy, version):
    """It sets a charset of its own, which is not that of the login."""
    proxy.answer = lambda data: data.replace(b"5.5.5-10.11", version[:11])
    pool = changing()
    use(pool, CHANGE)
    assert SETTINGS in resets(proxy)[-1]


def test_each_connection_is_asked_once(through, proxy):
    """It may be one to another server."""
    pool = through(max_connections=2, autocommit=True)
    conns = [pool.acquire() for _ in range(2)]
    for _ in range(STREAK):
        for conn in conns:
            rows(conn, CHANGE)
        for conn in conns:
            pool.release(conn)
        wait_until(lambda: pool.stats().idle == 2)
        conns = [pool.acquire() for _ in range(2)]
    questions = [each for each in said(proxy) if b"SELECT @@character_set" in each]
    assert len(questions) == 4
    assert all(conn.reset_suffices for conn in conns)
    for conn in conns:
        pool.release(conn)


def with_autocommit_off(pool, proxy):
    """A returned connection whose server has turned autocommit off by default."""
    conn = pool.acquire()
    rows(conn, CHANGE)
    proxy.answer = lambda data: data.replace(OK, MANUAL)
    pool.release(conn)
    return conn


def test_a_reset_that_ends_autocommit_costs_the_connection(changing, proxy):
    """The server's default has changed. The next borrower gets another connection."""
    pool = changing()
    conn = with_autocommit_off(pool, proxy)
    wait_until(lambda: conn.ask(0), "answered")
    proxy.answer = lambda data: data
    with pool.connection() as other:
        assert other is not conn and value(other, "SELECT @@autocommit") == 1


def test_a_statement_does_not_run_without_the_autocommit_it_expects(changing, proxy):
    """The borrower has the connection already when the reply comes."""
    pool = changing()
    conn = with_autocommit_off(pool, proxy)
    assert pool.acquire() is conn and conn.pending
    with pytest.raises(err.OperationalError, match="could not be reset"):
        rows(conn, "SELECT 'never'")
    assert not any(b"never" in message for message in said(proxy))
    pool.drop(conn)


@pytest.mark.parametrize("always", [True, False])
def test_a_reset_without_settings_that_fails_is_sent_again(changing, proxy, always):
    """If it fails again, the connection is lost, and no statement is sent."""
    pool = changing()

    def question(data):
        if not always:
            proxy.question = lambda data: data
        return data.replace(RESET, UNKNOWN)

    conn = pool.acquire()
    rows(conn, CHANGE)
    proxy.question = question
    pool.release(conn)
    assert pool.acquire() is conn and conn.pending
    if always:
        with pytest.raises(err.OperationalError, match="could not be reset"):
            rows(conn, "SELECT 'never'")
        assert not any(b"never" in message for message in said(proxy))
        pool.drop(conn)
    else:
        assert value(conn, "SELECT @used") is None
        pool.release(conn)
