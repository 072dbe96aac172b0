"""Commands that are sent ahead: nobody waits for their replies, which are read later.

So the session of a returned connection is reset while it is idle, and by nobody's
greenlet. The replies are taken when the connection is looked at, or read before the
next statement is sent: never after it, for a statement must not run in a session whose
reset has failed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from pymysql import err
from pymysql.constants import CLIENT

from geventpool import sockets
from geventpool.mysql.packets import CHANGED, Packets, command_head, lost

__all__ = ["SPOILED", "Ahead", "packed"]

#: Seconds after which a connection is not lent before the replies have come.
LATE = 0.05

#: In the place of the number of missing replies: they were not what they should be.
SPOILED = -1

#: Bytes asked for at a time; the replies are much shorter.
_BLOCK = 4096

#: Where the status ends in a packet that counts no rows and no id.
_STATUS = 4

#: What the server reports if session_track_state_change is on: a type and a string.
_STATE_CHANGED = b"\x02\x011"


def packed(commands: Sequence[tuple[int, bytes]]) -> bytes:
    """The packets of several commands.

    :param commands: command codes with their arguments.
    """
    return b"".join(command_head(len(text) + 1, code) + text for code, text in commands)


class Ahead(Packets):
    """A PyMySQL connection on which commands can be sent ahead."""

    #: Whether the server reports changes of the session, by the last reply to a
    #: command that has turned this on.
    tracks = False
    #: Whether it has accepted to do so.
    _accepts_tracking = False
    #: What was sent ahead last, the number of its replies, and when.
    _sent = b"", 0
    _sent_at = 0.0

    def _request_authentication(self) -> None:
        # A server that does not know this would not answer as we expect.
        self.client_flag &= ~CLIENT.SESSION_TRACK
        self.client_flag |= self.server_capabilities & CLIENT.SESSION_TRACK
        authenticate: Any = super()
        authenticate._request_authentication()

    @property
    def can_track(self) -> bool:
        """Whether client and server have agreed on reports of changes."""
        return bool(self.client_flag & CLIENT.SESSION_TRACK)

    def names_statement(self, charset: str, collation: str | None) -> str:
        """The statement that sets the charset, and has changes of the session reported.

        MySQL does not report this switch itself, and forgets with it what was reported
        before: so the switch comes first.
        """
        track = "session_track_state_change=1, " if self._accepts_tracking else ""
        collate = f" COLLATE {collation}" if collation else ""
        return f"SET {track}NAMES {charset}{collate}"

    def note_tracking(self, status: int, rest: bytes) -> None:
        """See from a reply whether changes are reported.

        :param rest: what follows the status, or more.
        """
        if status & CHANGED and _STATE_CHANGED in rest:
            self.tracks = self.can_track

    @property
    def is_late(self) -> bool:
        """Whether replies are missing for longer than a moment. Never switches."""
        return self.pending > 0 and monotonic() - self._sent_at > LATE

    def send_ahead(self, data: bytes, replies: int, tracks: bool = False) -> bool:
        """Send commands that are each answered by OK or an error. Never switches.

        The connection must be in step, and no replies be missing.

        :param data: what :func:`packed` has made of them.
        :param replies: the number of commands.
        :param tracks: whether changes are still reported after these commands.
        :return: False: they could not be sent at once; nothing was sent, or the
            connection is closed.
        """
        try:
            sent = self._at_once(self._sock.send, data)
        except OSError:
            return False
        if sent < len(data):
            self.terminate()
            return False
        self._sent = data, replies
        self.pending = replies
        self.tracks = tracks
        self._sent_at = monotonic()
        return True

    def settle(self) -> None:
        """Read the replies that are missing. May switch.

        If one is an error, all is sent once more: it may have been meant for what the
        borrower before had sent, such as a late KILL QUERY.

        :raises pymysql.err.OperationalError: one is an error again, or the connection
            is lost; it is closed then.
        """
        try:
            failure = self._read_replies()
            if failure is not None:
                data, self.pending = self._sent
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
                if not _is_ok(data):
                    raise lost("its session could not be reset")
                self._note_reply(data)
        return failure

    def collect(self) -> bool:
        """Take what has come of the replies. Never switches.

        :return: whether the connection may be lent: all is in order, as far as it has
            come, and what is missing is not late.
        """
        while self.pending > 0:
            data = self._whole_packet()
            if data is None:
                block = self._received()
                if block == b"":
                    return not self.is_late
                if block is None:
                    return self._spoil()
                self._buffer = (self._buffer or b"")[self._at :] + block
                self._at = 0
            elif _is_ok(data):
                self._note_reply(data)
            else:
                return self._spoil()
        if self.pending or self._at < len(self._buffer or b""):
            return self._spoil()
        return self.is_quiet()

    def _spoil(self) -> bool:
        # Not closed here: the pool does that, after it has ceased to watch the socket.
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
        """What can be read at once; empty: nothing yet; None: nothing will come."""
        try:
            block: bytes = self._at_once(self._sock.recv, _BLOCK)
        except OSError as error:
            waits = isinstance(error, BlockingIOError) or "Want" in type(error).__name__
            return b"" if waits else None
        return block or None

    def _at_once(self, act: Callable[[Any], Any], argument: Any) -> Any:
        """Send or receive what is possible now.

        :raises OSError: nothing is.
        """
        sock = self._sock
        limit = sock.gettimeout()
        sock.settimeout(0.0)
        try:
            return act(argument)
        finally:
            sock.settimeout(limit)

    def _note_reply(self, data: bytes) -> None:
        """One of the replies, which is an OK packet. None of them changes rows."""
        self.pending -= 1
        status = data[3] | data[4] << 8
        self._note_status(status & ~CHANGED)
        self.note_tracking(status, data)

    def is_quiet(self) -> bool:
        """Whether it is open, and silent but for replies that are awaited.

        Never switches.
        """
        if self.pending:
            return self.collect()
        if self.ask is not None:
            return not self.ask(0)
        return self._sock is not None and sockets.is_quiet(self._sock)


def _is_ok(data: bytes) -> bool:
    """Whether a packet is an OK packet, up to the status at least."""
    return data[:1] == b"\0" and len(data) > _STATUS
