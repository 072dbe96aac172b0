"""A consumer of huey's with greenlets, which imports redis before it patches."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator

import psutil
import pytest

from tests.examples.programs import PATIENCE, Program, run
from tests.servers import RedisServer

pytest.importorskip("huey", reason="the example uses huey")

FOLDER = "huey-mail"

#: The most connections of the consumer, and of the program that orders.
MOST = 25


@pytest.fixture()
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def order(redis_server: RedisServer, mails: int) -> int:
    """Have mails sent, and return how many connections the server has counted."""
    said = run(FOLDER, "order.py", str(mails), REDIS_URL=redis_server.url)
    assert f"{mails} of {mails} mails sent, 0 left" in said
    return int(re.findall(r"connections: (\d+)", said)[0])


def test_a_consumer_survives_a_restart_and_ends_when_asked(redis_server):
    """No mail is lost, and the limits hold at the server before and after."""
    words = ("-m", "huey.bin.huey_consumer", "mail.queue", "-k", "greenlet", "-w", "20")
    with Program(
        FOLDER, *words, ready="Huey consumer started", REDIS_URL=redis_server.url
    ) as consumer:
        assert 1 <= order(redis_server, 100) <= 2 * MOST
        redis_server.restart()
        assert 1 <= order(redis_server, 20) <= 2 * MOST
        process = psutil.Process(consumer.pid)
        os.kill(consumer.pid, signal.SIGINT)
        assert process.wait(PATIENCE) == 0, consumer.log
