"""The Redis adapter, over shared connections and to a cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent

from geventpool.redis import RedisCluster
from tests import parts
from tests.failures.scenes.redis import GET_CONNECTION, redis_scene
from tests.failures.scenes.table import Scene, Site, covers


def shared_scene(
    work: Callable[[Any], object], site: Site, max_in_flight: int = 1000
) -> Scene:
    """A scene over a shared connection.

    :param int max_in_flight: 1: a command waits until the one before is answered.
    """
    given = {"auto_pipeline": True, "max_in_flight": max_in_flight}
    return redis_scene(work, site, max_connections=2, **given)


def while_another_waits(client: Any, act: Callable[[], object]) -> None:
    """Call *act* while the only place on the shared connection is taken."""
    client.get("yours")
    other = gevent.spawn(client.get, "yours")
    # It begins now, and has sent its command when this goes on.
    gevent.idle()
    try:
        act()
    finally:
        other.kill(block=False)


@covers("redis.standin.StandIn.read_response", "redis.multiplexer.Multiplexer.wait")
def a_shared_command(site: Site) -> Scene:
    def work(client: Any) -> None:
        assert client.get("mine") == b"M"

    return shared_scene(work, site)


@covers(
    *("redis.standin.StandIn.send_command", "redis.multiplexer.Multiplexer.queue"),
    "redis.room.Room.take",
)
def a_shared_command_that_waits_for_room(site: Site) -> Scene:
    def work(client: Any) -> None:
        while_another_waits(client, lambda: client.get("mine"))

    return shared_scene(work, site, max_in_flight=1)


@covers("redis.standin.StandIn.send_packed_command")
def a_shared_pipeline_that_waits_for_room(site: Site) -> Scene:
    def work(client: Any) -> None:
        with client.pipeline(transaction=False) as pipe:
            while_another_waits(client, pipe.get("mine").execute)

    return shared_scene(work, site, max_in_flight=1)


@covers(
    *("redis.sharing.Sharing.own_connection", "redis.sharing.Sharing.prepare"),
    *("redis.pool.ConnectionPool.own_connection", "redis.multiplexer.Multiplexer.take"),
)
def waiting_for_replicas_of_shared_writes(site: Site) -> Scene:
    def work(client: Any) -> None:
        # First over a connection of its own, then over the shared one.
        client.wait(0, 1)
        client.set("written", "1")
        client.wait(0, 1)

    return shared_scene(work, site)


def new_stand_in(client: Any) -> Any:
    """A stand-in without a connection of its own."""
    client.get("mine")
    return parts.sharing(client.connection_pool).stand_in()


@covers("redis.standin.StandIn.connect")
def a_connection_of_its_own_that_connects_anew(site: Site) -> Scene:
    def work(client: Any) -> None:
        stand_in = new_stand_in(client)
        try:
            stand_in.send_command("CLIENT", "ID")
            stand_in.disconnect()
            stand_in.connect()
        finally:
            client.connection_pool.release(stand_in)

    return shared_scene(work, site)


@covers("redis.standin.StandIn.own_attribute")
def an_attribute_of_a_connection_of_its_own(site: Site) -> Scene:
    def work(client: Any) -> None:
        stand_in = new_stand_in(client)
        try:
            assert stand_in.is_connected
        finally:
            client.connection_pool.release(stand_in)

    return shared_scene(work, site)


@covers("redis.sharing.Sharing.acquire")
def a_connection_to_share(site: Site) -> Scene:
    def work(client: Any) -> None:
        sharing = parts.sharing(client.connection_pool)
        sharing.give_back(sharing.acquire(5))

    return shared_scene(work, site)


_clusters: dict[int, Any] = {}


def pools_of(cluster: Any) -> list[Any]:
    """The pools of the nodes that commands were sent to."""
    clients = [node.redis_connection for node in cluster.get_nodes()]
    return [client.connection_pool for client in clients if client is not None]


def cluster_scene(work: Callable[[Any], object], site: Site) -> Scene:
    # To ask for the nodes each time would be most of the work.
    cluster = _clusters.get(site.cluster.port)
    if cluster is not None:
        for pool in pools_of(cluster):
            pool.disconnect()
    else:
        cluster = _clusters[site.cluster.port] = RedisCluster(
            *(site.cluster.host, site.cluster.port), max_connections=1, timeout=5
        )
        cluster.mset_nonatomic({"mine": "M", "yours": "Y"})

    def afterwards() -> None:
        assert cluster.get("yours") == b"Y"
        assert cluster.get("mine") == b"M"

    pools = [pool.core for pool in pools_of(cluster)]
    return Scene(lambda: work(cluster), pools, afterwards, lasting=True)


@covers(*GET_CONNECTION)
def a_command_to_a_cluster(site: Site) -> Scene:
    return cluster_scene(lambda cluster: cluster.get("mine"), site)


@covers(*GET_CONNECTION)
def a_pipeline_to_a_cluster(site: Site) -> Scene:
    def work(cluster: Any) -> None:
        pipe = cluster.pipeline()
        assert pipe.get("mine").get("yours").execute() == [b"M", b"Y"]

    return cluster_scene(work, site)
