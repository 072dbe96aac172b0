"""The pool's attributes as redis-py, and code written against it, reads them.

Knows names, and presents the core pool under them; changes nothing but the limit.
"""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from typing import Any

from redis.connection import ConnectionPool as RedisPyPool

from geventpool.listeners import PoolStats
from geventpool.pool import Pool
from geventpool.redis.threaded import ThreadedPool

__all__ = ["CompatAttributes"]

#: Never shown.
_SECRETS = frozenset({"password", "username", "ssl_password", "credential_provider"})
#: Plumbing that says nothing to a reader.
_UNTOLD = frozenset({"himport_registry"})


class CompatAttributes(RedisPyPool):
    """What monitoring code reads, and redis-py's own for clusters and maintenance.

    Everything is read from the core pool at that moment, and copied.
    """

    #: the :class:`geventpool.Pool` that does the pooling
    core: Pool[Any]
    #: what lends in place of *core* while gevent has not patched the process
    _stock: ThreadedPool | None = None

    @property
    def _available_connections(self) -> list[Any]:  # type: ignore[override]
        idle = self.core.idle_connections()
        return (
            idle
            if self._stock is None
            else [*idle, *self._stock._available_connections]
        )

    @property
    def _in_use_connections(self) -> set[Any]:  # type: ignore[override]
        lent = set(self.core.lent_connections())
        return (
            lent if self._stock is None else lent.union(self._stock._in_use_connections)
        )

    @property
    def _created_connections(self) -> int:  # type: ignore[override]
        return self.stats().size

    def stats(self) -> PoolStats:
        """How the pool stands at this moment; does not change any more."""
        stats = self.core.stats()
        if self._stock is None:
            return stats
        idle, lent = (
            len(self._stock._available_connections),
            len(self._stock._in_use_connections),
        )
        return replace(
            stats,
            size=stats.size + idle + lent,
            idle=stats.idle + idle,
            in_use=stats.in_use + lent,
        )

    @property
    def max_connections(self) -> int:
        """How many connections there may be; may be changed at any time."""
        return self.core.max_connections if "core" in self.__dict__ else self._limit

    @max_connections.setter
    def max_connections(self, number: int) -> None:
        if "core" in self.__dict__:
            self._check_places(number)
            self.core.resize(number)
        else:
            self._limit = number

    def _check_places(self, number: int) -> None:
        """Refuse a number of connections that does not suffice."""

    @property
    def pid(self) -> int:  # type: ignore[override]
        """The process this is: the core pool notices a fork itself."""
        return os.getpid()

    def _checkpid(self) -> None:
        pass

    @property
    def _lock(self) -> Any:
        # Held by somebody at the moment of a fork, it would stay locked in the child.
        if self._lock_pid != os.getpid():
            self._lock = threading.RLock()
        return self._present_lock

    @_lock.setter
    def _lock(self, lock: Any) -> None:
        self._lock_pid = os.getpid()
        self._present_lock = lock

    def __bool__(self) -> bool:
        # redis.Redis() would make itself another pool.
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
