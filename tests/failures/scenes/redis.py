"""The Redis adapter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from geventpool.redis import ConnectionPool, SentinelConnectionPool
from geventpool.redis.internals import handle_push
from geventpool.redis.telemetry import Telemetry
from tests import parts
from tests.failures.scenes.core import until_idle
from tests.failures.scenes.table import Scene, Site, covers

NO_RETRY = Retry(NoBackoff(), 0)


def redis_pool(site: Site, **options: Any) -> ConnectionPool:
    where = {"host": site.redis.host, "port": site.redis.port}
    common = {"max_connections": 1, "timeout": 5, "retry": NO_RETRY}
    return ConnectionPool(**{**where, **common, **options})


def redis_scene(
    work: Callable[[Any], object], site: Site, pool: Any = None, **options: Any
) -> Scene:
    if pool is None:
        pool = redis_pool(site, **options)
    client = redis.Redis(connection_pool=pool)

    def afterwards() -> None:
        assert client.get("yours") == b"Y"
        assert client.get("mine") == b"M"
        assert not parts.noted_loans(pool)

    return Scene(lambda: work(client), [pool.core], afterwards)


GET_CONNECTION = ("redis.pool.ConnectionPool.get_connection",)


@covers(
    *GET_CONNECTION,
    *("redis.connector.RedisConnector.open", "redis.dialling.connect_once"),
)
def a_command(site: Site) -> Scene:
    def work(client: Any) -> None:
        assert client.get("mine") == b"M"

    return redis_scene(work, site)


@covers(*GET_CONNECTION)
def a_raw_connection(site: Site) -> Scene:
    def work(client: Any) -> None:
        conn = client.connection_pool.get_connection()
        try:
            conn.send_command("GET", "mine")
            assert conn.read_response() == b"M"
        finally:
            client.connection_pool.release(conn)

    return redis_scene(work, site)


@covers(*GET_CONNECTION)
def a_transaction(site: Site) -> Scene:
    def work(client: Any) -> None:
        with client.pipeline() as pipe:
            pipe.watch("mine")
            value = pipe.get("mine")
            pipe.multi()
            pipe.set("mine", value)
            pipe.get("yours")
            assert pipe.execute()[1] == b"Y"

    return redis_scene(work, site)


@covers(*GET_CONNECTION)
def a_pipeline(site: Site) -> Scene:
    def work(client: Any) -> None:
        with client.pipeline(transaction=False) as pipe:
            assert pipe.get("mine").get("yours").execute() == [b"M", b"Y"]

    return redis_scene(work, site)


@covers(*GET_CONNECTION)
def a_subscription(site: Site) -> Scene:
    def work(client: Any) -> None:
        with client.pubsub() as channel:
            channel.subscribe("news")
            channel.get_message(timeout=1)
            channel.get_message(timeout=0.001)
            channel.unsubscribe()

    return redis_scene(work, site)


@covers(*GET_CONNECTION)
def a_blocking_command(site: Site) -> Scene:
    return redis_scene(lambda client: client.blpop("nothing", 0.01), site)


@covers(*GET_CONNECTION)
def a_lock(site: Site) -> Scene:
    def work(client: Any) -> None:
        # A killed greenlet cannot unlock. The server does so after the timeout.
        with client.lock("lock:mine", timeout=0.05, blocking_timeout=2, sleep=0.01):
            client.get("mine")

    return redis_scene(work, site)


@covers(*GET_CONNECTION)
def a_client_with_one_connection(site: Site) -> Scene:
    def work(client: Any) -> None:
        pool = client.connection_pool
        with redis.Redis(connection_pool=pool, single_connection_client=True) as one:
            assert one.get("mine") == b"M"

    return redis_scene(work, site)


@covers(*GET_CONNECTION)
def disconnecting_and_renewing(site: Site) -> Scene:
    def work(client: Any) -> None:
        client.get("mine")
        client.connection_pool.disconnect()
        client.get("mine")
        client.connection_pool.reset()
        assert client.get("mine") == b"M"

    return redis_scene(work, site)


@covers("redis.pool.ConnectionPool.shutdown")
def shutting_down(site: Site) -> Scene:
    def hold(client: Any) -> None:
        try:
            client.get("mine")
        except redis.ConnectionError:
            # The pool was closed while it waited.
            pass

    pool = redis_pool(site)
    core = pool.core
    holder = gevent.spawn(redis_scene(hold, site, pool).work)
    gevent.idle()

    def afterwards() -> None:
        core.close(timeout=0)
        gevent.killall([holder])
        assert core.size == 0

    return Scene(pool.shutdown, [], afterwards)


class Token:
    """What a provider of credentials sends when it has new ones."""

    def try_get(self, name: str) -> str:
        return name

    def get_value(self) -> str:
        return ""


class Reauthenticating(redis.Connection):
    """A connection that authenticates by a PING, for a server without passwords."""

    def re_auth(self) -> None:
        if self._re_auth_token is not None:
            self.send_command("PING")
            self.read_response()
            self._re_auth_token = None


@covers("redis.credentials.Credentials.re_auth_callback")
def authenticating_anew(site: Site) -> Scene:
    def work(client: Any) -> None:
        client.get("mine")
        client.connection_pool.re_auth_callback(Token())
        # And one that is marked while lent: that is the pool's own greenlet's.
        conn = client.connection_pool.get_connection()
        conn.set_re_auth_token(Token())
        client.connection_pool.release(conn)

    options = {"port": site.late_redis.port, "connection_class": Reauthenticating}
    return redis_scene(work, site, **options)


@covers(
    *("redis.connector.RedisConnector.ping", "redis.connector.RedisConnector.reset"),
    "redis.credentials.Credentials.authenticate",
)
def pinged_and_authenticated_by_the_pool(site: Site) -> Scene:
    def work(client: Any) -> None:
        client.get("mine")
        conn = client.connection_pool.get_connection()
        conn.set_re_auth_token(Token())
        client.connection_pool.release(conn)
        until_idle(client.connection_pool.core)
        client.get("mine")

    options = {"port": site.late_redis.port, "connection_class": Reauthenticating}
    return redis_scene(work, site, **options, ping_after=0)


@covers("redis.internals.handle_push")
def a_push_whose_handler_switches(site: Site) -> Scene:
    def work(client: Any) -> None:
        conn = client.connection_pool.get_connection()
        try:
            conn._parser.set_pubsub_push_handler(lambda push: gevent.idle())
            handle_push(conn, [b"message", b"news", b"none"])
        finally:
            client.connection_pool.release(conn)

    return redis_scene(work, site, protocol=3)


@covers("redis.telemetry.Telemetry.timed")
def a_timed_loan(site: Site) -> Scene:
    def work(client: Any) -> None:
        pool = client.connection_pool
        conn = Telemetry(pool).timed(pool.core.acquire)
        pool.core.release(conn)

    return redis_scene(work, site)


@covers(*GET_CONNECTION)
def a_master_named_by_sentinel(site: Site) -> Scene:
    where = [(site.sentinel.host, site.sentinel.port)]
    sentinel = Sentinel(where, socket_timeout=5, retry=NO_RETRY)
    pool = SentinelConnectionPool(
        "mymaster", sentinel, max_connections=1, timeout=5, retry=NO_RETRY
    )

    def work(client: Any) -> None:
        assert client.get("mine") == b"M"
        with client.pipeline(transaction=False) as pipe:
            assert pipe.get("mine").get("yours").execute() == [b"M", b"Y"]

    scene = redis_scene(work, site, pool)

    def afterwards() -> None:
        scene.afterwards()
        for each in sentinel.sentinels:
            each.close()

    return Scene(scene.work, scene.pools, afterwards)
