"""The cancellation of interrupted MySQL statements.

Each operation does by hand what the greenlets of the pool do, so that every point of it
is hit. A statement that nobody cancels ends by itself after half a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import gevent
from pymysql import err

from tests import parts
from tests.failures.scenes.mysql import mysql_scene, value
from tests.failures.scenes.table import Scene, Site, covers


def _quietly(work: Callable[..., object], *args: Any) -> None:
    # The statement ends with an error if its connection is closed.
    with suppress(err.MySQLError):
        work(*args)


@contextmanager
def interrupted(pool: Any, statement: str) -> Iterator[Any]:
    """A connection whose statement was interrupted while the server is at it."""
    connector = parts.connector(pool)
    conn = connector.open()
    reader = gevent.spawn(_quietly, value, conn, statement)
    try:
        conn.lend(pool)
        # It begins now, and has sent the statement when this goes on.
        gevent.idle()
        reader.kill()
        assert connector.begin_cancel(conn)
        yield conn
    finally:
        reader.kill(block=False)
        conn.close_interrupted()
        conn.terminate()


def cancelling_scene(
    site: Site, statement: str, act: Callable[[Any, Any], object]
) -> Scene:
    scene = mysql_scene(lambda pool: None, site, autocommit=True, cancel=True)
    [pool] = scene.pools

    def work() -> None:
        with interrupted(pool, statement) as conn:
            act(parts.connector(pool), conn)

    def afterwards() -> None:
        with pool.connection() as conn:
            assert value(conn, "SELECT 'yours'") == "yours"

    return Scene(work, [pool], afterwards)


@covers(
    *("mysql.connector.MySQLConnector.cancel", "mysql.cancel.Canceller.cancel"),
    "mysql.side_connection.SideConnection.find",
    "mysql.side_connection.SideConnection.kill_query",
)
def a_statement_that_is_cancelled(site: Site) -> Scene:
    def cancel(connector: Any, conn: Any) -> None:
        assert connector.cancel(conn)

    return cancelling_scene(site, "SELECT SLEEP(0.5)", cancel)


@covers(
    "mysql.side_connection.SideConnection.kill_connection",
    "mysql.side_connection.SideConnection.is_there",
)
def a_thread_that_is_ended(site: Site) -> Scene:
    def cancel(connector: Any, conn: Any) -> None:
        # Its statement is not a plain query, so its connection is not saved.
        assert not connector.cancel(conn)

    return cancelling_scene(site, "DO SLEEP(0.5)", cancel)


@covers(
    # After a KILL the reply may be there before one waits for it; here it takes long.
    "mysql.interrupted.Interruptible.wait_for_reply",
    "mysql.interrupted.Interruptible.forget_reply",
)
def a_reply_that_is_forgotten(site: Site) -> Scene:
    def forget(connector: Any, conn: Any) -> None:
        assert conn.wait_for_reply(5)
        conn.forget_reply()

    # The rows come in many pieces.
    rows = "SELECT REPEAT('x', 900) FROM seq_1_to_100 WHERE SLEEP(0.0001) = 0"
    return cancelling_scene(site, rows, forget)


@covers("mysql.cancel.Canceller.close")
def statements_that_run_when_the_pool_is_closed(site: Site) -> Scene:
    def close(connector: Any, conn: Any) -> None:
        connector.canceller.collect()
        assert connector.canceller.takes(conn)
        connector.canceller.close()

    return cancelling_scene(site, "DO SLEEP(0.5)", close)
