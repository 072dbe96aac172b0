"""The kinds of reset of a connection between two loans.

Each decides when it is needed, and does it. Its docstring says what it does not reset.
This module depends on connections, not on pools.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import gevent
from pymysql.constants import COMMAND, ER
from pymysql.cursors import Cursor

from geventpool.mysql.ahead import packed
from geventpool.mysql.connection import Connection
from geventpool.mysql.hidden import harmless_kinds
from geventpool.mysql.packets import AUTOCOMMIT
from geventpool.mysql.protocol import COM_RESET_CONNECTION
from geventpool.mysql.statements import Kind, is_mariadb

__all__ = ["Custom", "Nothing", "Reset", "Rollback", "Session", "as_reset"]


#: After so many loans in a row that leave something the next one is expected to do so
#: too. Among mixed loans that is seldom. Where it is wrong, a loan that leaves nothing
#: is reset.
STREAK = 8

#: A command of the protocol, with its argument.
Command = tuple[int, bytes]


class Reset(Protocol):
    """One kind of reset."""

    def spares(self, conn: Connection) -> bool:
        """Whether the loan can end without waiting for a reset. Never switches.

        The fast path. It is called before the loan ends.
        """

    #: Whether it ends an open transaction, and so releases its locks.
    ends_transactions: bool

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds of statements that are known to leave nothing on this server."""

    def is_possible(self, conn: Connection) -> bool:
        """Whether it can undo what the loan did. Never switches."""

    def restore(self, conn: Connection) -> None:
        """Undo what the loan did to the Python object alone. Never switches."""

    def is_needed(self, conn: Connection) -> bool:
        """Whether there is something to reset at the server. Never switches."""

    def begin(self, conn: Connection) -> bool:
        """Send the reset without waiting for replies, if that is possible.

        Never switches.

        :return: whether it was sent.
        """

    def __call__(self, conn: Connection) -> None:
        """Reset the connection, or wait for a reset that was sent. May switch.

        :raises Exception: the reset failed.
        """


class _NotAhead:
    """A reset that is never sent ahead."""

    ends_transactions = False
    #: All: only a Session releases other locks than those of transactions.
    kinds = frozenset(Kind)

    def restore(self, conn: Connection) -> None:
        return None

    def begin(self, conn: Connection) -> bool:
        return False


class Nothing(_NotAhead):
    """No reset: everything stays as the last borrower left it, even a transaction."""

    def spares(self, conn: Connection) -> bool:
        return conn.is_clean

    def is_possible(self, conn: Connection) -> bool:
        return True

    def is_needed(self, conn: Connection) -> bool:
        return False

    def __call__(self, conn: Connection) -> None:
        return None


class Custom(_NotAhead):
    """A reset by a callable of the user."""

    def spares(self, conn: Connection) -> bool:
        return False

    def __init__(self, clean: Callable[[Any], object]) -> None:
        self._clean = clean

    def is_possible(self, conn: Connection) -> bool:
        return True

    def is_needed(self, conn: Connection) -> bool:
        return True

    def __call__(self, conn: Connection) -> None:
        self._clean(conn)
        if conn.unfinished or conn.may_hold_transaction:
            # It may be the transaction of the borrower.
            conn.rollback()


class Rollback(_NotAhead):
    """A reset by ROLLBACK: no transaction, row lock or read view stays open.

    Everything else stays. Nothing is sent if no transaction is open according to the
    server, and no statement can have changed the properties of the next transaction.
    """

    ends_transactions = True

    def spares(self, conn: Connection) -> bool:
        return conn.is_clean

    def is_possible(self, conn: Connection) -> bool:
        return True

    def restore(self, conn: Connection) -> None:
        conn.restore(shared=False)

    def is_needed(self, conn: Connection) -> bool:
        return conn.has_sent and (
            not conn.session_unchanged or conn.may_hold_transaction
        )

    def __call__(self, conn: Connection) -> None:
        conn.rollback()


class Session:
    """A reset of the whole session, by COM_RESET_CONNECTION.

    The session then has the server's defaults, the settings of ``connect`` and those of
    ``configure``, and nothing else. Nothing is sent if the loan is known to have left
    nothing. If it has left only the id of an inserted row, that is cleared before the
    next statement, and in most cases sent together with it.

    Otherwise the reset is sent when the connection is given back, without waiting for
    the replies. If that is not possible, it takes one round trip, or one for each
    command if sending all at once failed the first time. A server that does not know
    COM_RESET_CONNECTION gets a ROLLBACK instead, and the settings of ``connect``.

    The settings cost the server more than the reset. They are left out if the reset
    alone restores them, and if the texts of the last :data:`STREAK` loans show that
    each may have left something. Then the next loan is expected to need a reset too,
    and the server need not report its changes.

    :param configure: called after each reset, which removes what it has set.
    :param more: returns further commands that set up the session of a connection. They
        must be answered by OK.
    :param always: reset also after a loan that is known to have left nothing.
    """

    ends_transactions = True

    def __init__(
        self,
        configure: Callable[[Any], object] | None = None,
        more: Callable[[Any], list[Command]] | None = None,
        always: bool = False,
    ) -> None:
        self._configure = configure
        self._more = more
        self._is_known = True
        #: Whether several commands can be sent at once; None: not yet tried.
        self._pipelines: bool | None = None
        #: kinds of statements that leave nothing; None: not yet known
        self._kinds: frozenset[Kind] | None = frozenset() if always else None
        #: How many loans in a row may have left something according to their texts.
        self._streak = 0

    @property
    def kinds(self) -> frozenset[Kind]:
        return self._kinds or frozenset()

    def is_possible(self, conn: Connection) -> bool:
        # No reset undoes SET ROLE, or USE in a session that had no database.
        return not conn.took_role and not (conn.chose_database and not conn.db)

    def spares(self, conn: Connection) -> bool:
        kinds = self._kinds
        if (
            kinds is None
            or not conn.has_sent
            or (conn.made_id and not self._pipelines)
            or not conn.left_nothing(kinds)
        ):
            return False
        if conn.made_id:
            # Clearing the id with the next statement costs the server far less than
            # resetting the session, and no greenlet waits for it.
            conn.foreign_id = kinds
        self._streak = 0
        return True

    def restore(self, conn: Connection) -> None:
        # After a loan that has sent something, a reset restores the rest.
        conn.restore(shared=not conn.has_sent)

    def is_needed(self, conn: Connection) -> bool:
        return conn.has_sent

    def begin(self, conn: Connection) -> bool:
        """Send the reset without waiting for its replies. Never switches.

        Call :meth:`restore` first.

        :param conn: a connection that is in step.
        :return: whether it was sent. The replies are read by
            :meth:`~geventpool.mysql.ahead.Ahead.settle` or
            :meth:`~geventpool.mysql.ahead.Ahead.collect`.
        """
        if not self._can_send_ahead(conn):
            return False
        conn.restore_shared()
        database_may_differ = conn.database_may_differ
        prepared = conn.prepared.get(database_may_differ)
        if prepared is None:
            commands = [_RESET, *self._commands(conn, database_may_differ)]
            prepared = conn.prepared[database_may_differ] = (
                packed(commands),
                len(commands),
            )
        expected = 0
        if self._count_streak(conn) and prepared[1] == _WITH_SETTINGS:
            suffices = _suffices(conn)
            if suffices is None:
                # It is found out by a full reset.
                return False
            if suffices:
                prepared = _ALONE
                expected = AUTOCOMMIT if conn.autocommit_mode else 0
        conn.foreign_id = None
        return conn.send_ahead(*prepared, expected)

    def _can_send_ahead(self, conn: Connection) -> bool:
        return bool(
            self._pipelines
            and self._is_known
            and self._kinds is not None
            and self._configure is None
            and conn.init_command is None
        )

    def _count_streak(self, conn: Connection) -> bool:
        """Count the loan; return whether the next one is expected to leave something.

        It is if the texts of the last loans show that each may have. Otherwise the
        server has to report changes, or loans that leave nothing would be reset. Never
        switches.
        """
        if conn.leaves_something(self.kinds):
            self._streak += 1
        else:
            self._streak = 0
        return self._streak >= STREAK

    def __call__(self, conn: Connection) -> None:
        if conn.pending:
            # Sent already.
            conn.settle()
            return
        conn.restore(shared=True)
        # Read before the reset sends commands of its own.
        database_may_differ = conn.database_may_differ
        if self._is_known:
            self._reset(conn, [_RESET, *self._commands(conn, database_may_differ)])
        if self._is_known:
            conn.foreign_id = None
        else:
            self._run(conn, [_ROLLBACK, *self._commands(conn, database_may_differ)])
        if self._kinds is None:
            self._ask_kinds(conn)
        _initialise(conn)
        if self._configure is not None:
            self._configure(conn)
        if self._can_send_ahead(conn) and _suffices(conn) is None:
            conn.reset_suffices = self._is_enough(conn)
        conn.end_transaction()

    def _ask_kinds(self, conn: Connection) -> None:
        """Find out which kinds of statements leave nothing. May switch."""
        # No kind is trusted meanwhile. If each of the first connections asked, the
        # server would take so long that the pool would open more of them.
        self._kinds = frozenset()
        kinds = None
        try:
            kinds = harmless_kinds(conn) if conn.tracks else frozenset()
        finally:
            self._kinds = kinds

    def _is_enough(self, conn: Connection) -> bool:
        """Whether COM_RESET_CONNECTION alone restores the settings. May switch.

        :param conn: a connection after a full reset.
        """
        commands = [_RESET, *self._commands(conn, False)]
        if len(commands) != _WITH_SETTINGS:
            return False
        wanted = _settings(conn)
        self._reset(conn, [_RESET])
        found = _settings(conn)
        self._reset(conn, commands)
        return found == wanted

    def _commands(self, conn: Connection, database_may_differ: bool) -> list[Command]:
        """Return the commands that set up the session."""
        commands = _session(conn, database_may_differ)
        return commands if self._more is None else [*commands, *self._more(conn)]

    def _reset(self, conn: Connection, commands: list[Command]) -> None:
        if self._pipelines is False:
            answers = self._one_by_one(conn, commands)
        else:
            answers = self._at_once(conn, commands)
        if _is_unknown(answers[0]):
            self._is_known = False
        else:
            _raise_first(answers)

    def _at_once(
        self, conn: Connection, commands: list[Command]
    ) -> list[Exception | None]:
        try:
            answers = conn.pipeline(commands)
        except (Exception, gevent.Timeout):
            # A proxy may refuse several commands at once. This connection is lost. If
            # it never worked before, it is not tried again.
            if self._pipelines is None:
                self._pipelines = False
            raise
        self._pipelines = True
        return answers

    def _one_by_one(
        self, conn: Connection, commands: list[Command]
    ) -> list[Exception | None]:
        answers: list[Exception | None] = []
        for command in commands:
            answers += conn.pipeline([command])
            if answers[-1] is not None:
                break
        return answers

    def _run(self, conn: Connection, commands: list[Command]) -> None:
        _raise_first(self._one_by_one(conn, commands))


_RESET = (COM_RESET_CONNECTION, b"")
_ROLLBACK = (COMMAND.COM_QUERY, b"ROLLBACK")

#: The reset without the settings of ``connect``, and the number of its replies.
_ALONE = packed([_RESET]), 1
#: The number of commands of a reset with only these settings.
_WITH_SETTINGS = 2

#: Asks for what these settings set. The SQL mode is not among them: see _suffices().
_VARIABLES = (
    "SELECT @@character_set_client, @@character_set_connection, "
    "@@character_set_results, @@collation_connection, @@autocommit"
)

#: The first MariaDB of which every release restores the charset of the login
#: (MDEV-18281). Other servers set their own, which may change at any time. So does one
#: with skip-character-set-client-handshake. That is found out if the two differ.
_RESTORES_CHARSET = (10, 5)


def _suffices(conn: Connection) -> bool | None:
    """Whether COM_RESET_CONNECTION alone restores what ``connect`` has set.

    Never switches.

    :return: None: the server has to be asked.
    """
    if conn.reset_suffices is None and (
        # A reset sets them to the server's defaults, which may change at any time.
        # Whether autocommit is still on is seen in the status.
        conn.sql_mode is not None
        or conn.autocommit_mode is False
        or not is_mariadb(conn.server_version, _RESTORES_CHARSET)
    ):
        conn.reset_suffices = False
    return conn.reset_suffices


def _settings(conn: Connection) -> list[tuple[Any, ...]]:
    """Ask for the settings of the session. May switch."""
    with conn.cursor(Cursor) as cursor:
        cursor.execute(_VARIABLES)
        return list(cursor.fetchall())


def _session(conn: Connection, database_may_differ: bool) -> list[Command]:
    """Return the commands that repeat the settings of ``connect``."""
    charset, collation = str(conn.charset), conn.collation
    settings = [conn.names_statement(charset, collation)]
    if conn.autocommit_mode is not None:
        settings.append(f"autocommit={int(conn.autocommit_mode)}")
    if conn.sql_mode is not None:
        settings.append(f"sql_mode={conn.escape(conn.sql_mode)}")
    commands = [(COMMAND.COM_QUERY, _encoded(conn, ", ".join(settings)))]
    if database_may_differ and conn.db:
        # After SET NAMES, so that the server decodes the name correctly.
        commands.append((COMMAND.COM_INIT_DB, _encoded(conn, conn.db)))
    return commands


def _initialise(conn: Connection) -> None:
    if conn.init_command is None:
        return
    with conn.cursor() as cursor:
        cursor.execute(conn.init_command)
    wanted = conn.autocommit_mode
    if wanted is not None and conn.get_autocommit() != wanted:
        conn.autocommit(wanted)


def _encoded(conn: Connection, text: str | bytes) -> bytes:
    return text.encode(conn.encoding) if isinstance(text, str) else text


def _is_unknown(answer: Exception | None) -> bool:
    return answer is not None and answer.args[:1] == (ER.UNKNOWN_COM_ERROR,)


def _raise_first(answers: list[Exception | None]) -> None:
    for answer in answers:
        if answer is not None:
            raise answer


def as_reset(mode: Any, configure: Callable[[Any], object] | None) -> Reset:
    """Return the kind of reset that *mode* names.

    :param mode: ``"session"``, ``"rollback"``, None, or a callable with one argument.
        A :class:`Session` that an adapter has made is used as it is, without
        *configure*.
    :raises ValueError: *mode* is not one of these.
    """
    if isinstance(mode, Session):
        return mode
    if mode is None:
        return Nothing()
    if mode == "session":
        return Session(configure)
    if mode == "rollback":
        return Rollback()
    if callable(mode):
        return Custom(mode)
    raise ValueError(
        f"reset must be 'session', 'rollback', None or a callable, not {mode!r}"
    )
