"""Decides by an error what happens to its connection and to the others.

One table holds all decisions. It depends on error codes alone, not on pools and
connections.
"""

from __future__ import annotations

import re
from typing import Any

from pymysql import err
from pymysql.constants import CR

from geventpool.connector import ErrorAction
from geventpool.extension import MYSQL_FULL, lacks_descriptor

__all__ = [
    "ACTIONS",
    "ConnectionInUseError",
    "NoServerError",
    "action_after",
    "is_login_refused",
]


class ConnectionInUseError(err.ProgrammingError):
    """Another greenlet uses the connection, or its loan has ended.

    Nothing was sent, and the other user of the connection is not disturbed.
    """


class NoServerError(err.OperationalError):
    """No host has the wanted role. The message lists the error of each host."""


#: Error codes of MySQL and MariaDB. The client raises 2000 to 2999 itself.
ACTIONS = {
    # the connection, or the way to the server, is lost
    1053: ErrorAction.DISCONNECT,  # server shutdown in progress
    1152: ErrorAction.DISCONNECT,  # aborted connection
    1158: ErrorAction.DISCONNECT,  # network read error
    1159: ErrorAction.DISCONNECT,  # network read timeout
    1160: ErrorAction.DISCONNECT,  # network write error
    1161: ErrorAction.DISCONNECT,  # network write timeout
    CR.CR_CONNECTION_ERROR: ErrorAction.DISCONNECT,  # no connection by Unix socket
    CR.CR_CONN_HOST_ERROR: ErrorAction.DISCONNECT,  # no connection by TCP
    2006: ErrorAction.DISCONNECT,  # server has gone away
    2013: ErrorAction.DISCONNECT,  # lost connection during query
    2055: ErrorAction.DISCONNECT,  # lost connection, extended
    4031: ErrorAction.DISCONNECT,  # disconnected for inactivity (MySQL 8.0.24+)
    # this connection alone is lost
    0: ErrorAction.DISCARD,  # PyMySQL's InterfaceError(0, ""): closed on our side
    1927: ErrorAction.DISCARD,  # connection was killed (MariaDB)
    2045: ErrorAction.DISCARD,  # shared memory / named pipe gone
    # The session is read-only. After a fail-over it stays so. If only the borrower's
    # transaction is read-only, closing costs one connection.
    1792: ErrorAction.DISCARD,
    # out of step
    2014: ErrorAction.DISCARD,
    # not, or no longer, the primary; the text of 1290 is decisive
    1290: ErrorAction.DRAIN,
    1836: ErrorAction.DRAIN,  # running in read-only mode
    3032: ErrorAction.DRAIN,  # server is in offline mode
    # the server is full
    **dict.fromkeys(MYSQL_FULL, ErrorAction.BACK_OFF),
}

#: The server refuses the login; another attempt, or another server, does not help.
_LOGIN_REFUSED = frozenset(
    {
        1044,  # access denied to the database
        1045,  # access denied
        1049,  # unknown database
        1862,  # password expired
    }
)

#: The text of error 1290 names an option. Only --read-only and --super-read-only mean a
#: replica; --secure-file-priv and --skip-grant-tables do not.
_READ_ONLY = re.compile(r"read[-_]only", re.IGNORECASE)


def action_after(error: BaseException) -> ErrorAction:
    """Decide what to do after *error*. Never switches.

    :param error: any exception. Errors that are neither PyMySQL's nor of a socket do
        not concern the connection.
    :return: ``KEEP`` for errors that are not in the table.
    """
    if isinstance(error, (ConnectionError, TimeoutError)):
        return ErrorAction.DISCONNECT
    if not isinstance(error, err.MySQLError):
        return ErrorAction.KEEP
    if lacks_descriptor(error):
        return ErrorAction.BACK_OFF
    code = _code(error)
    if isinstance(error, err.InternalError) and isinstance(code, str):
        return ErrorAction.DISCARD  # "Packet sequence number wrong"
    if code == 1290 and not _READ_ONLY.search(str(error)):
        return ErrorAction.KEEP
    return ACTIONS.get(code, ErrorAction.KEEP)


def is_login_refused(error: err.MySQLError) -> bool:
    """Whether the server was reached and refuses the login. Never switches."""
    return _code(error) in _LOGIN_REFUSED


def _code(error: err.MySQLError) -> Any:
    return error.args[0] if error.args else None
