"""The look at an idle connection before it is lent."""

from __future__ import annotations

import array
import fcntl
import socket
import termios
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from gevent.server import StreamServer
from redis._parsers import _HiredisParser, _RESP2Parser, _RESP3Parser

from geventpool.redis.connector import FRESH_SECONDS
from geventpool.redis.frames import are_pushes
from geventpool.redis.probe import is_quiet
from geventpool.testing import no_switch, wait_until
from tests import parts
from tests.pauses import hang
from tests.redis.conftest import TLS
from tests.servers import RedisServer

PARSERS = [
    pytest.param(2, _HiredisParser, id="resp2-hiredis"),
    pytest.param(2, _RESP2Parser, id="resp2-python"),
    pytest.param(3, _HiredisParser, id="resp3-hiredis"),
    pytest.param(3, _RESP3Parser, id="resp3-python"),
]

PUSH = b">2\r\n$5\r\nhello\r\n$3\r\nyou\r\n"
INVALIDATION = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"
MOVING = b">2\r\n$6\r\nMOVING\r\n:1\r\n"
PONG = b"+PONG\r\n"


class Peer:
    """The other end of one connection, which says what a test wants it to."""

    def __init__(self, protocol: int, parser: Any) -> None:
        self.sock: Any = None
        self._server = StreamServer(("127.0.0.1", 0), self._serve)
        self._server.start()
        self.conn = redis.Connection(
            port=self._server.server_port,
            protocol=protocol,
            parser_class=parser,
            redis_connect_func=lambda conn: conn._parser.on_connect(conn),
        )
        self.conn.connect()
        wait_until(lambda: self.sock)

    def _serve(self, sock: Any, address: object) -> None:
        self.sock = sock
        # The server closes the socket when this returns.
        hang()

    def say(self, data: bytes) -> None:
        """Send *data* and see that it has arrived."""
        self.sock.sendall(data)
        native = parts.native(self.conn)
        wait_until(lambda: _readable(native))

    def close(self) -> None:
        self.conn.disconnect()
        if self.sock is not None:
            self.sock.close()
        self._server.stop()


def _readable(native: Any) -> bool:
    try:
        native.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    return True


@pytest.fixture()
def make_peer() -> Iterator[Any]:
    made = []

    def make(protocol: int, parser: Any) -> Peer:
        made.append(Peer(protocol, parser))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("protocol, parser", PARSERS)
def test_a_connection_with_nothing_to_read_is_quiet(
    make_peer: Any, protocol: int, parser: Any
) -> None:
    """Connected, and nothing said: fit to be lent. Asking does not switch."""
    peer = make_peer(protocol, parser)
    with no_switch():
        assert is_quiet(peer.conn)


@pytest.mark.parametrize("protocol, parser", PARSERS)
def test_a_stale_reply_in_the_socket_is_found(
    make_peer: Any, protocol: int, parser: Any
) -> None:
    """A reply that nobody read must not be the next borrower's."""
    peer = make_peer(protocol, parser)
    peer.say(PONG)
    with no_switch():
        assert not is_quiet(peer.conn)


@pytest.mark.parametrize("protocol, parser", PARSERS)
def test_a_stale_reply_in_the_parser_is_found(
    make_peer: Any, protocol: int, parser: Any
) -> None:
    """Two replies that came at once: the second waits where no socket shows it."""
    peer = make_peer(protocol, parser)
    peer.say(PONG + PONG)
    assert peer.conn.read_response() == b"PONG"
    with no_switch():
        assert not is_quiet(peer.conn)


@pytest.mark.parametrize("protocol, parser", PARSERS)
def test_the_end_of_the_stream_is_found(
    make_peer: Any, protocol: int, parser: Any
) -> None:
    """A server that hung up is not lent."""
    peer = make_peer(protocol, parser)
    peer.sock.shutdown(socket.SHUT_WR)
    wait_until(lambda: not is_quiet(peer.conn))


@pytest.mark.parametrize("protocol, parser", PARSERS)
def test_a_reset_connection_is_found(
    make_peer: Any, protocol: int, parser: Any
) -> None:
    """A peer that vanished with an error is not lent."""
    peer = make_peer(protocol, parser)
    linger = b"\1\0\0\0\0\0\0\0"
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    peer.sock.close()
    wait_until(lambda: not is_quiet(peer.conn))


@pytest.mark.parametrize("protocol, parser", PARSERS)
def test_a_push_in_the_socket_is_left_for_redis_py_with_resp3(
    make_peer: Any, protocol: int, parser: Any
) -> None:
    """What begins with > is a push in RESP3, and nothing at all in RESP2."""
    peer = make_peer(protocol, parser)
    peer.say(PUSH)
    with no_switch():
        assert is_quiet(peer.conn) is (protocol == 3)
    peer.say(PONG)
    if protocol == 3:
        assert peer.conn.read_response() == b"PONG"


@pytest.mark.parametrize("protocol, parser", PARSERS[2:])
def test_an_end_behind_a_push_is_found(
    make_peer: Any, protocol: int, parser: Any
) -> None:
    """A server that pushes and hangs up has hung up."""
    peer = make_peer(protocol, parser)
    peer.say(PUSH)
    peer.sock.shutdown(socket.SHUT_WR)
    wait_until(lambda: not is_quiet(peer.conn))


@pytest.mark.parametrize("protocol, parser", PARSERS[2:])
def test_an_invalidation_that_came_with_a_reply_is_acted_on(
    make_peer: Any, protocol: int, parser: Any
) -> None:
    """It is kept, for a stale cache would be worse than a new connection."""
    peer = make_peer(protocol, parser)
    told: list[Any] = []
    peer.conn._parser.set_invalidation_push_handler(told.append)
    peer.say(PONG + INVALIDATION)
    assert peer.conn.read_response() == b"PONG"
    with no_switch():
        assert is_quiet(peer.conn)
    peer.say(PONG)
    assert peer.conn.read_response() == b"PONG"
    assert [each[1] for each in told] == [[b"k"]]


def test_a_reply_behind_an_invalidation_is_found(make_peer: Any) -> None:
    """The parser of hiredis is emptied until something stale turns up."""
    peer = make_peer(3, _HiredisParser)
    peer.say(PONG + INVALIDATION + PONG)
    assert peer.conn.read_response() == b"PONG"
    assert not is_quiet(peer.conn)


def test_a_notice_of_maintenance_in_hiredis_costs_the_connection(
    make_peer: Any,
) -> None:
    """It can't be acted on without switching, and can't be put back."""
    peer = make_peer(3, _HiredisParser)
    peer.say(PONG + MOVING)
    assert peer.conn.read_response() == b"PONG"
    assert not is_quiet(peer.conn)


def test_hiredis_without_pushes_finds_only_replies(
    make_peer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old versions of hiredis have no type for pushes."""
    peer = make_peer(3, _HiredisParser)
    monkeypatch.setattr(peer.conn._parser, "_hiredis_PushNotificationType", None)
    peer.say(PONG + INVALIDATION)
    assert peer.conn.read_response() == b"PONG"
    assert not is_quiet(peer.conn)


@pytest.mark.parametrize("protocol, parser", PARSERS)
def test_a_connection_that_was_closed_is_not_quiet(
    make_peer: Any, protocol: int, parser: Any
) -> None:
    """No socket, nothing to lend."""
    peer = make_peer(protocol, parser)
    peer.conn.disconnect()
    assert not is_quiet(peer.conn)


def test_a_number_above_1023_is_no_trouble(make_peer: Any) -> None:
    """The look does not go through select()."""
    peer = make_peer(3, _HiredisParser)
    sock = parts.native(peer.conn)
    high = fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, 1500)
    native = type(sock)(fileno=high)
    native.setblocking(False)
    old, parts.socket_of(peer.conn)._sock = sock, native
    try:
        assert is_quiet(peer.conn)
        peer.say(PONG)
        assert not is_quiet(peer.conn)
    finally:
        parts.socket_of(peer.conn)._sock = old
        native.close()


class Stranger:
    """A connection of somebody's own making."""

    def __init__(self, readable: bool) -> None:
        self._readable = readable

    def can_read(self) -> bool:
        return self._readable


def test_a_stranger_is_asked_himself() -> None:
    """Of a connection with no socket that we know, its own word is taken."""
    assert is_quiet(Stranger(readable=False))
    assert not is_quiet(Stranger(readable=True))


def _tls_connection(server: RedisServer, protocol: int, parser: Any) -> Any:
    conn = redis.SSLConnection(
        host=server.host,
        port=server.port,
        ssl_ca_certs=str(TLS / "cert.pem"),
        protocol=protocol,
        parser_class=parser,
    )
    conn.connect()
    return conn


@pytest.mark.parametrize("protocol, parser", PARSERS)
def test_tls_is_read_to_tell_tickets_from_replies(
    tls_server: RedisServer, protocol: int, parser: Any
) -> None:
    """A fresh session looks readable, for its tickets; that is no reply."""
    conn = _tls_connection(tls_server, protocol, parser)
    try:
        with no_switch():
            assert is_quiet(conn)
        conn.send_command("PING")
        wait_until(lambda: _readable(parts.native(conn)))
        with no_switch():
            assert not is_quiet(conn)
    finally:
        conn.disconnect()


@pytest.mark.parametrize("protocol, parser", PARSERS[2:])
def test_a_push_over_tls_is_kept(
    tls_server: RedisServer, protocol: int, parser: Any
) -> None:
    """The byte that was read to know it is there again when redis-py reads."""
    conn = _tls_connection(tls_server, protocol, parser)
    told: list[Any] = []
    try:
        conn.send_command("CLIENT", "TRACKING", "ON", "BCAST")
        conn.read_response()
        conn._parser.set_invalidation_push_handler(told.append)
        tls_server.ask("SET", "pushed", "1")
        wait_until(lambda: _readable(parts.native(conn)))
        with no_switch():
            assert is_quiet(conn)
        conn.send_command("PING")
        assert conn.read_response() == b"PONG"
        assert told[0][1] == [b"pushed"]
    finally:
        conn.disconnect()


@pytest.mark.parametrize("protocol, parser", PARSERS)
def test_the_end_of_a_tls_stream_is_found(
    tls_server: RedisServer, protocol: int, parser: Any
) -> None:
    """A close notice is no silence."""
    conn = _tls_connection(tls_server, protocol, parser)
    try:
        tls_server.hang_up()
        wait_until(lambda: not is_quiet(conn))
    finally:
        conn.disconnect()


def test_a_long_reply_over_tls_is_not_read_to_its_end(tls_server: RedisServer) -> None:
    """A look must not take as long as the peer has something to say."""
    conn = _tls_connection(tls_server, 3, _HiredisParser)
    try:
        conn.send_command("ECHO", "x" * 100_000)
        size = array.array("i", [0])

        def arrived() -> bool:
            fcntl.ioctl(parts.native(conn).fileno(), termios.FIONREAD, size)
            return size[0] > 70_000

        wait_until(arrived)
        with no_switch():
            assert not is_quiet(conn)
    finally:
        conn.disconnect()


def test_a_tls_stream_that_breaks_off_is_found(tls_server: RedisServer) -> None:
    """Without a notice, as when a process is killed."""
    conn = _tls_connection(tls_server, 3, _HiredisParser)
    try:
        parts.native(conn).shutdown(socket.SHUT_RD)
        assert not is_quiet(conn)
    finally:
        conn.disconnect()


@pytest.mark.parametrize("protocol, parser", PARSERS[2:])
@pytest.mark.parametrize("rest", [PONG, b"_\r\n", b"$5\r\nhello\r\n", b"*0\r\n"])
def test_a_reply_behind_a_push_is_found(
    make_peer: Any, protocol: int, parser: Any, rest: bytes
) -> None:
    """The push may stay, the reply would be the next borrower's."""
    peer = make_peer(protocol, parser)
    peer.say(INVALIDATION + rest)
    with no_switch():
        assert not is_quiet(peer.conn)


@pytest.mark.parametrize("protocol, parser", PARSERS[2:])
def test_several_pushes_may_stay_and_the_last_may_be_incomplete(
    make_peer: Any, protocol: int, parser: Any
) -> None:
    """Each is found by redis-py when it reads next."""
    peer = make_peer(protocol, parser)
    peer.say(INVALIDATION + PUSH + INVALIDATION[:-3])
    with no_switch():
        assert is_quiet(peer.conn)
    peer.say(INVALIDATION[-3:] + PONG)
    assert peer.conn.read_response() == b"PONG"


@pytest.mark.parametrize("protocol, parser", PARSERS[2:])
def test_nobody_looks_behind_a_push_without_end(
    make_peer: Any, protocol: int, parser: Any
) -> None:
    """Then the connection is replaced."""
    peer = make_peer(protocol, parser)
    peer.say(b">2\r\n$10\r\ninvalidate\r\n*1\r\n$65536\r\n" + b"k" * 65536)
    wait_until(lambda: not is_quiet(peer.conn))


def test_a_push_in_two_parts_of_which_the_parser_holds_one_is_a_push(
    make_peer: Any,
) -> None:
    """Its beginning is in the parser written in Python, its end in the socket."""
    peer = make_peer(3, _RESP3Parser)
    peer.say(PONG + PUSH[:7])
    assert peer.conn.read_response() == b"PONG"
    assert is_quiet(peer.conn)
    peer.say(PUSH[7:])
    assert is_quiet(peer.conn)
    peer.say(PONG)
    wait_until(lambda: not is_quiet(peer.conn))


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"", True),
        (PUSH, True),
        (PUSH * 3, True),
        (PUSH + PONG, False),
        (PONG + PUSH, False),
        (PUSH[:1], True),
        (PUSH[:-1], True),
        (b">1\r\n|1\r\n+a\r\n+b\r\n%1\r\n:1\r\n#t\r\n" + PUSH, True),
        (b">1\r\n|1\r\n+a\r\n+b\r\n%1\r\n:1\r\n#t\r\n" + PONG, False),
        (b">2\r\n$-1\r\n*-1\r\n+x\r\n", False),
        (b">3\r\n~1\r\n=5\r\ntxt:a\r\n!3\r\nERR\r\n(1\r\n", True),
        (b">x\r\n", False),
        (b">1\r\n$?\r\n", False),
    ],
)
def test_pushes_are_told_from_replies_by_their_bytes(
    data: bytes, expected: bool
) -> None:
    """Of every kind of message in RESP3, also one within another."""
    assert are_pushes(data) is expected


def test_a_reply_proves_life_for_less_than_a_millisecond() -> None:
    """A peer that hung up since then must not be taken for alive."""
    assert 0 < FRESH_SECONDS < 0.001
