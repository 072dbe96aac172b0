"""A cluster of six processes, each node with a pool of ours."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
import redis
import redis.lock
import redis.retry
from redis.backoff import ConstantBackoff
from redis.cluster import ClusterNode
from redis.exceptions import RedisClusterException
from redis.retry import Retry

from geventpool.redis import ConnectionPool, RedisCluster, RedisPoolExhaustedError
from geventpool.redis.cluster import url_of
from geventpool.testing import wait_until
from tests import parts
from tests.forks import in_child
from tests.redis.clusters import Cluster
from tests.redis.test_unpatched import unpatched  # noqa: F401  (a fixture)
from tests.redis.tools import assert_all_places, outcome, outcome_elsewhere

PATIENT: dict[str, Any] = {"retry": Retry(ConstantBackoff(0.1), 100)}


def pools_of(client: Any) -> dict[int, Any]:
    """The pool of each node, by its port."""
    return {
        node.port: node.redis_connection.connection_pool
        for node in client.get_nodes()
        if node.redis_connection is not None
    }


@pytest.fixture()
def client(cluster: Cluster) -> Iterator[RedisCluster]:
    node = cluster.nodes[0]
    client = RedisCluster(
        host=node.host, port=node.port, max_connections=4, timeout=5, **PATIENT
    )
    yield client
    for pool in pools_of(client).values():
        # Old versions leave the subscriptions to single nodes to the collector.
        wait_until(lambda: gc.collect() >= 0 and pool.stats().in_use == 0)
        assert pool.core.size <= 4
    client.close()


def by_host(node: Any, **options: Any) -> Any:
    return RedisCluster(host=node.host, port=node.port, **options)


def by_nodes(node: Any, **options: Any) -> Any:
    nodes = [ClusterNode(node.host, node.port)]
    return RedisCluster(startup_nodes=nodes, **options)


def by_url(node: Any, **options: Any) -> Any:
    return RedisCluster(url=node.url, **options)


def from_url(node: Any, **options: Any) -> Any:
    return RedisCluster.from_url(node.url, **options)


class Mine(ConnectionPool):
    """A pool class of the user's own."""


@pytest.mark.parametrize("construct", [by_host, by_nodes, by_url, from_url])
@pytest.mark.parametrize("kind", [ConnectionPool, Mine])
def test_every_node_has_our_pool_however_it_is_constructed(
    cluster: Cluster, construct: Any, kind: type[ConnectionPool]
) -> None:
    """With its options, and it is really the one that connects."""
    client = construct(
        cluster.nodes[0],
        connection_pool_class=kind,
        max_connections=7,
        timeout=1.5,
        max_idle=60,
        name="node",
        decode_responses=True,
    )
    client.set("key", "value")
    assert client.get("key") == "value"
    pools = pools_of(client)
    assert set(pools) == {node.port for node in cluster.nodes}
    for pool in pools.values():
        assert type(pool) is kind
        assert pool.core.name == "node"
        assert pool.max_connections == 7
        assert parts.option(pool.core, "timeout") == 1.5
    assert client.ping(target_nodes=client.ALL_NODES)
    wait_until(lambda: sum(pool.core.size for pool in pools.values()) == 6)
    # Old versions keep one more to the node they began with.
    seen = [each.connected_clients() for each in cluster.nodes]
    assert set(seen) <= {1, 2} and sum(seen) <= 7
    client.close()
    wait_until(lambda: sum(each.connected_clients() for each in cluster.nodes) == 0)


def test_redis_py_s_own_client_takes_our_pool_with_a_url(cluster: Cluster) -> None:
    """And only then; which is why there is a client of ours."""
    node = cluster.nodes[0]
    client = redis.RedisCluster(url=node.url, connection_pool_class=ConnectionPool)
    assert all(isinstance(each, ConnectionPool) for each in pools_of(client).values())
    client.close()
    client = redis.RedisCluster(
        host=node.host, port=node.port, connection_pool_class=ConnectionPool
    )
    assert not any(
        isinstance(each, ConnectionPool) for each in pools_of(client).values()
    )
    client.close()


def test_a_cluster_needs_a_node() -> None:
    """redis-py's own error."""
    with pytest.raises(RedisClusterException, match="at least one node"):
        RedisCluster()


def test_addresses_become_urls() -> None:
    """TLS, and addresses with colons."""
    assert url_of("10.0.0.1", 1, tls=False) == "redis://10.0.0.1:1"
    assert url_of("::1", 2, tls=True) == "rediss://[::1]:2"


def test_tls_options_without_tls_are_ignored(cluster: Cluster) -> None:
    """As redis-py's client ignores them."""
    client = by_host(cluster.nodes[0], ssl=False, ssl_ca_certs="nowhere")
    assert client.set("key", "value")
    client.close()


def test_commands_of_many_greenlets(client: RedisCluster) -> None:
    """On all nodes, with four connections to each."""

    def work(number: int) -> Any:
        client.set(f"key{number}", number)
        return int(client.get(f"key{number}"))  # type: ignore[arg-type]

    jobs = [gevent.spawn(work, number) for number in range(60)]
    assert [job.get() for job in jobs] == list(range(60))


def test_pipelines(client: RedisCluster) -> None:
    """Across nodes; and the places are all there afterwards."""

    def work(number: int) -> Any:
        with client.pipeline() as pipe:
            for each in range(10):
                pipe.set(f"p{number}-{each}", each)
            for each in range(10):
                pipe.get(f"p{number}-{each}")
            return pipe.execute()

    jobs = [gevent.spawn(work, number) for number in range(20)]
    expected = [True] * 10 + [b"%d" % each for each in range(10)]
    assert [job.get() for job in jobs] == [expected] * 20
    for master in client.get_primaries():
        assert_all_places(master.redis_connection.connection_pool)


def test_an_interrupted_pipeline_leaves_no_reply_behind(client: RedisCluster) -> None:
    """Killed while it waits for several nodes."""
    client.mset_nonatomic({f"key{number}": number for number in range(20)})

    def work() -> None:
        with client.pipeline() as pipe:
            for number in range(20):
                pipe.get(f"key{number}")
            pipe.execute()

    for switches in range(20):
        victim = gevent.spawn(work)
        for _ in range(switches):
            gevent.sleep(0)
        victim.kill()
        got = [client.get(f"key{number}") for number in range(20)]
        assert got == [b"%d" % number for number in range(20)]
    for master in client.get_primaries():
        assert_all_places(master.redis_connection.connection_pool)


@pytest.mark.skipif(
    not hasattr(redis.cluster, "TransactionStrategy"), reason="since redis-py 6.1"
)
def test_transactions_that_watch(client: RedisCluster) -> None:
    """They keep a connection from WATCH to EXEC, which another greenlet may do."""
    client.set("{slot}key", 1)

    def begin() -> Any:
        pipe = client.pipeline(transaction=True)
        pipe.watch("{slot}key")
        return pipe

    pipe = gevent.spawn(begin).get()
    gevent.idle()
    client.set("{slot}key", 2)
    pipe.multi()
    pipe.set("{slot}key", 3)
    with pytest.raises(redis.WatchError):
        pipe.execute()
    assert client.get("{slot}key") == b"2"


def test_sharded_channels(client: RedisCluster) -> None:
    """Each is subscribed to at its own node."""
    subscription = client.pubsub()
    channels = [f"channel{number}" for number in range(6)]
    subscription.ssubscribe(*channels)
    got: set[bytes] = set()

    def receive() -> bool:
        message = subscription.get_sharded_message(timeout=0.01)
        if message and message["type"] == "smessage":
            got.add(message["data"])
        return len(got) == 6

    for channel in channels:
        client.spublish(channel, channel)
    wait_until(receive)
    assert got == {channel.encode() for channel in channels}
    subscription.close()


def test_slots_that_move(client: RedisCluster, cluster: Cluster) -> None:
    """MOVED: the command arrives, and nothing is lost."""
    key = "moving key"
    slot = client.keyslot(key)
    owner = client.get_node_from_key(key)
    source = next(each for each in cluster.masters if each.port == owner.port)
    target = next(each for each in cluster.masters if each is not source)
    client.delete(key)
    cluster.move_slot(slot, source, target)
    try:
        assert client.set(key, "there")
        assert target.ask("GET", key) == "there"
    finally:
        client.delete(key)
        cluster.move_slot(slot, target, source)
    assert client.set(key, "back")
    assert source.ask("GET", key) == "back"
    for pool in pools_of(client).values():
        assert isinstance(pool, ConnectionPool)


def test_pipelines_under_way_in_the_parent_are_none_of_the_childs(
    cluster: Cluster,
) -> None:
    """The greenlets that would end them are not in the child."""
    client = by_host(cluster.nodes[0], max_connections=2, timeout=5)
    turns = [client._turns() for _ in range(2)]

    def use() -> object:
        return client.pipeline().set("key", "child").execute()

    with turns[0], turns[1]:
        assert in_child(use) == "[True]"
    client.close()


def test_a_full_pool_is_no_dead_node(cluster: Cluster) -> None:
    """The topology is not read anew because a pool is exhausted."""
    client = by_host(cluster.nodes[0], max_connections=1, timeout=0.3)
    client.set("key", "value")
    pool = client.get_node_from_key("key").redis_connection.connection_pool
    conn = pool.get_connection()
    read: list[Any] = []
    client.nodes_manager.initialize = lambda *args, **kw: read.append(args)
    assert isinstance(outcome_elsewhere(client.get, "key"), RedisPoolExhaustedError)
    assert not read
    pool.release(conn)
    client.close()


def test_a_node_that_dies(own_cluster: Cluster) -> None:
    """Its replica takes over; the pools of the others are as they were."""
    node = own_cluster.nodes[0]
    client = RedisCluster(
        host=node.host, port=node.port, max_connections=4, timeout=5, **PATIENT
    )
    key = "key of the dying"
    owner = client.get_node_from_key(key)
    victim = next(each for each in own_cluster.masters if each.port == owner.port)
    others = {
        port: pool for port, pool in pools_of(client).items() if port != victim.port
    }
    victim.kill()
    wait_until(lambda: outcome(client.set, key, "value") is True, timeout=30)
    assert client.get(key) == b"value"
    assert client.get_node_from_key(key).port != victim.port
    now = pools_of(client)
    assert all(now[port] is pool for port, pool in others.items())
    for each in client.get_primaries():
        assert_all_places(each.redis_connection.connection_pool)
    client.close()


def test_no_more_pipelines_are_sent_than_a_node_has_connections(
    cluster: Cluster,
) -> None:
    """Each takes a connection of several nodes: they would wait for each other."""
    client = by_host(cluster.nodes[0], max_connections=1, timeout=5)
    with client._turns():
        job = gevent.spawn(client.pipeline().set("key", "value").execute)
        # Time enough for a pipeline that does not wait for its turn.
        for number in range(20):
            client.set(f"another{number}", "value")
        assert not job.ready()
    assert job.get(timeout=10) == [True]
    client.close()


@pytest.mark.usefixtures("unpatched")
def test_a_cluster_takes_turns_by_a_lock_of_threads_where_there_are_threads() -> None:
    """A semaphore of gevent's would need an event loop in every thread."""
    from geventpool.redis.cluster import RedisCluster

    cluster: Any = RedisCluster.__new__(RedisCluster)
    cluster._pools = lambda: [ConnectionPool(max_connections=3)]
    turns = cluster._turns()
    assert isinstance(turns, threading.BoundedSemaphore)
