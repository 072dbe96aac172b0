"""A node of a cluster that is lost for good: nobody waits for it any longer."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
import redis
from gevent.event import Event

from geventpool import Backoff, Outage
from geventpool.redis import RedisCluster, node_watch
from geventpool.redis.node_watch import NodeWatch
from geventpool.testing import wait_until
from tests.pauses import hang
from tests.redis.clusters import Cluster

#: Nobody gets an answer by the end of this grace.
LONG = Outage(grace=1000.0)


@pytest.mark.parametrize("noticed", ["before", "after"])
def test_nobody_waits_for_a_node_whose_work_another_does(
    own_cluster: Cluster, noticed: str
) -> None:
    """Whether its replica has taken over before the loss is noticed, or after it."""
    node = own_cluster.nodes[0]
    client = RedisCluster(host=node.host, port=node.port, timeout=60, outage=LONG)
    assert client.set("key", "value")
    owner = client.get_node_from_key("key")
    victim = next(each for each in own_cluster.masters if each.port == owner.port)
    survivor = next(each for each in own_cluster.masters if each is not victim)
    pool: Any = client.get_redis_connection(owner).connection_pool
    victim.kill()

    def has_new_owner() -> bool:
        roles = own_cluster.view(survivor)
        masters = [name for name, each in roles.items() if "master" in each["flags"]]
        return len(masters) == 4

    if noticed == "after":
        wait_until(has_new_owner, timeout=30)
    assert gevent.spawn(client.get, "key").get(timeout=60) == b"value"
    assert client.get_node_from_key("key").port != victim.port
    assert not pool.core.extension.is_in_grace
    client.close()


HERE, THERE = ("127.0.0.1", 1), ("127.0.0.1", 2)
SLOTS: dict[str, Any] = {
    "same": [[0, 9, [b"127.0.0.1", 1, b"id"], [b"127.0.0.1", 2, b"id", []]]],
    "moved": [[0, 9, [b"", 2, b"id"], ["127.0.0.1", 1, "id"]]],
    "gone": [[0, 9, ["127.0.0.1", 2, "id"]]],
}


class Extension:
    """That of a pool that somebody waits for."""

    def __init__(self, asks: int, in_grace: bool = True) -> None:
        self.asks = asks
        self.is_in_grace = in_grace

    @property
    def waiting(self) -> bool:
        self.asks -= 1
        return self.asks >= 0

    def end_grace(self) -> None:
        self.is_in_grace = False

    def spawn(self, work: Callable[..., object], *args: Any) -> Any:
        return gevent.spawn(work, *args)


def node(place: tuple[str, int], answer: Any, in_grace: bool = False) -> Any:
    def execute_command(*words: str) -> Any:
        return answer() if callable(answer) else answer

    core = SimpleNamespace(extension=Extension(0, in_grace))
    return SimpleNamespace(
        name="{}:{}".format(*place),
        host=place[0],
        server_type="primary" if place is HERE else "replica",
        redis_connection=SimpleNamespace(
            execute_command=execute_command,
            connection_pool=SimpleNamespace(core=core),
        ),
    )


class Client:
    """A cluster client that knows two nodes."""

    def __init__(self, *nodes: Any) -> None:
        self.nodes = nodes
        self.nodes_manager = SimpleNamespace(remap_host_port=lambda *place: place)

    def get_nodes(self) -> Any:
        return self.nodes

    def get_node(self, node_name: str) -> Any:
        return {each.name: each for each in self.nodes}.get(node_name)


def still_waits(client: Client, extension: Extension) -> bool:
    """Whether the grace goes on when nobody waits any more."""
    watch = NodeWatch(weakref.ref(client), *HERE)
    pool = SimpleNamespace(core=SimpleNamespace(extension=extension))
    watch.failed(pool)
    first = watch.greenlet
    watch.failed(pool)
    assert watch.greenlet is first and first is not None
    first.get(timeout=30)
    return extension.is_in_grace


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_watch, "PAUSES", Backoff(0, maximum=0))


@pytest.mark.parametrize("case", SLOTS)
def test_the_grace_ends_if_the_node_has_another_role_than_it_had(case: str) -> None:
    """A restart without a failover does not change its role."""
    client = Client(node(HERE, hang), node(THERE, SLOTS[case]))
    assert still_waits(client, Extension(2)) == (case == "same")


def test_the_grace_ends_for_a_node_that_the_client_has_forgotten() -> None:
    """The callers came before the client read the nodes anew."""
    client = Client(node(THERE, SLOTS["same"]))
    assert not still_waits(client, Extension(2))


def test_without_an_answer_the_grace_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole cluster may be away for a moment."""
    monkeypatch.setattr(node_watch, "ANSWER", 0.001)

    def refuse() -> None:
        raise redis.ConnectionError

    away = node(THERE, SLOTS["gone"], in_grace=True)
    unused = node(THERE, SLOTS["gone"])
    unused.redis_connection = None
    silent, broken, empty = node(THERE, hang), node(THERE, refuse), node(THERE, [])
    client = Client(silent, broken, empty, away, unused)
    assert still_waits(client, Extension(1))


def test_nobody_asks_outside_the_grace_or_for_a_client_that_is_gone() -> None:
    """There is nothing to end."""
    never = Event()
    client = Client(node(THERE, never.wait))
    assert not still_waits(client, Extension(9, in_grace=False))
    watch = NodeWatch(weakref.ref(Client()), *HERE)
    extension = Extension(1)
    watch.failed(SimpleNamespace(core=SimpleNamespace(extension=extension)))
    assert watch.greenlet is not None
    watch.greenlet.get(timeout=30)
    assert extension.is_in_grace
