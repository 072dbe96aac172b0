"""Pools for http.client and pymemcache, made by a class and by a short connector."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from gevent.pywsgi import WSGIServer

from tests.examples.programs import run
from tests.servers import Server

FOLDER = "http-cache"
#: The most connections of each pool.
MOST = 5


class MemcachedServer(Server):
    """A memcached."""

    program = "memcached"
    package = "memcached"

    def command(self) -> list[str]:
        return [self.path, "-l", self.host, "-p", str(self.port), "-u", "nobody"]

    def answers(self) -> bool:
        return self.listens()


class Upstream:
    """A web server that knows who has asked for what."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.clients: set[str] = set()

    def __call__(self, environ: dict[str, Any], start: Any) -> list[bytes]:
        self.paths.append(environ["PATH_INFO"])
        self.clients.add(environ["REMOTE_PORT"])
        start("200 OK", [("Content-Type", "text/plain")])
        return [f"page {environ['PATH_INFO']}".encode()]


@pytest.fixture
def upstream() -> Iterator[tuple[Upstream, str]]:
    application = Upstream()
    server = WSGIServer(("127.0.0.1", 0), application, log=None)
    server.start()
    yield application, f"http://127.0.0.1:{server.server_port}"
    server.stop(timeout=1)


@pytest.mark.skipif(shutil.which("memcached") is None, reason="memcached is missing")
def test_pages_come_over_few_connections_and_then_from_the_cache(upstream):
    application, url = upstream
    paths = [f"/{number}" for number in range(100)]
    with MemcachedServer() as memcached:
        places = {
            "UPSTREAM_URL": url,
            "MEMCACHED_URL": f"memcached://{memcached.host}:{memcached.port}",
        }
        first = run(FOLDER, "fetch.py", *paths, **places)
        assert first.startswith("".join(f"page {path}\n" for path in paths))
        assert "hits: 0 misses: 100" in first
        assert sorted(application.paths) == sorted(paths)
        assert len(application.clients) <= MOST
        again = run(FOLDER, "fetch.py", *paths, **places)
        assert "hits: 100 misses: 100" in again
        assert len(application.paths) == 100
        # Those of both programs; the test has looked whether it listens, and memcached
        # counts its own as well.
        [total] = re.findall(r"connections to memcached: (\d+)", again)
        assert int(total) <= 2 * MOST + 3
