"""Sockets as a pool needs them: dialled in time, asked without waiting, let go of.

Knows addresses, deadlines, descriptors and what gevent keeps for each of them. Knows
nothing of connections, pools or protocols. Needs no monkey-patching, and a program
may patch before or after importing this.
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
    # The module itself must not be imported before it is needed: a program that
    # patches after importing us would be left with a half-patched ssl.
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

# The class below what gevent wraps, and below every native socket.
_native_socket: type = monkey.get_original("socket", "socket").__mro__[1]

# A patched poll switches even when told not to wait.
_poll = monkey.get_original("select", "poll")
#: One poll object for each descriptor number there ever was: the kernel keeps nothing
#: between two calls, so it serves whatever has the number next. Making one takes a
#: third of the time of asking it.
_polls: dict[int, Any] = {}


class HasFileno(Protocol):
    """What can be asked for its descriptor."""

    def fileno(self) -> int: ...


@dataclass(frozen=True)
class KeepAlive:
    """How soon a peer that vanished without a word is noticed.

    A connection at rest is asked after *idle* seconds whether it still lives, then
    every *interval* seconds, and is given up after *count* questions without an
    answer. Bytes that nobody acknowledges are given up after the same time in all,
    ``idle + interval * count`` seconds; the system's own patience for those is
    about a quarter of an hour.

    :param int idle: whole seconds, from 1 to 32767, which is as long as Linux waits.
    :param int interval: whole seconds, from 1 to 32767.
    :param int count: from 1 to 127.
    :raises TypeError: one is not an ``int``.
    :raises ValueError: one is out of its range.
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
        """The socket options of this platform: level, option, value."""
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
    """A connected gevent socket, in blocking mode. May switch.

    Every address of *host* is tried in turn. A numeric *host* does not pass through
    the resolver, whose ten threads may all be busy with names that do not resolve.

    :param str host: name, IPv4 or IPv6 address.
    :param int port: TCP port.
    :param float timeout: seconds for all of it: name, connect and TLS handshake.
        While further addresses are left, one may use up its equal share. None
        leaves it to the system.
    :param ssl: an ``SSLContext``; True for one default context, shared by the
        process because making it holds the hub for 20 to 30 ms; None for plain TCP.
    :param str server_hostname: the name the certificate must bear, if not *host*.
    :param KeepAlive keepalive: how soon a vanished peer is noticed.
    :raises TimeoutError: *timeout* is over.
    :raises OSError: no address could be reached (the last one's error), the name
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
    """A gevent socket connected to a Unix socket, in blocking mode. May switch.

    :param path: where it is; the name of an abstract one starts with a null byte.
    :param float timeout: seconds for all of it; None leaves it to the system.
    :param ssl: as for :func:`dial`.
    :param str server_hostname: the name the certificate must bear.
    :raises TimeoutError: *timeout* is over.
    :raises OSError: whatever connecting or the handshake raised.
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
        # A NaN in the loop's heap would stop every timer of the process.
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
        # A label of more than 63 characters, or none: no such name can exist.
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
    # While a server on one of the ports that clients get is down, a client may be
    # given that very port and then be connected to itself.
    if sock.getsockname() == sock.getpeername():
        raise ConnectionRefusedError(ECONNREFUSED, "connected to itself: no server")


def _connect_unix(sock: socket.socket, path: str | bytes) -> None:
    # A Unix socket whose backlog is full answers EAGAIN, yet counts as writable:
    # gevent's connect would then spin on the processor until the server accepts.
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
        # Killed or timed out as well; the wrapper is the owner now.
        terminate(tls)
        raise
    return tls


def _wrapped(
    sock: socket.socket, ssl: SSLContext | bool, server_hostname: str | None
) -> SSLSocket:
    from gevent import ssl as gevent_ssl

    # Not context.wrap_socket: that of an unpatched context makes native sockets,
    # which block the hub. gevent's own contexts call their class just so.
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


# Asking


def is_quiet(sock: HasFileno) -> bool:
    """Whether an idle socket is still open and has nothing to say. Never switches.

    End of stream, an error and unexpected bytes all count as noise. Nothing is
    consumed from a plain socket, no error is taken off it, and its number may be
    above 1023. A TLS socket may be sent session tickets at any time, which are no
    data: so one that looks readable is read, without waiting, to tell.

    No answer still on its way can be seen: quiet is not the same as in step.

    :param sock: a socket, of gevent or native, or whatever has a ``fileno``.
    """
    # A poll takes a fourth of the time of recv(1, MSG_PEEK | MSG_DONTWAIT), whose usual
    # outcome is an exception.
    try:
        number = sock.fileno()
        poll = _polls.get(number) or _poll_of(number)
        if not poll.poll(0):
            return type(sock) is socket.socket or not _buffered(sock)
        return type(sock) is not socket.socket and _says_nothing(sock)
    except (OSError, ValueError, RuntimeError):
        # RuntimeError: another thread asks about the same number at this moment, so
        # one of the two sockets was closed behind its owner's back.
        return False


def _poll_of(number: int) -> Any:
    poll = _poll()
    poll.register(number, POLLIN)
    _polls[number] = poll
    return poll


def _buffered(sock: Any) -> bool:
    # Decrypted bytes are in the TLS library, where no poll sees them.
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
    """The socket under a driver's connection, or None. Never switches.

    Looks at the object itself, then at its ``sock``, ``_sock`` and ``socket``; an
    attribute that cannot be read is none.
    """
    kinds = (socket.socket, _native_socket)
    if isinstance(thing, kinds):
        return thing  # type: ignore[return-value]
    for name in "sock", "_sock", "socket":
        try:
            found = getattr(thing, name, None)
        except Exception:
            continue  # a property that refuses while not connected
        if isinstance(found, kinds):
            return found  # type: ignore[return-value]
    return None


# Letting go

_in_child = False


@contextmanager
def after_fork() -> Iterator[None]:
    """A block in which sockets are let go of as a forked child must.

    For ``os.register_at_fork(after_in_child=...)``: within it :func:`terminate`,
    :func:`abort` and :func:`redirect_to_null` close the child's copy of the descriptor
    and nothing else. The copies of the parent's greenlets which wait on it are not
    woken (they would go on with the parent's work in the child), and :func:`abort`
    resets nothing, since the parent's connection is the same. The block must not
    switch.
    """
    global _in_child
    _in_child = True
    try:
        yield
    finally:
        _in_child = False


def terminate(sock: Any) -> None:
    """Let go of the descriptor at once, without a goodbye. Never switches or raises.

    No ``shutdown``, no TLS ``unwrap``: fit for the hub, finalizers, at-fork hooks
    (see :func:`after_fork`) and for other greenlets' sockets, and it does not mind
    files made from the socket, which keep ``close()`` from closing it. A greenlet
    that waits on the socket gets an ``OSError`` (EBADF) in the next turn of the
    loop; one that waits on the bare descriptor (``select``) is woken. What was sent
    is still delivered. A closed socket is left alone.

    :param sock: a socket of gevent, or a native one.
    """
    try:
        _stop_waits(sock)
        if hasattr(sock, "pending"):
            # The TLS library remembers the number, which is about to be free.
            sock._sslobj = None
        # Not close(): that does nothing as long as a file made from it lives.
        descriptor = sock.detach()
        if descriptor >= 0:
            _wake_others(descriptor)
            # Not os.close: gevent's patch puts it off, and may even wait.
            socket.close(descriptor)
    except Exception:
        # A finalizer has nobody to raise it to. The descriptor was closed behind our
        # back, or the loop is destroyed and with it what gevent kept for the socket.
        log.debug("could not let go of %r", sock, exc_info=True)
        with suppress(Exception):
            getattr(sock, "_sock", sock).close()


def abort(sock: Any) -> None:
    """Like :func:`terminate`, but the peer gets a reset, and unsent data is lost.

    For a stream that is out of step: it spares this side the minute of TIME_WAIT
    which each closed connection costs. Never switches or raises.
    """
    if not _in_child:
        try:
            at_once = struct.pack("ii", 1, 0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        except OSError:
            pass  # closed already, or of a kind without it
    terminate(sock)


def redirect_to_null(descriptor: int) -> None:
    """Cut a connection whose descriptor somebody else owns. Never switches.

    The number stays taken, and leads nowhere from now on: its owner will close it
    some day, and must then not close a stranger's. Whatever the owner still writes,
    like a goodbye, gets lost. Greenlets that wait on it are woken.

    :raises OSError: no such descriptor, or no room for another one.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    try:
        os.dup2(nowhere, descriptor, inheritable=False)
    finally:
        socket.close(nowhere)
    _wake_others(descriptor)


def _stop_waits(sock: Any) -> None:
    # The watchers go before the descriptor does, because libev may object to
    # stopping one of a closed descriptor.
    for name in "_read_event", "_write_event":
        watcher = getattr(sock, name, None)
        wake = getattr(watcher, "callback", None)
        if watcher is None or wake is None:
            continue
        watcher.stop()
        if not _in_child:
            error = OSError(EBADF, "the socket was let go of by another greenlet")
            sock.hub.loop.run_callback(wake.__self__.throw, error)


def _wake_others(descriptor: int) -> None:
    # Those whose watchers are not the socket's own. libev bears it that they are
    # stopped after the descriptor is closed; putting off the close until they are,
    # as gevent does, may last as long as the loop has nothing else to do.
    hub = get_hub_if_exists()
    if hub is not None and not _in_child:
        hub.loop.closing_fd(descriptor)
