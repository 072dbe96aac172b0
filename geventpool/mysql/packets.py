"""The packet layer of a PyMySQL connection: dial, read, write and terminate.

It deals with bytes and sockets. Which greenlet may use the connection, and what a
packet means for the session, is decided in :mod:`geventpool.mysql.protocol`.
"""

from __future__ import annotations

import select
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gevent
import gevent.monkey
import gevent.socket
from gevent import getcurrent
from pymysql import err
from pymysql.connections import MAX_PACKET_LEN, Connection
from pymysql.constants import CLIENT, CR, SERVER_STATUS
from pymysql.protocol import MysqlPacket

from geventpool import dialing, sockets
from geventpool.connector import ErrorAction
from geventpool.mysql.errors import ConnectionInUseError, action_after
from geventpool.mysql.interrupted import UNREAD, Interruptible
from geventpool.mysql.statements import Kind
from geventpool.patching import is_patched

if TYPE_CHECKING:
    from greenlet import greenlet

__all__ = [
    "AUTOCOMMIT",
    "BLOCK",
    "CHANGED",
    "IN_TRANS",
    "IN_POOL",
    "SMALL",
    "Packets",
    "command_head",
    "lost",
]

#: Typed as Any because the private members are not in the published stubs.
_pymysql: Any = Connection

IN_TRANS = SERVER_STATUS.SERVER_STATUS_IN_TRANS
AUTOCOMMIT = SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT
#: The statement has changed the session. Sent if CLIENT_SESSION_TRACK was agreed on,
#: and the session's variable session_track_state_change is on.
CHANGED = 0x4000

#: The header of a packet, as one number: three bytes of length, one of its number.
_header = struct.Struct("<I").unpack_from
_HEADER, _LENGTH, _NUMBER = 4, 0xFFFFFF, 24
command_head = struct.Struct("<iB").pack
#: Bytes. PyMySQL and gevent split longer commands.
SMALL = 16 * 1024

#: The patched poll switches even with a timeout of 0.
_poll = gevent.monkey.get_original("select", "poll")
#: The first bytes of an error, and of the packet that ends a result set. A row may
#: begin with the latter too, but is longer.
_ERROR = 0xFF
_END = 0xFE
_LONGEST_END = 8

#: Bytes read from the socket at a time; the number of such blocks after which other
#: greenlets may run.
BLOCK = 32 * 1024
_BLOCKS = 16


class _InPool:
    """The owner of the command while the connection is not on loan."""

    def __repr__(self) -> str:
        return "its pool"


IN_POOL: Any = _InPool()


class Packets(Interruptible):
    """A PyMySQL connection that reads, writes and closes as gevent requires."""

    # Declared here because the published stubs leave PyMySQL's own names out.
    _sock: Any
    _rfile: Any
    _result: Any
    _closed: bool
    _secure: bool
    _current_timeout: float | None = None
    _read_timeout: float | None
    _write_timeout: float | None
    _next_seq_id: int
    server_status: int
    server_capabilities: int
    server_version: str

    #: The greenlet whose command is not answered yet; IN_POOL: no loan.
    _command_owner: greenlet | None = None
    #: The exception that interrupted a write. LOAD DATA would raise another in its
    #: place.
    _interruption: BaseException | None = None

    #: The received bytes and the position in them; None during the handshake.
    _buffer: bytes | None = None
    _at = 0
    _blocks = 0
    #: Whether other greenlets can run while this one waits.
    _yields = True
    #: Polls a socket without TLS for something to read.
    ask: Callable[[int], Any] | None = None
    #: The timeouts for reading and writing that every borrower gets.
    _limits: tuple[float | None, float | None] = (None, None)
    #: One command may carry several statements, so its first word does not tell its
    #: kind.
    _may_chain = False
    #: The number of unread replies to commands that were sent ahead.
    pending = 0

    #: The error after which this connection must not be used again.
    fatal_error: Exception | None = None
    #: Whether ``server_status`` comes from the last packet of the last answer.
    status_is_current = False
    #: Whether an answer without a status came since then, and the status may differ.
    status_may_be_stale = False
    #: The loan may have left something in the session that only a reset removes.
    left = False
    #: The loan has made an id, which LAST_INSERT_ID() would return.
    made_id = False
    #: If an earlier loan has made that id: the kinds of statements that leave nothing,
    #: and so do not ask for it. None: there is no such id.
    foreign_id: frozenset[Kind] | None = None
    #: Whether the reply to FORGET_ID comes before the reply to the statement.
    is_prefixed = False

    def __init__(self, *, tls: Callable[[Any, Any], Any], **options: Any) -> None:
        self._tls = tls
        super().__init__(**options)

    # Opening and closing

    def connect(self, sock: Any = None) -> None:
        """Dial, log in and set up the session. May switch.

        :param sock: a connected socket to use instead of dialling.
        :raises pymysql.err.OperationalError: raised by PyMySQL.
        :raises ConnectionInUseError: another greenlet uses it, or its loan has ended.
        """
        if self._command_owner is not None:
            raise self._in_use(self._command_owner)
        self.close_interrupted()
        self._force_close()
        self._reader = self._buffer = self.ask = None
        self._current_timeout = None
        self._may_chain = bool(self.client_flag & CLIENT.MULTI_STATEMENTS)
        self._yields = is_patched("socket")
        if sock is None and self.bind_address is None and self._yields:
            sock = self._dial()
        super().connect(sock)
        # PyMySQL's own reader is used only during the handshake.
        self._rfile, rfile = None, self._rfile
        rfile.close()
        self._buffer, self._at = b"", 0
        self._begin_asking()

    def _begin_asking(self) -> None:
        if type(self._sock) is gevent.socket.socket:
            poll = _poll()
            poll.register(self._sock.fileno(), select.POLLIN)
            self.ask = poll.poll

    def _dial(self) -> Any:
        # PyMySQL itself would resolve numeric addresses in the resolver's threads, and
        # detect a vanished server only after the system's two hours.
        try:
            if self.unix_socket:
                path: Any = self.unix_socket
                sock = dialing.dial_unix(path, timeout=self.connect_timeout)
                self.host_info = "Localhost via UNIX socket"
                self._secure = True
            else:
                sock = dialing.dial(self.host, self.port, timeout=self.connect_timeout)
                self.host_info = f"socket {self.host}:{self.port}"
        except OSError as error:
            failure = err.OperationalError(
                CR.CR_CONN_HOST_ERROR,
                f"Can't connect to MySQL server on {self.host!r} ({error})",
            )
            failure.original_exception = error  # type: ignore[attr-defined]
            raise failure from error
        return sock

    def _create_ssl_ctx(self, sslp: Any) -> Any:
        return self._tls(sslp, _pymysql._create_ssl_ctx.__get__(self))

    def _force_close(self) -> None:
        """Close the socket without sending anything. Never switches.

        Safe while another greenlet reads.
        """
        sock, self._sock = self._sock, None
        self.ask = None
        self.pending = 0
        self.foreign_id = None
        self.is_prefixed = False
        # Set only during the handshake. Closing it could switch, and fails while
        # another greenlet reads.
        self._rfile = None
        self._buffer, self._at = b"", 0
        if sock is not None:
            sockets.terminate(sock)

    def __del__(self) -> None:
        self.close_interrupted()
        self._force_close()

    def terminate(self) -> None:
        """Close the socket without sending anything. Never switches.

        A greenlet that waits for an answer on it gets an ``OperationalError`` (2013).
        """
        self._closed = True
        self.close_interrupted()
        self._force_close()

    def _in_use(self, user: Any) -> ConnectionInUseError:
        if user is IN_POOL:
            return ConnectionInUseError(
                "this connection is back in its pool: its loan has ended"
            )
        if user is getcurrent():
            return ConnectionInUseError(
                "this connection has not answered the last command yet"
            )
        return ConnectionInUseError(
            f"this connection is in use by another greenlet: {user!r}"
        )

    # Bytes

    def _read_packet(self, packet_type: Any = MysqlPacket) -> Any:
        buffer = self._buffer
        if buffer is None:
            return self._read_login_packet(packet_type)
        at, have = self._at, len(buffer)
        if at == have:
            self._buffer = buffer = self._block()
            self._at = at = 0
            have = len(buffer)
        start = end = at + _HEADER
        number = -1
        if start <= have:
            (head,) = _header(buffer, at)
            end += head & _LENGTH
            number = head >> _NUMBER
        if end <= have and number == self._next_seq_id:
            data = buffer[start:end]
            self._at = end
            self._next_seq_id = (number + 1) & 255
        else:
            # Out of order, or not complete. One of several parts never is: it is much
            # longer than the buffer.
            data = self._receive()
        if data and data[0] >= _END:
            self._note_end(data)
        return packet_type(data, self.encoding)

    def _read_login_packet(self, packet_type: Any) -> Any:
        try:
            return _pymysql._read_packet(self, packet_type)
        except IndexError as error:
            # PyMySQL looks at the first byte of every packet. A reply to the login that
            # has lost its header begins like an empty packet with the right number.
            raise err.InternalError("a packet of the login is empty") from error

    def next_packets(self, number: int) -> bytes | None:
        """Return the next packets as they came; None: they are not all in the buffer.

        Never switches.
        """
        buffer, at = self._buffer or b"", self._at
        have = len(buffer)
        end = at
        if have < at + _HEADER or buffer[at + 3] != self._next_seq_id:
            return None
        for _ in range(number):
            if end + _HEADER > have:
                return None
            end += _HEADER + (_header(buffer, end)[0] & _LENGTH)
        return buffer[at:end] if end <= have else None

    def skip_packets(self, block: bytes, number: int, status: int) -> None:
        """Skip packets that :meth:`next_packets` has returned. Never switches.

        :param status: the status in the last of them.
        """
        self._at += len(block)
        self._next_seq_id = (self._next_seq_id + number) & 255
        self._note_status(status)

    def _note_end(self, data: bytes) -> None:
        if data[0] == _ERROR:
            self._read_error(data)
        elif len(data) <= _LONGEST_END:
            # PyMySQL drops the status, which follows the number of warnings.
            self._note_status(data[3] | data[4] << 8)

    def _note_status(self, status: int) -> None:
        self.server_status = status
        self.status_is_current = True
        self.status_may_be_stale = False
        if status & CHANGED:
            self.left = True

    def _read_error(self, data: bytes) -> None:
        # An error carries neither the status nor the changes of the session before it.
        self.status_may_be_stale = self.left = True
        self.status_is_current = False
        result = self._result
        if result is not None and result.unbuffered_active:
            result.unbuffered_active = False
        try:
            MysqlPacket(data, self.encoding).raise_for_error()
        except err.MySQLError as error:
            if action_after(error) not in (ErrorAction.KEEP, ErrorAction.BACK_OFF):
                self.fatal_error = error
            raise

    def _receive(self) -> bytes:
        """Read a packet that is not complete in the buffer. May switch."""
        parts = []
        while True:
            (head,) = _header(self._take(_HEADER))
            number = head >> _NUMBER
            if number != self._next_seq_id:
                self._force_close()
                if number == 0:
                    # MariaDB sends its last packet with this number when it shuts down.
                    raise lost("the server is shutting down")
                raise err.InternalError(
                    f"Packet sequence number wrong - got {number} "
                    f"expected {self._next_seq_id:d}"
                )
            self._next_seq_id = (number + 1) & 255
            length = head & _LENGTH
            parts.append(self._take(length))
            if length < MAX_PACKET_LEN:
                return b"".join(parts)

    def _take(self, count: int) -> bytes:
        buffer = self._buffer or b""
        have = len(buffer) - self._at
        if have < count:
            parts = [buffer[self._at :]]
            while have < count:
                parts.append(self._block())
                have += len(parts[-1])
            buffer = self._buffer = b"".join(parts)
            self._at = 0
        start, self._at = self._at, self._at + count
        return buffer[start : self._at]

    def _block(self, awaits: bool = False) -> bytes:
        """Read what has come. May switch.

        :param awaits: wait first, because there is nothing yet.
        """
        if self._reader is not None:
            # Refused before a byte is read, so the other greenlet is not disturbed.
            raise self._in_use(self._reader)
        if self._sock is None:
            raise lost("it was closed")
        self._reader = getcurrent()
        block: bytes = b""
        try:
            if self._current_timeout != self._read_timeout:
                self._set_timeout(self._read_timeout)
            if awaits or self._next_seq_id is UNREAD:
                sockets.await_reply(self._sock)
            block = self._sock.recv(BLOCK)
            if len(block) == BLOCK and self._yields:
                self._let_others_run()
        except OSError as error:
            if isinstance(error, TimeoutError) and error.errno is None:
                # read_timeout, and not a peer that is lost.
                self._set_aside(True)
            self._force_close()
            raise lost(repr(error)) from error
        except BaseException:
            # The rest of the answer would be read as the next answer.
            self._set_aside(not block)
            raise
        finally:
            self._reader = None
        if not block:
            self._force_close()
            raise lost("the server hung up")
        return block

    def _let_others_run(self) -> None:
        # While there is something to read, gevent never switches. sleep(0) would not
        # do: the loop would handle no events of other sockets. A timer does, and one
        # of less than a millisecond is too short for libuv.
        self._blocks += 1
        if self._blocks % _BLOCKS == 0:
            hub = gevent.get_hub()
            turn = hub.loop.timer(0)
            try:
                hub.wait(turn)
            finally:
                turn.close()

    def _write_bytes(self, data: bytes) -> None:
        if self._sock is None:
            raise err.InterfaceError(0, "")
        try:
            if self._current_timeout != self._write_timeout:
                self._set_timeout(self._write_timeout)
            # Most commands fit into the kernel's buffer. This costs less than
            # sendall().
            sent = self._sock.send(data) if len(data) <= SMALL else 0
            if sent < len(data):
                self._sock.sendall(memoryview(data)[sent:])
        except OSError as error:
            self._force_close()
            raise err.OperationalError(
                CR.CR_SERVER_GONE_ERROR, f"MySQL server has gone away ({error!r})"
            ) from error
        except BaseException as error:
            # Half a packet may have been sent. The server would take the next bytes for
            # the other half.
            self._interruption = error
            self._force_close()
            raise

    def remember_limits(self) -> None:
        """Note the present timeouts as those that every borrower gets."""
        self._limits = self._read_timeout, self._write_timeout

    def restore_limits(self) -> None:
        """Set the timeouts for reading and writing back."""
        self._read_timeout, self._write_timeout = self._limits

    def _set_timeout(self, seconds: float | None) -> None:
        self._sock.settimeout(seconds)
        self._current_timeout = seconds


def lost(why: str) -> err.OperationalError:
    """Make the error of a connection that is lost."""
    return err.OperationalError(
        CR.CR_SERVER_LOST, f"Lost connection to MySQL server during query ({why})"
    )
