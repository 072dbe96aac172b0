"""Sockets: dialled in time, asked without waiting, let go of at once."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import ssl
from collections.abc import Callable, Iterator
from errno import EBADF
from typing import Any

import gevent
import greenlet
import pytest
from gevent import monkey, socket
from gevent._hub_local import get_hub_if_exists
from gevent.event import Event

from geventpool import sockets
from geventpool.dialing import KeepAlive, dial, dial_unix
from geventpool.sockets import abort, await_reply, has_hung_up, is_quiet, terminate
from geventpool.testing import no_switch, wait_until
from tests.peers import (
    Deaf,
    Echo,
    Unruly,
    open_sockets,
    run_script,
    tls_contexts,
    unix_path,
)


@pytest.fixture(autouse=True)
def no_socket_left() -> Iterator[None]:
    """Whatever a test opens or makes fail is closed when it is over."""
    before = open_sockets()
    yield
    # gevent with libuv closes a socket in a later turn of the loop.
    wait_until(lambda: open_sockets() <= before, "closed")


def ask(sock: Any, question: bytes = b"hello") -> bytes:
    sock.sendall(question)
    answer: bytes = sock.recv(100)
    return answer


def readable(sock: Any) -> bool:
    poll = monkey.get_original("select", "poll")()
    poll.register(sock.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def until_readable(sock: Any) -> None:
    # Its own watcher: a wait of the socket's would be cancelled by nobody.
    socket.wait_read(sock.fileno(), timeout=5)


def refused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


# Dialling


def test_dialling_gives_a_connected_gevent_socket_that_may_wait() -> None:
    """A dialled socket is gevent's own, connected, and in blocking mode."""
    with Echo() as peer:
        sock = dial(peer.host, peer.port, timeout=5)
        assert isinstance(sock, socket.socket)
        assert sock.gettimeout() is None
        assert ask(sock) == b"hello"
        terminate(sock)


def test_without_a_time_limit_it_is_the_systems() -> None:
    """No timeout arms no timer; connecting works all the same."""
    with Echo() as peer:
        sock = dial(peer.host, peer.port)
        assert ask(sock) == b"hello"
        terminate(sock)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_numeric_host_does_not_pass_through_the_resolver(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten names that do not resolve hold up no numeric address."""

    def resolve(*args: object) -> None:
        raise AssertionError("asked the resolver")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(OSError):
        dial(host, refused_port(), timeout=5)


def test_a_name_is_resolved() -> None:
    """A host may be a name."""
    with Echo() as peer:
        sock = dial("localhost", peer.port, timeout=5)
        assert ask(sock) == b"hello"
        terminate(sock)


def test_a_name_that_does_not_exist_is_the_resolvers_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the resolver raised is passed on unchanged."""
    error = socket.gaierror(socket.EAI_NONAME, "no such name")

    def resolve(*args: object) -> None:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(socket.gaierror) as raised:
        dial("nowhere.test", 1, timeout=5)
    assert raised.value is error


def test_the_deadline_ends_a_connect_that_nobody_answers() -> None:
    """A host that never answers costs the time-out and no descriptor."""
    with Deaf() as deaf:
        with pytest.raises(TimeoutError, match=rf"{deaf.port} within 0.01 s"):
            dial(deaf.host, deaf.port, timeout=0.01)


def test_the_deadline_ends_the_wait_for_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that never answers costs the time-out."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: Event().wait())
    with pytest.raises(TimeoutError):
        dial("slow.test", 1, timeout=0.01)


def test_the_deadline_ends_a_handshake() -> None:
    """A server that accepts and then says nothing costs the time-out."""
    with Unruly("silent") as peer:
        with pytest.raises(TimeoutError):
            dial(peer.host, peer.port, timeout=0.05, ssl=tls_contexts()[1])
        peer.wait_open(0)


@pytest.mark.parametrize("timeout", [float("nan"), -1, float("inf")])
def test_a_time_that_is_no_duration_is_refused(timeout: float) -> None:
    """A NaN would stop every timer of the process, so it never gets that far."""
    with pytest.raises(ValueError, match="timeout must be finite"):
        dial("127.0.0.1", 1, timeout=timeout)


def test_somebody_elses_timeout_passes_through() -> None:
    """The caller's own gevent.Timeout is not translated, and leaves nothing behind."""
    with Deaf() as deaf:
        with pytest.raises(gevent.Timeout) as raised:
            with gevent.Timeout(0.01) as outer:
                dial(deaf.host, deaf.port, timeout=5)
        assert raised.value is outer


def test_a_kill_while_connecting_leaves_no_descriptor() -> None:
    """A greenlet that is killed while dialling leaves nothing behind."""
    with Deaf() as deaf:
        dialler = gevent.spawn(dial, deaf.host, deaf.port, timeout=5)
        gevent.idle()
        dialler.kill()
        assert isinstance(dialler.value, gevent.GreenletExit)


def test_a_kill_in_the_handshake_leaves_no_descriptor() -> None:
    """A greenlet that is killed in a handshake leaves nothing behind."""
    with Unruly("silent") as peer:
        dialler = gevent.spawn(dial, peer.host, peer.port, ssl=tls_contexts()[1])
        peer.wait_accepted(1)
        gevent.idle()
        dialler.kill()
        assert isinstance(dialler.value, gevent.GreenletExit)
        peer.wait_open(0)


def test_nobody_is_connected_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that was given the port it is looking for has found no server."""

    class Unlucky(socket.socket):
        def connect(self, address: Any) -> None:
            self.bind(address)
            super().connect(address)

    monkeypatch.setattr(socket, "socket", Unlucky)
    with pytest.raises(ConnectionRefusedError, match="itself"):
        dial("127.0.0.1", refused_port(), timeout=5)


# Options


def test_a_vanished_peer_is_noticed_in_time() -> None:
    """A socket sends at once, asks a silent peer, and gives up a vanished one."""
    with Echo() as peer:
        keepalive = KeepAlive(idle=7, interval=3, count=2)
        sock = dial(peer.host, peer.port, timeout=5, keepalive=keepalive)
        for level, option, value in (
            (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 7),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 3),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 13_000),
        ):
            assert sock.getsockopt(level, option) == value
        terminate(sock)


def test_options_that_a_platform_lacks_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where there is no TCP_USER_TIMEOUT, the rest still counts."""
    all_of_them = list(KeepAlive().options())
    missing = socket.TCP_USER_TIMEOUT
    monkeypatch.delattr(socket, "TCP_USER_TIMEOUT")
    expected = [each for each in all_of_them if each[1] != missing]
    assert list(KeepAlive().options()) == expected != all_of_them


@pytest.mark.parametrize("name", ["idle", "interval", "count"])
def test_keep_alive_takes_whole_numbers_above_zero(name: str) -> None:
    """Each number of a KeepAlive is an int from 1 to what Linux takes."""
    most = {"idle": 32767, "interval": 32767, "count": 127}[name]
    for number in 0, most + 1:
        with pytest.raises(ValueError, match=f"{name} .*1 to {most}, not {number}"):
            KeepAlive(**{name: number})
    for wrong in 1.5, True, "1":
        with pytest.raises(TypeError, match=name):
            KeepAlive(**{name: wrong})  # type: ignore[arg-type]


# TLS


def test_tls_is_spoken_and_the_name_checked() -> None:
    """A certificate for this host is accepted, and the socket talks."""
    server, client = tls_contexts()
    with Echo(tls=server) as peer:
        sock = dial(peer.host, peer.port, timeout=5, ssl=client)
        assert ask(sock) == b"hello"
        assert sock.gettimeout() is None
        terminate(sock)


def test_the_certificate_may_bear_another_name() -> None:
    """server_hostname says which name is to be checked in place of the host."""
    server, client = tls_contexts()
    with Echo(tls=server) as peer:
        name = "peer.test"
        sock = dial(peer.host, peer.port, timeout=5, ssl=client, server_hostname=name)
        assert ask(sock) == b"hello"
        terminate(sock)
        with pytest.raises(ssl.SSLCertVerificationError):
            dial(peer.host, peer.port, timeout=5, ssl=client, server_hostname="x.test")
        peer.wait_open(0)


# Unix sockets


def test_a_unix_socket_is_dialled() -> None:
    """A path takes the place of host and port."""
    with unix_path() as path, Echo(path=path) as peer:
        sock = dial_unix(path, timeout=5)
        assert ask(sock) == b"hello"
        assert sock.gettimeout() is None
        assert peer.open == 1
        terminate(sock)


def test_a_unix_socket_may_speak_tls() -> None:
    """Over a Unix socket the name to be checked is given."""
    server, client = tls_contexts()
    with unix_path() as path, Echo(path=path, tls=server):
        sock = dial_unix(path, timeout=5, ssl=client, server_hostname="peer.test")
        assert ask(sock) == b"hello"
        terminate(sock)


def test_a_socket_that_cannot_be_wrapped_is_let_go_of() -> None:
    """A context that wants a name where there is none costs no descriptor."""
    with unix_path() as path, Echo(path=path) as peer:
        with pytest.raises(ValueError, match="server_hostname"):
            dial_unix(path, timeout=5, ssl=tls_contexts()[1])
        peer.wait_open(0)


def test_a_path_where_nobody_listens_is_refused() -> None:
    """What connecting to a path raised is passed on unchanged."""
    with unix_path() as path, pytest.raises(FileNotFoundError):
        dial_unix(path, timeout=5)


def test_a_full_backlog_is_waited_for_without_spinning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server too busy to accept is asked a few times, not as fast as one can."""
    attempts = []

    class Counting(socket.socket):
        def connect(self, address: Any) -> None:
            attempts.append(address)
            super().connect(address)

    with unix_path() as path, Deaf(path=path):
        monkeypatch.setattr(socket, "socket", Counting)
        with pytest.raises(TimeoutError):
            dial_unix(path, timeout=0.05)
        assert 1 < len(attempts) < 20


def test_a_backlog_that_clears_lets_one_in() -> None:
    """Once the server accepts again, the one who waited is connected."""
    with unix_path() as path, Deaf(path=path) as deaf:
        dialler = gevent.spawn(dial_unix, path, timeout=5)
        gevent.idle()
        accepted = [deaf._listener.accept()[0]]
        sock = dialler.get(timeout=5)
        terminate(sock)
        accepted[0].close()


# Asking


def gevent_tcp() -> tuple[Any, Any]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    here = socket.create_connection(listener.getsockname())
    there = listener.accept()[0]
    listener.close()
    return here, there


def gevent_unix() -> tuple[Any, Any]:
    here, there = socket.socketpair()
    return here, there


def native_unix() -> tuple[Any, Any]:
    native = monkey.get_original("socket", "socket")
    here, there = socket.socketpair()
    return native(fileno=here.detach()), there


def gevent_subclass() -> tuple[Any, Any]:
    class Mine(socket.socket):
        pass

    here, there = socket.socketpair()
    return Mine(fileno=here.detach()), there


class Pair:
    """Two ends of a connection."""

    def __init__(self, here: Any, there: Any) -> None:
        self.here, self.there = here, there


@pytest.fixture(params=[gevent_tcp, gevent_unix, native_unix, gevent_subclass])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A pair of connected sockets, of each kind."""
    both = Pair(*request.param())
    yield both
    both.here.close()
    both.there.close()


def test_an_idle_socket_is_quiet(pair: Pair) -> None:
    """Open and nothing to read is quiet, and asking does not switch."""
    with no_switch():
        assert is_quiet(pair.here)
        assert is_quiet(pair.here)


def test_unexpected_bytes_are_noise_and_stay_unread(pair: Pair) -> None:
    """A socket with something to read is not quiet, and loses nothing by the look."""
    pair.there.sendall(b"?")
    until_readable(pair.here)
    with no_switch():
        assert not is_quiet(pair.here)
    assert pair.here.recv(10) == b"?"
    assert is_quiet(pair.here)


def test_the_end_of_the_stream_is_noise(pair: Pair) -> None:
    """A peer that has hung up is noticed."""
    pair.there.close()
    until_readable(pair.here)
    assert not is_quiet(pair.here)


def test_who_has_hung_up_is_told_from_who_says_something(pair: Pair) -> None:
    """A server may send notices to a client that is idle."""
    assert not has_hung_up(pair.here)
    pair.there.sendall(b"notice")
    until_readable(pair.here)
    assert not has_hung_up(pair.here)
    pair.there.close()
    # The unread bytes are still there.
    with no_switch():
        assert has_hung_up(pair.here)


def test_what_is_closed_has_hung_up(pair: Pair) -> None:
    """Also where a driver does not say it with an error of the system."""
    os.close(pair.there.detach())
    assert has_hung_up(pair.there)
    pair.here.close()
    assert has_hung_up(pair.here)

    class Closed:
        def fileno(self) -> int:
            raise LookupError("the connection is closed")

    assert has_hung_up(Closed())


def test_a_number_that_is_used_again_is_asked_anew(pair: Pair) -> None:
    """The kept poll object knows a number, not the connection that had it."""
    assert is_quiet(pair.here)
    near, far = socket.socketpair()
    with near, far:
        far.send(b"for another")
        os.dup2(near.fileno(), pair.here.fileno(), inheritable=False)
        until_readable(pair.here)
        assert not is_quiet(pair.here)


def test_a_number_about_which_another_thread_asks_is_not_quiet(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sockets of one number: one was closed behind its owner's back."""

    class Busy:
        def poll(self, timeout: int) -> list[Any]:
            raise RuntimeError("concurrent poll() invocation")

    monkeypatch.setitem(sockets._polls, pair.here.fileno(), Busy())
    assert not is_quiet(pair.here)


def test_a_closed_socket_is_not_quiet(pair: Pair) -> None:
    """Neither a closed nor a detached socket is of use."""
    pair.here.close()
    assert not is_quiet(pair.here)
    os.close(pair.there.detach())
    assert not is_quiet(pair.there)


def test_a_reset_is_noise_and_the_error_stays() -> None:
    """A look takes no error off the socket: the next reader still gets it."""
    here, there = gevent_tcp()
    abort(there)
    until_readable(here)
    assert not is_quiet(here)
    with pytest.raises(ConnectionResetError):
        here.recv(1)
    here.close()


def test_a_number_above_1023_makes_no_difference(pair: Pair) -> None:
    """The limit of select is not ours."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2000:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(2000, hard), hard))
    high = socket.socket(fileno=os.dup2(pair.here.fileno(), 1999))
    assert high.fileno() == 1999
    assert is_quiet(high)
    pair.there.sendall(b"?")
    until_readable(high)
    assert not is_quiet(high)
    terminate(high)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_whatever_has_a_descriptor_can_be_asked(pair: Pair) -> None:
    """A driver's object with a fileno will do in place of a socket."""

    class Driver:
        def fileno(self) -> int:
            number: int = pair.here.fileno()
            return number

    assert is_quiet(Driver())
    pair.there.sendall(b"?")
    until_readable(pair.here)
    assert not is_quiet(Driver())


@pytest.fixture
def tls() -> Iterator[Pair]:
    """A TLS socket, and the unruly peer at its other end."""
    server, client = tls_contexts()
    with Unruly(tls=server) as peer:
        sock = dial(peer.host, peer.port, timeout=5, ssl=client)
        peer.wait_until(lambda: bool(peer._talking), "handshake done")
        yield Pair(sock, peer)
        terminate(sock)


@pytest.fixture
def tcp() -> Iterator[Pair]:
    """A plain socket, and the unruly peer at its other end."""
    with Unruly() as peer:
        sock = dial(peer.host, peer.port, timeout=5)
        peer.wait_until(lambda: bool(peer._talking), "accepted")
        yield Pair(sock, peer)
        terminate(sock)


@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_a_reply_is_awaited_without_a_futile_read(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """When the wait ends there is something to read."""
    pair: Pair = request.getfixturevalue(kind)
    if kind == "tls":
        # The session tickets are read here.
        assert ask(pair.here) == b"hello"
    waiter = gevent.spawn(await_reply, pair.here)
    gevent.idle()
    assert not waiter.ready()
    pair.there.say(b"reply")
    waiter.get(timeout=5)
    with no_switch():
        assert pair.here.recv(1) == b"r"


def test_a_reply_is_awaited_for_the_timeout_of_the_socket(tcp: Pair) -> None:
    """As by recv()."""
    tcp.here.settimeout(0.001)
    with pytest.raises(TimeoutError):
        await_reply(tcp.here)


def test_who_awaits_a_reply_is_told_that_the_socket_was_closed(tcp: Pair) -> None:
    """And on a closed socket nobody waits."""
    waiter = gevent.spawn(await_reply, tcp.here)
    gevent.idle()
    terminate(tcp.here)
    with pytest.raises(OSError) as told:
        waiter.get(timeout=5)
    assert told.value.errno == EBADF
    with no_switch():
        await_reply(tcp.here)


def test_a_reply_is_awaited_in_the_thread_of_the_socket_only(tcp: Pair) -> None:
    """In another one it fails as recv() does, and does not wait forever."""

    def wait() -> None:
        with pytest.raises(greenlet.error, match="different thread"):
            await_reply(tcp.here)

    gevent.get_hub().threadpool.apply(wait)


native_socket = monkey.get_original("socket", "socket")


def test_nothing_is_awaited_where_nothing_waits(tls: Pair) -> None:
    """Decrypted bytes are there already; other sockets read by themselves."""
    tls.here.sendall(b"answer")
    assert tls.here.recv(1) == b"a"
    with no_switch():
        await_reply(tls.here)
        tls.here.settimeout(0.0)
        assert tls.here.recv(5) == b"nswer"
        await_reply(tls.here)
        with contextlib.closing(native_socket()) as native:
            await_reply(native)


def test_session_tickets_are_no_noise(tls: Pair) -> None:
    """A fresh TLS 1.3 connection looks readable, yet has nothing to say."""
    until_readable(tls.here)
    assert tls.here.version() == "TLSv1.3"
    with no_switch():
        assert is_quiet(tls.here)
    assert not readable(tls.here)
    assert is_quiet(tls.here)
    assert tls.here.gettimeout() is None
    assert ask(tls.here) == b"hello"


def test_unexpected_bytes_under_tls_are_noise(tls: Pair) -> None:
    """Data behind the tickets is data."""
    tls.there.say(b"?")
    gevent.idle()
    until_readable(tls.here)
    with no_switch():
        assert not is_quiet(tls.here)


def test_decrypted_bytes_are_noise(tls: Pair) -> None:
    """What waits in the TLS library counts, though the descriptor has no more."""
    tls.here.sendall(b"answer")
    assert tls.here.recv(1) == b"a"
    assert not readable(tls.here)
    with no_switch():
        assert not is_quiet(tls.here)


def test_the_end_of_a_tls_stream_is_noise(tls: Pair) -> None:
    """A TLS peer that has hung up is noticed, tickets or not."""
    tls.there.hang_up_all()
    until_readable(tls.here)
    assert not is_quiet(tls.here)
    terminate(tls.here)
    assert not is_quiet(tls.here)


# Finding


def test_the_socket_under_a_drivers_object_is_found(pair: Pair) -> None:
    """A driver's socket is found where drivers keep it, and never invented."""

    class Driver:
        @property
        def sock(self) -> None:
            raise OSError("not connected")

        def socket(self) -> None: ...

    assert sockets.find_socket(pair.here) is pair.here
    driver: Any = Driver()
    assert sockets.find_socket(driver) is None
    driver._sock = pair.here
    assert sockets.find_socket(driver) is pair.here
    other: Any = type("Other", (), {"socket": pair.there})()
    assert sockets.find_socket(other) is pair.there


# Letting go


def ended(sock: Any) -> bytes:
    sock.settimeout(5)
    data: bytes = sock.recv(10)
    return data


def test_an_abandoned_socket_is_closed_at_once(pair: Pair) -> None:
    """Without a switch the descriptor is gone, and the peer sees the end."""
    number = pair.here.fileno()
    with no_switch():
        terminate(pair.here)
        with pytest.raises(OSError):
            os.fstat(number)
        terminate(pair.here)
    assert pair.here.fileno() == -1
    assert ended(pair.there) == b""


def test_what_was_sent_before_is_delivered(pair: Pair) -> None:
    """To abandon a socket takes nothing back."""
    pair.here.sendall(b"last")
    terminate(pair.here)
    assert ended(pair.there) == b"last"


def test_a_file_made_from_the_socket_does_not_keep_it_open(pair: Pair) -> None:
    """Unlike close(), terminate() does not wait for the files to be closed."""
    with pair.here.makefile("rb") as file:
        terminate(pair.here)
        assert ended(pair.there) == b""
        with pytest.raises((OSError, ValueError)):
            file.read(1)


@pytest.mark.parametrize("make", [gevent_tcp, gevent_unix])
def test_whoever_waits_on_an_abandoned_socket_is_told(make: Any) -> None:
    """A reader and a writer get an OSError, and the descriptor is gone at once."""
    here, there = make()
    number = here.fileno()
    reader = gevent.spawn(here.recv, 1)
    writer = gevent.spawn(here.sendall, bytes(50_000_000))
    gevent.idle()
    with no_switch():
        terminate(here)
        with pytest.raises(OSError):
            os.fstat(number)
    with contextlib.ExitStack() as stack:
        stack.callback(there.close)
        for waiter in reader, writer:
            with pytest.raises(OSError) as raised:
                waiter.get(timeout=5)
            assert raised.value.errno == EBADF


def test_a_new_socket_may_get_the_same_number_at_once() -> None:
    """Waits on a new socket are not mixed up with those on the abandoned one."""
    here, there = gevent_unix()
    reader = gevent.spawn(here.recv, 1)
    gevent.idle()
    number = here.fileno()
    terminate(here)
    new, other = gevent_unix()
    assert number in (new.fileno(), other.fileno())
    readers = [gevent.spawn(new.recv, 1), gevent.spawn(other.recv, 1)]
    gevent.idle()
    new.sendall(b"a")
    other.sendall(b"b")
    assert [each.get(timeout=5) for each in readers] == [b"b", b"a"]
    assert isinstance(reader.exception, OSError)
    for sock in there, new, other:
        sock.close()


@pytest.fixture(autouse=True)
def expected_errors(hub_errors: list[Any]) -> Iterator[None]:
    """Greenlets of these tests may end with an OSError, which is looked at there."""
    yield
    gevent.idle()
    hub_errors[:] = [each for each in hub_errors if not isinstance(each.error, OSError)]


def test_whoever_selects_on_the_number_is_woken() -> None:
    """A greenlet that waits on the bare descriptor does not sleep on."""
    here, there = gevent_unix()
    waiter = gevent.spawn(socket.wait_read, here.fileno())
    gevent.idle()
    with no_switch():
        terminate(here)
    waiter.join(timeout=5)
    assert waiter.dead
    assert ended(there) == b""
    there.close()


def test_a_waiter_that_is_killed_at_the_same_moment_is_only_killed() -> None:
    """Both orders of abandoning a socket and killing its waiter end well."""
    for kill_first in True, False:
        here, there = gevent_unix()
        waiter = gevent.spawn(here.recv, 1)
        gevent.idle()
        if kill_first:
            waiter.kill(block=False)
        terminate(here)
        waiter.kill(block=False)
        waiter.join(timeout=5)
        assert waiter.dead
        there.close()


def test_an_abandoned_tls_socket_says_no_goodbye(tls: Pair) -> None:
    """A TLS socket goes without unwrapping, which would wait for the peer."""
    with no_switch():
        terminate(tls.here)
    assert tls.here.fileno() == -1
    tls.there.wait_open(0)


def test_the_hub_may_abandon(pair: Pair) -> None:
    """Letting go works from a callback of the hub."""
    gevent.get_hub().loop.run_callback(terminate, pair.here)
    assert ended(pair.there) == b""


def test_a_descriptor_closed_behind_its_back_raises_nothing(pair: Pair) -> None:
    """Letting go never raises, as finalizers need it."""
    socket.close(pair.here.fileno())
    terminate(pair.here)
    assert pair.here.fileno() == -1


def test_another_thread_may_let_go() -> None:
    """A finalizer in a thread without a hub lets go, and makes no hub for that."""
    here, there = gevent_unix()

    def finalize() -> object:
        terminate(here)
        return get_hub_if_exists()

    assert gevent.get_hub().threadpool.apply(finalize) is None
    assert ended(there) == b""
    there.close()


def test_abort_resets_the_peer() -> None:
    """An aborted stream ends with a reset, which leaves no TIME_WAIT."""
    here, there = gevent_tcp()
    with no_switch():
        abort(here)
        abort(here)
    with pytest.raises(ConnectionResetError):
        ended(there)
    there.close()


def test_after_a_fork_a_copy_goes_without_a_word(pair: Pair) -> None:
    """In the child nothing but the child's own descriptor is closed."""
    copy = type(pair.here)(fileno=os.dup(pair.here.fileno()))
    with sockets.after_fork(), no_switch():
        abort(copy)
        abort(copy)
    assert copy.fileno() == -1
    pair.here.sendall(b"still here")
    pair.there.settimeout(5)
    assert pair.there.recv(100) == b"still here"
    pair.here.close()
    assert ended(pair.there) == b""


@pytest.mark.parametrize(
    "wait", [lambda sock: sock.recv(1), lambda sock: socket.wait_read(sock.fileno())]
)
def test_after_a_fork_the_parents_waiters_sleep_on(
    wait: Callable[[Any], object],
) -> None:
    """A copy of the parent's greenlet must not go on with its work in the child."""
    here, there = gevent_unix()
    waiter = gevent.spawn(wait, here)
    gevent.idle()
    with sockets.after_fork(), no_switch():
        terminate(here)
    gevent.idle()
    assert not waiter.dead
    waiter.kill()
    there.close()


def test_after_a_fork_a_tls_copy_forgets_the_number(tls: Pair) -> None:
    """A number that is free again must not be read from by an old TLS object."""
    with sockets.after_fork(), no_switch():
        terminate(tls.here)
    assert tls.here.fileno() == -1
    with pytest.raises(ValueError, match="closed or unwrapped"):
        tls.here.read(1)


def test_a_severed_descriptor_stays_its_owners(pair: Pair) -> None:
    """The connection is gone at once, but the number is not free for others."""
    number = pair.here.fileno()
    with no_switch():
        sockets.redirect_to_null(number)
    assert ended(pair.there) == b""
    os.fstat(number)
    assert not os.get_inheritable(number)
    new, other = socket.socketpair()
    assert number not in (new.fileno(), other.fileno())
    new.close()
    other.close()


def test_whoever_waits_on_a_severed_descriptor_is_woken() -> None:
    """A driver's greenlet that waits for an answer does not sleep on."""
    here, there = gevent_unix()
    waiter = gevent.spawn(socket.wait_read, here.fileno())
    gevent.idle()
    sockets.redirect_to_null(here.fileno())
    waiter.join(timeout=5)
    assert waiter.dead
    here.close()
    there.close()


def test_after_a_fork_severing_wakes_nobody() -> None:
    """In the child, the parent's waiters sleep on."""
    here, there = gevent_unix()
    waiter = gevent.spawn(socket.wait_read, here.fileno())
    gevent.idle()
    with sockets.after_fork():
        sockets.redirect_to_null(here.fileno())
    assert ended(there) == b""
    gevent.idle()
    assert not waiter.dead
    waiter.kill()
    here.close()
    there.close()


def test_there_is_nothing_to_sever_without_a_descriptor() -> None:
    """A number that is not open is the caller's mistake."""
    here, there = gevent_unix()
    number = here.detach()
    socket.close(number)
    with pytest.raises(OSError):
        sockets.redirect_to_null(-1)
    there.close()


# Processes of their own

FORK = """
if {patched}:
    from gevent import monkey; monkey.patch_all()
import gevent, os, sys
from gevent.monkey import get_original
from geventpool import dialing, sockets
from geventpool.testing import wait_until
from tests.pauses import turns
from tests.peers import Unruly

with Unruly("late") as peer:
    sock = dialing.dial(peer.host, peer.port, timeout=5)
    woken = []

    def wait():
        try:
            return sock.recv(10)
        finally:
            woken.append(os.getpid())

    sock.sendall(b"question")
    waiter = gevent.spawn(wait)
    # Else the child's copy of the peer would read it.
    wait_until(lambda: peer.heard)
    # The event loop waits for the reply from now on.
    turns()

    def forget():
        with sockets.after_fork():
            sockets.abort(sock)

    os.register_at_fork(after_in_child=forget)
    child = {fork}()
    if not child:
        try:
            turns()
            assert sock.fileno() == -1, "still open in the child"
            assert not woken, "woken in the child"
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    # The patched waitpid() now and then misses a child that ends at once.
    waitpid = get_original("os", "waitpid")
    assert waitpid(child, 0)[1] == 0, "the child failed"
    peer.may_answer.set()
    assert waiter.get(timeout=5) == b"question"
    sock.sendall(b"again")
    assert sock.recv(10) == b"again"
    sockets.terminate(sock)
print("ok")
"""


@pytest.mark.parametrize("fork", ["os.fork", "gevent.os.fork"])
@pytest.mark.parametrize("patched", [True, False])
def test_a_child_lets_go_and_the_parent_notices_nothing(
    fork: str, patched: bool
) -> None:
    """After a fork the child's copy is closed; the parent's conversation goes on."""
    assert run_script(FORK.format(fork=fork, patched=patched)) == "ok\n"


UNPATCHED = """
import sys
from geventpool import dialing, sockets
assert "ssl" not in sys.modules, "ssl imported before it could be patched"
import gevent, socket, ssl
from tests.peers import Echo, tls_contexts

server, client = tls_contexts()
assert type(client) is ssl.SSLContext and not hasattr(client, "gevent")
for context in None, client:
    with Echo(tls=context and server) as peer:
        sock = dialing.dial("localhost", peer.port, timeout=5, ssl=context)
        assert not isinstance(sock, socket.socket), sock
        sock.sendall(b"x")
        # The peer answers in this very thread, unless we block it.
        assert sock.recv(1) == b"x"
        assert sockets.is_quiet(sock)
        sockets.terminate(sock)
print("ok")
"""


def test_nothing_need_be_patched() -> None:
    """Unpatched, sockets are gevent's all the same, TLS with a native context too."""
    assert run_script(UNPATCHED) == "ok\n"


NO_LOOP = """
import gevent
from geventpool import sockets
from tests.peers import open_sockets

here, there = gevent.socket.socketpair()
gevent.get_hub().destroy(destroy_loop=True)
sockets.terminate(here)
assert here._sock.fileno() == -1
assert open_sockets() == {there.fileno()}, open_sockets()
sockets.terminate(there)
print("ok")
"""


def test_a_loop_that_is_gone_keeps_no_socket_open() -> None:
    """Letting go works at the very end, when the loop is destroyed already."""
    assert run_script(NO_LOOP) == "ok\n"


NATIVE_TLS = """
import socket, ssl, threading
from geventpool import sockets
from tests.peers import tls_contexts

server, client = tls_contexts()
here, there = socket.socketpair()
steps = [threading.Event() for _ in range(3)]

def serve():
    with server.wrap_socket(there, server_side=True) as talk:
        talk.sendall(b"hello")
        steps[0].wait()
        talk.sendall(b"noise")
        steps[1].set()
        steps[2].wait()

thread = threading.Thread(target=serve)
thread.start()
sock = client.wrap_socket(here, server_hostname="peer.test")
assert sock.recv(5) == b"hello"
sockets.is_quiet(sock)
assert sockets.is_quiet(sock)
assert sock.gettimeout() is None
steps[0].set()
steps[1].wait()
assert not sockets.is_quiet(sock)
sockets.terminate(sock)
assert sock.fileno() == -1
steps[2].set()
thread.join()
print("ok")
"""


def test_a_native_tls_socket_is_asked_without_waiting() -> None:
    """A blocking TLS socket of an unpatched program is asked without blocking."""
    assert run_script(NATIVE_TLS) == "ok\n"
