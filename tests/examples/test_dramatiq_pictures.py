"""Workers of dramatiq's with greenlets, whose broker and results share a pool."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.programs import Program, run
from tests.servers import RedisServer

pytest.importorskip("dramatiq", reason="the example uses dramatiq")

FOLDER = "dramatiq-pictures"

#: The most connections of a process.
MOST = 10
#: The command, which is installed beside the interpreter.
DRAMATIQ = str(Path(sys.executable).with_name("dramatiq-gevent"))


@pytest.fixture()
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def order(redis_server: RedisServer, pictures: int) -> int:
    """Have pictures made, and return how many connections the server has counted."""
    said = run(FOLDER, "order.py", str(pictures), REDIS_URL=redis_server.url)
    assert f"{pictures} of {pictures} pictures made" in said
    return int(re.findall(r"connections: (\d+)", said)[0])


def test_workers_survive_a_restart_and_end_when_asked(redis_server):
    """No picture is lost, and the limits hold at the server before and after."""
    words = (DRAMATIQ, "pictures", "-p", "2", "-t", "8")
    with Program(
        FOLDER, *words, ready="is booting up", REDIS_URL=redis_server.url
    ) as workers:
        assert 1 <= order(redis_server, 100) <= 3 * MOST
        redis_server.restart()
        assert 1 <= order(redis_server, 20) <= 3 * MOST
        assert workers.end() == 0, workers.log
