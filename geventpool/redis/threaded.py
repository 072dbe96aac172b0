"""The pool for threads, in a process that gevent has not patched.

It is redis-py's ``BlockingConnectionPool``, and does not depend on gevent.
"""

from __future__ import annotations

import os
import weakref
from queue import Empty
from typing import Any

import redis.connection

from geventpool.redis.errors import RedisPoolExhaustedError
from geventpool.threaded import as_thread_waits

__all__ = ["ThreadedPool"]

RedisPyPool: Any = redis.connection.BlockingConnectionPool


class ThreadedPool(RedisPyPool):  # type: ignore[misc]
    """redis-py's blocking pool with the options of *pool*.

    :param pool: has the connection class, the options and the cache.
    :param timeout: the most seconds to wait for a connection; None: no limit.
    """

    def __init__(self, pool: Any, timeout: float | None) -> None:
        self._pool = weakref.ref(pool)
        super().__init__(
            max_connections=pool.max_connections,
            timeout=as_thread_waits(timeout),
            connection_class=pool.connection_class,
            **pool.connection_kwargs,
        )
        # The commands must use the cache that the program reads from the pool.
        self.cache = pool.cache

    def get_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Lend a connection. Blocks the thread.

        :raises RedisPoolExhaustedError: no connection became available in time.
        """
        try:
            return super().get_connection()
        except redis.ConnectionError as error:
            if isinstance(error.__cause__ or error.__context__, Empty):
                raise RedisPoolExhaustedError(str(error)) from None
            raise

    def owns_connection(self, connection: Any) -> Any:
        """Whether *connection* is to be kept, according to the original pool."""
        pool = self._pool()
        return pool is not None and pool.owns_connection(connection)

    def counts(self) -> tuple[int, int]:
        """The numbers of idle and of lent connections."""
        if self.pid != os.getpid():  # pragma: no cover (a child)
            # They are the parent's, and are dropped at the next loan.
            return 0, 0
        return len(self._available_connections), len(self._in_use_connections)

    def made(self, connection: Any) -> bool:
        """Whether this pool made *connection*."""
        return any(each is connection for each in list(self._connections))

    # redis-py's blocking pool lacks these attributes, although its base class reads
    # them.

    @property
    def _available_connections(self) -> list[Any]:
        return [conn for conn in list(self.pool.queue) if conn is not None]

    @property
    def _in_use_connections(self) -> list[Any]:
        idle = {id(conn) for conn in self._available_connections}
        return [conn for conn in list(self._connections) if id(conn) not in idle]

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the idle connections and, by default, those in use.

        redis-py's own closes all of them before version 7.0.
        """
        if inuse_connections:
            super().disconnect()
        else:
            for conn in self._available_connections:
                conn.disconnect()

    def reset(self) -> None:
        """Close the idle connections, and set the initial state."""
        # redis-py's constructor calls this before there is anything to close.
        if "pool" in self.__dict__:
            self.disconnect(inuse_connections=False)
        super().reset()
