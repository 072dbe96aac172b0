"""A Celery worker on gevent, whose broker and results are on pools."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.examples.programs import Program, run
from tests.servers import RedisServer

FOLDER = "celery-worker"

#: The most connections of a pool. The worker has three pools, and the sender as well.
MOST = 5


@pytest.fixture()
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def send(server: RedisServer, tasks: int) -> dict[str, int]:
    """Have tasks done, and return what the server has counted."""
    said = run(FOLDER, "send.py", str(tasks), REDIS_URL=server.url)
    assert f"{tasks} of {tasks} tasks done" in said
    found = re.findall(r"connections for (\w+): (\d+)", said)
    return {name: int(number) for name, number in found}


def test_a_worker_survives_a_restart_of_the_server_and_ends_when_asked(server):
    """No task is lost, and the limits hold at the server before and after."""
    words = ("-m", "celery", "-A", "tasks", "worker", "-P", "gevent", "-c", "100")
    quick = ("--without-gossip", "--without-mingle", "-l", "INFO")
    with Program(
        FOLDER, *words, *quick, ready=" ready.", REDIS_URL=server.url
    ) as worker:
        seen = send(server, 100)
        # The sender and the worker have a pool each.
        assert 1 <= seen["results"] <= 2 * MOST
        assert 1 <= seen["tasks"] <= 2 * MOST
        server.restart()
        assert send(server, 20), worker.log
        assert worker.end() == 0, worker.log
        # The server keeps nothing when it ends.
        assert sum(map(int, server.ask("HVALS", "words"))) == 20
