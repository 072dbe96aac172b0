"""The core, over TCP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
from gevent import socket

from geventpool import FactoryConnector, Pool, TcpConnection
from geventpool.dialing import dial, dial_unix
from geventpool.sockets import terminate
from geventpool.testing import wait_until
from tests import parts
from tests.failures.scenes.table import Scene, Site, covers
from tests.peers import Echo, tls_contexts, unix_path


def ask(conn: Any, question: bytes) -> bytes:
    """The answer of an echo, whole."""
    conn.send(question)
    answer = b""
    while len(answer) < len(question):
        more = conn.recv(65536)
        assert more, "hung up"
        answer += more
    return answer


def echo_scene(
    work: Callable[[Pool[Any]], object], peer: Echo, **options: Any
) -> Scene:
    where = {**peer.options, "connect_timeout": 5, "timeout": 5}
    if peer.tls is not None:
        where["ssl"] = tls_contexts()[1]
    pool = Pool(TcpConnection, where, max_connections=1, timeout=5, **options)

    def afterwards() -> None:
        with pool.connection() as conn:
            assert ask(conn, b"yours") == b"yours"

    return Scene(lambda: work(pool), [pool], afterwards)


def in_block(pool: Pool[Any]) -> None:
    with pool.connection() as conn:
        assert ask(conn, b"mine") == b"mine"


def bare(pool: Pool[Any]) -> None:
    conn = pool.acquire()
    try:
        assert ask(conn, b"mine") == b"mine"
    except BaseException:
        pool.drop(conn)
        raise
    pool.release(conn)


OPENING = ("dialing.dial", "connection.TcpConnection.open")


@covers(
    "pool.Pool.connection",
    "connection.TcpConnection.recv",
    *("_core.wait_timers.WaitTimers.sleep", "_core.wait_timers.TimedWaiter.sleep"),
)
def a_block(site: Site) -> Scene:
    return echo_scene(in_block, site.echo)


@covers("pool.Pool.acquire", *OPENING, "factory.FactoryConnector.open")
def acquire_and_release(site: Site) -> Scene:
    return echo_scene(bare, site.echo)


@covers("pool.Pool.connection", *OPENING)
def a_block_over_tls(site: Site) -> Scene:
    return echo_scene(in_block, site.tls)


@covers("pool.Pool.connection")
def a_block_over_a_unix_socket(site: Site) -> Scene:
    return echo_scene(in_block, site.unix)


@covers("pool.Pool.connection", "factory.FactoryConnector.open")
def a_plain_socket(site: Site) -> Scene:
    # It does not notice by itself that it is out of step, as a TcpConnection does.
    pool = Pool(
        lambda: socket.create_connection(site.echo.address),
        max_connections=1,
        timeout=5,
    )

    def ask_plainly(question: bytes) -> None:
        with pool.connection() as conn:
            conn.sendall(question)
            assert conn.recv(65536) == question

    return Scene(lambda: ask_plainly(b"mine"), [pool], lambda: ask_plainly(b"yours"))


@covers("connection.TcpConnection.send")
def much_sent_to_a_slow_peer(site: Site) -> Scene:
    def work(pool: Pool[Any]) -> None:
        with pool.connection() as conn:
            reader = gevent.spawn_later(0.01, lambda: conn.recv(1))
            try:
                conn.send(bytes(8_000_000))
            finally:
                reader.kill(block=False)

    # What comes back is not read: the connection must not be kept.
    def end(pool: Pool[Any]) -> None:
        try:
            work(pool)
        finally:
            pool.drain()

    return echo_scene(end, site.echo)


@covers("connection.Connection.reconnect", "connection.TcpConnection.open")
def reconnecting(site: Site) -> Scene:
    def work(pool: Pool[Any]) -> None:
        with pool.connection() as conn:
            conn.reconnect()
            assert ask(conn, b"mine") == b"mine"

    return echo_scene(work, site.echo)


@covers("pool.Pool", "_core.opener.Opener.prefill")
def pre_filling(site: Site) -> Scene:
    made: list[Pool[Any]] = []

    def work() -> None:
        where = {**site.echo.options, "connect_timeout": 5}
        made.append(Pool(TcpConnection, where, 3, max_connections=3))

    def afterwards() -> None:
        for pool in made:
            in_block(pool)
            pool.close(timeout=0)
        site.echo.wait_open(0)

    return Scene(work, [], afterwards)


@covers("pool.Pool.close", "_core.shutdown.shut_down")
def closing(site: Site) -> Scene:
    where = {**site.echo.options, "connect_timeout": 5}
    pool = Pool(TcpConnection, where, max_connections=2)
    with pool.connection() as conn:
        ask(conn, b"warm")
    holder = gevent.spawn(bare, pool)

    def work() -> None:
        gevent.idle()
        pool.close()

    def afterwards() -> None:
        pool.close(timeout=0)
        gevent.killall([holder])
        assert pool.size == 0

    return Scene(work, [], afterwards)


@covers("_core.housekeeping.Housekeeping.sweep")
def borrowing_while_the_reaper_pings(site: Site) -> Scene:
    class Slow(TcpConnection):
        def ping(self) -> None:
            ask(self, b"ping")

    where = {**site.echo.options, "connect_timeout": 5}
    pool = Pool(Slow, where, max_connections=2, ping_interval=0, reap_interval=99)
    lent = [pool.acquire() for _ in range(2)]
    for conn in lent:
        pool.release(conn)

    def work() -> None:
        # A sweep that takes long: each look at the clock is one slice later.
        now = 1000.0

        def clock() -> float:
            nonlocal now
            now += 0.003
            return now

        before, parts.ledger(pool).clock = parts.ledger(pool).clock, clock
        try:
            parts.lifecycle(pool).housekeeping.sweep()
        finally:
            parts.ledger(pool).clock = before
        in_block(pool)

    def afterwards() -> None:
        in_block(pool)

    return Scene(work, [pool], afterwards)


def until_idle(pool: Pool[Any]) -> None:
    """Wait for the pool's greenlets; they may have been killed."""
    wait_until(lambda: not pool.stats().resetting)


class Speaking(FactoryConnector):
    """Every verb of it has something to say to the other side."""

    def open(self) -> Any:
        conn = super().open()
        try:
            ask(conn, b"hello")
        except BaseException:
            self.terminate(conn)
            raise
        return conn

    def needs_reset(self, conn: Any) -> bool:
        return True

    def reset(self, conn: Any) -> None:
        ask(conn, b"reset")


class Spoken(TcpConnection):
    """Its ping and its goodbye are round trips."""

    def ping(self) -> None:
        ask(self, b"ping")

    def close(self) -> None:
        try:
            if self.is_connected():
                ask(self, b"bye")
        finally:
            self.terminate()


@covers(
    *("factory.FactoryConnector.open", "factory.FactoryConnector.ping"),
    *("factory.FactoryConnector.close", "_core.workers.within"),
    *("_core.checking.Checks.check", "_core.checking.Checks.reset"),
    "_core.closing.Closer.close_now",
)
def a_connector_that_speaks(site: Site) -> Scene:
    connector = Speaking(Spoken, {**site.echo.options, "connect_timeout": 5})
    pool = Pool(connector, max_connections=1, ping_after=0, timeout=5)

    def work() -> None:
        in_block(pool)
        # It is being reset, and will be pinged when it is lent.
        until_idle(pool)
        in_block(pool)
        # Says goodbye.
        pool.drain()
        in_block(pool)

    return Scene(work, [pool], lambda: in_block(pool))


@covers("dialing.dial")
def dialling_by_hand(site: Site) -> Scene:
    def work() -> None:
        terminate(dial("localhost", site.echo.port, timeout=5))

    return Scene(work, [], lambda: site.echo.wait_open(0))


@covers("dialing.dial_unix")
def dialling_a_unix_socket_by_hand(site: Site) -> Scene:
    def work() -> None:
        sock = dial_unix(site.unix.path or "", timeout=5)
        try:
            sock.sendall(b"x")
            sock.recv(1)
        finally:
            terminate(sock)

    def full() -> None:
        # One that is full has to be asked again and again.
        with unix_path() as path, socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(0)
            others = [socket.socket(socket.AF_UNIX) for _ in range(2)]
            try:
                for other in others:
                    other.setblocking(False)
                    other.connect_ex(path)
                terminate(dial_unix(path, timeout=0.02))
            except TimeoutError:
                pass
            finally:
                for other in others:
                    other.close()

    return Scene(lambda: (full(), work()), [], lambda: site.unix.wait_open(0))  # type: ignore[func-returns-value]
