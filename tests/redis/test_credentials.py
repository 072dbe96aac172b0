"""Credentials that change while connections are open."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
import redis
from gevent.event import Event
from redis.auth.token import SimpleToken
from redis.credentials import StreamingCredentialProvider
from redis.event import AfterConnectionReleasedEvent, EventDispatcher

from geventpool.redis import ConnectionPool
from geventpool.testing import wait_until
from tests.redis.tools import assert_all_places, outcome
from tests.servers import RedisServer

HOUR = 3_600_000


class Tokens(StreamingCredentialProvider):
    """A provider that is told by the test when there is a new token."""

    def __init__(self, user: str) -> None:
        self.user = user
        self._listeners: list[Any] = []

    def get_credentials(self) -> tuple[str, str]:
        return self.user, "secret"

    def on_next(self, callback: Any) -> None:
        self._listeners.append(callback)

    def on_error(self, callback: Any) -> None:
        pass

    def is_streaming(self) -> bool:
        return True

    def renew(self, user: str) -> None:
        self.user = user
        for each in self._listeners:
            each(token(user))


def token(user: str) -> SimpleToken:
    return SimpleToken("secret", HOUR, 0, {"oid": user})


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """Knows three users of the same password."""
    with RedisServer() as server:
        for user in ("one", "two", "three"):
            server.ask("ACL", "SETUSER", user, "on", ">secret", "~*", "&*", "+@all")
        yield server


@pytest.fixture(params=[2, 3])
def provider(request: pytest.FixtureRequest) -> Iterator[Tokens]:
    yield Tokens("one")


@pytest.fixture()
def pool(server: RedisServer, provider: Tokens) -> Iterator[ConnectionPool]:
    pool = ConnectionPool(
        port=server.port, max_connections=3, timeout=5, credential_provider=provider
    )
    yield pool
    assert not pool.shutdown(5)


def users(server: RedisServer) -> list[str]:
    """The names by which the server knows its clients."""
    return sorted(each["user"] for each in server.clients())


def test_a_new_token_reaches_every_connection(
    server: RedisServer, provider: Tokens, pool: ConnectionPool
) -> None:
    """Idle ones at once, those in use before anybody else gets them."""
    client = redis.Redis(connection_pool=pool, credential_provider=provider)
    lent = pool.get_connection()
    idle = pool.get_connection()
    pool.release(idle)
    assert client.acl_whoami() in (b"one", "one")
    provider.renew("two")
    assert users(server) == ["one", "two"]
    assert pool.stats().idle == 1
    pool.release(lent)
    wait_until(lambda: pool.stats().idle == 2)
    assert users(server) == ["two", "two"]
    assert_all_places(pool)
    assert users(server) == ["two"] * 3


def test_nobody_gets_a_connection_that_is_being_authenticated(
    server: RedisServer, provider: Tokens, pool: ConnectionPool
) -> None:
    """A waiter for one in use gets it after its AUTH."""
    pool.max_connections = 1
    client = redis.Redis(connection_pool=pool, credential_provider=provider)
    lent = pool.get_connection()
    waiter = gevent.spawn(client.acl_whoami)
    wait_until(lambda: pool.stats().waiting)
    provider.renew("three")
    pool.release(lent)
    assert waiter.get() in (b"three", "three")


def test_a_token_that_is_refused_costs_the_idle_connections(
    server: RedisServer, pool: ConnectionPool
) -> None:
    """redis-py's own error; what knew the old token is closed."""
    assert_all_places(pool)
    error = outcome(pool.re_auth_callback, token("nobody"))
    assert isinstance(error, redis.AuthenticationError)
    assert pool.stats().in_use == 0
    wait_until(lambda: pool.core.size == 0)
    assert_all_places(pool)


def test_a_loan_that_can_not_be_authenticated_is_not_kept(
    server: RedisServer, pool: ConnectionPool
) -> None:
    """Its place is free."""
    lent = pool.get_connection()
    pool.re_auth_callback(token("nobody"))
    pool.release(lent)
    wait_until(lambda: pool.core.size == 0)
    assert_all_places(pool)


def test_a_kill_during_the_renewal_costs_no_place(
    server: RedisServer, pool: ConnectionPool
) -> None:
    """What was not yet authenticated is closed, though the victim lives on."""
    assert_all_places(pool)
    done = Event()

    def renew() -> None:
        with contextlib.suppress(gevent.GreenletExit):
            pool.re_auth_callback(token("two"))
        done.wait()

    server.pause()
    try:
        renewal = gevent.spawn(renew)
        gevent.idle()
        assert pool.stats().in_use
        renewal.kill(block=False)
        gevent.idle()
    finally:
        server.resume()
    assert not renewal.dead
    assert_all_places(pool)
    done.set()
    renewal.join()


@pytest.mark.parametrize("fails", [False, True])
def test_a_pool_that_is_closed_during_the_renewal_hides_no_error(
    server: RedisServer, fails: bool
) -> None:
    """The connections are gone, and the caller learns only what the server said."""
    pools: list[ConnectionPool] = []

    class Closing(redis.Connection):
        def re_auth(self) -> None:
            pools[0].shutdown(timeout=0)
            if fails:
                raise redis.ConnectionError("lost")

    pool = ConnectionPool(
        port=server.port, max_connections=2, connection_class=Closing, username="one",
        password="secret",
    )  # fmt: skip
    pools.append(pool)
    assert_all_places(pool)
    failure = outcome(pool.re_auth_callback, token("two"))
    assert (str(failure) == "lost") is fails
    # The connection is closed in a turn of the loop of its own.
    gevent.idle()
    assert pool.core.size == 0


def test_dead_idle_connections_are_not_authenticated(
    server: RedisServer, pool: ConnectionPool
) -> None:
    """There is nobody to authenticate to."""
    assert_all_places(pool)
    for conn in pool._available_connections:
        conn.disconnect()
    pool.re_auth_callback(token("two"))
    assert_all_places(pool)


class Listener:
    """Hears of releases; not an EventListenerInterface by name, but by method."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def listen(self, event: Any) -> None:
        self.heard.append(event.connection)


def test_each_release_is_announced_once(server: RedisServer) -> None:
    """To listeners of a dispatcher that the user gave; after the AUTH, if there is."""
    listener: Any = Listener()
    dispatcher = EventDispatcher()
    # Old versions have no other way.
    dispatcher._event_listeners_mapping[AfterConnectionReleasedEvent].append(listener)
    pool = ConnectionPool(port=server.port, event_dispatcher=dispatcher)
    conn = pool.get_connection()
    pool.release(conn)
    assert listener.heard == [conn]
    pool.release(conn)
    pool.release(redis.Connection())
    assert listener.heard == [conn]
    conn = pool.get_connection()
    pool.re_auth_callback(token("two"))
    pool.release(conn)
    wait_until(lambda: pool.stats().idle == 1)
    assert listener.heard == [conn, conn]
    assert users(server) == ["two"]
    pool.shutdown(5)
