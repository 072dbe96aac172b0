"""redis-py's own metrics of the pool."""

from __future__ import annotations

import gc
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any
from weakref import ref

import pytest
import redis
import redis.sentinel

from geventpool.redis import (
    ConnectionPool,
    RedisPoolExhaustedError,
    SentinelConnectionPool,
    internals,
)
from geventpool.redis.telemetry import Label, Telemetry
from geventpool.testing import wait_until
from tests.pauses import turns
from tests.redis.conftest import MakePool
from tests.redis.tools import outcome

attributes: Any = internals.module_of("redis.observability.attributes")
pytestmark = pytest.mark.skipif(
    internals.recorder is internals.NoRecorder, reason="redis-py has metrics since 7.2"
)


class Collector:
    """Stands in for OpenTelemetry; any method can be called."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        # Not what they were called with: that would keep the pool alive.
        self.names: set[str] = set()
        #: what the pools were called
        self.pools: set[str] = set()

    def record_connection_create_time(
        self, connection_pool: Any, duration_seconds: float
    ) -> None:
        self.names.add("record_connection_create_time")
        self.pools.add(attributes.get_pool_name(connection_pool))

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self.names.add(name)

    def record_connection_count(
        self, pool_name: str, connection_state: Any, counter: int
    ) -> None:
        self.counts[connection_state.name] += counter
        self.pools.add(pool_name)

    def pools_on(self, port: int) -> set[str]:
        """The names of the pools of one server; other tests' pools may still speak."""
        return {name for name in self.pools if f":{port}" in name}


@pytest.fixture()
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    # The pools of other tests are not to take back here what they said there. Sockets
    # of connects that those tests interrupted redis-py leaves to the collector.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    collector = Collector()
    monkeypatch.setattr(internals.recorder, "_metrics_collector", collector)
    yield collector


def test_counts_are_those_of_the_core(
    make_pool: MakePool, collector: Collector
) -> None:
    """Idle and in use, at each moment."""
    pool = make_pool()
    one, two = pool.get_connection(), pool.get_connection()
    assert +collector.counts == {"USED": 2}
    pool.release(one)
    assert +collector.counts == {"USED": 1, "IDLE": 1}
    two.disconnect()
    pool.release(two)
    assert +collector.counts == {"IDLE": 1}


def test_times_are_recorded(make_pool: MakePool, collector: Collector) -> None:
    """Of opening and of waiting."""
    pool = make_pool()
    pool.release(pool.get_connection())
    assert "record_connection_create_time" in collector.names
    assert "record_connection_wait_time" in collector.names


def test_a_refusal_is_recorded(make_pool: MakePool, collector: Collector) -> None:
    """Which redis-py's own pools forget."""
    pool = make_pool(max_connections=1, timeout=0.01, initial_connections=1)
    conn = pool.get_connection()
    assert isinstance(outcome(pool.get_connection), RedisPoolExhaustedError)
    assert "record_connection_timeout" in collector.names
    pool.release(conn)


def test_a_pool_that_ends_takes_its_counts_along(
    redis_server: Any, collector: Collector
) -> None:
    """Or the gauges would show connections forever."""
    pool = ConnectionPool(port=redis_server.port)
    assert redis.Redis(connection_pool=pool).ping()
    assert +collector.counts == {"IDLE": 1}
    pool.close()
    del pool
    wait_until(lambda: gc.collect() >= 0 and not +collector.counts)


def test_counts_of_a_pool_that_was_collected_are_taken_back(
    redis_server: Any, collector: Collector
) -> None:
    """Its name is known from before."""
    pool = ConnectionPool(port=redis_server.port)
    telemetry = Telemetry(pool)
    assert redis.Redis(connection_pool=pool).ping()
    telemetry.count()
    assert +collector.counts == {"IDLE": 2}
    pool.close()
    alive = ref(pool)
    del pool
    wait_until(lambda: gc.collect() >= 0 and alive() is None)
    telemetry.end()
    assert not +collector.counts


def test_without_a_collector_nothing_is_done(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is paid but a look."""
    told: list[Any] = []
    for name in dir(internals.recorder):
        if name.startswith("record_"):
            monkeypatch.setattr(internals.recorder, name, told.append)
    pool = make_pool()
    pool.release(pool.get_connection())
    turns()
    assert not told


def test_an_end_at_the_wrong_time_is_nobody_s_business() -> None:
    """A pool that was never finished has nothing to take back."""

    class Unfinished(ConnectionPool):
        def __init__(self) -> None:
            pass

    Unfinished().__del__()
    pool = ConnectionPool()
    telemetry = Telemetry(pool)
    del pool
    gc.collect()
    telemetry.count()
    telemetry.end()


def test_what_no_borrower_does_is_counted_too(
    make_pool: MakePool, redis_server: Any, collector: Collector
) -> None:
    """Such as opening in the background, or a connection that the server ends."""
    pool = make_pool(min_connections=2, client_name="counted")
    wait_until(lambda: +collector.counts == {"IDLE": 2})
    for conn in pool.core.idle_connections():
        conn.send_command("CLIENT", "ID")
        redis_server.ask("CLIENT", "KILL", "ID", conn.read_response())
    pool.core.drop_expired()
    wait_until(lambda: pool.core.size == 2 and +collector.counts == {"IDLE": 2})
    pool.core.close(timeout=5)
    wait_until(lambda: not +collector.counts)


def test_the_pool_has_one_name_in_all_metrics(
    make_pool: MakePool, redis_server: Any, collector: Collector
) -> None:
    """The given one; else its address, and what tells it from others."""
    pool = make_pool(name="shop")
    pool.release(pool.get_connection())
    assert collector.pools_on(redis_server.port) == {f"shop:{redis_server.port}"}
    collector.pools.clear()
    pool = make_pool()
    pool.release(pool.get_connection())
    assert collector.pools_on(redis_server.port) == {attributes.get_pool_name(pool)}
    collector.pools.clear()
    path = str(redis_server.unix_socket)
    unix = ConnectionPool(redis.UnixDomainSocketConnection, path=path)
    unix.release(unix.get_connection())
    assert f"unix:{path}" in collector.pools
    unix.shutdown()


@pytest.mark.parametrize("is_master, role", [(True, "master"), (False, "replica")])
def test_a_pool_of_sentinel_s_is_called_by_its_service(
    is_master: bool, role: str
) -> None:
    """It has no address of its own."""
    sentinel: Any = redis.sentinel.Sentinel([])
    pool = SentinelConnectionPool("orders", sentinel, is_master=is_master)
    assert attributes.get_pool_name(Label(pool, None)) == f"orders:{role}"
    assert ConnectionPool().address() == ("localhost", 6379)
