"""Functions for sockets: dial with a time limit, check without waiting, terminate.

They do not depend on connections, pools or protocols, and need no monkey-patching. A
program may patch before or after it imports this module.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import EBADF, ECONNREFUSED, ETIMEDOUT
from select import POLLIN
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import gevent
from gevent import monkey, socket
from gevent._hub_local import get_hub_if_exists

from geventpool._core.deadline import Deadline

if TYPE_CHECKING:
    # Imported at first use only: otherwise a program that patches after importing this
    # module would have a half-patched ssl.
    from ssl import SSLContext, SSLSocket

__all__ = [
    "KeepAlive",
    "terminate",
    "abort",
    "after_fork",
    "dial",
    "dial_unix",
    "find_socket",
    "is_quiet",
    "redirect_to_null",
]

log = logging.getLogger(__name__)

Address: TypeAlias = "tuple[int, Any]"

# The base class of gevent's inner sockets and of all native sockets.
_native_socket: type = monkey.get_original("socket", "socket").__mro__[1]

# The patched poll switches even with a timeout of 0.
_poll = monkey.get_original("select", "poll")
#: One poll object for each descriptor number. The kernel keeps no state between two
#: calls, so it also serves the next descriptor with that number. Making one takes a
#: third of the time of polling.
_polls: dict[int, Any] = {}


class HasFileno(Protocol):
    """An object with a descriptor."""

    def fileno(self) -> int: ...


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


# Dialling


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
        addresses = _numeric(host, port) or _resolved(host, port)
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


def _numeric(host: str, port: int) -> list[Address]:
    for family in socket.AF_INET, socket.AF_INET6:
        try:
            socket.inet_pton(family, host)
        except (OSError, ValueError):
            continue
        return [(family, (host, port))]
    return []


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


# Checks


def is_quiet(sock: HasFileno) -> bool:
    """Whether an idle socket is open and has nothing to read. Never switches.

    False for the end of the stream, an error, and unexpected data. Nothing is consumed
    from a socket without TLS, its error is kept, and its descriptor may be above 1023.
    A server may send session tickets, which are no data, to a TLS socket at any time.
    So a readable TLS socket is read without waiting.

    An answer that has not arrived yet cannot be detected: a quiet connection may be out
    of step.

    :param sock: a gevent or native socket, or any object with ``fileno``.
    """
    # poll() takes a fourth of the time of recv(1, MSG_PEEK | MSG_DONTWAIT), which
    # usually raises an exception.
    try:
        number = sock.fileno()
        poll = _polls.get(number) or _poll_of(number)
        if not poll.poll(0):
            return type(sock) is socket.socket or not _buffered(sock)
        return type(sock) is not socket.socket and _says_nothing(sock)
    except (OSError, ValueError, RuntimeError):
        # RuntimeError: another thread polls the same number at this moment, so one of
        # the two sockets was closed without its owner.
        return False


def _poll_of(number: int) -> Any:
    poll = _poll()
    poll.register(number, POLLIN)
    _polls[number] = poll
    return poll


def _buffered(sock: Any) -> bool:
    # poll() does not see decrypted bytes in the TLS library.
    pending = getattr(sock, "pending", None)
    return pending is not None and pending() > 0


def _says_nothing(sock: Any) -> bool:
    if not hasattr(sock, "pending"):
        return False
    from ssl import SSLWantReadError

    timeout = sock.gettimeout()
    sock.settimeout(0.0)
    try:
        sock.recv(1)
    except SSLWantReadError:
        return True
    finally:
        sock.settimeout(timeout)
    return False


def find_socket(thing: Any) -> socket.socket | None:
    """Return the socket of a driver's connection; None: not found. Never switches.

    Tries the object itself, then its ``sock``, ``_sock`` and ``socket``. An attribute
    that cannot be read is skipped.
    """
    kinds = (socket.socket, _native_socket)
    if isinstance(thing, kinds):
        return thing  # type: ignore[return-value]
    for name in "sock", "_sock", "socket":
        try:
            found = getattr(thing, name, None)
        except Exception:
            continue  # a property that raises while not connected
        if isinstance(found, kinds):
            return found  # type: ignore[return-value]
    return None


# Termination

_in_child = False


@contextmanager
def after_fork() -> Iterator[None]:
    """A block that terminates sockets as a forked child must.

    For ``os.register_at_fork(after_in_child=...)``. Within it, :func:`terminate`,
    :func:`abort` and :func:`redirect_to_null` only close the child's copy of the
    descriptor. Copies of the parent's greenlets that wait on it are not woken, because
    they would go on with the parent's work in the child. :func:`abort` does not reset
    the connection, which the parent still uses. The block must not switch.
    """
    global _in_child
    _in_child = True
    try:
        yield
    finally:
        _in_child = False


def terminate(sock: Any) -> None:
    """Close the descriptor at once, without sending anything. Never switches.

    Never raises. There is no ``shutdown`` and no TLS ``unwrap``, so it can be called in
    the hub, in finalizers, in at-fork hooks (see :func:`after_fork`) and for sockets
    that other greenlets use. It also closes a socket that files made from it would keep
    open. A greenlet that waits on the socket gets an ``OSError`` (EBADF) in the next
    turn of the loop. One that waits on the descriptor (``select``) is woken. Data that
    was sent is still delivered. Nothing is done to a closed socket.

    :param sock: a gevent or native socket.
    """
    try:
        _stop_waits(sock)
        if hasattr(sock, "pending"):
            # The TLS library keeps the number, which another descriptor may get.
            sock._sslobj = None
        # Not close(), which does nothing while a file made from the socket exists.
        descriptor = sock.detach()
        if descriptor >= 0:
            _wake_others(descriptor)
            # Not os.close, which gevent's patch delays, and which may even wait.
            socket.close(descriptor)
    except Exception:
        # A finalizer has no caller that could handle it. The descriptor was closed by
        # other code, or the loop was destroyed together with gevent's watchers.
        log.debug("could not terminate %r", sock, exc_info=True)
        with suppress(Exception):
            getattr(sock, "_sock", sock).close()


def abort(sock: Any) -> None:
    """Like :func:`terminate`, but the peer gets a reset, and unsent data is lost.

    For a stream that is out of step. It avoids the minute of TIME_WAIT on this side.
    Never switches. Never raises.
    """
    if not _in_child:
        try:
            at_once = struct.pack("ii", 1, 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        except OSError:
            pass  # closed already, or without this option
    terminate(sock)


def redirect_to_null(descriptor: int) -> None:
    """Disconnect a descriptor that other code owns. Never switches.

    The number stays taken, because its owner will close it later and must not close
    another descriptor then. Data that the owner still writes, such as a closing
    message, is lost. Greenlets that wait on the descriptor are woken.

    :raises OSError: no such descriptor, or no descriptor left for the null device.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    try:
        os.dup2(nowhere, descriptor, inheritable=False)
    finally:
        socket.close(nowhere)
    _wake_others(descriptor)


def _stop_waits(sock: Any) -> None:
    # Watchers are stopped before the descriptor is closed, because libev may fail to
    # stop a watcher of a closed descriptor.
    for name in "_read_event", "_write_event":
        watcher = getattr(sock, name, None)
        wake = getattr(watcher, "callback", None)
        if watcher is None or wake is None:
            continue
        watcher.stop()
        if not _in_child:
            error = OSError(EBADF, "the socket was closed by another greenlet")
            sock.hub.loop.run_callback(wake.__self__.throw, error)


def _wake_others(descriptor: int) -> None:
    # Greenlets whose watchers do not belong to the socket. libev tolerates that these
    # are stopped after the descriptor is closed. gevent delays the close until they are
    # stopped, which may take as long as the loop has nothing else to do.
    hub = get_hub_if_exists()
    if hub is not None and not _in_child:
        hub.loop.closing_fd(descriptor)
