"""What the pool does about an error of the server."""

from __future__ import annotations

import errno

import pytest
from pymysql import err

from geventpool.mysql.errors import Reaction, is_disconnect, reaction
from geventpool.mysql.statements import PLAIN, chooses_database, takes_role

READ_ONLY = "The MariaDB server is running with the --read-only option so it cannot..."
FILES = "The MariaDB server is running with the --secure-file-priv option so it cannot"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (err.OperationalError(2013, "Lost connection"), Reaction.DISCARD),
        (err.OperationalError(2006, "Gone away"), Reaction.DISCARD),
        (err.OperationalError(2014, "Out of sync"), Reaction.DISCARD),
        (err.OperationalError(1927, "Connection was killed"), Reaction.DISCARD),
        (err.OperationalError(4031, "Disconnected by the server"), Reaction.DISCARD),
        (err.InterfaceError(0, ""), Reaction.DISCARD),
        (err.InternalError("Packet sequence number wrong"), Reaction.DISCARD),
        (err.OperationalError(1290, READ_ONLY), Reaction.DRAIN),
        (err.OperationalError(1836, "Running in read-only mode"), Reaction.DRAIN),
        (err.InternalError(1792, "Read only transaction"), Reaction.DISCARD),
        (err.OperationalError(1290, FILES), Reaction.KEEP),
        (err.OperationalError(1040, "Too many connections"), Reaction.BACK_OFF),
        (err.OperationalError(1203, "max_user_connections"), Reaction.BACK_OFF),
        (err.OperationalError(1226, "exceeded"), Reaction.BACK_OFF),
        (err.OperationalError(1045, "Access denied"), Reaction.FAIL),
        (err.OperationalError(1044, "Access denied"), Reaction.FAIL),
        (err.OperationalError(1049, "Unknown database"), Reaction.FAIL),
        (err.OperationalError(1213, "Deadlock"), Reaction.KEEP),
        (err.OperationalError(1205, "Lock wait timeout"), Reaction.KEEP),
        (err.IntegrityError(1062, "Duplicate entry"), Reaction.KEEP),
        (err.InternalError(1205, "a number is a number"), Reaction.KEEP),
        (err.Error("Already closed"), Reaction.KEEP),
        (err.ProgrammingError(), Reaction.KEEP),
        (ValueError(2013), Reaction.KEEP),
    ],
)
def test_the_code_decides(error, expected):
    """Discard, drain, back off, fail or keep: by the number of the error."""
    assert reaction(error) is expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.EMFILE, Reaction.BACK_OFF), (errno.ECONNREFUSED, Reaction.KEEP)],
)
def test_without_descriptors_we_are_the_ones_that_are_full(number, expected):
    """A connect that failed for want of a descriptor is tried again later."""
    error = err.OperationalError(2003, "Can't connect")
    error.original_exception = OSError(number, "")
    assert reaction(error) is expected


@pytest.mark.parametrize("text", ["SELECT 1", "insert into t", b"Update t", b"BEGIN"])
def test_plain_statements_are_known_by_how_they_begin(text):
    """Text and bytes, in any case."""
    assert text[:6].upper() in PLAIN


@pytest.mark.parametrize("text", ["SET @x=1", "CALL p()", " SELECT", "/* */ SELECT"])
def test_what_is_not_known_is_not_plain(text):
    """In doubt a statement may have changed the session."""
    assert text[:6].upper() not in PLAIN


def test_roles_and_databases_are_looked_for():
    """SET ROLE and USE are found, in text and bytes, however they are written."""
    assert takes_role("set  Role admin") and takes_role(b"BEGIN; SET ROLE x")
    assert not takes_role("SELECT role FROM t")
    assert chooses_database("use shop") and not chooses_database(b"SET @used=1")


@pytest.mark.parametrize(
    "error, expected",
    [
        (err.OperationalError(2013, "Lost connection"), True),
        (err.OperationalError(2006, "gone away"), True),
        (err.OperationalError(1053, "Server shutdown in progress"), True),
        (err.OperationalError(4031, "disconnected for inactivity"), True),
        (ConnectionResetError(104, "reset"), True),
        (TimeoutError("late"), True),
        (err.OperationalError(1927, "Connection was killed"), False),
        (err.OperationalError(2014, "Command Out of Sync"), False),
        (err.InterfaceError(0, ""), False),
        (err.InternalError("Packet sequence number wrong"), False),
        (err.IntegrityError(1062, "Duplicate entry"), False),
        (ValueError(2013), False),
        (OSError(), False),
    ],
)
def test_a_loss_is_told_from_what_concerns_one_connection(error, expected):
    """Only a loss is a reason to doubt the idle connections."""
    assert is_disconnect(error) is expected
