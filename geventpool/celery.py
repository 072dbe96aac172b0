"""Celery's Redis broker and result backend, on pools that all greenlets share.

::

    import geventpool.celery
    from celery import Celery

    geventpool.celery.install(max_connections=20)
    app = Celery("tasks", broker="redis://...", backend="redis://...")

Celery makes a result backend for each greenlet, and kombu makes two pools for each
channel. With :func:`install` there is one pool in a process for the broker and one for
the results.

Needs Celery 5.7 or later and redis-py.
"""

from __future__ import annotations

from typing import Any

import celery
from celery.app.backends import BACKEND_ALIASES
from celery.backends import redis as backends
from kombu.transport import TRANSPORT_ALIASES, get_transport_cls
from kombu.transport import redis as transports

from geventpool.policies import check_int
from geventpool.process_pools import ProcessPools
from geventpool.redis import ConnectionPool
from geventpool.redis.options import RedisOptions

__all__ = ["Channel", "RedisBackend", "Transport", "install"]

#: The schemes of URLs for one Redis server.
SCHEMES = ("redis", "rediss")

#: Of this process.
_pools = ProcessPools[ConnectionPool]()

#: The options of all pools, as given to :func:`install`.
_options: dict[str, Any] = {}


def install(**options: Any) -> None:
    """Let Celery use pools of this package for ``redis://`` and ``rediss://`` URLs.

    Call it before the first connection to a broker, best before the application is
    made. It is for all applications of the process. A second call replaces the options
    for pools that are made later.

    :param options: those of :class:`geventpool.redis.ConnectionPool` that are not
        redis-py's: ``max_connections``, ``timeout``, ``max_idle``... They take
        precedence over Celery's settings. The default of ``max_connections`` is the
        broker's transport option of that name (10), or Celery's setting
        ``redis_max_connections`` (100). It must be at least 2, because one connection
        is for the subscription to results.
    :raises TypeError: an option is unknown or of the wrong type.
    :raises ValueError: an option is out of its range.
    :raises RuntimeError: kombu has already loaded its own transport for Redis; or
        Celery is too old.
    """
    _check_version(celery.VERSION)
    RedisOptions.of("geventpool.celery.install()", options)
    if "max_connections" in options:
        # One connection is for the subscription to results.
        check_int("max_connections", options["max_connections"], 2)
    for scheme in SCHEMES:
        _replace_transport(scheme)
        BACKEND_ALIASES[scheme] = f"{__name__}:RedisBackend"
    _options.clear()
    _options.update(options)


def _check_version(version: tuple[Any, ...]) -> None:
    # The result backends of earlier versions have no lock. Greenlets that share one
    # would mix their subscriptions.
    if version[:2] < (5, 7):
        found = ".".join(map(str, version[:3]))
        raise RuntimeError(
            f"geventpool.celery.install() needs Celery 5.7 or later, not {found}"
        )


def _replace_transport(scheme: str) -> None:
    before = TRANSPORT_ALIASES[scheme]
    TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
    if get_transport_cls(scheme) is not Transport:
        TRANSPORT_ALIASES[scheme] = before
        raise RuntimeError(
            "geventpool.celery.install() must be called before the first connection to "
            f"a broker: kombu has already loaded its own transport for {scheme}://"
        )


def _pool(parameters: dict[str, Any], credentials: Any, **own: Any) -> ConnectionPool:
    """Return the pool of this process for the parameters of a connection.

    :param credentials: what the settings say of a credential provider. kombu and Celery
        make a new provider for each use, so the parameters alone would never be equal.
    :param own: options that neither the settings nor :func:`install` may change.
    """
    arguments = {**parameters, **_options, **own}
    key = dict(arguments)
    if "credential_provider" in key:
        key["credential_provider"] = credentials or type(key["credential_provider"])
    return _pools.get(key, lambda: ConnectionPool(**arguments))


class Channel(transports.Channel):  # type: ignore[misc]
    """kombu's channel, which sends its commands on connections of the shared pool.

    The connections on which it waits for messages stay kombu's own: there are two for
    each consumer, and the channel keeps them as long as it lives.
    """

    keyprefix_fanout: str

    def _get_pool(self, asynchronous: bool = False) -> Any:
        if asynchronous:
            return super()._get_pool(asynchronous=True)
        parameters = self._connparams()
        self.keyprefix_fanout = self.keyprefix_fanout.format(db=parameters["db"])
        # kombu handles lost connections itself. It must see each error for that.
        return _pool(parameters, self.connection.client.credential_provider, retry=None)

    def _disconnect_pools(self) -> None:
        # Other channels use the pool.
        self._pool = None
        super()._disconnect_pools()


class Transport(transports.Transport):  # type: ignore[misc]
    """kombu's transport for Redis, whose channels share a pool."""

    Channel = Channel


class RedisBackend(backends.RedisBackend):  # type: ignore[misc]
    """Celery's result backend for Redis, on the shared pool.

    All greenlets of an application share it, as with the setting
    ``result_backend_thread_safe``: each backend keeps a connection for its subscription
    to results, and the pool would be empty after so many greenlets.
    """

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self.thread_safe = True

    def _get_pool(self, **parameters: Any) -> ConnectionPool:
        # The greenlet that renews the subscription may end before the subscription.
        credentials = self.app.conf.get("redis_backend_credential_provider")
        return _pool(parameters, credentials, retry=None, reclaim=False)
