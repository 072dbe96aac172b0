"""Borrowing PyMySQL connections: blocks, cursors, arguments, hooks."""

from __future__ import annotations

import gc
import os
import traceback
import weakref
from typing import Any

import gevent
import pymysql
import pytest
from gevent.event import Event
from pymysql import err
from pymysql.constants import CLIENT
from pymysql.cursors import Cursor, DictCursor, SSCursor

from geventpool import (
    ConnectionNotFoundError,
    ErrorAction,
    PoolExhaustedError,
    PoolListener,
    Timeouts,
)
from geventpool.mysql import (
    Connection,
    ConnectionInUseError,
    ConnectionPool,
    MySQLConnector,
)
from geventpool.testing import interrupt_everywhere, switches, wait_until
from tests import parts
from tests.mysql.conftest import rows, value
from tests.pauses import hang
from tests.peers import Deaf, Unruly


class Stop(BaseException):
    """No Exception."""


def outcome(work):
    """What it returns or raises."""
    try:
        return work()
    except BaseException as error:
        return error


def count(server, table):
    return server.ask(f"SELECT COUNT(*) FROM {table}")[0][0]


def insert(conn, table, number=1):
    rows(conn, f"INSERT INTO {table} VALUES ({number}, 0)")


def use(pool):
    """A loan in which something is said."""
    with pool.connection() as conn:
        rows(conn, "SET @used=1")


def commands(proxy):
    """What was said since the last look, without the packets' heads."""
    said, proxy.asked[:] = b"".join(proxy.asked), []
    return said


# The block


def test_a_clean_end_commits(make_pool, mariadb_server, table):
    """Nothing is lost for want of a commit()."""
    with make_pool().connection() as conn:
        assert isinstance(conn, pymysql.connections.Connection)
        insert(conn, table)
        assert count(mariadb_server, table) == 0
    assert count(mariadb_server, table) == 1


@pytest.mark.parametrize("reset", ["session", "rollback", None])
def test_an_exception_rolls_back(make_pool, mariadb_server, table, reset):
    """Half of a transaction is undone before the error goes on, in every mode."""
    pool = make_pool(reset=reset)
    with pytest.raises(ZeroDivisionError):
        with pool.connection() as conn:
            insert(conn, table)
            1 // 0
    assert count(mariadb_server, table) == 0
    mariadb_server.ask(f"SELECT * FROM {table} FOR UPDATE NOWAIT")
    with pool.connection() as again:
        assert again is conn


def test_a_half_transaction_is_never_committed(make_pool, mariadb_server, table):
    """Also in autocommit, where the first half was protected by a begin()."""
    pool = make_pool(autocommit=True)
    with pytest.raises(err.IntegrityError):
        with pool.connection() as conn:
            conn.begin()
            insert(conn, table)
            insert(conn, table)
    assert count(mariadb_server, table) == 0


@pytest.mark.parametrize("error", [Stop, gevent.GreenletExit, gevent.Timeout])
def test_anything_else_closes_without_a_word(through, proxy, table, error):
    """A kill or a Timeout may have hit an exchange: nothing more is said."""
    pool = through()
    with pytest.raises(error):
        with pool.connection() as conn:
            insert(conn, table)
            commands(proxy)
            raise error()
    assert not conn.open and pool.size == 0
    assert commands(proxy) == b""
    wait_until(lambda: count(proxy.server, table) == 0, "rolled back by the server")


@pytest.mark.parametrize("reset", ["session", "rollback", None])
def test_a_generator_closed_early_costs_no_connection(make_pool, table, reset):
    """It is closed at a yield, where nothing is under way; its work is undone."""
    pool = make_pool(max_connections=1, reset=reset)

    def numbers(borrowed):
        with pool.connection() as conn:
            borrowed.append(conn)
            insert(conn, table)
            yield from [1, 2]

    def reading(borrowed):
        with pool.connection() as conn:
            borrowed.append(conn)
            yield 1

    borrowed: list[Any] = []
    for generator in (numbers, reading, reading):
        for _ in generator(borrowed):
            break
    kept = reset is not None
    assert (borrowed[1] is borrowed[0]) is kept and borrowed[2] is borrowed[1]
    assert value(pool.acquire(), f"SELECT COUNT(*) FROM {table}") == 0


def test_closing_a_generator_early_sends_nothing(make_pool, table):
    """The garbage collector may do it, in whatever greenlet it runs."""
    pool = make_pool(max_connections=1)

    def numbers():
        with pool.connection() as conn:
            insert(conn, table)
            yield 1

    generator = numbers()
    next(generator)
    with switches() as seen:
        generator.close()
    assert not seen


def test_an_error_thrown_in_during_the_rollback_goes_on(through, proxy, table):
    """It is no failure of the rollback, which the block's own error would hide."""
    pool = through()
    mine = LookupError("a deadline of the borrower's")

    def use():
        with pool.connection() as conn:
            insert(conn, table)
            proxy.question = lambda data: borrower.kill(mine, block=False) or data  # type: ignore[func-returns-value]
            raise ZeroDivisionError

    borrower = gevent.spawn(outcome, use)
    borrower.join()
    assert borrower.value is mine
    wait_until(lambda: pool.size == pool.stats().idle, "rolled back, or closed")
    assert count(proxy.server, table) == 0


@pytest.mark.parametrize("error", [None, ZeroDivisionError])
def test_with_autocommit_neither_is_sent(through, proxy, table, error):
    """There is nothing to commit or roll back, and no round trip for it."""
    pool = through(autocommit=True, reset=None)
    try:
        with pool.connection() as conn:
            insert(conn, table)
            commands(proxy)
            if error:
                raise error
    except ZeroDivisionError:
        pass
    assert commands(proxy) == b""
    assert count(proxy.server, table) == 1


def test_a_transaction_begun_by_hand_is_committed_too(make_pool, mariadb_server, table):
    """In autocommit a clean end still does not lose what was begun and done."""
    with make_pool(autocommit=True).connection() as conn:
        conn.begin()
        insert(conn, table)
    assert count(mariadb_server, table) == 1


def test_nothing_is_sent_for_a_block_in_which_nothing_was(through, proxy):
    """An idle block is free, in every mode but a callable."""
    for reset in "session", "rollback", None:
        pool = through(reset=reset)
        with pool.connection():
            commands(proxy)
        gevent.sleep(0)
        with pool.connection():
            pass
        assert commands(proxy) == b""


def test_what_was_committed_by_hand_is_not_committed_again(through, proxy, table):
    """A block that ends with commit() or rollback() owes nothing."""
    pool = through(reset="rollback")
    with pool.connection() as conn:
        insert(conn, table)
        conn.commit()
        commands(proxy)
    with pool.connection():
        pass
    assert commands(proxy) == b""


def test_a_failed_commit_is_the_blocks_error(through, proxy, table):
    """A block that ends without an error has committed."""
    pool = through()
    with pytest.raises(err.OperationalError):
        with pool.connection() as conn:
            insert(conn, table)
            proxy.question = lambda data: None
    assert not conn.open and pool.size == 0


def test_a_failed_rollback_does_not_hide_the_error(through, proxy, table):
    """The block's own error goes on; the connection is closed."""
    pool = through()
    with pytest.raises(ZeroDivisionError):
        with pool.connection() as conn:
            insert(conn, table)
            proxy.question = lambda data: None
            1 // 0
    assert not conn.open and pool.size == 0


def test_a_lost_connection_is_no_commit(make_pool, mariadb_server, table):
    """Somebody who passed over the loss learns of it at the latest here."""
    with pytest.raises(err.InterfaceError, match="nothing is committed"):
        with make_pool().connection() as conn:
            insert(conn, table)
            conn.terminate()


def test_a_kill_during_the_commit_closes(through, proxy, table):
    """Nobody knows whether the server has committed: the connection is no good."""
    # With two places a second attempt may begin, where the first connection is slow.
    pool = through(max_connections=1, cancel=False)

    def work():
        with pool.connection() as conn:
            insert(conn, table)
            proxy.listening.clear()
            proxy.question = lambda data: data if b"COMMIT" not in data else b""

    worker = gevent.spawn(work)
    # Not that of a SET AUTOCOMMIT, while it connects.
    wait_until(lambda: b"\x03COMMIT" in b"".join(proxy.asked), "COMMIT sent")
    worker.kill()
    assert pool.size == 0
    proxy.listening.set()


def test_a_block_can_be_interrupted_anywhere(mariadb_server, proxy, table):
    """At each switch point: no place is lost, and the next borrower is served."""
    # No answer comes through the proxy before the borrower waits for it.
    where = {**mariadb_server.client_options, "host": proxy.host, "port": proxy.port}

    def scenario():
        pool = ConnectionPool(max_connections=1, **where)

        def target():
            with pool.connection() as conn:
                insert(conn, table, len(runs))
                runs.append(1)

        return target, [pool]

    runs = []
    points = interrupt_everywhere(scenario)
    # Waiting for the connection, for the answer to INSERT and for that to COMMIT.
    assert points >= 3


def test_a_connection_given_back_in_the_block_is_left_alone(make_pool):
    """Release, drop and close within the block are not undone at its end."""
    pool = make_pool()
    for end in pool.release, pool.drop, lambda conn: conn.close():
        with pool.connection() as conn:
            end(conn)
    with pool.connection() as conn:
        pool.transfer(conn, None)
    pool.release(conn)


# Unread answers


def test_unread_rows_do_not_stand_in_the_way_of_a_commit(
    make_pool, mariadb_server, table
):
    """A block may end in the middle of a stream, and is committed."""
    pool = make_pool(max_connections=1)
    with pool.connection() as conn:
        insert(conn, table)
        stream = conn.cursor(SSCursor)
        stream.execute("SELECT seq FROM seq_1_to_1000")
        stream.fetchone()
    assert count(mariadb_server, table) == 1
    with pool.connection() as again:
        assert again is conn
        assert value(again, "SELECT 'mine'") == "mine"


def test_in_autocommit_a_stream_is_not_read_to_its_end(make_pool):
    """Closing the connection costs less than reading what nobody wants."""
    pool = make_pool(max_connections=1, autocommit=True, reset="rollback")
    with pool.connection() as conn:
        stream = conn.cursor(SSCursor)
        stream.execute("SELECT seq FROM seq_1_to_100000")
        stream.fetchone()
    with pool.connection() as again:
        assert again is not conn
        assert value(again, "SELECT 'mine'") == "mine"


def test_after_an_exception_a_stream_is_not_read_to_its_end(make_pool, table):
    """The server rolls back when the connection is closed."""
    pool = make_pool(max_connections=1)
    with pytest.raises(ZeroDivisionError):
        with pool.connection() as conn:
            insert(conn, table)
            stream = conn.cursor(SSCursor)
            stream.execute("SELECT seq FROM seq_1_to_100000")
            1 // 0
    with pool.connection() as again:
        assert again is not conn
        assert value(again, f"SELECT COUNT(*) FROM {table}") == 0


def test_the_last_word_of_a_procedure_is_read(make_pool, mariadb_server):
    """A procedure's final status is no reason to close a connection."""
    mariadb_server.ask(
        "CREATE OR REPLACE PROCEDURE geventpool.one() BEGIN SELECT 1; END"
    )
    pool = make_pool(max_connections=1, autocommit=True, reset="rollback")
    with pool.connection() as conn:
        conn.cursor().callproc("one")
    with pool.connection() as again:
        assert again is conn


def test_a_transaction_begun_in_unread_results_is_committed(
    make_pool, mariadb_server, table
):
    """Only the last packet tells of it, which is read at the end of the block."""
    pool = make_pool(autocommit=True, client_flag=CLIENT.MULTI_STATEMENTS)
    statement = f"SELECT 1; BEGIN; INSERT INTO {table} VALUES (1, 0); SELECT 'booked'"
    with pool.connection() as conn:
        conn.cursor().execute(statement)
    assert count(mariadb_server, table) == 1


def test_stray_bytes_cost_the_connection(make_pool, through, proxy):
    """An answer nobody asked for would be taken for the next one."""
    pool = through(autocommit=True, reset="rollback", max_connections=1)
    with pool.connection() as conn:
        proxy.answer = lambda data: data * 2
        conn.ping(reconnect=False)
        assert not conn.in_step
        proxy.answer = lambda data: data
    with pool.connection() as again:
        assert again is not conn


# The cursor


def test_a_cursor_is_a_block_of_its_own(make_pool, mariadb_server, table):
    """It commits, rolls back and closes like the connection's."""
    pool = make_pool()
    with pool.cursor() as cursor:
        cursor.execute(f"INSERT INTO {table} VALUES (1, 0)")
    assert count(mariadb_server, table) == 1
    with pytest.raises(ZeroDivisionError):
        with pool.cursor() as cursor:
            cursor.execute(f"INSERT INTO {table} VALUES (2, 0)")
            1 // 0
    assert count(mariadb_server, table) == 1
    pool = make_pool()
    with pytest.raises(Stop):
        with pool.cursor() as cursor:
            raise Stop
    assert pool.size == 0
    with pytest.raises(err.InterfaceError):
        cursor.execute("SELECT 1")


def test_a_cursor_of_a_class_is_for_this_once(make_pool):
    """The class does not stick to the connection."""
    pool = make_pool(max_connections=1)
    with pool.cursor(DictCursor) as cursor:
        cursor.execute("SELECT 1 AS one")
        assert cursor.fetchone() == {"one": 1}
    with pool.cursor() as cursor:
        cursor.execute("SELECT 1 AS one")
        assert cursor.fetchone() == (1,)


def test_a_cursor_class_that_fails_costs_nothing(make_pool):
    """The connection goes back although there was no block to end."""
    pool = make_pool(max_connections=1)

    class Broken(Cursor):
        def __init__(self, connection):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        with pool.cursor(Broken):
            pass
    with pool.cursor() as cursor:
        assert cursor.connection


def test_an_error_of_the_rows_left_is_the_blocks_error(through, proxy):
    """Closing a cursor reads what is left; that may fail."""
    pool = through()
    with pytest.raises(err.OperationalError):
        with pool.cursor(SSCursor) as cursor:
            cursor.execute("SELECT seq, REPEAT('x', 1000) FROM seq_1_to_100000")
            proxy.hang_up_all()
    wait_until(lambda: pool.size == 0, "closed")


def test_a_cursor_ends_with_its_loan(make_pool):
    """A cursor kept from a former loan can't speak on somebody else's connection."""
    pool = make_pool(max_connections=1)
    with pool.connection() as conn:
        cursors = [conn.cursor(), conn.cursor(SSCursor)]
        cursors[0].execute("SELECT 1")
    with pool.connection() as again:
        assert again is conn
        for cursor in cursors:
            with pytest.raises(err.ProgrammingError, match="Cursor closed"):
                cursor.execute("SELECT 2")
            cursor.close()


# Acquire, release, close


def test_acquire_and_release_do_without_a_block(make_pool, mariadb_server, table):
    """Then nothing is committed but by hand."""
    pool = make_pool(max_connections=1)
    conn = pool.acquire()
    insert(conn, table)
    pool.release(conn)
    assert pool.acquire(timeout=5) is conn
    assert count(mariadb_server, table) == 0
    pool.drop(conn)
    assert not conn.open


def test_close_gives_a_lent_connection_back(make_pool):
    """Programs written for plain connections work with lent ones."""
    pool = make_pool(max_connections=1)
    conn = pool.acquire()
    conn.close()
    assert conn.open
    assert not pool.lent_connections()
    with pytest.raises(err.Error, match="Already closed"):
        conn.close()
    with pool.acquire() as again:
        assert again is conn
    assert not pool.lent_connections()


def test_a_connection_that_is_back_is_refused_to_its_last_borrower(make_pool):
    """It is somebody else's, or will be."""
    pool = make_pool(max_connections=1)
    conn = pool.acquire()
    pool.release(conn)
    with pytest.raises(ConnectionInUseError, match="back in its pool"):
        conn.ping(reconnect=False)
    with pytest.raises(ConnectionNotFoundError):
        pool.release(conn)


def test_a_stale_close_does_not_end_the_next_ones_loan(make_pool):
    """Only the holder gives back."""
    pool = make_pool(max_connections=1)
    conn = pool.acquire()
    pool.release(conn)

    def hold():
        with pool.connection() as mine:
            borrowed.set()
            may_go.wait()
            return value(mine, "SELECT 'mine'")

    borrowed, may_go = gevent.event.Event(), gevent.event.Event()
    holder = gevent.spawn(hold)
    borrowed.wait()
    with pytest.raises(ConnectionNotFoundError):
        conn.close()
    may_go.set()
    assert holder.get() == "mine"


def test_a_dead_holders_connection_is_closed(make_pool):
    """A borrower that ends without a release loses the connection, not the place."""
    pool = make_pool(max_connections=1)
    conn = gevent.spawn(pool.acquire).get()
    with pool.connection() as another:
        assert another is not conn
    assert not conn.open


def test_a_forgotten_pool_is_collected(make_pool, mariadb_server):
    """Nothing of it stays, not even a session in the server."""
    pool = ConnectionPool(**mariadb_server.client_options)
    with pool.connection() as conn:
        session = conn.thread_id()
    del conn
    forgotten = weakref.ref(pool)
    wait_until(lambda pool=pool: pool.stats().idle == 1, "reset")  # type: ignore[misc]
    del pool
    gc.collect()
    assert forgotten() is None
    wait_until(lambda: session not in mariadb_server.connection_ids(), "session gone")


def test_after_a_fork_the_parent_goes_on(make_pool):
    """The child closes its copies in silence and opens its own."""
    pool = make_pool(max_connections=1)
    with pool.connection() as conn:
        session = conn.thread_id()
    wait_until(lambda: pool.stats().idle == 1, "reset")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with pool.connection() as own:
                if own.thread_id() != session:
                    status = value(own, "SELECT 0")
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    with pool.connection() as conn:
        assert conn.thread_id() == session
        assert value(conn, "SELECT 'parent'") == "parent"


# Arguments


def test_every_keyword_of_pymysql_is_taken(make_pool):
    """And reaches the connection."""
    pool = make_pool(
        autocommit=True,
        charset="latin1",
        sql_mode="ANSI",
        init_command="SET @x=5",
        cursorclass=DictCursor,
        read_timeout=9,
    )
    with pool.connection() as conn:
        assert conn.charset == "latin1" and conn._read_timeout == 9
        assert rows(conn, "SELECT @x AS x, @@autocommit AS a") == [{"x": 5, "a": 1}]


def test_old_names_are_taken_without_a_warning(mariadb_server, make_pool):
    """db and passwd are what many configurations say."""
    options = dict(mariadb_server.client_options)
    options["db"] = options.pop("database")
    options["passwd"] = options.pop("password")
    with make_pool("mysql://", **options).connection() as conn:
        assert value(conn, "SELECT DATABASE()") == mariadb_server.database


def test_a_pool_is_made_of_a_url(make_pool, mariadb_server):
    """As an argument or by from_url; keywords win."""
    with make_pool(mariadb_server.url).connection() as conn:
        assert value(conn, "SELECT DATABASE()") == mariadb_server.database
    name = "information_schema"
    with ConnectionPool.from_url(mariadb_server.url, database=name) as pool:
        with pool.connection() as conn:
            assert value(conn, "SELECT DATABASE()") == name
    pool = ConnectionPool.from_url(mariadb_server.url, user="stranger")
    with pytest.raises(err.OperationalError, match="'stranger'"):
        pool.acquire()


def test_a_url_may_name_options_of_the_pool_and_a_keyword_wins(
    make_pool, mariadb_server
):
    """What is configured by a single string can be configured whole."""
    where = "{user}:{password}@{host}:{port}".format(**mariadb_server.client_options)
    url = f"mysql://{where}/?max_connections=3&max_idle=60&name=shop&charset=latin1"
    pool = make_pool(url, timeout=2)
    assert (pool.max_connections, pool.name) == (3, "shop")
    assert parts.lifecycle(pool).expiry.max_idle == 60
    with pool.connection() as conn:
        assert conn.charset == "latin1"
    pool = make_pool(url, max_connections=2, name="mine")
    assert (pool.max_connections, pool.name) == (2, "mine")
    assert make_pool(f"mysql://{where}").max_connections == 10


def test_a_callable_cannot_change_the_options_of_the_pool(make_pool):
    """They hold for all connections, and were read when the pool was made."""
    pool = make_pool(lambda: "mysql://h?max_idle=60")
    with pytest.raises(ValueError, match="max_idle of a pool: it can't change"):
        pool.acquire()
    with pytest.raises(ValueError, match="max_idle of a pool: give it to the pool"):
        MySQLConnector("mysql://h?max_idle=60")


def test_a_connector_of_its_own_takes_a_url(mariadb_server):
    """Without the options of a pool, which it is not."""
    where = "{user}:{password}@{host}:{port}".format(**mariadb_server.client_options)
    connector = MySQLConnector(f"mysql://{where}/?charset=latin1", charset="utf8mb4")
    conn = connector.open()
    assert conn.charset == "utf8mb4"
    connector.close(conn)


def test_a_callable_is_asked_before_each_connect(make_pool, mariadb_server):
    """For credentials that change: as keywords, or as a URL."""
    answers = [
        {"password": "yesterday's"},
        {"password": mariadb_server.password},
        mariadb_server.url,
    ]
    options = {**mariadb_server.client_options, "password": None}
    pool = make_pool(lambda: answers.pop(0), **options)
    with pytest.raises(err.OperationalError, match="Access denied"):
        pool.acquire()
    pool.acquire()
    pool.acquire()
    assert not answers


def test_user_and_password_may_be_callables(make_pool, mariadb_server):
    """A token is fetched when it is needed."""
    pool = make_pool(
        user=lambda: mariadb_server.user, password=lambda: mariadb_server.password
    )
    with pool.connection() as conn:
        assert value(conn, "SELECT 1") == 1


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"colour": "red"}, TypeError, "ConnectionPool() has no option 'colour'"),
        ({"defer_connect": True}, TypeError, "no option 'defer_connect'"),
        ({"max_idel": 5}, TypeError, "no option 'max_idel'; did you mean 'max_idle'?"),
        ({"tagret": "any"}, TypeError, "no option 'tagret'; did you mean 'target'?"),
        ({"reset": "everything"}, ValueError, "reset must be 'session', 'rollback'"),
        ({"configure": 5}, TypeError, "configure must be a callable"),
        ({"check": 5}, TypeError, "check must be a callable"),
        ({"target": "leader"}, ValueError, "target must be one of"),
        ({"host_order": "random"}, ValueError, "host_order needs hosts"),
        ({"hosts": ["a"], "host": "b"}, ValueError, "give hosts or host, not both"),
        ({"hosts": "a"}, TypeError, "hosts must be a list"),
        ({"max_connections": 0}, ValueError, "max_connections"),
        ({"connect_timeout": float("nan")}, ValueError, "connect_timeout"),
        ({"connect_timeout": "5"}, TypeError, "connect_timeout"),
        ({"source": 5}, TypeError, "url must be a string"),
        ({"source": "http://h"}, ValueError, "mysql://"),
    ],
)
def test_bad_arguments_are_refused_at_the_door(options, kind, words):
    """Before anything is opened, with argument, value and rule."""
    with pytest.raises(kind) as refusal:
        ConnectionPool(**options)
    assert words in str(refusal.value)


@pytest.mark.parametrize("answer", [5, {"colour": "red"}])
def test_a_callable_that_answers_nonsense_fails_the_borrower(make_pool, answer):
    """With an error that names it."""
    with pytest.raises(TypeError, match="options must be a dict|no option 'colour'"):
        make_pool(lambda: answer).acquire()


def test_a_connector_can_be_used_without_the_pool(mariadb_server, make_pool):
    """It has honest defaults."""
    connector = MySQLConnector(**mariadb_server.client_options)
    conn = connector.open()
    assert isinstance(conn, Connection)
    assert connector.is_usable(conn)
    connector.ping(conn)
    connector.close(conn)
    assert not conn.open
    conn = connector.open()
    conn.lend(make_pool())
    conn.lender = None
    conn.close()
    assert not conn.open
    assert connector.classify(ValueError()) is ErrorAction.KEEP
    lost = connector.classify(err.OperationalError(2013, ""))
    assert lost is ErrorAction.DISCONNECT
    conn = connector.open()
    conn.lend(make_pool())
    conn.fatal_error = err.OperationalError(1836, "read-only")
    assert connector.end_loan(conn)
    with pytest.raises(err.OperationalError, match="read-only"):
        connector.reset(conn)
    connector.terminate(conn)


# Hooks


@pytest.mark.parametrize("reset", ["session", "rollback", None])
def test_configure_sees_each_new_connection(make_pool, reset):
    """What it sets every borrower finds, in every mode."""
    configured = []

    def configure(conn):
        configured.append(conn)
        conn.cursorclass = DictCursor
        rows(conn, "SET @mine=5")

    pool = make_pool(max_connections=1, configure=configure, reset=reset)
    for _ in range(2):
        with pool.connection() as conn:
            assert rows(conn, "SELECT @mine AS m") == [{"m": 5}]
            rows(conn, "SELECT @mine:=5")
    assert configured[0] is conn


def test_a_configure_that_fails_is_a_failure_to_open(make_pool, mariadb_server):
    """Its error goes to the borrower; the connection is closed."""
    pool = make_pool(configure=lambda conn: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        pool.acquire()
    assert pool.size == 0


def test_a_configure_that_hangs_meets_the_limit(make_pool):
    """Like all that the pool does for a connection it has a time limit."""
    pool = make_pool(configure=hang, timeouts=Timeouts(open=0.05))
    with pytest.raises(TimeoutError, match="opening took longer"):
        pool.acquire()


def test_a_reset_of_ones_own(make_pool):
    """A callable gets each connection that comes back."""
    cleaned: list[Any] = []
    pool = make_pool(max_connections=1, reset=cleaned.append)
    with pool.connection() as conn:
        pass
    with pool.connection() as again:
        assert again is conn
    assert cleaned[0] is conn


@pytest.mark.parametrize("clean", [lambda conn: 1 // 0, hang])
def test_a_reset_that_fails_or_hangs_costs_the_connection(make_pool, clean):
    """The next borrower gets a new one."""
    pool = make_pool(max_connections=1, reset=clean, timeouts=Timeouts(reset=0.05))
    with pool.connection() as conn:
        pass
    with pool.connection() as again:
        assert again is not conn


SNAPSHOT = "SELECT v FROM {} WHERE i=1"


@pytest.mark.parametrize("hook", ["configure", "init_command", "reset"])
def test_what_a_hook_reads_leaves_no_read_view(make_pool, mariadb_server, table, hook):
    """An idle connection with one would show its next borrower old data."""
    mariadb_server.ask(f"INSERT INTO {table} VALUES (1, 0)")
    question = SNAPSHOT.format(table)
    look = question if hook == "init_command" else lambda conn: rows(conn, question)
    pool = make_pool(max_connections=1, **{hook: look})
    for number in range(1, 4):
        use(pool)
        mariadb_server.ask(f"UPDATE {table} SET v={number} WHERE i=1")
        with pool.connection() as conn:
            assert value(conn, question) == number


def test_what_a_hook_left_unread_is_read(make_pool, mariadb_server, table):
    """Behind it may stand the answer that tells of a transaction."""
    pool = make_pool(
        initial_connections=1,
        client_flag=CLIENT.MULTI_STATEMENTS,
        configure=lambda conn: conn.query(f"SELECT 1; SELECT * FROM {table}"),
    )
    (idle,) = pool.idle_connections()
    mariadb_server.ask(f"INSERT INTO {table} VALUES (1, 0)")
    with pool.connection() as conn:
        assert conn is idle
        assert value(conn, f"SELECT COUNT(*) FROM {table}") == 1


@pytest.mark.parametrize("block", [True, False])
def test_a_connection_that_fails_the_check_is_not_lent(make_pool, block):
    """The next one is tried, until one passes."""
    seen = []

    def check(conn):
        seen.append(conn)
        if len(seen) < 3:
            raise ZeroDivisionError

    pool = make_pool(check=check)
    if block:
        with pool.connection() as conn:
            assert value(conn, "SELECT 1") == 1
    else:
        conn = pool.acquire()
    assert len(seen) == 3 and seen[-1] is conn
    assert pool.size == 1


def test_a_check_sees_every_borrow(make_pool):
    """Also of a connection that goes straight from one borrower to the next."""
    seen: list[Any] = []
    pool = make_pool(max_connections=1, check=seen.append, timeout=None)

    def borrow():
        with pool.connection() as conn:
            rows(conn, "SELECT 1")

    gevent.joinall([gevent.spawn(borrow) for _ in range(3)], raise_error=True)
    assert len(seen) == 3


def test_a_check_that_hangs_meets_the_limit_and_the_deadline(make_pool):
    """The borrower's time is one for all attempts."""
    pool = make_pool(
        max_connections=1,
        check=hang,
        timeouts=Timeouts(ping=0.03),
    )
    # If each attempt had the whole time, there would be no end.
    with gevent.Timeout(5), pytest.raises(PoolExhaustedError):
        pool.acquire(timeout=0.2)
    with gevent.Timeout(5), pytest.raises(PoolExhaustedError):
        with pool.connection(timeout=0.2):
            pass
    assert pool.size <= 1


@pytest.mark.parametrize("block", [True, False])
def test_a_refusal_tells_how_many_failed_the_check_and_why(make_pool, block):
    """The cause is what the check raised, with its lines."""
    seen = []

    def check(conn):
        seen.append(1)
        raise ZeroDivisionError("not wanted")

    pool = make_pool(max_connections=1, check=check)
    with pytest.raises(PoolExhaustedError) as caught:
        if block:
            pool.connection(timeout=0.05).__enter__()
        else:
            pool.acquire(timeout=0.05)
    expected = f"{len(seen)} failed a check or reset, the last by ZeroDivisionError"
    assert expected in str(caught.value) and "within 0.0 s" not in str(caught.value)
    cause = caught.value.__cause__
    assert isinstance(cause, ZeroDivisionError) and str(cause) == "not wanted"
    lines = traceback.extract_tb(cause.__traceback__)
    assert lines[-1].name == "check"


@pytest.mark.parametrize("block", [True, False])
def test_a_check_that_never_passes_does_not_flood_the_server(make_pool, block):
    """Each attempt costs the server a login. There were a thousand in a second."""
    seen = []

    def check(conn):
        seen.append(conn)
        raise ZeroDivisionError

    pool = make_pool(check=check)
    with pytest.raises(PoolExhaustedError):
        if block:
            pool.connection(timeout=0.3).__enter__()
        else:
            pool.acquire(timeout=0.3)
    # The pauses before the third and the following ones: 0.05 s, 0.1 s, 0.2 s.
    assert 1 < len(seen) <= 5


def test_idle_connections_are_checked_without_pauses(make_pool, monkeypatch):
    """They may all have become stale together."""
    monkeypatch.setattr("geventpool.mysql.pool.sleep", None)
    stale: set[Any] = set()

    def check(conn):
        assert conn not in stale

    pool = make_pool(max_connections=5, initial_connections=5, check=check)
    stale.update(pool.idle_connections())
    assert len(stale) == 5 and pool.acquire() not in stale


def test_a_check_without_a_deadline_goes_on(make_pool):
    """Without a time limit it is tried until one passes."""
    seen = []

    def check(conn):
        seen.append(conn)
        assert len(seen) > 1

    pool = make_pool(check=check, timeout=None)
    assert pool.acquire() is seen[1]


@pytest.mark.parametrize("error", [gevent.GreenletExit(), Stop(), ZeroDivisionError()])
def test_a_check_can_be_interrupted(make_pool, error):
    """Nobody has the connection yet: it is closed, and the error is the borrower's."""
    checking = Event()

    def check(conn):
        checking.set()
        hang()

    pool = make_pool(max_connections=1, check=check)
    borrower = gevent.Greenlet(outcome, pool.acquire)
    borrower.start()
    checking.wait()
    borrower.kill(error)
    assert borrower.value is error and pool.size == 0


def test_what_a_check_raises_that_is_no_exception_is_the_borrowers(make_pool):
    """Only an Exception says that the connection is not wanted."""

    def check(conn):
        raise Stop

    pool = make_pool(check=check)
    with pytest.raises(Stop):
        pool.acquire()
    assert pool.size == 0


def test_a_connection_whose_check_was_killed_is_not_lent(make_pool):
    """As one that fails it."""
    seen = []

    def check(conn):
        seen.append(conn)
        if len(seen) == 1:
            gevent.getcurrent().kill()  # type: ignore[attr-defined]

    pool = make_pool(check=check)
    assert pool.acquire() is not seen[0]


def test_listeners_hear_of_loans(make_pool):
    """The pool's options are those of every pool."""
    heard = []

    class Listener(PoolListener):
        def acquired(self, conn, waited):
            heard.append(conn)

    pool = make_pool(listeners=[Listener()], name="shop")
    with pool.connection() as conn:
        pass
    assert heard == [conn]
    assert "'shop'" in repr(pool)


# Not patched, not answered


def test_a_server_that_never_answers_is_given_up(make_pool):
    """One limit covers dialling and the handshake."""
    for kind in Unruly, Deaf:
        with kind() as peer:
            pool = make_pool(
                "mysql://", host=peer.host, port=peer.port, connect_timeout=0.1
            )
            with pytest.raises(err.OperationalError) as refusal:
                pool.acquire()
            assert refusal.value.args[0] == 2003


def test_a_dial_can_be_interrupted(make_pool, hub_errors):
    """A Timeout that is not ours goes its way."""
    with Unruly() as peer:
        connector = MySQLConnector(host=peer.host, port=peer.port)
        with pytest.raises(gevent.Timeout) as ours:
            with gevent.Timeout(0.05):
                connector.open()
        assert ours.value.seconds == 0.05


def test_an_address_to_bind_to_is_pymysqls_business(make_pool):
    """What we can't do PyMySQL does."""
    with make_pool(bind_address="127.0.0.1").connection() as conn:
        assert value(conn, "SELECT 1") == 1


def test_a_block_that_said_nothing_is_not_rolled_back(through, proxy):
    """An error before the first statement costs no round trip."""
    pool = through(autocommit=False, reset=None, max_connections=1)
    conn = pool.acquire()
    # Its reply carries a status that is not noted.
    conn.show_warnings()
    pool.release(conn)
    with pytest.raises(ZeroDivisionError), pool.connection():
        raise ZeroDivisionError
    assert b"ROLLBACK" not in b"".join(proxy.asked)


def test_a_password_that_changes_is_asked_for_each_connection(
    make_pool, mariadb_server
):
    """A token may have expired since the last one was opened."""
    asked = []

    def password():
        asked.append(1)
        return mariadb_server.password

    pool = make_pool(password=password)
    held = [pool.acquire() for _ in range(3)]
    assert len(asked) == 3
    for conn in held:
        pool.release(conn)
