"""How a connection comes back to a pool for Redis."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from redis._parsers import _RESP2Parser
from redis.cache import CacheConfig

from geventpool.testing import wait_until
from tests.redis.conftest import MakePool
from tests.servers import RedisServer


def test_a_server_that_turns_out_to_be_a_replica_is_looked_up_anew(
    make_pool: MakePool, own_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failover the name leads to another; a replica is not left in a loop."""
    pool = make_pool(port=own_server.port, max_connections=2)
    client = redis.Redis(connection_pool=pool)
    other = pool.get_connection()
    before = client.client_id()
    own_server.ask("REPLICAOF", "127.0.0.1", "1")
    for _ in range(2):
        with pytest.raises(redis.ReadOnlyError):
            client.set("key", "value")
    after = client.client_id()
    assert after != before
    assert client.client_id() == after
    pool.release(other)
    wait_until(lambda: pool.stats().size == 1)
    monkeypatch.setattr("geventpool.redis.returns.RENEWAL", 0.0)
    pool._renew_again = 0.0
    with pytest.raises(redis.ReadOnlyError):
        client.set("key", "value")
    assert client.client_id() != after
    own_server.ask("REPLICAOF", "NO", "ONE")


def test_what_was_given_back_meanwhile_is_not_forgotten_again(
    make_pool: MakePool,
) -> None:
    """Its loan ends before the event loop comes to it."""
    pool = make_pool()
    conn = pool.get_connection()
    pool.core.drop(conn)
    pool._forgotten(conn)
    assert pool.core.size == 0


def test_redis_py_s_own_pipeline_is_a_command(make_pool: MakePool) -> None:
    """It gives back what it took before it returns; a subclass of a program may not."""
    pool = make_pool()

    class Holding(redis.client.Pipeline):
        def hold(self) -> None:
            self.connection = self.connection_pool.get_connection()

    pipe = Holding(pool, {}, True, None)
    pipe.hold()
    assert pool._special[id(pipe.connection)].kept is None
    pipe.reset()
    assert not pool._special


KINDS: dict[str, dict[str, Any]] = {
    "plain": {"protocol": 2},
    "resp3": {"protocol": 3},
    "python": {"parser_class": _RESP2Parser, "protocol": 2},
    "shared": {"auto_pipeline": True},
    "cache": {"protocol": 3, "cache_config": CacheConfig()},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_after_quit_has_a_connection(
    make_pool: MakePool, kind: str
) -> None:
    """As with redis-py, without retries too: the server closes after its reply."""
    pool = make_pool(max_connections=3, retry=None, **KINDS[kind])
    client = redis.Redis(connection_pool=pool)
    for _ in range(20):
        before = client.client_id()
        assert client.quit()
        assert client.client_id() != before
        assert client.execute_command("quit")
        assert client.ping()
    assert client.client_kill_filter(_id=str(client.client_id()), skipme=False) == 1
    assert client.ping()
    assert pool.stats().size <= 2


@pytest.mark.parametrize(
    "command",
    [
        ("Quit",),
        (b"QUIT",),
        ("CLIENT", "kill", "TYPE", "normal", "SKIPME", "no"),
        ("client kill", "TYPE", "normal", "SKIPME", "no"),
        (b"CLIENT", b"KILL", "TYPE", "normal", "SKIPME", "no"),
    ],
)
def test_an_end_is_noted_however_its_command_is_written(
    make_pool: MakePool, command: tuple[str | bytes, ...]
) -> None:
    """The server ignores case; redis-py takes bytes, and words one by one."""
    client = redis.Redis(connection_pool=make_pool(max_connections=1, retry=None))
    for _ in range(20):
        assert client.client_id()
        assert client.execute_command(*command)
        assert client.ping()


def test_a_connection_outlives_commands_that_end_nothing(make_pool: MakePool) -> None:
    """Names are examined once; those of many are not kept."""
    client = redis.Redis(connection_pool=make_pool(max_connections=1))
    before = client.client_id()
    for _ in range(2):
        assert client.execute_command("CLIENT", "GETNAME") is None
        assert client.execute_command(b"PING")
    assert client.client_id() == before


def test_a_command_whose_name_is_not_text_is_packed_all_the_same(
    client: redis.Redis,
) -> None:
    """redis-py takes bytes as well."""
    assert client.execute_command(b"PING")
