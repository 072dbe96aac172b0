"""Django's Redis cache with one pool for each process.

::

    CACHES = {
        "default": {
            "BACKEND": "geventpool.django.cache.RedisCache",
            "LOCATION": "redis://127.0.0.1:6379/1",
            "OPTIONS": {"max_connections": 20},
        }
    }

Django makes a cache object for each greenlet, and its Redis cache makes a pool for each
of these objects. So ``max_connections`` would limit each greenlet, but not the process.

Needs Django and redis-py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from django.conf import settings
from django.core.cache.backends import redis as upstream
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from geventpool.process_pools import ProcessPools
from geventpool.redis import ConnectionPool

__all__ = ["RedisCache"]

#: Of this process.
_pools = ProcessPools[Any]()


class RedisCache(upstream.RedisCache):  # type: ignore[misc]
    """Django's cache backend for Redis, whose greenlets share one pool.

    There is one pool in a process for each server in ``LOCATION`` and each set of
    options. Caches with the same server and options share it. ``OPTIONS`` takes what
    Django's own backend takes (``db``, ``serializer``, ``parser_class``...), and all
    options of :class:`geventpool.redis.ConnectionPool`. ``pool_class`` may name another
    class of pools, which are shared in the same way.

    In a process that gevent has not patched it works as Django's own backend does, on
    redis-py's ``BlockingConnectionPool``.

    :raises ImproperlyConfigured: at the first use: an option is unknown or invalid.
    """

    def __init__(self, server: str | Sequence[str], params: Mapping[str, Any]) -> None:
        options = dict(params.get("OPTIONS") or {})
        pool_class = options.get("pool_class") or ConnectionPool
        options["pool_class"] = _SharedPools(pool_class, server)
        super().__init__(server, {**params, "OPTIONS": options})

    @property
    def pools(self) -> list[Any]:
        """The pools, one for each server, in the order of ``LOCATION``.

        The first is for writing. May switch at the first use, if there is the option
        ``initial_connections``.
        """
        client = self._cache
        return [
            client._pool_class.from_url(url, **client._pool_options)
            for url in client._servers
        ]


class _SharedPools:
    """What Django takes for the class of its pools.

    :param pool_class: the class, or its dotted path.
    :param location: what the settings have as ``LOCATION``, for error messages.
    """

    def __init__(self, pool_class: Any, location: object) -> None:
        self._class = pool_class
        self._location = location

    def from_url(self, url: str, **options: Any) -> Any:
        """Return the pool of this process for a URL and options.

        :raises ImproperlyConfigured: an option is unknown or invalid.
        """
        if isinstance(self._class, str):
            self._class = import_string(self._class)
        make = partial(self._class.from_url, url, **options)
        try:
            return _pools.get((self._class, url, options), make)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"{self._where()}: {error}") from error

    def _where(self) -> str:
        """Return the place of the cache in the settings."""
        names = [
            f"CACHES[{alias!r}]"
            for alias, each in settings.CACHES.items()
            if each.get("LOCATION", "") == self._location
        ]
        return " or ".join(names) or "a cache"
