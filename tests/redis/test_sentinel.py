"""Masters and replicas named by real sentinels."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
import redis
from redis.sentinel import Sentinel

from geventpool.redis import (
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from geventpool.redis.internals import is_connected
from geventpool.testing import wait_until
from tests import parts
from tests.pauses import give_up_after
from tests.redis.tools import assert_all_places, outcome, pool_of
from tests.servers import RedisSentinel, RedisServer

Replicated = tuple[list[RedisServer], list[RedisSentinel]]


def ask_sentinels(sentinels: list[RedisSentinel], **options: Any) -> Sentinel:
    addresses = [(each.host, each.port) for each in sentinels]
    return Sentinel(addresses, socket_timeout=1, **options)


def master_of(sentinel: Sentinel, **options: Any) -> redis.Redis:
    return sentinel.master_for(
        "mymaster",
        connection_pool_class=SentinelConnectionPool,
        **{"timeout": 5, "max_connections": 4, **options},
    )


def knows_all(sentinels: list[RedisSentinel], replica: RedisServer) -> bool:
    """Do all sentinels know each other, and the replica?"""
    for each in sentinels:
        # As words: what redis-py makes of it depends on its version.
        words = each.ask("SENTINEL", "MASTER", "mymaster")
        state = words if isinstance(words, dict) else dict(zip(words[::2], words[1::2]))
        if int(state["num-other-sentinels"]) != len(sentinels) - 1:
            return False
        if str(replica.port) not in str(each.ask("SENTINEL", "REPLICAS", "mymaster")):
            return False
    return True


def sentinel_pool_of(client: redis.Redis) -> SentinelConnectionPool:
    """Where a client gets its connections, as a pool that asks Sentinel."""
    pool = pool_of(client)
    assert isinstance(pool, SentinelConnectionPool)
    return pool


def test_masters_and_replicas_are_found(replicated: Replicated) -> None:
    """``master_for`` and ``slave_for``, with the pool in use to be seen."""
    (master, replica), sentinels = replicated
    wait_until(lambda: knows_all(sentinels, replica))
    sentinel = ask_sentinels(sentinels)
    writer = master_of(sentinel)
    reader = sentinel.slave_for(
        "mymaster", connection_pool_class=SentinelConnectionPool, timeout=5
    )
    writer.set("key", "value")
    wait_until(lambda: reader.get("key") == b"value")
    assert sentinel_pool_of(writer).master_address == (master.host, master.port)
    for client, port in ((writer, master.port), (reader, replica.port)):
        pool = sentinel_pool_of(client)
        assert isinstance(pool, redis.sentinel.SentinelConnectionPool)
        conn = pool.get_connection()
        assert isinstance(conn, SentinelManagedConnection)
        assert conn.port == port
        pool.release(conn)
        assert_all_places(pool_of(writer))
    assert "service=mymaster(master)" in repr(writer.connection_pool)
    assert "service=mymaster(slave)" in repr(reader.connection_pool)
    assert "replica of mymaster" in reader.connection_pool.core.name
    writer.close()
    reader.close()


def test_after_a_fail_over_commands_go_to_the_new_master(
    replicated: Replicated,
) -> None:
    """The master is killed; no place is lost, and the old connections are gone."""
    (master, replica), sentinels = replicated
    wait_until(lambda: knows_all(sentinels, replica))
    client = master_of(ask_sentinels(sentinels))
    pool = sentinel_pool_of(client)
    assert_all_places(pool)
    old = parts.idle_of(pool)
    master.kill()
    outcomes: list[Any] = []

    def written() -> bool:
        outcomes.append(outcome(client.set, "key", "value"))
        return outcomes[-1] is True

    wait_until(written, timeout=30)
    assert all(
        isinstance(each, (redis.ConnectionError, redis.TimeoutError))
        for each in outcomes[:-1]
    )
    assert pool.master_address == (replica.host, replica.port)
    assert not any(is_connected(each) for each in old)
    assert replica.ask("GET", "key") == "value"
    assert_all_places(pool)
    client.close()


def test_a_demoted_master_is_left_at_once(replicated: Replicated) -> None:
    """One command finds out, and all idle connections go with it."""
    (master, replica), sentinels = replicated
    wait_until(lambda: knows_all(sentinels, replica))
    client = master_of(ask_sentinels(sentinels))
    pool = sentinel_pool_of(client)
    assert_all_places(pool)
    # As by a fail-over of which the master's clients are not told.
    replica.ask("REPLICAOF", "NO", "ONE")
    master.ask("REPLICAOF", replica.host, replica.port)
    error = outcome(client.set, "key", "value")
    assert isinstance(error, redis.ConnectionError)
    assert "previous master is now a slave" in str(error)
    wait_until(lambda: pool.core.size == 0)
    client.close()


def test_a_connection_to_a_former_master_is_not_kept(replicated: Replicated) -> None:
    """Given back after somebody else has found the new one."""
    (master, replica), sentinels = replicated
    wait_until(lambda: knows_all(sentinels, replica))
    client = master_of(ask_sentinels(sentinels), max_connections=1)
    pool = sentinel_pool_of(client)
    conn = pool.get_connection()
    pool.proxy.master_address = (replica.host, replica.port)
    assert not pool.owns_connection(conn)
    pool.release(conn)
    assert pool.core.size == 0
    assert client.ping()
    client.close()


def test_idle_connections_go_when_a_new_master_is_found(
    replicated: Replicated,
) -> None:
    """By the first that asks: the others are closed within the same dial."""
    (master, replica), sentinels = replicated
    wait_until(lambda: knows_all(sentinels, replica))
    client = master_of(ask_sentinels(sentinels))
    pool = sentinel_pool_of(client)
    assert_all_places(pool)
    pool.proxy.master_address = ("elsewhere", 1)
    assert pool.get_master_address() == (master.host, master.port)
    wait_until(lambda: pool.core.size == 0)
    client.close()


def test_an_interrupted_read_hands_no_reply_to_the_wrong_greenlet(
    replicated: Replicated,
) -> None:
    """redis-py's own Sentinel connections do just that."""
    (master, _), sentinels = replicated
    client = master_of(ask_sentinels(sentinels), max_connections=1)
    client.mset({"a": "A", "b": "B"})
    with give_up_after(0.05):
        client.blpop("nothing", 10)
    assert client.get("a") == b"A"
    assert client.get("b") == b"B"
    victim = gevent.spawn(client.blpop, "nothing", 10)
    wait_until(lambda: master.ask("INFO", "clients")["blocked_clients"])
    victim.kill()
    assert client.get("a") == b"A"
    assert client.get("b") == b"B"
    assert_all_places(pool_of(client))
    client.close()


def test_an_interrupted_read_closes_the_connection(replicated: Replicated) -> None:
    """Whatever its borrower makes of the interruption."""
    _, sentinels = replicated
    client = master_of(ask_sentinels(sentinels))
    conn = client.connection_pool.get_connection()
    conn.send_command("BLPOP", "nothing", "10")
    with give_up_after(0.01):
        conn.read_response()
    assert not is_connected(conn)
    client.connection_pool.release(conn)
    client.close()


def test_no_master_is_redis_py_s_own_error(replicated: Replicated) -> None:
    """And costs no place."""
    _, sentinels = replicated
    client = ask_sentinels(sentinels).master_for(
        "nobody", connection_pool_class=SentinelConnectionPool
    )
    for _ in range(3):
        assert isinstance(outcome(client.ping), redis.sentinel.MasterNotFoundError)
    assert client.connection_pool.core.size == 0


def test_reset_asks_sentinel_again(replicated: Replicated) -> None:
    """Also for the address of the master."""
    (master, _), sentinels = replicated
    client = master_of(ask_sentinels(sentinels))
    assert client.ping()
    pool = sentinel_pool_of(client)
    pool.reset()
    assert pool.master_address is None
    assert client.ping()
    assert pool.master_address == (master.host, master.port)
    client.close()


def test_the_connection_class_is_ours_unless_given() -> None:
    """Plain, over TLS, or what the caller wants."""
    sentinel = Sentinel([("localhost", 1)])

    class Mine(SentinelManagedConnection):
        pass

    for options, kind in (
        ({}, SentinelManagedConnection),
        ({"ssl": True}, SentinelManagedSSLConnection),
        ({"connection_class": Mine}, Mine),
    ):
        pool = SentinelConnectionPool("mymaster", sentinel, **options)
        assert pool.connection_class is kind
        assert type(pool.make_connection()) is kind
        assert pool.connection_kwargs["retry"] is None


def test_a_connection_whose_pool_is_gone_has_nothing_to_close() -> None:
    """It refers to its pool weakly."""
    pool = SentinelConnectionPool("mymaster", Sentinel([("localhost", 1)]))
    conn: Any = pool.make_connection()
    conn.connection_pool.connection_pool_ref = lambda: None
    conn._leave_master()


def test_other_errors_close_no_idle_connections(replicated: Replicated) -> None:
    """Only a server that says it is no longer a master does."""
    _, sentinels = replicated
    client = master_of(ask_sentinels(sentinels), max_connections=2)
    pool = sentinel_pool_of(client)
    assert_all_places(pool)
    conn = pool.get_connection()
    idle = parts.idle_of(pool)
    conn._parser.on_disconnect()
    with pytest.raises(redis.ConnectionError, match="closed by server"):
        conn.read_response()
    pool.release(conn)
    assert parts.idle_of(pool) == idle
    client.close()


def test_initial_connections_find_their_master(replicated: Replicated) -> None:
    """The pool is filled although its connections need it to find the address."""
    _, sentinels = replicated
    client = master_of(ask_sentinels(sentinels), initial_connections=2)
    assert pool_of(client).stats().idle == 2
    client.close()


def test_bad_names_are_refused() -> None:
    """As by any other pool."""
    with pytest.raises(ValueError, match="timeout"):
        SentinelConnectionPool("mymaster", Sentinel([("localhost", 1)]), timeout=-1)
