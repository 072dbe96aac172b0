"""Two chat servers that share their users through Redis."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from gevent.pool import Pool

from tests.examples.programs import Program, gunicorn, run
from tests.servers import RedisServer

pytest.importorskip("socketio", reason="the example uses python-socketio")
pytest.importorskip("websocket", reason="the example uses websocket-client")

FOLDER = "socketio-chat"

#: The most connections of a server.
MOST = 5


@pytest.fixture()
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def chat(redis_server: RedisServer) -> Program:
    words = ("-k", "gevent", "-w", "1")
    return gunicorn(FOLDER, "chat:app", *words, REDIS_URL=redis_server.url)


def test_every_user_gets_every_text_also_after_a_restart(redis_server):
    """A hundred publications at once; the limit holds at the server."""

    def talk() -> int:
        said = run(FOLDER, "users.py", *addresses, REDIS_URL=redis_server.url)
        assert "16 of 16 users got 100 texts" in said, one.log + other.log
        return int(re.findall(r"connections: (\d+)", said)[0])

    with chat(redis_server) as one, chat(redis_server) as other:
        addresses = [web.url.removeprefix("http://") for web in (one, other)]
        assert 2 <= talk() <= 2 * MOST
        redis_server.restart()
        assert 2 <= talk() <= 2 * MOST
        assert Pool().map(Program.end, (one, other)) == [0, 0]
