"""python-socketio's Redis manager on a pool that all greenlets share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

socketio = pytest.importorskip("socketio", reason="python-socketio is not installed")

from geventpool.socketio import RedisManager  # noqa: E402
from geventpool.testing import wait_until  # noqa: E402
from tests.servers import RedisServer  # noqa: E402

MOST = 3


@pytest.fixture()
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def make(server: RedisServer, **more: Any) -> Any:
    options = {"max_connections": MOST, "client_name": "chat"}
    manager = RedisManager(server.url, redis_options=options, **more)
    socketio.Server(async_mode="gevent", client_manager=manager)
    return manager


def test_greenlets_that_publish_share_the_pool(server):
    """The subscription has one of its connections, and all others the rest."""
    manager = make(server)
    events: list[Any] = []

    def listen() -> None:
        for message in manager._listen():
            events.append(json.loads(message))

    listener = gevent.spawn(listen)
    wait_until(lambda: server.ask("PUBSUB", "NUMSUB", "socketio")[1] == 1)
    crowd = [gevent.spawn(manager._publish, {"n": n}) for n in range(30)]
    gevent.joinall(crowd, raise_error=True)
    wait_until(lambda: len(events) == 30)
    assert sorted(each["n"] for each in events) == list(range(30))
    assert 2 <= server.connected_clients() <= MOST
    assert manager.pool.core.stats().size <= MOST
    listener.kill()


def test_the_pool_stays_when_the_manager_connects_again(server):
    """python-socketio does so after each error, and makes another pool each time."""
    manager = make(server, write_only=True)
    manager._publish({"n": 1})
    pool, client = manager.pool, manager.redis
    manager.connected = False
    manager._publish({"n": 2})
    assert manager.redis is not client
    assert manager.redis.connection_pool is client.connection_pool is pool
    assert server.connected_clients() == 1


@pytest.mark.parametrize(
    "url", ["redis+sentinel://127.0.0.1:1/0/main", "valkey://127.0.0.1:1/0"]
)
def test_other_servers_are_left_to_python_socketio(url, monkeypatch):
    """Their pools are other classes."""
    asked: list[Any] = []

    def connect(manager: Any) -> None:
        asked.append(manager)

    monkeypatch.setattr(socketio.RedisManager, "_redis_connect", connect)
    manager = RedisManager(url)
    assert manager.pool is None
    manager._redis_connect()
    assert asked == [manager]


def test_invalid_options_are_refused_at_once(server):
    """Not when the first event is sent, where python-socketio only logs the error."""
    with pytest.raises(TypeError, match="'max_idel'.*max_idle"):
        RedisManager(server.url, redis_options={"max_idel": 3})
    with pytest.raises(ValueError, match="max_connections must be .*2.*, not 1"):
        RedisManager(server.url, redis_options={"max_connections": 1})
    options = {"max_connections": 1}
    assert RedisManager(server.url, write_only=True, redis_options=options).pool
