"""Functions for sockets: check without waiting, find, terminate.

They do not depend on connections, pools or protocols, and need no monkey-patching. A
program may patch before or after it imports this module.
"""

from __future__ import annotations

import logging
import os
import select
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EBADF
from select import POLLERR, POLLHUP, POLLIN
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from gevent import monkey, socket
from gevent._hub_local import get_hub_if_exists

from geventpool._core.loops import is_libuv

if TYPE_CHECKING:
    # Imported at first use only: otherwise a program that patches after importing this
    # module would have a half-patched ssl.
    pass

__all__ = [
    "abort",
    "after_fork",
    "await_reply",
    "find_socket",
    "has_hung_up",
    "is_quiet",
    "keep_numbers",
    "redirect_to_null",
    "terminate",
    "wake_waiters",
]

log = logging.getLogger(__name__)

Address: TypeAlias = "tuple[int, Any]"

# The base class of gevent's inner sockets and of all native sockets.
_native_socket: type = monkey.get_original("socket", "socket").__mro__[1]

#: what counts as a socket
_SOCKETS = (socket.socket, _native_socket)

# The patched poll switches even with a timeout of 0.
_poll = monkey.get_original("select", "poll")
#: One poll object for each descriptor number. The kernel keeps no state between two
#: calls, so it also serves the next descriptor with that number. Making one takes a
#: third of the time of polling.
_polls: dict[int, Any] = {}
# Only Linux has RDHUP, the end of a stream that may still have unread bytes.
_HUNG_UP = POLLHUP | POLLERR | getattr(select, "POLLRDHUP", 0)


class HasFileno(Protocol):
    """An object with a descriptor."""

    def fileno(self) -> int: ...


# Waiting


def await_reply(sock: Any) -> None:
    """Wait until there is something to read, after a request was sent. May switch.

    gevent's sockets try to read before they wait. Right after a request that fails, and
    costs a system call and an exception.

    :param sock: a gevent socket, with or without TLS. Nothing is done for another one,
        or for one that does not wait.
    :raises TimeoutError: nothing has come within the timeout of the socket.
    :raises OSError: another greenlet has closed the socket (EBADF).
    """
    watcher = getattr(sock, "_read_event", None)
    if watcher is None or sock.timeout == 0:
        return
    if type(sock) is socket.socket or not _buffered(sock):
        # In another thread than its own this fails, as reading does.
        socket.wait(watcher, sock.timeout, hub=sock.hub)


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


def has_hung_up(conn: HasFileno) -> bool:
    """Whether the peer has closed a connection, or it is closed here. Never switches.

    It may be called in any thread. Unread data, such as notices of a server, does not
    matter.

    :param conn: a socket, or any object with ``fileno``.
    """
    poll = _poll()
    try:
        poll.register(conn.fileno(), _HUNG_UP)
    except Exception:
        # Closed here; drivers raise errors of their own.
        return True
    return bool(poll.poll(0))


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
    if isinstance(thing, _SOCKETS):
        return thing  # type: ignore[return-value]
    for name in "sock", "_sock", "socket":
        try:
            found = getattr(thing, name, None)
        except Exception:
            continue  # a property that raises while not connected
        if found is not None and isinstance(found, _SOCKETS):
            return found  # type: ignore[return-value]
    return None


# Termination

_in_child = False
#: Whether a forked child replaces descriptors instead of closing them.
_keeps_numbers = False
#: A pipe that nobody writes to; empty: not yet needed. Its ends stay open.
_silent_pipe: list[int] = []
#: Watchers that a forked child keeps, so that they are never stopped.
_kept: list[Any] = []


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
        keep_numbers(False)


def keep_numbers(keep: bool) -> None:
    """Set whether a forked child replaces descriptors instead of closing them.

    For connections that the parent uses, within :func:`after_fork`. A copied greenlet
    may wait on the descriptor by a watcher that does not belong to the socket, as
    ``select.poll()`` does. libev ends a process that closes a watched descriptor. So
    the child's copy becomes one on which nothing ever happens.
    """
    global _keeps_numbers
    _keeps_numbers = keep


def _silence(descriptor: int) -> None:  # pragma: no cover (in the child)
    if not _silent_pipe:
        _silent_pipe.extend(os.pipe())
    os.dup2(_silent_pipe[0], descriptor, inheritable=False)


def _shares_watchers() -> bool:
    """Whether to stop a watcher in the child would stop the parent's.

    The child begins with the parent's epoll set. libuv removes a descriptor from it at
    once. libev does that in the next turn of the loop, which has a new set by then.
    """
    hub = get_hub_if_exists() if _in_child else None
    return hub is not None and is_libuv(hub.loop)


def _let_go(sock: Any) -> None:  # pragma: no cover (in the child)
    """Replace the descriptor of *sock*, and stop no watcher."""
    if hasattr(sock, "pending"):
        sock._sslobj = None
    if sock.fileno() < 0:
        return
    _silence(sock.fileno())
    if hasattr(sock, "_read_event"):
        # Else they would be stopped with the socket.
        _kept.extend((sock._read_event, sock._write_event))
        sock._read_event = sock._write_event = None
    sock.detach()


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
        if _shares_watchers():  # pragma: no cover (in the child)
            _let_go(sock)
            return
        wake_waiters(sock)
        if hasattr(sock, "pending"):
            # The TLS library keeps the number, which another descriptor may get.
            sock._sslobj = None
        # Not close(), which does nothing while a file made from the socket exists.
        descriptor = sock.detach()
        if descriptor >= 0:
            if _in_child and _keeps_numbers:  # pragma: no cover (in the child)
                _silence(descriptor)
                return
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
    if _in_child:  # pragma: no cover (in the child)
        # To the event loop, the null device is always readable.
        _silence(descriptor)
        return
    nowhere = os.open(os.devnull, os.O_RDWR)
    try:
        os.dup2(nowhere, descriptor, inheritable=False)
    finally:
        socket.close(nowhere)
    _wake_others(descriptor)


def wake_waiters(sock: Any) -> None:
    """Raise ``OSError`` (EBADF) in the greenlets that wait on *sock*. Never switches.

    It happens in the next turn of the event loop. The descriptor stays open.
    """
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
