"""The socket of an interrupted command: kept open, and its reply forgotten.

The server does not stop when its client closes the socket. As long as the socket is
open, the id of the server's thread belongs to this connection alone, so the command can
be cancelled by another connection.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any

import gevent.monkey
import gevent.socket
from gevent.socket import wait_read
from pymysql import err
from pymysql.connections import Connection
from pymysql.constants import SERVER_STATUS
from pymysql.protocol import EOFPacketWrapper, OKPacketWrapper

from geventpool import sockets

__all__ = ["UNREAD", "Interruptible"]

#: What the next packet is numbered after a command was sent. Equal to 1, and like no
#: other object that is: so it tells that nothing of the reply was read.
UNREAD: int = True

#: Bytes of a reply that are read to keep a connection. A new one costs less than more.
LONGEST_REPLY = 100 * 1024

#: A patched poll switches even when told not to wait.
_poll = gevent.monkey.get_original("select", "poll")


class Interruptible(Connection):
    """A PyMySQL connection that keeps the socket of an interrupted command."""

    # Declared here because the published stubs leave PyMySQL's own names out.
    _sock: Any
    _result: Any
    _next_seq_id: int

    #: The socket of an interrupted command; None: no command was interrupted. For all
    #: other purposes the connection is closed then.
    interrupted: Any = None
    #: Whether not a byte of its reply was read.
    is_unread = False
    #: Whether it was a command of the pool's own, which cleans the session.
    is_own_command = False

    #: The greenlet that waits for bytes.
    _reader: Any = None
    _buffer: bytes | None
    _at: int
    _may_chain: bool
    pending: int
    fatal_error: Exception | None

    if TYPE_CHECKING:

        def _force_close(self) -> None: ...
        def _begin_asking(self) -> None: ...

    def _set_aside(self, is_unread: bool) -> None:
        """Keep the socket of a command whose reply is not read whole. Never switches.

        :param is_unread: whether no byte was lost with the interruption.
        """
        sock = self._sock
        if sock is None:
            return  # closed by another greenlet
        self.is_unread = (
            is_unread
            and self._next_seq_id is UNREAD
            and self._at == len(self._buffer or b"")
        )
        self.is_own_command = self.pending != 0
        self.interrupted, self._sock = sock, None
        self._force_close()

    @property
    def is_reading(self) -> bool:
        """Whether a greenlet waits for a reply. Never switches."""
        return self._reader is not None and self._sock is not None

    @property
    def number(self) -> int:
        """The id of the server's thread."""
        thread: Any = self.thread_id
        return int(thread())

    @property
    def is_single(self) -> bool:
        """Whether each command holds one statement only. Never switches."""
        return not self._may_chain

    def set_aside(self) -> None:
        """Interrupt a greenlet that waits for a reply, or leave the rest of one unread.

        A greenlet that reads gets an ``OperationalError`` (2013). Never switches.
        """
        if self._reader is not None:
            sockets.wake_waiters(self._sock)
        self._set_aside(True)

    def close_interrupted(self) -> None:
        """Close the socket of an interrupted command. Never switches."""
        sock, self.interrupted = self.interrupted, None
        if sock is not None:
            sockets.terminate(sock)

    # What follows is for the greenlet that cancels, which owns the connection.

    @property
    def has_reply(self) -> bool:
        """Whether there is something to read, be it the end. Never switches."""
        sock = self.interrupted
        poll = _poll()
        poll.register(sock.fileno(), select.POLLIN)
        pending = getattr(sock, "pending", None)
        return bool(poll.poll(0)) or (pending is not None and pending() > 0)

    def wait_for_reply(self, seconds: float | None = None) -> bool:
        """Wait until there is something to read. May switch.

        :param seconds: to wait at most; None: without limit.
        :return: whether there is.
        """
        if not self.has_reply:
            try:
                wait_read(self.interrupted.fileno(), seconds, TimeoutError())
            except TimeoutError:
                return False
        return True

    def forget_reply(self) -> bool:
        """Read the whole reply of the interrupted command, and forget it. May switch.

        Nothing of it may have been read before.

        :return: whether the connection is in step again. False: the reply is too long
            or of an odd kind, or the connection is lost.
        """
        self._sock, self.interrupted = self.interrupted, None
        self._next_seq_id = 1
        self._buffer, self._at, self._result = b"", 0, None
        try:
            if self._skip_reply():
                self._begin_asking()
                return True
        except err.MySQLError:
            # The server's error is the end of the reply.
            if self._sock is not None and self.fatal_error is None:
                self._begin_asking()
                return True
        self._set_aside(False)
        return False

    def _skip_reply(self) -> bool:
        read: Any = self._read_packet
        first = read()
        if first.is_ok_packet():
            return _is_last(OKPacketWrapper(first).server_status)
        if first.is_load_local_packet():
            return False
        size = 0
        for _ in range(first.read_length_encoded_integer() + 1):
            read()
        while size < LONGEST_REPLY:
            row = read()
            if row.is_eof_packet():
                return _is_last(EOFPacketWrapper(row).server_status)
            size += len(row.get_all_data())
        return False


def _is_last(status: int) -> bool:
    """Whether no further result follows."""
    return not status & SERVER_STATUS.SERVER_MORE_RESULTS_EXISTS
