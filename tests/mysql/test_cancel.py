"""Interrupted statements are ended at the server before their places are free."""

from __future__ import annotations

import gc
import logging
import os
import sys
from typing import Any

import gevent
import gevent.os
import pytest
from gevent.event import Event
from pymysql import err
from pymysql.constants import CLIENT
from pymysql.cursors import SSCursor

from geventpool import PoolListener, Timeouts
from geventpool.mysql import ConnectionPool, cancel, interrupted, side_connection
from geventpool.mysql.interrupted import Interruptible
from geventpool.mysql.side_connection import SideConnection
from geventpool.testing import wait_until
from tests.mysql.conftest import is_running, rows, value
from tests.mysql.kill_race import race
from tests.pauses import give_up_after

pytestmark = pytest.mark.usefixtures("at_rest")

FOREVER = "SELECT SLEEP(30)"


def canceller(pool):
    """What ends interrupted statements at the server; None: nothing does."""
    return pool._canceller


def side_connection_of(pool):
    """The only connection that is kept to end statements."""
    [side] = canceller(pool)._sides.values()
    return side


def interrupt(pool, statement=FOREVER, then=None, cursorclass=None):
    """Begin *statement* in a block, and kill its greenlet when the server is at it.

    :param then: what the server shows of it; None: the end of it.
    :param cursorclass: one that streams: kill it after the first row.
    :return: the connection.
    """
    used, fetched = [], Event()

    def work():
        with pool.connection() as conn:
            used.append(conn)
            cursor = conn.cursor(cursorclass)
            cursor.execute(statement)
            cursor.fetchone()
            fetched.set()
            Event().wait()

    worker = gevent.spawn(work)
    if cursorclass is None:
        wait_until(lambda: is_running(pool.server, then or statement[-40:]), "begun")
    else:
        assert fetched.wait(5)
    worker.kill()
    return used[0]


def let_go(pool):
    """Wait until the server has let go of all that was interrupted."""
    wait_until(
        lambda: pool.stats().closing == 0 and pool.stats().resetting == 0, "let go"
    )


@pytest.fixture
def few(mariadb_server):
    """The arguments for an account that may have two connections."""
    mariadb_server.ask(
        "CREATE OR REPLACE USER two IDENTIFIED BY 'two' WITH MAX_USER_CONNECTIONS 2"
    )
    yield {"user": "two", "password": "two", "database": None, "max_connections": 2}
    mariadb_server.ask("DROP USER two")


# The limit holds at the server


@pytest.fixture
def locked(table, mariadb_server):
    """A row that somebody else has locked."""
    with mariadb_server.admin() as holder, holder.cursor() as cursor:
        cursor.execute(f"INSERT INTO {table} VALUES (1, 0)")
        cursor.execute("BEGIN")
        cursor.execute(f"UPDATE {table} SET v=1 WHERE i=1")
        cursor.execute("DO GET_LOCK('cancelled', 0)")
        yield f"SELECT v FROM {table} WHERE i=1 FOR UPDATE"


def threads(server):
    """How many threads of the account the server has."""
    question = "SELECT COUNT(*) FROM information_schema.processlist WHERE user=%s"
    return server.ask(question, server.user)[0][0]


@pytest.mark.parametrize("way", ["timeout", "kill", "read_timeout"])
@pytest.mark.parametrize(
    "statement", [FOREVER, "row", "SELECT GET_LOCK('cancelled',9)"]
)
@pytest.mark.parametrize("reset", ["session", None], ids=["keep", "close"])
def test_the_server_never_works_at_more_than_the_pool_allows(
    pooled, mariadb_server, locked, way, statement, reset
):
    """A slow database must not be buried by clients that do not wait for it."""
    statement = locked if statement == "row" else statement
    limit = 0.03 if way == "read_timeout" else None
    pool = pooled(max_connections=3, read_timeout=limit, reset=reset)
    most = [0]

    def work():
        with pool.connection() as conn:
            if way == "timeout":
                with give_up_after(0.03):
                    rows(conn, statement)
            elif way == "kill":
                with pytest.raises(gevent.GreenletExit):
                    gevent.spawn_later(0.03, gevent.kill, gevent.getcurrent())
                    rows(conn, statement)
            else:
                with pytest.raises(err.OperationalError, match="2013"):
                    rows(conn, statement)
        most.append(threads(mariadb_server))

    gevent.joinall([gevent.spawn(work) for _ in range(12)], raise_error=True)
    let_go(pool)
    assert not is_running(mariadb_server, statement)
    assert max(most) <= 3 + 1
    stats = pool.stats()
    assert (stats.cancelled, stats.abandoned) == (12, 0)
    assert stats.saved == (12 if reset else 0)


def test_no_other_statement_is_killed(pooled):
    """Neither of the same pool, nor of others, nor of the next borrower."""
    pool, stranger = pooled(max_connections=4), pooled(max_connections=1)
    served, wrong = race(pool, stranger, tries=150)
    assert served and wrong == []
    assert pool.stats().cancelled > 0


# What is kept, and what is not


def test_a_plain_statement_is_ended_and_its_connection_kept(pooled):
    """It spares the dial; its session, transaction and locks are reset."""
    pool = pooled(max_connections=1, autocommit=False)
    conn = interrupt(pool)
    assert not conn.open and conn.lender is None
    with pool.connection() as again:
        assert again is conn
        assert value(again, "SELECT 1") == 1
    assert pool.stats().saved == 1


def test_a_transaction_is_undone_with_its_interrupted_statement(pooled, table):
    """KILL QUERY leaves it open; the place is not free before it has ended."""
    pool = pooled(max_connections=1, autocommit=False)

    def work():
        with pool.connection() as conn:
            rows(conn, f"INSERT INTO {table} VALUES (1, 1)")
            with gevent.Timeout(0.05):
                rows(conn, FOREVER)

    with pytest.raises(gevent.Timeout):
        work()
    with pool.connection() as conn:
        assert rows(conn, f"SELECT * FROM {table}") == []


@pytest.mark.parametrize("reset", [None, lambda conn: None])
def test_what_no_reset_cleans_is_not_kept(pooled, reset):
    """Its transaction, and the locks, would go to the next borrower."""
    pool = pooled(max_connections=1, reset=reset)
    conn = interrupt(pool)
    let_go(pool)
    assert not conn.open and pool.size == 0 and pool.stats().cancelled == 1


def outcome(conn, statement):
    try:
        return rows(conn, statement)
    except BaseException as error:
        return error


def fall(pool, statement):
    """Interrupt *statement* before its reply is read; end the loan after it came."""
    with pool.connection() as conn:
        while conn.open:
            reader = gevent.spawn(outcome, conn, statement)
            gevent.sleep(0)
            reader.kill(gevent.Timeout(), block=True)
        wait_until(lambda: conn.has_reply, "replied")
    let_go(pool)
    return conn


@pytest.mark.parametrize(
    ("statement", "is_kept"),
    [
        ("SELECT SLEEP(0.02)", True),
        ("SELECT (SELECT SLEEP(0.02) FROM seq_1_to_2)", True),
        ("SET @a=SLEEP(0.02)", True),
        ("DELETE FROM numbers WHERE SLEEP(0.02)", True),
        ("SELECT REPEAT('x', 1000), SLEEP(0.0001) FROM seq_1_to_90", True),
        ("SELECT REPEAT('x', 1000), SLEEP(0.0001) FROM seq_1_to_200", False),
        ("LOAD DATA LOCAL INFILE '/dev/null' INTO TABLE numbers", False),
        ("CALL select_one()", False),
        ("COMMIT", True),
    ],
)
def test_a_reply_is_read_if_that_costs_less_than_a_new_connection(
    pooled, table, statement, is_kept
):
    """Errors and short results are; what is long or odd is ended."""
    pool = pooled(max_connections=1, local_infile=True)
    with pool.connection() as conn:
        rows(conn, "CREATE OR REPLACE PROCEDURE select_one() SELECT SLEEP(0.02)")
        rows(conn, f"INSERT INTO {table} VALUES (1, 1)")
    conn = fall(pool, statement)
    assert conn.open is is_kept
    stats = pool.stats()
    assert (stats.cancelled, stats.saved) == (1, int(is_kept))


def test_a_reply_that_has_come_needs_no_side_connection(pooled, monkeypatch):
    """Most short interruptions end so."""
    pool = pooled(max_connections=1)
    monkeypatch.setattr(cancel.Canceller, "_dial", None)
    conn = fall(pool, "SELECT SLEEP(0.02)")
    with pool.connection() as again:
        assert again is conn


def test_a_connection_that_the_server_has_closed_is_not_cancelled(pooled, monkeypatch):
    """Its statement has ended with it."""
    pool = pooled(max_connections=1)
    monkeypatch.setattr(cancel.Canceller, "_dial", None)
    with pool.connection() as conn:
        reader = gevent.spawn(outcome, conn, FOREVER)
        wait_until(lambda: is_running(pool.server, FOREVER), "running")
        reader.kill(gevent.Timeout(), block=True)
        pool.server.ask(f"KILL CONNECTION {conn.number}")
        wait_until(lambda: conn.has_reply, "closed")
    let_go(pool)
    assert not conn.open and pool.size == 0 and pool.stats().cancelled == 1


def test_a_reply_of_several_statements_is_not_read(pooled):
    """Another one follows, which may take its time."""
    pool = pooled(max_connections=1, client_flag=CLIENT.MULTI_STATEMENTS)
    conn = fall(pool, "DO SLEEP(0.02); DO 1")
    assert not conn.open and pool.stats().cancelled == 1


def test_several_statements_in_one_are_not_killed_one_by_one(pooled, table):
    """KILL QUERY ends one of them, and the server goes on with the next."""
    pool = pooled(max_connections=1, client_flag=CLIENT.MULTI_STATEMENTS)
    conn = interrupt(
        pool, f"DO SLEEP(30); INSERT INTO {table} VALUES (1, 1)", "SLEEP(30)"
    )
    let_go(pool)
    assert not conn.open
    assert pool.server.ask(f"SELECT * FROM {table}") == []


@pytest.mark.parametrize(
    "body",
    [
        "DO SLEEP(30);",
        "SELECT GET_LOCK('cancelled', 30);",
        "DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END; SELECT SLEEP(30);",
    ],
)
def test_a_procedure_does_not_go_on_after_its_end(pooled, table, locked, body):
    """After a KILL QUERY it would: with an error handler, or where no error is."""
    pool = pooled(max_connections=1)
    with pool.connection() as conn:
        text = f"BEGIN {body} INSERT INTO {table} VALUES (2, 2); END"
        rows(conn, f"CREATE OR REPLACE PROCEDURE slow() {text}")
    conn = interrupt(pool, "CALL slow()", "30)")
    let_go(pool)
    assert not conn.open and pool.stats().cancelled == 1
    assert pool.server.ask(f"SELECT i FROM {table} WHERE i=2") == []


def test_code_of_another_account_is_waited_for(pooled, caplog):
    """The server shows it as that account's: it may be neither seen nor killed."""
    pool = pooled(max_connections=1)
    name = f"{pool.server.database}.of_root"
    pool.server.ask(f"CREATE OR REPLACE PROCEDURE {name}() SELECT SLEEP(0.3)")
    with caplog.at_level(logging.WARNING, "geventpool"):
        conn = interrupt(pool, "CALL of_root()", "SLEEP(0.3)")
        let_go(pool)
    assert not conn.open and pool.stats().cancelled == 1
    assert "the server does not show the thread" in caplog.text


@pytest.mark.parametrize(
    "statement",
    [
        "DO SLEEP(30)",
        "SET @slow = SLEEP(30)",
        "CREATE TABLE copied AS SELECT SLEEP(30)",
        "WITH slow AS (SELECT SLEEP(30)) SELECT * FROM slow",
    ],
)
def test_what_is_not_plain_loses_its_connection(pooled, statement):
    """It is not known what KILL QUERY would leave of it."""
    pool = pooled(max_connections=1)
    conn = interrupt(pool, statement)
    let_go(pool)
    assert not conn.open and pool.size == 0
    assert not is_running(pool.server, statement)


def test_a_stream_is_ended(pooled):
    """Nobody reads the rows that are left, and the server computes them on."""
    pool = pooled(max_connections=1)
    slow = "SELECT REPEAT('x', 60000), SLEEP(0.01) FROM seq_1_to_100000"
    conn = interrupt(pool, slow, cursorclass=SSCursor)
    let_go(pool)
    assert not conn.open
    assert not is_running(pool.server, slow)


def test_a_stream_left_in_peace_is_ended_too(pooled):
    """Its loan has ended without an interruption, but not its statement."""
    pool = pooled(max_connections=1)
    slow = "SELECT REPEAT('x', 60000), SLEEP(0.01) FROM seq_1_to_100000"
    conn = pool.acquire()
    cursor = conn.cursor(SSCursor)
    cursor.execute(slow)
    cursor.fetchone()
    pool.release(conn)
    let_go(pool)
    assert not conn.open and pool.stats().cancelled == 1
    assert not is_running(pool.server, slow)


def test_a_long_statement_is_ended_with_its_connection(pooled):
    """It is not remembered, so it is not known to be plain."""
    pool = pooled(max_connections=1)
    conn = interrupt(pool, f"SELECT /* {'x' * 20_000} */ SLEEP(30)")
    let_go(pool)
    assert not conn.open


def test_the_last_of_many_statements_counts(pooled):
    """Only some are looked at for the reset; the last one is known all the same."""
    pool = pooled(max_connections=1)

    def work():
        with pool.connection() as conn:
            for number in range(40):
                rows(conn, f"SELECT {number}")
            with give_up_after(0.05):
                rows(conn, FOREVER)
        return conn

    conn = gevent.spawn(work).get()
    with pool.connection() as again:
        assert again is conn
    assert pool.stats().saved == 1


def test_a_statement_that_was_not_sent_does_not_count(pooled, monkeypatch):
    """Layers above try a ROLLBACK on a connection that an interruption has closed."""
    monkeypatch.setattr(cancel, "BY_ITSELF", 60)  # would be waited for a ROLLBACK
    pool = pooled(max_connections=1)
    with pool.connection() as conn:
        with give_up_after(0.05):
            rows(conn, FOREVER)
        with pytest.raises(err.InterfaceError):
            conn.query("ROLLBACK")
    with pool.connection() as again:
        assert again is conn
    assert pool.stats().saved == 1


def test_a_statement_in_another_greenlet_is_ended_when_it_is_dropped(pooled):
    """The greenlet that waits for the reply is told that the connection is lost."""
    pool = pooled(max_connections=1)
    conn = pool.acquire(reclaim=False)
    reader = gevent.spawn(outcome, conn, FOREVER)
    wait_until(lambda: is_running(pool.server, FOREVER), "running")
    gevent.spawn(pool.drop, conn, anyone=True).get()
    assert reader.get(timeout=5).args[0] == 2013
    let_go(pool)
    assert pool.size == 0 and not is_running(pool.server, FOREVER)


def test_a_greenlet_that_dies_with_a_statement_has_it_ended(pooled):
    """It took the connection by acquire, and gave it back to nobody."""
    pool = pooled(max_connections=1)
    holder = gevent.spawn(lambda: rows(pool.acquire(), FOREVER))
    wait_until(lambda: is_running(pool.server, FOREVER), "running")
    holder.kill()
    wait_until(lambda: pool.stats().cancelled == 1, "cancelled")
    assert not is_running(pool.server, FOREVER)


def test_the_place_is_taken_until_a_rollback_is_over(pooled, table):
    """The client of a killed thread is told of its end long before."""
    seen = []

    class Watch(PoolListener):
        def closed(self, conn, reason):
            seen.append(conn.number in pool.server.connection_ids())

    pool = pooled(max_connections=1, autocommit=False, listeners=[Watch()])
    numbers = f"{pool.server.database}.seq_1_to_100000"
    pool.server.ask(f"INSERT INTO {table} SELECT seq, 0 FROM {numbers}")

    def work():
        with pool.connection() as conn:
            rows(conn, f"UPDATE {table} SET v=v+1")
            with gevent.Timeout(0.05):
                rows(conn, "DO SLEEP(30)")

    with pytest.raises(gevent.Timeout):
        work()
    wait_until(lambda: bool(seen), "closed")
    assert seen == [False]


def test_a_commit_is_given_time(pooled, table):
    """A KILL would leave unknown what has become of it."""
    pool = pooled(max_connections=1, autocommit=False)
    with pool.server.admin() as admin, admin.cursor() as cursor:
        conn = pool.acquire(reclaim=False)
        rows(conn, f"INSERT INTO {table} VALUES (1, 1)")
        cursor.execute("FLUSH TABLES WITH READ LOCK")
        committer = gevent.spawn(outcome, conn, "COMMIT")
        wait_until(lambda: is_running(pool.server, "COMMIT"), "waiting")
        committer.kill(gevent.Timeout(), block=True)
        pool.drop(conn, anyone=True)
        gevent.idle()
        cursor.execute("UNLOCK TABLES")
    let_go(pool)
    assert pool.server.ask(f"SELECT i FROM {table}") == [(1,)]


def test_a_commit_that_takes_too_long_is_ended(pooled, table, monkeypatch):
    """It is ended as the server can: rolled back, if it has not begun to write."""
    monkeypatch.setattr(cancel, "BY_ITSELF", 0.01)
    pool = pooled(max_connections=1, autocommit=False)
    with pool.server.admin() as admin, admin.cursor() as cursor:
        conn = pool.acquire(reclaim=False)
        rows(conn, f"INSERT INTO {table} VALUES (1, 1)")
        cursor.execute("FLUSH TABLES WITH READ LOCK")
        committer = gevent.spawn(outcome, conn, "COMMIT")
        wait_until(lambda: is_running(pool.server, "COMMIT"), "waiting")
        committer.kill(gevent.Timeout(), block=True)
        pool.drop(conn, anyone=True)
        wait_until(lambda: pool.size == 0, "closed")
        cursor.execute("UNLOCK TABLES")
    assert pool.stats().cancelled == 1 and not conn.open


def test_a_reset_that_takes_too_long_is_waited_for(through, proxy):
    """Its place is taken until the server has replied; no KILL speeds it up."""
    pool = through(max_connections=1, cancel=True, timeouts=Timeouts(reset=0.05))
    conn = pool.acquire()
    rows(conn, "SET @a=1")
    held = Event()
    proxy.answer = lambda data: held.wait() and data
    pool.release(conn)
    wait_until(lambda: pool.stats().closing == 1, "interrupted")
    proxy.answer = lambda data: data
    held.set()
    wait_until(lambda: pool.size == 0, "closed")
    assert pool.stats().cancelled == 1 and pool.stats().saved == 0


def test_a_missed_kill_is_sent_again(pooled, monkeypatch):
    """A server may not wake its thread by the first one."""
    sent = []
    kill = SideConnection.kill_query

    def miss(side, victim):
        sent.append(victim.query)
        if len(sent) == 2:
            kill(side, victim)

    monkeypatch.setattr(SideConnection, "kill_query", miss)
    monkeypatch.setattr(cancel, "LADDER", (0.01, 0.5))
    pool = pooled(max_connections=1)
    interrupt(pool)
    let_go(pool)
    assert len(sent) == 2 and pool.stats().saved == 1


def test_after_some_missed_kills_the_connection_is_ended(pooled, monkeypatch):
    """A statement that no KILL QUERY ends: KILL CONNECTION does."""
    monkeypatch.setattr(SideConnection, "kill_query", lambda side, victim: None)
    monkeypatch.setattr(cancel, "LADDER", (0.01,))
    pool = pooled(max_connections=1)
    interrupt(pool)
    let_go(pool)
    assert pool.size == 0 and pool.stats().cancelled == 1
    assert not is_running(pool.server, FOREVER)


def test_a_reply_that_comes_before_the_kill_is_read(pooled, monkeypatch):
    """The statement has ended by itself while its thread was looked for."""
    find = SideConnection.find

    def find_late(side, conn):
        victim = find(side, conn)
        pool.server.ask(f"KILL QUERY {conn.number}")
        wait_until(lambda: conn.has_reply, "replied")
        return victim

    monkeypatch.setattr(SideConnection, "find", find_late)
    monkeypatch.setattr(SideConnection, "kill_query", None)
    pool = pooled(max_connections=1)
    interrupt(pool)
    let_go(pool)
    assert pool.stats().saved == 1


def test_a_long_reply_to_a_kill_ends_the_connection(pooled, monkeypatch):
    """The kill came when the rows were on their way."""
    monkeypatch.setattr(interrupted, "LONGEST_REPLY", 0)
    pool = pooled(max_connections=1)
    conn = interrupt(pool, "SELECT GET_LOCK('nobody', 1), SLEEP(0.3)")
    let_go(pool)
    assert not conn.open


# The side connection


def test_one_side_connection_serves_all(pooled):
    """A new one for each KILL would cost a dial just when the server is full."""
    pool = pooled(max_connections=3)
    for _ in range(3):
        interrupt(pool)
        let_go(pool)
    assert pool.side_connections == 1
    assert pool.server.connections() >= 2
    pool.close()
    assert pool.side_connections == 0


def test_the_side_connection_does_not_stay_for_ever(pooled, monkeypatch):
    """It takes a place at the server."""
    monkeypatch.setattr(side_connection, "IDLE", 0.01)
    pool = pooled(max_connections=1)
    interrupt(pool)
    let_go(pool)
    wait_until(lambda: pool.side_connections == 0, "closed")
    interrupt(pool)
    let_go(pool)
    assert pool.stats().saved == 2


def test_the_side_connection_goes_with_its_pool(mariadb_server):
    """The event loop has a timer for it, which keeps nothing alive."""
    options = mariadb_server.client_options
    pool: Any = ConnectionPool(**options, max_connections=1, cancel=True)
    pool.server = mariadb_server
    interrupt(pool)
    let_go(pool)
    assert mariadb_server.connections() == 2
    del pool

    def is_gone():
        gc.collect()
        return mariadb_server.connections() == 0

    wait_until(is_gone, "closed")


def test_it_leads_over_a_unix_socket_too(pooled, mariadb_server):
    """There is no port to compare; the same path is the same server."""
    where = {"host": None, "unix_socket": mariadb_server.unix_socket}
    pool = pooled(max_connections=1, **where)
    conn = interrupt(pool)
    with pool.connection() as again:
        assert again is conn


def test_one_more_connection_is_refused(pooled, few, caplog):
    """Then the place is kept until the server replies, and the log says it once."""
    pool = pooled(**few)
    lent = pool.acquire(reclaim=False)
    with caplog.at_level(logging.WARNING, "geventpool"):
        for _ in range(2):
            conn = interrupt(pool, "SELECT SLEEP(0.3)")
            assert pool.stats().closing == 1
            let_go(pool)
            assert not conn.open
    assert caplog.text.count("cancel=False") == 1
    assert "the side connection cannot be opened" in caplog.text
    pool.release(lent, anyone=True)


def test_a_proxy_is_not_mistaken_for_the_server(through, proxy, caplog):
    """Its ids may be those of other people's connections: no KILL is sent.

    The connection is closed at once, for a proxy may end the statement, or lose it.
    """
    pool = through(max_connections=1, autocommit=True)
    pool.server = proxy.server
    with caplog.at_level(logging.WARNING, "geventpool"):
        for number in range(2):
            conn = interrupt(pool, f"SELECT SLEEP(30) + {number}")
            let_go(pool)
    assert caplog.text.count("a proxy or a translated address") == 1
    assert b"KILL" not in b"".join(proxy.asked) and not conn.open
    assert pool.stats().abandoned == 2


def test_a_commit_behind_a_proxy_is_not_waited_for(through, proxy):
    """Once it is known that nothing can be cancelled, no place is kept for it."""
    pool = through(max_connections=1, autocommit=True)
    pool.server = proxy.server
    interrupt(pool)
    let_go(pool)
    proxy.question = lambda data: b"" if b"COMMIT" in data else data
    with pool.connection() as conn:
        reader = gevent.spawn(outcome, conn, "COMMIT")
        wait_until(lambda: b"COMMIT" in b"".join(proxy.asked), "sent")
        reader.kill(gevent.Timeout(), block=True)
    wait_until(lambda: pool.stats().abandoned == 2, "closed")
    assert pool.size == 0


def test_a_server_that_cannot_be_reached_is_not_waited_for(pooled, monkeypatch):
    """No reply may ever come over a way that is lost."""
    pool = pooled(max_connections=1)

    def fail(peer, host, port):
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(canceller(pool), "_dial", fail)
    interrupt(pool)
    wait_until(lambda: pool.stats().abandoned == 1, "closed")
    assert pool.size == 0


class Reset:
    """The socket of a connection that the peer has reset."""

    def getpeername(self):
        raise OSError(107, "not connected")


def test_a_connection_that_is_reset_by_the_peer_is_not_cancelled(pooled, monkeypatch):
    """Its socket does not even tell where it led to."""
    pool = pooled(max_connections=1)
    conn = pool.acquire()
    conn.interrupted = Reset()
    assert canceller(pool).cancel(conn, True) is False
    conn.interrupted = None
    pool.release(conn)


def test_cancelling_may_be_switched_off(through, proxy):
    """Then the connection is closed at once, and nothing is asked of the server."""
    with pytest.raises(TypeError, match="cancel must be True or False, not 'yes'"):
        through(cancel="yes")
    pool = through(max_connections=1, cancel=False)
    pool.server = proxy.server
    interrupt(pool, "SELECT SLEEP(0.3)")
    assert pool.size == 0 and pool.side_connections == 0


def test_a_url_may_switch_it_off(mariadb_server):
    """Who can only give a URL must be able to say so; a keyword wins."""
    url = f"mysql://{mariadb_server.user}@{mariadb_server.host}/?cancel=false"
    cases: list[tuple[dict[str, Any], bool]] = [({}, False), ({"cancel": True}, True)]
    for given, expected in cases:
        pool = ConnectionPool(url, **given)
        assert (canceller(pool) is not None) == expected
        pool.close()
    pool = ConnectionPool(url.partition("?")[0])
    assert canceller(pool) is not None, "it is on by default"
    pool.close()


def test_the_id_of_another_connection_is_not_killed(pooled, monkeypatch):
    """Another server, or one that was restarted, gives the same id to another."""
    pool, stranger = pooled(max_connections=1), pooled(max_connections=1)
    other = stranger.acquire()
    sleeper = gevent.spawn(outcome, other, "SELECT SLEEP(1)")
    own = vars(Interruptible)["number"]

    def number(conn):
        return other.number if conn in pool.victims else own.__get__(conn)

    pool.victims = []
    monkeypatch.setattr(Interruptible, "number", property(number))
    with pool.connection() as conn:
        pool.victims.append(conn)
    interrupt(pool, "SELECT SLEEP(0.2)")
    let_go(pool)
    assert sleeper.get(timeout=5) == [(0,)] and pool.stats().saved == 0


def test_a_restart_ends_what_was_to_be_killed(pooled, own_server, monkeypatch):
    """At the server that has come instead nothing is killed."""
    kill = SideConnection.kill_query

    def late(side, victim):
        own_server.restart()
        kill(side, victim)

    monkeypatch.setattr(SideConnection, "kill_query", late)
    pool = pooled(own_server, max_connections=1)
    conn = interrupt(pool)
    let_go(pool)
    assert not conn.open and pool.size == 0 and pool.side_connections == 0


def test_a_statement_that_is_over_needs_no_kill(pooled, monkeypatch):
    """It ended between the look at its thread and the KILL."""
    find = SideConnection.find

    def find_late(side, conn):
        victim = find(side, conn)
        victim.query = 1
        return victim

    monkeypatch.setattr(SideConnection, "find", find_late)
    pool = pooled(max_connections=1)
    interrupt(pool, "SELECT SLEEP(0.3)")
    let_go(pool)
    assert pool.stats().cancelled == 1


def test_credentials_that_fail_are_no_end_of_the_world(pooled, mariadb_server):
    """The place is kept, as if the server had refused."""
    answers = [mariadb_server.client_options["password"]]

    def password():
        if not answers:
            raise LookupError("no credentials")
        return answers.pop()

    pool = pooled(max_connections=1, password=password)
    conn = pool.acquire()
    pool.release(conn)
    interrupt(pool, "SELECT SLEEP(0.3)")
    let_go(pool)
    assert pool.size == 0 and pool.stats().cancelled == 1


# The end of the pool, and forks


def test_closing_the_pool_waits_for_what_is_cancelled(pooled):
    """Afterwards nothing of it runs at the server."""
    pool = pooled(max_connections=1)
    interrupt(pool)
    assert pool.close(timeout=5) == [] and pool.size == 0
    assert not is_running(pool.server, FOREVER)
    assert pool.stats().cancelled == 1


def test_closing_the_pool_ends_what_the_borrowers_still_run(pooled):
    """The statements of loans that are cut off would run on for hours."""
    pool = pooled(max_connections=3)
    streaming = pool.acquire(reclaim=False)
    cursor = streaming.cursor(SSCursor)
    slow = "SELECT REPEAT('x', 60000), SLEEP(0.01) FROM seq_1_to_100000"
    cursor.execute(slow)
    loans = [gevent.spawn(borrow, pool, FOREVER) for _ in range(2)]
    wait_until(lambda: is_running(pool.server, FOREVER), "running")
    gevent.spawn(pool.close, 0.001).get()
    assert [type(loan.get()) for loan in loans] == [err.OperationalError] * 2
    assert streaming.interrupted is None and pool.side_connections == 0
    wait_until(lambda: not is_running(pool.server, FOREVER), "ended")
    wait_until(lambda: not is_running(pool.server, slow), "ended")


def borrow(pool, statement):
    """The error that ends a loan."""
    with pytest.raises(err.MySQLError) as caught, pool.connection() as conn:
        rows(conn, statement)
    return caught.value


def test_closing_the_pool_waits_for_no_mute_side_connection(pooled, monkeypatch):
    """The time that it has is short."""
    monkeypatch.setattr(cancel, "LAST", 0.01)
    pool = pooled(max_connections=1)
    monkeypatch.setattr(canceller(pool), "_dial", lambda *where: Event().wait())
    loan = gevent.spawn(borrow, pool, "SELECT SLEEP(0.5)")
    wait_until(lambda: is_running(pool.server, "SELECT SLEEP(0.5)"), "running")
    pool.close(timeout=0.001)
    assert isinstance(loan.get(), err.OperationalError)


def test_a_closed_pool_forgets_statements_that_cannot_be_killed(pooled, monkeypatch):
    """Nor does it tell anybody: their connections are closed, as without cancelling."""
    pool = pooled(max_connections=2)

    def fail(peer, host, port):
        raise LookupError("no credentials")

    monkeypatch.setattr(canceller(pool), "_dial", fail)
    loan = gevent.spawn(borrow, pool, "SELECT SLEEP(0.5)")
    wait_until(lambda: is_running(pool.server, "SELECT SLEEP(0.5)"), "running")
    canceller(pool).collect()
    [running] = pool.lent_connections()
    assert canceller(pool).takes(running)
    gone = pool.acquire()
    rows(gone, "SELECT 1")
    gone.interrupted = Reset()
    assert canceller(pool).takes(gone)
    monkeypatch.setattr(Reset, "close", lambda sock: None, raising=False)
    gone.interrupted.fileno = lambda: -1
    canceller(pool).close()
    pool.drop(gone)
    loan.kill()


def test_a_forked_child_leaves_the_statements_of_its_parent_alone(pooled):
    """It has copies of the sockets: closing them must end nothing."""
    pool = pooled(max_connections=2, timeouts=Timeouts(close=30))
    interrupt(pool)
    let_go(pool)
    with pool.connection() as conn:
        reader = gevent.spawn(outcome, conn, "SELECT SLEEP(0.5) + 7")
        wait_until(lambda: is_running(pool.server, "SELECT SLEEP(0.5) + 7"), "running")
        child = os.fork()
        if not child:
            # A child that runs the tests on would report twice.
            try:
                pool.close(timeout=0)
                os._exit(int(pool.side_connections != 0))
            finally:
                os._exit(2)
        assert gevent.os.waitpid(child, 0)[1] == 0
        assert reader.get()[0] == (7,)
    assert pool.side_connections == 1
    interrupt(pool)
    let_go(pool)
    assert pool.stats().saved == 2


def test_closing_at_once_leaves_no_socket(pooled):
    """What is not cancelled by then is closed."""
    pool = pooled(max_connections=1)
    conn = interrupt(pool)
    pool.close(timeout=0)
    assert conn.interrupted is None and pool.side_connections == 0
    assert pool.size == 0


def test_after_the_close_nothing_is_cancelled(pooled):
    """What the caller of close still held is closed when it comes back."""
    pool = pooled(max_connections=1)
    with pytest.raises(gevent.Timeout), pool.connection() as conn:
        assert pool.close(timeout=0) == []
        with gevent.Timeout(0.05):
            rows(conn, FOREVER)
    assert pool.size == 0
    assert conn.interrupted is None and pool.stats().cancelled == 0


# What an uninterrupted loan costs


def test_an_uninterrupted_loan_makes_no_more_calls(pooled):
    """What is rarely needed must not cost what is done all the time."""
    counts = []
    for choice in (True, False):
        pool = pooled(max_connections=1, cancel=choice)
        least = 1000
        # Some are more, where a reply is late. How often gevent's event loop runs in
        # between is not counted.
        for _ in range(30):
            calls = 0

            def count(frame, event, argument):
                nonlocal calls
                module = frame.f_globals.get("__name__", "")
                calls += event == "call" and module.split(".")[0] != "gevent"

            with pool.connection() as conn:
                rows(conn, "SELECT 1")
            sys.setprofile(count)
            try:
                with pool.connection() as conn, conn.cursor() as cursor:
                    cursor.execute("SELECT 1")
                    cursor.fetchall()
            finally:
                sys.setprofile(None)
            least = min(least, calls)
        counts.append(least)
    assert counts[0] == counts[1] > 0
