"""Connects a connection of redis-py, and controls when it may reconnect by itself.

A connection of redis-py that has lost its socket reconnects when it is used. The pool
must prevent that in two cases: the loan has ended, so the pool would not count the new
socket; or keys are watched, and the new session would not have the WATCH.
"""

from __future__ import annotations

import functools
import socket
import weakref
from typing import Any

from gevent.socket import socket as GeventSocket
from redis.backoff import NoBackoff
from redis.connection import Connection
from redis.exceptions import ConnectionError, WatchError
from redis.retry import Retry

from geventpool.dialing import Address, numeric_address
from geventpool.redis.errors import TakenBackError
from geventpool.redis.internals import (
    behind_cache,
    dial_by_redis_py,
    dialling_by,
    fail_readers,
    native_socket_of,
)
from geventpool.redis.request_socket import as_request_socket

__all__ = [
    "Parting",
    "allow",
    "connect_once",
    "forbid",
    "forbid_while_watching",
    "is_restricted",
    "redirect_to_null",
]

#: The methods by which redis-py connects.
CONNECT_METHODS = ("connect", "connect_check_health")


def forbid(conn: Any) -> None:
    """Prevent that *conn* ever connects again. Never switches.

    A greenlet that still uses it gets a :exc:`TakenBackError`, without retries.
    """
    inner = behind_cache(conn)
    for name in _connect_methods(inner):
        vars(inner)[name] = _refuse
    # The present object is changed, because a command that is being retried refers to
    # it.
    retry = getattr(inner, "retry", None)
    if isinstance(retry, Retry):
        retry.update_retries(0)


def _connect_methods(conn: Any) -> list[str]:
    return [name for name in CONNECT_METHODS if hasattr(type(conn), name)]


def _refuse(*args: Any, **kwargs: Any) -> None:
    raise TakenBackError(
        "The pool has taken this connection back: it was given back, its pool was shut "
        "down, or the greenlet or object that borrowed it has ended. Take another one "
        "by get_connection()"
    )


def forbid_while_watching(conn: Any, owner: Any) -> None:
    """Prevent that *conn* reconnects while the pipeline *owner* watches keys.

    A new session has no WATCH, so EXEC would succeed although a key has changed.
    """
    inner = behind_cache(conn)
    for name in _connect_methods(inner):
        vars(inner)[name] = functools.partial(
            _connect_unless_watching, weakref.ref(inner), weakref.ref(owner), name
        )


def _connect_unless_watching(
    conn: weakref.ref[Any],
    owner: weakref.ref[Any],
    name: str,
    *args: Any,
    **kwargs: Any,
) -> Any:
    inner: Any = conn()
    pipe = owner()
    if inner._sock is None and pipe is not None:
        words = "The connection was lost while keys were watched, and so was the WATCH"
        if getattr(pipe, "watching", False):
            # The pipeline itself turns this into a WatchError.
            raise ConnectionError(words)
        if getattr(pipe, "_watching", False):
            # The pipeline of a cluster would retry, and then read without the WATCH.
            pipe._watching = False
            raise WatchError(words)
    return getattr(type(inner), name)(inner, *args, **kwargs)


def allow(conn: Any) -> None:
    """Let *conn* reconnect by itself again, as redis-py does by default."""
    known = vars(behind_cache(conn))
    for name in CONNECT_METHODS:
        known.pop(name, None)


def is_restricted(conn: Any) -> bool:
    """Whether *conn* may not reconnect, or not always. Never switches."""
    known = vars(behind_cache(conn))
    return any(name in known for name in CONNECT_METHODS)


def connect_once(conn: Any) -> None:
    """Connect *conn*, without its retries. May switch.

    :raises Exception: raised by redis-py.
    :raises ConnectionError: the reply to HELLO is not one, for instance because bytes
        were lost on the way.
    :raises TakenBackError: :func:`forbid` was called meanwhile.
    """
    inner = behind_cache(conn)
    retry, inner.retry = inner.retry, Retry(NoBackoff(), 0)
    try:
        with dialling_by(_dial, inner):
            conn.connect()
    except AttributeError as error:
        # redis-py takes the reply to HELLO for a dictionary without looking.
        reply = getattr(inner, "handshake_metadata", None)
        if reply is None or isinstance(reply, dict):
            raise
        raise ConnectionError(f"not a reply to HELLO: {reply!r:.100}") from error
    finally:
        if is_restricted(inner):
            # See forbid(), which has changed the other object.
            retry.update_retries(0)
        inner.retry = retry
    if is_restricted(inner):
        conn.connect()


def _dial(conn: Any) -> Any:
    """Open the socket of *conn*, as redis-py does. May switch.

    :raises OSError: the server cannot be reached, or not in time.
    """
    numeric = _numeric_address(conn)
    if numeric is None:
        return as_request_socket(dial_by_redis_py(conn))
    return as_request_socket(_dial_address(conn, *numeric))


def _numeric_address(conn: Any) -> Address | None:
    """Return family and address; None: *conn* has a Unix socket, or a host's name."""
    if not isinstance(conn, Connection) or conn.socket_type:
        return None
    host = conn.host
    return numeric_address(host, conn.port) if isinstance(host, str) else None


def _dial_address(conn: Any, family: int, address: Any) -> Any:
    """Open a TCP socket to a numeric address. May switch.

    redis-py resolves every host, also a numeric one, in a thread. In a busy process the
    thread waits for the interpreter longer than all other steps of connecting take.

    :raises OSError: the server cannot be reached, or not in time.
    """
    # Of the standard library, which gevent has patched: tests of programs replace it.
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if conn.socket_keepalive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in conn.socket_keepalive_options.items():
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
        sock.settimeout(conn.socket_connect_timeout)
        sock.connect(address)
        sock.settimeout(conn.socket_timeout)
    except BaseException:
        # Killed as well: nobody else knows of this descriptor.
        sock.close()
        raise
    return sock


def redirect_to_null(conn: Any, loop: Any) -> None:
    """Disconnect *conn* at once, although it may be in use. Never switches.

    The socket is shut down now, and its descriptor is closed in a later turn of *loop*.
    A finalizer may call this while the holder is about to start a watcher for the
    descriptor; libev ends the process if the descriptor is closed at that time.
    """
    inner = behind_cache(conn)
    sock = getattr(inner, "_sock", None)
    if sock is None:
        return
    if isinstance(sock, GeventSocket):
        inner._sock = Parting(sock, loop)
    conn.disconnect()
    fail_readers(inner)


class Parting:
    """Replaces the socket of a connection that is about to disconnect."""

    def __init__(self, sock: Any, loop: Any) -> None:
        self._sock = sock
        self._loop = loop

    def shutdown(self, how: int) -> None:
        """Shut the TCP connection down, without a closing message of TLS.

        The TLS state belongs to the holder.
        """
        native_socket_of(self).shutdown(how)

    def close(self) -> None:
        """Close the descriptor in a later turn of the loop."""
        try:
            self._loop.run_callback_threadsafe(self._sock.close)
        except Exception:
            # The loop has ended, and its watchers with it.
            self._sock.close()
