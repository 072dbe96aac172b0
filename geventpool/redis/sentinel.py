"""Pools for the masters and replicas that Sentinel names.

Knows redis-py's Sentinel classes and corrects two of their habits; see the classes.
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
    """A connection to whichever server Sentinel names when it connects.

    redis-py's own leaves the socket open when a read is interrupted, by a kill or a
    ``gevent.Timeout``: the reply is then read by the next borrower. This one closes
    it, as all other connections of redis-py do.

    And when a master says that it has become a replica, the pool's idle connections
    to it are closed at once, and not one by one as somebody fails with them.
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

    Takes the options of :class:`ConnectionPool`, except that nothing is retried
    unless *retry* is given: who retries here for long, waits for a server that may
    have been replaced.

    :param str service_name: what the masters are called.
    :param Sentinel sentinel_manager: whom to ask for their addresses.
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
        """The name of the service, and which of its servers."""
        return self.service_name, "master" if self.is_master else "replica"

    def _title(self) -> str:
        service, role = self.address()
        return f"redis {role} of {service}"

    def reset(self) -> None:
        ConnectionPool.reset(self)
        self.proxy.reset()

    def owns_connection(self, connection: Any) -> Any:
        """Is *connection* to the present master, or, for replicas, any of ours?"""
        # A connection behind a cache keeps a copy of its first port.
        kind: Any = RedisPyPool
        return kind.owns_connection(self, behind_cache(connection))

    def demoted(self, error: Exception) -> Exception:
        """An error reply on a shared connection, as a client is to see it.

        A master that has become a replica is left: redis-py asks for the new one when
        it connects again.
        """
        if not self.is_master or not isinstance(error, ReadOnlyError):
            return error
        self.disconnect(inuse_connections=False)
        said = ConnectionError("The previous master is now a slave")
        said.__cause__ = error
        return said

    def __repr__(self) -> str:
        role = "master" if self.is_master else "slave"
        kind = type(self)
        return (
            f"<{kind.__module__}.{kind.__name__}(service={self.service_name}({role}))>"
        )
