"""What the pool uses where gevent has not patched the process: redis-py's own pool.

Knows redis-py's ``BlockingConnectionPool``; knows nothing of gevent.
"""

from __future__ import annotations

import weakref
from queue import Empty
from typing import Any

import redis.connection

from geventpool.redis.errors import RedisPoolExhaustedError

__all__ = ["ThreadedPool"]

RedisPyPool: Any = redis.connection.BlockingConnectionPool


class ThreadedPool(RedisPyPool):  # type: ignore[misc]
    """redis-py's blocking pool with the options of *pool*; usable from any thread.

    :param pool: whose connection class, options and cache are used.
    :param timeout: seconds to wait for a connection; None: without end.
    """

    def __init__(self, pool: Any, timeout: float | None) -> None:
        self._pool = weakref.ref(pool)
        super().__init__(
            max_connections=pool.max_connections,
            timeout=timeout,
            connection_class=pool.connection_class,
            **pool.connection_kwargs,
        )
        # What the program reads from the pool is what the commands use.
        self.cache = pool.cache

    def get_connection(self, *args: Any, **kwargs: Any) -> Any:
        """A connection. Blocks the thread.

        :raises RedisPoolExhaustedError: no connection in time.
        """
        try:
            return super().get_connection()
        except redis.ConnectionError as error:
            if isinstance(error.__cause__ or error.__context__, Empty):
                raise RedisPoolExhaustedError(str(error)) from None
            raise

    def owns_connection(self, connection: Any) -> Any:
        """Is *connection* one to keep, as the pool that this one stands in for says?"""
        pool = self._pool()
        return pool is not None and pool.owns_connection(connection)

    def made(self, connection: Any) -> bool:
        """Did this pool make *connection*?"""
        return any(each is connection for each in list(self._connections))

    # redis-py's own has no such attributes, although what it inherits reads them.

    @property
    def _available_connections(self) -> list[Any]:
        return [conn for conn in list(self.pool.queue) if conn is not None]

    @property
    def _in_use_connections(self) -> list[Any]:
        idle = {id(conn) for conn in self._available_connections}
        return [conn for conn in list(self._connections) if id(conn) not in idle]

    def reset(self) -> None:
        """Close the idle connections and begin with none."""
        # redis-py's constructor calls this before there is anything to close.
        if "pool" in self.__dict__:
            self.disconnect(inuse_connections=False)
        super().reset()
