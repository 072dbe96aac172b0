"""Client-side caching, made safe for greenlets that share a pool.

Knows how redis-py's cache goes through the connections, and mends two things that
threads seldom meet and greenlets at every turn:

* Before it answers from the cache, a command looks whether the connection that read
  the value has been told of a change since. It does so also while that connection is
  lent to somebody else, and then may read the reply that the other is waiting for.
* Of two who read a value that is not yet cached, the second sends nothing, for a reply
  is under way; but then waits for it on its own connection, where none will come.
"""

from __future__ import annotations

import functools
from typing import Any

from gevent import getcurrent
from redis.cache import CacheEntryStatus, CacheKey

from geventpool.redis.internals import CacheProxyConnection, behind_cache

__all__ = ["CachedConnection", "Readers", "guarded"]

#: Asked by another connection than its own.
BY_OTHERS = None


class Readers:
    """Who may read from the connections of one pool: of one in use, its user."""

    def __init__(self) -> None:
        self._users: dict[int, object] = {}

    def lend(self, conn: Any, user: object) -> None:
        """*user*, and nobody else, reads from *conn*; None: its holder."""
        self._users[id(behind_cache(conn))] = user

    def give_back(self, conn: Any) -> None:
        """Nobody in particular reads from *conn*."""
        self._users.pop(id(behind_cache(conn)), None)

    def may_read(self, conn: Any) -> bool:
        """May this greenlet read from *conn* what was pushed?"""
        current = getcurrent()
        return self._users.get(id(conn), current) is current

    def is_read(self, conn: Any) -> bool:
        """Will what is pushed to *conn* be read before anybody trusts the cache?

        The borrower of *conn* reads it only while it waits for a reply.
        """
        return bool(self.may_read(conn) or conn.reading)


class CachedConnection(CacheProxyConnection):  # type: ignore[misc]
    """A connection behind a cache, which sends what it will wait for."""

    _current_command_cache_key: Any

    # Subscriptions ask for these.

    @property
    def health_check_interval(self) -> float:
        """Seconds between two checks, of the connection behind the cache."""
        return float(self._conn.health_check_interval)

    @property
    def next_health_check(self) -> float:
        """When the connection behind the cache is to be checked."""
        return float(self._conn.next_health_check)

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        self._distrust(args, kwargs.get("keys"))
        before = self._conn.sent
        super().send_command(*args, **kwargs)
        key = self._current_command_cache_key
        if key is None or self._conn.sent != before:
            return
        # Nothing was sent: the reply is in the cache, or on its way to another.
        entry = self._cache.get(key)
        if entry is None or entry.status is CacheEntryStatus.IN_PROGRESS:
            self._current_command_cache_key = None
            self._conn.send_command(*args, **kwargs)

    def _distrust(self, args: Any, keys: Any) -> None:
        """Forget a value whose connection may have been told of a change unread."""
        if keys is None:
            return
        key = CacheKey(command=args[0], redis_keys=tuple(keys), redis_args=args)
        entry = self._cache.get(key)
        if (
            entry is not None
            and entry.status is CacheEntryStatus.VALID
            and not self._conn.readers.is_read(entry.connection_ref)
        ):
            self._cache.delete_by_cache_keys([key])


@functools.cache
def guarded(kind: Any) -> Any:
    """The class *kind*, whose connections can tell what was sent and who may read."""

    class Guarded(kind):  # type: ignore[misc]
        sent = 0
        #: how many wait for a reply
        reading = 0
        readers: Readers

        def send_command(self, *args: Any, **kwargs: Any) -> None:
            self.sent += 1
            super().send_command(*args, **kwargs)

        def read_response(self, *args: Any, **kwargs: Any) -> Any:
            self.reading += 1
            try:
                return super().read_response(*args, **kwargs)
            finally:
                self.reading -= 1

        def can_read(self, timeout: float | None = BY_OTHERS) -> bool:
            # The cache in front of a connection always says how long to wait, but
            # asks the one that read the value without a word.
            if timeout is not BY_OTHERS:
                return bool(super().can_read(timeout))
            return self.readers.may_read(self) and bool(super().can_read(0))

    Guarded.__name__, Guarded.__qualname__ = kind.__name__, kind.__qualname__
    Guarded.__module__ = kind.__module__
    return Guarded
