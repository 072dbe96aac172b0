"""Commands that are sent ahead: their replies are read later.

So the session of a returned connection is reset while it is idle, without a greenlet
that waits. The replies are collected when the connection is checked, or read before the
next statement is sent. They are never read after it, because a statement must not run
in a session whose reset has failed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from gevent import getcurrent
from pymysql import err
from pymysql.constants import CLIENT, COMMAND

from geventpool import sockets
from geventpool.mysql.interrupted import UNREAD
from geventpool.mysql.packets import CHANGED, IN_POOL, Packets, command_head, lost

__all__ = ["FORGET_ID", "SPOILED", "Ahead", "packed"]

#: Seconds after which missing replies prevent that the connection is lent.
LATE = 0.05

#: Seconds within which hardly any reply has come.
SOON = 0.0001

#: A value for the number of missing replies: a reply was not as expected.
SPOILED = -1

#: Bytes read at a time. The replies are much shorter.
_BLOCK = 4096

#: The offset of the end of the status in an OK packet with no rows and no id.
_STATUS = 4

#: The report of a server with session_track_state_change on: a type and a string.
_STATE_CHANGED = b"\x02\x011"


def packed(commands: Sequence[tuple[int, bytes]]) -> bytes:
    """The packets of several commands.

    :param commands: command codes with their arguments.
    """
    return b"".join(command_head(len(text) + 1, code) + text for code, text in commands)


#: Clears what LAST_INSERT_ID() returns.
FORGET_ID = packed([(COMMAND.COM_QUERY, b"DO LAST_INSERT_ID(0)")])


class Ahead(Packets):
    """A PyMySQL connection on which commands can be sent ahead."""

    #: Whether the server reports changes of the session, according to its last reply to
    #: the command that turns this on.
    tracks = False
    #: Whether it has accepted that command.
    _accepts_tracking = False
    #: What was sent ahead last, the number of its replies, and when.
    _sent = b"", 0
    _sent_at = 0.0
    #: Bits of the status that each reply to it must have.
    _expected = 0
    #: The replies to it so far that were OK.
    _replies: tuple[bytes, ...] = ()
    #: The usual replies: what was sent, all bytes that came, the last status, and
    #: whether they showed that changes are reported.
    _usual: tuple[bytes, bytes, int, bool] = b"", b"", 0, False

    def _request_authentication(self) -> None:
        # Only if the server knows it: the answer of another server could not be parsed.
        self.client_flag &= ~CLIENT.SESSION_TRACK
        self.client_flag |= self.server_capabilities & CLIENT.SESSION_TRACK
        authenticate: Any = super()
        authenticate._request_authentication()

    @property
    def can_track(self) -> bool:
        """Whether client and server have agreed on reports of changes."""
        return bool(self.client_flag & CLIENT.SESSION_TRACK)

    def names_statement(self, charset: str, collation: str | None) -> str:
        """The statement that sets the charset and turns on the reports of changes.

        MySQL does not report that the reports were turned on, and drops what it was
        about to report. So this comes first in the statement.
        """
        track = "session_track_state_change=1, " if self._accepts_tracking else ""
        collate = f" COLLATE {collation}" if collation else ""
        return f"SET {track}NAMES {charset}{collate}"

    def note_tracking(self, status: int, rest: bytes) -> None:
        """Note whether a reply shows that changes are reported.

        :param status: the status of the reply.
        :param rest: the part of the reply after the status. It may be the whole reply.
        """
        if status & CHANGED and _STATE_CHANGED in rest:
            self.tracks = self.can_track

    @property
    def is_late(self) -> bool:
        """Whether replies are missing for longer than :data:`LATE`. Never switches."""
        return self.pending > 0 and monotonic() - self._sent_at > LATE

    @property
    def _is_sent_just_now(self) -> bool:
        """Whether the replies are most likely still on their way."""
        return self._at == len(self._buffer or b"") and (
            monotonic() - self._sent_at < SOON
        )

    @property
    def _is_silent(self) -> bool:
        """Whether the replies are still on their way, and the connection is not lost.

        It may be lost before the reset was sent. To ask costs less than a read that
        finds nothing.
        """
        ask = self.ask
        return (
            ask is not None
            and self.pending > 0
            and self._is_sent_just_now
            and not ask(0)
        )

    def send_ahead(self, data: bytes, replies: int, expected: int = 0) -> bool:
        """Send commands that are each answered by OK or an error. Never switches.

        The connection must be in step, and no replies may be missing.

        :param data: what :func:`packed` has made of them.
        :param replies: the number of commands.
        :param expected: bits of the status that each reply must have. Without them it
            counts as an error.
        :return: False: they could not be sent without waiting. Then nothing was sent,
            or the connection is closed.
        """
        try:
            sent = self._at_once(self._sock.send, data)
        except OSError:
            return False
        if sent < len(data):
            self.terminate()
            return False
        self._note_sent(data, replies, expected)
        self.tracks = False
        return True

    def _note_sent(self, data: bytes, replies: int, expected: int) -> None:
        self._sent, self._replies = (data, replies), ()
        self._expected = expected
        self.pending = replies
        self._sent_at = monotonic()

    def get_autocommit(self) -> bool:
        """Whether autocommit is on. May switch if the session was just reset.

        :raises pymysql.err.OperationalError: the session could not be reset.
        """
        if self.pending:
            self._await_status()
        return bool(super().get_autocommit())

    def escape(self, obj: Any, mapping: Any = None) -> Any:
        """Write a value as SQL. May switch if the session was just reset.

        :raises pymysql.err.OperationalError: the session could not be reset.
        """
        if self.pending:
            self._await_status()
        return super().escape(obj, mapping)

    def _await_status(self) -> None:
        """Read missing replies to a reset: they carry the status. May switch.

        The old one tells the autocommit and the backslash escapes of the last borrower.
        """
        if self._command_owner is IN_POOL:
            # Nothing can be sent that depends on it.
            return
        if self._command_owner is not None:
            raise self._in_use(self._command_owner)
        self._command_owner = getcurrent()
        try:
            self.settle()
        finally:
            self._command_owner = None

    def forget_id(self) -> None:
        """Clear the id of an inserted row in the session. May switch.

        :raises pymysql.err.OperationalError: the connection was lost, or is closed
            because the id could not be cleared.
        """
        # First, for a signal handler may raise when it is sent.
        self._note_sent(FORGET_ID, 1, 0)
        self._write_bytes(FORGET_ID)
        self.settle()

    def read_forgotten(self) -> None:
        """Read the reply to what was sent together with a statement. May switch.

        :raises pymysql.err.OperationalError: as for :meth:`forget_id`.
        """
        self.is_prefixed = False
        try:
            packet: Any = self._read_packet()
            if not _is_ok(packet.get_all_data()):
                raise lost("an OK was expected")
        except err.MySQLError as error:
            self._force_close()
            raise lost(f"its session could not be reset: {error}") from error
        self._next_seq_id = UNREAD

    def settle(self) -> None:
        """Read the missing replies. May switch.

        If one is an error, all commands are sent once more: the error may belong to the
        previous borrower's statement, such as a late KILL QUERY.

        :raises pymysql.err.OperationalError: a reply is an error again, or the
            connection was lost. The connection is closed.
        """
        try:
            failure = self._read_replies()
            if failure is not None:
                data, replies = self._sent
                self._note_sent(data, replies, self._expected)
                self._write_bytes(data)
                failure = self._read_replies()
            if failure is not None:
                raise failure
        except err.MySQLError as error:
            self._force_close()
            raise lost(f"its session could not be reset: {error}") from error

    def _read_replies(self) -> Exception | None:
        failure = None
        if self.pending == SPOILED:
            raise lost("its session could not be reset")
        self._next_seq_id = 1
        if self._is_sent_just_now:
            self._buffer, self._at = self._block(awaits=True), 0
        while not self._skip_usual():
            self._buffer = (self._buffer or b"")[self._at :] + self._block()
            self._at = 0
        while self.pending:
            self._next_seq_id = 1
            try:
                packet: Any = self._read_packet()
            except err.MySQLError as error:
                if self._sock is None or self.fatal_error is not None:
                    raise
                self.pending -= 1
                failure = failure or error
            else:
                data = packet.get_all_data()
                if not self._is_as_expected(data):
                    raise lost("its session could not be reset")
                self._note_reply(data)
        return failure

    def collect(self) -> bool:
        """Take the replies that have arrived. Never switches.

        :return: whether the connection may be lent: each reply so far was OK, and
            missing replies are not late.
        """
        if self._is_silent:
            return not self.is_late
        while self.pending > 0:
            is_known = self._skip_usual()
            if not self.pending:
                break
            data = self._whole_packet() if is_known else None
            if data is None:
                block = self._received()
                if block == b"":
                    return not self.is_late
                if block is None:
                    return self._spoil()
                self._buffer = (self._buffer or b"")[self._at :] + block
                self._at = 0
            elif self._is_as_expected(data):
                self._note_reply(data)
            else:
                return self._spoil()
        if self.pending or self._at < len(self._buffer or b""):
            return self._spoil()
        return self.is_quiet()

    def _skip_usual(self) -> bool:
        """Take all replies at once, if they are the usual ones. Never switches.

        A session that is reset again and again replies with the same bytes, and
        comparing them costs a fraction of parsing them.

        :return: False: this cannot be known before more bytes have come.
        """
        data, replies, status, tracks = self._usual
        if data is not self._sent[0] or self.pending != self._sent[1]:
            return True
        rest = (self._buffer or b"")[self._at :]
        if rest != replies:
            return not replies.startswith(rest)
        self._buffer, self._at = b"", 0
        self.pending = 0
        self._note_status(status)
        self.tracks = tracks
        return True

    def _spoil(self) -> bool:
        # Not closed here: the pool closes it after it has stopped watching the socket.
        self.pending = SPOILED
        return False

    def _whole_packet(self) -> bytes | None:
        buffer, start = self._buffer or b"", self._at + 4
        end = start + int.from_bytes(buffer[self._at : self._at + 3], "little")
        if len(buffer) < start or len(buffer) < end:
            return None
        self._at = end
        return buffer[start:end]

    def _received(self) -> bytes | None:
        """Read without waiting.

        :return: empty: nothing has arrived yet; None: the connection is lost.
        """
        try:
            block: bytes = self._at_once(self._sock.recv, _BLOCK)
        except OSError as error:
            waits = isinstance(error, BlockingIOError) or "Want" in type(error).__name__
            return b"" if waits else None
        return block or None

    def _at_once(self, act: Callable[[Any], Any], argument: Any) -> Any:
        """Send or receive as much as is possible without waiting.

        :raises OSError: nothing is possible now.
        """
        sock = self._sock
        if self.ask is not None:
            # The native socket below never waits, so no timeout has to be changed.
            return getattr(sock._sock, act.__name__)(argument)
        limit = sock.gettimeout()
        sock.settimeout(0.0)
        try:
            return act(argument)
        finally:
            sock.settimeout(limit)

    def _is_as_expected(self, data: bytes) -> bool:
        if not _is_ok(data):
            return False
        return not self._expected & ~(data[3] | data[4] << 8)

    def _note_reply(self, data: bytes) -> None:
        """Note one reply, an OK packet. The commands change no rows."""
        self.pending -= 1
        status = data[3] | data[4] << 8
        self._note_status(status & ~CHANGED)
        self.note_tracking(status, data)
        # As it came: a header of three bytes of length and a number, which is 1.
        self._replies += (len(data).to_bytes(3, "little") + b"\1" + data,)
        sent, count = self._sent
        if len(self._replies) == count:
            replies = b"".join(self._replies)
            self._usual = sent, replies, status & ~CHANGED, self.tracks

    def is_quiet(self) -> bool:
        """Whether it is open, and has nothing to read but awaited replies.

        Never switches.
        """
        if self.pending:
            return self.collect()
        if self.ask is not None:
            return not self.ask(0)
        return self._sock is not None and sockets.is_quiet(self._sock)


def _is_ok(data: bytes) -> bool:
    """Whether a packet is an OK packet that includes the status."""
    return data[:1] == b"\0" and len(data) > _STATUS
