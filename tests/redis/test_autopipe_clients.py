"""Clusters, fail-overs, credentials, pushes and metrics, where commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
import redis
from redis.backoff import ConstantBackoff, NoBackoff
from redis.credentials import CredentialProvider
from redis.retry import Retry

from geventpool import Outage
from geventpool.redis import ConnectionPool, RedisCluster, internals
from geventpool.redis.internals import module_of, parser_of
from geventpool.testing import wait_until
from tests import parts
from tests.redis.clusters import Cluster
from tests.redis.conftest import MakePool
from tests.redis.scripted import echo, scripted_redis
from tests.redis.test_cluster import pools_of
from tests.redis.test_credentials import token
from tests.redis.test_sentinel import Replicated, ask_sentinels, knows_all, master_of
from tests.redis.test_telemetry import Collector, collector  # noqa: F401
from tests.redis.tools import chain, outcome, pool_of
from tests.servers import free_port

NO_RETRY = Retry(NoBackoff(), 0)


@pytest.fixture()
def clustered(cluster: Cluster) -> Iterator[RedisCluster]:
    """A client of a cluster; the pool of each node shares a connection."""
    client = RedisCluster(
        host=cluster.nodes[0].host,
        port=cluster.nodes[0].port,
        max_connections=4,
        timeout=5,
        auto_pipeline=True,
        retry=Retry(ConstantBackoff(0.1), 100),
    )
    yield client
    for pool in pools_of(client).values():
        # What interrupted callers have left is read and dropped.
        wait_until(lambda: parts.sharing(pool).in_flight() == 0)
        assert not pool.shutdown(5)
    client.close()


# Clusters.


def test_every_node_of_a_cluster_shares(clustered: RedisCluster) -> None:
    """One connection to each master carries the commands of many greenlets."""

    def work(number: int) -> Any:
        clustered.set(f"key{number}", number)
        return clustered.get(f"key{number}")

    jobs = [gevent.spawn(work, number) for number in range(60)]
    assert [job.get(timeout=30) for job in jobs] == [b"%d" % n for n in range(60)]
    sizes = [pool.stats().size for pool in pools_of(clustered).values()]
    # Another may have asked for the slots.
    assert all(size <= 2 for size in sizes)
    shared = [parts.multiplexer(pool) for pool in pools_of(clustered).values()]
    assert sum(each is not None and each.shared is not None for each in shared) == 3


def test_pipelines_of_a_cluster_share(clustered: RedisCluster) -> None:
    """A piece for each node, and all are sent before the first is read."""

    def work(number: int) -> Any:
        pipe = clustered.pipeline()
        for index in range(20):
            pipe.set(f"key{number}-{index}", index)
            pipe.get(f"key{number}-{index}")
        return pipe.execute()

    jobs = [gevent.spawn(work, number) for number in range(10)]
    expected = [each for n in range(20) for each in (True, b"%d" % n)]
    assert [job.get(timeout=30) for job in jobs] == [expected] * 10


def test_a_pipeline_of_a_cluster_may_ask_for_bytes(cluster: Cluster) -> None:
    """Its replies are decoded otherwise."""
    [node, *_] = cluster.nodes
    client = RedisCluster(
        host=node.host, port=node.port, decode_responses=True, auto_pipeline=True
    )
    client.mset_nonatomic({"{a}text": "text", "{a}raw": b"\xff"})
    pipe = client.pipeline().get("{a}text")
    pipe.execute_command("GET", "{a}raw", NEVER_DECODE=True)
    assert pipe.execute() == ["text", b"\xff"]
    for pool in pools_of(client).values():
        assert not pool.shutdown(5)
    client.close()


def test_a_slot_that_has_moved_is_found(clustered: RedisCluster) -> None:
    """MOVED is a reply to one command."""
    clustered.set("key", "value")
    manager = clustered.nodes_manager
    slot = clustered.keyslot("key")
    right = manager.slots_cache[slot]
    others = [nodes for nodes in manager.slots_cache.values() if nodes[0] != right[0]]
    manager.slots_cache[slot] = others[0]
    jobs = [gevent.spawn(clustered.get, "key") for _ in range(10)]
    assert [job.get(timeout=10) for job in jobs] == [b"value"] * 10


def test_a_slot_that_is_moving_is_asked_for_elsewhere(
    clustered: RedisCluster, cluster: Cluster
) -> None:
    """ASKING and the command behind it must go over one connection."""
    slot = clustered.keyslot("moving")
    owner = clustered.nodes_manager.get_node_from_slot(slot)
    source = next(node for node in cluster.masters if node.port == owner.port)
    target = next(node for node in cluster.masters if node is not source)
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.id_of(source))
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.id_of(target))
    try:
        jobs = [gevent.spawn(clustered.incr, "moving") for _ in range(10)]
        assert sorted(job.get(timeout=10) for job in jobs) == list(range(1, 11))
    finally:
        for node in (source, target):
            node.ask("CLUSTER", "SETSLOT", slot, "STABLE")


def test_a_node_that_cannot_be_reached_makes_a_client_ask_for_the_nodes(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica may be the master now. redis-py asks where it handles the error."""
    [node, *_] = cluster.nodes
    client = RedisCluster(
        host=node.host, port=node.port, auto_pipeline=True, outage=Outage(grace=0)
    )
    owner = client.get_node_from_key("key")
    options = owner.redis_connection.connection_pool.connection_kwargs
    options["port"] = free_port()
    initialize = client.nodes_manager.initialize

    def asked(*args: Any, **kwargs: Any) -> None:
        options["port"] = owner.port
        initialize(*args, **kwargs)

    monkeypatch.setattr(client.nodes_manager, "initialize", asked)
    assert client.set("key", "value")
    for pool in pools_of(client).values():
        assert not pool.shutdown(5)
    client.close()


def test_an_interrupted_pipeline_of_a_cluster_leaves_no_reply(
    clustered: RedisCluster,
) -> None:
    """What is written is read and dropped."""
    for number in range(20):
        clustered.set(f"key{number}", number)

    def work() -> None:
        pipe = clustered.pipeline()
        for number in range(20):
            pipe.get(f"key{number}")
        pipe.execute()

    for _ in range(10):
        victim = gevent.spawn(work)
        other = gevent.spawn(clustered.get, "key7")
        gevent.idle()
        victim.kill()
        assert other.get(timeout=5) == b"7"
        assert clustered.get("key3") == b"3"


# Sentinel.


def test_a_demoted_master_is_left_by_all(replicated: Replicated) -> None:
    """One command finds out; the shared connection goes with the idle ones."""
    (master, replica), sentinels = replicated
    wait_until(lambda: knows_all(sentinels, replica))
    client = master_of(ask_sentinels(sentinels), auto_pipeline=True, retry=NO_RETRY)
    pool = pool_of(client)
    client.set("key", "value")
    client.config_get("port")
    assert pool.stats().size == 2
    assert isinstance(outcome(client.incr, "key"), redis.ResponseError)
    replica.ask("REPLICAOF", "NO", "ONE")
    master.ask("REPLICAOF", replica.host, replica.port)
    error = outcome(client.set, "key", "value")
    assert isinstance(error, redis.ConnectionError)
    assert "previous master is now a slave" in str(error)
    wait_until(lambda: pool.core.size == 0)
    client.close()


def test_a_connection_to_a_former_master_is_not_shared_any_more(
    replicated: Replicated,
) -> None:
    """Somebody else has found the new one; what is under way is answered."""
    (master, replica), sentinels = replicated
    wait_until(lambda: knows_all(sentinels, replica))
    client = master_of(ask_sentinels(sentinels), auto_pipeline=True)
    pool: Any = client.connection_pool
    client.set("key", "value")
    first = parts.multiplexer(pool).shared.conn
    pool.proxy.master_address = ("127.0.0.1", 1)
    client.set("key", "other")
    assert parts.multiplexer(pool).shared.conn is not first
    assert pool.stats().size == 1
    client.close()


# Credentials.


def test_a_new_token_reaches_the_shared_connection(make_pool: MakePool) -> None:
    """AUTH is sent when all is answered, and the queue goes on behind it."""

    class Provider(CredentialProvider):
        def get_credentials(self) -> tuple[str]:
            return ("",)

    with scripted_redis(echo) as server:
        pool = ConnectionPool(port=server.port, protocol=2, auto_pipeline=True)
        client = redis.Redis(connection_pool=pool)
        assert client.get("a") == b"a"
        seen: list[Any] = []
        conn = parts.multiplexer(pool).shared.conn
        send = conn.send_command

        def noted(*args: Any, **options: Any) -> None:
            seen.append(args[0])
            send(*args, **options)

        conn.send_command = noted
        pool.re_auth_callback(token("user"))
        jobs = [gevent.spawn(client.get, "b") for _ in range(5)]
        assert [job.get(timeout=5) for job in jobs] == [b"b"] * 5
        assert seen == ["AUTH"]
        assert len(server.sockets) == 1
        pool.shutdown(5)


# Pushes.


def test_a_push_is_no_reply_and_reaches_its_handler() -> None:
    """The handler may wait, which the hub can't."""
    with scripted_redis(lambda command: None) as server:
        pool = ConnectionPool(port=server.port, protocol=3, auto_pipeline=True)
        client = redis.Redis(connection_pool=pool)
        jobs = [gevent.spawn(client.get, str(each)) for each in range(2)]
        wait_until(lambda: len(server.received) == 2)
        seen: list[Any] = []

        def handler(reply: Any) -> None:
            gevent.sleep(0)
            seen.append(reply)
            if len(seen) == 1:
                raise ValueError("a handler that fails")

        conn = parts.multiplexer(pool).shared.conn
        parser_of(conn).set_invalidation_push_handler(handler)
        push = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\n%b\r\n"
        server.sockets[0].sendall(b"+one\r\n" + push % b"a" + push % b"b" + b"+two\r\n")
        assert [job.get(timeout=5) for job in jobs] == [b"one", b"two"]
        wait_until(lambda: len(seen) == 2)
        assert seen == [[b"invalidate", [b"a"]], [b"invalidate", [b"b"]]]
        pool.shutdown(5)


def test_a_connection_marked_for_reconnection_is_replaced(make_pool: MakePool) -> None:
    """redis-py marks those to a server that moves, and those to a failed node."""
    pool = make_pool(auto_pipeline=True)
    client = redis.Redis(connection_pool=pool)
    client.ping()
    conn = parts.multiplexer(pool).shared.conn
    if not hasattr(conn, "mark_for_reconnect"):
        pytest.skip("this redis-py marks nothing")
    conn.mark_for_reconnect()
    assert client.ping()
    assert parts.multiplexer(pool).shared.conn is not conn
    assert pool.stats().size == 1


# Metrics.


@pytest.mark.skipif(
    internals.recorder is internals.NoRecorder, reason="redis-py has metrics since 7.2"
)
def test_redis_py_s_metrics_see_commands_and_connections(
    make_pool: MakePool,
    collector: Collector,  # noqa: F811
) -> None:
    """Each command is recorded by redis-py, with the address of its server."""
    commands: list[dict[str, Any]] = []
    collector.record_operation_duration = lambda **kw: commands.append(kw)  # type: ignore[attr-defined]
    pool = make_pool(auto_pipeline=True)
    client = redis.Redis(connection_pool=pool)
    client.ping()
    assert +collector.counts == {"USED": 1}
    chain(client.pipeline()).get("key").execute()
    assert [each["command_name"] for each in commands] == ["PING", "MULTI"]
    port = pool.connection_kwargs["port"]
    assert {each["server_port"] for each in commands} == {port}
    parts.sharing(pool).renew()
    wait_until(lambda: +collector.counts == {"IDLE": 1})


# Members.

#: What redis-py asks of a connection that it got for a command or a pipeline.
KNOWN = {
    "connect",
    "db",
    "disconnect",
    "extract_connection_details",
    "get_protocol",
    "himport_registry",
    "host",
    "pack_commands",
    "port",
    "read_response",
    "retry",
    "send_command",
    "send_packed_command",
    "should_reconnect",
    # Whether it is a value at all.
    "__bool__",
    "__len__",
}


def test_redis_py_asks_a_connection_for_nothing_new(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each other name costs a connection of its own: a new version would be slow."""
    pool = make_pool(auto_pipeline=True, retry=Retry(NoBackoff(), 1))
    client = redis.Redis(connection_pool=pool)
    asked: set[str] = set()

    class Recording:
        def __init__(self, stand_in: Any) -> None:
            self._stand_in = stand_in

        def __getattr__(self, name: str) -> Any:
            asked.add(name)
            return getattr(self._stand_in, name)

    get, release = ConnectionPool.get_connection, ConnectionPool.release

    def recorded(self: Any, *args: Any) -> Any:
        return Recording(parts.sharing(pool).stand_in())

    monkeypatch.setattr(ConnectionPool, "get_connection", recorded)
    monkeypatch.setattr(
        ConnectionPool,
        "release",
        lambda self, conn: release(self, conn._stand_in),
    )
    deeds: list[Callable[[], Any]] = [
        client.ping,
        chain(client.pipeline()).get("key").execute,
        chain(client.pipeline(transaction=False)).get("key").execute,
        lambda: client.eval("return redis.error_reply('LOADING no')", 0),
        lambda: client.pipeline(transaction=False).execute_command("NONE").execute(),
    ]
    for deed in deeds:
        outcome(deed)
    monkeypatch.setattr(ConnectionPool, "get_connection", get)
    monkeypatch.setattr(ConnectionPool, "release", release)
    assert asked - KNOWN == set()
    assert "send_command" in asked
    assert module_of("redis.nothing") is None
