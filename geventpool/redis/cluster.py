"""A cluster client with a pool of this package for each node.

redis-py's cluster client uses a given pool class only if it is constructed from a URL,
and ignores it otherwise.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any
from urllib.parse import quote

from gevent.lock import BoundedSemaphore
from redis.cluster import RedisCluster as RedisPyCluster

from geventpool.patching import is_patched
from geventpool.redis.internals import take_turns
from geventpool.redis.node_watch import NodeWatch
from geventpool.redis.options import POOL_OPTIONS
from geventpool.redis.pool import ConnectionPool

__all__ = ["RedisCluster"]


class RedisCluster(RedisPyCluster):
    """redis-py's ``RedisCluster`` with a :class:`ConnectionPool` for every node.

    ::

        cluster = RedisCluster(host="10.0.0.1", max_connections=20, timeout=5)

    It can be constructed in each way: by *host* and *port*, by *startup_nodes*, by
    *url* or by :meth:`from_url`. The options of the pool apply to the pool of each
    node, so *max_connections* is the limit per node.

    redis-py's own class uses *connection_pool_class* only together with *url*, and then
    drops every option that it does not know.

    :param str host: one node of the cluster.
    :param int port: of that node.
    :param startup_nodes: nodes to connect to first.
    :param str url: one node, as ``redis://`` or ``rediss://``.
    :param connection_pool_class: a class derived from :class:`ConnectionPool`.
    :param bool ssl: connect over TLS; ignored with *url*, whose scheme decides.
    """

    def __init__(
        self,
        host: str | None = None,
        port: int = 6379,
        startup_nodes: Sequence[Any] | None = None,
        url: str | None = None,
        connection_pool_class: type[ConnectionPool] = ConnectionPool,
        **kwargs: Any,
    ) -> None:
        options = {name: kwargs.pop(name) for name in POOL_OPTIONS & kwargs.keys()}
        nodes = list(startup_nodes or ())
        if url is None and (host is not None or nodes):
            if host is None:
                host, port = nodes[0].host, nodes[0].port
            url = url_of(host, port, tls=bool(kwargs.pop("ssl", False)))
        if url is not None and not url.startswith("rediss:"):
            kwargs = {k: v for k, v in kwargs.items() if not k.startswith("ssl")}
        super().__init__(
            port=port,
            startup_nodes=nodes,
            url=url,
            connection_pool_class=partial(
                _pool_of_node, weakref.ref(self), connection_pool_class, options
            ),
            **kwargs,
        )

    def pipeline(self, *args: Any, **kwargs: Any) -> Any:
        """Make a pipeline. No more are sent at a time than a node has connections.

        A pipeline takes a connection of each node that it has commands for, one after
        the other. Without this limit, pipelines that each hold one connection and wait
        for the next could deadlock. (They still could if subscriptions held a third of
        the connections to a node.)
        """
        make: Any = super().pipeline
        pipe = make(*args, **kwargs)
        take_turns(pipe, self._turns())
        return pipe

    def close(self) -> None:
        """Close all connections. The client can be used again.

        redis-py leaves the connections of a client that was constructed from a URL
        open.
        """
        super().close()
        # The attribute is missing if the constructor failed.
        if "nodes_manager" in self.__dict__:
            for pool in self._pools():
                pool.close()

    def _turns(self) -> AbstractContextManager[Any]:
        # A turn that is taken during a fork would stay taken in the child.
        if self.__dict__.get("_turns_of") != os.getpid():
            self._turns_of = os.getpid()
            places = min(pool.max_connections for pool in self._pools())
            kind: Any = (
                BoundedSemaphore if is_patched("socket") else threading.BoundedSemaphore
            )
            self._turn: AbstractContextManager[Any] = kind(places)
        return self._turn

    def _pools(self) -> list[Any]:
        """Return the pools of all nodes, the startup nodes included."""
        manager = self.nodes_manager
        nodes: list[Any] = [
            *manager.nodes_cache.values(),
            *manager.startup_nodes.values(),
        ]
        clients = [node.redis_connection for node in nodes]
        return [each.connection_pool for each in clients if each is not None]


def _pool_of_node(
    client: weakref.ref[RedisCluster],
    kind: type[ConnectionPool],
    options: dict[str, Any],
    **kwargs: Any,
) -> ConnectionPool:
    """Make the pool of one node."""
    pool = kind(**options, **kwargs)
    pool.node_watch = NodeWatch(client, kwargs["host"], kwargs["port"])
    return pool


def url_of(host: str, port: int, tls: bool) -> str:
    """Return the address as a URL."""
    scheme = "rediss" if tls else "redis"
    host = f"[{host}]" if ":" in host else quote(host, safe="")
    return f"{scheme}://{host}:{port}"
