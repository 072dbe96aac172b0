"""Fetches pages over HTTP, with memcached before the server: fetch.py PATH..."""

from gevent import monkey

monkey.patch_all()

import os  # noqa: E402
import sys  # noqa: E402
from http.client import HTTPConnection  # noqa: E402
from urllib.parse import urlsplit  # noqa: E402

import gevent.pool  # noqa: E402
from pymemcache.client.base import Client  # noqa: E402

from geventpool import Connector, Pool, is_quiet  # noqa: E402

upstream = urlsplit(os.environ["UPSTREAM_URL"])
memcached = urlsplit(os.environ["MEMCACHED_URL"])

# The pool closes a connection whose response was not read to its end.
pages = Pool(
    HTTPConnection,
    {"host": upstream.hostname, "port": upstream.port, "timeout": 5},
    max_connections=5,
    max_idle=60,
)


class Memcached(Connector):
    """Connections of pymemcache."""

    def open(self):
        client = Client((memcached.hostname, memcached.port), timeout=5, no_delay=True)
        client.version()  # connects
        return client

    def close(self, client):
        client.close()

    def is_usable(self, client):
        return client.sock is not None and is_quiet(client.sock)

    def ping(self, client):
        client.version()

    def fileno(self, client):
        return -1 if client.sock is None else client.sock.fileno()


cache = Pool(Memcached(), max_connections=5, ping_after=30)


def fetch(path: str) -> bytes:
    """Return a page, from the cache if it is there."""
    with cache.connection() as client:
        body = client.get(path)
    if body is None:
        with pages.connection() as conn:
            conn.request("GET", path)
            body = conn.getresponse().read()
        with cache.connection() as client:
            client.set(path, body, expire=60)
    return body


def main(*paths: str) -> None:
    """Fetch each page, and print what memcached has counted."""
    for body in gevent.pool.Pool(50).imap(fetch, paths):
        print(body.decode())
    with cache.connection() as client:
        counts = client.stats()
    print("hits:", counts[b"get_hits"], "misses:", counts[b"get_misses"])
    print("connections to memcached:", counts[b"total_connections"])


if __name__ == "__main__":
    main(*sys.argv[1:])
