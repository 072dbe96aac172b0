"""Sockets that await a reply: as gevent's sockets, with fewer system calls."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gevent
import pytest
import redis
from gevent import monkey, socket
from redis._parsers import _RESP2Parser
from redis.backoff import NoBackoff
from redis.retry import Retry

from geventpool.redis import ConnectionPool
from geventpool.redis.request_socket import SMALL, RequestSocket, as_request_socket
from geventpool.sockets import find_socket, terminate
from geventpool.testing import no_switch, switches, wait_until
from tests.conftest import HubError
from tests.pauses import hang
from tests.redis.scripted import echo, scripted_redis
from tests.redis.tools import pool_of

native_socket = monkey.get_original("socket", "socket")

#: How a reply can be read; each returns its bytes.
READS: dict[str, Callable[[Any], bytes]] = {
    "recv": lambda sock: bytes(sock.recv(100)),
    "recv_into": lambda sock: received(sock, bytearray(100)),
}


def received(sock: Any, buffer: bytearray) -> bytes:
    return bytes(buffer[: sock.recv_into(buffer)])


@pytest.fixture(params=READS)
def read(request: pytest.FixtureRequest) -> Callable[[Any], bytes]:
    return READS[request.param]


class Noted(RequestSocket):
    """One whose system calls can be noted."""

    def note(self, sends: list[int | None] | None = None) -> Noting:
        """Note them from now on; see there."""
        self._sock = noting = Noting(self._sock, sends)
        return noting


@pytest.fixture()
def ends() -> Iterator[tuple[Noted, Any]]:
    """A socket for requests, and gevent's at the other end, connected by TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        here = socket.create_connection(listener.getsockname())
        there, _ = listener.accept()
    with Noted(fileno=here.detach()) as sock, there:
        sock.settimeout(5)
        there.settimeout(5)
        yield sock, there


class Noting:
    """Stands for a native socket, and notes the names of the methods that are called.

    :param sends: what becomes of the first calls of ``send``: the number of bytes that
        are accepted; None: no room.
    """

    def __init__(self, native: Any, sends: list[int | None] | None = None) -> None:
        self._native = native
        self._sends = sends or []
        self.calls: list[str] = []
        #: the flags of ``send``
        self.flags: list[int] = []

    def __getattr__(self, name: str) -> Any:
        if name in ("getsockopt", "recv", "recv_into"):
            self.calls.append(name)
        return getattr(self._native, name)

    def send(self, data: Any, *flags: int) -> int:
        self.calls.append("send")
        self.flags.extend(flags)
        if self._sends:
            most = self._sends.pop(0)
            if most is None:
                raise BlockingIOError(errno.EAGAIN, "no room")
            data = data[:most]
        return int(self._native.send(data, *flags))


def test_a_request_and_its_reply_take_one_system_call_each(
    ends: Any, read: Callable[[Any], bytes]
) -> None:
    """One switch too, and no read that finds nothing."""
    sock, there = ends
    noting = sock.note()
    with no_switch():
        sock.sendall(b"request")
    assert there.recv(100) == b"request"
    gevent.spawn(there.sendall, b"reply")
    with switches() as seen:
        assert read(sock) == b"reply"
    assert len(seen) == 1
    assert len(noting.calls) == 2 and noting.calls[0] == "send"


def test_only_the_first_read_after_a_request_waits(
    ends: Any, read: Callable[[Any], bytes]
) -> None:
    """The rest of the reply is there, and read as from any socket."""
    sock, there = ends
    sock.sendall(b"request")
    there.sendall(b"reply")
    assert sock.recv(1) == b"r"
    with no_switch():
        assert read(sock) == b"eply"


def test_a_peek_does_not_wait_for_what_is_there(ends: Any) -> None:
    """redis-py peeks, after a poll, to tell an end of the stream from data."""
    sock, there = ends
    sock.sendall(b"request")
    there.sendall(b"reply")
    socket.wait_read(sock.fileno(), timeout=5)
    with no_switch():
        assert sock.recv(1, socket.MSG_PEEK) == b"r"
        assert sock.recv_into(bytearray(1), 1, socket.MSG_PEEK) == 1


def test_a_read_of_no_bytes_waits_for_none(ends: Any) -> None:
    """It returns at once."""
    sock, _ = ends
    sock.sendall(b"request")
    with no_switch():
        assert sock.recv(0) == b""
        assert sock.recv_into(bytearray(0)) == 0


def test_a_socket_that_does_not_wait_awaits_no_reply(
    ends: Any, read: Callable[[Any], bytes]
) -> None:
    """redis-py reads so when it only wants to know whether there is something."""
    sock, there = ends
    sock.sendall(b"request")
    sock.settimeout(0)
    with no_switch(), pytest.raises(BlockingIOError):
        read(sock)
    there.sendall(b"reply")
    socket.wait_read(sock.fileno(), timeout=5)
    with no_switch():
        assert read(sock) == b"reply"


def test_a_reply_is_awaited_for_the_timeout(
    ends: Any, read: Callable[[Any], bytes]
) -> None:
    """The error is that of gevent's sockets. A late reply can be read."""
    sock, there = ends
    sock.sendall(b"request")
    sock.settimeout(0.001)
    with pytest.raises(TimeoutError, match="^timed out$"):
        read(sock)
    sock.settimeout(5)
    there.sendall(b"reply")
    assert read(sock) == b"reply"


@pytest.mark.parametrize(
    "close",
    [
        pytest.param(lambda sock: sock.close(), id="close"),
        pytest.param(lambda sock: sock.shutdown(socket.SHUT_RDWR), id="shutdown"),
        pytest.param(terminate, id="terminate"),
    ],
)
def test_whoever_awaits_a_reply_is_told_that_the_socket_was_closed(
    close: Callable[[Any], object],
    ends: Any,
    read: Callable[[Any], bytes],
    hub_errors: list[HubError],
) -> None:
    """By another greenlet, as gevent's sockets tell."""
    sock, _ = ends
    sock.sendall(b"request")
    reader = gevent.spawn(read, sock)
    gevent.idle()
    close(sock)
    with pytest.raises(OSError) as raised:
        reader.get(timeout=5)
    assert raised.value.errno == errno.EBADF
    hub_errors.clear()


def test_a_closed_socket_says_so_at_once(
    ends: Any, read: Callable[[Any], bytes]
) -> None:
    """To who sends, and to who reads."""
    sock, _ = ends
    sock.sendall(b"request")
    sock.close()
    with no_switch():
        for use in lambda: read(sock), lambda: sock.sendall(b"another"):
            with pytest.raises(OSError) as raised:
                use()
            assert raised.value.errno == errno.EBADF


def test_the_wait_for_a_reply_can_be_interrupted(
    ends: Any, read: Callable[[Any], bytes]
) -> None:
    """By a kill and by a Timeout. The reply can still be read."""
    sock, there = ends
    sock.sendall(b"request")
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.001):
        read(sock)
    sock.sendall(b"request")
    reader = gevent.spawn(read, sock)
    gevent.idle()
    reader.kill(timeout=5)
    assert reader.dead
    there.sendall(b"reply")
    assert read(sock) == b"reply"


def test_one_greenlet_may_read_while_another_sends(
    ends: Any, read: Callable[[Any], bytes]
) -> None:
    """As a subscriber does."""
    sock, there = ends
    seen: list[bytes] = []

    def listen() -> None:
        while seen[-1:] != [b"end"]:
            seen.append(read(sock))

    reader = gevent.spawn(listen)
    gevent.idle()
    for word in b"one", b"two", b"end":
        sock.sendall(b"request")
        there.sendall(word)
        wait_until(partial(seen.count, word))
    reader.get(timeout=5)
    assert seen == [b"one", b"two", b"end"]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"small", id="small"),
        pytest.param(b"s" * SMALL, id="just small"),
        pytest.param(b"l" * (SMALL + 1), id="just large"),
        pytest.param(bytes(range(256)) * 40_000, id="larger than any buffer"),
        pytest.param(bytearray(b"array"), id="bytearray"),
        pytest.param(memoryview(b"view" * 8).cast("I"), id="view of numbers"),
    ],
)
def test_all_of_it_is_sent(data: Any, ends: Any) -> None:
    """Whatever its size and type, to a peer that reads when it can."""
    sock, there = ends
    sender = gevent.spawn(sock.sendall, data)
    length = memoryview(data).nbytes
    got = bytearray()
    while len(got) < length:
        got += there.recv(1 << 20)
    assert sender.get(timeout=5) is None
    assert got == bytes(data)


def test_what_is_sent_with_flags_has_them(ends: Any) -> None:
    """Also if it is small."""
    sock, there = ends
    noting = sock.note()
    sock.sendall(b"request", socket.MSG_NOSIGNAL)
    assert there.recv(100) == b"request"
    assert noting.flags == [socket.MSG_NOSIGNAL]


@pytest.mark.parametrize("sends", [[3], [None], [3, None], [0, 2, None, 1]])
def test_what_the_kernel_has_no_room_for_is_sent_later(
    sends: list[int | None], ends: Any
) -> None:
    """A small request may be accepted in parts, or not at once."""
    sock, there = ends
    sock.note(sends)
    sock.sendall(b"request")
    sock.shutdown(socket.SHUT_WR)
    assert b"".join(iter(lambda: there.recv(100), b"")) == b"request"


def test_a_peer_that_does_not_read_is_waited_for_within_the_timeout(
    ends: Any,
) -> None:
    """Or not at all, as by gevent's sockets."""
    sock, _ = ends
    sock.settimeout(0)
    with pytest.raises(BlockingIOError):
        while True:
            sock.send(bytes(1 << 20))
    with pytest.raises(BlockingIOError):
        while True:
            # Until there is no room for a single byte.
            sock.sendall(b"x")
    sock.settimeout(0.001)
    with pytest.raises(TimeoutError, match="^timed out$"):
        sock.sendall(b"x")


# What becomes one


def test_descriptor_and_timeout_stay() -> None:
    """The old socket has let go of them."""
    old, other = socket.socketpair()
    with other:
        old.settimeout(7.5)
        number = old.fileno()
        with as_request_socket(old) as sock:
            assert type(sock) is RequestSocket
            assert (sock.fileno(), old.fileno()) == (number, -1)
            assert sock.gettimeout() == 7.5
            assert sock.family == socket.AF_UNIX and sock.type == socket.SOCK_STREAM


def test_a_socket_of_another_class_stays_what_it_is() -> None:
    """Nothing is known of its methods."""

    class Own(socket.socket):
        pass

    with native_socket() as native, Own() as own:
        for each in native, own, object():
            assert as_request_socket(each) is each


# In a connection of redis-py

#: The options of a connection with each of redis-py's parsers.
PARSERS: list[Any] = [
    pytest.param({}, id="hiredis"),
    pytest.param({"parser_class": _RESP2Parser, "protocol": 2}, id="python"),
]


def one_connection(port: int, **options: Any) -> redis.Redis:
    retry = Retry(NoBackoff(), 0)
    pool = ConnectionPool(
        host="127.0.0.1", port=port, max_connections=1, retry=retry, **options
    )
    return redis.Redis(connection_pool=pool)


@pytest.mark.parametrize("parser", PARSERS)
def test_a_server_that_does_not_reply_in_time_is_an_error_of_redis_py(
    parser: dict[str, Any],
) -> None:
    """And the connection is closed."""
    with scripted_redis(lambda command: None) as server:
        client = one_connection(server.port, socket_timeout=0.01, **parser)
        with pytest.raises(redis.TimeoutError, match="Timeout reading from"):
            client.echo("x")
        assert pool_of(client).stats().size == 0
        pool_of(client).shutdown(timeout=0)


@pytest.mark.parametrize("parser", PARSERS)
def test_a_kill_while_a_reply_is_awaited_costs_the_connection(
    parser: dict[str, Any],
) -> None:
    """Its late reply would be taken for the next one."""
    with scripted_redis() as server:
        client = one_connection(server.port, **parser)
        server.answer = hang
        victim = gevent.spawn(client.echo, "x")
        wait_until(lambda: server.received)
        victim.kill(timeout=5)
        server.answer = echo
        assert pool_of(client).stats().idle == 0
        assert client.echo("y") == b"y"
        pool_of(client).shutdown(timeout=0)


@pytest.mark.parametrize("parser", PARSERS)
def test_whether_there_is_something_to_read_is_told_without_waiting(
    parser: dict[str, Any],
) -> None:
    """Right after a request as well."""
    with scripted_redis() as server:
        client = one_connection(server.port, **parser)
        conn = pool_of(client).get_connection()
        assert isinstance(find_socket(conn), RequestSocket)
        conn.send_command("ECHO", "x")
        assert not conn.can_read(0)
        assert conn.can_read(5)
        assert conn.read_response() == b"x"
        conn.send_command("ECHO", "y")
        assert conn.read_response(timeout=5) == b"y"
        pool_of(client).release(conn)
        pool_of(client).shutdown(timeout=0)
