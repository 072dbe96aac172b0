"""PyMySQL connections in a process that gevent has not patched."""

from __future__ import annotations

from functools import partial

import pytest
from gevent import get_hub, monkey
from pymysql import err

from geventpool import (
    ConnectionNotFoundError,
    NotPatchedError,
    PoolClosedError,
    PoolExhaustedError,
    patching,
)
from geventpool.mysql import ConnectionPool, MySQLConnector
from geventpool.mysql.connection import Connection
from geventpool.testing import wait_until
from tests.mysql.conftest import rows, value
from tests.peers import run_script

THREADS = """
import threading, warnings
warnings.simplefilter("ignore")
import geventpool.mysql
pool = geventpool.mysql.ConnectionPool(max_connections=2, autocommit=True,
    initial_connections=1, timeout={timeout!r}, **{where!r})
seen, left, done = set(), set(), []
def work():
    for _ in range(20):
        with pool.connection() as conn, conn.cursor() as cursor:
            cursor.execute("SELECT CONNECTION_ID(), @mine")
            number, mine = cursor.fetchone()
            seen.add(number)
            left.add(mine)
            cursor.execute("SET @mine=1")
        done.append(1)
threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(seen) <= 2, left, len(done))
pool.close()
"""


@pytest.fixture()
def unpatched(monkeypatch):
    """As in a process that gevent has not patched; to be undone in the test."""
    with monkeypatch.context() as patch:
        patch.setattr(monkey, "is_object_patched", lambda *name: False)
        patch.setattr(patching, "warn_once", lambda *text: None)
        yield patch


@pytest.fixture()
def pool(unpatched, mariadb_server):
    """A pool of one connection for threads."""
    pool = ConnectionPool(
        **mariadb_server.client_options, max_connections=1, timeout=5, autocommit=False
    )
    yield pool
    pool.close()


@pytest.mark.parametrize("timeout", [30, None, 1e300])
def test_threads_share_a_pool_where_nothing_is_patched(mariadb_server, timeout):
    """With its limit and its clean sessions. They wait as long as it says."""
    source = THREADS.format(where=mariadb_server.client_options, timeout=timeout)
    assert run_script(source) == "True {None} 120\n"


FORK = """
import os, warnings
warnings.simplefilter("ignore")
from gevent import get_hub, monkey
import geventpool.mysql
pool = geventpool.mysql.ConnectionPool(max_connections=2, **{where!r})
def number():
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("SELECT CONNECTION_ID()")
        return cursor.fetchone()[0]
mine = number()
with pool.connection() as lent:
    child = os.fork()
if not child:
    {patch}
    assert pool.stats().size == 0 and not lent.open
    # The place of the loan that the child has not is free.
    with pool.connection():
        assert number() != mine
        assert pool.stats().size == 2
    os._exit(0)
print(os.waitpid(child, 0)[1], number() == mine)
pool.close()
"""


@pytest.mark.parametrize("patch", ["monkey.patch_all()", "pass"])
def test_a_forked_process_has_connections_of_its_own(mariadb_server, patch):
    """Two processes that read from one connection get the replies of each other."""
    source = FORK.format(where=mariadb_server.client_options, patch=patch)
    assert run_script(source) == "0 True\n"


LOCKED = """
import os, warnings
warnings.simplefilter("ignore")
import geventpool.mysql
from geventpool.mysql.threaded import threaded_pools
pool = geventpool.mysql.ConnectionPool(**{where!r})
threaded_pools.making.acquire()
child = os.fork()
if not child:
    with pool.connection() as conn:
        conn.ping()
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""


def test_a_fork_while_a_thread_decides_blocks_no_child(mariadb_server):
    """The lock of that thread would stay locked without end."""
    source = LOCKED.format(where=mariadb_server.client_options)
    assert run_script(source) == "0\n"


def test_the_numbers_are_those_of_the_pool_for_threads(pool):
    """Zeros would say that a development server has no connection."""

    def numbers():
        stats = pool.stats()
        return stats.size, stats.idle, stats.in_use, stats.max_connections

    assert numbers() == (0, 0, 0, 1)
    with pool.connection():
        assert numbers() == (1, 0, 1, 1)
    assert numbers() == (1, 1, 0, 1)
    # None of them is one of the pool's own, which lends nothing here.
    assert pool.size == 0


def test_a_block_ends_as_with_greenlets(pool, mariadb_server, table):
    """A clean end commits, an error rolls back, and anything else closes."""
    statement = f"INSERT INTO {table} VALUES (%s, 0)"
    with pool.connection() as conn:
        rows(conn, statement, 1)
    with pytest.raises(ZeroDivisionError):
        with pool.connection() as again:
            rows(again, statement, 2)
            1 // 0
    assert again is conn
    with pytest.raises(KeyboardInterrupt):
        with pool.connection() as again:
            raise KeyboardInterrupt
    assert not again.open
    with pool.cursor() as cursor:
        cursor.execute(f"SELECT i FROM {table}")
        assert cursor.fetchall() == ((1,),)


def test_a_commit_that_fails_is_the_blocks_error(pool):
    """And a rollback that fails hides no other."""
    with pytest.raises(err.InterfaceError):
        with pool.connection() as conn:
            rows(conn, "SET @x=1")
            conn.server_status |= 1
            conn.terminate()
    with pytest.raises(ZeroDivisionError):
        with pool.connection() as conn:
            conn.rollback_if_open = lambda: int("no")
            1 // 0
    assert value(pool.acquire(), "SELECT 1") == 1


@pytest.mark.parametrize("deed", ["finish_transaction", "reset"])
def test_an_interrupted_end_of_a_loan_costs_no_place(pool, monkeypatch, deed):
    """Ctrl-C may come at any line."""

    def interrupt(*args):
        raise KeyboardInterrupt

    kind = MySQLConnector if deed == "reset" else Connection
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(kind, deed, interrupt)
        with pool.connection() as conn:
            rows(conn, "SET @mine=1")
    assert not conn.open
    with pool.connection(timeout=0) as conn:
        assert value(conn, "SELECT 1") == 1


def test_a_closed_pool_says_so_even_if_it_is_exhausted(pool):
    """There is nothing to wait for."""
    conn = pool.acquire()
    pool.close()
    with pytest.raises(PoolClosedError):
        pool.acquire(timeout=0)
    conn.close()


def test_a_loan_by_hand_ends_once(pool):
    """By release, drop, or the connection's own close."""
    for end in (pool.release, pool.drop, lambda conn: conn.close()):
        conn = pool.acquire()
        rows(conn, "SELECT 1")
        end(conn)
        with pytest.raises(ConnectionNotFoundError):
            pool.release(conn)
    with pool.connection() as conn:
        conn.close()
    with pytest.raises(PoolExhaustedError):
        held = pool.acquire()
        pool.acquire(timeout=0)
    pool.drop(held)


def test_a_dead_connection_is_not_lent(pool):
    """Whether it died in its loan or later."""
    conn = pool.acquire()
    pool.release(conn)
    conn.terminate()
    again = pool.acquire()
    assert again is not conn
    again.terminate()
    pool.release(again)
    assert pool.acquire() is not again


def test_a_connection_that_could_not_be_cleaned_is_closed(unpatched, mariadb_server):
    """As one that died in its loan."""
    pool = ConnectionPool(
        **mariadb_server.client_options, max_connections=1, reset=lambda conn: 1 // 0
    )
    conn = pool.acquire()
    rows(conn, "SELECT 1")
    pool.release(conn)
    assert not conn.open
    with pool.connection() as again:
        assert again is not conn
    pool.close()


def test_a_check_is_asked(unpatched, mariadb_server):
    """Until a connection passes it."""
    outcomes = [ValueError, None, KeyboardInterrupt]

    def check(conn):
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    pool = ConnectionPool(
        **mariadb_server.client_options, max_connections=1, check=check
    )
    conn = pool.acquire()
    assert outcomes == [KeyboardInterrupt]
    pool.release(conn)
    with pytest.raises(KeyboardInterrupt):
        pool.acquire(timeout=0)
    pool.close()
    with pytest.raises(PoolClosedError):
        pool.acquire(timeout=0)


def test_a_check_that_always_fails_is_told_when_the_time_is_up(
    unpatched, mariadb_server
):
    """Without a time limit it is tried without end."""

    def check(conn):
        raise ZeroDivisionError

    pool = ConnectionPool(**mariadb_server.client_options, check=check)
    with pytest.raises(PoolExhaustedError, match="1 failed the check") as caught:
        pool.acquire(timeout=0)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    pool.close()


def test_a_check_that_never_passes_does_not_flood_the_server(unpatched, mariadb_server):
    """Each attempt costs the server a login."""
    seen = []

    def check(conn):
        seen.append(conn)
        raise ZeroDivisionError

    pool = ConnectionPool(**mariadb_server.client_options, check=check)
    with pytest.raises(PoolExhaustedError):
        pool.acquire(timeout=0.3)
    # The pauses before the third and the following ones: 0.05 s, 0.1 s, 0.2 s.
    assert 1 < len(seen) <= 6
    pool.close()


def test_what_comes_back_to_a_closed_pool_is_closed(pool):
    """As of every pool."""
    conn = pool.acquire()
    pool.close()
    pool.release(conn)
    assert not conn.open


def test_a_drain_renews_what_threads_have(pool):
    """In any thread. Idle connections at once, the others when they come back."""

    def in_thread(work):
        return get_hub().threadpool.apply(work)

    def refused(method):
        with pytest.raises(NotPatchedError, match="has no connections to work on"):
            method()

    conn = pool.acquire()
    in_thread(pool.drain)
    assert conn.open
    pool.release(conn)
    assert not conn.open
    second = pool.acquire()
    pool.release(second)
    pool.drain()
    assert not second.open
    third = pool.acquire()
    pool.drain()
    pool.drop(third)
    pool.release(pool.acquire())
    assert pool.stats().idle == 1
    for method in (pool.revalidate, pool.drop_expired, lambda: pool.resize(2)):
        in_thread(partial(refused, method))


def test_the_pool_of_greenlets_is_drained_from_the_patch_on(pool, unpatched):
    """Threads may still have connections of the former one."""
    old = pool.acquire()
    unpatched.undo()
    conn = pool.acquire()
    pool.drain()
    pool.release(conn)
    pool.release(old)
    wait_until(lambda: not conn.open and not old.open)


def test_greenlets_share_the_pool_from_the_patch_on(pool, unpatched):
    """A server may use it, fork, and patch in the child."""
    pool.release(pool.acquire())
    unpatched.undo()
    with pool.connection() as conn:
        assert value(conn, "SELECT 1") == 1
    assert pool.size == 1
    # That of the threads is still open.
    assert pool.stats().size == 2


def test_no_connection_is_opened_before_a_thread_asks(unpatched, mariadb_server):
    """There is nobody else who could open it."""
    pool = ConnectionPool(**mariadb_server.client_options, initial_connections=1)
    assert pool.stats().size == 0
    pool.close()


def test_it_may_be_an_error(unpatched):
    """At the first loan, or when the first connections are opened."""
    pool = ConnectionPool(host="127.0.0.1", unpatched="error")
    with pytest.raises(NotPatchedError, match="geventpool.mysql would block"):
        pool.acquire()
    with pytest.raises(NotPatchedError):
        pool.connection()
    with pytest.raises(NotPatchedError):
        ConnectionPool(host="127.0.0.1", unpatched="error", initial_connections=1)
    with pytest.raises(ValueError, match="unpatched must be 'stock' or 'error'"):
        ConnectionPool(unpatched="ignore")


def test_a_url_may_ask_for_the_error(unpatched):
    """As for the other options of the pool; the keyword takes precedence."""
    url = "mysql://127.0.0.1:1/?unpatched={}"
    with pytest.raises(NotPatchedError, match="geventpool.mysql would block"):
        ConnectionPool(url.format("error")).acquire()
    for pool in (
        ConnectionPool(url.format("error"), unpatched="stock"),
        ConnectionPool(url.format("stock")),
    ):
        with pytest.raises(err.OperationalError):
            pool.acquire()
    with pytest.raises(ValueError, match="unpatched must be 'stock' or 'error'"):
        ConnectionPool(url.format("ignore"))
    with pytest.raises(ValueError, match="option unpatched of a pool"):
        MySQLConnector(url.format("error"))
