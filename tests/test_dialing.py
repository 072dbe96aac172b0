"""Dialling: its time limit, and its TLS context."""

from __future__ import annotations

import ssl
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from geventpool import dialing
from geventpool.dialing import dial
from geventpool.sockets import terminate
from tests.peers import Deaf, Echo, tls_contexts
from tests.test_deadline import LIMIT, Peer, block, patient  # noqa: F401  (a fixture)
from tests.test_sockets import refused_port


def test_the_deadline_is_not_taken_for_an_addresss_failure(
    resolver: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the time is up, no further address is tried."""
    tried: list[object] = []

    def reach(family: int, address: Any, *args: object) -> None:
        tried.append(address)
        Event().wait()

    monkeypatch.setattr(dialing, "_reach", reach)
    resolver += [("127.0.0.1", 1), ("127.0.0.1", 2)]
    with pytest.raises(TimeoutError):
        dial("two.test", 1, timeout=0.01)
    assert tried == [("127.0.0.1", 1)]


def test_the_default_context_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making a context holds the hub for long, so all connections share one."""
    made = []

    def make() -> ssl.SSLContext:
        made.append(tls_contexts()[1])
        return made[-1]

    monkeypatch.setattr("gevent.ssl.create_default_context", make)
    forget = dialing._shared_context.cache_clear
    forget()
    with Echo(tls=tls_contexts()[0]) as peer:
        for _ in range(2):
            terminate(dial(peer.host, peer.port, timeout=5, ssl=True))
    assert len(made) == 1
    forget()


@pytest.mark.usefixtures("patient")
def test_a_dial_is_not_over_because_the_loop_was_blocked() -> None:
    """Likewise the limit of a TcpConnection's own."""
    peer = Peer()
    with dialing._deadline(LIMIT, "nowhere"):
        gevent.get_hub().loop.run_callback(block)
        peer.ask()
    peer.close()


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The addresses that any name resolves to from now on."""
    addresses: list[tuple[str, int]] = []

    def resolve(host: str, port: int, *args: object) -> list[Any]:
        return [(socket.AF_INET, 1, 6, "", address) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return addresses


def test_every_address_is_tried(resolver: list[tuple[str, int]]) -> None:
    """An address that refuses does not keep the next one from answering."""
    with Echo() as peer:
        resolver += [("127.0.0.1", refused_port()), peer.address]
        sock = dial("two.test", 1, timeout=5)
        assert sock.getpeername() == peer.address
        terminate(sock)


def test_the_first_of_two_addresses_leaves_no_limit_on_the_socket(
    resolver: list[tuple[str, int]],
) -> None:
    """Its share of the time is for the connect, not for the reads that follow."""
    with Echo() as peer:
        resolver += [peer.address, peer.address]
        sock = dial("two.test", 1, timeout=5)
        assert sock.gettimeout() is None
        terminate(sock)


def test_the_last_addresss_error_is_raised(resolver: list[tuple[str, int]]) -> None:
    """When no address answers, the last one's own error says why."""
    resolver += [("127.0.0.1", refused_port()), ("127.0.0.1", refused_port())]
    with pytest.raises(ConnectionRefusedError):
        dial("two.test", 1)


def test_a_deaf_address_uses_up_its_share_and_no_more(
    resolver: list[tuple[str, int]],
) -> None:
    """One address that never answers leaves the next one its share of the time."""
    with Deaf() as deaf, Echo() as peer:
        resolver += [deaf.address, peer.address]
        sock = dial("two.test", 1, timeout=0.2)
        assert sock.getpeername() == peer.address
        terminate(sock)
