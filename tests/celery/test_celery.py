"""Celery's broker and results on pools that all greenlets of a process share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import gevent
import kombu
import kombu.transport
import pytest
import redis
from celery import Celery
from celery.app.backends import BACKEND_ALIASES
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis

import geventpool.celery as hook
from geventpool.process_pools import ProcessPools
from geventpool.redis import ConnectionPool
from tests import parts
from tests.servers import RedisSentinel, RedisServer

MOST = 3

# Celery calls SETEX.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex")


@pytest.fixture()
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(autouse=True)
def pools(monkeypatch: pytest.MonkeyPatch) -> Iterator[ProcessPools[ConnectionPool]]:
    """What is installed is for this test alone."""
    pools = ProcessPools[ConnectionPool]()
    monkeypatch.setattr(hook, "_pools", pools)
    monkeypatch.setattr(hook, "_options", {})
    monkeypatch.setattr(kombu.transport, "_transport_cache", {})
    for aliases in (BACKEND_ALIASES, TRANSPORT_ALIASES):
        for scheme in hook.SCHEMES:
            monkeypatch.setitem(aliases, scheme, aliases[scheme])
    yield pools
    for pool in pools.made():
        pool.disconnect()


@pytest.fixture()
def app(server: RedisServer) -> Iterator[Celery]:
    """An application, whose clients have names at the server."""
    hook.install(max_connections=MOST)
    app = Celery("shop", broker=server.url, backend=server.url, set_as_current=False)
    app.conf.update(
        broker_pool_limit=5,
        broker_transport_options={"client_name": "broker"},
        redis_client_name="results",
    )
    yield app
    drainer = app.backend.result_consumer.drainer
    if drainer._started.is_set():
        drainer.stop()
    app.close()


def names(server: RedisServer, name: str) -> int:
    return [each["name"] for each in server.clients()].count(name)


def test_all_greenlets_share_the_pool_of_the_results(app, server):
    """Celery's own has a backend, and so a pool, for each greenlet."""
    released = gevent.event.Event()
    waiting: list[object] = []

    def ask() -> Any:
        name = str(uuid4())
        result = app.AsyncResult(name)
        app.backend.on_task_call(None, name)
        waiting.append(name)
        released.wait()
        app.backend.store_result(name, 42, "SUCCESS")
        return result.get(timeout=20)

    crowd = [gevent.spawn(ask) for _ in range(20)]
    while len(waiting) < 20:
        gevent.idle()
    assert 1 <= names(server, "results") <= MOST
    released.set()
    gevent.joinall(crowd, raise_error=True)
    assert {each.value for each in crowd} == {42}
    assert 1 <= names(server, "results") <= MOST


def test_all_channels_share_the_pool_of_the_broker(app, server, pools):
    """kombu's own has a pool for each channel; what waits for messages stays so."""
    with app.connection_for_write() as connection:
        channels = [connection.channel() for _ in range(6)]
        shared = {id(channel.pool) for channel in channels}
        assert len(shared) == len(pools.made()) == 1
        assert type(channels[0].pool) is ConnectionPool
        assert len({id(channel.async_pool) for channel in channels}) == 6
        assert type(channels[0].async_pool) is redis.ConnectionPool
        crowd = [gevent.spawn(channel._size, "celery") for channel in channels]
        gevent.joinall(crowd, raise_error=True)
        assert channels[0].pool.core.stats().size <= MOST


def test_a_channel_that_closes_leaves_the_others_their_connections(app, server):
    """kombu disconnects the pool of a channel when the channel closes."""
    with app.connection_for_write() as connection:
        one, other = connection.channel(), connection.channel()
        one._size("celery")
        (conn,) = one.pool.core.idle_connections()
        own = one.async_pool._available_connections
        one.close()
        assert [each for each in own if parts.socket_of(each) is not None] == []
        other._size("celery")
        assert other.pool.core.idle_connections() == [conn]


def test_sent_tasks_arrive(app, server):
    """More senders than connections of the pool or of Celery's own limit."""
    crowd = [gevent.spawn(app.send_task, "count", (n,)) for n in range(30)]
    gevent.joinall(crowd, raise_error=True)
    assert server.ask("LLEN", "celery") == 30


def test_an_error_reaches_kombu(app, server):
    """A retry in redis-py would subscribe again, where kombu wants to begin anew."""
    with app.connection_for_write() as connection:
        assert connection.default_channel.pool.connection_kwargs["retry"] is None
        assert app.backend.client.connection_pool.connection_kwargs["retry"] is None


class Login(redis.CredentialProvider):
    """Nobody has to log in."""

    def get_credentials(self) -> tuple[()]:  # type: ignore[override]
        return ()


@pytest.mark.parametrize(
    "given", [f"{__name__}:Login", Login()], ids=["name", "object"]
)
def test_a_credential_provider_does_not_make_a_pool_each_time(app, pools, given):
    """kombu and Celery make another object of it for each channel and backend."""
    app.conf.redis_backend_credential_provider = given
    made = []
    for _ in range(3):
        backend = app._get_backend()
        made.append(backend.client.connection_pool)
    connection = kombu.Connection(app.conf.broker_url, credential_provider=given)
    with connection:
        made += [connection.channel().pool for _ in range(3)]
    assert len({id(pool) for pool in made}) == len(pools.made()) == 2


def test_a_provider_in_the_url_of_the_results_is_told_by_its_class(server, pools):
    """There it is always a name."""
    hook.install()
    url = f"{server.url}?credential_provider={__name__}:Login"
    app = Celery("shop", backend=url, set_as_current=False)
    made = {id(app._get_backend().client.connection_pool) for _ in range(3)}
    assert len(made) == 1


def test_invalid_options_are_refused_at_once(pools):
    """Nothing is installed then."""
    before = dict(TRANSPORT_ALIASES), dict(BACKEND_ALIASES)
    with pytest.raises(TypeError, match=r"install\(\).*'max_conections'"):
        hook.install(max_conections=5)
    with pytest.raises(ValueError, match="timeout must be .*, not -1"):
        hook.install(timeout=-1)
    with pytest.raises(ValueError, match="max_connections must be .*2.*, not 1"):
        hook.install(max_connections=1)
    assert (dict(TRANSPORT_ALIASES), dict(BACKEND_ALIASES)) == before


def test_a_celery_whose_results_cannot_be_shared_is_refused(monkeypatch):
    """Results would be lost, and nobody would know why."""
    monkeypatch.setattr("celery.VERSION", hook.celery.VERSION._replace(minor=6))  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match=r"needs Celery 5\.7 or later, not 5\.6\."):
        hook.install()
    assert "celery.backends.redis" in BACKEND_ALIASES["redis"]


def test_a_call_that_comes_too_late_is_told(server):
    """kombu keeps the transports that it has loaded."""
    with kombu.Connection(server.url) as connection:
        connection.default_channel.client.ping()
    before = dict(TRANSPORT_ALIASES)
    with pytest.raises(RuntimeError, match="kombu has already loaded its own"):
        hook.install()
    assert before == TRANSPORT_ALIASES
    assert "celery.backends.redis" in BACKEND_ALIASES["redis"]


def test_another_call_replaces_the_options(server, pools):
    """A program may set them after a library has called."""
    hook.install(max_connections=2, timeout=1)
    hook.install(max_connections=4)
    app = Celery("shop", broker=server.url, set_as_current=False)
    with app.connection_for_write() as connection:
        assert isinstance(connection.transport, kombu_redis.Transport)
        pool = connection.default_channel.pool
        assert pool.core.max_connections == 4
        assert parts.option(pool.core, "timeout") == 30


def test_addresses_of_sentinels_are_left_to_kombu(server):
    """It asks them for the server. Broker and results work as without the pools."""
    hook.install(max_connections=MOST)
    with RedisSentinel(server, name="shop") as sentinel:
        url = f"sentinel://{sentinel.host}:{sentinel.port}/0"
        app = Celery("shop", broker=url, backend=url, set_as_current=False)
        app.conf.broker_transport_options = {"master_name": "shop"}
        app.conf.result_backend_transport_options = {"master_name": "shop"}
        crowd = [gevent.spawn(app.send_task, "count", (n,)) for n in range(10)]
        gevent.joinall(crowd, raise_error=True)
        assert server.ask("LLEN", "celery") == 10
        app.backend.store_result("a task", 42, "SUCCESS")
        assert app.AsyncResult("a task").get(timeout=20) == 42
        app.close()
