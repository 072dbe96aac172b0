"""A web API with peewee: limits, a restart of the server, interrupted requests."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager

import gevent
import pytest

from geventpool.testing import wait_until
from tests.examples.programs import Program, account, gunicorn, run
from tests.servers import MariaDBServer

pytest.importorskip("flask", reason="the example uses Flask")

FOLDER = "peewee-stock"
USER = "stock"
ARTICLES = 1000

#: The most connections of a process; there are two, or one.
MOST = 4


@pytest.fixture(scope="module")
def server() -> Iterator[MariaDBServer]:
    with MariaDBServer() as server:
        yield server


@pytest.fixture(scope="module")
def settings(server: MariaDBServer) -> dict[str, str]:
    """The variables that the example reads; it has a stock of tea."""
    # A process cancels statements over one connection more.
    found = account(server, USER, 2 * (MOST + 1))
    fill = ("-m", "flask", "--app", "stock", "fill", "tea", str(ARTICLES))
    run(FOLDER, "-W", "ignore:geventpool", *fill, **found)
    return found


def taken(server: MariaDBServer) -> int:
    """How many articles have been taken; as many as there are orders."""
    [(left, orders)] = server.ask(
        f"SELECT `left`, (SELECT COUNT(*) FROM {server.database}.orders) "
        f"FROM {server.database}.article WHERE name = 'tea'"
    )
    assert left + orders == ARTICLES
    return int(orders)


def waiting(server: MariaDBServer) -> int:
    """How many requests are in the middle of their transaction."""
    [(number,)] = server.ask(
        "SELECT COUNT(*) FROM information_schema.processlist "
        f"WHERE user = '{USER}' AND info LIKE 'UPDATE%'"
    )
    return int(number)


def connections(server: MariaDBServer) -> int:
    [(number,)] = server.ask(
        f"SELECT COUNT(*) FROM information_schema.processlist WHERE user = '{USER}'"
    )
    return int(number)


@contextmanager
def locked(server: MariaDBServer) -> Iterator[None]:
    """Nobody can take tea meanwhile."""
    with closing(server.admin()) as conn, conn.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(f"SELECT * FROM {server.database}.article FOR UPDATE")
        yield


def test_requests_wait_for_few_connections_and_survive_a_restart(server, settings):
    """Two workers of gunicorn; only requests in flight may fail."""
    workers = ("-k", "gevent", "-w", "2")
    with gunicorn(FOLDER, "stock:app", *workers, **settings) as web:
        said = run("", "load.py", f"{web.url}/take/tea", "100")
        assert "status 200: 100 of 100 requests" in said, web.log
        assert 1 <= json.loads(said.splitlines()[-1])["mysql"] <= 2 * MOST
        before = taken(server)

        requests = gevent.spawn(web.get_many, "/take/tea", 300)
        wait_until(lambda: taken(server) > before + 20)
        server.restart()
        statuses = Counter(status for status, _ in requests.get())
        assert set(statuses) <= {200, 503}, web.log
        # A commit whose reply was lost is an order too.
        assert statuses[200] <= taken(server) - before <= statuses.total()
        assert web.get("/take/tea")[0] == 200
        assert web.end() == 0, web.log


def test_requests_that_are_interrupted_take_nothing(server, settings):
    """By their limit, or because the program ends: in the middle of a transaction."""
    before = taken(server)
    with Program(
        FOLDER, "serve.py", "{address}", REQUEST_LIMIT="0.5", **settings
    ) as web:
        with locked(server):
            replies = web.get_many("/take/tea", 2 * MOST)
            assert set(replies) == {(503, '{"error":"TooSlow"}\n')}, web.log
            wait_until(lambda: waiting(server) == 0, "the server has ended them")
            assert json.loads(web.get("/stock")[1])["orders"] == before
        assert connections(server) <= MOST + 1
        statuses = [status for status, _ in web.get_many("/take/tea", 20)]
        assert statuses == [200] * 20, web.log
        assert taken(server) == before + 20

    with Program(
        FOLDER, "serve.py", "{address}", REQUEST_LIMIT="60", **settings
    ) as web:
        with locked(server):
            requests = [gevent.spawn(web.get, "/take/tea") for _ in range(2 * MOST)]
            wait_until(lambda: waiting(server) == MOST)
            assert web.end() == 0, web.log
            wait_until(lambda: connections(server) == 0, "also while it is locked")
        gevent.joinall(requests)
        assert taken(server) == before + 20
