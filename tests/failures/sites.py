"""Sites: a real server with the proxy before it, and what may be done to both."""

from __future__ import annotations

import contextlib
import random
from types import TracebackType
from typing import Any, Generic, TypeVar

from gevent import socket
from gevent.lock import BoundedSemaphore

from tests.failures.proxy import Proxy
from tests.pauses import sample
from tests.servers import MariaDBServer, RedisServer, Server

V = TypeVar("V", bound=Server)

#: Connections of a pool; both servers can be told to serve fewer.
LIMIT = 16

#: So few clients a full server serves: the least that MariaDB can be told.
FEW = 10


class Site(Generic[V]):
    """A server, the proxy before it, and a side connection that no count includes.

    :param server: a running one, for the site alone.
    :param chance: where the weather comes from.
    """

    #: What to call it, and which contestants go there.
    name: str

    def __init__(self, server: V, chance: random.Random | None = None) -> None:
        self.server = server
        self.chance = chance or random.Random(0)
        self.proxy = Proxy(server.host, server.port, self.chance)
        self._admin: Any = None
        #: the side connection is one, and more than one ask
        self._turn = BoundedSemaphore()

    @property
    def options(self) -> dict[str, Any]:
        """Where clients are to connect, as their drivers want to be told."""
        return {"host": self.proxy.host, "port": self.proxy.port}

    def connections(self) -> int | None:
        """How many clients the server counts; None: it can't be asked. May switch."""
        with self._turn:
            try:
                return len(self._ids(self._side()))
            except Exception:
                self._hang_up_side()
                return None
            except BaseException:
                # Killed with the answer under way: the next to ask would get it.
                self._hang_up_side()
                raise

    def hang_up(self, part: float = 1.0) -> None:
        """Have the server close its clients' connections, or *part* of them."""
        with self._turn, contextlib.suppress(Exception):
            side = self._side()
            for each in self._ids(side):
                if self.chance.random() < part:
                    self._close(side, each)

    def serve_few(self) -> None:
        """Let the server take no more than :data:`FEW` clients."""
        raise NotImplementedError

    def hang_up_idle(self) -> None:
        """Let the server close what is idle for a second."""
        raise NotImplementedError

    def put_right(self) -> None:
        """Undo everything: server up, at its settings; proxy calm. May switch."""
        if self.server.running:
            self.server.resume()
        self.server.start()
        self.proxy.calm()
        self._set_right()

    def _set_right(self) -> None:
        raise NotImplementedError

    def _side(self) -> Any:
        if self._admin is None:
            # Both drivers leave a Unix socket that can't connect to the collector.
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(self.server.unix_socket)
            self._admin = self.server.admin()  # type: ignore[attr-defined]
        return self._admin

    def _hang_up_side(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            with contextlib.suppress(Exception):
                admin.close()

    def _ids(self, side: Any) -> list[Any]:
        raise NotImplementedError

    def _close(self, side: Any, client: Any) -> None:
        raise NotImplementedError

    def __enter__(self) -> Site[V]:
        self.proxy.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hang_up_side()
        self.proxy.__exit__(kind, error, trace)


class RedisSite(Site[RedisServer]):
    """A redis-server, which clients ask for the echo of their tags."""

    name = "redis"

    def _ids(self, side: Any) -> list[Any]:
        return [
            each["id"]
            for each in side.client_list()
            if each["name"] != self.server.admin_name
        ]

    def _close(self, side: Any, client: Any) -> None:
        side.client_kill_filter(_id=client)

    def serve_few(self) -> None:
        # One of them is the side connection.
        with self._turn:
            self._side().config_set("maxclients", FEW + 1)

    def hang_up_idle(self) -> None:
        with self._turn:
            self._side().config_set("timeout", 1)

    def _set_right(self) -> None:
        # The server may have been another one meanwhile.
        with self._turn:
            self._hang_up_side()
        self.server.ask("CONFIG", "SET", "maxclients", 1000, "timeout", 0)


class MariaDBSite(Site[MariaDBServer]):
    """A mariadbd, from which clients select their tags."""

    name = "mysql"

    @property
    def options(self) -> dict[str, Any]:
        return {**self.server.client_options, **super().options}

    def _ids(self, side: Any) -> list[Any]:
        with side.cursor() as cursor:
            cursor.execute(
                "SELECT id FROM information_schema.processlist WHERE user NOT IN "
                "('root', 'system user', 'event_scheduler')"
            )
            return [row[0] for row in cursor.fetchall()]

    def _close(self, side: Any, client: Any) -> None:
        with side.cursor() as cursor, contextlib.suppress(Exception):
            # It may have gone by itself meanwhile.
            cursor.execute(f"KILL CONNECTION {client}")

    def serve_few(self) -> None:
        self._set(max_connections=FEW)

    def hang_up_idle(self) -> None:
        self._set(wait_timeout=1)
        # Sessions that began before have their own setting.
        self.hang_up()

    def _set_right(self) -> None:
        with self._turn:
            self._hang_up_side()
        for attempts_left in reversed(range(50)):
            try:
                self._set(max_connections=500, wait_timeout=28800)
            except Exception:
                # The administrator's one place beyond the limit may still be taken by
                # the connection that was closed a moment ago.
                if not attempts_left:
                    raise
                sample(0.02)
            else:
                break
        with self._turn:
            # Its own session began with the wrong setting.
            self._hang_up_side()

    def _set(self, **variables: int) -> None:
        with self._turn, self._side().cursor() as cursor:
            for name, value in variables.items():
                cursor.execute(f"SET GLOBAL {name} = {value}")


#: Every site by its name, with the server it needs.
SITES: dict[str, tuple[type[Server], type[Site[Any]]]] = {
    RedisSite.name: (RedisServer, RedisSite),
    MariaDBSite.name: (MariaDBServer, MariaDBSite),
}
