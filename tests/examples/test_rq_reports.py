"""A worker of RQ's, which forks a process for each job while it polls."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.examples.programs import Program, run
from tests.servers import RedisServer

pytest.importorskip("rq", reason="the example uses RQ")

FOLDER = "rq-reports"

#: The most connections of a process.
MOST = 5


@pytest.fixture()
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def test_each_job_is_done_in_a_forked_process(redis_server):
    """The child is not aborted by what the worker waits for, and none is lost."""
    with Program(
        FOLDER, "work.py", ready="Listening on", REDIS_URL=redis_server.url
    ) as worker:
        said = run(FOLDER, "order.py", "8", REDIS_URL=redis_server.url)
        assert "8 of 8 reports written" in said, worker.log
        assert redis_server.ask("GET", "written") == "8"
        (seen,) = re.findall(r"connections: (\d+)", said)
        # The worker, the process of a job, and the program that orders.
        assert 1 <= int(seen) <= 3 * MOST
        assert worker.end() == 0, worker.log
