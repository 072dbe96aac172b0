"""Dialling: open sockets with a time limit, over TCP, TLS and Unix sockets.

It needs no monkey-patching. A program may patch before or after it imports this module.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from errno import ECONNREFUSED, ETIMEDOUT
from typing import TYPE_CHECKING, Any, TypeAlias

import gevent
from gevent import socket

from geventpool._core.deadline import Deadline
from geventpool.sockets import terminate

if TYPE_CHECKING:
    # Imported at first use only: otherwise a program that patches after importing this
    # module would have a half-patched ssl.
    from ssl import SSLContext, SSLSocket

__all__ = ["KeepAlive", "dial", "dial_unix", "numeric_address"]

Address: TypeAlias = "tuple[int, Any]"


@dataclass(frozen=True)
class KeepAlive:
    """How soon a vanished peer is detected.

    The system probes a connection after *idle* seconds without traffic, then every
    *interval* seconds, and closes it after *count* probes without an answer.
    Unacknowledged data is given up after the same total time, ``idle + interval *
    count`` seconds; the system's default for that is about a quarter of an hour.

    :param int idle: whole seconds, from 1 to 32767, the maximum of Linux.
    :param int interval: whole seconds, from 1 to 32767.
    :param int count: from 1 to 127.
    :raises TypeError: a value is not an ``int``.
    :raises ValueError: a value is out of its range.
    """

    idle: int = 30
    interval: int = 5
    count: int = 3

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            most = 127 if name == "count" else 32767
            rule = f"{name} must be a whole number from 1 to {most}, not {value!r}"
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(rule)
            if not 1 <= value <= most:
                raise ValueError(rule)

    def options(self) -> Iterator[tuple[int, int, int]]:
        """Yield the socket options of this platform: level, option, value."""
        yield socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1
        named = {
            "TCP_KEEPIDLE": self.idle,
            "TCP_KEEPALIVE": self.idle,  # the same on macOS
            "TCP_KEEPINTVL": self.interval,
            "TCP_KEEPCNT": self.count,
            "TCP_USER_TIMEOUT": min(
                1000 * (self.idle + self.interval * self.count), 2**31 - 1
            ),
        }
        for name, value in named.items():
            option = getattr(socket, name, None)
            if option is not None:
                yield socket.IPPROTO_TCP, option, value


def dial(
    host: str,
    port: int,
    *,
    timeout: float | None = None,
    ssl: SSLContext | bool | None = None,
    server_hostname: str | None = None,
    keepalive: KeepAlive = KeepAlive(),
) -> socket.socket:
    """Connect, and return a gevent socket in blocking mode. May switch.

    Every address of *host* is tried in turn. A numeric *host* needs no resolver, whose
    ten threads may all be busy with names that do not resolve.

    :param str host: name, IPv4 or IPv6 address.
    :param int port: TCP port.
    :param float timeout: the most seconds for address lookup, connect and TLS handshake
        together. Each address but the last gets an equal share. None: the system's
        limit.
    :param ssl: an ``SSLContext``; True: one default context for the process, because
        making one blocks the hub for 20 to 30 ms; None: plain TCP.
    :param str server_hostname: the name in the certificate; None: *host*.
    :param KeepAlive keepalive: how soon a vanished peer is detected.
    :raises TimeoutError: *timeout* has passed.
    :raises OSError: no address could be reached (the error of the last one), the name
        could not be resolved, or the handshake failed (``ssl.SSLError``).
    """
    with _deadline(timeout, f"{host}:{port}"):
        numeric = numeric_address(host, port)
        addresses = _resolved(host, port) if numeric is None else [numeric]
        sock = _reach_any(addresses, timeout, keepalive)
        return _secure(sock, ssl, server_hostname or host)


def dial_unix(
    path: str | bytes | os.PathLike[str],
    *,
    timeout: float | None = None,
    ssl: SSLContext | bool | None = None,
    server_hostname: str | None = None,
) -> socket.socket:
    """Connect to a Unix socket, and return a gevent socket in blocking mode.

    May switch.

    :param path: its path. An abstract address begins with a null byte.
    :param float timeout: the most seconds for all steps; None: the system's limit.
    :param ssl: as for :func:`dial`.
    :param str server_hostname: the name in the certificate.
    :raises TimeoutError: *timeout* has passed.
    :raises OSError: connecting or the handshake failed.
    """
    with _deadline(timeout, repr(path)):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _connect_unix(sock, os.fspath(path))
        except BaseException:
            # Killed or timed out as well: nobody else knows of this descriptor.
            terminate(sock)
            raise
        return _secure(sock, ssl, server_hostname)


@contextmanager
def _deadline(timeout: float | None, where: str) -> Iterator[None]:
    if timeout is None:
        yield
        return
    if not 0 <= timeout < math.inf:
        # A NaN in the loop's heap of timers would stop every timer of the process.
        raise ValueError(
            f"timeout must be finite and not negative, or None, not {timeout!r}"
        )
    expired = gevent.Timeout(None)
    strike = functools.partial(gevent.getcurrent().throw, expired)
    deadline = Deadline(gevent.get_hub().loop, timeout, strike)
    try:
        yield
    except gevent.Timeout as late:
        if late is not expired:
            raise
        raise TimeoutError(
            ETIMEDOUT, f"no connection to {where} within {timeout:g} s"
        ) from None
    finally:
        deadline.close()


def numeric_address(host: str, port: int) -> Address | None:
    """Return family and address of a host that needs no resolver. Never switches.

    :return: None: *host* is no IPv4 or IPv6 address.
    """
    for family in socket.AF_INET, socket.AF_INET6:
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return family, (host, port)
    return None


def _resolved(host: str, port: int) -> list[Address]:
    try:
        found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    except UnicodeError as error:
        # A label is empty or has more than 63 characters: no such name can exist.
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r}: {error}") from None
    return [(family, address) for family, _, _, _, address in found]


def _reach_any(
    addresses: Sequence[Address], timeout: float | None, keepalive: KeepAlive
) -> socket.socket:
    share = None if timeout is None else timeout / len(addresses)
    for family, address in addresses[:-1]:
        try:
            return _reach(family, address, share, keepalive)
        except OSError:
            continue  # the next one may answer
    family, address = addresses[-1]
    return _reach(family, address, None, keepalive)


def _reach(
    family: int, address: Any, timeout: float | None, keepalive: KeepAlive
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for level, option, value in keepalive.options():
            sock.setsockopt(level, option, value)
        sock.settimeout(timeout)
        sock.connect(address)
        _refuse_itself(sock)
        sock.settimeout(None)
    except BaseException:
        # Killed or timed out as well: nobody else knows of this descriptor.
        terminate(sock)
        raise
    return sock


def _refuse_itself(sock: socket.socket) -> None:
    # If a server on an ephemeral port is down, a client may get that port as its own,
    # and then be connected to itself.
    if sock.getsockname() == sock.getpeername():
        raise ConnectionRefusedError(ECONNREFUSED, "connected to itself: no server")


def _connect_unix(sock: socket.socket, path: str | bytes) -> None:
    # With a full backlog, connect() to a Unix socket returns EAGAIN although it is
    # writable: gevent's connect would then busy-wait until the server accepts.
    sock.settimeout(0.0)
    pause = 0.001
    while True:
        try:
            sock.connect(path)
            break
        except BlockingIOError:
            gevent.sleep(pause)
            pause = min(2 * pause, 0.05)
    sock.settimeout(None)


def _secure(
    sock: socket.socket, ssl: SSLContext | bool | None, server_hostname: str | None
) -> socket.socket:
    if not ssl:
        return sock
    try:
        tls = _wrapped(sock, ssl, server_hostname)
    except BaseException:
        # Nobody else knows of this descriptor.
        terminate(sock)
        raise
    try:
        tls.do_handshake()
    except BaseException:
        # Also after a kill or timeout. The wrapper owns the descriptor now.
        terminate(tls)
        raise
    return tls


def _wrapped(
    sock: socket.socket, ssl: SSLContext | bool, server_hostname: str | None
) -> SSLSocket:
    from gevent import ssl as gevent_ssl

    # Not context.wrap_socket: an unpatched context makes native sockets, which block
    # the hub. gevent's own contexts call the class in the same way.
    make: Callable[..., SSLSocket] = gevent_ssl.SSLSocket
    return make(
        sock=sock,
        do_handshake_on_connect=False,
        server_hostname=server_hostname,
        _context=_shared_context() if ssl is True else ssl,
    )


@functools.cache
def _shared_context() -> SSLContext:
    from gevent.ssl import create_default_context

    return create_default_context()
