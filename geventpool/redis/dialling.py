"""When a connection of redis-py may connect by itself.

A connection of redis-py that has lost its socket connects again when it is used. The
pool must prevent that in two cases: the loan has ended, so the new socket would belong
to nobody; or keys are watched, so the new session would have lost the WATCH.
"""

from __future__ import annotations

import functools
import weakref
from typing import Any

from gevent.socket import socket as GeventSocket
from redis.exceptions import ConnectionError, WatchError
from redis.retry import Retry

from geventpool.redis.errors import TakenBackError
from geventpool.redis.internals import behind_cache, native_socket_of

__all__ = ["Parting", "allow", "forbid", "forbid_while_watching", "redirect_to_null"]

#: The methods through which redis-py connects.
DOORS = ("connect", "connect_check_health")


def forbid(conn: Any) -> None:
    """Let *conn* never connect again. Never switches.

    A greenlet that still uses it gets a :exc:`TakenBackError`, without retries.
    """
    inner = behind_cache(conn)
    for name in _doors(inner):
        vars(inner)[name] = _refuse
    # A command that is being retried holds the present object.
    retry = getattr(inner, "retry", None)
    if isinstance(retry, Retry):
        retry.update_retries(0)


def _doors(conn: Any) -> list[str]:
    return [name for name in DOORS if hasattr(type(conn), name)]


def _refuse(*args: Any, **kwargs: Any) -> None:
    raise TakenBackError(
        "The pool has taken this connection back: it was given back, its pool was shut "
        "down, or the greenlet or object that borrowed it has ended. Take another one "
        "by get_connection()"
    )


def forbid_while_watching(conn: Any, owner: Any) -> None:
    """Let *conn* not connect again while *owner*, a pipeline, watches keys.

    A new session has no WATCH, so EXEC would succeed although a key has changed.
    """
    inner = behind_cache(conn)
    for name in _doors(inner):
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
            # The pipeline itself makes a WatchError of it.
            raise ConnectionError(words)
        if getattr(pipe, "_watching", False):
            # That of a cluster would retry, and then read without the WATCH.
            pipe._watching = False
            raise WatchError(words)
    return getattr(type(inner), name)(inner, *args, **kwargs)


def allow(conn: Any) -> None:
    """Let *conn* connect by itself again, as any connection of redis-py."""
    known = vars(behind_cache(conn))
    for name in DOORS:
        known.pop(name, None)


def redirect_to_null(conn: Any, loop: Any) -> None:
    """Disconnect *conn* at once, although it may be in use. Never switches.

    The socket is shut down now. Its descriptor is closed in a turn of *loop* of its
    own: a finaliser may call this while the holder is about to start a watcher for
    the descriptor, and libev ends the process if the descriptor is closed by then.
    """
    inner = behind_cache(conn)
    sock = getattr(inner, "_sock", None)
    if sock is None:
        return
    if isinstance(sock, GeventSocket):
        inner._sock = Parting(sock, loop)
    conn.disconnect()


class Parting:
    """Stands for the socket in a connection that is about to disconnect."""

    def __init__(self, sock: Any, loop: Any) -> None:
        self._sock = sock
        self._loop = loop

    def shutdown(self, how: int) -> None:
        """End the stream; of TLS without a goodbye, for its state is the holder's."""
        native_socket_of(self).shutdown(how)

    def close(self) -> None:
        """Close the descriptor in a turn of the loop."""
        try:
            self._loop.run_callback_threadsafe(self._sock.close)
        except Exception:
            # The loop is gone, and so are its watchers.
            self._sock.close()
