"""A handshake that fails is an error of Redis, whatever redis-py makes of it."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from geventpool.redis import ConnectionPool
from geventpool.testing import check_capacity
from tests.redis.scripted import ScriptedRedis, scripted_redis


def test_a_reply_to_hello_that_is_none_is_a_connection_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When bytes are lost on the way, something else may be left of it."""
    usual = ScriptedRedis._react

    def garbled(self: Any, sock: Any, command: list[bytes]) -> None:
        if command[0] == b"HELLO":
            sock.sendall(b"*1\r\n+proto\r\n")
        else:
            usual(self, sock, command)

    with scripted_redis() as server:
        pool = ConnectionPool(
            host="127.0.0.1",
            port=server.port,
            protocol=3,
            max_connections=1,
            retry=Retry(NoBackoff(), 0),
        )
        client = redis.Redis(connection_pool=pool)
        with monkeypatch.context() as patch:
            patch.setattr(ScriptedRedis, "_react", garbled)
            with pytest.raises(redis.ConnectionError, match="HELLO"):
                client.echo("x")
        assert client.echo("x") == b"x"
        check_capacity(pool.core)
        pool.shutdown(timeout=0)


def test_an_error_of_the_programs_own_handshake_passes() -> None:
    """An AttributeError of its function is not the server's fault."""

    def fail(conn: Any) -> None:
        raise AttributeError("of the program")

    with scripted_redis() as server:
        pool = ConnectionPool(
            host="127.0.0.1",
            port=server.port,
            max_connections=1,
            redis_connect_func=fail,
            retry=Retry(NoBackoff(), 0),
        )
        with pytest.raises(AttributeError, match="of the program"):
            redis.Redis(connection_pool=pool).echo("x")
        pool.shutdown(timeout=0)
