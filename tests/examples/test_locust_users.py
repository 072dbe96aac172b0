"""Users of locust that share a few connections."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from geventpool.testing import wait_until
from tests.examples.programs import Program
from tests.servers import RedisServer

FOLDER = "locust-users"


@pytest.fixture()
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


# locust patches when it is imported.
@pytest.mark.skipif(not find_spec("locust"), reason="the example uses locust")
def test_thirty_users_share_five_connections(redis_server):
    """No request fails, and the server never counts more."""
    words = ("-m", "locust", "--headless", "-u", "30", "-r", "30", "--only-summary")
    with Program(
        FOLDER, *words, ready="All users spawned", REDIS_URL=redis_server.url
    ) as users:
        wait_until(lambda: int(redis_server.ask("GET", "visits") or 0) > 100)
        assert 1 <= redis_server.connected_clients() <= 5
        assert users.end() == 0, users.log
        (counts,) = re.findall(r"(\d+) of (\d+) requests failed", users.log)
    failed, total = map(int, counts)
    assert failed == 0
    assert total > 100
