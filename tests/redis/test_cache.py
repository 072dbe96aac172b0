"""Client-side caching.

redis-py asks for a server of version 7.4; what it uses of it, CLIENT TRACKING, is in
older ones too. So these tests tell it that any version will do.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
import redis
from gevent.event import Event
from redis._parsers import _HiredisParser, _RESP3Parser
from redis.backoff import NoBackoff
from redis.cache import CacheConfig
from redis.connection import CacheProxyConnection
from redis.retry import Retry

from geventpool.redis import ConnectionPool
from geventpool.redis.internals import behind_cache
from geventpool.testing import wait_until
from tests import parts
from tests.event_loops import not_on_libuv
from tests.redis.conftest import MakePool
from tests.redis.tools import assert_all_places, pool_of, present, waitpid
from tests.servers import RedisServer, free_port


@pytest.fixture(autouse=True)
def any_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CacheProxyConnection, "MIN_ALLOWED_VERSION", "6.0.0")


@pytest.fixture(params=[_HiredisParser, _RESP3Parser])
def client(
    request: pytest.FixtureRequest, make_pool: MakePool
) -> Iterator[redis.Redis]:
    pool = make_pool(
        max_connections=3,
        protocol=3,
        parser_class=request.param,
        cache_config=CacheConfig(),
    )
    client = redis.Redis(connection_pool=pool)
    client.flushdb()
    yield client
    client.close()


def gets(server: RedisServer) -> int:
    stats = server.ask("INFO", "commandstats")
    return int(stats.get("cmdstat_get", {"calls": 0})["calls"])


def test_a_server_that_is_away_is_an_outage_with_a_cache_too(
    make_pool: MakePool,
) -> None:
    """The error says that it cannot be reached, and nothing of the cache."""
    pool = make_pool(
        port=free_port(), protocol=3, cache_config=CacheConfig(), retry=None
    )
    with pytest.raises(redis.ConnectionError, match="refused") as refused:
        redis.Redis(connection_pool=pool).get("key")
    assert type(refused.value) is redis.ConnectionError


def test_a_server_without_caching_is_refused_at_once(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, redis_server: RedisServer
) -> None:
    """It is no outage: it can be reached, and trying again would not help."""
    monkeypatch.setattr(CacheProxyConnection, "MIN_ALLOWED_VERSION", "999.0.0")
    before = int(redis_server.ask("INFO", "stats")["total_connections_received"])
    client = redis.Redis(
        connection_pool=make_pool(protocol=3, cache_config=CacheConfig(), timeout=60)
    )
    with pytest.raises(redis.ConnectionError, match="client-side caching is supported"):
        client.get("key")
    after = int(redis_server.ask("INFO", "stats")["total_connections_received"])
    # Its own, and those of the questions and of redis-py.
    assert after - before <= 3
    assert not pool_of(client).stats().paused


def test_a_value_is_read_once(client: redis.Redis, redis_server: RedisServer) -> None:
    """From then on it comes from the cache, also over other connections."""
    client.set("key", "value")
    before = gets(redis_server)
    for _ in range(5):
        assert client.get("key") == b"value"
    jobs = [gevent.spawn(client.get, "key") for _ in range(20)]
    assert [job.get() for job in jobs] == [b"value"] * 20
    assert gets(redis_server) - before <= 3


def test_a_changed_value_is_read_again(
    client: redis.Redis, redis_server: RedisServer
) -> None:
    """The invalidation waits on an idle connection, which is kept."""
    client.set("key", "old")
    assert client.get("key") == b"old"
    ids = {client.client_id() for _ in range(3)}
    redis_server.ask("SET", "key", "new")
    wait_until(lambda: client.get("key") == b"new")
    assert {client.client_id() for _ in range(3)} <= ids


def test_what_a_lost_connection_had_cached_is_asked_for_again(
    make_pool: MakePool, redis_server: RedisServer
) -> None:
    """The server tells of changes only those connections that still read."""
    # With retries redis-py would pass over the connection that refuses to be read.
    pool = make_pool(
        protocol=3, cache_config=CacheConfig(), retry=Retry(NoBackoff(), 0)
    )
    client = redis.Redis(connection_pool=pool)
    client.set("key", "old")
    assert client.get("key") == b"old"
    (conn,) = pool.core.idle_connections()
    assert pool.core.acquire(reclaim=False) is conn
    pool.core.drop(conn)
    redis_server.ask("SET", "key", "new")
    assert client.get("key") == b"new"


def test_two_who_read_what_is_not_yet_cached_both_get_it(
    client: redis.Redis, redis_server: RedisServer
) -> None:
    """With redis-py alone the second would wait for a reply to nothing."""
    client.set("key", "value")
    assert_all_places(pool_of(client))
    redis_server.pause()
    try:
        jobs = [gevent.spawn(client.get, "key") for _ in range(3)]
        gevent.idle()
    finally:
        redis_server.resume()
    assert [job.get(timeout=3) for job in jobs] == [b"value"] * 3


def test_a_connection_kept_by_a_caller_is_read_by_nobody_else(
    client: redis.Redis,
) -> None:
    """A WATCH keeps its connection between commands, when the taker does not read."""
    pipe = client.pipeline()
    pipe.watch("key")
    conn = behind_cache(pipe.connection)
    assert not conn.readers.may_read(conn)
    pipe.reset()


def test_many_readers_and_a_writer_agree(client: redis.Redis) -> None:
    """All see the last value in the end, and only ever values that were there."""
    client.set("key", 0)
    seen: list[int] = []

    def read() -> None:
        for _ in range(50):
            seen.append(int(present(client.get("key"))))
            gevent.sleep(0)

    readers = [gevent.spawn(read) for _ in range(8)]
    for number in range(1, 30):
        client.set("key", number)
    gevent.joinall(readers, raise_error=True)
    wait_until(lambda: client.get("key") == b"29")
    assert set(seen) <= set(range(30))
    assert_all_places(pool_of(client))


def test_what_a_lost_connection_cached_is_forgotten(
    client: redis.Redis, redis_server: RedisServer
) -> None:
    """Nobody would tell of its changes any more."""
    client.set("key", "old")
    assert client.get("key") == b"old"
    redis_server.hang_up()
    redis_server.ask("SET", "key", "new")
    assert client.get("key") == b"new"


def test_the_limit_holds_with_a_cache(client: redis.Redis) -> None:
    """The connections are wrapped, not more of them."""
    jobs = [gevent.spawn(client.set, f"key{each}", each) for each in range(50)]
    gevent.joinall(jobs, raise_error=True)
    assert pool_of(client).core.size <= 3
    assert_all_places(pool_of(client))


def test_set_retry_and_tokens_reach_what_is_behind_the_cache(
    client: redis.Redis,
) -> None:
    """A wrapped connection is looked through."""
    pool: Any = client.connection_pool
    conn = pool.get_connection()
    assert isinstance(conn, CacheProxyConnection)
    conn.set_re_auth_token(None)  # type: ignore[arg-type]
    pool.release(conn)
    conn = pool.get_connection()
    conn.disconnect()
    pool.release(conn)
    assert pool.core.size == 0


@not_on_libuv("redis-py's own pool finds data in silent sockets")
def test_a_child_does_not_believe_its_parent_s_cache(
    client: redis.Redis, redis_server: RedisServer
) -> None:
    """Its connections, which would be told of changes, are the parent's."""
    client.set("key", "old")
    assert client.get("key") == b"old"
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            redis_server.ask("SET", "key", "new")
            value = client.get("key")
            assert isinstance(value, bytes)
            os.write(writer, value)
        finally:
            os._exit(0)
    os.close(writer)
    waitpid(child, 0)
    assert os.read(reader, 10) == b"new"
    os.close(reader)
    wait_until(lambda: client.get("key") == b"new")


def test_a_cache_needs_resp3() -> None:
    """redis-py's own error."""
    with pytest.raises(redis.RedisError, match="RESP version 3"):
        ConnectionPool(protocol=2, cache_config=CacheConfig())


@pytest.mark.parametrize("kind", ["watch", "raw", "single"])
def test_a_value_is_not_trusted_while_nobody_reads_its_connection(
    client: redis.Redis, redis_server: RedisServer, kind: str
) -> None:
    """Who has borrowed it sends nothing, and so does not hear of changes."""
    pool = pool_of(client)
    client.set("key", "old")
    assert client.get("key") == b"old"
    held: Any
    if kind == "watch":
        held = client.pipeline()
        held.watch("other")
    elif kind == "raw":
        held = pool.get_connection()
    else:
        held = redis.Redis(connection_pool=pool, single_connection_client=True)
    redis_server.ask("SET", "key", "new")
    assert gevent.spawn(client.get, "key").get() == b"new"
    before = gets(redis_server)
    assert gevent.spawn(client.get, "key").get() == b"new"
    assert gets(redis_server) == before
    if kind == "raw":
        pool.release(held)
    else:
        held.close()


def test_a_value_is_trusted_while_a_reader_waits_on_its_connection(
    make_pool: MakePool, redis_server: RedisServer
) -> None:
    """It hears of each change at once."""
    pool = make_pool(max_connections=2, protocol=3, cache_config=CacheConfig())
    client = redis.Redis(connection_pool=pool)
    client.delete("list")
    client.set("key", "old")
    assert client.get("key") == b"old"
    waiting = gevent.spawn(client.blpop, "list", 5)
    wait_until(lambda: len(parts.lent_of(pool)) == 1)
    before = gets(redis_server)
    assert client.get("key") == b"old"
    assert gets(redis_server) == before
    redis_server.ask("SET", "key", "new")
    wait_until(lambda: client.get("key") == b"new")
    client.rpush("list", "end")
    assert waiting.get() == [b"list", b"end"]


def test_subscriptions_work_behind_a_cache(client: redis.Redis) -> None:
    """They ask the connection for its health checks."""
    subscription = client.pubsub()
    subscription.subscribe("channel")
    assert subscription.get_message(timeout=5)["type"] == "subscribe"
    client.publish("channel", "message")
    assert subscription.get_message(timeout=5)["data"] == b"message"
    assert subscription.connection.next_health_check == 0
    subscription.close()


def test_a_kill_while_others_read_pushes_costs_no_place(client: redis.Redis) -> None:
    """A connection that was lent and not yet given to its user comes back."""
    pool: Any = client.connection_pool
    assert_all_places(pool)
    rest = Event()

    def take() -> None:
        with contextlib.suppress(gevent.GreenletExit):
            pool.get_connection()
        rest.wait()

    with pool._lock:
        taker = gevent.spawn(take)
        gevent.idle()
        assert pool.stats().in_use == 1
        taker.kill(block=False)
        gevent.idle()
    assert not taker.dead
    assert pool.stats().in_use == 0
    rest.set()
    taker.join()


# With a server that redis-py itself accepts.


@pytest.mark.parametrize("parser", [_HiredisParser, _RESP3Parser])
def test_the_cache_is_fresh_on_a_new_server(
    new_server: RedisServer, monkeypatch: pytest.MonkeyPatch, parser: Any
) -> None:
    """Readers, a writer and borrowers that do not read, at the same time."""
    monkeypatch.undo()
    pool = ConnectionPool(
        port=new_server.port,
        max_connections=4,
        protocol=3,
        parser_class=parser,
        cache_config=CacheConfig(),
    )
    client = redis.Redis(connection_pool=pool)
    writer = redis.Redis(port=new_server.port)
    writer.set("key", 0)
    assert client.get("key") == b"0"
    held = client.pipeline()
    held.watch("other")
    for number in range(1, 20):
        writer.set("key", number)
        jobs = [gevent.spawn(client.get, "key") for _ in range(5)]
        assert {int(present(job.get())) for job in jobs} <= {number - 1, number}
        wait_until(lambda number=number: int(present(client.get("key"))) == number)  # type: ignore[misc]
    held.reset()
    writer.close()
    assert_all_places(pool)
    pool.shutdown()


@pytest.mark.parametrize("parser", [_HiredisParser, _RESP3Parser])
def test_a_reply_behind_an_invalidation_of_a_new_server_is_found(
    new_server: RedisServer, parser: Any
) -> None:
    """As after a borrower that swallowed its timeout."""
    pool = ConnectionPool(port=new_server.port, max_connections=1, parser_class=parser)
    client = redis.Redis(connection_pool=pool)
    client.execute_command("CLIENT", "TRACKING", "ON")
    client.set("key", "right")
    client.get("key")
    conn = pool.get_connection()
    new_server.ask("SET", "key", "right")
    conn.send_command("ECHO", "stale")
    # A reply that is still on its way no look can find.
    native = parts.native(conn)

    def arrived() -> bool:
        try:
            return b"stale" in native.recv(4096, socket.MSG_PEEK)
        except BlockingIOError:
            return False

    wait_until(arrived)
    pool.release(conn)
    assert [client.get("key") for _ in range(3)] == [b"right"] * 3
    pool.shutdown()
