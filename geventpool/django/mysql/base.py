"""Django's database backend with connections from a pool.

It decides when a connection is borrowed, when it is given back, and what a wrapper may
keep. All else is Django's own code.
"""

from __future__ import annotations

import copy
import os
import time
import weakref
from typing import Any

import pymysql
from django.conf import settings as project
from django.db import OperationalError, connections
from django.db.backends.base.base import NO_DB_ALIAS
from django.utils.functional import cached_property
from gevent import getcurrent

from geventpool.django.mysql import upstream
from geventpool.django.mysql.creation import DatabaseCreation
from geventpool.django.mysql.options import unpatched, wants_pool
from geventpool.django.mysql.pools import DjangoPool, pools
from geventpool.errors import PoolError
from geventpool.patching import pools_here

__all__ = ["DatabaseWrapper"]


_Upstream: Any = upstream.base.DatabaseWrapper


class DatabaseWrapper(_Upstream):  # type: ignore[misc]
    """Django's connection wrapper, which borrows a connection of the pool.

    Connecting borrows, and closing gives back. Django closes at the end of each
    request. Without ``OPTIONS["pool"]``, and in a program that is not monkey-patched,
    such as ``manage.py migrate``, it connects and closes as Django's own does.
    """

    Database = pymysql
    creation_class = DatabaseCreation

    connection: Any
    health_check_done: bool

    #: The pool that has lent the present connection; None: no pool.
    _lent_by: DjangoPool | None = None
    #: Whether the pool has set up the session as the settings require.
    _is_set_up = False
    #: Whether the present connection may be lent again.
    _usable = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._home = weakref.ref(getcurrent())

    @property
    def pool(self) -> DjangoPool | None:
        """The pool, shared by all greenlets; None: the settings want no pool.

        May switch.

        :raises ImproperlyConfigured: the settings are invalid.
        """
        if self.alias == NO_DB_ALIAS:
            return None
        settings = self.settings_dict
        if not wants_pool(settings):
            return None
        return pools.find(self.alias, settings) or self._make_pool()

    def _make_pool(self) -> DjangoPool | None:
        if not pools_here(
            "geventpool.django.mysql",
            unpatched(self.alias, self.settings_dict),
            "Django's own backend, with a connection for each thread",
        ):
            return None
        connect = self.get_connection_params()
        level = self.isolation_level
        statement = None
        if level:
            statement = f"SET SESSION TRANSACTION ISOLATION LEVEL {level.upper()}"
        return pools.make(self.alias, self.settings_dict, connect, statement)

    def close_pool(self) -> None:
        """Close the pool. The next greenlet that connects makes another. May switch.

        Waiters get an error. Loans may end normally for a few seconds.
        """
        if wants_pool(self.settings_dict):
            pools.close(self.alias, self.settings_dict)

    def copy(self, alias: str | None = None) -> DatabaseWrapper:
        """Make another wrapper for the same database and the same pool."""
        options = {**self.settings_dict["OPTIONS"]}
        given = options.pop("pool", None)
        settings = copy.deepcopy({**self.settings_dict, "OPTIONS": options})
        # Listeners and callables must be the same objects, not copies.
        settings["OPTIONS"]["pool"] = dict(given) if isinstance(given, dict) else given
        return type(self)(settings, self.alias if alias is None else alias)

    # Connecting and closing

    def get_connection_params(self) -> dict[str, Any]:
        """Return the arguments of ``pymysql.connect``."""
        params: dict[str, Any] = super().get_connection_params()
        params.pop("pool", None)
        return params

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Borrow a connection of the pool, or open one. May switch."""
        pool = self.pool
        if pool is None:
            return super().get_new_connection(conn_params)
        try:
            conn = pool.lend()
        except PoolError as error:
            raise OperationalError(str(error)) from error
        home = self._home()
        if home is not getcurrent() and home is not None and not home.dead:
            # Opened for a wrapper of another greenlet: the loan ends with that
            # greenlet.
            pool.transfer(conn, home)
        self._lent_by = pool
        self._is_set_up = self._usable = True
        return conn

    def init_connection_state(self) -> None:
        """Set up the session, unless the pool has already done so. May switch."""
        is_set_up, self._is_set_up = self._is_set_up, False
        if not is_set_up:
            super().init_connection_state()
            return
        super(_Upstream, self).init_connection_state()
        if self.features.is_sql_auto_is_null_enabled:
            with self.cursor() as cursor:
                cursor.execute("SET SQL_AUTO_IS_NULL = 0")

    def _close(self) -> None:
        pool, self._lent_by = self._lent_by, None
        if pool is None:
            super()._close()
            return
        # From now on another wrapper may have it. Within atomic, Django goes on using
        # the attribute, so it gets a closed connection.
        conn, self.connection = self.connection, None
        pool.take_back(conn, self._usable)
        if self.in_atomic_block:
            self.connection = pymysql.connect(defer_connect=True, ssl_disabled=True)

    def __del__(self) -> None:
        """Free the place of a connection that was never given back."""
        pool = self._lent_by
        if pool is not None and self.connection is not None:
            pool.take_back(self.connection, usable=False)

    # Checks of the connection

    def is_usable(self) -> bool:
        """Whether the server answers. May switch."""
        if self.connection is None:
            return False
        try:
            # Never reconnect: that would lose the session and the open transaction.
            self.connection.ping(reconnect=False)
        except pymysql.Error:
            return False
        return True

    def close_if_health_check_failed(self) -> None:
        """Close a connection that does not answer, once in a request. May switch."""
        if (
            self.connection is not None
            and self.health_check_enabled
            and not self.health_check_done
        ):
            if not self.is_usable():
                self._usable = False
                self.close()
            self.health_check_done = True

    def close_if_unusable_or_obsolete(self) -> None:
        """Give the connection back, as Django does between requests. May switch."""
        if (
            self._lent_by is not None
            and self.connection is not None
            and self.close_at is not None
            and time.monotonic() >= self.close_at
        ):
            # After an error, the pool tests whether the connection works.
            self.close()
        else:
            super().close_if_unusable_or_obsolete()

    @cached_property  # type: ignore[untyped-decorator]
    def mysql_server_data(self) -> dict[str, Any]:
        """The properties of the server; read once for each pool."""
        pool = self.pool
        if pool is None:
            data: dict[str, Any] = super().mysql_server_data
            return data
        if pool.server_data is None:
            pool.server_data = super().mysql_server_data
        return dict(pool.server_data)


def _after_fork() -> None:  # pragma: no cover (in the child, where nobody counts)
    if not project.configured:
        return
    for each in connections.all(initialized_only=True):
        if isinstance(each, DatabaseWrapper) and each._lent_by is not None:
            # Its connection belongs to the parent process.
            each.close()


os.register_at_fork(after_in_child=_after_fork)
