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

from gevent import get_hub

from geventpool.errors import PoolExhaustedError
from geventpool.redis.internals import recorder

__all__ = ["Telemetry"]


class Counted(Protocol):
    """What is asked of the pool."""

    core: Any
    _pool_id: str

    def address(self) -> tuple[str, Any]:
        """A host and a port, or what stands for them."""


class Label:
    """What redis-py makes the name of a pool of: ``host:port_id``, or ``host:port``.

    :param pool: its address and id.
    :param name: the name that the program gave it, or None.
    """

    def __init__(self, pool: Counted, name: str | None) -> None:
        host, port = pool.address()
        self.connection_kwargs = {"host": name or host, "port": port}
        # A random part tells pools apart that nothing else does; each restart of the
        # program makes new time series of it.
        self._pool_id = pool._pool_id if name is None and isinstance(port, int) else ""


class Telemetry:
    """The recorder's view of one pool; for redis-py before 7.2, nothing.

    :param pool: kept weakly.
    :param name: the name that the program gave it, or None.
    """

    def __init__(self, pool: Counted, name: str | None = None) -> None:
        self._pool = weakref.ref(pool)
        self._given = name
        self._title = ""
        self._reported = {"IDLE": 0, "USED": 0}

    def timed(self, acquire: Callable[[], Any]) -> Any:
        """What *acquire* returns; the time it takes is recorded. May switch."""
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
            recorder.record_connection_create_time(self._label(), seconds)
            self.count_soon()

    def count_soon(self) -> None:
        """Record them when what happens to a connection has happened.

        For changes that no borrower makes, such as the reaper's.
        """
        if recorder._metrics_collector is not None:
            get_hub().loop.run_callback(self.count)

    def count(self) -> None:
        """Record how many connections are idle and in use."""
        pool = self._pool()
        # Initial connections are opened before there is a core to ask.
        if pool is not None and "core" in vars(pool):
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

    def _label(self) -> Label | None:
        pool = self._pool()
        return None if pool is None else Label(pool, self._given)

    def _name(self) -> str:
        label: Any = self._label()
        if label is not None:
            attributes = importlib.import_module("redis.observability.attributes")
            self._title = str(attributes.get_pool_name(label))
        return self._title
