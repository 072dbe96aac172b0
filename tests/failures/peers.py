"""The pools in use today, each set up as its documentation says.

They are imported when they are made.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any

from tests.failures.contestants import (
    ANSWER,
    OURS,
    PATIENCE,
    Contestant,
    RedisClient,
    Sockets,
    select,
    timed,
)
from tests.failures.engines import Engine, OurEngine
from tests.failures.sites import LIMIT, Site


class RedisBlocking(RedisClient):
    """redis-py's pool that waits; patched early, so its queue is gevent's."""

    title = "redis-py, Blocking"
    name = "redis-blocking"
    pool_class = ("redis", "BlockingConnectionPool")
    pool_options = {"timeout": PATIENCE}


class RedisPlain(RedisClient):
    """redis-py's pool that refuses at once when it is exhausted."""

    title = "redis-py"
    name = "redis-plain"
    pool_class = ("redis", "ConnectionPool")
    waits = False


class QueuePool(Engine):
    """SQLAlchemy's own pool, which asks the server before it lends."""

    title = "QueuePool"
    name = "queuepool"
    pool_options = {"pool_pre_ping": True, "pool_use_lifo": True}


class PooledDB(Contestant):
    """DBUtils' pool, which pings what it lends."""

    title = "PooledDB"
    name = "pooleddb"
    site = "mysql"

    def __init__(self, site: Site[Any]) -> None:
        self.pool = import_module("dbutils.pooled_db").PooledDB(
            import_module("pymysql"),
            maxcached=LIMIT,
            maxconnections=LIMIT,
            blocking=True,
            ping=1,
            autocommit=True,
            **timed(site.options),
        )

    def take(self) -> Any:
        # A connection of its own, not shared with other threads.
        return self.pool.dedicated_connection()

    def talk(self, conn: Any, tag: str) -> str:
        return select(conn, tag)

    def give_back(self, conn: Any) -> None:
        conn.close()

    def break_off(self, conn: Any) -> None:
        # There is nothing else that one could do.
        conn.close()

    def close(self) -> None:
        self.pool.close()


class PyMySQLPool(Contestant):
    """pymysql-pool, told to ping what it lends, and to try for as long as it can be."""

    title = "pymysql-pool"
    name = "pymysql-pool"
    site = "mysql"

    def __init__(self, site: Site[Any]) -> None:
        module = import_module("pymysqlpool")
        module.logger.setLevel(logging.CRITICAL)
        self.pool = module.ConnectionPool(
            size=LIMIT, maxsize=LIMIT, autocommit=True, **timed(site.options)
        )
        self._refusal = module.GetConnectionFromPoolError

    def take(self) -> Any:
        retries = 10
        return self.pool.get_connection(
            retry_num=retries, retry_interval=PATIENCE / retries, pre_ping=True
        )

    def talk(self, conn: Any, tag: str) -> str:
        return select(conn, tag)

    def give_back(self, conn: Any) -> None:
        conn.close()

    def ask(self, tag: str) -> str:
        # Its block knows which errors a connection survives.
        with self.take() as conn:
            return self.talk(conn, tag)

    def break_off(self, conn: Any) -> None:
        # What its block does with an error that it does not know.
        conn.__exit__(RuntimeError, None, None)

    def is_refusal(self, error: Exception) -> bool:
        return isinstance(error, self._refusal)

    def close(self) -> None:
        # It has no close; these are its idle connections.
        while self.pool._pool:
            conn = self.pool._pool.pop()
            conn._pool, conn._returned = None, False
            conn.close()


class Gsocketpool(Sockets):
    """gsocketpool with its own TcpConnection."""

    title = "gsocketpool"
    name = "gsocketpool"

    def __init__(self, site: Site[Any]) -> None:
        package = import_module("gsocketpool")
        self.pool = package.Pool(
            package.TcpConnection,
            {"timeout": ANSWER, **site.options},
            max_connections=LIMIT,
        )
        self._refusal = import_module("gsocketpool.exceptions").PoolExhaustedError

    def take(self) -> Any:
        # Every tenth of a second it looks for a free one.
        return self.pool.acquire(retry=int(PATIENCE * 10))

    def break_off(self, conn: Any) -> None:
        # It drops only what has been given back.
        self.pool.release(conn)
        self.pool.drop(conn)

    def is_refusal(self, error: Exception) -> bool:
        return isinstance(error, self._refusal)

    def close(self) -> None:
        # It has no close; its finaliser does that.
        self.pool._reaper.kill()
        for conn in [*self.pool._pool, *self.pool._using]:
            conn.close()


#: Every contestant, in the order of the table.
CONTESTANTS: dict[str, Any] = {
    **OURS,
    **{
        each.name: each
        for each in (
            OurEngine,
            RedisBlocking,
            RedisPlain,
            Gsocketpool,
            QueuePool,
            PooledDB,
            PyMySQLPool,
        )
    },
}
