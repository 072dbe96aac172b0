"""Django's Redis cache with one pool for each process."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
import redis
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from gevent.event import Event

from geventpool.django import cache as module
from geventpool.django.cache import RedisCache
from geventpool.process_pools import ProcessPools
from geventpool.redis import ConnectionPool
from tests.compat.environment import REPOSITORY
from tests.servers import RedisServer

BACKEND = "geventpool.django.cache.RedisCache"
Configure = Callable[..., None]


@pytest.fixture()
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture()
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Sets ``CACHES``; each keyword is an alias with its location and options."""
    pools = ProcessPools[Any]()
    monkeypatch.setattr(module, "_pools", pools)
    changed: list[Any] = []

    def configure(**each: tuple[Any, dict[str, Any]]) -> None:
        settings = {
            alias: {"BACKEND": BACKEND, "LOCATION": location, "OPTIONS": options}
            for alias, (location, options) in each.items()
        }
        changed.append(override_settings(CACHES=settings))
        changed[-1].enable()

    yield configure
    for each in reversed(changed):
        each.disable()
    for _, pool in pools._pools:
        pool.disconnect()


def test_all_greenlets_share_one_pool(configure, server):
    """Django's own makes a pool for each greenlet, whose limit holds for one alone."""
    configure(default=(server.url, {"max_connections": 2}))
    end, seen = Event(), set()

    def request(number: int) -> None:
        cache = caches["default"]
        cache.set(f"key{number}", number)
        seen.add(cache)
        end.wait()
        assert cache.get(f"key{number}") == number

    crowd = [gevent.spawn(request, number) for number in range(30)]
    while len(seen) < 30:
        gevent.idle()
    assert server.connected_clients() <= 2
    end.set()
    gevent.joinall(crowd, raise_error=True)
    assert server.connected_clients() <= 2


def test_caches_with_the_same_server_and_options_share_one_pool(configure, server):
    """The limit is one for each server. Sessions often have a cache of their own."""
    configure(
        default=(server.url, {"max_connections": 2}),
        sessions=(server.url, {"max_connections": 2}),
        other=(server.url, {"max_connections": 3}),
    )
    (pool,) = caches["default"].pools
    assert isinstance(pool, ConnectionPool)
    assert pool.core.max_connections == 2
    assert caches["sessions"].pools == [pool]
    assert caches["other"].pools != [pool]


def test_all_of_djangos_operations_work(configure, server):
    """The backend is Django's own. Only its pools are others."""
    configure(default=(server.url, {"client_name": "django"}))
    cache = caches["default"]
    cache.set_many({"a": 1, "b": [2]})
    assert cache.get_many(["a", "b", "c"]) == {"a": 1, "b": [2]}
    assert cache.incr("a") == 2
    assert cache.add("a", 5) is False
    assert cache.touch("a", 10) is True
    assert cache.delete("b") is True
    assert {each["name"] for each in server.clients()} == {"django"}
    cache.clear()
    assert cache.get("a") is None


def test_each_server_of_several_has_its_pool(configure, server):
    """Django writes to the first one and reads from the others."""
    with RedisServer() as reader:
        configure(default=([server.url, reader.url], {}))
        cache = caches["default"]
        cache.set("key", 1)
        assert cache.get("key") is None
        assert server.connected_clients() == reader.connected_clients() == 1
        ports = [pool.connection_kwargs["port"] for pool in cache.pools]
        assert ports == [server.port, reader.port]


class OtherPool(redis.BlockingConnectionPool):
    """A pool that is not the package's."""


@pytest.mark.parametrize("given", [OtherPool, f"{__name__}.OtherPool"])
def test_another_class_of_pools_is_shared_as_well(configure, server, given):
    """Django's option for it goes on working."""
    configure(default=(server.url, {"pool_class": given, "max_connections": 1}))
    (pool,) = caches["default"].pools
    assert type(pool) is OtherPool
    assert gevent.spawn(lambda: caches["default"].pools).get() == [pool]


@pytest.mark.parametrize(
    ("location", "options", "words"),
    [
        (None, {"max_connections": -1}, "max_connections. must be .*, not -1"),
        (None, {"timeout": "soon"}, "timeout must be .*, not 'soon'"),
        (None, {"max_idel": 3}, "'max_idel'.*max_idle"),
        ("http://:secret@127.0.0.1/", {}, "scheme"),
    ],
)
def test_invalid_options_name_the_cache(configure, server, location, options, words):
    """A project may have several caches."""
    configure(default=(server.url, {}), pages=(location or server.url + "?", options))
    with pytest.raises(ImproperlyConfigured, match=words) as caught:
        caches["pages"].get("key")
    assert str(caught.value).startswith("CACHES['pages']: ")
    assert "secret" not in str(caught.value)


def test_invalid_options_of_a_cache_that_no_setting_has_are_told(server):
    """Programs may make caches by themselves."""
    with pytest.raises(ImproperlyConfigured, match="^a cache: "):
        RedisCache(server.url, {"OPTIONS": {"timeout": -1}}).get("key")


def run(server: RedisServer, script: str) -> str:
    """What a script prints whose ``CACHES`` has this server and two connections."""
    options = {"max_connections": 2}
    settings = {"BACKEND": BACKEND, "LOCATION": server.url, "OPTIONS": options}
    head = f"""
        from django.conf import settings
        settings.configure(CACHES={{"default": {settings!r}}})
        from django.core.cache import cache
    """
    parts = script.partition("# settings")
    program = "".join(
        textwrap.dedent(each) for each in (parts[0], head if parts[1] else "", parts[2])
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:geventpool:", "-c", program],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_forked_worker_has_its_own_connections(server):
    """A server that preloads the program may have used the cache before it forks."""
    said = run(
        server,
        """
        from gevent import monkey; monkey.patch_all()
        # settings
        import os
        cache.set("who", "parent")
        mine = cache.pools[0].core.idle_connections()
        child = os.fork()
        if not child:
            assert cache.get("who") == "parent"
            (theirs,) = cache.pools[0].core.idle_connections()
            print(theirs not in mine, cache.pools[0].core.max_connections, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        assert cache.get("who") == "parent"
        assert cache.pools[0].core.idle_connections() == mine
        """,
    )
    assert said.split() == ["True", "2"]


def test_a_worker_that_is_patched_after_the_fork_lends_from_the_pool(server):
    """gunicorn's workers patch themselves; a preloaded program is not patched."""
    said = run(
        server,
        """
        # settings
        import os
        cache.set("who", "parent")
        child = os.fork()
        if not child:
            import warnings
            from gevent import monkey
            # gevent warns of modules that were imported before.
            warnings.simplefilter("ignore")
            monkey.patch_all()
            assert cache.get("who") == "parent"
            print(cache.pools[0].core.stats().size, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        """,
    )
    assert said.split() == ["1"]


def test_threads_of_an_unpatched_process_share_one_pool_too(server):
    """Commands of manage.py and the development server need no gevent."""
    said = run(
        server,
        """
        # settings
        from threading import Barrier, Thread
        barrier, pools = Barrier(8), set()
        def request():
            barrier.wait()
            cache.set("who", "thread")
            barrier.wait()
            pools.update(cache.pools)
        threads = [Thread(target=request) for _ in range(8)]
        for each in threads: each.start()
        for each in threads: each.join()
        import redis
        client = redis.Redis.from_url(cache._servers[0])
        print(len(pools), len(client.client_list()) - 1 <= 2)
        """,
    )
    assert said.split() == ["1", "True"]
