"""
Lines of greenlets that wait for the only connection of a pool.

A line is served or killed while it keeps its length; growth.py compares short ones
and long ones.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event

from benchmarks.dummies import Dummy
from benchmarks.peers import Contestant
from benchmarks.rounds import Sample

#: Seconds a line may take before its pool counts as failed.
PATIENCE = 60.0

BARE = "a bare line"

Builder = Callable[[int], Contestant]


def bare_line(limit: int) -> Contestant:
    """One item passed along a line of greenlets: the least a line can cost."""
    waiting: deque[Any] = deque()
    idle = [Dummy()]
    hub = gevent.get_hub()

    def get() -> Dummy:
        if not idle:
            waiting.append(gevent.getcurrent())
            hub.switch()
        return idle.pop()

    def put(item: Dummy) -> None:
        idle.append(item)
        if waiting:
            hub.loop.run_callback(waiting.popleft().switch)

    return Contestant(BARE, get, put, lambda: None)


class Line:
    """
    Greenlets in line for a pool's only connection.

    :param contestant: a pool of one connection.
    :param length: how many stand in line.
    """

    def __init__(self, contestant: Contestant, length: int) -> None:
        self.contestant = contestant
        self.left = 0
        self.ended = 0.0
        self.done = Event()
        self.conn = contestant.acquire()
        self.greenlets = [gevent.spawn(self._stand) for _ in range(length)]
        gevent.idle()

    def _stand(self) -> None:
        acquire, release = self.contestant.acquire, self.contestant.release
        while True:
            conn = acquire()
            self.left -= 1
            if self.left <= 0:
                self.ended = self.ended or time.perf_counter()
                self.done.set()
            release(conn)
            if self.left <= 0:
                return
            # The bare queue needs this to give it to another at all.
            gevent.sleep(0)

    def serve(self, loans: int) -> float:
        """Seconds that many loans take while the line stays as long as it is."""
        self.left = loans
        began = time.perf_counter()
        self.contestant.release(self.conn)
        with gevent.Timeout(PATIENCE):
            self.done.wait()
        return self.ended - began

    def kill(self) -> float:
        """Seconds it takes to kill all in line, in no order."""
        random.Random(1).shuffle(self.greenlets)
        began = time.perf_counter()
        gevent.killall(self.greenlets)
        return time.perf_counter() - began

    def close(self) -> None:
        """Let everybody go home."""
        gevent.killall(self.greenlets)
        self.contestant.close()

    @classmethod
    def served_turn(
        cls, build: Builder, length: int, loans: int
    ) -> Callable[[], Sample]:
        """A turn in which that many loans go to a line of that length."""

        def turn() -> Sample:
            line = cls(build(1), length)
            try:
                return Sample(line.serve(loans), 0.0, loans)
            finally:
                line.close()

        return turn

    @classmethod
    def killed_turn(
        cls, build: Builder, length: int, kills: int
    ) -> Callable[[], Sample]:
        """A turn in which lines of that length are killed, till enough have been."""

        def turn() -> Sample:
            seconds, killed = 0.0, 0
            while killed < kills / 4:
                line = cls(build(1), length)
                seconds += line.kill()
                killed += length
                line.close()
            return Sample(seconds, 0.0, killed)

        return turn
