"""Greenlets that send requests to a real server again and again, and what they saw.

The workloads of the drivers differ in their contestants and requests, and share the
turn, the tables and the percentiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import gevent
from gevent.event import Event

from benchmarks.adapters import PoolAdapter
from benchmarks.adapters.base import CONNECTIONS
from benchmarks.report import Column, Report, Section
from benchmarks.rounds import Scale, percentile

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
    :ivar at_end: is called by each greenlet at its end, as a server does.
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

    @cached_property
    def waits(self) -> list[float]:
        """The latency at any moment.

        A greenlet that waits sends nothing else meanwhile. So a pool that serves a few
        quickly and starves the others has very few long latencies. The correction is
        Gil Tene's: a latency longer than everybody's fair interval represents the
        requests that would have been sent during it.
        """
        fair = self.greenlets / throughput(self) if self.latencies else 1.0
        waits = list(self.latencies)
        for latency in self.latencies:
            missed = int(latency / fair)
            waits += [latency - fair * each for each in range(1, missed + 1)]
        return waits or [self.wall]


def throughput(turn: Turn) -> float:
    """Return the requests per second."""
    return len(turn.latencies) / turn.wall


def cpu_each(turn: Turn) -> float:
    """Return the CPU seconds of this process per request."""
    return turn.cpu / max(1, len(turn.latencies))


def p99(turn: Turn) -> float:
    """Return the 99th percentile of the latencies."""
    return percentile(turn.waits, 0.99)


def lending(pool: PoolAdapter, talk: Callable[[Any], object]) -> Contestant:
    """Return greenlets that borrow from a pool, talk, and give back."""
    loan = pool.block or pool.loan

    def request() -> None:
        with loan() as conn:
            talk(conn)

    return Contestant([request], pool.refusals)


def turn(contestant: Contestant, greenlets: int, seconds: float) -> Turn:
    """Let so many greenlets send requests for some time. May switch."""
    done = Turn(0.0, 0.0, greenlets)
    warm, begin, clock = Event(), Event(), time.perf_counter
    end, ready = 0.0, 0

    def send(request: Callable[[], object]) -> None:
        while True:
            try:
                request()
                return
            except contestant.refusals:
                done.refused += 1
                gevent.sleep(AGAIN)

    def work(number: int) -> None:
        nonlocal ready
        request = contestant.requests[number % len(contestant.requests)]
        try:
            if contestant.warms_up:
                send(request)
            ready += 1
            if ready == greenlets:
                warm.set()
            begin.wait()
            while True:
                began = clock()
                send(request)
                done.latencies.append(clock() - began)
                if clock() >= end:
                    return
        finally:
            # An error here must not keep the others waiting.
            warm.set()
            contestant.at_end()

    working = [gevent.spawn(work, number) for number in range(greenlets)]
    if contestant.warms_up:
        warm.wait(PATIENCE)
    cpu, began = time.process_time(), clock()
    end = began + seconds
    begin.set()
    gevent.joinall(working, timeout=PATIENCE + seconds, raise_error=True)
    done.unserved = sum(not each.ready() for each in working)
    done.wall, done.cpu = clock() - began, time.process_time() - cpu
    gevent.killall(working)
    return done


@contextmanager
def without_pool(
    connect: Callable[[], Any], talk: Callable[[Any], object]
) -> Iterator[Contestant]:
    """Yield greenlets that have a connection each. May switch."""
    own = [connect() for _ in range(CONNECTIONS)]
    yield Contestant([partial(talk, conn) for conn in own])
    for conn in own:
        conn.close()


RATE = Column("requests/s", throughput, "1/s", True, to=("floor", "peer"))
P99 = Column("p99", p99, to=("peer",))
COLUMNS = (
    Column("CPU each", cpu_each),
    Column("p50", lambda each: percentile(each.waits, 0.5)),
)


def compare(
    report: Report,
    scale: Scale,
    what: str,
    contestants: Mapping[str, Contestant],
    greenlets: int = CONNECTIONS,
    after: Callable[[Turn], Turn] = lambda done: done,
    columns: Sequence[Column] = (),
    **more: Any,
) -> Section:
    """Let contestants take turns, and add their table. May switch.

    With more greenlets than connections, the best peer is that with the shortest p99.

    :param after: completes a turn.
    :param columns: further ones.
    :param more: of :meth:`~benchmarks.report.Report.compare`.
    """
    is_crowded = greenlets > CONNECTIONS
    seconds = scale.seconds / (2 if is_crowded else 4)
    turns = {
        name: lambda each=each: after(turn(each, greenlets, seconds))
        for name, each in contestants.items()
    }
    section = report.compare(
        f"{what}, {greenlets} greenlets on {CONNECTIONS} connections",
        turns,
        scale.long_rounds if is_crowded else scale.rounds,
        [*((P99, RATE) if is_crowded else (RATE, P99)), *COLUMNS, *columns],
        # The number of greenlets depends on the scale.
        key=f"{what}, {'many' if is_crowded else 'few'}",
        **more,
    )
    section.starves(lambda each: each.unserved, greenlets)
    for name, entry in section.series.items():
        refused = sum(each.refused for each in entry.samples)
        if refused:
            section.notes.append(f"{name} refused {refused:,} attempts")
    return section
