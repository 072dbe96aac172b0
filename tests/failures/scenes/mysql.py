"""The MySQL adapter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest
from pymysql.constants import COMMAND
from pymysql.cursors import SSCursor

from geventpool import Timeouts
from geventpool.mysql import Connection, ConnectionPool
from geventpool.mysql.ahead import packed
from geventpool.mysql.tls import TLSContexts
from tests import parts
from tests.failures.scenes.core import until_idle
from tests.failures.scenes.table import Scene, Site, covers


def mysql_scene(work: Callable[[Any], object], site: Site, **options: Any) -> Scene:
    given = {
        **({} if "hosts" in options else {"host": site.mysql.host}),
        **({} if "hosts" in options else {"port": site.mysql.port}),
        **{"user": site.mysql.user, "password": site.mysql.password},
        **{"database": site.mysql.database, "ssl_disabled": True, "timeout": 5},
        **{"max_connections": 1, "local_infile": True, **options},
    }
    pool = ConnectionPool(**given)

    def afterwards() -> None:
        with pool.connection() as conn:
            assert value(conn, "SELECT 'yours'") == "yours"
            # No loan ends between the two halves of a transaction.
            assert value(conn, "SELECT SUM(v) FROM money") == 300
            assert value(conn, "SELECT @@autocommit") == 0

    return Scene(lambda: work(pool), [pool], afterwards)


def value(conn: Any, statement: str) -> Any:
    with conn.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()[0]


def transfer(conn: Any) -> None:
    with conn.cursor() as cursor:
        cursor.execute("UPDATE money SET v = v - 1 WHERE i = 1")
        # Hit here, the connection is as good as ever, and half of it must not stay.
        gevent.idle()
        cursor.execute("UPDATE money SET v = v + 1 WHERE i = 2")


MYSQL_OPENING = (
    *("mysql.connector.MySQLConnector.open", "mysql.packets.Packets.connect"),
)


@covers("mysql.pool.ConnectionPool.connection", *MYSQL_OPENING)
def a_query(site: Site) -> Scene:
    def work(pool: Any) -> None:
        with pool.connection() as conn:
            assert value(conn, "SELECT 'mine'") == "mine"

    return mysql_scene(work, site)


@covers(
    *("mysql.pool.ConnectionPool.acquire", "mysql.pool.ConnectionPool.connection"),
)
def a_loan_that_is_checked(site: Site) -> Scene:
    def checked(conn: Any) -> None:
        value(conn, "SELECT 1")
        conn.rollback()

    def work(pool: Any) -> None:
        with pool.connection() as conn:
            assert value(conn, "SELECT 'mine'") == "mine"
        conn = pool.acquire()
        try:
            assert value(conn, "SELECT 'mine'") == "mine"
        except BaseException:
            pool.drop(conn)
            raise
        conn.close()

    return mysql_scene(work, site, check=checked)


@covers(
    "mysql.pool.ConnectionPool.connection",
    "mysql.connection.Connection.commit_if_open",
    "mysql.connection.Connection.finish_transaction",
)
def a_transfer(site: Site) -> Scene:
    def work(pool: Any) -> None:
        with pool.connection() as conn:
            transfer(conn)

    return mysql_scene(work, site)


@covers("mysql.connection.Connection.rollback_if_open")
def a_transfer_that_fails(site: Site) -> Scene:
    def work(pool: Any) -> None:
        with pytest.raises(ZeroDivisionError), pool.connection() as conn:
            with conn.cursor() as cursor:
                cursor.execute("UPDATE money SET v = v - 1 WHERE i = 1")
            raise ZeroDivisionError

    return mysql_scene(work, site)


@covers("mysql.pool.ConnectionPool.cursor")
def a_cursor(site: Site) -> Scene:
    def work(pool: Any) -> None:
        with pool.cursor() as cursor:
            cursor.executemany("UPDATE money SET v = v + %s", [(1,), (-1,)])

    return mysql_scene(work, site)


@covers("mysql.pool.ConnectionPool.cursor", "mysql.protocol.Wire.finish")
def rows_that_stream(site: Site) -> Scene:
    def work(pool: Any) -> None:
        rows = "SELECT REPEAT('x', 1000) FROM seq_1_to_500"
        with pool.cursor(SSCursor) as cursor:
            cursor.execute(rows)
            cursor.fetchone()
        with pool.connection() as conn:
            cursor = conn.cursor(SSCursor)
            cursor.execute(rows)
            cursor.fetchone()
            conn.finish()

    return mysql_scene(work, site)


@covers("mysql.pool.ConnectionPool.connection")
def a_procedure_with_several_results(site: Site) -> Scene:
    def work(pool: Any) -> None:
        with pool.connection() as conn, conn.cursor() as cursor:
            cursor.callproc("several")
            assert cursor.fetchall() == ((1,),)
            assert cursor.nextset() and cursor.fetchall() == ((2,),)

    return mysql_scene(work, site)


@covers("mysql.pool.ConnectionPool.connection")
def a_file_that_is_loaded(site: Site) -> Scene:
    def work(pool: Any) -> None:
        with pool.connection() as conn, conn.cursor() as cursor:
            cursor.execute(f"LOAD DATA LOCAL INFILE '{site.file}' INTO TABLE loaded")
            conn.rollback()

    scene = mysql_scene(work, site)

    def afterwards() -> None:
        scene.afterwards()
        # A part of a file must not be taken for the whole.
        assert site.mysql.ask(f"SELECT COUNT(*) FROM {site.mysql.database}.loaded") == [
            (0,)
        ]

    return Scene(scene.work, scene.pools, afterwards)


@covers(
    *("mysql.protocol.Wire.ping", "mysql.protocol.Wire.show_warnings"),
    "mysql.protocol.Wire.set_character_set",
)
def what_else_a_connection_does(site: Site) -> Scene:
    def work(pool: Any) -> None:
        with pool.connection() as conn:
            conn.ping()
            conn.begin()
            value(conn, "SELECT 1/0")
            conn.show_warnings()
            conn.set_character_set("latin1")
            conn.select_db(site.mysql.database)
            conn.autocommit(True)
            conn.autocommit(False)
            conn.commit()

    return mysql_scene(work, site, port=site.late_mysql.port)


@covers(
    *("mysql.connection.Connection.close", "mysql.protocol.Wire.send_quit"),
    "mysql.connector.MySQLConnector.close",
)
def goodbyes_that_wait(site: Site) -> Scene:
    scene = mysql_scene(lambda pool: None, site)
    [pool] = scene.pools

    def work() -> None:
        for close in parts.connector(pool).close, Connection.close:
            conn = parts.connector(pool).open()
            try:
                # On loan to nobody, so that it is closed and not given back.
                conn.lend(pool)
                conn.lender = None
                # As if the buffers were full: the system takes the few bytes else.
                conn._write_bytes = lambda data: gevent.idle()
                close(conn)
            finally:
                conn.terminate()

    return Scene(work, [pool], scene.afterwards)


@covers(*MYSQL_OPENING)
def reset_and_pinged_by_the_pool(site: Site) -> Scene:
    def work(pool: Any) -> None:
        for _ in range(3):
            with pool.connection() as conn, conn.cursor() as cursor:
                cursor.execute("SET @mine = 1")
            until_idle(pool)

    return mysql_scene(work, site, ping_after=0)


@covers(
    *("mysql.connector.MySQLConnector.reset", "mysql.connector.MySQLConnector.ping"),
    "mysql.protocol.Wire.pipeline",
)
def reset_and_pinged_by_hand(site: Site) -> Scene:
    scene = mysql_scene(lambda pool: None, site)
    [pool] = scene.pools

    def work() -> None:
        conn = parts.connector(pool).open()
        try:
            parts.connector(pool).ping(conn)
            parts.connector(pool).reset(conn)
        finally:
            conn.terminate()

    return Scene(work, [pool], scene.afterwards)


@covers("mysql.ahead.Ahead.settle")
def a_loan_before_the_replies_to_the_reset(site: Site) -> Scene:
    scene = mysql_scene(lambda pool: None, site)
    [pool] = scene.pools

    def work() -> None:
        conn = parts.connector(pool).open()
        try:
            # In the place of a reset whose reply takes long.
            assert conn.send_ahead(packed([(COMMAND.COM_QUERY, b"DO SLEEP(0.002)")]), 1)
            conn.settle()
        finally:
            conn.terminate()

    return Scene(work, [pool], scene.afterwards)


@covers("mysql.connection.Connection.end_transaction")
def a_configuration_that_begins_a_transaction(site: Site) -> Scene:
    def work(pool: Any) -> None:
        with pool.connection() as conn:
            assert value(conn, "SELECT 'mine'") == "mine"

    def configure(conn: Any) -> None:
        value(conn, "SELECT v FROM money")

    return mysql_scene(work, site, configure=configure)


@covers("mysql.connector.MySQLConnector.wait_for_locks")
def a_loan_while_a_lock_is_released(site: Site) -> Scene:
    def work(pool: Any) -> None:
        with pool.connection(), pool.connection() as conn:
            assert value(conn, "SELECT GET_LOCK('mine', 5)") == 1
        # One connection is idle, and the other one still has the lock.
        with pool.connection() as conn:
            assert value(conn, "SELECT GET_LOCK('mine', 5)") == 1

    return mysql_scene(work, site, max_connections=2)


@covers("mysql.connector.MySQLConnector.open")
def the_second_of_two_hosts(site: Site) -> Scene:
    def work(pool: Any) -> None:
        with pool.connection() as conn:
            transfer(conn)

    hosts = [("127.0.0.1", 1), (site.mysql.host, site.mysql.port)]
    return mysql_scene(work, site, hosts=hosts, timeouts=Timeouts(open=5))


@covers("mysql.tls.TLSContexts.__call__")
def a_context_for_tls(site: Site) -> Scene:
    scene = mysql_scene(lambda pool: None, site)
    [pool] = scene.pools

    def work() -> None:
        TLSContexts()({"ca": site.file}, lambda options: sum(range(1000)))

    return Scene(work, [pool], scene.afterwards)
