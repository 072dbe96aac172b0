"""Redis behind twemproxy, which knows neither HELLO nor CLIENT."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
import redis

import geventpool.redis
from tests.proxies.programs import Twemproxy
from tests.servers import RedisServer

pytestmark = pytest.mark.skipif(
    shutil.which("nutcracker", path="/usr/sbin:/usr/bin") is None,
    reason="nutcracker is missing",
)


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Twemproxy]:
    with Twemproxy(redis_server) as running:
        yield running


#: What redis-py needs there as well: no HELLO, and no CLIENT SETINFO.
PLAIN: dict[str, Any] = {"protocol": 2}
if hasattr(redis, "DriverInfo"):
    PLAIN["driver_info"] = None
else:
    PLAIN.update(lib_name=None, lib_version=None)


@pytest.mark.parametrize("more", [{}, {"ping_after": 0}, {"auto_pipeline": True}])
def test_commands_get_their_replies(proxy: Twemproxy, more: dict[str, Any]) -> None:
    pool = geventpool.redis.ConnectionPool(
        host=proxy.host, port=proxy.port, max_connections=5, **PLAIN, **more
    )
    client = redis.Redis(connection_pool=pool)

    def use(number: int) -> bytes | str | None:
        client.set(f"proxied{number}", number, ex=60)
        return client.get(f"proxied{number}")

    with pool:
        jobs = [gevent.spawn(use, number) for number in range(50)]
        assert [job.get() for job in jobs] == [b"%d" % n for n in range(50)]
