"""What an error of the server says about its connection, and about all the others.

One table, so that the decision can be read, and argued with, in one place. Knows the
codes; knows nothing of pools and connections.
"""

from __future__ import annotations

import enum
import errno
import re

from pymysql import err

__all__ = [
    "ConnectionInUseError",
    "NoServerError",
    "Reaction",
    "is_disconnect",
    "reaction",
]


class ConnectionInUseError(err.ProgrammingError):
    """The connection is another greenlet's, or back in its pool; nothing was sent.

    Whoever is using it is not disturbed.
    """


class NoServerError(err.OperationalError):
    """None of the hosts is what the pool looks for; says what each of them answered."""


class Reaction(enum.Enum):
    """What a pool does about an error."""

    #: The statement failed, the connection is sound.
    KEEP = "keep"
    #: This connection is gone or out of step.
    DISCARD = "discard"
    #: The server is not, or no longer, the one to talk to: renew every connection.
    DRAIN = "drain"
    #: The server is full: wait, and use what there is meanwhile.
    BACK_OFF = "back off"
    #: No waiting helps: tell whoever waits at once.
    FAIL = "fail"


#: Codes are MySQL's and MariaDB's; those of 2000 and above come from the client.
REACTIONS = {
    # connection gone
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
    # the session is read-only: perhaps since a fail-over, and then for good; or the
    # borrower's own transaction is, and then it costs one connection
    1792: Reaction.DISCARD,
    # out of step
    2014: Reaction.DISCARD,
    # not, or no longer, the primary; 1290 is told apart by its text
    1290: Reaction.DRAIN,
    1836: Reaction.DRAIN,  # running in read-only mode
    3032: Reaction.DRAIN,  # server is in offline mode
    # full
    1040: Reaction.BACK_OFF,  # too many connections
    1203: Reaction.BACK_OFF,  # user has more than max_user_connections
    1226: Reaction.BACK_OFF,  # user has exceeded a resource limit
    # cannot get in at all
    1044: Reaction.FAIL,  # access denied to the database
    1045: Reaction.FAIL,  # access denied
    1049: Reaction.FAIL,  # unknown database
    1862: Reaction.FAIL,  # password expired
}

#: Of these, such as may have hit the idle connections as well.
_LOSSES = frozenset({1053, 1152, 1158, 1159, 1160, 1161, 2006, 2013, 2055, 4031})

#: 1290 names the option in the way: --read-only and --super-read-only mean a replica,
#: --secure-file-priv or --skip-grant-tables mean nothing of the kind.
_READ_ONLY = re.compile(r"read[-_]only", re.IGNORECASE)

#: This process, or this machine, has no descriptor left: full, on our side.
_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)


def reaction(error: BaseException) -> Reaction:
    """What to do about *error*, whoever raised it.

    :param error: anything; only PyMySQL's errors say something about the connection.
    :return: a :class:`Reaction`; ``KEEP`` for what the table does not know.
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


def is_disconnect(error: BaseException) -> bool:
    """Whether *error* says that the way to the server was lost.

    :param error: anything. An error of our own making is no sign of it: a connection
        that is out of step, or that was closed on this side.
    """
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    code = error.args[0] if error.args else None
    return reaction(error) is Reaction.DISCARD and code in _LOSSES
