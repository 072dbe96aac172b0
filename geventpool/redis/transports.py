"""Non-blocking reads and writes, for plain sockets and TLS.

They use the native sockets below gevent's.
"""

from __future__ import annotations

from ssl import SSLWantReadError, SSLWantWriteError, SSLZeroReturnError
from typing import Any

from geventpool.redis.internals import native_socket_of, tls_object_of

__all__ = ["PlainTransport", "TlsTransport", "transport_of"]

#: Bytes read at a time. More than a TLS record has, so that no decrypted data is left
#: for which the descriptor is not readable.
READ_SIZE = 65536


class PlainTransport:
    """A stream of the operating system: TCP or a Unix socket.

    :param conn: a connected connection of redis-py.
    """

    #: whether data that was refused must be written again unchanged
    repeats = False

    def __init__(self, conn: Any) -> None:
        self._socket = native_socket_of(conn)
        #: the bytes that were read last
        self.buffer = bytearray(READ_SIZE)

    def fileno(self) -> int:
        """Return the descriptor."""
        return int(self._socket.fileno())

    def receive(self) -> int | None:
        """Read into the buffer. Never switches.

        :return: the number of bytes; 0: the server has closed; None: nothing to read.
        :raises OSError: the connection is broken.
        """
        try:
            return int(self._socket.recv_into(self.buffer))
        except BlockingIOError:
            return None

    def send(self, data: Any) -> int:
        """Write as much of *data* as is accepted at once. Never switches.

        :return: the number of bytes; 0: nothing is accepted at present.
        :raises OSError: the connection is broken.
        """
        try:
            return int(self._socket.send(data))
        except BlockingIOError:
            return 0


class TlsTransport(PlainTransport):
    """TLS over such a stream, after its handshake."""

    repeats = True

    def __init__(self, conn: Any) -> None:
        super().__init__(conn)
        self._tls = tls_object_of(conn)

    def receive(self) -> int | None:
        try:
            return int(self._tls.read(READ_SIZE, self.buffer))
        except (SSLWantReadError, SSLWantWriteError):
            return None
        except SSLZeroReturnError:
            return 0

    def send(self, data: Any) -> int:
        try:
            return int(self._tls.write(data))
        except (SSLWantReadError, SSLWantWriteError):
            return 0


def transport_of(conn: Any) -> PlainTransport:
    """Return the transport of a connected connection of redis-py."""
    try:
        is_plain = tls_object_of(conn) is None
    except AttributeError:
        is_plain = True
    return PlainTransport(conn) if is_plain else TlsTransport(conn)
