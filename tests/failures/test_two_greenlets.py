"""Two greenlets use one object at the same time: it works, or one is refused.

Nobody gets the reply to another greenlet, and no place is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
import redis

from geventpool import Counters, Pool, TcpConnection
from geventpool.budget import Budget
from geventpool.mysql import ConnectionInUseError
from geventpool.testing import check
from tests.failures.scenes import Site
from tests.failures.scenes.core import ask
from tests.failures.scenes.mysql import mysql_scene, value
from tests.failures.scenes.redis import redis_scene

#: Uses the object as the greenlet of that number; fails if a reply is not its own.
Use = Callable[[int], None]

TABLE: dict[str, Callable[[Site], tuple[Use, Pool[Any]]]] = {}


def used_by_two(begin: Callable[[Site], tuple[Use, Pool[Any]]]) -> Any:
    """Add an object to the table."""
    TABLE[begin.__name__] = begin
    return begin


def tcp(site: Site, **options: Any) -> Pool[Any]:
    return Pool(TcpConnection, {**site.echo.options, "timeout": 5}, **options)


@used_by_two
def a_block_of_the_core(site: Site) -> tuple[Use, Pool[Any]]:
    pool = tcp(site, max_connections=1, timeout=5)
    block = pool.connection()

    def use(number: int) -> None:
        with block as conn:
            assert ask(conn, b"%d" % number) == b"%d" % number

    return use, pool


@used_by_two
def a_pool_with_listeners_and_a_budget(site: Site) -> tuple[Use, Pool[Any]]:
    pool = tcp(
        site,
        max_connections=2,
        timeout=5,
        listeners=[Counters()],
        budget=Budget("two", 2),
    )

    def use(number: int) -> None:
        with pool.connection() as conn:
            assert ask(conn, b"%d" % number) == b"%d" % number

    return use, pool


def mysql(site: Site, **options: Any) -> Any:
    [pool] = mysql_scene(lambda pool: None, site, **options).pools
    return pool


@used_by_two
def a_transaction_of_mysql(site: Site) -> tuple[Use, Pool[Any]]:
    pool = mysql(site)
    block = pool.connection()

    def use(number: int) -> None:
        with block as conn:
            assert value(conn, f"SELECT {number}") == number

    return use, pool


@used_by_two
def a_cursor_block_of_mysql(site: Site) -> tuple[Use, Pool[Any]]:
    pool = mysql(site)
    block = pool.cursor()

    def use(number: int) -> None:
        with block as cursor:
            cursor.execute(f"SELECT {number}")
            assert cursor.fetchone() == (number,)

    return use, pool


@used_by_two
def a_connection_of_mysql(site: Site) -> tuple[Use, Pool[Any]]:
    pool = mysql(site)
    conn = pool.acquire(reclaim=False)

    def use(number: int) -> None:
        assert value(conn, f"SELECT {number} + SLEEP(0.01)") == number

    return use, pool


def _kept(work: Callable[..., object], *args: Any) -> object:
    """What *work* returns or raises."""
    try:
        return work(*args)
    except Exception as error:
        return error


def _redis(site: Site, **options: Any) -> list[Any]:
    made: list[Any] = []
    scene = redis_scene(lambda client: made.append(client), site, **options)
    scene.work()
    return [client.connection_pool for client in made]


@used_by_two
def a_subscription_of_redis(site: Site) -> tuple[Use, Pool[Any]]:
    [pool] = _redis(site)
    client = redis.Redis(connection_pool=pool)
    channel = client.pubsub()

    def use(number: int) -> None:
        try:
            channel.subscribe(f"news-{number}")
            message = channel.get_message(timeout=5)
            assert message is None or message["channel"].startswith(b"news-")
        finally:
            channel.close()

    return use, pool.core


@used_by_two
def a_client_of_redis(site: Site) -> tuple[Use, Pool[Any]]:
    return _client(site)


@used_by_two
def a_client_with_shared_connections(site: Site) -> tuple[Use, Pool[Any]]:
    return _client(site, auto_pipeline=True, max_connections=2)


def _client(site: Site, **options: Any) -> tuple[Use, Pool[Any]]:
    [pool] = _redis(site, **options)
    client = redis.Redis(connection_pool=pool)

    def use(number: int) -> None:
        assert client.echo(str(number)) == str(number).encode()

    return use, pool.core


@pytest.fixture()
def places(site: Site, request: pytest.FixtureRequest) -> Iterator[Any]:
    use, pool = TABLE[request.param](site)
    yield use, pool
    pool.close(timeout=0)


@pytest.mark.parametrize("places", TABLE, indirect=True)
def test_two_greenlets_with_one_object_get_their_own_replies_or_an_error(
    places: tuple[Use, Pool[Any]],
) -> None:
    """An error says what is wrong. Places and connections are in order afterwards."""
    use, pool = places
    jobs = [gevent.spawn(_kept, use, number) for number in range(2)]
    outcomes = [job.get(timeout=20) for job in jobs]
    assert None in outcomes
    for error in outcomes:
        if error is not None:
            assert isinstance(error, (RuntimeError, ConnectionInUseError)), repr(error)
            assert "in use" in str(error) or "another greenlet" in str(error)
    check(pool)
