"""redis-py's own metrics of a pool, for its OpenTelemetry recorder.

Knows the recorder's functions; asks the pool for the present truth and reports the
difference, so it can begin and be interrupted anywhere.
"""

from __future__ import annotations

import importlib
import time
import weakref
from collections.abc import Callable
from typing import Any, Protocol

from geventpool.errors import PoolExhaustedError
from geventpool.redis.internals import recorder

__all__ = ["Telemetry"]


class Counted(Protocol):
    """What is asked of the pool."""

    core: Any


class Telemetry:
    """The recorder's view of one pool; for redis-py before 7.2, nothing.

    :param pool: kept weakly.
    """

    def __init__(self, pool: Counted) -> None:
        self._pool = weakref.ref(pool)
        self._title = ""
        self._reported = {"IDLE": 0, "USED": 0}

    def timed(self, acquire: Callable[[], Any]) -> Any:
        """What *acquire* returns; the time it takes is recorded. *May switch.*"""
        started = time.monotonic()
        try:
            conn = acquire()
        except PoolExhaustedError:
            recorder.record_connection_timeout(pool_name=self._name())
            raise
        waited = time.monotonic() - started
        recorder.record_connection_wait_time(self._name(), waited)
        self.count()
        return conn

    def opened(self, seconds: float) -> None:
        """A connection was opened; it took *seconds*."""
        if recorder._metrics_collector is not None:
            recorder.record_connection_create_time(self._pool(), seconds)

    def count(self) -> None:
        """Record how many connections are idle and in use."""
        pool = self._pool()
        if pool is not None:
            stats = pool.core.stats()
            self._report(IDLE=stats.idle, USED=stats.in_use)

    def end(self) -> None:
        """Take back what was reported: the pool is no more."""
        if any(self._reported.values()):
            self._report(IDLE=0, USED=0)

    def _report(self, **present: int) -> None:
        for state, number in present.items():
            change = number - self._reported[state]
            if change:
                self._reported[state] = number
                recorder.record_connection_count(
                    self._name(), recorder.ConnectionState[state], change
                )

    def _name(self) -> str:
        pool: Any = self._pool()
        if pool is not None:
            attributes = importlib.import_module("redis.observability.attributes")
            self._title = str(attributes.get_pool_name(pool))
        return self._title
