"""The shop in Flask: behind gunicorn, and on gevent's own server."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import gevent
import pytest

from geventpool.testing import wait_until
from tests.examples.programs import Program, account, gunicorn, run
from tests.servers import MariaDBServer, RedisServer

for extension in ("caching", "limiter", "session", "sqlalchemy"):
    pytest.importorskip(f"flask_{extension}", reason="the example uses it")

FOLDER = "flask-shop"
USER = "flaskshop"

#: The most connections of a process to each server. There are two workers; a graceful
#: reload has two old and two new ones.
MOST = 4


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def settings(
    mariadb_server: MariaDBServer, redis_server: RedisServer
) -> dict[str, str]:
    """The variables that the example reads."""
    account(mariadb_server, USER, 4 * MOST)
    place = f"{mariadb_server.host}:{mariadb_server.port}/{mariadb_server.database}"
    found = {
        "DATABASE_URL": f"mysql+pymysql://{USER}:{USER}@{place}",
        "REDIS_URL": redis_server.url,
    }
    # Flask's commands need no gevent: SQLAlchemy's own pool serves them.
    run(
        FOLDER,
        *("-W", "ignore:geventpool", "-m", "flask", "--app", "shop", "create-tables"),
        **found,
    )
    return found


def sleeping(server: MariaDBServer) -> int:
    """How many requests of the shop are in the middle of /slow."""
    rows = server.ask(
        "SELECT COUNT(*) FROM information_schema.processlist "
        f"WHERE user = '{USER}' AND info LIKE 'SELECT SLEEP%'"
    )
    return int(rows[0][0])


def connections(server: MariaDBServer) -> int:
    rows = server.ask(
        f"SELECT COUNT(*) FROM information_schema.processlist WHERE user = '{USER}'"
    )
    return int(rows[0][0])


def begin_slow_requests(web: Program, server: MariaDBServer, number: int) -> list[Any]:
    """Requests that are all in the middle of their query now."""
    requests = [gevent.spawn(web.get, "/slow") for _ in range(number)]
    wait_until(lambda: sleeping(server) == number, "all of them are in their query")
    return requests


def check_end(
    web: Program, requests: list[Any], mariadb: MariaDBServer, redis: RedisServer
) -> None:
    """It ends with 0, what had begun is served, and nothing is left at the servers."""
    assert web.end() == 0, web.log
    gevent.joinall(requests, raise_error=True)
    assert {each.value for each in requests} == {(200, "done")}
    wait_until(lambda: connections(mariadb) == redis.connected_clients() == 0)


def test_gunicorn_serves_reloads_and_ends(settings, mariadb_server, redis_server):
    """Two workers of a preloaded program, at the limits by the servers' own count."""
    with gunicorn(FOLDER, "shop:app", **settings) as web:
        said = run("", "load.py", f"{web.url}/buy/tea", "100")
        assert "status 200: 100 of 100 requests" in said, web.log
        seen = json.loads(said.splitlines()[-1])
        assert 1 <= seen["mysql"] <= 2 * MOST
        assert 1 <= seen["redis"] <= 2 * MOST

        # Old workers serve what has begun, and new ones the rest.
        requests = begin_slow_requests(web, mariadb_server, MOST)
        os.kill(web.pid, signal.SIGHUP)
        statuses = {status for status, _ in web.get_many("/buy/tea", 50)}
        assert statuses == {200}, web.log
        gevent.joinall(requests, raise_error=True)
        assert {each.value for each in requests} == {(200, "done")}
        wait_until(lambda: len(re.findall("Worker exiting", web.log)) == 2)

        requests = begin_slow_requests(web, mariadb_server, MOST)
        check_end(web, requests, mariadb_server, redis_server)


def test_pywsgi_serves_and_ends(settings, mariadb_server, redis_server):
    """One process; SIGTERM stops the server first and then the pools."""
    with Program(FOLDER, "serve.py", "{address}", **settings) as web:
        statuses = {status for status, _ in web.get_many("/buy/sugar", 50)}
        assert statuses == {200}, web.log
        seen = json.loads(web.get("/connections")[1])
        assert 1 <= seen["mysql"] <= MOST
        assert 1 <= seen["redis"] <= MOST

        with closing(HTTPConnection(web.host, web.port, timeout=30)) as client:
            client.request("GET", "/buy/salt")
            cookie = client.getresponse().headers["Set-Cookie"].partition(";")[0]
        assert len(json.loads(web.get("/orders", Cookie=cookie)[1])) == 1

        requests = begin_slow_requests(web, mariadb_server, MOST)
        check_end(web, requests, mariadb_server, redis_server)
