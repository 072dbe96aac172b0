"""redis-py's metrics of a pool, for its OpenTelemetry recorder.

It reports the difference between the present numbers of the pool and those of the last
report, so it can begin, or be interrupted, at any time.
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
    """The interface of the pool that is used here."""

    core: Any
    _pool_id: str

    def address(self) -> tuple[str, Any]:
        """Return a host and a port, or a substitute for them."""


class Label:
    """The attributes from which redis-py makes the name of a pool.

    The name is ``host:port_id``, or ``host:port``.

    :param pool: has the address and the id.
    :param name: the name that the program gave the pool; None: none.
    """

    def __init__(self, pool: Counted, name: str | None) -> None:
        host, port = pool.address()
        self.connection_kwargs = {"host": name or host, "port": port}
        # The id is random. It distinguishes pools with the same address, but each
        # restart of the program begins new time series.
        self._pool_id = pool._pool_id if name is None and isinstance(port, int) else ""


class Telemetry:
    """Reports the metrics of one pool. With redis-py before 7.2 it does nothing.

    :param pool: the pool. Only a weak reference is kept.
    :param name: the name that the program gave the pool; None: none.
    """

    def __init__(self, pool: Counted, name: str | None = None) -> None:
        self._pool = weakref.ref(pool)
        self._given = name
        self._title = ""
        self._reported = {"IDLE": 0, "USED": 0}

    def timed(self, acquire: Callable[[], Any]) -> Any:
        """Call *acquire*, and record how long it takes. May switch."""
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
        """Record that opening a connection took *seconds*."""
        if recorder._metrics_collector is not None:
            recorder.record_connection_create_time(self._label(), seconds)
            self.count_soon()

    def count_soon(self) -> None:
        """Record the counts in the next turn of the loop.

        For changes that no borrower makes, such as those of the reaper.
        """
        if recorder._metrics_collector is not None:
            get_hub().loop.run_callback(self.count)

    def count(self) -> None:
        """Record how many connections are idle and in use."""
        pool = self._pool()
        if pool is not None:
            stats = pool.core.stats()
            self._report(IDLE=stats.idle, USED=stats.in_use)

    def end(self) -> None:
        """Report that no connections are left, when the pool is collected."""
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
