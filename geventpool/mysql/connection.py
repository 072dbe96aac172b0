"""The connection that is lent: PyMySQL's own, plus what belongs to a loan.

Knows when a loan begins and ends and what has to be undone in Python at its end; speaks
to the server only through PyMySQL's public methods. Its guard is in
:mod:`geventpool.mysql.protocol`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from pymysql import err
from pymysql.constants import SERVER_STATUS
from pymysql.cursors import Cursor, SSCursor

from geventpool.mysql.converters import Converters
from geventpool.mysql.packets import AUTOCOMMIT, IN_POOL, IN_TRANS
from geventpool.mysql.protocol import MAX_SAID, Wire
from geventpool.mysql.statements import Kind, family, kind_of, only_sets

__all__ = ["Connection"]

#: Dead references to cursors are swept out when a loan has handed out that many more.
_SWEEP = 64

#: Of the status: what must be as it was when the loan began.
_RELEVANT = IN_TRANS | AUTOCOMMIT | SERVER_STATUS.SERVER_STATUS_NO_BACKSLASH_ESCAPES

#: Encodings in which all bytes of a character beyond ASCII are beyond ASCII too.
_TRANSPARENT = frozenset({"utf8", "latin1", "cp1252", "ascii", "latin2", "koi8_r"})

#: What has a counterpart in the server's session, and must never differ from it.
_SHARED = ("charset", "encoding", "collation", "autocommit_mode", "use_unicode")


class Lender(Protocol):
    """What gives connections out and takes them back."""

    def release(self, conn: Connection) -> None:
        """Take back a connection."""


class Connection(Wire):
    """A PyMySQL connection that belongs to a :class:`~geventpool.mysql.ConnectionPool`.

    Used like any other, but :meth:`close` gives it back to its pool, only one greenlet
    may use it at a time, and its cursors end with the loan.
    """

    def __init__(self, *, tls: Callable[[Any, Any], Any], **options: Any) -> None:
        #: the pool whose loan is under way
        self.lender: Lender | None = None
        self._cursors: list[weakref.ref[Cursor]] = []
        self._streams: list[SSCursor] = []
        self._sweep_at = _SWEEP
        self._cursorclass: type[Cursor] = Cursor
        self._shared: dict[str, Any] = {}
        self._pristine: tuple[dict[Any, Any], dict[Any, Any]] = ({}, {})
        self._tables = (Converters({}), Converters({}))
        self._autocommits = 0
        self._functions: frozenset[bytes] = frozenset()
        #: what its reset sends, by whether the database is chosen again
        self.prepared: dict[bool, tuple[bytes, int]] = {}
        super().__init__(tls=tls, **options)

    def close(self) -> None:
        """Give the connection back to its pool; without a loan, close it. May switch.

        :raises pymysql.err.Error: it was given back, or closed, before.
        """
        if self.lender is not None:
            self.lender.release(self)
        elif self._command_owner is IN_POOL:
            raise err.Error("Already closed")
        else:
            self.send_quit()

    def cursor(self, cursor: Any = None) -> Any:
        """A new cursor, good until it is closed or the loan ends.

        :param cursor: its class; None for the connection's ``cursorclass``.
        """
        made = (cursor or self.cursorclass)(self)
        if isinstance(made, SSCursor):
            # Its finalizer would read the rest of the rows, in whatever greenlet it
            # happened to run: so it must not be collected before it is closed.
            self._streams = [one for one in self._streams if one.connection is not None]
            self._streams.append(made)
        else:
            self._cursors.append(weakref.ref(made))
            if len(self._cursors) >= self._sweep_at:
                self._cursors = [ref for ref in self._cursors if ref() is not None]
                self._sweep_at = len(self._cursors) + _SWEEP
        return made

    @property
    def nothing_to_commit(self) -> bool:
        """Whether the loan can end well without a further word. Never switches."""
        if not self.has_sent:
            return True
        status = self.server_status & (IN_TRANS | AUTOCOMMIT)
        return status == AUTOCOMMIT and not self.unfinished

    def commit_if_open(self) -> None:
        """Commit what the loan has done, if there can be anything. May switch.

        Outside of autocommit there can be whenever something was sent, and in
        autocommit if a transaction was begun by hand.

        :raises pymysql.err.Error: it is not committed, or nobody knows.
        """
        owes = self._has_work_to_commit
        if owes and not self.open:
            raise err.InterfaceError(0, "nothing is committed: the connection was lost")
        if self.unfinished and (owes or not self.streams):
            # The last word of a procedure; or rows between us and the answer to COMMIT.
            self.finish()
            # What was left may have begun a transaction.
            owes = self._has_work_to_commit
        if owes:
            self.commit()

    @property
    def _has_work_to_commit(self) -> bool:
        """Whether the last status leaves open that there is something to commit."""
        status = self.server_status
        return bool(status & IN_TRANS) or not (
            self.status_is_current or status & AUTOCOMMIT
        )

    def end_transaction(self) -> None:
        """End what code that ran between two loans may have left open. May switch.

        An idle connection with an open transaction would show its next borrower the
        data of the time when that began, and would hold its locks meanwhile.

        :raises pymysql.err.Error: it could not be ended.
        """
        if self.unfinished:
            self.finish()
        if self.may_hold_transaction:
            self.commit()

    def rollback_if_open(self) -> None:
        """Undo what the loan has done, if there can be anything. May switch.

        :raises pymysql.err.Error: it could not be; closing the connection does it.
        """
        if self.has_sent and self.in_step and self.may_hold_transaction:
            self.rollback()

    # The loan. None of these may switch.

    #: Why it must not be lent again; None: it may.
    unusable_reason: str | None = None

    @property
    def is_clean(self) -> bool:
        """Whether nothing at all is to be done at the end of a loan in autocommit."""
        encoders, decoders = self._tables
        return (
            self.wire_is_clean
            and self.cursorclass is self._cursorclass
            and self.encoders is encoders
            and self.decoders is decoders
            and not encoders.touched
            and not decoders.touched
        )

    def left_nothing(self, kinds: frozenset[Kind]) -> bool:
        """Whether the loan is known to have left nothing but the id of an inserted row.

        :param kinds: of statements of which this can be known on this server.
        """
        encoders, decoders = self._tables
        result = self._result
        if not (
            self.tracks
            and not self.left
            and self.status_is_current
            and self.server_status & _RELEVANT == self._autocommits
            and self.fatal_error is None
            and self._command_owner is None
            and self._sock is not None
            and self._at == len(self._buffer or b"")
            and (result is None or not (result.unbuffered_active or result.has_next))
            and (self._read_timeout, self._write_timeout) == self._limits
            and self.cursorclass is self._cursorclass
            and self.encoders is encoders
            and self.decoders is decoders
            and not encoders.touched
            and not decoders.touched
            and self.__dict__.items() >= self._shared.items()
        ):
            return False
        for text in self._texts():
            if kind_of(text, self._functions) not in kinds:
                return False
            if not (self._is_transparent or text.isascii()):
                return False
        return True

    @property
    def may_hold_locks(self) -> bool:
        """Whether the loan may have taken locks that only a reset releases.

        It has not if each of its statements leaves nothing, or only sets something.
        """
        return len(self._said) >= MAX_SAID or any(
            b"LOCK" in text.upper()
            or not (only_sets(text) or kind_of(text, self._functions))
            for text in self._texts()
        )

    def _texts(self) -> Iterator[bytes]:
        for said in self._said:
            yield said.encode() if isinstance(said, str) else bytes(said)

    @property
    def _is_transparent(self) -> bool:
        """Whether no byte of a character beyond ASCII looks like one of ASCII."""
        return self.encoding in _TRANSPARENT

    def lend(self, lender: Lender) -> None:
        """Begin a loan.

        :param lender: whose ``release`` :meth:`close` shall call.
        """
        self.lender = lender
        self._command_owner = None
        self.has_sent = False
        self.left = self.made_id = False
        if self._said:
            self._said.clear()
        if not self.session_unchanged:
            self.session_unchanged = True
            self.took_role = self.chose_database = self.database_may_differ = False

    def end_loan(self) -> None:
        """End the loan: cursors are disarmed, commands are refused from now on."""
        self.lender = None
        self._command_owner = IN_POOL
        if self._cursors or self._streams:
            self._disarm()

    def terminate(self) -> None:
        """Drop the connection: no goodbye, never switches, safe whoever uses it."""
        self.lender = None
        super().terminate()
        self._disarm()

    def _disarm(self) -> None:
        # A cursor without a connection is closed for PyMySQL, and its finalizer idle.
        for ref in self._cursors:
            cursor = ref()
            if cursor is not None:
                cursor.connection = None  # type: ignore[assignment]
        for stream in self._streams:
            stream.connection = None  # type: ignore[assignment]
        self._cursors.clear()
        self._streams.clear()
        self._sweep_at = _SWEEP

    @contextmanager
    def used_by_pool(self) -> Iterator[None]:
        """For the time of the block the pool itself speaks on the idle connection."""
        shelf, self._command_owner = self._command_owner, None
        try:
            yield
        finally:
            self._command_owner = shelf

    # What was set in Python

    def remember(self) -> None:
        """Take the present Python attributes as those every borrower shall find."""
        self._cursorclass = self.cursorclass
        self._autocommits = self.server_status & AUTOCOMMIT
        self._functions = family(self.server_version)
        self.prepared.clear()
        self._shared = {name: self.__dict__[name] for name in _SHARED}
        self._pristine = dict(self.encoders), dict(self.decoders)
        self._renew_tables()
        self.remember_limits()

    def restore(self, shared: bool) -> None:
        """Put Python attributes back as they were when :meth:`remember` was called.

        :param shared: also those that mirror the server's session, which the caller is
            about to put back there as well.
        """
        self.cursorclass = self._cursorclass
        encoders, decoders = self._tables
        if self.encoders is not encoders or self.decoders is not decoders:
            self._renew_tables()
        elif encoders.touched or decoders.touched:
            self._renew_tables()
        self.restore_limits()
        if shared:
            self.__dict__.update(self._shared)

    def _renew_tables(self) -> None:
        encoders, decoders = self._pristine
        self._tables = Converters(encoders), Converters(decoders)
        self.encoders, self.decoders = self._tables
