"""Kill, Timeout and errors at every switch point: no place lost, no reply astray."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import gevent
import pytest
import redis
from redis._parsers import _HiredisParser, _RESP3Parser
from redis.backoff import NoBackoff
from redis.retry import Retry

from geventpool.redis import ConnectionPool
from geventpool.testing import exhaust_stack_everywhere, wait_until
from tests.pauses import give_up_after, hang
from tests.redis.conftest import MakePool
from tests.redis.tools import (
    assert_all_places,
    chain,
    interrupted_everywhere,
    pool_of,
    present,
)

NO_RETRY = Retry(NoBackoff(), 0)


class Stop(Exception):
    """Thrown into the greenlet that is interrupted."""


def kill(victim: gevent.Greenlet) -> None:
    victim.kill(block=False)


def time_out(victim: gevent.Greenlet) -> None:
    victim.kill(gevent.Timeout(0.001), block=False)


def fail(victim: gevent.Greenlet) -> None:
    victim.kill(Stop(), block=False)


def command(client: redis.Redis) -> None:
    client.get("mine")


def pipeline(client: redis.Redis) -> None:
    with client.pipeline(transaction=False) as pipe:
        chain(pipe).get("mine").get("mine").execute()


def watch(client: redis.Redis) -> None:
    with client.pipeline() as pipe:
        pipe.watch("mine")
        value = pipe.get("mine")
        pipe.multi()
        pipe.set("mine", present(value))
        pipe.execute()


def block(client: redis.Redis) -> None:
    client.blpop("nothing", 0.05)


def subscribe(client: redis.Redis) -> None:
    with client.pubsub() as subscription:
        subscription.subscribe("channel")
        subscription.get_message(timeout=1)


def raw(client: redis.Redis) -> None:
    conn = client.connection_pool.get_connection()
    try:
        conn.send_command("GET", "mine")
        gevent.sleep(0)
        conn.read_response()
    finally:
        client.connection_pool.release(conn)


@pytest.mark.parametrize("parser", [_HiredisParser, _RESP3Parser])
@pytest.mark.parametrize("interrupt", [kill, time_out, fail])
@pytest.mark.parametrize(
    "scenario",
    [command, pipeline, watch, block, subscribe, raw],
    ids=lambda f: f.__name__,
)
def test_an_interruption_costs_no_place_and_no_reply(
    make_pool: MakePool,
    scenario: Callable[[redis.Redis], None],
    interrupt: Callable[[gevent.Greenlet], None],
    parser: Any,
) -> None:
    """Wherever it hits: the next one gets its own reply, and all places are there."""
    pool = make_pool(max_connections=1, protocol=3, parser_class=parser, retry=NO_RETRY)
    client = redis.Redis(connection_pool=pool)
    client.mset({"mine": "M", "yours": "Y"})

    def run() -> None:
        try:
            scenario(client)
        except (gevent.Timeout, Stop):
            pass

    for number in interrupted_everywhere(run, interrupt):
        assert client.get("yours") == b"Y"
        assert client.get("mine") == b"M"
        assert_all_places(pool)
        if number % 2:
            # So that dialling is interrupted too.
            pool.disconnect()


def test_a_kill_while_waiting_passes_the_connection_on(make_pool: MakePool) -> None:
    """Handed over and killed in the same turn of the loop, in either order."""
    pool = make_pool(max_connections=1)
    client = redis.Redis(connection_pool=pool)
    for kill_first in (True, False):
        conn = pool.get_connection()
        victim, next_one = gevent.spawn(client.ping), gevent.spawn(client.ping)
        wait_until(lambda: pool.stats().waiting == 2)
        if kill_first:
            victim.kill(block=False)
            pool.release(conn)
        else:
            pool.release(conn)
            victim.kill(block=False)
        assert next_one.get(timeout=5)
        assert_all_places(pool)


def test_a_kill_while_the_cache_is_read_gives_the_connection_back(
    make_pool: MakePool,
) -> None:
    """Taken, but its taker waits for the lock that others read the cache under."""
    pool = make_pool(max_connections=1)
    pool.cache = object()  # type: ignore[assignment]
    pool.make_connection = lambda: redis.Connection(port=pool.connection_kwargs["port"])  # type: ignore[method-assign]
    with pool._lock:
        victim = gevent.spawn(pool.get_connection)
        wait_until(lambda: pool.stats().in_use)
        victim.kill()
    pool.cache = None
    assert_all_places(pool)


def test_a_storm_of_kills(client: redis.Redis) -> None:
    """Everything at once, for many greenlets, with killers about."""
    pool = pool_of(client)
    client.mset({f"key{number}": number for number in range(30)})
    chance = random.Random(7)
    astray: list[Any] = []

    def work(number: int) -> None:
        while True:
            try:
                with give_up_after(chance.random() * 0.02):
                    got = client.get(f"key{number}")
                    if got != b"%d" % number:
                        astray.append((number, got))
                    with client.pipeline(transaction=False) as pipe:
                        got = chain(pipe).get(f"key{number}").get("key0").execute()
                    if got != [b"%d" % number, b"0"]:
                        astray.append((number, got))
            except redis.ConnectionError:
                pass
            # Replies that are there already are read without a switch.
            gevent.sleep(0)

    workers = [gevent.spawn(work, number) for number in range(30)]
    for _ in range(300):
        index = chance.randrange(len(workers))
        workers[index].kill(block=bool(chance.getrandbits(1)))
        workers[index] = gevent.spawn(work, index)
        gevent.sleep(chance.random() * 0.002)
        assert pool.core.size <= 3
    gevent.killall(workers)
    assert not astray
    assert_all_places(pool)


def test_a_finaliser_in_the_hub_gives_back(make_pool: MakePool) -> None:
    """The last reference to a pipeline dies with a killed greenlet, in the hub."""
    pool = make_pool(max_connections=1)
    client = redis.Redis(connection_pool=pool)

    def hold() -> None:
        pipe = client.pipeline()
        pipe.watch("key")
        hang()

    for _ in range(3):
        holder = gevent.spawn(hold)
        wait_until(lambda: pool.stats().in_use == 1)
        holder.kill()
        del holder
        wait_until(lambda: pool.stats().in_use == 0)
    assert isinstance(pool, ConnectionPool)
    assert_all_places(pool)


def bare_loan(client: redis.Redis) -> None:
    pool = pool_of(client)
    pool.release(pool.get_connection())


# redis-py forgets its socket before it closes it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "work", [command, pipeline, watch, bare_loan], ids=lambda work: work.__name__
)
def test_a_full_stack_costs_a_greenlet_that_goes_on_no_place(
    redis_server: Any,
    work: Callable[[redis.Redis], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """redis-py does not repeat a release that has failed."""
    # The hook of pytest needs more of the stack than there is.
    monkeypatch.setattr(sys, "unraisablehook", id)

    def scenario() -> Any:
        pool = ConnectionPool(
            host=redis_server.host,
            port=redis_server.port,
            max_connections=3,
            timeout=5,
        )
        client = redis.Redis(connection_pool=pool)
        client.set("mine", 1)
        return (lambda: work(client)), [pool.core]

    errors = (RecursionError, redis.RedisError)
    assert exhaust_stack_everywhere(scenario, expected=errors, lives_on=True) >= 20
