"""Connections: what a pool asks of them, and the TCP kind against real peers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from errno import EBADF, EISCONN, ENOTCONN
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket

from geventpool import dialing, sockets
from geventpool.connection import Connection, TcpConnection
from geventpool.dialing import KeepAlive
from geventpool.testing import no_switch
from tests.peers import Deaf, Echo, Unruly, tls_contexts, unix_path


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def echo() -> Iterator[Echo]:
    """A peer that answers; every connection to it is closed when the test is over."""
    with Echo() as peer:
        yield peer


def opened(peer: Any, **options: Any) -> TcpConnection:
    conn = TcpConnection(**peer.options, **options)
    conn.open()
    return conn


# The least a connection is


class Minimal(Connection):
    """A connection that knows its state and nothing else."""

    def __init__(self, *failures: Exception) -> None:
        self.calls: list[str] = []
        self.connected = False
        self.failures = list(failures)

    def open(self) -> None:
        self.calls.append("open")
        if self.failures:
            raise self.failures.pop()
        self.connected = True

    def close(self) -> None:
        self.calls.append("close")
        self.connected = False

    def is_connected(self) -> bool:
        return self.connected


def test_what_every_kind_does_differently_must_be_written() -> None:
    """Opening, closing, the raw connection and its state have no defaults."""
    conn = Connection()
    for method in conn.open, conn.close, conn.get, conn.is_connected:
        with pytest.raises(NotImplementedError):
            method()


def test_a_connection_is_for_ever_unless_it_says_otherwise() -> None:
    """Without an age limit nothing expires."""
    assert not Connection().is_expired()


def test_reconnecting_closes_what_is_open() -> None:
    """An open connection is closed before it is opened again, a closed one is not."""
    conn = Minimal()
    conn.reconnect()
    conn.reconnect()
    assert conn.calls == ["open", "close", "open"]


def test_a_failure_to_reconnect_is_not_hidden() -> None:
    """A reconnect without success is told to its caller."""
    error = OSError("no")
    conn = Minimal(error)
    with pytest.raises(OSError) as raised:
        conn.reconnect()
    assert raised.value is error


def test_any_connection_with_a_socket_can_be_asked_and_discarded(echo: Echo) -> None:
    """A subclass that keeps its socket where others do gets both for nothing."""
    conn: Any = Minimal()
    conn._sock = dialing.dial(echo.host, echo.port, timeout=5)
    with no_switch():
        assert conn.is_quiet()
        assert conn.terminate() is True
        assert not conn.is_quiet()
    assert conn.calls == []
    echo.wait_open(0)


def test_without_a_socket_nothing_can_be_discarded() -> None:
    """Where no socket is found, nothing speaks against it; close() might wait."""
    conn = Minimal()
    assert conn.is_quiet()
    assert conn.terminate() is False
    assert conn.calls == []


def test_it_may_be_lent_if_it_is_connected_and_quiet_and_not_expired() -> None:
    """A subclass that overrides the parts need not override the whole."""

    class Parts(Minimal):
        parts = {"is_connected": True, "is_expired": False, "is_quiet": True}

        def is_connected(self) -> bool:
            return self.parts["is_connected"]

        def is_expired(self) -> bool:
            return self.parts["is_expired"]

        def is_quiet(self) -> bool:
            return self.parts["is_quiet"]

    conn = Parts()
    assert conn.is_usable()
    for name in Parts.parts:
        conn.parts = {**Parts.parts, name: not Parts.parts[name]}
        assert not conn.is_usable()


def test_a_tcp_connection_asks_the_parts_that_a_subclass_overrides(echo: Echo) -> None:
    """The fast path must not leave out what a subclass has to say."""

    class Doomed(TcpConnection):
        def is_expired(self) -> bool:
            return True

    class Favoured(Doomed):
        def is_usable(self) -> bool:
            return True

    class Named(TcpConnection):
        name = "nothing to do with it"

    usable = []
    for kind in TcpConnection, Named, Doomed, Favoured:
        conn = kind(echo.host, echo.port)
        conn.open()
        usable.append(conn.is_usable())
        conn.close()
    assert usable == [True, True, False, True]


def test_a_tcp_connection_may_be_lent_until_it_closes_or_expires(echo: Echo) -> None:
    """The fast path says what the parts say."""
    clock = Clock()
    conn = TcpConnection(echo.host, echo.port, lifetime=60)
    conn.clock = clock  # type: ignore[method-assign]
    assert not conn.is_usable()
    conn.open()
    assert conn.is_usable()
    clock.now += 60
    assert conn.is_usable() and not conn.is_expired()
    clock.now += 1
    assert not conn.is_usable() and conn.is_expired()
    conn.close()
    assert not conn.is_usable() and not conn.is_expired()


# Opening and closing


def test_nothing_is_connected_before_open(echo: Echo) -> None:
    """A connection that was not opened has no socket and says so."""
    conn = TcpConnection(echo.host, echo.port)
    assert not conn.is_connected()
    assert not conn.is_quiet()
    assert not conn.is_expired()
    assert conn.fileno() == -1
    for use in conn.get, lambda: conn.socket, lambda: conn.send(b""), conn.recv:
        with pytest.raises(OSError) as raised:
            use()
        assert raised.value.errno == ENOTCONN
    assert echo.accepted == 0


def test_what_is_sent_arrives_and_is_answered(echo: Echo) -> None:
    """Opened, it sends, receives, and gives out its socket."""
    conn = opened(echo)
    assert conn.is_connected() and conn.is_quiet()
    assert conn.get() is conn.socket
    assert conn.fileno() == conn.socket.fileno()
    conn.send(b"hello")
    assert conn.recv() == b"hello"
    assert conn.recv(0) == b""
    assert conn.is_connected()
    conn.close()


def test_closing_is_seen_by_the_peer_and_may_be_repeated(echo: Echo) -> None:
    """Closing lets go of the socket at once, without a switch, and only once."""
    conn = opened(echo)
    with no_switch():
        conn.close()
        conn.close()
        conn.terminate()
    assert not conn.is_connected()
    assert conn.fileno() == -1
    echo.wait_open(0)


def test_an_open_connection_is_not_opened_again(echo: Echo) -> None:
    """A second open() is refused, and no second socket made."""
    conn = opened(echo)
    with pytest.raises(OSError) as raised:
        conn.open()
    assert raised.value.errno == EISCONN
    conn.send(b"x")
    assert conn.recv() == b"x"
    assert echo.accepted == 1
    conn.close()


def test_reconnecting_makes_a_new_socket(echo: Echo) -> None:
    """The old socket goes before the new one comes."""
    conn = opened(echo)
    before = conn.socket
    conn.reconnect()
    assert conn.socket is not before
    conn.send(b"x")
    assert conn.recv() == b"x"
    echo.wait_open(1)
    assert echo.accepted == 2
    conn.close()


def test_a_connection_that_failed_to_open_can_be_opened_later() -> None:
    """A refusal leaves nothing behind that would be in the way."""
    peer = Echo()
    with peer:
        conn = TcpConnection(peer.host, peer.port)
    with pytest.raises(ConnectionRefusedError):
        conn.open()
    with pytest.raises(ConnectionRefusedError):
        conn.reconnect()
    assert not conn.is_connected()
    with peer:
        conn.open()
        conn.close()


def test_opening_takes_no_longer_than_it_may() -> None:
    """The connect time-out covers a peer that accepts nothing."""
    with Deaf() as deaf:
        conn = TcpConnection(deaf.host, deaf.port, connect_timeout=0.01)
        with pytest.raises(TimeoutError):
            conn.open()
        assert not conn.is_connected()


def test_tls_is_spoken_when_asked_for() -> None:
    """With a context it speaks TLS, and checks the name it was given."""
    server, client = tls_contexts()
    with Echo(tls=server) as peer:
        conn = opened(peer, ssl=client, server_hostname="peer.test")
        conn.send(b"hello")
        assert conn.recv() == b"hello"
        assert conn.is_quiet()
        conn.close()
        peer.wait_open(0)


@pytest.mark.parametrize("kind", [str, Path, str.encode])
def test_a_unix_socket_will_do(kind: Any) -> None:
    """A path, of any type, takes the place of host and port."""
    with unix_path() as path, Echo(path=path):
        conn = TcpConnection(path=kind(path))
        conn.open()
        conn.send(b"hello")
        assert conn.recv() == b"hello"
        conn.close()


def test_keep_alive_reaches_the_socket(echo: Echo) -> None:
    """How soon a vanished peer is noticed is the caller's to say."""
    conn = opened(echo, keepalive=KeepAlive(idle=7))
    idle = conn.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
    assert idle == 7
    conn.close()


# Talking


def test_all_of_it_is_sent() -> None:
    """A message larger than any buffer goes out whole, to a peer slow to read."""
    with Unruly("late") as peer:
        conn = opened(peer)
        data = bytes(range(256)) * 40_000
        sender = gevent.spawn(conn.send, data)
        gevent.idle()
        assert not sender.dead
        peer.may_answer.set()
        received = bytearray()
        while len(received) < len(data):
            received += conn.recv(1 << 20)
        sender.get(timeout=5)
        assert received == data
        conn.close()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_bytes_may_be_sent(kind: Any, echo: Echo) -> None:
    """Bytes, a bytearray and a memoryview are all the same, and so is nothing."""
    conn = opened(echo)
    conn.send(kind(b""))
    conn.send(kind(b"hello"))
    assert conn.recv() == b"hello"
    conn.close()


def test_a_peer_that_hangs_up_disconnects_it() -> None:
    """The end of the stream is told once, and it is disconnected."""
    with Unruly("hang up") as peer:
        conn = opened(peer)
        conn.send(b"question")
        assert conn.recv() == b""
        assert not conn.is_connected()
        assert not conn.is_quiet()


def test_a_peer_that_hung_up_while_idle_is_noticed() -> None:
    """A look at an idle connection tells that the peer has gone."""
    with Echo() as peer:
        conn = opened(peer)
        peer.wait_open(1)
        peer.hang_up_all()
        socket.wait_read(conn.fileno(), timeout=5)
        assert conn.is_connected()
        with no_switch():
            assert not conn.is_quiet()
        conn.close()


def test_a_reset_disconnects_it() -> None:
    """An error from the network disconnects it."""
    with Unruly("reset") as peer:
        conn = opened(peer)
        conn.send(b"question")
        with pytest.raises(ConnectionResetError):
            conn.recv()
        assert not conn.is_connected()


def test_a_late_answer_never_meets_the_next_question() -> None:
    """After a time-out it is disconnected: the answer may still come."""
    with Unruly("silent") as peer:
        conn = opened(peer, timeout=0.01)
        conn.send(b"question")
        with gevent.Timeout(5), pytest.raises(TimeoutError):
            conn.recv()
        assert not conn.is_connected()
        peer.wait_open(0)


def test_a_kill_or_a_timeout_in_mid_reply_disconnects_it() -> None:
    """Any exception that hits a receiver leaves the stream out of step."""
    with Unruly("silent") as peer:
        conn = opened(peer)
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
            conn.recv()
        assert not conn.is_connected()
        conn.reconnect()
        receiver = gevent.spawn(conn.recv)
        gevent.idle()
        receiver.kill()
        assert not conn.is_connected()
        peer.wait_open(0)


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_a_reply_is_awaited_without_a_futile_read(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only by the first recv() after a send(), and not by one of no bytes."""
    waits: list[Any] = []
    wait = sockets.await_reply

    def noted(sock: Any) -> None:
        waits.append(sock)
        wait(sock)

    monkeypatch.setattr(sockets, "await_reply", noted)
    server, client = tls_contexts() if kind == "tls" else (None, None)
    with Echo(tls=server) as peer:
        conn = opened(peer, ssl=client, server_hostname=client and "peer.test")
        assert conn.recv(0) == b""
        for _ in range(2):
            conn.send(b"question")
            assert conn.recv(0) == b""
            assert not waits
            assert conn.recv(4) + conn.recv(4) == b"question"
            assert waits.pop() is conn.socket
        conn.close()


def disconnect(receiver: Any, conn: TcpConnection) -> None:
    conn.terminate()


def kill(receiver: Any, conn: TcpConnection) -> None:
    receiver.kill(block=False)


def time_out(receiver: Any, conn: TcpConnection) -> None:
    receiver.kill(gevent.Timeout(), block=False)


@pytest.mark.parametrize("interrupt", [disconnect, kill, time_out])
def test_whatever_ends_the_wait_for_a_reply_disconnects_it(
    interrupt: Any, hub_errors: list[Any]
) -> None:
    """The stream is out of step, as it is within a reply."""
    with Unruly("silent") as peer:
        conn = opened(peer)
        conn.send(b"question")
        receiver = gevent.spawn(conn.recv)
        gevent.idle()
        interrupt(receiver, conn)
        receiver.join(timeout=5)
        assert receiver.dead and not conn.is_connected()
        peer.wait_open(0)
    hub_errors.clear()


def test_a_message_cut_in_two_disconnects_it() -> None:
    """Any exception that hits a sender leaves half a message behind."""
    with Unruly("late") as peer:
        conn = opened(peer, timeout=0.01)
        with gevent.Timeout(5), pytest.raises(TimeoutError):
            conn.send(bytes(50_000_000))
        assert not conn.is_connected()
        conn.reconnect()
        conn.socket.settimeout(None)
        sender = gevent.spawn(conn.send, bytes(50_000_000))
        gevent.idle()
        sender.kill()
        assert not conn.is_connected()
        peer.may_answer.set()


def test_whoever_waits_on_a_discarded_connection_is_told(
    hub_errors: list[Any],
) -> None:
    """Discarding a connection wakes the greenlet that uses it, with an OSError."""
    with Unruly("silent") as peer:
        conn = opened(peer)
        receiver = gevent.spawn(conn.recv)
        gevent.idle()
        with no_switch():
            conn.terminate()
        with pytest.raises(OSError) as raised:
            receiver.get(timeout=5)
        assert raised.value.errno == EBADF
        peer.wait_open(0)
    hub_errors.clear()


# Age


def test_age_is_counted_from_open(echo: Echo) -> None:
    """It is expired once it has been open for longer than its lifetime."""
    conn = TcpConnection(echo.host, echo.port, lifetime=60)
    conn.clock = clock = Clock()
    conn.open()
    clock.now += 60
    assert not conn.is_expired()
    clock.now += 0.5
    assert conn.is_expired()
    conn.reconnect()
    assert not conn.is_expired()
    conn.close()


def test_the_lifetime_begins_when_it_is_open(
    echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time that the dial took is not part of it."""
    conn = TcpConnection(echo.host, echo.port, lifetime=60)
    conn.clock = clock = Clock()
    dial = dialing.dial

    def slowly(*args: Any, **options: Any) -> Any:
        clock.now += 50
        return dial(*args, **options)

    monkeypatch.setattr(dialing, "dial", slowly)
    conn.open()
    clock.now += 30
    assert not conn.is_expired()
    conn.close()


def test_without_a_lifetime_nothing_expires(echo: Echo) -> None:
    """None means no limit, and the default is ten minutes."""
    for_ever = opened(echo, lifetime=None)
    usual = opened(echo)
    for conn in for_ever, usual:
        conn.clock = clock = Clock()
        clock.now = conn._opened_at + 601
    assert not for_ever.is_expired()
    assert usual.is_expired()
    for_ever.close()
    usual.close()


def test_the_clock_on_the_wall_is_never_asked(
    echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Setting the wall clock neither expires nor rejuvenates a connection."""

    def ask() -> float:
        raise AssertionError("asked the wall clock")

    monkeypatch.setattr(time, "time", ask)
    conn = opened(echo, timeout=5)
    conn.send(b"x")
    assert conn.recv() == b"x"
    assert not conn.is_expired()
    conn.close()


# Words


def test_it_says_where_it_leads_and_whether_it_is_open(echo: Echo) -> None:
    """The repr names address and descriptor."""
    conn = opened(echo)
    where = f"127.0.0.1:{echo.port}"
    assert repr(conn) == f"<TcpConnection {where} fd {conn.fileno()}>"
    conn.close()
    assert repr(conn) == f"<TcpConnection {where} closed>"
    assert repr(TcpConnection("::1", 80)) == "<TcpConnection [::1]:80 closed>"
    assert repr(TcpConnection(path="/x")) == "<TcpConnection '/x' closed>"


GOOD: dict[str, Any] = {"host": "127.0.0.1", "port": 80}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, TypeError, "host must be a str, not None"),
        ({"host": b"h", "port": 1}, TypeError, "host must be a str, not b'h'"),
        ({"host": "", "port": 1}, ValueError, "host must not be empty"),
        ({"host": "h"}, TypeError, "port must be an int, not None"),
        ({"host": "h", "port": "80"}, TypeError, "port must be an int, not '80'"),
        ({"host": "h", "port": True}, TypeError, "port must be an int, not True"),
        ({"host": "h", "port": 0}, ValueError, "port must be between 1 and 65535"),
        ({"host": "h", "port": 65536}, ValueError, "not 65536"),
        ({"path": "/x", "host": "h"}, ValueError, "path '/x' is given instead of"),
        ({"path": "/x", "port": 1}, ValueError, "path '/x' is given instead of"),
        ({"path": ""}, ValueError, "path must not be empty"),
        ({"path": 7}, TypeError, "path must be .* not 7"),
        (GOOD | {"lifetime": -1}, ValueError, "lifetime .* not -1"),
        (GOOD | {"lifetime": "1"}, TypeError, "lifetime .* not '1'"),
        (GOOD | {"timeout": float("nan")}, ValueError, "timeout .* not nan"),
        (GOOD | {"timeout": 0}, ValueError, "timeout must be above 0 .* not 0"),
        (GOOD | {"connect_timeout": 0}, ValueError, "connect_timeout .* not 0"),
        (GOOD | {"connect_timeout": True}, TypeError, "connect_timeout .* not True"),
        (GOOD | {"ssl": "yes"}, TypeError, "ssl must be .* not 'yes'"),
        (GOOD | {"server_hostname": 1}, TypeError, "server_hostname .* not 1"),
        (GOOD | {"server_hostname": ""}, ValueError, "server_hostname .* not ''"),
        (GOOD | {"server_hostname": ".x"}, ValueError, "server_hostname .* not '.x'"),
        (GOOD | {"keepalive": 30}, TypeError, "keepalive must be a KeepAlive, not 30"),
    ],
)
def test_bad_arguments_are_refused_by_name(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """A bad argument is refused when it is passed, with name, value and rule."""
    with pytest.raises(error, match=message):
        TcpConnection(**options)
