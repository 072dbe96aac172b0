"""
The wire: a PyMySQL connection that no interruption and no second greenlet can upset.

Everything geventpool touches of PyMySQL's private parts is in this file, so that a
new version of PyMySQL is checked by reading one page:

* overridden: ``_execute_command``, ``_read_query_result``, ``_read_ok_packet``,
  ``_read_packet``, ``_write_bytes``, ``_force_close``, ``_create_ssl_ctx``;
* read: ``_result`` (of which ``unbuffered_active``, ``has_next``, ``server_status``
  and ``_finish_unbuffered_query``);
* written: ``_sock``, ``_rfile``, ``_result`` (and its class), ``_next_seq_id``,
  ``_closed``, ``_secure``, ``_current_timeout``, ``_read_timeout``, ``_write_timeout``.

Checked against PyMySQL 1.1.3 and 1.2.4.

What PyMySQL alone gets wrong under gevent, and this class does not:

* a kill or a :class:`gevent.Timeout` in the middle of a write leaves the connection
  open with half a packet sent; the next statement hangs;
* the query of a second greenlet is sent before it is refused, and from then on every
  answer belongs to the query before;
* a row that can't be decoded leaves the rest of the rows to the next statement;
* it can't be closed while another greenlet reads;
* a large result is read without ever letting another greenlet run.
"""

from __future__ import annotations

import select
import struct
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import gevent
import gevent.monkey
import gevent.socket
from gevent import getcurrent
from pymysql import err
from pymysql.connections import MAX_PACKET_LEN, Connection, MySQLResult
from pymysql.constants import CLIENT, COMMAND, CR, SERVER_STATUS
from pymysql.protocol import FieldDescriptorPacket, MysqlPacket

from geventpool import sockets
from geventpool.mysql.errors import ConnectionInUseError, Reaction, reaction
from geventpool.mysql.statements import PLAIN, chooses_database, takes_role

if TYPE_CHECKING:
    from greenlet import greenlet

__all__ = ["COM_RESET_CONNECTION", "SHELF", "Wire"]

#: Not among PyMySQL's constants. MySQL 5.7.3 and MariaDB 10.2.4 brought it.
COM_RESET_CONNECTION = 0x1F

#: Typed as Any because the private members are not in the published stubs.
_pymysql: Any = Connection

IN_TRANS = SERVER_STATUS.SERVER_STATUS_IN_TRANS
AUTOCOMMIT = SERVER_STATUS.SERVER_STATUS_AUTOCOMMIT
_QUERY = COMMAND.COM_QUERY

#: Length in three bytes, number of the packet in one.
_header = struct.Struct("<HBB").unpack_from
_HEADER = 4
_command = struct.Struct("<iB").pack
#: Bytes: what is longer is left to PyMySQL and gevent to cut into pieces.
_SMALL = 16 * 1024

#: A patched poll switches even when told not to wait.
_poll = gevent.monkey.get_original("select", "poll")
#: The first byte of an error.
_ERROR = b"\xff"

#: Columns as they were described, with the encoding of their names.
_columns: dict[tuple[bytes, str], FieldDescriptorPacket] = {}
_MAX_COLUMNS = 2000

#: Bytes asked of the socket at a time, and after how many such blocks others may run.
_BLOCK = 32 * 1024
_BLOCKS = 16


class _Shelf:
    """
    Stands where the speaking greenlet would while the connection is in its pool.
    """

    def __repr__(self) -> str:
        return "its pool"


SHELF: Any = _Shelf()


class _Stream(MySQLResult):
    """
    An unbuffered result that never reads in its finalizer: nobody knows where, and in
    which greenlet, that runs. What is left of it is its connection's to know.
    """

    connection: Any

    def __del__(self) -> None:
        pass

    def _finish_unbuffered_query(self) -> None:
        # With the connection the rest is lost: closing its cursor is no error. (Going
        # on to read is.)
        if self.connection is None or self.connection.open:
            finish: Any = super()
            finish._finish_unbuffered_query()


class Wire(Connection):
    """
    A PyMySQL connection with a guard at its only door to the network.
    """

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

    #: The greenlet whose command is not answered yet.
    _speaker: greenlet | None = None
    #: The greenlet that waits for bytes.
    _reader: greenlet | None = None
    #: The greenlet that reads an unbuffered result.
    _streamer: greenlet | None = None
    #: What cut a write short; LOAD DATA would replace it by an error of its own.
    _interruption: BaseException | None = None

    #: What was received, and how far it is read; None during the handshake.
    _buffer: bytes | None = None
    _at = 0
    _blocks = 0
    #: Asks a plain socket whether there is something to read.
    ask: Callable[[int], Any] | None = None
    #: Of reading and writing, as every borrower finds them.
    _limits: tuple[float | None, float | None] = (None, None)
    #: One command may carry several statements: none is known by how it begins.
    _may_chain = False

    #: An error that says this connection must not be used again.
    verdict: Exception | None = None
    #: Something was sent since the loan began.
    spoken = False
    #: ... and nothing but statements that leave the session as it was.
    plain = True
    #: ... or among the others one that took a role, or chose a database.
    took_role = False
    chose_database = False
    #: The last answer was an OK packet: ``server_status`` is what the server thinks.
    exact = False
    #: An answer without a status came since the last OK packet, and may hide one.
    doubt = False

    def __init__(self, *, tls: Callable[[Any, Any], Any], **options: Any) -> None:
        self._tls = tls
        super().__init__(**options)

    # What its pool asks. None of these may switch.

    @property
    def in_step(self) -> bool:
        """
        Whether the next bytes from the server will be the answer to the next command.
        """
        return (
            self._speaker is None
            and self._sock is not None
            and self._buffer is not None
            and self._at == len(self._buffer)
            and not self.unfinished
        )

    @property
    def unfinished(self) -> bool:
        """
        Whether a part of the last answer is still to be read.
        """
        result = self._result
        return result is not None and bool(result.unbuffered_active or result.has_next)

    @property
    def streams(self) -> bool:
        """
        Whether an unbuffered result has rows left.
        """
        return self._result is not None and bool(self._result.unbuffered_active)

    @property
    def may_hold_transaction(self) -> bool:
        """
        Whether the server may have a transaction open, as far as can be told from here.

        An OK packet carries the truth. The packet that ends a result set carries it
        too, but PyMySQL drops it; an error carries none. Without autocommit a
        ``SELECT`` may therefore have opened one unseen; with it, only a procedure that
        begins a transaction and then fails.
        """
        status = self.server_status
        if status & IN_TRANS:
            return True
        if self.exact:
            return False
        return self.doubt or not status & AUTOCOMMIT

    @property
    def is_settled(self) -> bool:
        """
        Whether a loan in autocommit has nothing to tell the server, nor to be told.

        It says only what else is said piece by piece, and says it faster.
        """
        result = self._result
        return (
            self.server_status & (IN_TRANS | AUTOCOMMIT) == AUTOCOMMIT
            and self._speaker is None
            and self.plain
            and not self.doubt
            and self.verdict is None
            and (result is None or not (result.unbuffered_active or result.has_next))
            and self._sock is not None
            and self._at == len(self._buffer or b"")
            and (self._read_timeout, self._write_timeout) == self._limits
        )

    def is_quiet(self) -> bool:
        """
        Whether it is open, and the server has nothing to say. Never switches.
        """
        if self.ask is not None:
            return not self.ask(0)
        return self._sock is not None and sockets.is_quiet(self._sock)

    # Opening and closing

    def connect(self, sock: Any = None) -> None:
        """
        Dial, shake hands and set up the session. **May switch.**

        :param sock: a connected socket to use instead of dialling.
        :raises pymysql.err.OperationalError: whatever PyMySQL raised.
        :raises ConnectionInUseError: another greenlet uses it, or it has gone back.
        """
        if self._speaker is not None:
            raise self._in_use(self._speaker)
        self._force_close()
        self._reader = self._buffer = self.ask = None
        self._current_timeout = None
        self._may_chain = bool(self.client_flag & CLIENT.MULTI_STATEMENTS)
        if sock is None and self.bind_address is None:
            sock = self._dial()
        super().connect(sock)
        # PyMySQL's own reader is left at the end of the handshake.
        self._rfile, rfile = None, self._rfile
        rfile.close()
        self._buffer, self._at = b"", 0
        if type(self._sock) is gevent.socket.socket:
            poll = _poll()
            poll.register(self._sock.fileno(), select.POLLIN)
            self.ask = poll.poll

    def _dial(self) -> Any:
        # Not PyMySQL's way: that sends every numeric address through the resolver's
        # threads, and leaves a vanished server to the system's two hours of patience.
        try:
            if self.unix_socket:
                path: Any = self.unix_socket
                sock = sockets.dial_unix(path, timeout=self.connect_timeout)
                self.host_info = "Localhost via UNIX socket"
                self._secure = True
            else:
                sock = sockets.dial(self.host, self.port, timeout=self.connect_timeout)
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
        """
        Let go of the socket without a word. Never switches; safe beside a reader.
        """
        sock, self._sock = self._sock, None
        self.ask = None
        # Only during the handshake; closing it could switch, and would be refused
        # beside a reader.
        self._rfile = None
        self._buffer, self._at = b"", 0
        if sock is not None:
            sockets.abandon(sock)

    __del__ = _force_close

    def hang_up(self) -> None:
        """
        Drop the connection: no goodbye, never switches, safe whoever uses it.

        A greenlet that waits for an answer on it gets an ``OperationalError`` (2013).
        """
        self._closed = True
        self._force_close()

    def say_goodbye(self) -> None:
        """
        Close as PyMySQL does, with COM_QUIT; without if a greenlet is using the wire.
        **May switch.**
        """
        if self._speaker is None or self._speaker is SHELF:
            super().close()
        else:
            self.hang_up()

    # The guard

    def _execute_command(self, command: int, sql: str | bytes | bytearray) -> None:
        if self._speaker is not None:
            raise self._in_use(self._speaker)
        result = self._result
        if result is not None and (result.unbuffered_active or result.has_next):
            if result.unbuffered_active:
                warnings.warn(
                    "Previous unbuffered result was left incomplete", stacklevel=4
                )
            self.finish()
        begins = sql[:6].upper()
        if isinstance(begins, bytearray):
            begins = bytes(begins)  # executemany() puts its statement together in one
        self._speaker = getcurrent()
        self.spoken = True
        if command != _QUERY or self._may_chain or begins not in PLAIN:
            self._suspect(command, sql)
        try:
            if len(sql) > _SMALL:
                _pymysql._execute_command(self, command, sql)
                return
            text = sql.encode(self.encoding) if isinstance(sql, str) else sql
            self._result = None
            self._write_bytes(_command(len(text) + 1, command) + text)
            self._next_seq_id = 1
        except BaseException:
            # Nothing is awaited; an interrupted write has closed the socket already.
            self._speaker = self._interruption = None
            raise

    def _suspect(self, command: int, sql: str | bytes | bytearray) -> None:
        # A ping changes nothing; all else that is not plain may change anything.
        if command != COMMAND.COM_PING:
            self.plain = False
            self.chose_database |= command == COMMAND.COM_INIT_DB
            self.chose_database |= chooses_database(sql)
            self.took_role |= takes_role(sql)

    def _in_use(self, user: Any) -> ConnectionInUseError:
        if user is SHELF:
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

    def _read_query_result(self, unbuffered: bool = False) -> Any:
        me = getcurrent()
        if self._speaker is None:
            self._speaker = me  # next_result() reads without having asked
        elif self._speaker is not me:
            raise self._in_use(self._speaker)
        self.exact = False
        try:
            rows = _pymysql._read_query_result(self, unbuffered)
        except Exception as error:
            interruption, self._interruption = self._interruption, None
            if interruption is not None:
                raise interruption from None
            self._close_if_lost(error)
            raise
        except BaseException:
            # Interrupted between question and answer, wherever that was.
            self._force_close()
            raise
        finally:
            self._speaker = None
        if self._result.server_status is not None:
            self.exact = True
            self.doubt = False
        elif unbuffered:
            self._result.__class__ = _Stream
            self._streamer = me
            self.doubt = True
        return rows

    def _read_ok_packet(self) -> Any:
        self.exact = False
        try:
            ok = _pymysql._read_ok_packet(self)
        except Exception as error:
            self._close_if_lost(error)
            raise
        finally:
            self._speaker = None
        self.exact = True
        self.doubt = False
        return ok

    def _close_if_lost(self, error: Exception) -> None:
        # Not the server's answer, but a value that can't be decoded or a packet of the
        # wrong kind: nobody knows where in the stream of answers we are.
        out_of_sync = error.args[:1] == (CR.CR_COMMANDS_OUT_OF_SYNC,)
        if out_of_sync or not isinstance(error, err.MySQLError):
            self._force_close()

    def set_character_set(self, charset: str, collation: str | None = None) -> None:
        """
        Set the charset, and the collation, of this session. **May switch.**
        """
        try:
            super().set_character_set(charset, collation)
        finally:
            self._answered()

    def show_warnings(self) -> Any:
        """
        The warnings of the last statement. **May switch.**
        """
        try:
            return _pymysql.show_warnings(self)
        finally:
            self._answered()

    def _answered(self) -> None:
        # These two read their answer themselves, past the places that note its end.
        if self._speaker is getcurrent():
            self._speaker = None
            self.exact = False

    def finish(self) -> None:
        """
        Read what is left of the last answer and forget it. **May switch.**

        :raises pymysql.err.Error: what came instead; or another greenlet reads it.
        """
        if self._speaker is not None:
            raise self._in_use(self._speaker)
        if self.streams and self._streamer is not getcurrent():
            raise self._in_use(self._streamer)
        if self._sock is None:
            raise err.InterfaceError(0, "")
        while self.unfinished:
            self._speaker = getcurrent()
            try:
                self._result._finish_unbuffered_query()
            finally:
                self._speaker = None
            if self._result.has_next:
                self.next_result(unbuffered=True)

    # Bytes

    def _read_packet(self, packet_type: Any = MysqlPacket) -> Any:
        buffer = self._buffer
        if buffer is None:
            return _pymysql._read_packet(self, packet_type)
        at = self._at
        if at == len(buffer):
            buffer, at = self._block(), 0
            self._buffer, self._at = buffer, 0
        start = at + _HEADER
        if start <= len(buffer):
            low, high, number = _header(buffer, at)
            end = start + low + (high << 16)
        if (
            start > len(buffer)
            or end > len(buffer)
            or number != self._next_seq_id
            or high == 255
        ):
            # Not here as a whole, or out of order, or perhaps one of several parts.
            data = self._receive()
        else:
            data = buffer[start:end]
            self._at = end
            self._next_seq_id = (number + 1) & 255
        if data[:1] == _ERROR:
            self._read_error(data)
        if packet_type is FieldDescriptorPacket:
            return self._column(data)
        return packet_type(data, self.encoding)

    def _column(self, data: bytes) -> Any:
        # Statements come again and again, and with them the descriptions of their
        # columns: parsing one takes twenty times as long as finding it here.
        key = data, self.encoding
        column = _columns.get(key)
        if column is None:
            if len(_columns) >= _MAX_COLUMNS:
                _columns.clear()
            column = _columns[key] = FieldDescriptorPacket(data, self.encoding)
        return column

    def _read_error(self, data: bytes) -> None:
        self.doubt = True
        self.exact = False
        if self.streams:
            self._result.unbuffered_active = False
        try:
            MysqlPacket(data, self.encoding).raise_for_error()
        except err.MySQLError as error:
            if reaction(error) in (Reaction.DISCARD, Reaction.DRAIN):
                self.verdict = error
            raise

    def _receive(self) -> bytes:
        """
        The next packet, when it is not in the buffer whole. **May switch.**
        """
        parts = []
        while True:
            low, high, number = _header(self._take(_HEADER))
            if number != self._next_seq_id:
                self._force_close()
                if number == 0:
                    # MariaDB numbers its last words so when it shuts down.
                    raise _lost("the server is shutting down")
                raise err.InternalError(
                    f"Packet sequence number wrong - got {number} "
                    f"expected {self._next_seq_id}"
                )
            self._next_seq_id = (number + 1) & 255
            length = low + (high << 16)
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

    def _block(self) -> bytes:
        if self._reader is not None:
            # Refused before a byte is taken: the other goes on undisturbed.
            raise self._in_use(self._reader)
        if self._sock is None:
            raise _lost("it was closed")
        self._reader = getcurrent()
        try:
            if self._current_timeout != self._read_timeout:
                self._set_timeout(self._read_timeout)
            block: bytes = self._sock.recv(_BLOCK)
            if len(block) == _BLOCK:
                self._let_others_run()
        except OSError as error:
            self._force_close()
            raise _lost(repr(error)) from error
        except BaseException:
            # The rest of the answer would be taken for the next one.
            self._force_close()
            raise
        finally:
            self._reader = None
        if not block:
            self._force_close()
            raise _lost("the server hung up")
        return block

    def _let_others_run(self) -> None:
        # While there is something to read gevent never switches. Not sleep(0): that
        # lets no event of another socket in.
        self._blocks += 1
        if self._blocks % _BLOCKS == 0:
            gevent.sleep(0.0001)

    def _write_bytes(self, data: bytes) -> None:
        if self._sock is None:
            raise err.InterfaceError(0, "")
        try:
            if self._current_timeout != self._write_timeout:
                self._set_timeout(self._write_timeout)
            # What fits into the kernel's buffer, as most do, is sent at less cost.
            sent = self._sock.send(data) if len(data) <= _SMALL else 0
            if sent < len(data):
                self._sock.sendall(memoryview(data)[sent:])
        except OSError as error:
            self._force_close()
            raise err.OperationalError(
                CR.CR_SERVER_GONE_ERROR, f"MySQL server has gone away ({error!r})"
            ) from error
        except BaseException as error:
            # Half a packet may be on its way: whatever follows would be its other half.
            self._interruption = error
            self._force_close()
            raise

    def remember_limits(self) -> None:
        """
        Take the present limits of reading and writing as those of every borrower.
        """
        self._limits = self._read_timeout, self._write_timeout

    def restore_limits(self) -> None:
        """
        Put the limits of reading and writing back.
        """
        self._read_timeout, self._write_timeout = self._limits

    def _set_timeout(self, seconds: float | None) -> None:
        self._sock.settimeout(seconds)
        self._current_timeout = seconds

    def ping(self, reconnect: bool | None = False) -> None:
        """
        Ask the server whether it is there. **May switch.**

        :param reconnect: makes no difference: a connection that is made anew has
            forgotten its session, and half of a transaction.
        :raises pymysql.err.Error: it is not.
        """
        super().ping(False)

    # Several commands in one write

    def pipeline(self, commands: Sequence[tuple[int, bytes]]) -> list[Exception | None]:
        """
        Send all commands, then read all answers: one round trip. **May switch.**

        :param commands: command codes with their arguments; each is answered by OK or
            an error.
        :return: for each command its error, or None.
        :raises pymysql.err.Error: the stream of answers broke off.
        """
        if self._speaker is not None:
            raise self._in_use(self._speaker)
        self._result = None
        packets = [_command(len(text) + 1, code) + text for code, text in commands]
        answers: list[Exception | None] = []
        try:
            self._speaker = getcurrent()
            self._write_bytes(b"".join(packets))
            for _ in commands:
                self._speaker = getcurrent()
                self._next_seq_id = 1
                answers.append(self._answer())
        finally:
            self._speaker = self._interruption = None
            if len(answers) < len(commands):
                # Unread answers would be given to the next in line.
                self._force_close()
        return answers

    def _answer(self) -> Exception | None:
        try:
            self._read_ok_packet()
        except err.MySQLError as error:
            if self._sock is None:
                raise
            return error
        return None


def _lost(why: str) -> err.OperationalError:
    return err.OperationalError(
        CR.CR_SERVER_LOST, f"Lost connection to MySQL server during query ({why})"
    )
