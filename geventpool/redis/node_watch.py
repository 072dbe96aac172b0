"""Whether another node of a cluster does the work of one that cannot be reached.

Greenlets wait for a short time for a lost server. In a cluster another node may have
taken its slots meanwhile, so the cluster is asked, and then nobody waits any longer.
"""

from __future__ import annotations

import weakref
from typing import Any, Protocol

import gevent
from redis.cluster import get_node_name
from redis.exceptions import RedisError

from geventpool.errors import PoolError
from geventpool.policies import Backoff

__all__ = ["NodeWatch"]

#: Between two questions to the cluster.
PAUSES = Backoff(0.05, factor=1.5, maximum=1.0)
#: The most seconds that one node may take to answer.
ANSWER = 1.0


class WatchedPool(Protocol):
    """The pool of one node."""

    core: Any


class NodeWatch:
    """Ends the grace of a node's pool when the cluster has another node for its work.

    :param client: a weak reference to the cluster client.
    :param host: of the node; so is *port*.
    """

    def __init__(self, client: weakref.ref[Any], host: str, port: int) -> None:
        self._client = client
        self._name = get_node_name(host, port)
        #: the greenlet that asks the cluster
        self.greenlet: gevent.Greenlet[..., Any] | None = None

    def failed(self, pool: WatchedPool) -> None:
        """Note that *pool* could not connect to the node. Never switches."""
        if self.greenlet is None or self.greenlet.dead:
            self.greenlet = pool.core.extension.spawn(self._run, pool.core.extension)

    def _run(self, extension: Any) -> None:
        """Ask while greenlets wait for the node. May switch."""
        attempt = 0
        while extension.is_in_grace and extension.waiting:
            if self._has_moved():
                extension.end_grace()
                return
            gevent.sleep(PAUSES.delay(attempt))
            attempt += 1

    def _has_moved(self) -> bool:
        """Whether the node has another role than the client knows. May switch."""
        client = self._client()
        if client is None:
            return False
        known = client.get_node(node_name=self._name)
        for node in client.get_nodes():
            roles = {} if node.name == self._name else self._roles(client, node)
            if roles:
                return known is None or roles.get(self._name) != known.server_type
        return False

    def _roles(self, client: Any, node: Any) -> dict[str, str]:
        """Return the roles of nodes by name, as *node* knows them; empty: no answer."""
        connection = node.redis_connection
        # One that cannot be reached either would take long.
        if connection is None or connection.connection_pool.core.extension.is_in_grace:
            return {}
        roles: dict[str, str] = {}
        try:
            with gevent.Timeout(ANSWER):
                slots = connection.execute_command("CLUSTER SLOTS")
        except (RedisError, PoolError, gevent.Timeout):
            return {}
        for _, _, *nodes in slots:
            for place, (host, port, *_) in enumerate(nodes):
                host = host.decode() if isinstance(host, bytes) else host
                # A node that does not know its own address tells none.
                there = client.nodes_manager.remap_host_port(host or node.host, port)
                roles[get_node_name(*there)] = "replica" if place else "primary"
        return roles
