"""Greenlets that send requests to a real server again and again, and what they saw.

The workloads of the drivers differ in their contestants and requests, and share the
turn, the table and the percentiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import gevent
from gevent.event import Event

from benchmarks.adapters import PoolAdapter
from benchmarks.report import Column, Report, Section

#: Connections of each pool.
CONNECTIONS = 10

#: Seconds until a refused request is sent again.
AGAIN = 0.0005

#: Seconds that a turn may take beyond its time.
PATIENCE = 30.0


@dataclass(frozen=True)
class Contestant:
    """What sends requests.

    :ivar requests: send one request each. Greenlet number n calls request n modulo
        their number: one for all, or one for each greenlet.
    :ivar refusals: what is raised when there is no connection. The request is sent
        again.
    :ivar at_end: is called by each greenlet at its end.
    :ivar warms_up: whether each greenlet sends one request before the clock starts.
    """

    requests: Sequence[Callable[[], object]]
    refusals: tuple[type[Exception], ...] = ()
    at_end: Callable[[], object] = int
    warms_up: bool = True


@dataclass
class Turn:
    """What the greenlets did: time and latencies.

    :ivar refused: attempts that found no connection.
    :ivar unserved: greenlets that had not ended after the time.
    :ivar connections: at the server, where it was asked.
    """

    wall: float
    cpu: float
    greenlets: int
    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    unserved: int = 0
    connections: int = 0

    @property
    def throughput(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.wall

    @property
    def cpu_each(self) -> float:
        """CPU seconds of this process per request."""
        return self.cpu / max(1, len(self.latencies))

    @cached_property
    def waits(self) -> list[float]:
        """The latency at any moment, sorted.

        A greenlet that waits sends nothing else meanwhile. So a pool that serves a few
        quickly and starves the others has very few long latencies. The correction is
        Gil Tene's: a latency longer than everybody's fair interval represents the
        requests that would have been sent during it.
        """
        fair = self.greenlets / self.throughput if self.latencies else 1.0
        waits = list(self.latencies)
        for latency in self.latencies:
            missed = int(latency / fair)
            waits += [latency - fair * each for each in range(1, missed + 1)]
        return sorted(waits) or [self.wall]

    def latency(self, part: float) -> float:
        """Return the latency that this fraction does not exceed."""
        return self.waits[min(len(self.waits) - 1, int(part * len(self.waits)))]


def throughput(turn: Turn) -> float:
    return turn.throughput


def cpu_each(turn: Turn) -> float:
    return turn.cpu_each


def p99(turn: Turn) -> float:
    return turn.latency(0.99)


def lending(pool: PoolAdapter, talk: Callable[[Any], object]) -> Contestant:
    """Return greenlets that borrow from a pool, talk, and give back."""
    loan = pool.block or pool.loan

    def request() -> None:
        with loan() as conn:
            talk(conn)

    return Contestant([request], pool.refusals)


def turn(contestant: Contestant, greenlets: int, seconds: float) -> Turn:
    """Let so many greenlets send requests for some time. May switch."""
    crowd = _Crowd(contestant, greenlets)
    return crowd.run(seconds)


class _Crowd:
    def __init__(self, contestant: Contestant, size: int) -> None:
        self._contestant = contestant
        self._latencies: list[float] = []
        self._refused = self._warm = 0
        self._end = 0.0
        self._is_warm, self._begin = Event(), Event()
        self._greenlets = [gevent.spawn(self._work, number) for number in range(size)]

    def run(self, seconds: float) -> Turn:
        if self._contestant.warms_up:
            self._is_warm.wait(PATIENCE)
        cpu, began = time.process_time(), time.perf_counter()
        self._end = began + seconds
        self._begin.set()
        gevent.joinall(self._greenlets, timeout=PATIENCE + seconds, raise_error=True)
        unserved = sum(not each.ready() for each in self._greenlets)
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        size = len(self._greenlets)
        gevent.killall(self._greenlets)
        return Turn(wall, cpu, size, self._latencies, self._refused, unserved)

    def _work(self, number: int) -> None:
        requests, clock = self._contestant.requests, time.perf_counter
        request = requests[number % len(requests)]
        try:
            if self._contestant.warms_up:
                self._send(request)
            self._warm += 1
            if self._warm == len(self._greenlets):
                self._is_warm.set()
            self._begin.wait()
            while True:
                began = clock()
                self._send(request)
                self._latencies.append(clock() - began)
                if clock() >= self._end:
                    return
        finally:
            # An error here must not keep the others waiting.
            self._is_warm.set()
            self._contestant.at_end()

    def _send(self, request: Callable[[], object]) -> None:
        while True:
            try:
                request()
                return
            except self._contestant.refusals:
                self._refused += 1
                gevent.sleep(AGAIN)


@contextmanager
def closing(pools: Mapping[str, PoolAdapter]) -> Any:
    """Close the pools at the end of the block. May switch."""
    with ExitStack() as stack:
        for pool in pools.values():
            stack.callback(pool.close)
        yield pools


RATE = Column("requests/s", throughput, "1/s", True, to=("floor", "peer"))
P99 = Column("p99", p99, to=("peer",))
COLUMNS = (
    Column("CPU each", cpu_each),
    Column("p50", lambda each: each.latency(0.5)),
)


def compare(
    report: Report,
    title: str,
    contestants: Mapping[str, Contestant],
    greenlets: int,
    seconds: float,
    rounds: int,
    *,
    rivals: Sequence[str],
    floor: str | None = None,
    by_p99: bool = False,
    after: Callable[[Turn], Turn] = lambda done: done,
    columns: Sequence[Column] = (),
    key: str = "",
) -> Section:
    """Let contestants take turns, and add their table. May switch.

    :param rivals: the best of them is the peer that the table compares with.
    :param by_p99: whether it is the one with the shortest p99, not with the most
        requests.
    :param after: completes a turn.
    :param columns: further ones.
    """
    turns = {
        name: lambda each=each: after(turn(each, greenlets, seconds))
        for name, each in contestants.items()
    }
    shown = [P99, RATE, *COLUMNS] if by_p99 else [RATE, *COLUMNS, P99]
    section = report.compare(
        title, turns, rounds, [*shown, *columns], key=key, floor=floor, rivals=rivals
    )
    section.starves(lambda each: each.unserved, greenlets)
    for name, entry in section.series.items():
        refused = sum(each.refused for each in entry.samples)
        if refused:
            section.notes.append(f"{name} refused {refused:,} attempts")
    return section
