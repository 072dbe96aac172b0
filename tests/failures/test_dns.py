"""A domain name system that does not answer, and what it must not take with it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
import redis
from gevent import monkey, socket
from gevent.event import Event
from pymysql import err
from redis.backoff import NoBackoff
from redis.retry import Retry

from geventpool import Pool, PoolExhaustedError, TcpConnection, Timeouts
from geventpool.mysql import ConnectionPool as MySQLPool
from geventpool.redis import ConnectionPool as RedisPool
from geventpool.testing import check, check_capacity, wait_until
from tests.peers import Echo
from tests.servers import MariaDBServer, RedisServer

NAME = "db.example.test"

#: Seconds by which a busy machine may be late.
SLACK = 1.0


class Resolver:
    """In the place of the hub's: knows one name, and may be slow to say where it is."""

    def __init__(self, usual: Any) -> None:
        self._usual = usual
        self.answers = Event()
        self.asked = 0
        #: how it waits: an event, or what blocks a thread of the pool
        self.wait: Callable[[], object] = self.answers.wait

    def getaddrinfo(self, host: Any, port: Any, *args: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name == NAME:
            self.asked += 1
            self.wait()
            host = "127.0.0.1"
        return self._usual.getaddrinfo(host, port, *args)

    def close(self) -> None:
        self._usual.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._usual, name)


@pytest.fixture()
def resolver() -> Iterator[Resolver]:
    hub = gevent.get_hub()
    usual = hub.resolver
    hub.resolver = resolver = Resolver(usual)  # type: ignore[assignment]
    yield resolver
    resolver.answers.set()
    hub.resolver = usual


class Kind:
    """One kind of pool, to a server with a name."""

    #: what a borrower gets when there is none in time, or none can be opened
    errors: tuple[type[Exception], ...] = (PoolExhaustedError, OSError)
    #: does the driver ask the resolver even for addresses in numbers?
    asks_for_numbers = False

    def __init__(self, make: Callable[..., Any], ask: Callable[[Any], object]) -> None:
        self._make = make
        self._ask = ask

    def pool(self, host: str = NAME, **options: Any) -> Any:
        """A pool of ours, and what it is in redis-py's place."""
        return self._make(host, {"max_connections": 2, "timeout": 0.05, **options})

    def core(self, pool: Any) -> Pool[Any]:
        return getattr(pool, "core", pool)

    def use(self, pool: Any) -> None:
        """One request and its answer."""
        self._ask(pool)


@pytest.fixture(params=["core", "redis", "mysql"])
def kind(
    request: pytest.FixtureRequest,
    redis_server: RedisServer,
    mariadb_server: MariaDBServer,
) -> Iterator[Kind]:
    with Echo() as echo:
        yield {
            "core": lambda: _core(echo),
            "redis": lambda: _redis(redis_server),
            "mysql": lambda: _mysql(mariadb_server),
        }[request.param]()


def _core(echo: Echo) -> Kind:
    def make(host: str, options: dict[str, Any]) -> Any:
        where = {"host": host, "port": echo.port, "connect_timeout": None}
        return Pool(TcpConnection, where, **options)

    def ask(pool: Any) -> None:
        with pool.connection() as conn:
            conn.send(b"mine")
            assert conn.recv() == b"mine"

    return Kind(make, ask)


def _redis(server: RedisServer) -> Kind:
    def make(host: str, options: dict[str, Any]) -> Any:
        retry = Retry(NoBackoff(), 0)
        return RedisPool(host=host, port=server.port, retry=retry, **options)

    kind = Kind(make, lambda pool: redis.Redis(connection_pool=pool).ping())
    kind.errors = (redis.ConnectionError, redis.TimeoutError)
    kind.asks_for_numbers = True
    return kind


def _mysql(server: MariaDBServer) -> Kind:
    def make(host: str, options: dict[str, Any]) -> Any:
        where = {**server.client_options, "host": host, "ssl_disabled": True}
        return MySQLPool(**where, **options)

    def ask(pool: Any) -> None:
        with pool.cursor() as cursor:
            cursor.execute("SELECT 1")

    kind = Kind(make, ask)
    kind.errors = (PoolExhaustedError, err.OperationalError, TimeoutError)
    return kind


def within(seconds: float, work: Callable[..., Any], *args: Any) -> Any:
    """What *work* returns, or its error; it must not take much longer than that."""
    started = time.monotonic()
    try:
        outcome = work(*args)
    except Exception as error:
        outcome = error
    took = time.monotonic() - started
    assert took < seconds + SLACK, f"{took:.2f} s instead of {seconds}: {outcome!r}"
    return outcome


def all_is_well(kind: Kind, pool: Any) -> None:
    """Everybody is served, and every place is there."""
    check(kind.core(pool))
    # Nobody waits for long here, and the first may still hear of the trouble.
    wait_until(lambda: not isinstance(within(1, kind.use, pool), kind.errors))
    check_capacity(kind.core(pool))
    kind.core(pool).close(timeout=5)
    assert kind.core(pool).size == 0


def test_a_borrower_waits_no_longer_than_he_said(
    kind: Kind, resolver: Resolver
) -> None:
    """Its deadline counts, and what it began serves the next one."""
    pool = kind.pool()
    for _ in range(3):
        assert isinstance(within(0.05, kind.use, pool), kind.errors)
    assert resolver.asked == 1
    resolver.answers.set()
    all_is_well(kind, pool)


def test_other_addresses_are_served_meanwhile(kind: Kind, resolver: Resolver) -> None:
    """Also while every thread of the hub's pool waits for a name.

    redis-py asks the resolver even for addresses in numbers, so it needs one of them.
    """
    # What blocks a native thread, until the other end is closed.
    reader, writer = os.pipe()
    read = monkey.get_original("os", "read")
    threads = gevent.get_hub().threadpool
    resolver.wait = lambda: threads.apply(read, (reader, 1))
    hanging = [kind.pool() for _ in range(threads.maxsize - 2 * kind.asks_for_numbers)]
    others = [gevent.spawn(within, 0.05, kind.use, pool) for pool in hanging]
    try:
        wait_until(lambda: resolver.asked == len(hanging))
        elsewhere = kind.pool("127.0.0.1", timeout=5)
        assert within(0.2, kind.use, elsewhere) is None
        kind.core(elsewhere).close(timeout=5)
        gevent.joinall(others)
        assert all(isinstance(other.value, kind.errors) for other in others)
    finally:
        os.close(writer)
    for pool in hanging:
        all_is_well(kind, pool)
    os.close(reader)


def test_connections_there_are_go_on_being_lent(kind: Kind, resolver: Resolver) -> None:
    """A name is asked for by a dial alone; who comes back serves the line."""
    pool = kind.pool(timeout=5)
    resolver.answers.set()
    kind.use(pool)
    resolver.answers.clear()
    # One has to share, for the second connection does not come.
    users = [gevent.spawn(within, 2, kind.use, pool) for _ in range(20)]
    gevent.joinall(users)
    assert [user.value for user in users] == [None] * 20
    assert kind.core(pool).stats().opening <= 1
    resolver.answers.set()
    all_is_well(kind, pool)


def test_a_dial_ends_at_its_limit(kind: Kind, resolver: Resolver) -> None:
    """Who would have waited longer is told why; the place is free again."""
    pool = kind.pool(timeout=5, timeouts=Timeouts(open=0.05))
    outcome = within(0.2, kind.use, pool)
    assert isinstance(outcome, kind.errors), repr(outcome)
    assert not isinstance(outcome, PoolExhaustedError)
    assert kind.core(pool).size == 0
    resolver.answers.set()
    all_is_well(kind, pool)


def test_closing_ends_while_a_name_is_being_asked_for(
    kind: Kind, resolver: Resolver
) -> None:
    """With a time limit it cuts the dial off; without, it waits for the dial's own."""
    for limit, timeout in (20.0, 0.05), (20.0, 0.0), (0.05, None):
        pool = kind.pool(timeout=5, timeouts=Timeouts(open=limit))
        borrower = gevent.spawn(within, 0.2, kind.use, pool)
        wait_until(lambda: kind.core(pool).stats().opening == 1)
        within(0.05, kind.core(pool).close, timeout)
        assert kind.core(pool).size == 0
        assert isinstance(borrower.get(), Exception)


def test_the_second_host_is_tried_when_the_first_has_no_address(
    mariadb_server: MariaDBServer, resolver: Resolver
) -> None:
    """A name that hangs costs the time limit for connecting, once."""
    options = {**mariadb_server.client_options, "ssl_disabled": True}
    where = [(NAME, options.pop("port")), ("127.0.0.1", mariadb_server.port)]
    del options["host"]
    pool = MySQLPool(hosts=where, connect_timeout=0.05, timeout=5, **options)
    for _ in range(3):
        with pool.connection() as conn:
            assert conn.host == "127.0.0.1"
        pool.drain()
    assert resolver.asked == 1
    pool.close(timeout=5)


# The resolver in gevent itself, asking a server that never answers.


def _ares(port: int) -> Any:
    ares = pytest.importorskip("gevent.resolver.ares", exc_type=ImportError)
    return ares.Resolver(
        gevent.get_hub(), servers=["127.0.0.1"], udp_port=port, timeout=60, tries=9
    )


def test_a_server_of_names_that_says_nothing_holds_no_pool() -> None:
    """Deadlines and limits hold for each resolver: here gevent's c-ares."""
    hub = gevent.get_hub()
    usual = hub.resolver
    with Echo() as echo, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        hub.resolver = ours = _ares(silent.getsockname()[1])
        try:
            kind = _core(echo)
            pool = kind.pool(timeouts=Timeouts(open=0.2))
            assert isinstance(within(0.05, kind.use, pool), PoolExhaustedError)
            # The name was asked for.
            silent.settimeout(5)
            assert b"example" in silent.recv(512)
            outcome = within(0.3, pool.acquire, None, 5)
            assert type(outcome) is TimeoutError, repr(outcome)
            elsewhere = kind.pool("127.0.0.1", timeout=5)
            assert within(0.2, kind.use, elsewhere) is None
            for each in pool, elsewhere:
                each.close(timeout=1)
                assert each.size == 0
        finally:
            hub.resolver = usual
            ours.close()
