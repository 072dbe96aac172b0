"""The load that measures one pool size: greenlets that borrow repeatedly."""

from __future__ import annotations

import time
from typing import Any, Protocol

import gevent

from geventpool.advise.sizing import Point

__all__ = ["MeasuredPool", "measure"]


class MeasuredPool(Protocol):
    """The interface of a pool and its server that the load uses."""

    def acquire(self) -> Any:
        """Borrow a connection.

        May switch.
        """

    def release(self, conn: Any) -> None:
        """Give a connection back."""

    def ask(self, conn: Any) -> None:
        """Do one round trip.

        May switch.
        """


class _Load:
    """The borrowers of one measurement and what they noted."""

    def __init__(self, pool: MeasuredPool, hold: float) -> None:
        self._pool = pool
        self._hold = hold
        #: Seconds of each finished wait, and when each unfinished one began.
        self.waits: list[float] = []
        self.waiting: dict[int, float] = {}
        self.failures: list[Exception] = []

    def borrow(self, number: int) -> None:
        try:
            while True:
                self._borrow_once(number)
        except Exception as error:
            # Only the first is raised, by measure(); there may be hundreds.
            self.failures.append(error)

    def _borrow_once(self, number: int) -> None:
        began = self.waiting[number] = time.perf_counter()
        conn = self._pool.acquire()
        self.waits.append(time.perf_counter() - began)
        del self.waiting[number]
        self._pool.ask(conn)
        gevent.sleep(self._hold)
        self._pool.release(conn)


def measure(
    pool: MeasuredPool,
    size: int,
    greenlets: int,
    hold: float,
    seconds: float,
    round_trip: float = 0.0,
) -> Point:
    """Measure a pool that already has *size* connections open.

    May switch.

    Each greenlet borrows a connection, does one round trip, keeps the connection for
    *hold* seconds, gives it back, and borrows again.

    :param seconds: how long the measurement takes; its first fifth is not counted.
    :param round_trip: seconds of a round trip without other load.
    :raises RuntimeError: no greenlet got a connection.
    :raises Exception: the first error of a borrower.
    """
    load = _Load(pool, hold)
    borrowers = [gevent.spawn(load.borrow, number) for number in range(greenlets)]
    try:
        # The start is not counted: all greenlets ask at the same time.
        gevent.sleep(seconds / 5)
        load.waits.clear()
        cpu, began = time.process_time(), time.perf_counter()
        gevent.sleep(seconds * 4 / 5)
        now, cpu = time.perf_counter(), time.process_time() - cpu
        finished = list(load.waits)
        unfinished = [now - since for since in load.waiting.values()]
    finally:
        gevent.killall(borrowers)
    if load.failures:
        raise load.failures[0]
    took = now - began
    if not finished:
        raise RuntimeError(f"no loan ended within {took:.1f} s: allow more --seconds")
    busy, throughput = min(size, greenlets), len(finished) / took
    # Little's law. It also holds where a wait is longer than the measurement.
    mean = (greenlets - busy) / throughput
    ordered = sorted([*finished, *unfinished])
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    excess = max(0.0, busy / throughput - hold - round_trip)
    return Point(size, throughput, mean, max(p99, mean), cpu / took, excess)
