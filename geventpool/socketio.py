"""python-socketio's Redis manager on a pool that all greenlets share.

::

    import geventpool.socketio

    manager = geventpool.socketio.RedisManager("redis://127.0.0.1:6379/0")
    server = socketio.Server(async_mode="gevent", client_manager=manager)

python-socketio makes a pool of redis-py, without a limit that waits, for each of its
connections to Redis.

Needs python-socketio 5.18 or later and redis-py.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import redis
import socketio

from geventpool.policies import check_int
from geventpool.redis import ConnectionPool

__all__ = ["RedisManager"]

#: The schemes of URLs for one Redis server.
SCHEMES = ("redis", "rediss", "unix")


class RedisManager(socketio.RedisManager):  # type: ignore[misc]
    """python-socketio's ``RedisManager`` with a pool of this package.

    It takes the same arguments. *redis_options* may have redis-py's options and those
    of :class:`geventpool.redis.ConnectionPool`. One connection is for the subscription
    to events, unless *write_only* is set, so ``max_connections`` must be at least 2.

    Other servers than a single Redis (``redis+sentinel://``, ``valkey://``) are not
    changed.

    :raises TypeError: an option is unknown or of the wrong type.
    :raises ValueError: the URL or an option is invalid.
    """

    #: None: it is not a single Redis server
    pool: ConnectionPool | None = None

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._make_pool()
        if self.pool is not None:
            check_int("max_connections", self.pool.max_connections, 2 - self.write_only)

    def _make_pool(self) -> None:
        if self.pool is None and urlsplit(self.redis_url).scheme in SCHEMES:
            self.pool = ConnectionPool.from_url(self.redis_url, **self.redis_options)

    def _redis_connect(self) -> None:
        # Called again after each error. The pool stays, and so its limit. Old versions
        # of python-socketio call it in the constructor as well.
        self._make_pool()
        if self.pool is None:
            super()._redis_connect()
            return
        client: Any = redis.Redis(connection_pool=self.pool)
        self.redis = client
        self.pubsub = client.pubsub(ignore_subscribe_messages=True)
        self.connected = True
