"""The shop in Django: MySQL, two Redis caches and sessions, behind gunicorn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection

import pytest

from tests.examples.programs import Program, account, gunicorn, run
from tests.servers import MariaDBServer, RedisServer

pytest.importorskip("django_redis", reason="the example uses django-redis")

FOLDER = "django-shop"

#: The most connections of a worker to each server; there are two workers.
MOST = 4


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with RedisServer() as server:
        yield server.url


@pytest.fixture(scope="module")
def settings(mariadb_server: MariaDBServer, redis_url: str) -> dict[str, str]:
    """The variables that the settings of the example read."""
    found = account(mariadb_server, "shop", 2 * MOST)
    found["REDIS_URL"] = redis_url
    run(FOLDER, "manage.py", "migrate", "--run-syncdb", "-v0", **found)
    return found


@pytest.fixture(scope="module")
def web(settings: dict[str, str]) -> Iterator[Program]:
    with gunicorn(FOLDER, "wsgi", **settings) as web:
        yield web


def test_the_servers_see_the_limits_of_two_workers(web):
    """Fifty requests at once wait in line for few connections, and all are served."""
    said = run("", "load.py", f"{web.url}/buy/tea", "100")
    assert "status 200: 100 of 100 requests" in said, web.log
    seen = json.loads(said.splitlines()[-1])
    for name in ("mysql", "cache", "pages"):
        assert 1 <= seen[name] <= 2 * MOST


def test_sessions_are_kept_in_the_cache(web):
    """They use the pool of the default cache."""
    with closing(HTTPConnection(web.host, web.port, timeout=30)) as client:
        client.request("GET", "/buy/sugar")
        cookie = client.getresponse().headers["Set-Cookie"].partition(";")[0]
    status, page = web.get("/orders", Cookie=cookie)
    assert (status, len(json.loads(page))) == (200, 1)
    assert json.loads(web.get("/orders")[1]) == []


def test_the_development_server_works(settings):
    """manage.py patches for this command alone."""
    words = ["manage.py", "runserver", "--noreload", "{address}"]
    with Program(FOLDER, *words, **settings) as web:
        assert {status for status, _ in web.get_many("/buy/salt", 20)} == {200}, web.log


def test_commands_need_no_gevent(settings):
    """A cache works on redis-py's own pool there."""
    said = run(
        FOLDER,
        *("-W", "ignore:geventpool", "manage.py", "shell", "-v0", "-c"),
        "from django.core.cache import cache, caches; cache.set('a', 1); "
        "caches['pages'].set('b', 2); print(cache.get('a'), caches['pages'].get('b'))",
        **settings,
    )
    assert said.split() == ["1", "2"]
