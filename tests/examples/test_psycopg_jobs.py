"""A queue of jobs in PostgreSQL, worked at by fifty greenlets on ten connections."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psutil
import psycopg
import pytest

from geventpool.testing import wait_until
from tests.examples.programs import PATIENCE, Program, run
from tests.postgres import PostgresServer
from tests.servers import ServerMissing

FOLDER = "psycopg-jobs"
USER = "shop"

#: The most connections of a pool. The worker has another one that listens.
MOST = 10

#: Without a superuser's rights, so that the server itself refuses one more.
ACCOUNT = f"""
    CREATE ROLE {USER} LOGIN CONNECTION LIMIT {2 * MOST + 1};
    GRANT ALL ON SCHEMA public TO {USER};
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    try:
        PostgresServer.find()
    except ServerMissing as missing:
        pytest.skip(str(missing))
    with PostgresServer() as server:
        with psycopg.connect(**server.client_options) as conn:
            conn.execute(ACCOUNT)
        yield server


@pytest.fixture(scope="module")
def tables(server: PostgresServer) -> str:
    """The address of the server, which has the tables."""
    url = f"postgresql://{USER}@{server.host}:{server.port}/{server.database}"
    run(FOLDER, "jobs.py", POSTGRES_URL=url)
    return url


@pytest.fixture
def address(tables: str) -> dict[str, str]:
    """The server, whose tables are empty."""
    with psycopg.connect(tables) as conn:
        conn.execute("TRUNCATE jobs, accounts")
    return {"POSTGRES_URL": tables}


def worker(address: dict[str, str]) -> Program:
    return Program(FOLDER, "work.py", ready="listening", **address)


def orders(payments: int, address: dict[str, str]) -> Program:
    """The program that orders, which waits for its payments now."""
    words = ("order.py", str(payments))
    return Program(FOLDER, *words, ready="payments ordered:", **address)


def booked(server: PostgresServer) -> int:
    [(balance,)] = server.ask("SELECT coalesce(sum(balance), 0) FROM accounts")
    return int(balance)


def left(server: PostgresServer) -> int:
    [(number,)] = server.ask("SELECT count(*) FROM jobs")
    return int(number)


def check_end(program: Program) -> None:
    """It has had all payments booked, and the limits held by the server's count."""
    assert psutil.Process(program.pid).wait(PATIENCE) == 0, program.log
    seen = {
        name: int(number)
        for name, number in re.findall(r"^([^:\n]+): (\d+)$", program.log, re.M)
    }
    assert seen["payments booked"] == seen["payments ordered"]
    assert 1 <= seen["connections of worker"] <= MOST
    assert 1 <= seen["connections of orders"] <= MOST
    assert seen["connections of listener"] == 1


def test_each_payment_is_booked_once_though_the_server_is_restarted(server, address):
    """What was interrupted is rolled back, and the worker listens again."""
    with worker(address) as working, orders(300, address) as ordering:
        wait_until(lambda: booked(server) > 20)
        assert left(server)
        server.restart()
        check_end(ordering)
        assert booked(server) == 300
        wait_until(lambda: working.log.count("listening") == 2)
        # It is told of a payment that comes now.
        assert "payments booked: 320" in run(FOLDER, "order.py", "20", **address)
        assert working.end() == 0, working.log


def test_payments_that_are_interrupted_by_the_end_are_left_to_the_next(server, address):
    """Greenlets are killed in the middle of their transactions."""
    with worker(address) as first, orders(300, address) as ordering:
        wait_until(lambda: booked(server) > 20)
        assert first.end() == 0, first.log
        assert "not booked" not in first.log
        wait_until(lambda: server.connections() <= MOST, "those of the worker are gone")
        assert 0 < left(server) == 300 - booked(server)
        with worker(address):
            check_end(ordering)
    assert booked(server) == 300
