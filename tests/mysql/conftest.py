"""Pools, tables and servers for the tests of the MySQL adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from geventpool.mysql import ConnectionPool
from geventpool.testing import check, wait_until
from tests.mysql.proxy import Proxy
from tests.servers import MariaDBServer

MakePool = Callable[..., ConnectionPool]


@pytest.fixture()
def make_pool(mariadb_server: MariaDBServer) -> Iterator[MakePool]:
    """Makes pools, of the common server by default; each must be whole at the end."""
    made: list[ConnectionPool] = []

    def make(*source: Any, **options: Any) -> ConnectionPool:
        elsewhere = source or "hosts" in options
        where = {} if elsewhere else mariadb_server.client_options
        pool = ConnectionPool(*source, **{**where, "timeout": 5, **options})
        made.append(pool)
        return pool

    yield make
    for pool in made:
        check(pool)
        for conn in pool.lent_connections():
            pool.drop(conn, anyone=True)
        left = pool.close(timeout=5)
        assert not left, f"still on loan: {left}"
        assert pool.size == 0


@pytest.fixture()
def table(mariadb_server: MariaDBServer) -> Iterator[str]:
    """The name of an empty InnoDB table with the columns ``i`` (the key) and ``v``."""
    name = f"{mariadb_server.database}.numbers"
    mariadb_server.ask(
        f"CREATE OR REPLACE TABLE {name} (i INT PRIMARY KEY, v INT) ENGINE=InnoDB"
    )
    yield name
    # A session that still holds a lock on it has been heard.
    mariadb_server.hang_up()
    mariadb_server.ask(f"SET STATEMENT lock_wait_timeout=5 FOR DROP TABLE {name}")


@pytest.fixture()
def proxy(mariadb_server: MariaDBServer) -> Iterator[Proxy]:
    """A proxy before the common server."""
    with Proxy(mariadb_server) as proxy:
        yield proxy


@pytest.fixture()
def through(proxy: Proxy, make_pool: MakePool) -> MakePool:
    """Makes pools that go through the proxy."""

    def make(**options: Any) -> ConnectionPool:
        return make_pool(**{"host": proxy.host, "port": proxy.port, **options})

    return make


@pytest.fixture(scope="session")
def small_server() -> Iterator[MariaDBServer]:
    """A mariadbd with ten places, for the whole run."""
    with MariaDBServer(max_connections=10) as server:
        yield server


@pytest.fixture()
def own_server(small_server: MariaDBServer) -> MariaDBServer:
    """A mariadbd that a test may restart, stop or fill; it runs at the beginning."""
    return small_server.start()


def rows(conn: Any, statement: str, *values: object) -> list[tuple[Any, ...]]:
    """The rows of one statement."""
    with conn.cursor() as cursor:
        cursor.execute(statement, values or None)
        return list(cursor.fetchall())


def value(conn: Any, statement: str, *values: object) -> Any:
    """The first column of the first row of one statement."""
    return rows(conn, statement, *values)[0][0]


def is_running(server: MariaDBServer, statement: str) -> bool:
    """Whether the server is at work at a statement that contains this text."""
    shown = server.ask("SELECT info FROM information_schema.processlist")
    return sum(statement in str(row[0]) for row in shown) > 0


@pytest.fixture
def at_rest(mariadb_server):
    """Nothing that one test has left running disturbs the next one."""
    yield
    mariadb_server.hang_up()
    wait_until(lambda: mariadb_server.connections() == 0, "at rest")


@pytest.fixture
def pooled(make_pool, mariadb_server):
    """Makes pools in autocommit that know their server."""

    def make(server=mariadb_server, **options):
        where = server.client_options
        pool = make_pool(**{**where, "autocommit": True, "cancel": True, **options})
        pool.server = server
        return pool

    return make
