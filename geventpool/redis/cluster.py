"""A cluster client whose every node has a pool of ours.

Knows how redis-py's cluster client chooses the pools of its nodes: it uses the given
class only if it was constructed from a URL, and says nothing otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

from redis.cluster import RedisCluster as StockCluster

from geventpool.redis.pool import POOL_OPTIONS, ConnectionPool

__all__ = ["RedisCluster"]


class RedisCluster(StockCluster):
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
            url = _url_of(host, port, ssl=bool(kwargs.pop("ssl", False)))
        if url is not None and not url.startswith("rediss:"):
            kwargs = {k: v for k, v in kwargs.items() if not k.startswith("ssl")}
        super().__init__(
            port=port,
            startup_nodes=nodes,
            url=url,
            connection_pool_class=partial(connection_pool_class, **options),
            **kwargs,
        )


def _url_of(host: str, port: int, ssl: bool) -> str:
    scheme = "rediss" if ssl else "redis"
    host = f"[{host}]" if ":" in host else quote(host, safe="")
    return f"{scheme}://{host}:{port}"
