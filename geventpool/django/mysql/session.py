"""
How a connection is set up for Django, and put back into that state between two users.

Django sets the isolation level of each connection it opens. Here that is done once for
each connection, and again in the same round trip as the reset of its session.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pymysql.constants import COMMAND
from pymysql.cursors import Cursor

from geventpool.mysql import Connection
from geventpool.mysql.protocol import AUTOCOMMIT, IN_TRANS
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
    A session as new, and *statement* after it, all in one round trip; none, if nothing
    has spoken but what was vouched for, and no transaction is open.

    :param statement: SQL; None: there is nothing to say.
    :param configure: called after that.
    """

    def __init__(
        self, statement: str | None, configure: Callable[[Any], object] | None
    ) -> None:
        super().__init__(configure)
        self._more = (
            [] if statement is None else [(COMMAND.COM_QUERY, statement.encode())]
        )

    def is_needed(self, conn: Connection) -> bool:
        # In a transaction a SELECT leaves its locks and its view of the data.
        status = conn.server_status & (IN_TRANS | AUTOCOMMIT)
        return super().is_needed(conn) or status != AUTOCOMMIT

    def _reset(self, conn: Connection, commands: list[tuple[int, bytes]]) -> None:
        super()._reset(conn, [*commands, *self._more])

    def _run(self, conn: Connection, commands: list[tuple[int, bytes]]) -> None:
        super()._run(conn, [*commands, *self._more])
