"""Redis and MariaDB behind haproxy: it closes idle connections and changes servers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import gevent
import pytest
import redis
from gevent.pool import Pool as Greenlets

import geventpool.mysql
import geventpool.redis
from geventpool.testing import wait_until
from tests.proxies.programs import Haproxy
from tests.servers import MariaDBServer, RedisServer

pytestmark = pytest.mark.skipif(
    shutil.which("haproxy", path="/usr/sbin:/usr/bin") is None,
    reason="haproxy is missing",
)

#: Milliseconds after which the proxy closes a connection.
IDLE = 150


@pytest.fixture
def spare() -> Iterator[RedisServer]:
    """The server that the proxy uses when the first is gone."""
    with RedisServer() as server:
        yield server


def test_connections_that_the_proxy_closes_fail_no_command(
    redis_server: RedisServer,
) -> None:
    """The event loop sees each close, so no idle connection stays in the pool."""
    with Haproxy(redis_server, idle=IDLE) as proxy:
        pool = geventpool.redis.ConnectionPool(
            host=proxy.host, port=proxy.port, max_connections=8, retry=None
        )
        client = redis.Redis(connection_pool=pool)
        with pool:
            jobs = [gevent.spawn(client.ping) for _ in range(50)]
            assert all(job.get() for job in jobs)
            wait_until(lambda: pool.core.size == 0)
            jobs = [gevent.spawn(client.ping) for _ in range(50)]
            assert all(job.get() for job in jobs)


def test_mysql_connections_that_the_proxy_closes_fail_no_loan(
    mariadb_server: MariaDBServer,
) -> None:
    with Haproxy(mariadb_server, idle=IDLE) as proxy:
        options = {**mariadb_server.client_options, "port": proxy.port}
        with geventpool.mysql.ConnectionPool(max_connections=4, **options) as pool:

            def select(number: int) -> int:
                with pool.cursor() as cursor:  # type: ignore[attr-defined]
                    cursor.execute("SELECT %s", (number,))
                    return int(cursor.fetchone()[0])

            greenlets = Greenlets(20)
            assert greenlets.map(select, range(20)) == list(range(20))
            wait_until(lambda: pool.size == 0)
            assert greenlets.map(select, range(20)) == list(range(20))


def test_commands_go_on_when_the_proxy_changes_the_server(spare: RedisServer) -> None:
    """With the default retries a change of the server fails no command."""
    with RedisServer() as first, Haproxy(first, spare) as proxy:
        pool = geventpool.redis.ConnectionPool(
            host=proxy.host, port=proxy.port, max_connections=5, timeout=10
        )
        client = redis.Redis(connection_pool=pool)
        with pool:
            jobs = [gevent.spawn(client.ping) for _ in range(20)]
            assert all(job.get() for job in jobs)
            first.kill()
            jobs = [gevent.spawn(client.set, f"key{n}", n) for n in range(20)]  # type: ignore[call-overload]
            assert all(job.get() for job in jobs)
            assert int(spare.ask("DBSIZE")) == 20
