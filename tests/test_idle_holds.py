"""Who holds a connection without using it is named, and a slow query is not."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.server import StreamServer
from sqlalchemy import create_engine, text

from geventpool import Pool, PoolExhaustedError, TcpConnection, mysql, redis
from geventpool._core import idle_holds
from geventpool._core.idle_holds import IdleHolds, is_awaited
from geventpool._core.reports import IdleHold
from geventpool.sqlalchemy import GreenletPool
from geventpool.testing import ScriptedConnector
from tests import parts
from tests.servers import MariaDBServer, RedisServer


def tallies(holds):
    """What was counted of each line of code."""
    return holds._tallies


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that never answers."""
    done = Event()
    server = StreamServer(("127.0.0.1", 0), lambda sock, address: done.wait())
    server.start()
    yield server.server_port  # type: ignore[misc]
    done.set()
    server.stop(timeout=1)


@pytest.fixture
def pool(silent: int) -> Iterator[Pool[Any]]:
    options = {"host": "127.0.0.1", "port": silent}
    with Pool(TcpConnection, options, max_connections=2, timeout=0) as pool:
        pool.acquire(timeout=5)
        yield pool
        for conn in pool.lent_connections():
            pool.drop(conn, anyone=True)


def sampled(pool: Any, times: int = idle_holds.ENOUGH) -> list[IdleHold]:
    """What is known after so many samples."""
    for _ in range(times):
        parts.idle_holds(pool).sample()
    found: list[IdleHold] = parts.idle_holds(pool).report()
    return found


def held(pool: Any, work: Callable[[Any], object]) -> Any:
    """A greenlet that does *work* with a loan."""
    begun = Event()

    def hold() -> None:
        with pool.connection(timeout=5) as conn:
            begun.set()
            work(conn)

    parts.borrow_sites(pool).want()
    holder = gevent.spawn(hold)
    assert begun.wait(10)
    gevent.idle()
    # The pool takes samples too while a connection is opened slowly.
    tallies(parts.idle_holds(pool)).clear()
    return holder


def test_a_holder_that_waits_for_something_else_is_named(pool: Pool[Any]) -> None:
    """With the line that borrowed and the line at which it waits."""
    done = Event()
    holder = held(pool, lambda conn: done.wait())
    (found,) = sampled(pool)
    assert "in hold" in found.borrowed_at and "in <lambda>" in found.waits_at
    assert found.share == 1.0 and "100% of the time" in str(found)
    assert pool.stats().idle_holds == (found,)
    done.set()
    holder.join()


def test_a_holder_that_waits_for_the_lent_socket_is_not_named(
    pool: Pool[Any],
) -> None:
    """A slow query is no mistake of the program."""
    holder = held(pool, lambda conn: conn.recv())
    assert sampled(pool) == []
    (tally,) = tallies(parts.idle_holds(pool)).values()
    assert tally.all == idle_holds.ENOUGH and tally.idle == 0
    holder.kill()


def test_few_samples_name_nobody(pool: Pool[Any]) -> None:
    """Chance is no evidence."""
    done = Event()
    holder = held(pool, lambda conn: done.wait())
    assert sampled(pool, idle_holds.ENOUGH - 1) == []
    done.set()
    holder.join()


def test_the_refusal_names_the_worst_line(pool: Pool[Any]) -> None:
    """It is what the reader of the error looks for."""
    done = Event()
    holder = held(pool, lambda conn: done.wait())
    sampled(pool, 2 * idle_holds.TURNS)
    with pytest.raises(PoolExhaustedError, match="holds a connection 100% of the time"):
        pool.acquire()
    done.set()
    holder.join()


def test_samples_are_taken_while_somebody_waits(pool: Pool[Any]) -> None:
    """At the beats that measure the lag of the event loop, and at no other time."""
    watch, taken = parts.loan_watch(pool), Event()
    sample = watch.idle_holds.sample

    def note() -> None:
        sample()
        taken.set()

    watch.idle_holds.sample = note  # type: ignore[method-assign]
    assert watch.sampling(lambda: False)() is False and not taken.is_set()
    done = Event()
    holder = held(pool, lambda conn: done.wait())
    waiter = gevent.spawn(pool.acquire, None, 30)
    assert taken.wait(10)
    done.set()
    holder.join()
    pool.release(waiter.get(), anyone=True)


def test_loans_that_nobody_can_be_blamed_for_are_passed_over(pool: Pool[Any]) -> None:
    """The caller itself runs, one was handed over, one waits for its first turn."""
    holds = parts.idle_holds(pool)
    conn = pool.acquire(timeout=5)
    tallies(holds).clear()
    pool.transfer(conn, None)
    assert sampled(pool) == [] and not tallies(holds)
    pool.transfer(conn, gevent.getcurrent())
    (entry, other) = parts.ledger(pool).entries.values()
    other.waiter = SimpleNamespace()  # type: ignore[assignment]
    other.holder = gevent.spawn
    entry.holder = lambda: None
    holds._look_at(entry)
    other.holder = lambda: SimpleNamespace(gr_frame=None)
    holds._look_at(other)
    assert not tallies(holds)
    other.waiter = None


def test_connections_without_a_known_socket_are_passed_over() -> None:
    """Nothing can be said about them, so nothing is."""
    done = Event()
    with Pool(ScriptedConnector()) as pool:
        holder = held(pool, lambda conn: done.wait())
        assert sampled(pool) == [] and not tallies(parts.idle_holds(pool))
        done.set()
        holder.join()


def test_a_socket_that_gevent_does_not_know_tells_nothing() -> None:
    """It has no watchers."""
    assert is_awaited(SimpleNamespace()) is None
    ours, theirs = socket.socketpair()
    assert is_awaited(ours) is False
    ours.close()
    theirs.close()


def test_all_entries_are_looked_at_in_turn(
    pool: Pool[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large pool costs no more than a small one."""
    monkeypatch.setattr(idle_holds, "LOOKED_AT", 1)
    done = Event()
    holder = held(pool, lambda conn: done.wait())
    assert len(sampled(pool, 3 * idle_holds.ENOUGH)) == 1
    done.set()
    holder.join()


def test_lines_are_bounded_and_old_samples_fade(
    pool: Pool[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that was mended must not be named forever."""
    done = Event()
    holder = held(pool, lambda conn: done.wait())
    monkeypatch.setattr(idle_holds, "SITES", 0)
    assert sampled(pool) == []
    monkeypatch.undo()
    monkeypatch.setattr(idle_holds, "MANY", 20)
    sampled(pool, 50)
    (tally,) = tallies(parts.idle_holds(pool)).values()
    assert tally.all <= 20 and tally.places.total() <= 20
    done.set()
    holder.join()


def test_a_line_that_is_idle_for_the_smaller_part_is_not_named() -> None:
    """A short pause between two queries is ordinary."""
    with Pool(ScriptedConnector()) as pool:
        holds = IdleHolds(parts.ledger(pool), parts.borrow_sites(pool))
        place = idle_holds.Site("views.py", 88, "checkout")  # type: ignore[attr-defined]
        tally = tallies(holds)[place] = idle_holds._Tally()
        for number in range(idle_holds.ENOUGH):
            tally.add(place if number < 4 else None)
        assert holds.report() == []


def test_a_slow_command_of_redis_counts_as_use(redis_server: RedisServer) -> None:
    """The driver waits for the lent socket."""
    with redis.ConnectionPool(
        host=redis_server.host, port=redis_server.port
    ) as connections:
        client = redis_client(connections)
        holder = gevent.spawn(client.blpop, "nothing", 30)
        gevent.idle()
        while not connections.core.lent_connections():
            gevent.idle()
        watch = parts.idle_holds(connections.core)
        wait_for_use(connections.core)
        assert sampled(connections.core) == [] and tallies(watch)
        holder.kill()


def redis_client(connections: Any) -> Any:
    import redis as driver

    return driver.Redis(connection_pool=connections)


def wait_for_use(pool: Any) -> None:
    """Return when the driver waits for the socket of its loan."""
    with gevent.Timeout(10):
        while True:
            lent = pool.lent_connections()
            if lent and is_awaited(lent[0]):
                return
            gevent.idle()


def test_a_slow_query_of_mysql_counts_as_use(mariadb_server: MariaDBServer) -> None:
    """The driver waits for the lent socket."""
    with mysql.ConnectionPool(**mariadb_server.client_options) as pool:

        def ask(conn: Any) -> None:
            with conn.cursor() as cursor:
                cursor.execute("SELECT SLEEP(30)")

        holder = held(pool, ask)
        wait_for_use(pool)
        assert sampled(pool) == [] and tallies(parts.idle_holds(pool))
        holder.kill()


def test_a_slow_query_of_sqlalchemy_counts_as_use(
    mariadb_server: MariaDBServer,
) -> None:
    """The socket is the one of the driver's connection in the record."""
    engine = create_engine(
        f"mysql+pymysql://root@{mariadb_server.host}:{mariadb_server.port}/",
        poolclass=GreenletPool,
    )
    core: Any = engine.pool.core  # type: ignore[attr-defined]

    def ask() -> None:
        with engine.connect() as conn:
            conn.execute(text("SELECT SLEEP(30)"))

    holder = gevent.spawn(ask)
    with gevent.Timeout(10):
        while not any(is_awaited(each) for each in core.lent_connections()):
            gevent.idle()
    assert sampled(core) == [] and tallies(parts.idle_holds(core))
    holder.kill()
    engine.dispose()
