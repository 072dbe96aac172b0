"""Is an idle Redis connection fit to be lent? Asked of its socket, with no round trip.

Knows the two parsers of redis-py and the sockets of gevent; knows no pool.

redis-py's own check goes through the hub under gevent (some 15 us and two switches for
each command), and with RESP3 it does not act on what it finds. This one takes about
1 us, never switches, and tells a push, which is kept, from a stale reply.
"""

from __future__ import annotations

import select
from socket import MSG_DONTWAIT, MSG_PEEK
from ssl import SSLWantReadError
from typing import Any

from gevent import monkey
from gevent.socket import socket as GeventSocket
from gevent.ssl import SSLSocket

from geventpool import sockets
from geventpool.redis.frames import are_pushes
from geventpool.redis.internals import (
    behind_cache,
    hiredis_reader_of,
    is_push,
    native_socket_of,
    parser_of,
    put_back,
    socket_of,
    tls_object_of,
    unread,
)

__all__ = ["is_quiet"]

#: Bytes that are looked at. Behind a longer push nobody knows what stands.
_LOOK = 65536
INVALIDATE = (b"invalidate", "invalidate")

_native_poll = monkey.get_original("select", "poll")
#: One native poll object for each descriptor number there ever was: the kernel keeps
#: nothing between two calls, so it serves whatever socket has the number next. Making
#: one takes as long as asking it.
_polls: dict[int, Any] = {}
# RDHUP, the end of a stream behind unread bytes, is Linux's own.
_HUNG_UP = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)


def is_quiet(conn: Any) -> bool:
    """Is *conn* connected, and is there nothing to read on it but pushes?

    A push of RESP3 (an invalidated key, a notice of maintenance) is left for redis-py
    to find. Anything else on an idle connection is a reply that nobody read, or the
    end of the stream.

    No check of this kind can see a reply that is still on its way. So the pool does
    not rely on it for a connection whose borrower was interrupted: that one is closed.

    Never switches, as long as *conn* is one of redis-py's.
    """
    # The way of nearly every call: hiredis without a rest, and a plain socket.
    try:
        sock = socket_of(conn)
        if type(sock) is GeventSocket and not hiredis_reader_of(conn).has_data():
            number = native_socket_of(conn).fileno()
            poll = _polls.get(number) or _poll_of(number)
            return not poll.poll(0) or _offers_push(conn)
    except (AttributeError, ValueError):
        # Not connected, closed, the parser written in Python, a cache in front...
        pass
    return _look_closer(behind_cache(conn))


def _poll_of(number: int) -> Any:
    poll = _native_poll()
    poll.register(number, select.POLLIN)
    _polls[number] = poll
    return poll


def _look_closer(conn: Any) -> bool:
    sock = getattr(conn, "_sock", conn)
    if sock is None:
        return False
    if not isinstance(sock, GeventSocket):
        # A connection or a socket of somebody's own making.
        return not conn.can_read()
    if not _has_read_all(conn):
        return False
    before = unread(conn)
    if isinstance(sock, SSLSocket):
        return _is_tls_quiet(conn, before)
    return (not before and sockets.is_quiet(sock)) or _offers_push(conn, before)


def _speaks_resp3(conn: Any) -> bool:
    return conn.get_protocol() in (3, "3")


def _offers_push(conn: Any, before: bytes = b"") -> bool:
    """Is all that can be read pushes, on a connection that is still open behind them?

    :param before: what the parser has read and not yet parsed.
    """
    native = native_socket_of(conn)
    try:
        data = native.recv(_LOOK, MSG_PEEK | MSG_DONTWAIT)
    except BlockingIOError:
        data = b""
    except OSError:
        return False
    if not _may_stay(conn, before + data):
        return False
    poll = _native_poll()
    poll.register(native, _HUNG_UP)
    return not poll.poll(0)


def _may_stay(conn: Any, data: bytes) -> bool:
    """Is *data*, which can be read from *conn*, nothing but pushes?"""
    return _speaks_resp3(conn) and 0 < len(data) < _LOOK and are_pushes(data)


def _has_read_all(conn: Any) -> bool:
    """Does the parser hold no reply that it has read but nobody asked for?"""
    try:
        reader = hiredis_reader_of(conn)
    except AttributeError:
        # The parser written in Python: its bytes are looked at with the socket's.
        return True
    # hiredis can't be peeked into: what it holds must be taken out to be known. Only
    # an invalidation can be acted on here, for it touches the cache alone, while a
    # notice of maintenance may switch. That costs the connection; the server sends
    # the notice over every other one too.
    while reader.has_data():
        if not _speaks_resp3(conn):
            return False
        reply = reader.gets(False)
        if not is_push(conn, reply) or reply[0] not in INVALIDATE:
            return False
        parser_of(conn).handle_push_response(reply)
    return True


def _is_tls_quiet(conn: Any, before: bytes) -> bool:
    # That it is readable says little: so is a fresh session of TLS 1.3, where tickets
    # wait. Only reading can tell; what was read is given to the parser.
    data = b""
    try:
        while len(data) < _LOOK and (more := tls_object_of(conn).read(_LOOK)):
            data += more
        return False
    except SSLWantReadError:
        pass
    except OSError:
        return False
    if not before and not data:
        return True
    if not _may_stay(conn, before + data):
        return False
    put_back(conn, data)
    return True
