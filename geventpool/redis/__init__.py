"""Pools for redis-py: for one server, for Sentinel, for a cluster.

::

    from gevent import monkey; monkey.patch_all()

    import redis
    import geventpool.redis

    pool = geventpool.redis.ConnectionPool(host="127.0.0.1", max_connections=10)
    client = redis.Redis(connection_pool=pool)

Needs redis-py 6.4 or later.
"""

from geventpool.patching import NotPatchedError, NotPatchedWarning
from geventpool.redis.autopipeline import AutoPipeline
from geventpool.redis.cluster import RedisCluster
from geventpool.redis.connector import RedisConnector
from geventpool.redis.errors import (
    RedisPoolClosedError,
    RedisPoolDeadlockError,
    RedisPoolExhaustedError,
    RedisPoolOverloadedError,
    RedisTooManyWaitingError,
    TakenBackError,
)
from geventpool.redis.internals import check_members
from geventpool.redis.pool import ConnectionPool
from geventpool.redis.sentinel import (
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

__all__ = [
    "AutoPipeline",
    "RedisPoolClosedError",
    "ConnectionPool",
    "RedisPoolDeadlockError",
    "RedisPoolExhaustedError",
    "RedisPoolOverloadedError",
    "NotPatchedError",
    "NotPatchedWarning",
    "RedisCluster",
    "RedisConnector",
    "SentinelConnectionPool",
    "SentinelManagedConnection",
    "SentinelManagedSSLConnection",
    "TakenBackError",
    "RedisTooManyWaitingError",
]

check_members()
