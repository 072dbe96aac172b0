"""Checks without a round trip whether an idle Redis connection can be lent.

It depends on redis-py's two parsers and gevent's sockets, not on the pool.

redis-py's own check goes through the hub under gevent (about 15 us and two switches for
each command), and ignores its result with RESP3. This check takes about 1 us and never
switches. It distinguishes a push, which is kept, from a stale reply.
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
from geventpool.redis.request_socket import RequestSocket

__all__ = ["is_quiet"]

#: The most bytes that are examined. What follows a longer push is unknown.
_LOOK = 65536
INVALIDATE = (b"invalidate", "invalidate")

_native_poll = monkey.get_original("select", "poll")
#: One native poll object for each descriptor number. The kernel keeps no state between
#: two calls, so it also serves the next socket with that number. Making one takes as
#: long as polling.
_polls: dict[int, Any] = {}
# Only Linux has RDHUP, the end of a stream that still has unread bytes.
_HUNG_UP = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)


def is_quiet(conn: Any) -> bool:
    """Whether *conn* is connected, and has nothing to read but pushes.

    A push of RESP3 (an invalidated key, a notice of maintenance) is left for redis-py
    to read. Anything else on an idle connection is an unread reply or the end of the
    stream.

    Such a check cannot see a reply that has not arrived yet. So the pool does not rely
    on it after an interruption: that connection is closed.

    Never switches if *conn* is redis-py's.
    """
    # The fast path of nearly every call: hiredis with nothing unread, and a socket
    # without TLS.
    try:
        kind = type(socket_of(conn))
        is_plain = kind is RequestSocket or kind is GeventSocket
        if is_plain and not hiredis_reader_of(conn).has_data():
            number = native_socket_of(conn).fileno()
            poll = _polls.get(number) or _poll_of(number)
            return not poll.poll(0) or _offers_push(conn)
    except (AttributeError, ValueError):
        # Not connected, closed, with the parser in Python, or with a cache.
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
        # A connection or a socket of another class.
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
    """Whether all that can be read is pushes, on a connection that is still open.

    :param before: bytes that the parser has read and not yet parsed.
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
    """Whether *data*, the readable bytes of *conn*, is pushes only."""
    return _speaks_resp3(conn) and 0 < len(data) < _LOOK and are_pushes(data)


def _has_read_all(conn: Any) -> bool:
    """Whether the parser holds no reply that it has read but not delivered."""
    try:
        reader = hiredis_reader_of(conn)
    except AttributeError:
        # The parser in Python: its bytes are examined together with the socket's.
        return True
    # The contents of hiredis can only be examined by taking them out. Only an
    # invalidation can be handled here, because that changes only the cache. Handling a
    # notice of maintenance may switch, so the connection is closed instead; the server
    # sends the notice over every other connection too.
    while reader.has_data():
        if not _speaks_resp3(conn):
            return False
        reply = reader.gets(False)
        if not is_push(conn, reply) or reply[0] not in INVALIDATE:
            return False
        parser_of(conn).handle_push_response(reply)
    return True


def _is_tls_quiet(conn: Any, before: bytes) -> bool:
    # A readable socket means little: in a new session of TLS 1.3, tickets are readable.
    # So it is read, and the data is given to the parser.
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
