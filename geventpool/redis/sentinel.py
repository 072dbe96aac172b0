"""Pools for masters and replicas that are found by Sentinel.

They correct two faults of redis-py's classes; see the docstrings of the classes.
"""

from __future__ import annotations

from typing import Any

from redis.exceptions import ConnectionError, ReadOnlyError
from redis.retry import Retry
from redis.sentinel import Sentinel
from redis.sentinel import SentinelConnectionPool as RedisPyPool
from redis.sentinel import SentinelManagedConnection as RedisPyConnection
from redis.sentinel import SentinelManagedSSLConnection as RedisPySSLConnection

from geventpool.redis.internals import SentinelProxy, behind_cache
from geventpool.redis.pool import ConnectionPool

__all__ = [
    "SentinelConnectionPool",
    "SentinelManagedConnection",
    "SentinelManagedSSLConnection",
]


class SentinelManagedConnection(RedisPyConnection):
    """A connection to the server that Sentinel names when it connects.

    redis-py's class leaves the socket open when a kill or a ``gevent.Timeout``
    interrupts a read, so that the next borrower reads the reply. This class closes it,
    as all other connections of redis-py do.

    When a master reports that it has become a replica, all idle connections of the pool
    are closed at once. redis-py closes each after a command on it has failed.
    """

    def read_response(
        self,
        disable_decoding: bool = False,
        *args: Any,
        disconnect_on_error: bool | None = True,
        **kwargs: Any,
    ) -> Any:
        try:
            return super().read_response(
                disable_decoding,
                *args,
                disconnect_on_error=disconnect_on_error,
                **kwargs,
            )
        except ConnectionError as error:
            if isinstance(error.__context__, ReadOnlyError):
                self._leave_master()
            raise

    def _leave_master(self) -> None:
        pool = self.connection_pool.connection_pool_ref()
        if pool is not None:
            pool.disconnect(inuse_connections=False)


class SentinelManagedSSLConnection(SentinelManagedConnection, RedisPySSLConnection):
    """The same over TLS."""


class SentinelConnectionPool(ConnectionPool, RedisPyPool):
    """A pool for ``Sentinel.master_for`` and ``slave_for``.

    ::

        sentinel = Sentinel([("10.0.0.1", 26379)])
        master = sentinel.master_for(
            "mymaster", connection_pool_class=SentinelConnectionPool, timeout=5
        )

    It takes the options of :class:`ConnectionPool`, but does not retry unless *retry*
    is given: a long series of retries would wait for a server that may have been
    replaced.

    :param str service_name: the name of the service.
    :param Sentinel sentinel_manager: returns the addresses of its servers.
    :param bool is_master: False: connect to replicas, in turn.
    :param bool check_connection: send a PING after connecting.
    :param bool ssl: connect over TLS.
    """

    def __init__(
        self,
        service_name: str,
        sentinel_manager: Sentinel,
        *,
        connection_class: type[Any] | None = None,
        ssl: bool = False,
        is_master: bool = True,
        check_connection: bool = False,
        **kwargs: Any,
    ) -> None:
        if connection_class is None:
            connection_class = (
                SentinelManagedSSLConnection if ssl else SentinelManagedConnection
            )
        self.service_name = service_name
        self.sentinel_manager = sentinel_manager
        self.is_master = is_master
        self.check_connection = check_connection
        self.proxy: Any = SentinelProxy(
            connection_pool=self,
            is_master=is_master,
            check_connection=check_connection,
            service_name=service_name,
            sentinel_manager=sentinel_manager,
        )
        kwargs["connection_pool"] = self.proxy
        ConnectionPool.__init__(self, connection_class, **kwargs)

    def _retry_by_default(self) -> Retry | None:
        return None

    def address(self) -> tuple[str, Any]:
        """Return the name of the service, and the role of the server."""
        return self.service_name, "master" if self.is_master else "replica"

    def _title(self) -> str:
        service, role = self.address()
        return f"redis {role} of {service}"

    def reset(self) -> None:
        ConnectionPool.reset(self)
        self.proxy.reset()

    def owns_connection(self, connection: Any) -> Any:
        """Whether *connection* is to the present master. True for replicas."""
        # A connection with a cache keeps a copy of its first port.
        kind: Any = RedisPyPool
        return kind.owns_connection(self, behind_cache(connection))

    def demoted(self, error: Exception) -> Exception:
        """Return the client's error for an error reply on a shared connection.

        If the master has become a replica, the idle connections are closed. redis-py
        asks Sentinel for the new master when it connects again.
        """
        if not self.is_master or not isinstance(error, ReadOnlyError):
            return error
        self.disconnect(inuse_connections=False)
        translated = ConnectionError("The previous master is now a slave")
        translated.__cause__ = error
        return translated

    def __repr__(self) -> str:
        role = "master" if self.is_master else "slave"
        kind = type(self)
        return (
            f"<{kind.__module__}.{kind.__name__}(service={self.service_name}({role}))>"
        )
