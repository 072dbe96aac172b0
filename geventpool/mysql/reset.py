"""
What is done to a connection between two borrowers.

Each kind of clean-up knows when it is needed, and how it is done; what it leaves behind
is in its docstring. Knows connections; knows nothing of pools.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import gevent
from pymysql.constants import COMMAND, ER

from geventpool.mysql.connection import Connection
from geventpool.mysql.protocol import COM_RESET_CONNECTION

__all__ = ["Custom", "Nothing", "Reset", "Rollback", "Session", "as_reset"]


class Reset(Protocol):
    """
    One kind of clean-up.
    """

    #: Whether a loan that has changed nothing but data needs nothing.
    is_lazy: bool

    def is_possible(self, conn: Connection) -> bool:
        """
        Whether it can put the connection right again. Never switches.
        """

    def is_needed(self, conn: Connection) -> bool:
        """
        Whether there is anything to talk to the server about. Never switches.
        """

    def __call__(self, conn: Connection) -> None:
        """
        Clean up. **May switch.**

        :raises Exception: it could not.
        """


class Nothing:
    """
    Everything stays as the last borrower left it, an open transaction included.
    """

    is_lazy = True

    def is_possible(self, conn: Connection) -> bool:
        return True

    def is_needed(self, conn: Connection) -> bool:
        return False

    def __call__(self, conn: Connection) -> None:
        return None


class Custom:
    """
    What a callable of the user's does.
    """

    is_lazy = False

    def __init__(self, clean: Callable[[Any], object]) -> None:
        self._clean = clean

    def is_possible(self, conn: Connection) -> bool:
        return True

    def is_needed(self, conn: Connection) -> bool:
        return True

    def __call__(self, conn: Connection) -> None:
        self._clean(conn)
        if conn.unfinished or conn.may_hold_transaction:
            # Rolled back, for it may be the borrower's.
            conn.rollback()


class Rollback:
    """
    No transaction, no row lock, no read view; all else stays.

    Costs nothing where the server has said that no transaction is open, and nothing was
    sent that could have changed what the next transaction will be.
    """

    is_lazy = True

    def is_possible(self, conn: Connection) -> bool:
        return True

    def is_needed(self, conn: Connection) -> bool:
        conn.restore(shared=False)
        return conn.spoken and (not conn.plain or conn.may_hold_transaction)

    def __call__(self, conn: Connection) -> None:
        conn.rollback()


class Session:
    """
    A session as new: what was set by the server's defaults, by ``connect`` and by
    ``configure``, and nothing else.

    One round trip; or one for each command, if sending all at once failed at first.
    A server that does not know COM_RESET_CONNECTION gets a ROLLBACK from then on, and
    what ``connect`` had set.

    :param configure: called after each reset, because that wipes what it had set.
    """

    is_lazy = False

    def __init__(self, configure: Callable[[Any], object] | None = None) -> None:
        self._configure = configure
        self._is_known = True
        #: None: not yet tried.
        self._pipelines: bool | None = None

    def is_possible(self, conn: Connection) -> bool:
        # No reset gives a role back, or leaves a database for none.
        return not conn.took_role and not (conn.chose_database and not conn.db)

    def is_needed(self, conn: Connection) -> bool:
        conn.restore(shared=False)
        return conn.spoken

    def __call__(self, conn: Connection) -> None:
        conn.restore(shared=True)
        # Can the borrower have left the database? Our own commands do not count.
        strayed = not conn.plain
        if self._is_known:
            self._reset(conn, [_RESET, *_session(conn, strayed)])
        if not self._is_known:
            self._run(conn, [_ROLLBACK, *_session(conn, strayed)])
        _initialise(conn)
        if self._configure is not None:
            self._configure(conn)
        if conn.init_command is not None or self._configure is not None:
            conn.end_transaction()

    def _reset(self, conn: Connection, commands: list[tuple[int, bytes]]) -> None:
        if self._pipelines is False:
            answers = self._one_by_one(conn, commands)
        else:
            answers = self._at_once(conn, commands)
        if _is_unknown(answers[0]):
            self._is_known = False
        else:
            _raise_first(answers)

    def _at_once(
        self, conn: Connection, commands: list[tuple[int, bytes]]
    ) -> list[Exception | None]:
        try:
            answers = conn.pipeline(commands)
        except (Exception, gevent.Timeout):
            # A proxy may not like several commands at once: this connection is lost,
            # and unless it was done before, the next one is not tried that way.
            if self._pipelines is None:
                self._pipelines = False
            raise
        self._pipelines = True
        return answers

    def _one_by_one(
        self, conn: Connection, commands: list[tuple[int, bytes]]
    ) -> list[Exception | None]:
        answers: list[Exception | None] = []
        for command in commands:
            answers += conn.pipeline([command])
            if answers[-1] is not None:
                break
        return answers

    def _run(self, conn: Connection, commands: list[tuple[int, bytes]]) -> None:
        _raise_first(self._one_by_one(conn, commands))


_RESET = (COM_RESET_CONNECTION, b"")
_ROLLBACK = (COMMAND.COM_QUERY, b"ROLLBACK")


def _session(conn: Connection, strayed: bool) -> list[tuple[int, bytes]]:
    """
    The commands that set what ``connect`` had set.
    """
    names = f"SET NAMES {conn.charset}"
    if conn.collation:
        names += f" COLLATE {conn.collation}"
    settings = [names]
    if conn.autocommit_mode is not None:
        settings.append(f"autocommit={int(conn.autocommit_mode)}")
    if conn.sql_mode is not None:
        settings.append(f"sql_mode={conn.escape(conn.sql_mode)}")
    commands = [(COMMAND.COM_QUERY, _encoded(conn, ", ".join(settings)))]
    if strayed and conn.db:
        # Only now does the server know the charset of the name.
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
    """
    The clean-up that *mode* stands for.

    :param mode: ``"session"``, ``"rollback"``, None, or a callable with one argument.
    :raises ValueError: none of these.
    """
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
