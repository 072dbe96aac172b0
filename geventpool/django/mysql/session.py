"""The set-up of a connection for Django, and its repetition after each reset.

Django sets the isolation level of each connection that it opens. Here it is set once
for each new connection, and again in the round trip of each reset of its session.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pymysql.constants import COMMAND
from pymysql.cursors import Cursor

from geventpool.mysql import Connection
from geventpool.mysql.reset import Session

__all__ = ["Opening", "session_reset"]


class Opening:
    """Sets up a new connection before its first loan.

    :param statement: SQL; None: not needed.
    :param configure: the project's own callable for this; None: not needed.
    """

    def __init__(
        self, statement: str | None, configure: Callable[[Any], object] | None
    ) -> None:
        self._statement = statement
        self._configure = configure

    def __call__(self, conn: Connection) -> None:
        """Set up *conn*. May switch.

        :raises Exception: the statement or *configure* failed.
        """
        if self._statement is not None:
            with conn.cursor(Cursor) as cursor:
                cursor.execute(self._statement)
        if self._configure is not None:
            self._configure(conn)


def session_reset(
    statement: str | None, configure: Callable[[Any], object] | None, always: bool
) -> Session:
    """Return a reset of the session that runs *statement* in the same round trip.

    :param statement: SQL; None: not needed.
    :param configure: called after the reset; None: not needed.
    :param always: reset also after a loan that is known to have left nothing.
    """
    commands = [] if statement is None else [(COMMAND.COM_QUERY, statement.encode())]
    return Session(configure, lambda conn: commands, always)
