"""Connections of any DB-API 2.0 driver whose sockets cooperate with gevent."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import ModuleType
from typing import Any

from geventpool._core.exhaustion import lacks_descriptor
from geventpool.connector import ErrorAction
from geventpool.factory import FactoryConnector

__all__ = ["DBAPIConnector", "driver_of", "tells_full"]

#: What a driver's module has by PEP 249.
_REQUIRED = ("apilevel", "threadsafety", "paramstyle", "Error", "OperationalError")
#: Of libpq: no transaction; a command is under way; the connection is unusable.
_PQ_IDLE, _PQ_ACTIVE, _PQ_UNKNOWN = 0, 1, 4
#: Classes of SQLSTATE which say that the connection or its server is gone.
_LOST = ("08", "57P01", "57P02", "57P03", "57P05")
#: SQLSTATE and texts which say that the server takes no more connections, or that no
#: descriptor was left: libpq has no other way to say so.
_FULL = ("53300", "08004")
_FULL_TEXTS = (
    "too many clients",
    "too many connections",
    "remaining connection slots",
    "no more connections allowed",
    "max_user_connections",
    "max_connections_per_hour",
    "too many open files",
)


class DBAPIConnector(FactoryConnector):
    """A connector for the connections of a DB-API 2.0 driver (:pep:`249`).

    A loan that leaves a transaction open has it rolled back before the next borrower.
    An error of a statement keeps the connection. An error of the connection closes it.

    ::

        pool = Pool(DBAPIConnector(psycopg.connect, dict(conninfo="...")))

    ``Pool(psycopg.connect, dict(...))`` does the same, because the function belongs to
    the module of a driver. What else a loan can leave at the server, such as settings,
    temporary tables and advisory locks, is left to the next borrower: override
    :meth:`reset` to remove it.

    :param connect: called as ``connect(**options)`` for each connection.
    :param options: as for :class:`~geventpool.FactoryConnector`.
    :param driver: the module that has the driver's error classes. None: the module that
        *connect* comes from.
    :param ping: the statement that asks the server for a sign of life.
    :raises TypeError: as :class:`~geventpool.FactoryConnector`; or *ping* is no string.
    :raises ValueError: *driver* is no module of a DB-API driver, or is None and cannot
        be found.
    """

    def __init__(
        self,
        connect: Callable[..., Any],
        options: Mapping[str, Any] | None = None,
        driver: ModuleType | None = None,
        ping: str = "SELECT 1",
    ) -> None:
        super().__init__(connect, options)
        if not isinstance(ping, str):
            raise TypeError(f"ping must be a statement, not {ping!r}")
        if driver is None:
            driver = driver_of(connect)
            if driver is None:
                raise ValueError(
                    f"driver must be given, because {connect!r} does not belong to the "
                    "module of a DB-API driver"
                )
        elif not _is_driver(driver):
            raise ValueError(
                "driver must be the module of a DB-API driver, with "
                f"{', '.join(_REQUIRED)}, not {driver!r}"
            )
        # Its transactions are ended.
        self._has_seen_kind = True
        self._driver = driver
        self._ping = ping

    def terminate(self, conn: Any) -> bool:
        """Close the descriptor without sending anything. Never switches.

        libpq is told as well, which cannot send anything any more, so that it frees its
        memory now and psycopg does not warn of an open connection.
        """
        try:
            is_libpq = _transaction_status(conn) is not None
        except Exception:
            is_libpq = False
        found = super().terminate(conn)
        if is_libpq:
            with suppress(Exception):
                conn.close()
        return found

    def is_usable(self, conn: Any) -> bool:
        """Whether it is open, with nothing to read and no command under way.

        Never switches.
        """
        try:
            if getattr(conn, "closed", False):
                return False
            if _transaction_status(conn) in (_PQ_ACTIVE, _PQ_UNKNOWN):
                return False
        except Exception:
            return False
        return super().is_usable(conn)

    def can_ping(self, conn: Any) -> bool:
        """True. Never switches."""
        return True

    def ping(self, conn: Any) -> None:
        """Run the statement for it, and end its transaction. May switch."""
        cursor = conn.cursor()
        try:
            cursor.execute(self._ping)
            cursor.fetchall()
        finally:
            cursor.close()
        if self.needs_reset(conn):
            conn.rollback()

    def needs_reset(self, conn: Any) -> bool:
        """Whether a transaction may be open. Never switches.

        True if the driver cannot tell; psycopg, psycopg2 and sqlite3 can.
        """
        status = _transaction_status(conn)
        if status is not None:
            return bool(status != _PQ_IDLE)
        flag = getattr(conn, "in_transaction", None)
        return flag if isinstance(flag, bool) else True

    def reset(self, conn: Any) -> None:
        """Roll back what the loan has left open. May switch."""
        conn.rollback()

    def classify(self, error: Exception) -> ErrorAction:
        """Keep the connection after an error of a statement. Never switches."""
        driver = self._driver
        if not isinstance(error, driver.Error):
            return super().classify(error)
        if not isinstance(error, (driver.OperationalError, driver.InterfaceError)):
            return ErrorAction.KEEP
        if tells_full(error):
            return ErrorAction.BACK_OFF
        state = _state_of(error)
        if state is None or str(state).startswith(_LOST):
            return ErrorAction.DISCONNECT
        return ErrorAction.DISCARD


def tells_full(error: BaseException) -> bool:
    """Whether a driver's error says that no more connections are possible now.

    The server takes no more, or no descriptor is left. Never switches.
    """
    if lacks_descriptor(error):
        return True
    text = str(error).lower()
    return _state_of(error) in _FULL or any(each in text for each in _FULL_TEXTS)


def _state_of(error: BaseException) -> Any:
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)


def driver_of(connect: Callable[..., Any]) -> ModuleType | None:
    """Return the module of the DB-API driver that *connect* belongs to. Never switches.

    :return: None: it belongs to none, as a function of the program's own.
    """
    while isinstance(connect, functools.partial):
        connect = connect.func
    name = getattr(connect, "__module__", None)
    while isinstance(name, str) and name:
        # A driver may have its functions from a module in C, as sqlite3 from _sqlite3.
        for each in (name, name.lstrip("_")):
            module = sys.modules.get(each)
            if module is not None and _is_driver(module):
                return module
        name = name.rpartition(".")[0]
    return None


def _is_driver(module: object) -> bool:
    return all(hasattr(module, name) for name in _REQUIRED)


def _transaction_status(conn: Any) -> Any:
    """Return libpq's status of the transaction; None: the driver does not have it."""
    return getattr(getattr(conn, "info", None), "transaction_status", None)
