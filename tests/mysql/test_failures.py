"""Real failures of a real server."""

from __future__ import annotations

import time
from typing import Any

import gevent
import pytest
from pymysql import err

from geventpool import Backoff, Outage, PoolExhaustedError, Timeouts
from geventpool._core.deadline import LATE
from geventpool.mysql import Connection
from geventpool.testing import check_capacity, wait_until, watch_now
from tests import parts
from tests.mysql.conftest import is_running, rows, value
from tests.pauses import block_loop, give_up_after
from tests.test_deadline import Peer


def warm(pool, number):
    """So many idle connections, in the order in which they will be lent."""
    lent = [pool.acquire() for _ in range(number)]
    for conn in reversed(lent):
        pool.release(conn)
    wait_until(lambda: len(pool.idle_connections()) == number, "idle")
    return lent


# A server that is away


def test_a_server_that_is_away_for_a_moment_fails_no_waiter(make_pool, mariadb_server):
    """PyMySQL has an error of its own for that."""
    ports = [mariadb_server.port]
    backoff = Backoff(0.001, maximum=0.001)
    pool = make_pool(lambda: {"port": ports[-1]}, outage=Outage(backoff=backoff))
    pool.release(pool.acquire())
    pool.drain()
    ports.append(1)
    waiter = gevent.spawn(pool.acquire)
    wait_until(lambda: pool.failure() is not None, "failed")
    ports.pop()
    assert waiter.get().open


# Connections that die


def test_connections_killed_while_idle_are_never_lent(make_pool, mariadb_server):
    """Nobody notices but the server's list of connections."""
    pool = make_pool()
    killed = warm(pool, 3)
    mariadb_server.hang_up()
    wait_until(lambda: not any(conn.is_quiet() for conn in killed), "told")
    for _ in range(5):
        with pool.connection() as conn:
            assert conn not in killed
            assert value(conn, "SELECT 1") == 1


def test_connections_killed_while_idle_are_found_at_once(make_pool, mariadb_server):
    """The event loop hears it; nobody has to ask for a connection first."""
    pool = make_pool()
    warm(pool, 3)
    watch_now(pool)
    mariadb_server.hang_up()
    wait_until(lambda: pool.size == 0, "found")


def test_a_connection_killed_while_busy_costs_its_borrower_only(
    make_pool, mariadb_server
):
    """The borrower gets the server's error; the next one gets another connection."""
    pool = make_pool(max_connections=1)
    seen = []

    def borrow():
        with pool.connection() as conn:
            seen.append(conn)
            rows(conn, "SELECT SLEEP(20)")

    borrower = gevent.spawn(lambda: pytest.raises(err.OperationalError, borrow))
    wait_until(lambda: is_running(mariadb_server, "SLEEP(20)"), "running")
    mariadb_server.ask(f"KILL CONNECTION {seen[0].thread_id()}")
    assert borrower.get(timeout=5).value.args[0] in (2013, 1927)
    with pool.connection() as conn:
        assert conn is not seen[0]
        assert value(conn, "SELECT 1") == 1


def test_a_killed_query_leaves_the_connection(make_pool, mariadb_server):
    """Only the statement has failed."""
    pool = make_pool(max_connections=1)
    conn = pool.acquire()
    work = gevent.spawn(
        lambda: pytest.raises(
            err.MySQLError, rows, conn, "SELECT SLEEP(20) FROM seq_1_to_2"
        )
    )
    wait_until(lambda: is_running(mariadb_server, "SLEEP(20)"), "running")
    mariadb_server.ask(f"KILL QUERY {conn.thread_id()}")
    assert work.get(timeout=5).value.args[0] == 1317
    pool.release(conn)
    assert pool.acquire() is conn


def test_wait_timeout_does_not_reach_a_borrower(make_pool):
    """The server closes what is idle for too long; nobody borrows that."""
    pool = make_pool(
        init_command="SET wait_timeout=1", max_connections=1, reset="rollback"
    )
    [conn] = warm(pool, 1)
    wait_until(lambda: not conn.is_quiet(), "closed by the server")
    with pool.connection() as another:
        assert another is not conn
        assert value(another, "SELECT 1") == 1


def test_a_dead_connection_found_by_ping_is_replaced(through, proxy):
    """A peer that vanished leaves no trace on the socket: only a round trip tells."""
    pool = through(max_connections=1, ping_after=0, timeouts=Timeouts(ping=0.1))
    [conn] = warm(pool, 1)
    with pool.connection() as again:
        assert again is conn
    wait_until(lambda: bool(pool.idle_connections()), "idle")
    for behaviour in (lambda data: b"", lambda data: None):
        proxy.question = lambda data: (
            behaviour(data) if data == b"\x01\x00\x00\x00\x0e" else data
        )
        with pool.connection() as another:
            assert another is not conn
            conn = another
        wait_until(lambda: bool(pool.idle_connections()), "idle")


def test_statements_are_never_run_again(through, proxy, table):
    """The answer to an INSERT is lost: the borrower gets an error, not a second row."""
    pool = through(autocommit=True)
    with pytest.raises(err.OperationalError):
        with pool.connection() as conn:
            rows(conn, f"SELECT * FROM {table}")
            proxy.answer = lambda data: None
            rows(conn, f"INSERT INTO {table} VALUES (1, 0)")
    assert proxy.server.ask(f"SELECT COUNT(*) FROM {table}") == [(1,)]


# The limit


def test_a_cold_start_keeps_to_the_limit(make_pool, own_server):
    """The server never sees more sockets than there are places."""
    pool = make_pool(**own_server.client_options, max_connections=5, max_connecting=5)
    wait_until(lambda: own_server.sockets() == 0, "no sockets yet")
    most = []

    def borrow():
        with pool.connection() as conn:
            rows(conn, "SELECT SLEEP(0.005)")
            most.append(own_server.sockets())

    gevent.joinall([gevent.spawn(borrow) for _ in range(50)], raise_error=True)
    assert len(most) == 50 and max(most) <= 5


def test_closing_the_pool_closes_under_the_reader(make_pool):
    """The borrower gets an error for a lost connection when its time has passed."""
    pool = make_pool()

    def work():
        with pool.connection() as conn:
            rows(conn, "SELECT SLEEP(20)")

    borrower = gevent.spawn(lambda: pytest.raises(err.OperationalError, work))
    wait_until(lambda: bool(pool.lent_connections()), "borrowed")
    gevent.idle()
    assert len(pool.close(timeout=0.05)) == 1
    assert borrower.get(timeout=5).value.args[0] == 2013


# The server as a whole


def test_a_restart_is_survived(make_pool, own_server):
    """Borrowers get errors while it is down, and connections when it is up."""
    pool = make_pool(**own_server.client_options)
    old = warm(pool, 3)
    own_server.stop()
    with pytest.raises(err.OperationalError) as refusal:
        pool.acquire()
    assert refusal.value.args[0] == 2003
    # What looks for the server may be at it at this moment.
    wait_until(lambda: pool.size == 0, "closed")
    own_server.start()

    def is_back():
        # After a grace that has ended, callers fail until the server was found.
        try:
            pool.release(pool.acquire())
        except err.OperationalError:
            return False
        return True

    wait_until(is_back)
    for _ in range(3):
        with pool.connection() as conn:
            assert conn not in old
            assert value(conn, "SELECT 1") == 1


def test_a_restart_costs_no_more_errors_than_connections_were_in_use(
    make_pool, own_server
):
    """The waiters go on waiting, if the options of the pool say so."""
    pool = make_pool(
        **own_server.client_options,
        max_connections=4,
        timeout=20,
        outage=Outage(wait=True),
    )
    stop = False

    def work():
        errors: list[Any] = []
        while not stop:
            try:
                with pool.connection() as conn:
                    assert value(conn, "SELECT %s", id(errors)) == id(errors)
            except err.MySQLError as error:
                errors.append(error)
            gevent.sleep(0)
        return errors

    jobs = [gevent.spawn(work) for _ in range(40)]
    wait_until(lambda: pool.stats().in_use == 4, "all in use")
    own_server.stop()
    own_server.start()
    wait_until(lambda: pool.stats().size == 4, "all there again")
    stop = True
    errors = [error for job in jobs for error in job.get()]
    assert len(errors) <= 4, errors


def test_after_a_lost_answer_idle_connections_are_pinged_first(through, proxy):
    """They may be lost as well; the next borrower must not get one."""
    pool = through(max_connections=2, timeouts=Timeouts(ping=0.1), read_timeout=0.2)
    warm(pool, 2)
    proxy.question = lambda data: b""
    with pytest.raises(err.OperationalError):
        with pool.connection() as conn:
            rows(conn, "SELECT 1")
    proxy.question = lambda data: b"" if data == b"\x01\x00\x00\x00\x0e" else data
    with pool.connection() as another:
        assert value(another, "SELECT 1") == 1
    assert another is not conn
    assert pool.size == 1


def test_a_crash_in_the_middle_of_a_query_is_an_error_of_that_query(
    make_pool, own_server
):
    """And the place is free again."""
    pool = make_pool(**own_server.client_options)
    conn = pool.acquire(reclaim=False)
    work = gevent.spawn(
        lambda: pytest.raises(err.OperationalError, rows, conn, "SELECT SLEEP(20)")
    )
    wait_until(lambda: is_running(own_server, "SLEEP(20)"), "running")
    own_server.kill()
    assert work.get(timeout=5).value.args[0] == 2013
    pool.release(conn)
    wait_until(lambda: pool.size == 0, "closed")
    own_server.start()
    with pool.connection() as conn:
        assert value(conn, "SELECT 1") == 1


def test_a_login_does_not_fail_because_the_loop_was_blocked(make_pool, monkeypatch):
    """The reply of the server comes due together with the time limit."""
    connect, limit = Connection.connect, 0.5

    def held_up(conn, sock=None):
        end = time.monotonic() + limit + 2 * LATE
        connect(conn, sock)
        peer = Peer()
        gevent.get_hub().loop.run_callback(block_loop, end)
        # A dialogue takes several turns of the loop.
        peer.ask()
        peer.close()

    monkeypatch.setattr(Connection, "connect", held_up)
    pool = make_pool(connect_timeout=limit)
    with pool.connection() as conn:
        assert conn.open


def test_a_frozen_server_holds_nobody_longer_than_his_time(make_pool, own_server):
    """Queries, pings, resets and handshakes all end; afterwards all is well again."""
    pool = make_pool(
        **own_server.client_options,
        max_connections=3,
        ping_after=0,
        connect_timeout=0.2,
        timeouts=Timeouts(open=0.3, ping=0.1, reset=0.1, close=0.1),
        timeout=0.5,
    )
    warm(pool, 1)
    with pool.connection() as conn:
        own_server.pause()
        try:
            with give_up_after(0.1):
                rows(conn, "SELECT 1")
            assert not conn.open
            conn.has_sent = False
            with pytest.raises((err.OperationalError, PoolExhaustedError)):
                pool.acquire()
        finally:
            own_server.resume()
    for _ in range(3):
        with pool.connection() as conn:
            assert value(conn, "SELECT 1") == 1


def test_a_full_server_is_waited_for(make_pool, own_server):
    """Its refusal is no error as long as there is time: returned connections serve."""
    taken = [own_server_connection(own_server) for _ in range(9)]
    pool = make_pool(
        **own_server.client_options, backoff=Backoff(0.01, maximum=0.05), timeout=5
    )
    served = []

    def borrow():
        with pool.connection() as conn:
            served.append(value(conn, "SELECT 1"))

    borrowers = [gevent.spawn(borrow) for _ in range(20)]
    gevent.joinall(borrowers, raise_error=True, timeout=5)
    assert served == [1] * 20
    with pool.connection(), pytest.raises(PoolExhaustedError) as refusal:
        pool.acquire(timeout=0.1)
    assert refusal.value.__cause__.args[0] == 1040  # type: ignore[union-attr]
    for conn in taken:
        conn.close()
    lent = [pool.acquire() for _ in range(5)]
    assert len(lent) == 5


def own_server_connection(server):
    import pymysql

    return pymysql.connect(**server.client_options, ssl_disabled=True)


def test_a_limit_of_the_account_is_waited_for_too(make_pool, mariadb_server):
    """max_user_connections is the server's, as max_connections is."""
    mariadb_server.ask(
        "CREATE OR REPLACE USER few IDENTIFIED BY 'few' WITH MAX_USER_CONNECTIONS 1"
    )
    pool = make_pool(
        host=mariadb_server.host,
        port=mariadb_server.port,
        user="few",
        password="few",
        database=None,
        backoff=Backoff(0.01, maximum=0.02),
    )
    with pool.connection():
        with pytest.raises(PoolExhaustedError) as refusal:
            pool.acquire(timeout=0.1)
    assert refusal.value.__cause__.args[0] in (1203, 1226)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"password": "wrong"}, 1045),
        ({"database": "mysql"}, 1044),
        ({"user": "root", "password": "", "database": "nonsense"}, 1049),
    ],
)
def test_where_no_waiting_helps_the_borrower_is_told_at_once(
    make_pool, mariadb_server, wrong, code
):
    """A wrong password is not tried until the time is over."""
    options = {"unix_socket": mariadb_server.unix_socket, **wrong}
    pool = make_pool(**options)
    borrowers = [
        gevent.spawn(lambda: pytest.raises(err.OperationalError, pool.acquire))
        for _ in range(3)
    ]
    for borrower in borrowers:
        assert borrower.get(timeout=5).value.args[0] == code
    assert pool.size == 0


# Locks


def test_a_lock_wait_that_times_out_costs_the_statement_only(make_pool, table):
    """The transaction is rolled back with the block, and the connection stays."""
    pool = make_pool(init_command="SET innodb_lock_wait_timeout=1", max_connections=2)
    with pool.connection() as one:
        rows(one, f"INSERT INTO {table} VALUES (1, 0)")
        with pytest.raises(err.OperationalError) as late:
            with pool.connection() as other:
                rows(other, f"INSERT INTO {table} VALUES (2, 0)")
                rows(other, f"INSERT INTO {table} VALUES (1, 0)")
        assert late.value.args[0] == 1205
    wait_until(lambda: len(pool.idle_connections()) == 2, "both idle")
    assert other.open
    with pool.connection() as conn:
        assert rows(conn, f"SELECT i FROM {table}") == [(1,)]


def test_the_victim_of_a_deadlock_keeps_its_connection(make_pool, table):
    """One of two gives way; both connections are lent again."""
    pool = make_pool(max_connections=2)
    with pool.connection() as conn:
        rows(conn, f"INSERT INTO {table} VALUES (1, 0), (2, 0)")
    outcomes: list[Any] = []
    met = gevent.event.Event()
    first_in = []

    def work(first, second):
        try:
            with pool.connection() as conn:
                rows(conn, f"UPDATE {table} SET v=v+1 WHERE i={first}")
                first_in.append(first)
                if len(first_in) == 2:
                    met.set()
                met.wait()
                rows(conn, f"UPDATE {table} SET v=v+1 WHERE i={second}")
                outcomes.append(None)
        except err.OperationalError as error:
            outcomes.append(error.args[0])

    gevent.joinall(
        [gevent.spawn(work, 1, 2), gevent.spawn(work, 2, 1)], raise_error=True
    )
    assert sorted(outcomes, key=str) == [1213, None]
    wait_until(lambda: len(pool.idle_connections()) == 2, "both idle")
    with pool.connection() as conn:
        assert rows(conn, f"SELECT v FROM {table}") == [(1,), (1,)]


# A primary that has become a replica


@pytest.fixture()
def demote(mariadb_server):
    """Turns the common server read-only, until the end of the test."""
    yield lambda: mariadb_server.ask("SET GLOBAL read_only=1")
    mariadb_server.ask("SET GLOBAL read_only=0")


@pytest.mark.parametrize("swallow", [False, True], ids=["raised", "swallowed"])
def test_a_write_to_a_former_primary_renews_all_connections(
    make_pool, table, demote, swallow
):
    """They all lead to the same server, which is healthy but no longer the one."""
    pool = make_pool()
    old = warm(pool, 3)
    demote()
    try:
        with pool.connection() as conn:
            try:
                rows(conn, f"INSERT INTO {table} VALUES (1, 0)")
            except err.OperationalError as error:
                assert error.args[0] == 1290
                if not swallow:
                    raise
                conn.rollback()
    except err.OperationalError:
        assert not swallow
    wait_until(lambda: not any(conn.open for conn in old), "renewed")
    with pool.connection() as conn:
        assert conn not in old


def test_a_pool_for_replicas_is_not_renewed_by_a_write(make_pool, table, demote):
    """There it is the borrower who was wrong."""
    demote()
    pool = make_pool(target="replica")
    old = warm(pool, 3)
    with pytest.raises(err.OperationalError):
        with pool.connection() as conn:
            rows(conn, f"INSERT INTO {table} VALUES (1, 0)")
    gevent.idle()
    assert sum(conn.open for conn in old) >= 2


def test_an_option_of_another_kind_is_no_demotion(make_pool, mariadb_server, table):
    """1290 is also said of --secure-file-priv and others."""
    pool = make_pool(unix_socket=mariadb_server.unix_socket, user="root", password="")
    [conn] = warm(pool, 1)
    try:
        mariadb_server.ask("SET GLOBAL general_log=0")
    finally:
        assert pool.acquire() is conn


def test_a_pool_that_is_gone_needs_no_renewal(make_pool, table, demote, monkeypatch):
    """The connector outlives its pool for a moment, and calls nobody."""
    pool = make_pool(max_connections=1)
    parts.connector(pool).on_demotion = lambda: None
    conn = pool.acquire()
    demote()
    with pytest.raises(err.OperationalError):
        rows(conn, f"INSERT INTO {table} VALUES (1, 0)")
    pool.release(conn)
    wait_until(lambda: pool.size == 0, "closed")


@pytest.mark.parametrize("way", ["block", "bare"])
def test_a_loan_that_cannot_begin_loses_no_place(make_pool, monkeypatch, way):
    """Such as for want of memory. A block can be entered again."""
    pool = make_pool(max_connections=1)
    block = pool.connection()
    begin: Any = block.__enter__ if way == "block" else pool.acquire

    def fail(self: Any, lender: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "lend", fail)
        with pytest.raises(MemoryError):
            begin()
    check_capacity(pool)
    with block as conn:
        assert value(conn, "SELECT 1") == 1


@pytest.mark.parametrize("error", [None, ValueError])
def test_a_block_that_cannot_end_loses_no_place(make_pool, monkeypatch, error):
    """The connection is closed, because nobody knows what is left on it."""
    pool = make_pool(max_connections=1)

    def fail(*args: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        with pytest.raises(MemoryError), pool.connection() as conn:
            patch.setattr(Connection, "nothing_to_commit", property(fail))
            patch.setattr(pool, "report_error", fail)
            if error is not None:
                raise error
    assert pool.acquire() is not conn
