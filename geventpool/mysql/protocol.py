"""A PyMySQL connection that stays in step when a greenlet is interrupted.

All use of PyMySQL's private members is in this file and in the three below it
(``packets.py``, ``ahead.py``, ``results.py``). To check a new version of PyMySQL, read
these four files:

* overridden: ``_execute_command``, ``_read_query_result``, ``_read_ok_packet``,
  ``_read_packet``, ``_write_bytes``, ``_force_close``, ``_create_ssl_ctx``,
  ``_request_authentication``, and the public ``escape`` and ``get_autocommit``, which
  read the status of the session; of results, ``_get_descriptions`` and
  ``_finish_unbuffered_query``;
* read: ``_result`` (of which ``unbuffered_active``, ``has_next``, ``server_status``,
  ``insert_id``, ``message``, ``field_count``, ``init_unbuffered_query`` and ``read``);
* written: ``_sock``, ``_rfile``, ``_result`` (and its ``fields``, ``converters`` and
  ``description``), ``_affected_rows``, ``_next_seq_id``, ``_closed``, ``_secure``,
  ``_current_timeout``, ``_read_timeout``, ``_write_timeout``.

Checked against PyMySQL 1.1.3 and 1.2.4.

Faults that PyMySQL alone has under gevent, and that this class prevents:

* A kill or a :class:`gevent.Timeout` in the middle of a write leaves the connection
  open with half a packet sent. The next statement hangs.
* The query of a second greenlet is sent before it is refused. From then on every answer
  belongs to the query before.
* A row that cannot be decoded leaves the rest of the rows to the next statement.
* A connection cannot be closed while another greenlet reads.
* A large result is read without letting another greenlet run.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gevent import getcurrent
from pymysql import err
from pymysql.connections import Connection
from pymysql.constants import COMMAND, CR, ER

from geventpool.mysql.ahead import FORGET_ID, SPOILED, Ahead, packed
from geventpool.mysql.interrupted import UNREAD
from geventpool.mysql.packets import (
    AUTOCOMMIT,
    CHANGED,
    IN_POOL,
    IN_TRANS,
    SMALL,
    command_head,
)
from geventpool.mysql.results import Result, Stream
from geventpool.mysql.statements import PLAIN, effects_of

if TYPE_CHECKING:
    from greenlet import greenlet

    from geventpool.mysql.statements import Kind

__all__ = ["COM_RESET_CONNECTION", "MAX_STATEMENTS", "IN_POOL", "Wire"]

#: Not among PyMySQL's constants. Known to MySQL 5.7.3 and MariaDB 10.2.4 and later.
COM_RESET_CONNECTION = 0x1F

#: Typed as Any because the private members are not in the published stubs.
_pymysql: Any = Connection

_QUERY = COMMAND.COM_QUERY

#: The most statements of a loan that are examined when it ends, and the longest.
MAX_STATEMENTS = 16
_LONGEST = 16 * 1024
#: Stands for a longer one, which may leave anything.
_LONG = b"?"

#: The bytes before the text of a command.
_HEAD = 5
#: The beginnings of statements whose result PyMySQL reads in ``query()``.
_QUERIES = frozenset(
    word
    for name in ("SELECT", "INSERT", "UPDATE", "DELETE", "REPLAC")
    for word in (name, name.encode())
)

#: The first byte of a length that is in the two bytes after it.
_TWO_BYTES = 0xFC

#: PyMySQL's statements that change autocommit. The status shows this change.
_AUTOCOMMITS = ("SET AUTOCOMMIT = 0", "SET AUTOCOMMIT = 1")


class Wire(Ahead):
    """A PyMySQL connection that only one greenlet at a time can send commands on."""

    #: The greenlet that reads an unbuffered result.
    _streamer: greenlet | None = None

    #: True once any command was sent in this loan.
    has_sent = False
    #: False once a statement that may change session state was sent.
    session_unchanged = True
    #: True once a statement may have taken a role, or chosen a database.
    took_role = False
    chose_database = False
    #: True once a statement may have changed the database without naming one.
    database_may_differ = False
    #: The command that is being answered changes nothing but autocommit.
    _excused = False

    if TYPE_CHECKING:

        def leaves_nothing(self, text: bytes, kinds: frozenset[Kind]) -> bool: ...

    def __init__(self, *, tls: Callable[[Any, Any], Any], **options: Any) -> None:
        #: the statements of the loan, to be examined when it ends
        self._statements: list[str | bytes | bytearray] = []
        super().__init__(tls=tls, **options)

    # Questions of the pool. These never switch.

    @property
    def in_step(self) -> bool:
        """Whether the next bytes from the server will answer the next command.

        Missing replies to commands that were sent ahead do not count: they are read
        before a command is sent.
        """
        return (
            self._command_owner is None
            and self._sock is not None
            and self._buffer is not None
            and (self.pending > 0 or self._at == len(self._buffer))
            and self.pending != SPOILED
            and not self.unfinished
        )

    @property
    def unfinished(self) -> bool:
        """Whether a part of the last answer is still unread."""
        result = self._result
        return result is not None and bool(result.unbuffered_active or result.has_next)

    @property
    def streams(self) -> bool:
        """Whether an unbuffered result has rows left."""
        return self._result is not None and bool(self._result.unbuffered_active)

    @property
    def may_hold_transaction(self) -> bool:
        """Whether the server may have a transaction open, as far as is known here.

        The last packet of an answer carries the status of the session, but an error
        carries none. So without autocommit, a statement that failed may have opened a
        transaction. With autocommit, only a procedure that began a transaction and then
        failed may have.
        """
        status = self.server_status
        if status & IN_TRANS:
            return True
        if self.status_is_current:
            return False
        return self.status_may_be_stale or not status & AUTOCOMMIT

    @property
    def wire_is_clean(self) -> bool:
        """Whether a loan in autocommit has nothing to send and nothing to read.

        A fast combined check: autocommit is on, no transaction is open, nothing is
        unread, the session and the timeouts are unchanged. It is equivalent to the
        single checks.
        """
        result = self._result
        return (
            self.server_status & (IN_TRANS | AUTOCOMMIT) == AUTOCOMMIT
            and self._command_owner is None
            and self.session_unchanged
            and not self.status_may_be_stale
            and self.fatal_error is None
            and (result is None or not (result.unbuffered_active or result.has_next))
            and self._sock is not None
            and self._at == len(self._buffer or b"")
            and (self._read_timeout, self._write_timeout) == self._limits
        )

    @property
    def last_statement(self) -> str | bytes | bytearray:
        """The statement of the loan that was sent last; empty: a ping, or none."""
        return self._statements[-1] if self._statements else b""

    def send_quit(self) -> None:
        """Close as PyMySQL does, with COM_QUIT, or terminate if a greenlet is using it.

        May switch.
        """
        if self._command_owner is None or self._command_owner is IN_POOL:
            super().close()
        else:
            self.terminate()

    # The guard

    def _execute_command(self, command: int, sql: str | bytes | bytearray) -> None:
        if self._command_owner is not None:
            raise self._in_use(self._command_owner)
        if self._sock is None:
            # Before it is noted: an interrupted statement is still the last one.
            raise err.InterfaceError(0, "")
        result = self._result
        if result is not None and (result.unbuffered_active or result.has_next):
            self._finish_left(result)
        begins = sql[:6].upper()
        if isinstance(begins, bytearray):
            begins = bytes(begins)  # executemany() builds its statement in one
        self._command_owner = getcurrent()
        try:
            if self.pending:
                # Before the command, which must not run in a session that is not reset.
                self.settle()
            self.has_sent = True
            if command != _QUERY or self._may_chain or begins not in PLAIN:
                self._note_effects(command, sql)
            if len(self._statements) < MAX_STATEMENTS and len(sql) <= _LONGEST:
                self._statements.append(sql)
            else:
                self.left = True
                # The last of the list is always the last statement.
                self._statements[MAX_STATEMENTS:] = (
                    sql if len(sql) <= _LONGEST else _LONG,
                )
            if len(sql) > SMALL:
                if self.foreign_id is not None:
                    self.foreign_id = None
                    self.forget_id()
                _pymysql._execute_command(self, command, sql)
                return
            text = sql.encode(self.encoding) if isinstance(sql, str) else sql
            self._result = None
            packet = command_head(len(text) + 1, command) + text
            if self.foreign_id is not None and command != COMMAND.COM_PING:
                self._write_without_id(packet, command, begins)
                return
            self._write_bytes(packet)
            self._next_seq_id = UNREAD
        except BaseException:
            # No answer is awaited: an interrupted write has closed the socket already.
            self._command_owner = self._interruption = None
            raise

    def _finish_left(self, result: Any) -> None:
        """Read the rest of a result that the program has left. May switch."""
        if result.unbuffered_active:
            text = "Previous unbuffered result was left incomplete"
            warnings.warn(text, stacklevel=5)
        self.finish()

    def _write_without_id(
        self, packet: bytes, command: int, begins: str | bytes
    ) -> None:
        """Send a command. It does not see the id that an earlier loan has made.

        A query that cannot ask for the id is sent at once, after what clears the id.
        Others are sent after its reply. Never later in a loan, because a statement in
        between would change what ROW_COUNT() and SHOW WARNINGS return.
        """
        kinds, self.foreign_id = self.foreign_id, None
        is_query = command == _QUERY and begins in _QUERIES
        if is_query and self.leaves_nothing(packet[_HEAD:], kinds or frozenset()):
            self.is_prefixed = True
            self._write_bytes(FORGET_ID + packet)
            # Not UNREAD: a reply is read before the one of this command.
            self._next_seq_id = 1
        else:
            self.forget_id()
            self._write_bytes(packet)
            self._next_seq_id = UNREAD

    def _note_effects(self, command: int, sql: str | bytes | bytearray) -> None:
        # A ping changes nothing. Any other command that is not plain may change
        # anything.
        self._excused = sql in _AUTOCOMMITS
        if command == COMMAND.COM_PING:
            return
        self.session_unchanged = False
        self.left |= command != _QUERY or self._may_chain
        effects = effects_of(sql)
        chooses = command == COMMAND.COM_INIT_DB or effects.chooses_database
        self.chose_database |= chooses
        self.took_role |= effects.takes_role
        # SET does not change the database, unless another statement follows it.
        self.database_may_differ |= chooses or self.left or not effects.only_sets

    def _read_query_result(self, unbuffered: bool = False) -> Any:
        me = getcurrent()
        if self._command_owner is None:
            self._command_owner = me  # next_result() reads without sending a command
        elif self._command_owner is not me:
            raise self._in_use(self._command_owner)
        self.status_is_current = False
        try:
            if self.is_prefixed:
                self.read_forgotten()
            self._result = None
            result: Any = Stream(self) if unbuffered else Result(self)
            if unbuffered:
                result.init_unbuffered_query()
            else:
                result.read()
            self._result = result
        except Exception as error:
            interruption, self._interruption = self._interruption, None
            if interruption is not None:
                raise interruption from None
            self._close_if_lost(error)
            raise
        except BaseException:
            # Interrupted while the answer was awaited or read.
            self._force_close()
            raise
        finally:
            self._command_owner = None
        if result.server_status is not None:
            self._note_ok(result.server_status)
            if self.can_track and result.message:
                result.message = info_of(result.message)
            if result.insert_id:
                self.made_id = True
        elif unbuffered:
            self._streamer = me
            self.status_is_current = False
            self.status_may_be_stale = True
        return result.affected_rows

    def _note_ok(self, status: int) -> None:
        if self._excused:
            self._excused = False
            status &= ~CHANGED
        self._note_status(status)

    def _read_ok_packet(self) -> Any:
        self.status_is_current = False
        try:
            ok = _pymysql._read_ok_packet(self)
        except Exception as error:
            self._close_if_lost(error)
            raise
        finally:
            self._command_owner = None
        self._note_ok(self.server_status)
        return ok

    def _close_if_lost(self, error: Exception) -> None:
        # Not an error that the server sent, but a value that cannot be decoded or a
        # packet of the wrong kind. The position in the stream of answers is unknown.
        out_of_sync = error.args[:1] == (CR.CR_COMMANDS_OUT_OF_SYNC,)
        if out_of_sync or not isinstance(error, err.MySQLError):
            self._force_close()

    def set_character_set(self, charset: str, collation: str | None = None) -> None:
        """Set the charset and the collation of this session. May switch."""
        try:
            if self._buffer is None and self.can_track:
                self._begin_tracking(charset, collation)
            else:
                super().set_character_set(charset, collation)
        finally:
            self._answered()

    def _begin_tracking(self, charset: str, collation: str | None) -> None:
        """Set the charset of a new session, and turn on the reports of session changes.

        May switch.
        """
        self._accepts_tracking = True
        try:
            self._execute_command(_QUERY, self.names_statement(charset, collation))
            packet: Any = self._read_packet()
        except err.MySQLError as error:
            if error.args[0] != ER.UNKNOWN_SYSTEM_VARIABLE:
                raise
            self._answered()
            self._accepts_tracking = False
            super().set_character_set(charset, collation)
            return
        data = packet.get_all_data()
        self.note_tracking(data[3] | data[4] << 8, data)

    def show_warnings(self) -> Any:
        """Return the warnings of the last statement. May switch."""
        try:
            return _pymysql.show_warnings(self)
        finally:
            self._answered()

    def _answered(self) -> None:
        # set_character_set() and show_warnings() read their answer themselves. So the
        # end of the answer is noted here.
        if self._command_owner is getcurrent():
            self._command_owner = None
            self.status_is_current = False

    def finish(self) -> None:
        """Read and discard the unread part of the last answer. May switch.

        :raises pymysql.err.Error: the answer ended with an error, the connection is
            closed, or another greenlet is using it.
        """
        if self._command_owner is not None:
            raise self._in_use(self._command_owner)
        if self.streams and self._streamer is not getcurrent():
            raise self._in_use(self._streamer)
        if self._sock is None:
            raise err.InterfaceError(0, "")
        while self.unfinished:
            self._command_owner = getcurrent()
            try:
                self._result._finish_unbuffered_query()
            finally:
                self._command_owner = None
            if self._result.has_next:
                self.next_result(unbuffered=True)

    def ping(self, reconnect: bool | None = False) -> None:
        """Send a ping and wait for the reply. May switch.

        :param reconnect: ignored. A new connection would have neither the session nor
            the open transaction.
        :raises pymysql.err.Error: the server did not answer.
        """
        super().ping(False)

    # Several commands in one write

    def pipeline(self, commands: Sequence[tuple[int, bytes]]) -> list[Exception | None]:
        """Send all commands, then read all answers, in one round trip. May switch.

        :param commands: pairs of a command code and its argument. Each must be answered
            by OK or an error.
        :return: for each command its error; None: OK.
        :raises pymysql.err.Error: the connection was lost before all answers came.
        """
        if self._command_owner is not None:
            raise self._in_use(self._command_owner)
        if self.pending:
            self.settle()
        self._result = None
        self.tracks = False
        answers: list[Exception | None] = []
        try:
            self._command_owner = getcurrent()
            self._write_bytes(packed(commands))
            for _ in commands:
                self._command_owner = getcurrent()
                self._next_seq_id = 1
                answers.append(self._answer())
        finally:
            self._command_owner = self._interruption = None
            if len(answers) < len(commands):
                # The next borrower would take the unread answers for its own.
                self._force_close()
                self.is_own_command = True
        return answers

    def _answer(self) -> Exception | None:
        try:
            ok = self._read_ok_packet()
            self.note_tracking(ok.server_status, ok.message)
        except err.MySQLError as error:
            if self._sock is None:
                raise
            return error
        return None


def info_of(message: bytes) -> bytes:
    """Return the text of an OK packet, without the reports of changes after it."""
    length, start = message[0], 1
    if length == _TWO_BYTES:
        length, start = message[1] | message[2] << 8, 3
    return message[start : start + length]
