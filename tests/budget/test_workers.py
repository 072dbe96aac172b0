"""Workers of a real server share a budget on a real Redis, however they come and go."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from geventpool import Budget
from geventpool.testing import wait_until
from tests.servers import RedisServer
from tests.web import UWSGI, WebServer, gunicorn, uwsgi

TOTAL = 4
#: Connections beyond the total that Redis admits: that of the test, and some whose
#: hang-up it may not have read yet.
MARGIN = 4


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    with RedisServer("--maxclients", str(TOTAL + MARGIN)) as server:
        yield server
        # The limit of the server was never met.
        with server.admin() as admin:
            assert admin.info("stats")["rejected_connections"] == 0


@pytest.fixture
def budget(tmp_path: Path) -> Budget:
    return Budget(tmp_path / "web", TOTAL)


def variables(server: RedisServer, budget: Budget) -> dict[str, str]:
    """What the program needs in its environment."""
    return {
        "REDIS_PORT": str(server.port),
        "BUDGET": budget.path,
        "TOTAL": str(budget.total),
        "PYTHONPATH": str(Path(__file__).parent.parent.parent),
    }


def connections(server: RedisServer) -> int:
    """How many connections of the program the server has."""
    return sum(each["name"] == "web" for each in server.clients())


def held(budget: Budget) -> int:
    return budget.stats().held


def processes(budget: Budget) -> set[int]:
    return {share.pid for share in budget.stats().shares}


def all_places_are_taken(server: RedisServer, budget: Budget) -> bool:
    return connections(server) == TOTAL and held(budget) == TOTAL


def wait_for_gate(web: WebServer, number: int) -> list[gevent.Greenlet[..., Any]]:
    return [gevent.spawn(web.get, "/wait") for _ in range(number)]


def open_gate(server: RedisServer, users: list[gevent.Greenlet[..., Any]]) -> None:
    """Let all *users* go."""
    server.ask("RPUSH", "gate", *["go"] * len(users))
    gevent.joinall(users, timeout=60, raise_error=True)
    assert {user.get(block=False)[0] for user in users} == {200}


def use(web: WebServer) -> set[int]:
    """Make some requests at once; return the processes that served them."""
    users = [gevent.spawn(web.get, "/use") for _ in range(TOTAL)]
    gevent.joinall(users, timeout=60, raise_error=True)
    answers = [user.get(block=False) for user in users]
    assert {status for status, _ in answers} == {200}
    return {answer["process"] for _, answer in answers}


@pytest.mark.parametrize("early", ["", "--preload"])
def test_workers_of_gunicorn_share_the_places(
    redis_server: RedisServer, budget: Budget, early: str
) -> None:
    """With the program imported in the workers, and in their parent."""
    words = "-w", "3", *early.split()
    settings = variables(redis_server, budget)
    with gunicorn(*words, PATCH_EARLY=early, **settings) as web:
        use_kill_and_reload(web, redis_server, budget)
    wait_until(lambda: not processes(budget))


@pytest.mark.skipif(not UWSGI, reason="pyuwsgi is not installed")
@pytest.mark.parametrize("lazy", ["", "--lazy-apps"])
def test_workers_of_uwsgi_share_the_places(
    redis_server: RedisServer, budget: Budget, lazy: str
) -> None:
    """It forks without the hooks of Python, after the import or before it."""
    words = "--processes", "3", *lazy.split()
    with uwsgi(*words, **variables(redis_server, budget)) as web:
        use_kill_and_reload(web, redis_server, budget)
    wait_until(lambda: not processes(budget))


def use_kill_and_reload(web: WebServer, server: RedisServer, budget: Budget) -> None:
    """While they wait, when one is killed, and when old and new ones run together."""
    users = wait_for_gate(web, 3 * TOTAL)
    wait_until(lambda: all_places_are_taken(server, budget))
    open_gate(server, users)
    victim = next(iter(processes(budget)))
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in processes(budget))
    users = wait_for_gate(web, 3 * TOTAL)
    wait_until(lambda: all_places_are_taken(server, budget))
    before = processes(budget)
    web.reload()
    # The old workers go on with their requests; the new ones want places too.
    open_gate(server, users)
    wait_until(lambda: not before & processes(budget))
    wait_until(web.answers)
    for _ in range(4):
        use(web)
    wait_until(lambda: held(budget) == connections(server))


def test_workers_that_are_recycled_leave_no_place(
    redis_server: RedisServer, budget: Budget
) -> None:
    """``--max-requests`` ends a worker after some requests, and starts another."""
    words = "-w", "3", "--preload", "--max-requests", "5"
    settings = variables(redis_server, budget)
    served: set[int] = set()

    with gunicorn(*words, PATCH_EARLY="1", **settings) as web:

        def are_replaced() -> bool:
            served.update(use(web))
            return len(served) > 6

        wait_until(are_replaced, timeout=60)
        wait_until(lambda: held(budget) == connections(redis_server))
        assert held(budget) <= TOTAL
    wait_until(lambda: not processes(budget))
