"""The pools in use today, behind the interface of the comparison."""

from __future__ import annotations

import itertools
import logging
import operator
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import Any

from benchmarks.adapters import base
from benchmarks.adapters.base import PoolAdapter, echo, select
from benchmarks.fakes import Fake, FakeDbApi, MySQLFake, PostgresFake, SocketFake

Options = Mapping[str, Any]
NONE: Options = {}

#: With TLS, PyMySQL reads all trusted certificates at each connect.
PYMYSQL: Options = {"ssl_disabled": True}


def redis(
    name: str, kind: str, limit: int, fakes: bool = False, **options: Any
) -> PoolAdapter:
    """One of redis-py's pools. ``ConnectionPool`` refuses when it is exhausted.

    With fakes it speaks protocol 2, which has no maintenance notifications.

    :param kind: its class.
    """
    if fakes:
        options = {"connection_class": Fake, "protocol": 2}
    pool = getattr(import_module("redis"), kind)(max_connections=limit, **options)
    return base.redis_adapter(name, pool, pool.disconnect)


redis_blocking = partial(redis, base.BLOCKING, "BlockingConnectionPool")
redis_plain = partial(redis, base.PLAIN, "ConnectionPool")


def queue_pool(
    limit: int, fakes: bool = False, pool_options: Options = NONE, **options: Any
) -> PoolAdapter:
    """SQLAlchemy's QueuePool; with fakes it does not roll back.

    :param pool_options: of the pool; *options* are PyMySQL's.
    """
    package = import_module("sqlalchemy")
    # It logs a traceback whenever a greenlet is killed while it gives back.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    more = {"max_overflow": 0, **pool_options}
    if fakes:
        more = {"reset_on_return": None, "use_lifo": True, **more}
        connect: Any = Fake
    else:
        connect = partial(import_module("pymysql").connect, **{**PYMYSQL, **options})
    pool = package.pool.QueuePool(connect, pool_size=limit, **more)
    return PoolAdapter(
        base.QUEUE_POOL,
        pool.connect,
        operator.methodcaller("close"),
        pool.dispose,
        refusals=(package.exc.TimeoutError,),
        # As SQLAlchemy's own engine does with a connection that was interrupted.
        discard=operator.methodcaller("invalidate"),
        talk=select,
    )


def pooled_db(
    limit: int, fakes: bool = False, pool_options: Options = NONE, **options: Any
) -> PoolAdapter:
    """DBUtils' PooledDB with dedicated connections; with fakes no ping, no rollback.

    :param pool_options: of the pool; *options* are PyMySQL's.
    """
    more = dict(pool_options)
    if fakes:
        module: Any = FakeDbApi
        more = {"reset": False, "ping": 0, **more}
    else:
        module, options = import_module("pymysql"), {**PYMYSQL, **options}
    pool = import_module("dbutils.pooled_db").PooledDB(
        module, maxconnections=limit, blocking=True, **more, **options
    )
    close = operator.methodcaller("close")
    take = pool.dedicated_connection
    return PoolAdapter(base.POOLED_DB, take, close, pool.close, talk=select)


def pymysql_pool(limit: int, fakes: bool = False, **options: Any) -> PoolAdapter:
    """pymysql-pool, which polls as often and as long as it permits.

    Its lifetime is switched off: it counts whole seconds.
    """
    # A module of our own, so that another class can stand for PyMySQL's connection.
    found: Any = find_spec("pymysqlpool")
    module: Any = module_from_spec(found)
    found.loader.exec_module(module)
    module.logger.setLevel(logging.CRITICAL)
    if fakes:
        module.Connection = MySQLFake
    else:
        options = {**PYMYSQL, "autocommit": False, **options}
    pool = module.ConnectionPool(size=limit, maxsize=limit, con_lifetime=0, **options)

    def close() -> None:
        while not fakes and pool.available_num:
            conn = pool.get_connection(0)
            conn._pool = None
            conn.close()

    return PoolAdapter(
        base.MYSQL_POOL,
        partial(pool.get_connection, 10, base.POLL),
        # What the connection's own close() comes down to.
        pool._put_connection if fakes else operator.methodcaller("close"),
        close,
        refusals=(module.GetConnectionFromPoolError,),
        # What its own block does with an error that it does not know.
        discard=lambda conn: conn.__exit__(RuntimeError, None, None),
        talk=select,
    )


def gsocketpool(limit: int, fakes: bool = False, **address: Any) -> PoolAdapter:
    """gsocketpool, which looks for a free connection every tenth of a second."""
    package = import_module("gsocketpool")
    if fakes:
        # Its reaper has nothing to do for fakes, and would outlive the pool.
        pool = package.Pool(Fake, max_connections=limit, reap_expired_connections=False)
    else:
        pool = package.Pool(package.TcpConnection, address, max_connections=limit)

    def discard(conn: Any) -> None:
        # It drops only what has been given back.
        pool.release(conn)
        pool.drop(conn)

    def close() -> None:
        # It has none; its finaliser does this.
        if not fakes:
            pool._reaper.kill()
            for conn in [*pool._pool, *pool._using]:
                conn.close()

    refusal = import_module("gsocketpool.exceptions").PoolExhaustedError
    more: dict[str, Any] = {"refusals": (refusal,), "discard": discard, "talk": echo}
    return PoolAdapter(base.GSOCKETPOOL, pool.acquire, pool.release, close, **more)


def http_pool(limit: int, fakes: bool = True) -> PoolAdapter:
    """geventhttpclient's pool, which asks ``select`` about each socket it lends."""
    package = import_module("geventhttpclient.connectionpool")
    numbers = itertools.count()

    class Pool(package.ConnectionPool):  # type: ignore[misc]
        """With fakes for sockets."""

        def _create_socket(self) -> Any:
            return SocketFake(numbers)

    pool = Pool("localhost", 0, "localhost", 0, size=limit)
    return PoolAdapter(base.HTTP_POOL, pool.get_socket, pool.return_socket, pool.close)


def psycopg_pool(limit: int, fakes: bool = True) -> PoolAdapter:
    """psycopg_pool with a fixed size; its workers and locks are those of gevent."""
    package = import_module("psycopg_pool")
    pool = package.ConnectionPool(
        connection_class=PostgresFake, min_size=limit, max_size=limit, open=True
    )
    return PoolAdapter(
        base.PSYCOPG_POOL,
        pool.getconn,
        pool.putconn,
        pool.close,
        refusals=(package.PoolTimeout,),
    )
