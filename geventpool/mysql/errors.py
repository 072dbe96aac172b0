"""Decides by an error what happens to its connection and to the others.

One table holds all decisions. It depends on error codes alone, not on pools and
connections.
"""

from __future__ import annotations

import enum
import errno
import re

from pymysql import err
from pymysql.constants import CR

__all__ = [
    "ConnectionInUseError",
    "NoServerError",
    "Reaction",
    "is_disconnect",
    "is_unreachable",
    "reaction",
]


class ConnectionInUseError(err.ProgrammingError):
    """Another greenlet uses the connection, or its loan has ended.

    Nothing was sent, and the other user of the connection is not disturbed.
    """


class NoServerError(err.OperationalError):
    """No host has the wanted role. The message lists the error of each host."""


class Reaction(enum.Enum):
    """What a pool does after an error."""

    #: The statement failed; the connection can be used.
    KEEP = "keep"
    #: This connection is lost or out of step: close it.
    DISCARD = "discard"
    #: The server is not (any more) the one to use: renew every connection.
    DRAIN = "drain"
    #: The server is full: wait before the next attempt to connect.
    BACK_OFF = "back off"
    #: Waiting does not help: raise the error in all waiters at once.
    FAIL = "fail"


#: Error codes of MySQL and MariaDB. The client raises 2000 to 2999 itself.
REACTIONS = {
    # the connection is lost
    0: Reaction.DISCARD,  # PyMySQL's InterfaceError(0, ""): closed on our side
    1053: Reaction.DISCARD,  # server shutdown in progress
    1152: Reaction.DISCARD,  # aborted connection
    1158: Reaction.DISCARD,  # network read error
    1159: Reaction.DISCARD,  # network read timeout
    1160: Reaction.DISCARD,  # network write error
    1161: Reaction.DISCARD,  # network write timeout
    1927: Reaction.DISCARD,  # connection was killed (MariaDB)
    2006: Reaction.DISCARD,  # server has gone away
    2013: Reaction.DISCARD,  # lost connection during query
    2045: Reaction.DISCARD,  # shared memory / named pipe gone
    2055: Reaction.DISCARD,  # lost connection, extended
    4031: Reaction.DISCARD,  # disconnected for inactivity (MySQL 8.0.24+)
    # The session is read-only. After a fail-over it stays so. If only the borrower's
    # transaction is read-only, closing costs one connection.
    1792: Reaction.DISCARD,
    # out of step
    2014: Reaction.DISCARD,
    # not, or no longer, the primary; the text of 1290 is decisive
    1290: Reaction.DRAIN,
    1836: Reaction.DRAIN,  # running in read-only mode
    3032: Reaction.DRAIN,  # server is in offline mode
    # the server is full
    1040: Reaction.BACK_OFF,  # too many connections
    1203: Reaction.BACK_OFF,  # user has more than max_user_connections
    1226: Reaction.BACK_OFF,  # user has exceeded a resource limit
    # the login is refused
    1044: Reaction.FAIL,  # access denied to the database
    1045: Reaction.FAIL,  # access denied
    1049: Reaction.FAIL,  # unknown database
    1862: Reaction.FAIL,  # password expired
}

#: The errors after which the idle connections may be lost as well.
_LOSSES = frozenset({1053, 1152, 1158, 1159, 1160, 1161, 2006, 2013, 2055, 4031})

#: The text of error 1290 names an option. Only --read-only and --super-read-only mean a
#: replica; --secure-file-priv and --skip-grant-tables do not.
_READ_ONLY = re.compile(r"read[-_]only", re.IGNORECASE)

#: This process or machine has no descriptor left. This counts as full.
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)


def reaction(error: BaseException) -> Reaction:
    """Decide what to do after *error*. Never switches.

    :param error: any exception. Only PyMySQL's errors concern the connection.
    :return: a :class:`Reaction`; ``KEEP`` for errors that are not in the table.
    """
    if not isinstance(error, err.MySQLError):
        return Reaction.KEEP
    origin = getattr(error, "original_exception", None)
    if isinstance(origin, OSError) and origin.errno in _NO_DESCRIPTOR:
        return Reaction.BACK_OFF
    code = error.args[0] if error.args else None
    if isinstance(error, err.InternalError) and isinstance(code, str):
        return Reaction.DISCARD  # "Packet sequence number wrong"
    known = REACTIONS.get(code, Reaction.KEEP) if code is not None else Reaction.KEEP
    if code == 1290 and not _READ_ONLY.search(str(error)):
        return Reaction.KEEP
    return known


#: By socket, by network.
_UNREACHABLE = ((CR.CR_CONNECTION_ERROR,), (CR.CR_CONN_HOST_ERROR,))


def is_unreachable(error: BaseException) -> bool:
    """Whether *error* means that no connection could be made.

    :param error: any exception.
    """
    return isinstance(error, err.MySQLError) and error.args[:1] in _UNREACHABLE


def is_disconnect(error: BaseException) -> bool:
    """Whether *error* means that the network path to the server was lost.

    :param error: any exception. Errors that this side has caused do not count, such as
        those of a connection that is out of step or was closed here.
    """
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    code = error.args[0] if error.args else None
    return reaction(error) is Reaction.DISCARD and code in _LOSSES
