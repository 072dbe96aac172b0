"""The peers themselves: what other tests rely on when they call a peer as witness."""

from __future__ import annotations

from typing import Any

import pytest
from gevent import socket

from tests.peers import Deaf, Echo, Peer, Unruly, run_script, unix_path


def dialled(peer: Peer) -> Any:
    sock = socket.create_connection(peer.address)
    sock.settimeout(5)
    return sock


def test_an_error_in_a_peer_fails_the_test() -> None:
    """What goes wrong in a peer's greenlet is raised where the peer is used."""

    class Faulty(Peer):
        def talk(self, sock: Any) -> None:
            raise ZeroDivisionError("in the peer")

    with pytest.raises(ZeroDivisionError, match="in the peer"):
        with Faulty() as peer:
            dialled(peer).close()
            peer.wait_accepted(1)
            peer.wait_open(0)


def test_the_tests_own_error_comes_first() -> None:
    """A peer's error does not hide what the test itself found."""
    with pytest.raises(KeyError):
        with Echo() as peer:
            peer._errors.append(ZeroDivisionError())
            raise KeyError


def test_a_peer_that_was_only_declared_does_nothing() -> None:
    """What every peer does differently must be written."""
    with pytest.raises(NotImplementedError):
        Peer().talk(None)


def test_a_peer_counts_its_sockets() -> None:
    """Open now, the most at one time, and all there ever were."""
    with Echo() as peer:
        first, second = dialled(peer), dialled(peer)
        peer.wait_open(2)
        first.close()
        peer.wait_open(1)
        third = dialled(peer)
        peer.wait_accepted(3)
        assert (peer.open, peer.peak, peer.accepted) == (2, 2, 3)
        assert f"{peer.port}: 2 open, peak 2, 3 accepted" in repr(peer)
        second.close()
        third.close()


def test_a_peer_can_be_restarted_in_its_place() -> None:
    """Stopped it closes everything; restarted it is where it was."""
    with unix_path() as path, Echo() as by_port, Echo(path=path) as by_path:
        sock = dialled(by_port)
        by_port.wait_open(1)
        for peer in by_port, by_path:
            before = peer.options
            peer.restart()
            assert peer.options == before
        assert sock.recv(1) == b""
        sock.close()
        dialled(by_port).close()
        by_port.wait_accepted(2)


@pytest.mark.parametrize(
    ("behaviour", "answer"),
    [("echo", b"1234"), ("half", b"12"), ("chatty", b"12341234"), ("hang up", b"")],
)
def test_an_unruly_peer_does_as_it_is_told(behaviour: str, answer: bytes) -> None:
    """Each behaviour is what its name says, from the next message on."""
    with Unruly() as peer:
        sock = dialled(peer)
        peer.behaviour = behaviour
        sock.sendall(b"1234")
        received = sock.recv(100)
        assert received == answer
        sock.close()


def test_a_reset_is_a_reset() -> None:
    """A peer told to reset does so, at once if it does not listen."""
    with Unruly("reset", listens=False) as peer:
        sock = dialled(peer)
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
        sock.close()


def test_a_late_answer_comes_when_it_may() -> None:
    """The answer waits for the event, not for a time."""
    with Unruly("late") as peer:
        sock = dialled(peer)
        sock.sendall(b"hello")
        sock.settimeout(0.01)
        with pytest.raises(TimeoutError):
            sock.recv(10)
        peer.may_answer.set()
        sock.settimeout(5)
        assert sock.recv(10) == b"hello"
        sock.close()


def test_nobody_gets_through_to_a_deaf_port() -> None:
    """Connecting to a deaf peer takes forever."""
    with Deaf() as deaf, pytest.raises(TimeoutError):
        socket.create_connection(deaf.address, timeout=0.01)


def test_a_script_that_fails_says_why() -> None:
    """The error of a script is shown, and its output returned."""
    assert run_script("print(1)") == "1\n"
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_script("1/0")
