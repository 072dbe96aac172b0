"""Many greenlets that wait for the only connection of a pool.

The number of waiters stays the same while they are served. :mod:`benchmarks.scaling`
compares few and many.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event

from benchmarks.adapters import Builder, PoolAdapter
from benchmarks.fakes import Fake
from benchmarks.rounds import Sample

#: Seconds that serving may take before the pool counts as failed.
PATIENCE = 60.0

#: The least that waiters can cost.
BARE = "a bare line"


def bare_line(limit: int) -> PoolAdapter:
    """One connection and a deque of greenlets that are switched to in turn."""
    waiting: deque[Any] = deque()
    idle = [Fake()]
    hub = gevent.get_hub()

    def get() -> Fake:
        if not idle:
            waiting.append(gevent.getcurrent())
            hub.switch()
        return idle.pop()

    def put(conn: Fake) -> None:
        idle.append(conn)
        if waiting:
            hub.loop.run_callback(waiting.popleft().switch)

    return PoolAdapter(BARE, get, put, lambda: None)


class Waiters:
    """Greenlets that wait for a pool's only connection.

    :param pool: of one connection.
    :param count: how many greenlets wait.
    """

    def __init__(self, pool: PoolAdapter, count: int) -> None:
        self.pool = pool
        self.left = 0
        self.ended = 0.0
        self.done = Event()
        self.conn = pool.acquire()
        self.greenlets = [gevent.spawn(self._wait) for _ in range(count)]
        gevent.idle()

    def _wait(self) -> None:
        acquire, release = self.pool.acquire, self.pool.release
        while True:
            conn = acquire()
            self.left -= 1
            if self.left <= 0:
                self.ended = self.ended or time.perf_counter()
                self.done.set()
            release(conn)
            if self.left <= 0:
                return
            # Without this, the bare queue would never serve another greenlet.
            gevent.sleep(0)

    def serve(self, loans: int) -> float:
        """Return the seconds of that many loans, at a constant number of waiters.

        May switch.
        """
        self.left = loans
        began = time.perf_counter()
        self.pool.release(self.conn)
        with gevent.Timeout(PATIENCE):
            self.done.wait()
        return self.ended - began

    def kill(self) -> float:
        """Return the seconds that killing all of them takes, in random order."""
        random.Random(1).shuffle(self.greenlets)
        began = time.perf_counter()
        gevent.killall(self.greenlets)
        return time.perf_counter() - began

    def close(self) -> None:
        """End the greenlets and close the pool. May switch."""
        gevent.killall(self.greenlets)
        self.pool.close()


def served_turn(build: Builder, count: int, loans: int) -> Callable[[], Sample]:
    """Return a turn in which that many loans go to that many waiters."""

    def turn() -> Sample:
        waiters = Waiters(build(1), count)
        try:
            return Sample(waiters.serve(loans), 0.0, loans)
        finally:
            waiters.close()

    return turn


def killed_turn(build: Builder, count: int, kills: int) -> Callable[[], Sample]:
    """Return a turn in which waiters are killed until enough have been."""

    def turn() -> Sample:
        seconds, killed = 0.0, 0
        while killed < kills / 4:
            waiters = Waiters(build(1), count)
            seconds += waiters.kill()
            killed += count
            waiters.close()
        return Sample(seconds, 0.0, killed)

    return turn
