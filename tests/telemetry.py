"""What the tests of the exporters have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest

from geventpool import Pool, PoolDeadlockError, PoolExhaustedError
from geventpool.testing import ScriptedConnector, wait_until
from tests.test_measures import measure_nothing

__all__ = ["Counting", "busy_pool", "isolated"]


@contextmanager
def isolated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pools of other tests are not published, and theirs will not be measured."""
    measure_nothing(monkeypatch)
    monkeypatch.setattr("geventpool.series.readings.pools", list)
    yield


class Counting(ScriptedConnector):
    """Claims to reset, and to have commands under way."""

    def reset_counts(self) -> dict[str, int]:
        return {"skipped": 5, "early": 2, "full": 1}

    def in_flight(self) -> int:
        return 7


def busy_pool(
    name: str = "busy", **options: Any
) -> tuple[Pool[Any], gevent.Greenlet[..., Any]]:
    """A pool with 2 loans that ended, 1 under way, 1 waiter and some refusals.

    :return: the pool and its waiter.
    """
    connector: Any = Counting()
    pool: Pool[Any] = Pool(connector, name=name, max_connections=1, **options)
    with pool.connection():
        _refused(PoolDeadlockError, pool.acquire)
    pool.drop(pool.acquire())
    gevent.spawn(pool.acquire, reclaim=False).get()
    _refused(PoolExhaustedError, lambda: pool.acquire(timeout=0))
    waiter = gevent.spawn(pool.acquire, timeout=60, reclaim=False)
    wait_until(lambda: pool.stats().waiting == 1)
    return pool, waiter


def _refused(kind: type[PoolExhaustedError], acquire: Callable[[], Any]) -> None:
    with pytest.raises(kind):
        acquire()
