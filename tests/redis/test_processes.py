"""Forks, and programs that are not patched, or too late."""

from __future__ import annotations

import select
import subprocess
import sys
import textwrap
from pathlib import Path

import gevent
import redis

from geventpool.redis import ConnectionPool
from geventpool.testing import wait_until
from tests import parts
from tests.forks import in_child
from tests.redis.tools import assert_all_places
from tests.servers import RedisServer

REPOSITORY = Path(__file__).resolve().parents[2]


def test_a_copy_that_polls_a_connection_does_not_end_the_child(
    own_server: RedisServer,
) -> None:
    """Its watcher is not the socket's, and libev aborts at one of a closed descriptor.

    Libraries wait so for a subscription, such as RQ in the parent of its workers.
    """
    pool = ConnectionPool(port=own_server.port, max_connections=2, timeout=5)
    client = redis.Redis(connection_pool=pool)
    subscription = client.pubsub(ignore_subscribe_messages=True)
    subscription.subscribe("jobs")
    subscription.get_message(timeout=1)
    poll = select.poll()
    poll.register(parts.socket_of(subscription.connection), select.POLLIN)
    waiter = gevent.spawn(poll.poll)
    gevent.idle()

    def use() -> object:
        assert client.ping()
        gevent.idle()
        return waiter.ready()

    assert in_child(use) == "False"
    client.publish("jobs", "mine")
    assert waiter.get(timeout=5)
    assert subscription.get_message(timeout=5)["data"] == b"mine"


def test_a_copy_that_waits_for_a_reply_is_not_woken_in_the_child(
    own_server: RedisServer,
) -> None:
    """It would go on with the parent's work there."""
    pool = ConnectionPool(port=own_server.port, max_connections=2, timeout=5)
    client = redis.Redis(connection_pool=pool)
    waiter = gevent.spawn(client.blpop, "jobs", 20)
    wait_until(lambda: any(each["cmd"] == "blpop" for each in own_server.clients()))

    def use() -> object:
        assert client.ping()
        gevent.idle()
        return waiter.ready()

    assert in_child(use) == "False"
    client.rpush("jobs", "mine")
    assert waiter.get(timeout=5) == (b"jobs", b"mine")


def test_parent_and_children_use_the_pool(own_server: RedisServer) -> None:
    """Like gunicorn with ``preload_app``: before the fork, in the children, after."""
    pool = ConnectionPool(port=own_server.port, max_connections=3, timeout=5)
    client = redis.Redis(connection_pool=pool)
    client.set("who", "parent")
    assert_all_places(pool)
    parents = {each["id"] for each in own_server.clients()}
    lent = pool.get_connection()

    def use() -> object:
        assert pool.core.size == 0
        pool.release(lent)
        assert pool.core.size == 0
        jobs = [gevent.spawn(client.incr, "children") for _ in range(10)]
        gevent.joinall(jobs, raise_error=True)
        assert pool.core.size <= 3
        mine = {each["id"] for each in own_server.clients()} - parents
        assert 1 <= len(mine) <= 3
        return client.get("who")

    for _ in range(3):
        assert in_child(use) == "b'parent'"
    assert client.get("children") == b"30"
    pool.release(lent)
    assert_all_places(pool)
    wait_until(lambda: {each["id"] for each in own_server.clients()} == parents)
    pool.shutdown(5)


def test_a_child_s_end_closes_nothing_of_its_parent(own_server: RedisServer) -> None:
    """Not by disconnecting either."""
    pool = ConnectionPool(port=own_server.port, max_connections=2, timeout=5)
    client = redis.Redis(connection_pool=pool)
    before = client.client_id()
    in_child(pool.disconnect)
    in_child(lambda: pool.shutdown(5))
    assert client.client_id() == before
    pool.shutdown(5)


def test_a_lock_held_at_the_fork_does_not_hang_the_child(
    own_server: RedisServer,
) -> None:
    """redis-py's own pool would wait for somebody who is not there."""
    pool = ConnectionPool(port=own_server.port, timeout=5)
    client = redis.Redis(connection_pool=pool)
    assert client.ping()
    holding, over = gevent.event.Event(), gevent.event.Event()

    def hold() -> None:
        with pool._lock:
            holding.set()
            over.wait()

    holder = gevent.spawn(hold)
    holding.wait()

    def use() -> object:
        with pool._lock:
            return client.ping()

    assert in_child(use) == "True"
    over.set()
    holder.get()
    pool.shutdown(5)


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A program in a Python of its own, which is not patched to begin with."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )


PRELOAD = """
    from gevent import monkey; monkey.patch_all()
    import os, sys, gevent, redis, geventpool.redis

    # The application, as imported by the process that will fork the workers.
    pool = geventpool.redis.ConnectionPool(port=int(sys.argv[1]), max_connections=2)
    client = redis.Redis(connection_pool=pool)
    client.set("preloaded", 1)

    def serve():
        jobs = [gevent.spawn(client.incr, "preloaded") for _ in range(20)]
        gevent.joinall(jobs, raise_error=True)

    workers = []
    for _ in range(3):
        worker = os.fork()
        if not worker:
            serve()
            os._exit(0)
        workers.append(worker)
    for worker in workers:
        assert os.waitpid(worker, 0)[1] == 0
    print(client.get("preloaded"))
"""


def test_a_program_that_loads_first_and_forks_later(
    own_server: RedisServer,
) -> None:
    """The shape of a server that loads the application before it forks its workers."""
    result = run(PRELOAD, str(own_server.port))
    assert result.stdout == "b'61'\n", result.stderr
    assert not result.stderr
