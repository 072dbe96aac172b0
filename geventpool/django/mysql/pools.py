"""The pools of this process: one for each database of the settings.

It finds and makes pools by settings. It does not depend on how Django uses connections.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from geventpool.django.mysql.options import Settings, check_age, pool_options
from geventpool.django.mysql.session import Opening, session_reset
from geventpool.errors import ConnectionNotFoundError
from geventpool.mysql import Connection, ConnectionPool
from geventpool.policies import check_optional_callable
from geventpool.process_pools import ProcessPools

__all__ = ["DjangoPool", "Pools", "pools"]

#: Seconds that closing a pool waits for the loans to end.
PATIENCE = 5.0


class DjangoPool(ConnectionPool):
    """A pool whose connections are set up for Django.

    :param connect: arguments of ``pymysql.connect``.
    :param options: the options of the pool.
    :param statement: SQL that sets up a session; None: not needed.
    :raises TypeError: an argument is unknown or of the wrong type.
    :raises ValueError: an argument is out of its range, or contradicts another.
    """

    def __init__(
        self, connect: dict[str, Any], options: dict[str, Any], statement: str | None
    ) -> None:
        configure = options.pop("configure", None)
        check_optional_callable("configure", configure)
        opening = Opening(statement, configure)
        reset = options.pop("reset", "needed")
        if reset in ("needed", "session"):
            always = reset == "session"
            if connect.get("init_command"):
                # That of the project comes first, and ours after it.
                reset = session_reset(None, opening, always)
            else:
                reset = session_reset(statement, configure, always)
        super().__init__(**connect, **options, reset=reset, configure=opening)
        #: what the server says of itself, asked once
        self.server_data: dict[str, Any] | None = None
        self._handle = _LoanHandle(weakref.ref(self))

    def lend(self) -> Connection:
        """Lend a connection, to be given back by :meth:`take_back`. May switch.

        Its ``close`` closes it, as Django expects: no other borrower gets a connection
        that a :class:`~geventpool.django.mysql.base.DatabaseWrapper` still refers to.

        :raises PoolError: no connection became available.
        """
        conn = self.acquire()
        conn.lender = self._handle
        return conn

    def take_back(self, conn: Connection, usable: bool) -> None:
        """End a loan, from any greenlet. Never switches.

        :param usable: False: close the connection.
        """
        try:
            if usable:
                self.release(conn, anyone=True)
            else:
                self.drop(conn, anyone=True)
        except ConnectionNotFoundError:
            # The loan has ended already: with its holder, with the pool, or by a fork.
            pass


class _LoanHandle:
    """The lender that a connection's ``close`` gives the connection back to."""

    def __init__(self, pool: Callable[[], DjangoPool | None]) -> None:
        self._pool = pool

    def release(self, conn: Connection) -> None:
        pool = self._pool()
        if pool is not None:
            pool.take_back(conn, usable=False)


class Pools:
    """The pools by the settings of databases. Each is made at first use."""

    def __init__(self) -> None:
        self._pools = ProcessPools[DjangoPool]()

    def find(self, alias: str, settings: Settings) -> DjangoPool | None:
        """Return the pool for database *alias*; None: not yet made. Never switches.

        :param settings: compared by value, because tests change the names of databases.
        """
        return self._pools.find(_key(alias, settings))

    def make(
        self,
        alias: str,
        settings: Settings,
        connect: dict[str, Any],
        statement: str | None,
    ) -> DjangoPool:
        """Return the pool for database *alias*; make it if necessary. May switch.

        :param connect: arguments of ``pymysql.connect``.
        :param statement: SQL that sets up a session; None: not needed.
        :raises ImproperlyConfigured: the settings are invalid.
        """
        check_age(alias, settings)
        options = pool_options(alias, settings)
        connect = {**connect, "autocommit": settings["AUTOCOMMIT"]}
        make = partial(DjangoPool, connect, options, statement)
        try:
            return self._pools.get(_key(alias, settings), make)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(
                f"DATABASES[{alias!r}]['OPTIONS']: {error}"
            ) from error

    def close(self, alias: str, settings: Settings) -> None:
        """Close the pool for database *alias*, if there is one. May switch.

        The next call of :meth:`make` makes a new one.
        """
        pool = self.find(alias, settings)
        if pool is not None:
            self._pools.discard(pool)
            pool.close(timeout=PATIENCE)


def _key(alias: str, settings: Settings) -> object:
    options = settings["OPTIONS"]
    given = options["pool"]
    # Copies, because a later change of the settings must not change the key.
    return (
        alias,
        settings["NAME"],
        settings["USER"],
        settings["PASSWORD"],
        settings["HOST"],
        settings["PORT"],
        {**options, "pool": dict(given) if isinstance(given, dict) else given},
    )


#: Of this process.
pools = Pools()
