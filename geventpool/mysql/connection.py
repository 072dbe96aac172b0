"""The connection class that the pool lends: PyMySQL's, plus the state of a loan.

It notes when a loan begins and ends, and restores the Python attributes that a borrower
changed. It uses the server only through PyMySQL's public methods. The protection
against interruptions is in :mod:`geventpool.mysql.protocol`.
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
from geventpool.mysql.protocol import MAX_STATEMENTS, Wire
from geventpool.mysql.statements import Kind, effects_of, family, kind_of

__all__ = ["Connection"]

#: Dead references to cursors are removed when a loan has made this many more.
_SWEEP = 64

#: The bits of the status that must be as they were when the loan began.
_RELEVANT = IN_TRANS | AUTOCOMMIT | SERVER_STATUS.SERVER_STATUS_NO_BACKSLASH_ESCAPES

#: Encodings in which no byte of a character beyond ASCII is an ASCII byte.
_TRANSPARENT = frozenset({"utf8", "latin1", "cp1252", "ascii", "latin2", "koi8_r"})

#: Attributes that have a counterpart in the server's session, and must match it.
_SHARED = ("charset", "encoding", "collation", "autocommit_mode", "use_unicode")


class Lender(Protocol):
    """A pool that a connection can be given back to."""

    def release(self, conn: Connection) -> None:
        """Take back *conn*, whose loan ends."""


class Connection(Wire):
    """A PyMySQL connection that belongs to a :class:`~geventpool.mysql.ConnectionPool`.

    It is used like any other connection, with three differences: :meth:`close` gives it
    back to its pool, only one greenlet may use it at a time, and its cursors are closed
    when the loan ends.
    """

    def __init__(self, *, tls: Callable[[Any, Any], Any], **options: Any) -> None:
        #: the pool that has lent the connection; None: it is not on loan
        self.lender: Lender | None = None
        self._cursors: list[weakref.ref[Cursor]] = []
        self._streams: list[SSCursor] = []
        self._sweep_at = _SWEEP
        self._cursorclass: type[Cursor] = Cursor
        self._shared: dict[str, Any] = {}
        self._pristine: tuple[dict[Any, Any], dict[Any, Any]] = ({}, {})
        self._tables = (Converters({}), Converters({}))
        self._autocommits = 0
        #: the functions without side effects on this server
        self.functions: frozenset[bytes] = frozenset()
        #: the packets of its reset and their number, by whether the database is set
        #: again
        self.prepared: dict[bool, tuple[bytes, int]] = {}
        #: whether COM_RESET_CONNECTION alone restores what ``connect`` has set; None:
        #: not yet known
        self.reset_suffices: bool | None = None
        super().__init__(tls=tls, **options)

    def close(self) -> None:
        """Give the connection back to its pool. Without a loan, close it. May switch.

        :raises pymysql.err.Error: it was given back or closed before.
        """
        if self.lender is not None:
            self.lender.release(self)
        elif self._command_owner is IN_POOL:
            raise err.Error("Already closed")
        else:
            self.send_quit()

    def cursor(self, cursor: Any = None) -> Any:
        """Make a cursor. It can be used until it is closed or the loan ends.

        :param cursor: the class of the cursor; None: the connection's ``cursorclass``.
        """
        made = (cursor or self.cursorclass)(self)
        if isinstance(made, SSCursor):
            # Its finalizer would read the rest of the rows, in any greenlet. So it must
            # not be collected before it is closed.
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
        """Whether the loan can end without COMMIT. Never switches."""
        if not self.has_sent:
            return True
        status = self.server_status & (IN_TRANS | AUTOCOMMIT)
        return status == AUTOCOMMIT and not self.unfinished

    def finish_transaction(self, error: BaseException | None) -> None:
        """Commit, or roll back after *error*, if a transaction may be open. May switch.

        :param error: what left the block of the loan; None: nothing did. After what is
            no :exc:`Exception`, such as a kill, nothing is sent.
        :raises pymysql.err.Error: as for :meth:`commit_if_open`.
        """
        if error is None:
            self.commit_if_open()
        elif isinstance(error, Exception):
            self.rollback_if_open()

    def commit_if_open(self) -> None:
        """Commit if a transaction may be open. May switch.

        Without autocommit, a transaction may be open whenever something was sent. With
        autocommit, one may be open if it was begun explicitly.

        :raises pymysql.err.Error: it was not committed, or the outcome is unknown.
        """
        owes = self._has_work_to_commit
        if owes and not self.open:
            raise err.InterfaceError(0, "nothing is committed: the connection was lost")
        if self.unfinished and (owes or not self.streams):
            # The final status of a procedure, or rows that come before the answer to
            # COMMIT.
            self.finish()
            # The unread part may have begun a transaction.
            owes = self._has_work_to_commit
        if owes:
            self.commit()

    @property
    def _has_work_to_commit(self) -> bool:
        """Whether there may be something to commit, according to the last status."""
        status = self.server_status
        return bool(status & IN_TRANS) or not (
            self.status_is_current or status & AUTOCOMMIT
        )

    def end_transaction(self) -> None:
        """Commit what the pool's own code may have left open between loans. May switch.

        An idle connection with an open transaction would hold locks, and would show the
        next borrower the data as it was when the transaction began.

        :raises pymysql.err.Error: the transaction could not be ended.
        """
        if self.unfinished:
            self.finish()
        if self.may_hold_transaction:
            self.commit()

    def rollback_if_open(self) -> None:
        """Roll back if a transaction may be open. May switch.

        :raises pymysql.err.Error: the rollback failed. Closing the connection then has
            the same effect.
        """
        if self.has_sent and self.in_step and self.may_hold_transaction:
            self.rollback()

    # The loan. These never switch.

    #: Why the connection must not be lent again; None: it may be.
    unusable_reason: str | None = None

    @property
    def is_clean(self) -> bool:
        """Whether a loan in autocommit has left nothing to undo or to read."""
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

        :param kinds: the kinds of statements that leave nothing on this server.
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
        # A loop, because generators would cost more than the rest of this method.
        for text in self._statements:
            data = text.encode() if isinstance(text, str) else bytes(text)
            if not self.leaves_nothing(data, kinds):
                return False
        return True

    def leaves_nothing(self, text: bytes, kinds: frozenset[Kind]) -> bool:
        """Whether a statement leaves nothing in the session, and asks for no id.

        :param kinds: as for :meth:`left_nothing`.
        """
        return kind_of(text, self.functions) in kinds and (
            self._is_transparent or text.isascii()
        )

    def leaves_something(self, kinds: frozenset[Kind]) -> bool:
        """Whether the texts of the loan show that it may have left something.

        :param kinds: as for :meth:`left_nothing`.
        """
        left = [text for text in self._texts() if not self.leaves_nothing(text, kinds)]
        return bool(left)

    def may_hold_locks(self, kinds: frozenset[Kind]) -> bool:
        """Whether the loan may have taken locks that only a reset releases.

        It has none if each of its statements leaves nothing or only sets variables to
        values that no function returns.

        :param kinds: as for :meth:`left_nothing`.
        """
        if len(self._statements) >= MAX_STATEMENTS:
            return True
        for text in self._texts():
            effects = effects_of(text)
            if effects.names_lock:
                return True
            if not (effects.only_assigns or self.leaves_nothing(text, kinds)):
                return True
        return False

    def _texts(self) -> list[bytes]:
        # No generators here and above: a call that fails when a generator is closed
        # cannot be told to anybody.
        return [
            text.encode() if isinstance(text, str) else bytes(text)
            for text in self._statements
        ]

    @property
    def _is_transparent(self) -> bool:
        """Whether no byte of a character beyond ASCII is an ASCII byte."""
        return self.encoding in _TRANSPARENT

    def lend(self, lender: Lender) -> None:
        """Begin a loan.

        :param lender: :meth:`close` calls its ``release``.
        """
        self.lender = lender
        self._command_owner = None
        self.has_sent = False
        self.left = self.made_id = False
        if self._statements:
            self._statements.clear()
        if not self.session_unchanged:
            self.session_unchanged = True
            self.took_role = self.chose_database = self.database_may_differ = False

    def end_loan(self) -> None:
        """End the loan: detach its cursors and refuse commands from now on."""
        self.lender = None
        self._command_owner = IN_POOL
        if self.unusable_reason is None:
            # An unread answer is kept: it tells that the statement still runs and must
            # be ended at the server.
            self._drop_result()
        if self._cursors or self._streams:
            self._disarm()

    def _drop_result(self) -> None:
        # The rows are not kept while it is idle, and insert_id() and affected_rows()
        # tell the next borrower nothing.
        self._result = None
        self._affected_rows = 0

    def terminate(self) -> None:
        """Close the socket without sending anything. Never switches.

        Safe while any greenlet uses the connection.
        """
        self.lender = None
        super().terminate()
        # Ordinary cursors stay, and report the lost connection: their finalizer does
        # nothing.
        self._disarm_streams()

    def _disarm(self) -> None:
        # PyMySQL takes a cursor without a connection for closed.
        for ref in self._cursors:
            cursor = ref()
            if cursor is not None:
                cursor.connection = None  # type: ignore[assignment]
        self._cursors.clear()
        self._disarm_streams()
        self._sweep_at = _SWEEP

    def _disarm_streams(self) -> None:
        for stream in self._streams:
            stream.connection = None  # type: ignore[assignment]
        self._streams.clear()

    @contextmanager
    def used_by_pool(self) -> Iterator[None]:
        """Let the pool itself send commands on the idle connection within the block."""
        owner, self._command_owner = self._command_owner, None
        try:
            yield
            self._drop_result()
        finally:
            self._command_owner = owner

    # Attributes that were set in Python

    def remember(self) -> None:
        """Note the present Python attributes as those that every borrower gets."""
        self._cursorclass = self.cursorclass
        self._autocommits = self.server_status & AUTOCOMMIT
        self.functions = family(self.server_version)
        self.prepared.clear()
        self.reset_suffices = None
        self._shared = {name: self.__dict__[name] for name in _SHARED}
        self._pristine = dict(self.encoders), dict(self.decoders)
        self._renew_tables()
        self.remember_limits()

    def restore(self, shared: bool) -> None:
        """Set the Python attributes back to what :meth:`remember` noted.

        :param shared: also those that mirror the server's session. The caller must
            reset the session as well.
        """
        self.cursorclass = self._cursorclass
        encoders, decoders = self._tables
        if self.encoders is not encoders or self.decoders is not decoders:
            self._renew_tables()
        elif encoders.touched or decoders.touched:
            self._renew_tables()
        self.restore_limits()
        if shared:
            self.restore_shared()

    def restore_shared(self) -> None:
        """Set the Python attributes back that mirror the server's session.

        The caller must reset the session as well.
        """
        self.__dict__.update(self._shared)

    def _renew_tables(self) -> None:
        encoders, decoders = self._pristine
        self._tables = Converters(encoders), Converters(decoders)
        self.encoders, self.decoders = self._tables
