"""
How a connection is set up for Django, and put back into that state between two users.

Django sets the isolation level of each connection it opens. Here that is done once for
each connection, and again in the same round trip as the reset of its session.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pymysql.constants import COMMAND
from pymysql.cursors import Cursor

from geventpool.mysql import Connection
from geventpool.mysql.reset import Session

__all__ = ["Opening", "SessionReset"]


class Opening:
    """
    What is done to a new connection before it is lent for the first time.

    :param statement: SQL; None: there is nothing to say.
    :param configure: what the project has for this itself.
    """

    def __init__(
        self, statement: str | None, configure: Callable[[Any], object] | None
    ) -> None:
        self._statement = statement
        self._configure = configure

    def __call__(self, conn: Connection) -> None:
        """
        Set up *conn*. **May switch.**

        :raises Exception: it could not be.
        """
        if self._statement is not None:
            with conn.cursor(Cursor) as cursor:
                cursor.execute(self._statement)
        if self._configure is not None:
            self._configure(conn)


class SessionReset(Session):
    """
    A session as new, and *statement* after it, all in one round trip.

    :param configure: called after that.
    """

    def __init__(
        self, statement: str, configure: Callable[[Any], object] | None
    ) -> None:
        super().__init__(configure)
        self._more = [(COMMAND.COM_QUERY, statement.encode())]

    def _reset(self, conn: Connection, commands: Sequence[tuple[int, bytes]]) -> None:
        super()._reset(conn, [*commands, *self._more])

    def _run(self, conn: Connection, commands: Sequence[tuple[int, bytes]]) -> None:
        super()._run(conn, [*commands, *self._more])
