"""The clock on the wall is put forward and back, and the loop is late."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
import redis
from gevent import monkey
from redis.backoff import NoBackoff
from redis.retry import Retry

from geventpool import Backoff, Pool, PoolExhaustedError, TcpConnection, Timeouts
from geventpool.mysql import ConnectionPool as MySQLPool
from geventpool.redis import ConnectionPool as RedisPool
from geventpool.testing import ScriptedConnector, check, check_capacity, wait_until
from tests import parts
from tests.pauses import turns
from tests.peers import Echo
from tests.servers import MariaDBServer, RedisServer

DAY = 86400.0

#: Seconds by which a busy machine may be late.
SLACK = 1.0

_block: Callable[[float], None] = monkey.get_original("time", "sleep")


class Wall:
    """The clock on the wall, which somebody puts forward and back all the time."""

    def __init__(self, true: Callable[[], float]) -> None:
        self._true = true
        self._chance = random.Random(5)
        self.off = 0.0
        self.restless = False

    def __call__(self) -> float:
        if self.restless:
            self.off = self._chance.choice([-DAY, 0.0, DAY])
        return self._true() + self.off


@pytest.fixture()
def wall(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wall]:
    wall = Wall(time.time)
    monkeypatch.setattr(time, "time", wall)
    yield wall


def ask(pool: Pool[Any], question: bytes = b"mine") -> Any:
    with pool.connection() as conn:
        conn.send(question)
        assert conn.recv() == question
        return conn


class Pinged(TcpConnection):
    """Counts how often it was asked whether it is there."""

    pings = 0

    def ping(self) -> None:
        self.pings += 1


@pytest.mark.parametrize("step", [DAY, -DAY])
def test_a_step_of_the_clock_ages_nothing(step: float, wall: Wall) -> None:
    """No connection is expired, idle for too long, due for a ping, or rejuvenated."""
    with Echo() as echo:
        pool = Pool(
            Pinged,
            {**echo.options, "lifetime": 600},
            max_connections=2,
            max_lifetime=600,
            max_idle=600,
            ping_after=600,
            ping_interval=600,
        )
        conn = ask(pool)
        wall.off += step
        parts.lifecycle(pool).housekeeping.sweep()
        pool.drop_expired()
        gevent.idle()
        assert ask(pool) is conn and not conn.is_expired()
        assert conn.pings == 0 and echo.accepted == 1
        # And what is old is old, whatever the wall says.
        conn.clock = lambda: time.monotonic() + 601  # type: ignore[method-assign]
        assert ask(pool) is not conn
        pool.close(timeout=5)


def test_ages_are_told_by_the_clock_that_is_never_put_back(wall: Wall) -> None:
    """What is due in a moment is due in a moment, while the wall goes mad."""
    wall.restless = True
    connector = ScriptedConnector()
    pool = Pool(connector, max_connections=3, max_idle=0.03, reap_interval=0.01)
    with pool.connection() as conn:
        pass
    wait_until(lambda: conn.end is not None)
    assert pool.size == 0
    pool.close(timeout=5)


def test_deadlines_are_kept_while_the_clock_jumps(wall: Wall) -> None:
    """A borrower waits for its timeout, neither a day nor not at all."""
    wall.restless = True
    pool = Pool(ScriptedConnector(), max_connections=1, timeout=0.05)
    lent = pool.acquire()

    def wait() -> float:
        started = time.monotonic()
        with pytest.raises(PoolExhaustedError):
            pool.acquire()
        return time.monotonic() - started

    waits = [gevent.spawn(wait) for _ in range(20)]
    assert all(0.049 < each.get() < 0.05 + SLACK for each in waits)
    pool.release(lent)
    check_capacity(pool)


def test_pauses_and_limits_are_kept_while_the_clock_jumps(wall: Wall) -> None:
    """A full server is tried again after the pause; what takes too long is ended."""
    wall.restless = True
    full = ConnectionError("full")
    connector = ScriptedConnector(open=[full, full, full, gevent.event.Event()])
    connector.exhausting = (ConnectionError,)
    pool = Pool(
        connector,
        max_connections=1,
        timeout=5,
        backoff=Backoff(0.02, factor=1, jitter=0),
        timeouts=Timeouts(open=0.05),
    )
    started = time.monotonic()
    with pytest.raises(TimeoutError, match="opening took longer"):
        pool.acquire()
    # Three pauses, and the limit of the fourth attempt.
    assert 0.109 < time.monotonic() - started < 0.11 + SLACK
    check(pool)
    check_capacity(pool)


def test_much_is_sent_while_the_clock_jumps(wall: Wall) -> None:
    """gevent's ``sendall`` would take the step for the time limit that is over."""
    wall.restless = True
    data = bytes(range(256)) * 20_000
    with Echo() as echo:
        conn = TcpConnection(**echo.options, timeout=5)
        conn.open()

        def hear() -> None:
            left = len(data)
            while left:
                left -= len(conn.recv(65536))

        heard = gevent.spawn(hear)
        conn.send(data)
        heard.get(timeout=10)
        conn.close()


@pytest.mark.parametrize("kind", ["redis", "mysql"])
def test_the_adapters_do_not_look_at_the_wall(
    kind: str, wall: Wall, redis_server: RedisServer, mariadb_server: MariaDBServer
) -> None:
    """Requests, time limits, ages and pings, with the clock jumping at each look."""
    wall.restless = True
    ages: dict[str, Any] = {"max_lifetime": 600, "max_idle": 600, "ping_after": 600}
    ages["timeout"] = 0.2
    pool: Any
    where: dict[str, Any]
    timeouts: dict[str, Any]
    if kind == "redis":
        where = {"host": redis_server.host, "port": redis_server.port}
        timeouts = {"socket_timeout": 5, "socket_connect_timeout": 5}
        retry = Retry(NoBackoff(), 0)
        pool = RedisPool(**where, **timeouts, **ages, retry=retry, max_connections=2)
        core = pool.core
        client = redis.Redis(connection_pool=pool)

        def use(turn: int) -> None:
            assert client.echo(f"{turn}") == b"%d" % turn

        sizes = redis_server.connected_clients
    else:
        timeouts = {"connect_timeout": 5, "read_timeout": 5, "write_timeout": 5}
        options = {**mariadb_server.client_options, "ssl_disabled": True}
        pool = core = MySQLPool(**options, **timeouts, **ages, max_connections=2)

        def use(turn: int) -> None:
            with pool.cursor() as cursor:
                cursor.execute("SELECT %s", [turn])
                assert cursor.fetchone() == (turn,)

        sizes = mariadb_server.connections
    users = [gevent.spawn(use, turn) for turn in range(20)]
    gevent.joinall(users, raise_error=True)
    wait_until(lambda: core.stats().idle == core.size)
    parts.lifecycle(core).housekeeping.sweep()
    assert 1 <= core.size == core.stats().idle <= 2
    assert sizes() >= 1
    before = set(map(id, core.idle_connections()))
    gevent.joinall([gevent.spawn(use, turn) for turn in range(20)], raise_error=True)
    wait_until(lambda: core.stats().idle == core.size)
    assert before <= set(map(id, core.idle_connections()))
    check_capacity(core)
    core.close(timeout=5)


# A loop that is late: its own time stands still while something blocks the hub.


def test_a_wait_that_begins_late_is_as_long_as_any() -> None:
    """The loop's time is of before the blocking; the deadline is not."""
    pool = Pool(ScriptedConnector(), max_connections=1)
    lent = pool.acquire()
    pool.transfer(lent, None)
    for timeout in 0.05, 0.1:
        _block(0.2)
        started = time.monotonic()
        with pytest.raises(PoolExhaustedError):
            pool.acquire(timeout=timeout)
        assert timeout - 0.005 < time.monotonic() - started < timeout + SLACK
    pool.release(lent)
    check_capacity(pool)


def test_a_limit_that_begins_late_is_as_long_as_any() -> None:
    """An opening has all of its time, though the hub was blocked just before."""

    class Slow(ScriptedConnector):
        def open(self) -> Any:
            turns(3)
            return super().open()

    pool = Pool(Slow(), max_connections=1, timeouts=Timeouts(open=0.1), timeout=5)
    borrower = gevent.spawn(pool.acquire, reclaim=False)
    gevent.sleep(0)
    _block(0.2)
    conn = borrower.get(timeout=5)
    pool.transfer(conn, None)
    pool.release(conn)


def test_who_is_served_while_the_loop_is_blind_is_served() -> None:
    """Its timeout was over before anybody could wake it; so was the holder's loan."""
    pool = Pool(ScriptedConnector(), max_connections=1)
    lent = pool.acquire()
    waiter = gevent.spawn(pool.acquire, timeout=0.03, reclaim=False)
    gevent.sleep(0)
    _block(0.1)
    pool.release(lent)
    assert waiter.get(timeout=5) is lent
    pool.transfer(lent, None)
    pool.release(lent)
    check_capacity(pool)
