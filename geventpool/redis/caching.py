"""Client-side caching, made safe for greenlets that share a pool.

redis-py's cache has two faults that are rare with threads and frequent with greenlets:

* Before a command answers from the cache, it checks whether the connection that read
  the value has received an invalidation. It does so even while that connection is on
  loan to another greenlet, and may then read that greenlet's reply.
* If two greenlets read a value that is not yet cached, the second sends nothing because
  a reply is awaited. But it waits for the reply on its own connection, where none
  arrives.
"""

from __future__ import annotations

import functools
from typing import Any

from gevent import getcurrent
from redis.cache import CacheEntryStatus, CacheKey
from redis.exceptions import ConnectionError

from geventpool.redis.internals import (
    CacheProxyConnection,
    behind_cache,
    is_connected,
)

__all__ = ["CachedConnection", "NoCacheError", "Readers", "guarded"]

#: The timeout of ``can_read`` when redis-py calls it for another connection's command.
BY_OTHERS = None


class Readers:
    """The greenlets that may read from the connections of one pool.

    Only its borrower may read from a connection that is on loan.
    """

    def __init__(self) -> None:
        self._users: dict[int, object] = {}

    def lend(self, conn: Any, user: object) -> None:
        """Let only *user* read from *conn*; None: no greenlet but its holder."""
        self._users[id(behind_cache(conn))] = user

    def give_back(self, conn: Any) -> None:
        """Let any greenlet read from *conn*."""
        self._users.pop(id(behind_cache(conn)), None)

    def may_read(self, conn: Any) -> bool:
        """Whether this greenlet may read pushes from *conn*."""
        current = getcurrent()
        return self._users.get(id(conn), current) is current

    def is_read(self, conn: Any) -> bool:
        """Whether pushes to *conn* are read before the cache is used.

        The borrower of *conn* reads them only while it waits for a reply.
        """
        return bool(self.may_read(conn) or conn.reading)


class NoCacheError(ConnectionError):
    """The server can be reached, but does not support client-side caching."""


class CachedConnection(CacheProxyConnection):  # type: ignore[misc]
    """A connection with a cache, which sends each command whose reply it waits for."""

    _current_command_cache_key: Any

    def connect(self) -> None:
        """Connect. May switch.

        :raises NoCacheError: the server is too old for the cache.
        :raises ConnectionError: it cannot be reached.
        """
        try:
            super().connect()
        except ConnectionError as error:
            if not is_connected(self._conn):
                raise
            raise NoCacheError(*error.args) from None

    # Subscriptions read these.

    @property
    def health_check_interval(self) -> float:
        """Seconds between two checks, of the connection behind the cache."""
        return float(self._conn.health_check_interval)

    @property
    def next_health_check(self) -> float:
        """The time of the next check of the connection behind the cache."""
        return float(self._conn.next_health_check)

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        self._distrust(args, kwargs.get("keys"))
        before = self._conn.sent
        super().send_command(*args, **kwargs)
        key = self._current_command_cache_key
        if key is None or self._conn.sent != before:
            return
        # Nothing was sent: the reply is in the cache, or another greenlet awaits it.
        entry = self._cache.get(key)
        if entry is None or entry.status is CacheEntryStatus.IN_PROGRESS:
            self._current_command_cache_key = None
            self._conn.send_command(*args, **kwargs)

    def _distrust(self, args: Any, keys: Any) -> None:
        """Remove a value whose connection may have an unread invalidation."""
        if keys is None:
            return
        key = _key(command=args[0], redis_keys=tuple(keys), redis_args=args)
        entry = self._cache.get(key)
        if (
            entry is not None
            and entry.status is CacheEntryStatus.VALID
            and not self._conn.readers.is_read(entry.connection_ref)
        ):
            self._cache.delete_by_cache_keys([key])


def _key(**parts: Any) -> CacheKey:
    """Return the key of a command in the cache, with the parts that redis-py knows."""
    # Those of redis-py 6.4 have no arguments.
    known = CacheKey.__dataclass_fields__
    return CacheKey(**{name: parts[name] for name in parts if name in known})


@functools.cache
def guarded(kind: Any) -> Any:
    """Return a class derived from *kind* that counts commands and restricts reading."""

    class Guarded(kind):  # type: ignore[misc]
        sent = 0
        #: the number of greenlets that wait for a reply
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
            # For its own connection the cache passes a timeout. For the connection that
            # read the value it passes none.
            if timeout is not BY_OTHERS:
                return bool(super().can_read(timeout))
            return self.readers.may_read(self) and bool(super().can_read(0))

    Guarded.__name__, Guarded.__qualname__ = kind.__name__, kind.__qualname__
    Guarded.__module__ = kind.__module__
    return Guarded
