"""Every feature of redis-py still works, with either protocol and either parser."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
import redis
from redis._parsers import _HiredisParser, _RESP2Parser, _RESP3Parser
from redis.credentials import UsernamePasswordCredentialProvider

from geventpool.redis import ConnectionPool
from geventpool.testing import wait_until
from tests.redis.conftest import TLS, MakePool
from tests.redis.tools import chain, pool_of, present
from tests.servers import RedisServer

WIRES: dict[str, dict[str, Any]] = {
    "resp2-hiredis": {"protocol": 2, "parser_class": _HiredisParser},
    "resp2-python": {"protocol": 2, "parser_class": _RESP2Parser},
    "resp3-hiredis": {"protocol": 3, "parser_class": _HiredisParser},
    "resp3-python": {"protocol": 3, "parser_class": _RESP3Parser},
    "unix": {"unix": True},
    "tls": {"tls": True},
}


@pytest.fixture(params=WIRES)
def client(
    request: pytest.FixtureRequest,
    make_pool: MakePool,
    redis_server: RedisServer,
    tls_server: RedisServer,
) -> Iterator[redis.Redis]:
    """A client of an empty database, by each kind of wire; at most three sockets."""
    options: dict[str, Any] = {"max_connections": 3, **WIRES[request.param]}
    if options.pop("unix", False):
        url = f"unix://{redis_server.unix_socket}"
        pool = make_pool(
            lambda host, port, **rest: ConnectionPool.from_url(url, **rest), **options
        )
    elif options.pop("tls", False):
        pool = make_pool(
            connection_class=redis.SSLConnection,
            ssl_ca_certs=str(TLS / "cert.pem"),
            port=tls_server.port,
            **options,
        )
    else:
        pool = make_pool(**options)
    client = redis.Redis(connection_pool=pool)
    client.flushall()
    yield client
    wait_until(lambda: pool.stats().in_use == 0)
    assert pool.core.size <= 3


def at_once(work: Any, number: int = 20) -> list[Any]:
    """What *work* gives in so many greenlets at once, called with their numbers."""
    jobs = [gevent.spawn(work, each) for each in range(number)]
    return [job.get() for job in jobs]


def test_commands(client: redis.Redis) -> None:
    """Each greenlet reads what it has written."""

    def work(number: int) -> Any:
        client.set(f"key{number}", number)
        client.hset(f"hash{number}", mapping={"field": number})
        return int(present(client.get(f"key{number}"))), client.hgetall(f"hash{number}")

    expected = [(each, {b"field": b"%d" % each}) for each in range(20)]
    assert at_once(work) == expected


def test_large_values(client: redis.Redis) -> None:
    """Larger than any buffer on the way."""
    client.set("large", b"x" * 2_000_000)
    lengths = at_once(lambda number: len(present(client.get("large"))), 5)
    assert lengths == [2_000_000] * 5


def test_pipelines_and_transactions(client: redis.Redis) -> None:
    """Either way the replies belong to the commands."""

    def work(number: int) -> Any:
        with client.pipeline(transaction=bool(number % 2)) as pipe:
            return chain(pipe).set(f"k{number}", number).get(f"k{number}").execute()

    assert at_once(work) == [[True, b"%d" % each] for each in range(20)]


def test_watch(client: redis.Redis) -> None:
    """Twenty greenlets count, each optimistically: nobody's turn is lost."""

    def work(number: int) -> None:
        def count(pipe: Any) -> None:
            value = int(pipe.get("counter") or 0)
            gevent.sleep(0)
            pipe.multi()
            pipe.set("counter", value + 1)

        client.transaction(count, "counter")

    at_once(work)
    assert client.get("counter") == b"20"


def test_publish_and_subscribe(client: redis.Redis) -> None:
    """Channels and patterns; messages arrive while others send commands."""
    with client.pubsub(ignore_subscribe_messages=True) as subscription:
        subscription.subscribe("channel")
        subscription.psubscribe("pattern*")
        assert subscription.get_message(timeout=5) is None
        assert subscription.get_message(timeout=5) is None
        at_once(lambda number: client.publish("channel", number))
        client.publish("pattern-1", "by pattern")
        got = [subscription.get_message(timeout=5)["data"] for _ in range(21)]
    assert sorted(got[:20]) == sorted(b"%d" % each for each in range(20))
    assert got[20] == b"by pattern"


def test_a_listener_in_a_thread(client: redis.Redis) -> None:
    """``run_in_thread``, which is a greenlet here."""
    got: list[bytes] = []
    subscription = client.pubsub(ignore_subscribe_messages=True)
    subscription.subscribe(channel=lambda message: got.append(message["data"]))
    thread = subscription.run_in_thread(sleep_time=0.01)
    wait_until(lambda: client.publish("channel", "hello") == 1)
    wait_until(lambda: b"hello" in got)
    thread.stop()
    thread.join(5)
    assert not thread.is_alive()


def test_monitor(client: redis.Redis) -> None:
    """The connection is taken for the length of the block, and not kept after it."""
    with client.monitor() as monitor:
        client.get("watched")
        seen = itertools.islice(monitor.listen(), 10)
        assert any("GET watched" in each["command"] for each in seen)
    assert client.ping()


def test_blocking_commands(client: redis.Redis) -> None:
    """Two wait, a third serves them."""
    jobs = [gevent.spawn(client.blpop, "queue", 5) for _ in range(2)]
    gevent.idle()
    client.rpush("queue", "1", "2")
    taken: Any = [job.get() for job in jobs]
    assert sorted(value for _, value in taken) == [b"1", b"2"]
    assert client.blpop("queue", 0.01) is None


def test_scripts(client: redis.Redis) -> None:
    """Also a script that the server has forgotten."""
    script = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    at_once(lambda number: script(keys=["sum"], args=[number]))
    client.script_flush()
    assert script(keys=["sum"], args=[0]) == sum(range(20))


def test_locks(client: redis.Redis) -> None:
    """One at a time."""
    inside: list[int] = []

    def work(number: int) -> int:
        with client.lock("lock", timeout=5, sleep=0.001):
            inside.append(number)
            most = len(inside)
            gevent.sleep(0)
            inside.remove(number)
        return most

    assert at_once(work, 8) == [1] * 8


def test_streams(client: redis.Redis) -> None:
    """Written, read, read by a group, waited for."""
    client.xgroup_create("stream", "group", mkstream=True)
    waiter = gevent.spawn(client.xread, {"stream": "$"}, block=5000)
    gevent.idle()
    client.xadd("stream", {"field": "value"})
    assert waiter.get()
    got: Any = client.xreadgroup("group", "me", {"stream": ">"})
    entries = got[b"stream"][0] if isinstance(got, dict) else got[0][1]
    assert entries[0][1] == {b"field": b"value"}
    assert client.xack("stream", "group", entries[0][0]) == 1


def test_scan(client: redis.Redis) -> None:
    """Iterators take and give back a connection for each step."""
    client.mset({f"key{number}": number for number in range(100)})
    assert len(list(client.scan_iter(count=10))) == 100


def test_a_client_with_a_connection_of_its_own(client: redis.Redis) -> None:
    """It keeps one of the pool's until it is closed."""
    own = redis.Redis(
        connection_pool=client.connection_pool, single_connection_client=True
    )
    assert own.client_id() == own.client_id()
    assert pool_of(client).stats().in_use == 1
    own.close()
    assert pool_of(client).stats().in_use == 0


def test_decoded_replies(make_pool: MakePool) -> None:
    """``decode_responses`` is an argument of the pool."""
    client = redis.Redis(connection_pool=make_pool(decode_responses=True))
    client.set("key", "wörd")
    assert client.get("key") == "wörd"


def test_a_reply_that_cannot_be_decoded_goes_to_nobody(make_pool: MakePool) -> None:
    """The error leaves the connection in a state unknown: it is not kept."""
    pool = make_pool(decode_responses=True, parser_class=_RESP2Parser, protocol=2)
    client = redis.Redis(connection_pool=pool)
    client.set("bad", b"\xff")
    client.set("good", "good")
    with pytest.raises(UnicodeDecodeError):
        client.get("bad")
    assert client.get("good") == "good"


def test_health_checks(make_pool: MakePool, redis_server: RedisServer) -> None:
    """redis-py's own PING before a command, if it is asked for."""
    client = redis.Redis(connection_pool=make_pool(health_check_interval=1000))
    before = redis_server.ask("INFO", "commandstats")["cmdstat_ping"]["calls"]
    client.get("key")
    after = redis_server.ask("INFO", "commandstats")["cmdstat_ping"]["calls"]
    assert after > before


def test_a_password(own_server: RedisServer) -> None:
    """As arguments, or from a provider of credentials."""
    own_server.ask("ACL", "SETUSER", "me", "on", ">secret", "~*", "+@all")
    provider = UsernamePasswordCredentialProvider("me", "secret")
    for options in (
        {"username": "me", "password": "secret"},
        {"credential_provider": provider},
    ):
        with ConnectionPool(port=own_server.port, **options) as pool:
            client = redis.Redis(connection_pool=pool)
            assert client.acl_whoami() in (b"me", "me")
