"""What the pool does about an error of the server."""

from __future__ import annotations

import errno

import pytest
from pymysql import err

from geventpool import ErrorAction
from geventpool.mysql.errors import action_after, is_login_refused
from geventpool.mysql.statements import PLAIN, effects_of

READ_ONLY = "The MariaDB server is running with the --read-only option so it cannot..."
FILES = "The MariaDB server is running with the --secure-file-priv option so it cannot"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (err.OperationalError(2013, "Lost connection"), ErrorAction.DISCONNECT),
        (err.OperationalError(2006, "Gone away"), ErrorAction.DISCONNECT),
        (err.OperationalError(2014, "Out of sync"), ErrorAction.DISCARD),
        (err.OperationalError(1927, "Connection was killed"), ErrorAction.DISCARD),
        (
            err.OperationalError(4031, "Disconnected by the server"),
            ErrorAction.DISCONNECT,
        ),
        (err.InterfaceError(0, ""), ErrorAction.DISCARD),
        (err.InternalError("Packet sequence number wrong"), ErrorAction.DISCARD),
        (err.OperationalError(1290, READ_ONLY), ErrorAction.DRAIN),
        (err.OperationalError(1836, "Running in read-only mode"), ErrorAction.DRAIN),
        (err.InternalError(1792, "Read only transaction"), ErrorAction.DISCARD),
        (err.OperationalError(1290, FILES), ErrorAction.KEEP),
        (err.OperationalError(1040, "Too many connections"), ErrorAction.BACK_OFF),
        (err.OperationalError(1203, "max_user_connections"), ErrorAction.BACK_OFF),
        (err.OperationalError(1226, "exceeded"), ErrorAction.BACK_OFF),
        (err.OperationalError(1045, "Access denied"), ErrorAction.KEEP),
        (err.OperationalError(1044, "Access denied"), ErrorAction.KEEP),
        (err.OperationalError(1049, "Unknown database"), ErrorAction.KEEP),
        (err.OperationalError(1213, "Deadlock"), ErrorAction.KEEP),
        (err.OperationalError(1205, "Lock wait timeout"), ErrorAction.KEEP),
        (err.IntegrityError(1062, "Duplicate entry"), ErrorAction.KEEP),
        (err.InternalError(1205, "a number is a number"), ErrorAction.KEEP),
        (err.Error("Already closed"), ErrorAction.KEEP),
        (err.ProgrammingError(), ErrorAction.KEEP),
        (ValueError(2013), ErrorAction.KEEP),
    ],
)
def test_the_code_decides(error, expected):
    """Discard, drain, back off or keep: by the number of the error."""
    assert action_after(error) is expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EMFILE, ErrorAction.BACK_OFF),
        (errno.ECONNREFUSED, ErrorAction.DISCONNECT),
    ],
)
def test_without_descriptors_we_are_the_ones_that_are_full(number, expected):
    """A connect that failed for want of a descriptor is tried again later."""
    error = err.OperationalError(2003, "Can't connect")
    error.original_exception = OSError(number, "")  # type: ignore[attr-defined]
    assert action_after(error) is expected


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
    assert effects_of("set  Role admin").takes_role
    assert effects_of(b"BEGIN; SET ROLE x").takes_role
    assert not effects_of("SELECT role FROM t").takes_role
    assert effects_of("use shop").chooses_database
    assert not effects_of(b"SET @used=1").chooses_database


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
    action = action_after(error)
    assert (action is ErrorAction.DISCONNECT) is expected


def test_a_refused_login_is_no_reason_to_close_a_session():
    """USE of an unknown database fails alone; at connecting no other server helps."""
    errors = [err.OperationalError(code, "") for code in (1044, 1045, 1049, 1862)]
    assert all(is_login_refused(error) for error in errors)
    assert {action_after(error) for error in errors} == {ErrorAction.KEEP}
    assert not is_login_refused(err.OperationalError(1040, "Too many connections"))
    assert not is_login_refused(err.OperationalError())
