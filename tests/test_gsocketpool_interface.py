"""The interface of gsocketpool, and what other pools promise, one test each."""

from __future__ import annotations

import time
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event

import geventpool
from geventpool import (
    Backoff,
    Connection,
    ConnectionNotFoundError,
    Pool,
    PoolExhaustedError,
    TcpConnection,
)
from geventpool.testing import Clock, ScriptedConnector
from tests.peers import Echo

# gsocketpool: its README and its interface.


def test_the_readme_of_gsocketpool_runs() -> None:
    """The example of its README, as written there but for bytes and the port."""
    with Echo() as echo:
        options = dict(host="localhost", port=echo.port)
        pool = Pool(TcpConnection, options)

        with pool.connection() as conn:
            conn.send(b"hello")
            assert conn.recv() == b"hello"
        pool.close()


class OwnTcpConnection(Connection):
    """The protocol that gsocketpool's README implements, as written there."""

    def __init__(self, host, port, lifetime=600, timeout=None):  # type: ignore
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._host = host
        self._port = port
        self._lifetime = lifetime
        self._timeout = timeout
        self._connected = False
        self._created: Any = None

    def get(self) -> Any:
        return self._sock

    def open(self) -> None:
        self._sock.connect((self._host, self._port))
        if self._timeout:
            self._sock.settimeout(self._timeout)

        self._connected = True
        self._created = time.time()

    def close(self) -> None:
        if self._connected:
            self._sock.close()
            self._connected = False

    def is_connected(self) -> bool:
        return self._connected

    def is_expired(self) -> bool:
        if time.time() - self._created > self._lifetime:
            return True
        else:
            return False

    def send(self, data: bytes) -> None:
        assert self._connected

        self._sock.send(data)

    def recv(self, size: int = 1024) -> Any:
        assert self._connected

        return self._sock.recv(size)


def test_a_protocol_written_for_gsocketpool_runs() -> None:
    """A subclass of Connection with the methods of then needs no change."""
    with Echo() as echo:
        options = dict(host="127.0.0.1", port=echo.port, timeout=5)
        pool = Pool(OwnTcpConnection, options, 1, 2)
        for _ in range(3):
            with pool.connection() as conn:
                conn.send(b"hello")
                assert conn.recv() == b"hello"
        assert echo.accepted == 1
        conn._created -= 601
        with pool.connection() as young:
            assert young is not conn
        echo.wait_open(1)
        pool.close()
        echo.wait_open(0)


def test_a_pool_takes_gsocketpools_arguments_in_their_order() -> None:
    """factory, options, initial, maximum, reaping, interval."""
    with Echo() as echo:
        options = dict(host="127.0.0.1", port=echo.port)
        pool = Pool(TcpConnection, options, 1, 3, True, 60)
        assert pool.size == 1 and pool.max_connections == 3
        conn = pool.acquire()
        other = pool.acquire(retry=10)
        assert pool.size == 2
        pool.release(conn)
        with pytest.raises(ConnectionNotFoundError):
            pool.release(conn)
        pool.drop(conn)
        gevent.idle()
        assert pool.size == 1 and not conn.is_connected()
        pool.drop_expired()
        assert pool.size == 1
        pool.release(other)
        pool.close()


def test_drop_expired_closes_what_says_that_it_is_expired() -> None:
    """A connection's own ``is_expired`` is heard, by the sweep and at acquire."""
    with Echo() as echo:
        options = dict(host="127.0.0.1", port=echo.port, lifetime=100)
        pool = Pool(TcpConnection, options, 2)
        old = pool.idle_connections()
        clock = Clock(old[0].clock())
        for conn in old:
            conn.clock = clock
        clock.advance(101)
        with pool.connection() as conn:
            assert conn not in old
        pool.drop_expired()
        gevent.idle()
        assert not any(conn.is_connected() for conn in old)
        assert pool.size == 1
        pool.close()


def test_its_names_are_here() -> None:
    """What gsocketpool exports can be imported from here."""
    for name in (
        "Pool",
        "Connection",
        "TcpConnection",
        "PoolExhaustedError",
        "ConnectionNotFoundError",
    ):
        assert name in geventpool.__all__
        assert hasattr(geventpool, name)


GSOCKETPOOL = Backoff(0.1, factor=1, jitter=0, retries=10)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that the pool asked for, none of which is made."""
    made: list[float] = []
    turn = gevent.sleep

    def sleep(seconds: float = 0, ref: bool = True) -> None:
        made.append(seconds)
        turn(0)

    monkeypatch.setattr("geventpool._core.line.gevent.sleep", sleep)
    return made


def polling(backoff: Backoff) -> Pool[Any]:
    """A pool of one connection, without a reaper, whose sleep would count here."""
    return Pool(
        ScriptedConnector(),
        max_connections=1,
        reap_expired_connections=False,
        handoff=False,
        backoff=backoff,
    )


def test_exhaustion_is_polled_ten_times_as_gsocketpool_does(
    pauses: list[float],
) -> None:
    """With its back-off and without hand-off: 10 pauses of 0.1 s, then the refusal."""
    pool = polling(GSOCKETPOOL)
    conn = pool.acquire()
    with pytest.raises(PoolExhaustedError):
        pool.acquire()
    assert pauses == [0.1] * 10
    del pauses[:]
    with pytest.raises(PoolExhaustedError):
        pool.acquire(retry=3)
    assert pauses == [0.1] * 3
    del pauses[:]
    with pytest.raises(PoolExhaustedError):
        pool.acquire(retry=0)
    assert pauses == []
    pool.release(conn)


def test_a_poller_takes_what_came_back_meanwhile(pauses: list[float]) -> None:
    """At its next look it takes whatever is idle, as gsocketpool's does."""
    pool = polling(GSOCKETPOOL)
    conn = pool.acquire()
    seeker = gevent.spawn(pool.acquire, reclaim=False)
    gevent.spawn(lambda: None).join()
    pool.release(conn)
    # Not handed over: the faster greenlet gets it.
    assert pool.acquire() is conn
    pool.release(conn)
    assert seeker.get() is conn
    assert set(pauses) == {0.1}
    pool.release(conn)


def test_a_pollers_pauses_grow_as_the_back_off_says(pauses: list[float]) -> None:
    """Exhaustion backs off with ``gevent.sleep``, by *backoff*."""
    backoff = Backoff(0.1, factor=2, maximum=0.5, jitter=0, retries=5)
    pool = polling(backoff)
    conn = pool.acquire()
    with pytest.raises(PoolExhaustedError):
        pool.acquire()
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5])
    pool.release(conn)


# Its faults, which are not kept.


def test_the_limit_is_not_checked_before_a_connect_that_switches() -> None:
    """50 borrowers at once of a pool of 5: gsocketpool opens 50, this one 5."""
    with Echo() as echo:
        pool = Pool(TcpConnection, echo.options, max_connections=5)

        def client() -> None:
            with pool.connection() as conn:
                conn.send(b"x")
                assert conn.recv() == b"x"

        clients = [gevent.spawn(client) for _ in range(50)]
        gevent.joinall(clients, raise_error=True)
        assert echo.peak <= 5 and pool.size <= 5
        pool.close()


def test_a_lent_connection_can_be_dropped() -> None:
    """gsocketpool's ``drop`` knows idle ones only."""
    connector = ScriptedConnector()
    pool = Pool(connector)
    conn = pool.acquire()
    pool.drop(conn)
    assert conn.end == "discarded" and pool.size == 0


def test_an_age_is_not_measured_with_the_wall_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody who sets the clock of the machine does not make connections old."""
    with Echo() as echo:
        pool = Pool(
            TcpConnection, echo.options, 1, max_lifetime=600, max_idle=60, ping_after=9
        )
        (conn,) = pool.idle_connections()
        later = time.time() + 86400
        monkeypatch.setattr(time, "time", lambda: later)
        pool.drop_expired()
        with pool.connection() as again:
            assert again is conn
        pool.close()


# redis-py's pool.


def test_its_repr_tells_how_it_stands() -> None:
    """Like redis-py's, but with what one wants to know."""
    pool = Pool(ScriptedConnector(), max_connections=10, name="redis")
    assert repr(pool) == (
        "<Pool 'redis' 0/10: 0 idle, 0 in use, 0 opening, 0 closing, 0 waiting>"
    )
    lent = [pool.acquire() for _ in range(7)]
    for conn in lent[:3]:
        pool.release(conn)
    assert repr(pool) == (
        "<Pool 'redis' 7/10: 3 idle, 4 in use, 0 opening, 0 closing, 0 waiting>"
    )
    pool.drop(lent[0])
    assert "7/10: 2 idle, 4 in use, 0 opening, 1 closing" in repr(pool)


def test_a_repr_tells_what_is_being_opened_and_who_waits() -> None:
    """A waiter, and the dial for it."""
    may_open = Event()
    pool = Pool(ScriptedConnector(open=[may_open]), max_connections=1, name="redis")
    seekers = [gevent.spawn(pool.acquire) for _ in range(2)]
    gevent.idle()
    assert repr(pool) == (
        "<Pool 'redis' 1/1: 0 idle, 0 in use, 1 opening, 0 closing, 2 waiting>"
    )
    gevent.killall(seekers)


def test_pools_without_a_name_can_be_told_apart() -> None:
    """Each gets a number."""
    one, other = Pool(ScriptedConnector()), Pool(ScriptedConnector())
    assert one.name != other.name
    assert one.name.startswith("pool-") and repr(one.name) in repr(one)


# A MySQL pool on a queue.


def test_connections_are_opened_at_construction() -> None:
    """When the constructor returns they are there."""
    with Echo() as echo:
        pool = Pool(TcpConnection, echo.options, initial_connections=7)
        assert pool.stats().idle == 7
        echo.wait_accepted(7)
        pool.close()


def test_no_more_than_max_connecting_are_opened_at_a_time() -> None:
    """Pre-filling is no stampede."""
    connector = ScriptedConnector(switching=True)
    seen = 0

    def note() -> None:
        nonlocal seen
        seen = max(seen, connector.opening)

    connector.script("open", *[note] * 10)
    pool = Pool(connector, initial_connections=10, max_connecting=3)
    assert seen == 3 and pool.stats().idle == 10


@pytest.mark.parametrize("position", range(5))
def test_a_failure_at_construction_leaves_nothing_open(position: int) -> None:
    """What opening raised is raised, and what was open already is let go."""
    down = OSError("down")
    connector = ScriptedConnector(
        open=[down if number == position else None for number in range(5)]
    )
    with pytest.raises(OSError) as caught:
        Pool(connector, initial_connections=5, max_connecting=2)
    gevent.idle()
    assert caught.value is down
    assert connector.now_open == [] and connector.opening == 0


def test_an_interruption_at_construction_leaves_nothing_open() -> None:
    """A greenlet that is killed in the constructor has no pool to close."""
    connector = ScriptedConnector(open=[None, None, Event()])
    making = gevent.spawn(Pool, connector, None, 5, max_connecting=3)
    gevent.idle()
    assert len(connector.now_open) == 2
    making.kill()
    gevent.idle()
    assert connector.now_open == [] and connector.opening == 0


def test_a_dial_that_is_killed_at_construction_is_a_failure_too() -> None:
    """A pool with fewer connections than asked for is never returned."""
    connector = ScriptedConnector(open=[gevent.GreenletExit()])
    with pytest.raises(ConnectionAbortedError, match="was killed"):
        Pool(connector, initial_connections=2)
    gevent.idle()
    assert connector.now_open == []


def test_a_broken_connection_is_replaced_and_the_next_one_tried() -> None:
    """All within one acquire; nobody sees the broken ones."""
    connector = ScriptedConnector()
    pool = Pool(connector, initial_connections=3, max_connections=3)
    sound, *broken = pool.idle_connections()
    for conn in broken:
        conn.is_usable = False
    assert pool.acquire() is sound
    assert [conn.end for conn in broken] == ["discarded"] * 2
    rest = [pool.acquire() for _ in range(2)]
    assert not set(rest) & {sound, *broken}


def test_age_is_limited_on_access() -> None:
    """A connection older than *max_lifetime* is not lent."""
    connector = ScriptedConnector()
    pool = Pool(connector, initial_connections=1, max_lifetime=3600)
    clock = Clock(time.monotonic() + 3601)
    clock.rule(pool)
    (old,) = pool.idle_connections()
    assert pool.acquire() is not old
    assert old.end == "closed"


def test_age_is_limited_by_a_background_sweep() -> None:
    """A connection older than *max_lifetime* does not stay until somebody asks."""
    connector = ScriptedConnector()
    pool = Pool(connector, initial_connections=1, max_lifetime=1e9, reap_interval=0.001)
    clock = Clock(time.monotonic() + 2e9)
    closed = Event()
    connector.script("close", closed.set)
    clock.rule(pool)
    assert closed.wait(5)
    gevent.idle()
    assert pool.size == 0


def test_idle_connections_are_kept_alive_by_pings() -> None:
    """The server's ``wait_timeout`` never strikes."""
    connector = ScriptedConnector()
    pool = Pool(connector, initial_connections=2, ping_interval=0.001)
    heard = [Event() for _ in range(4)]
    connector.script("ping", *[event.set for event in heard])
    assert all(event.wait(5) for event in heard)
    pool.close()
