"""What shares, and what it takes a connection of its own for."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import gevent
import pytest
import redis

from geventpool.redis import ConnectionPool, sharing
from geventpool.testing import wait_until
from tests import parts
from tests.redis.conftest import MakePool
from tests.redis.scripted import echo, scripted_redis
from tests.redis.talking import own_loans
from tests.redis.tools import chain, outcome
from tests.servers import RedisServer


def test_wait_takes_another_connection_if_the_shared_one_is_closed(
    make_pool: MakePool,
) -> None:
    """Closed after it was handed over, and before this greenlet runs."""
    pool = make_pool(max_connections=2, auto_pipeline=True)
    client = redis.Redis(connection_pool=pool)
    client.set("key", "1")
    [shared] = pool.core.lent_connections()
    source = parts.sharing(pool)
    assert source is not None
    [multiplexer] = source.multiplexers
    waiter = gevent.spawn(client.wait, 0, 1)
    give = multiplexer.take

    def take_and_lose() -> Any:
        conn = give()
        pool.core.drop(conn, anyone=True)
        return conn

    multiplexer.take = take_and_lose
    assert waiter.get(timeout=5) == 0
    assert shared not in pool.core.lent_connections()


@pytest.mark.parametrize("quiet", [[False, True], [False, False]])
def test_another_connection_is_shared_if_the_first_turns_out_to_be_closed(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch, quiet: list[bool]
) -> None:
    """As after QUIT. redis-py's pools connect again, and do not retry what they raise.

    A new connection that sends something is no connection to Redis.
    """
    answers = list(quiet)
    monkeypatch.setattr(sharing, "is_quiet", lambda conn: answers.pop(0))
    client = redis.Redis(connection_pool=make_pool(auto_pipeline=True))
    reply = outcome(client.echo, "text")
    assert not answers
    if quiet[-1]:
        assert reply == b"text"
    else:
        assert isinstance(reply, redis.ConnectionError)


def test_a_cache_keeps_connections_for_itself(make_pool: MakePool) -> None:
    """redis-py's cache tells of changed keys by the connection that read them."""
    pool = make_pool(auto_pipeline=True)
    pool.cache = object()  # type: ignore[assignment]
    assert parts.sharing(pool) is not None
    assert not parts.sharing(pool)._start()


@pytest.mark.parametrize("transaction", [False, True])
def test_a_pipeline_with_such_a_reply_does_as_with_a_connection_of_its_own(
    make_pool: MakePool, redis_server: RedisServer, transaction: bool
) -> None:
    """Also as the first of all commands."""
    pool = make_pool(decode_responses=True, auto_pipeline=True)
    own = redis.Redis(port=redis_server.port, decode_responses=True)
    own.mset({"text": "text", "raw": "raw" if transaction else b"\xff"})
    got = []
    for client in own, redis.Redis(connection_pool=pool):
        pipe = chain(client.pipeline(transaction)).get("text")
        got.append(pipe.execute_command("GET", "raw", NEVER_DECODE=True).execute())
    own.close()
    assert got[0] == got[1] == ["text", "raw" if transaction else b"\xff"]
    assert chain(client.pipeline(transaction)).get("text").execute() == ["text"]
    assert own_loans(client) == 0
    assert parts.sharing(pool).multiplexers[0].shared is not None


def test_a_url_can_ask_for_it() -> None:
    """As for the other options of the pool."""
    url = "redis://localhost?auto_pipeline={}&max_in_flight=7"
    for text, number in (("true", 1), ("on", 1), ("3", 3), ("false", 0), ("0", 0)):
        pool = ConnectionPool.from_url(url.format(text))
        sharing = parts.sharing(pool)
        assert (0 if sharing is None else sharing._policy.connections) == number
    with pytest.raises(ValueError, match="auto_pipeline must be true, false or a"):
        ConnectionPool.from_url(url.format("maybe"))


def test_a_greenlet_keeps_to_one_of_several_connections(make_pool: MakePool) -> None:
    """So its commands are executed in the order in which it sent them."""
    pool = make_pool(auto_pipeline=3, max_connections=5)
    client = redis.Redis(connection_pool=pool)
    used: list[set[int]] = []

    def work() -> None:
        sharing = parts.sharing(pool)
        mine = set()
        for _ in range(5):
            client.ping()
            mine.add(id(sharing._multiplexer_of(gevent.getcurrent())))
        used.append(mine)

    jobs = [gevent.spawn(work) for _ in range(60)]
    gevent.joinall(jobs, raise_error=True)
    assert all(len(each) == 1 for each in used)
    assert len(set.union(*used)) == 3
    assert pool.stats().size == 3


def test_a_pool_that_is_forgotten_leaves_nothing_open() -> None:
    """Its connection is closed as soon as it is quiet."""
    with scripted_redis(echo) as server:
        # With notices of maintenance each connection knows its pool.
        pool = ConnectionPool(port=server.port, protocol=2, auto_pipeline=True)
        client = redis.Redis(connection_pool=pool)
        assert client.get("a") == b"a"
        sharing, core = parts.sharing(pool), pool.core
        conn = core.acquire()
        core.release(conn)
        forgotten = weakref.ref(pool)
        del client, pool
        # A pool that was just used is named in callbacks of the loop.
        wait_until(lambda: gc.collect() >= 0 and forgotten() is None)
        assert sharing is not None
        with pytest.raises(ReferenceError):
            sharing.own_connection(sharing.multiplexers[0], ())
        assert not sharing._start()
        error = ValueError("any")
        assert sharing.explained(error) is error
        assert sharing.multiplexers
        assert sharing.error_of(error, sharing.multiplexers[0]) is error
        conn = sharing.acquire(5)
        assert sharing.is_current(conn)
        sharing.drop(conn, None)
        sharing.renew()
        wait_until(lambda: core.size == 0)
        core.close(0)
