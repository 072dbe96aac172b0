"""The proxy's faults, as a plain socket meets them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import gevent
import pytest
from gevent import socket

from tests.failures.proxy import CALM, DOWN, UP, Fault, Proxy, disturbed, silence
from tests.pauses import block_loop
from tests.peers import Echo

Dial = Callable[[], socket.socket]


@pytest.fixture()
def echo() -> Iterator[Echo]:
    """What is behind the proxy."""
    with Echo() as peer:
        yield peer


@pytest.fixture()
def proxy(echo: Echo) -> Iterator[Proxy]:
    """The proxy before it."""
    with Proxy(echo.host, echo.port) as proxy:
        yield proxy


@pytest.fixture()
def dial(proxy: Proxy) -> Iterator[Dial]:
    """Connects to the proxy."""
    made = []

    def connect() -> socket.socket:
        sock = socket.create_connection(proxy.address)
        sock.settimeout(5)
        made.append(sock)
        return sock

    yield connect
    for sock in made:
        sock.close()


def exchange(sock: socket.socket, data: bytes) -> bytes:
    """What comes back for *data*, until all of it has or the other side has ended."""
    sock.sendall(data)
    got = b""
    while len(got) < len(data) and (more := sock.recv(65536)):
        got += more
    return got


def says_nothing(sock: socket.socket, seconds: float = 0.05) -> bool:
    """Whether nothing comes for that long."""
    sock.settimeout(seconds)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(5)
    return False


def test_without_a_fault_everything_passes_both_ways(dial: Dial, proxy: Proxy) -> None:
    """And the end of one side is told to the other."""
    data = bytes(range(256)) * 4096
    sock = dial()
    assert exchange(sock, data) == data
    assert proxy.open == proxy.pool_sockets() == proxy.dials == 1
    sock.close()
    proxy.wait_open(0)


def test_delay_and_jitter_hold_every_piece_back(dial: Dial, proxy: Proxy) -> None:
    """Both ways; the jitter is drawn anew for each piece."""
    sock = dial()
    exchange(sock, b"hello")
    proxy.disturb(Fault(delay=0.02))
    started = time.monotonic()
    assert exchange(sock, b"hello") == b"hello"
    assert time.monotonic() - started >= 0.04
    proxy.disturb(Fault(jitter=0.02))
    spans = set()
    for _ in range(3):
        started = time.monotonic()
        assert exchange(sock, b"hello") == b"hello"
        spans.add(round(time.monotonic() - started, 3))
    assert len(spans) > 1


@pytest.mark.parametrize("way", [UP, DOWN])
def test_a_cut_comes_in_mid_packet(
    way: str, dial: Dial, proxy: Proxy, echo: Echo
) -> None:
    """So many bytes pass, one way or the other, then both sides see a regular end."""
    sock = dial()
    exchange(sock, b"hello")
    proxy.disturb(Fault(cut_after=7, way=way))
    assert exchange(sock, b"0123456789") == (b"0123456" if way == DOWN else b"")
    assert sock.recv(1) == b""
    echo.wait_open(0)


def test_a_cut_after_nothing_is_at_once(dial: Dial, proxy: Proxy) -> None:
    """Nobody has to say anything first."""
    sock = dial()
    exchange(sock, b"hello")
    proxy.disturb(Fault(cut_after=0))
    assert sock.recv(1) == b""


@pytest.mark.parametrize("after", [0, 3])
def test_a_reset_is_a_reset(after: int, dial: Dial, proxy: Proxy, echo: Echo) -> None:
    """At once, or in mid-packet; not the regular end of a stream."""
    sock = dial()
    exchange(sock, b"hello")
    proxy.disturb(Fault(reset_after=after))
    with pytest.raises(ConnectionError):
        if after:
            # What had passed before may be lost with the reset, as on any wire.
            assert len(exchange(sock, b"hello")) <= after
            sock.sendall(b"more")
            gevent.sleep(0)
        sock.recv(1)
    echo.wait_open(0)


def test_silence_keeps_everything_open_and_loses_nothing(
    dial: Dial, proxy: Proxy, echo: Echo
) -> None:
    """Bytes and ends wait for it to be over; the client's own hanging up too."""
    talker, leaver = dial(), dial()
    for sock in (talker, leaver):
        exchange(sock, b"hello")
    proxy.disturb(Fault(silent=True))
    talker.sendall(b"still there?")
    assert says_nothing(talker)
    leaver.close()
    proxy.wait_until(lambda: proxy.pool_sockets() == 1, "one has left")
    assert echo.open == 2 and proxy.orphans() == 1
    proxy.calm()
    assert talker.recv(100) == b"still there?"
    echo.wait_open(1)
    assert proxy.orphans() == 0


def test_a_trickle_passes_so_many_bytes_at_a_time(dial: Dial, proxy: Proxy) -> None:
    """All arrive, in the end."""
    sock = dial()
    with disturbed(proxy, Fault(trickle=2, way=DOWN)):
        sock.sendall(b"0123456789")
        pieces: list[bytes] = []
        while len(b"".join(pieces)) < 10:
            pieces.append(sock.recv(100))
    assert b"".join(pieces) == b"0123456789"
    assert len(pieces) > 1


def test_a_slow_reader_stops_the_sender(dial: Dial, proxy: Proxy) -> None:
    """Who sends more than the kernel keeps must wait."""
    sock = dial()
    proxy.disturb(Fault(trickle=1, way=UP))
    sock.settimeout(0.05)
    with pytest.raises(TimeoutError):
        sock.sendall(b"x" * 10_000_000)


def test_a_refusal_is_the_kernel_s(dial: Dial, proxy: Proxy) -> None:
    """Nobody listens; connections that are open stay open."""
    sock = dial()
    exchange(sock, b"hello")
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        dial()
    assert exchange(sock, b"hello") == b"hello"
    proxy.calm()
    assert exchange(dial(), b"hello") == b"hello"


def test_a_mute_proxy_accepts_and_never_answers(
    dial: Dial, proxy: Proxy, echo: Echo
) -> None:
    """The server does not even know; connections from before are as they were."""
    old = dial()
    exchange(old, b"hello")
    proxy.disturb(Fault(mute=True))
    new = dial()
    new.sendall(b"hello")
    assert says_nothing(new)
    assert exchange(old, b"hello") == b"hello"
    assert echo.accepted == 1 and proxy.dials == 2


@pytest.mark.parametrize("way", [UP, DOWN])
def test_the_first_bytes_are_lost(way: str, dial: Dial, proxy: Proxy) -> None:
    """So many, one way, once; the rest passes."""
    sock = dial()
    exchange(sock, b"hello")
    proxy.disturb(Fault(drop=4, way=way))
    sock.sendall(b"0123456789")
    assert sock.recv(100) == b"456789"
    assert exchange(sock, b"hello") == b"hello"


def test_a_fault_may_be_for_the_present_or_the_future_alone(
    dial: Dial, proxy: Proxy
) -> None:
    """Or for one single connection."""
    old = dial()
    exchange(old, b"hello")
    proxy.disturb(Fault(drop=1, way=DOWN), present=False)
    assert exchange(old, b"hello") == b"hello"
    new = dial()
    new.sendall(b"hello")
    assert new.recv(100) == b"ello"
    proxy.disturb(Fault(drop=2, way=DOWN), future=False)
    assert proxy.fault.drop == 1
    old.sendall(b"hello")
    assert old.recv(100) == b"llo"
    proxy.disturb(CALM)
    link, _ = proxy.links
    link.disturb(Fault(cut_after=0))
    proxy.wait_open(1)


def test_a_server_that_is_down_is_met_through_the_proxy(
    dial: Dial, proxy: Proxy, echo: Echo
) -> None:
    """As a reset."""
    echo.stop()
    with pytest.raises(ConnectionError):
        dial().recv(1)
        dial().recv(1)


def test_dials_at_the_same_time_are_counted(dial: Dial, proxy: Proxy) -> None:
    """Until the server's first answer."""
    proxy.disturb(Fault(silent=True))
    socks = [dial() for _ in range(3)]
    for sock in socks:
        sock.sendall(b"hello")
    proxy.wait_accepted(3)
    proxy.calm()
    for sock in socks:
        assert sock.recv(100) == b"hello"
    assert exchange(dial(), b"hello") == b"hello"
    assert proxy.most_dialling == 3


def test_a_dial_counts_from_when_it_connected_not_from_when_it_was_accepted() -> None:
    """A process that is busy accepts late."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with socket.create_connection(listener.getsockname()) as near:
            near.sendall(b"hello")
            connected = time.monotonic()
            block_loop(connected + 0.05)
            far, _ = listener.accept()
            # The system counts whole ticks of up to 10 ms.
            assert 0.04 <= silence(far) <= time.monotonic() - connected + 0.02
            far.close()
