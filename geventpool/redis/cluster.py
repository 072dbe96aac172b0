"""A cluster client whose every node has a pool of ours.

Knows how redis-py's cluster client chooses the pools of its nodes: it uses the given
class only if it was constructed from a URL, and says nothing otherwise.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any
from urllib.parse import quote

from gevent.lock import BoundedSemaphore
from redis.cluster import RedisCluster as RedisPyCluster

from geventpool.patching import is_patched
from geventpool.redis.internals import take_turns
from geventpool.redis.options import POOL_OPTIONS
from geventpool.redis.pool import ConnectionPool

__all__ = ["RedisCluster"]


class RedisCluster(RedisPyCluster):
    """redis-py's ``RedisCluster`` with a :class:`ConnectionPool` for every node.

    ::

        cluster = RedisCluster(host="10.0.0.1", max_connections=20, timeout=5)

    By whatever way it is constructed: *host* and *port*, *startup_nodes*, *url* or
    :meth:`from_url`. Options of the pool go to the pool of each node, so
    *max_connections* is the limit per node.

    redis-py's own takes *connection_pool_class* too, but heeds it only together with
    *url*, and then drops every option that it does not know.

    :param str host: one node of the cluster.
    :param int port: of that node.
    :param startup_nodes: several nodes to begin with.
    :param str url: one node, as ``redis://`` or ``rediss://``.
    :param connection_pool_class: a class derived from :class:`ConnectionPool`.
    :param bool ssl: connect over TLS; *url* says it by itself.
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
            connection_pool_class=partial(connection_pool_class, **options),
            **kwargs,
        )

    def pipeline(self, *args: Any, **kwargs: Any) -> Any:
        """A pipeline; no more are sent at a time than a node has connections.

        For a pipeline takes a connection of each node that it has commands for, one
        after the other. Without this limit several, each with one connection and
        waiting for the next, could wait for each other. (They still could if a third
        of the connections to a node were kept by subscriptions.)
        """
        make: Any = super().pipeline
        pipe = make(*args, **kwargs)
        take_turns(pipe, self._turns())
        return pipe

    def close(self) -> None:
        """Close all connections; the client can be used again.

        redis-py leaves those of a client that was constructed from a URL open.
        """
        super().close()
        # Not there if the constructor failed.
        if "nodes_manager" in self.__dict__:
            for pool in self._pools():
                pool.close()

    def _turns(self) -> AbstractContextManager[Any]:
        # Held by somebody at the moment of a fork, they would be lost to the child.
        if self.__dict__.get("_turns_of") != os.getpid():
            self._turns_of = os.getpid()
            places = min(pool.max_connections for pool in self._pools())
            kind: Any = (
                BoundedSemaphore if is_patched("socket") else threading.BoundedSemaphore
            )
            self._turn: AbstractContextManager[Any] = kind(places)
        return self._turn

    def _pools(self) -> list[Any]:
        """Those of the nodes of the cluster, and of the nodes to begin with."""
        manager = self.nodes_manager
        nodes: list[Any] = [
            *manager.nodes_cache.values(),
            *manager.startup_nodes.values(),
        ]
        clients = [node.redis_connection for node in nodes]
        return [each.connection_pool for each in clients if each is not None]


def url_of(host: str, port: int, tls: bool) -> str:
    """The address as a URL."""
    scheme = "rediss" if tls else "redis"
    host = f"[{host}]" if ":" in host else quote(host, safe="")
    return f"{scheme}://{host}:{port}"
