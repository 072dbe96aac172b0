"""The attributes of redis-py's pools, computed from the core pool.

Other code reads them. Only the limit can be changed.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from redis.connection import ConnectionPool as RedisPyPool

from geventpool.listeners import PoolStats
from geventpool.pool import Pool
from geventpool.redis.threaded import ThreadedPool

__all__ = ["CompatAttributes"]

#: Arguments whose values are never shown.
_SECRETS = frozenset({"password", "username", "ssl_password", "credential_provider"})
#: Internal arguments that are not shown.
_UNTOLD = frozenset({"himport_registry"})


class CompatAttributes(RedisPyPool):
    """Attributes for monitoring code, and for redis-py's clusters and maintenance.

    Each value is a copy of the present state of the core pool.
    """

    #: the :class:`geventpool.Pool` that manages the connections
    core: Pool[Any]
    #: the pool that lends in place of *core* in a process that gevent has not patched
    _thread_pool: ThreadedPool | None = None

    @property
    def _available_connections(self) -> list[Any]:  # type: ignore[override]
        idle = self.core.idle_connections()
        return (
            idle
            if self._thread_pool is None
            else [*idle, *self._thread_pool._available_connections]
        )

    @property
    def _in_use_connections(self) -> set[Any]:  # type: ignore[override]
        lent = set(self.core.lent_connections())
        return (
            lent
            if self._thread_pool is None
            else lent.union(self._thread_pool._in_use_connections)
        )

    @property
    def _created_connections(self) -> int:  # type: ignore[override]
        return self.stats().size

    def stats(self) -> PoolStats:
        """Return the state of the pool at this moment, as a constant object."""
        return self.core.stats()

    @property
    def max_connections(self) -> int:
        """The limit of connections. It can be changed at any time."""
        return self.core.max_connections if "core" in self.__dict__ else self._limit

    @max_connections.setter
    def max_connections(self, number: int) -> None:
        if "core" in self.__dict__:
            self._check_places(number)
            self.core.resize(number)
        else:
            self._limit = number

    def _check_places(self, number: int) -> None:
        """Refuse a limit that is too low for the options of the pool."""

    @property
    def pid(self) -> int:  # type: ignore[override]
        """The present process id. The core pool detects a fork itself."""
        return os.getpid()

    def _checkpid(self) -> None:
        pass

    @property
    def _lock(self) -> Any:
        # A lock that is held during a fork would stay locked in the child.
        if self._lock_pid != os.getpid():
            self._lock = threading.RLock()
        return self._present_lock

    @_lock.setter
    def _lock(self, lock: Any) -> None:
        self._lock_pid = os.getpid()
        self._present_lock = lock

    def __bool__(self) -> bool:
        # For a false pool redis.Redis() would make another one.
        return True

    def __repr__(self) -> str:
        kind, connection = type(self), self.connection_class
        arguments = ",".join(
            f"{name}={'<REDACTED>' if name in _SECRETS else value}"
            for name, value in self.connection_kwargs.items()
            if name not in _UNTOLD
        )
        return (
            f"<{kind.__module__}.{kind.__name__}"
            f"(<{connection.__module__}.{connection.__name__}({arguments})>)>"
        )
