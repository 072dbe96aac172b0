"""What the server does with a command whose connection is closed."""

from __future__ import annotations

import gevent
import redis

from geventpool.redis import ConnectionPool
from geventpool.testing import wait_until


def blocked(server):
    """How many clients wait in a blocking command."""
    return server.ask("INFO", "clients")["blocked_clients"]


def test_a_blocking_command_ends_when_its_connection_is_closed(redis_server):
    """So an interrupted one takes no element, and needs nothing to cancel it."""
    pool = ConnectionPool(host=redis_server.host, port=redis_server.port)
    client = redis.Redis(connection_pool=pool)
    waiter = gevent.spawn(client.blpop, "interrupted", 20)
    wait_until(lambda: blocked(redis_server) == 1, "blocked")
    waiter.kill()
    wait_until(lambda: blocked(redis_server) == 0, "ended")
    client.rpush("interrupted", "kept")
    assert client.lpop("interrupted") == b"kept"
    pool.close()
