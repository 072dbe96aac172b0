"""
Stores: the real servers behind the doors, and what they see of our sockets.

A store starts its server and ends it, restarts it in between, says how many sockets
the server itself counts, and makes doors to it.
"""

from __future__ import annotations

import contextlib
from importlib import import_module
from types import TracebackType
from typing import Any

import gevent

from benchmarks.demo.doors import (
    Door,
    MySQLDoor,
    QueuePoolDoor,
    RedisDoor,
    gsocketpool_door,
    our_echo_door,
)

#: Connections each pool may have.
LIMIT = 10


class Store:
    """One server; a context manager that runs it."""

    name: str

    def ours(self) -> Door:
        """A door with our pool."""
        raise NotImplementedError

    def stock(self) -> Door:
        """A door with the pool in use today."""
        raise NotImplementedError

    def count(self) -> int:
        """How many of our sockets the server counts now. **May switch.**"""
        raise NotImplementedError

    def seen(self) -> int | None:
        """
        The count, or None while the server is down. **May switch.**

        A socket whose other end was closed a moment ago is in the server's books until
        it has read the end. So a count above the limit is asked for again, and it is
        one only if it lasts.
        """
        try:
            count = self.count()
            for _ in range(3):
                if count <= LIMIT:
                    break
                gevent.sleep(0.01)
                count = min(count, self.count())
        except Exception:
            self.forget()
            return None
        except BaseException:
            # Killed with the answer under way: the next to ask would get it.
            self.forget()
            raise
        return count

    def forget(self) -> None:
        """Ask over a new connection next time."""

    def stop(self) -> None:
        """End the server; :meth:`start` runs it again. **May switch.**"""
        raise NotImplementedError

    def start(self) -> None:
        """Run the server where it was before. **May switch.**"""
        raise NotImplementedError

    def __enter__(self) -> Store:
        raise NotImplementedError

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        raise NotImplementedError


class _ServerStore(Store):
    """What the stores with a real server share: it is one of ``tests.servers``."""

    kind: str

    def __init__(self) -> None:
        self._server: Any = getattr(import_module("tests.servers"), self.kind)()
        self._admin: Any = None

    def stop(self) -> None:
        """In an orderly way."""
        self._server.stop()

    def start(self) -> None:
        """On the same port."""
        self._server.start()

    @property
    def admin(self) -> Any:
        """The connection that asks; the server's count leaves it out."""
        if self._admin is None:
            self._admin = self._server.admin()
        return self._admin

    def forget(self) -> None:
        """Close the connection that asks; there will be another."""
        admin, self._admin = self._admin, None
        if admin is not None:
            with contextlib.suppress(Exception):
                admin.close()

    def __enter__(self) -> Store:
        self._server.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.forget()
        self._server.__exit__(kind, error, trace)


class RedisStore(_ServerStore):
    """A redis-server."""

    name = "redis"
    kind = "RedisServer"

    def ours(self) -> Door:
        """``geventpool.redis``."""
        pool_class = import_module("geventpool.redis").ConnectionPool
        return RedisDoor("redis, ours", pool_class, LIMIT, **self._address())

    def stock(self) -> Door:
        """redis-py's blocking pool."""
        pool_class = import_module("redis").BlockingConnectionPool
        name = "redis, stock"
        return RedisDoor(name, pool_class, LIMIT, **self._address())

    def _address(self) -> dict[str, Any]:
        return {"host": self._server.host, "port": self._server.port}

    def count(self) -> int:
        """As CLIENT LIST has it, without the one who asks."""
        clients = self.admin.client_list()
        return sum(client["name"] != self._server.admin_name for client in clients)


class MariaDBStore(_ServerStore):
    """A MariaDB."""

    name = "mysql"
    kind = "MariaDBServer"

    def ours(self) -> Door:
        """``geventpool.mysql``."""
        return MySQLDoor("mysql, ours", LIMIT, **self._server.client_options)

    def stock(self) -> Door:
        """SQLAlchemy's pool."""
        return QueuePoolDoor("mysql, stock", LIMIT, **self._server.client_options)

    def count(self) -> int:
        """As the process list has it, without the administrator."""
        with self.admin.cursor() as cursor:
            cursor.execute(
                "SELECT COUNT(*) FROM information_schema.processlist WHERE user "
                "NOT IN ('root', 'system user', 'event_scheduler')"
            )
            return int(cursor.fetchone()[0])


class EchoStore(Store):
    """
    An echo server in this process, where a real one can't be had.

    :param name: of what it stands in for.
    """

    def __init__(self, name: str) -> None:
        self.name = f"{name} (echo)"
        self._server: Any = import_module("tests.peers").Echo()

    def ours(self) -> Door:
        """Our pool with ``TcpConnection``."""
        return our_echo_door(LIMIT, **self._server.options)

    def stock(self) -> Door:
        """gsocketpool."""
        return gsocketpool_door(LIMIT, **self._server.options)

    def count(self) -> int:
        """The sockets it has accepted and not yet seen the end of."""
        return int(self._server.open)

    def stop(self) -> None:
        """Close all sockets and stop listening."""
        self._server.stop()

    def start(self) -> None:
        """On the same port."""
        self._server.__enter__()

    def __enter__(self) -> Store:
        self._server.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.stop()
