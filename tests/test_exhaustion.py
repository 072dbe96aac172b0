"""Errors which say that no more connections can be opened for now."""

from __future__ import annotations

import errno
from itertools import islice
from typing import Any

import pymysql
import pytest

from geventpool import Connector, DBAPIConnector, ErrorAction, FactoryConnector
from geventpool.extension import MYSQL_FULL, chain, lacks_descriptor
from geventpool.mysql.errors import action_after
from geventpool.redis import ConnectionPool
from geventpool.sqlalchemy.full_servers import is_refusal

EMFILE = OSError(errno.EMFILE, "no descriptor in this process")
ENFILE = OSError(errno.ENFILE, "no descriptor in the system")
REFUSED = OSError(errno.ECONNREFUSED, "refused")


def caused(error: Exception, cause: BaseException) -> Exception:
    """*error*, raised ``from`` *cause*."""
    error.__cause__ = cause
    return error


def during(error: Exception, other: BaseException) -> Exception:
    """*error*, raised while *other* was handled."""
    error.__context__ = other
    return error


def of_pymysql(origin: object, number: int = 2003) -> Exception:
    """What PyMySQL makes of an error of the socket."""
    error = pymysql.err.OperationalError(number, "Can't connect")
    error.original_exception = origin  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (EMFILE, True),
        (ENFILE, True),
        (REFUSED, False),
        (ValueError(errno.EMFILE), False),
        (caused(RuntimeError("no connection"), ENFILE), True),
        (caused(RuntimeError("no connection"), REFUSED), False),
        (of_pymysql(EMFILE), True),
        (of_pymysql(REFUSED), False),
        (of_pymysql(None), False),
        (of_pymysql("nothing"), False),
    ],
)
def test_the_lack_of_descriptors_is_known_by_number(
    error: Exception, expected: bool
) -> None:
    """Of the error or of what it was raised from, in this process or the system."""
    assert lacks_descriptor(error) is expected


def test_what_a_program_handles_meanwhile_is_no_lack_of_descriptors() -> None:
    """Its statement failed for another reason, and its connection can be kept."""
    duplicate = pymysql.err.IntegrityError(1062, "Duplicate entry")
    assert not lacks_descriptor(during(duplicate, EMFILE))
    assert action_after(duplicate) is ErrorAction.KEEP


CONNECTORS = [
    FactoryConnector(object),
    DBAPIConnector(pymysql.connect),
    ConnectionPool().core.connector,
]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
@pytest.mark.parametrize("connector", CONNECTORS, ids=lambda each: type(each).__name__)
def test_every_connector_waits_for_a_descriptor(
    connector: Connector[Any], number: int
) -> None:
    """A pool without descriptors is as a pool whose server is full."""
    origin = OSError(number, "no descriptor")
    error = of_pymysql(origin) if isinstance(connector, DBAPIConnector) else origin
    assert connector.classify(error) is ErrorAction.BACK_OFF


@pytest.mark.parametrize("code", [1040, 1203, 1226])
def test_the_codes_of_a_full_mysql_are_known_to_all(code: int) -> None:
    """An engine may run without PyMySQL, and has them from the same place."""
    error = pymysql.err.OperationalError(code, "full")
    assert code in MYSQL_FULL
    assert action_after(error) is ErrorAction.BACK_OFF
    assert is_refusal(error, "mysql") and is_refusal(error, "mariadb")


def test_a_chain_ends_though_it_is_a_circle() -> None:
    """``raise error from error`` makes one; the event loop must not hang in it."""
    error = RuntimeError()
    assert list(islice(chain(caused(error, error)), 3)) == [error]
    assert list(chain(None)) == []


def test_a_chain_has_what_was_handled_meanwhile() -> None:
    """An error that names its cause, and one that does not."""
    lost = during(RuntimeError("lost"), EMFILE)
    error = caused(during(ValueError(), KeyError()), lost)
    assert list(chain(error)) == [error, lost, EMFILE]
