"""Greenlets that want something again and again, and what they saw.

The workloads of the drivers and that of fakes (``contention``) differ in their
contestants and requests, and share the turn, the tables and the percentiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, repeat
from math import inf
from typing import Any, TypeVar

import gevent
from gevent.event import AsyncResult, Event

from benchmarks.adapters import OURS, PoolAdapter
from benchmarks.adapters.base import CONNECTIONS
from benchmarks.report import Column, Report, Section
from benchmarks.rounds import Scale, percentile

#: A connection.
C = TypeVar("C", bound=Any)

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
    :ivar after: is called with each reply, outside of the time that is measured.
    :ivar again: seconds until a refused request is sent again.
    """

    requests: Sequence[Callable[[], object]]
    refusals: tuple[type[Exception], ...] = ()
    at_end: Callable[[], object] = int
    warms_up: bool = True
    after: Callable[[Any], object] = id
    again: float = AGAIN


@dataclass
class Turn:
    """What the greenlets did.

    :ivar waits: seconds of each request. One without a reply counts as long as it has
        lasted, so that a pool cannot hide that it starves some.
    :ivar served: requests of each greenlet that had a reply.
    :ivar halfway: the same when half of a fixed number of requests had one; else equal.
    :ivar refused: attempts that found no connection.
    :ivar connections: at the server, where it was asked.
    """

    wall: float
    cpu: float
    waits: list[float]
    served: list[int]
    halfway: list[int]
    refused: int = 0
    connections: int = 0

    @cached_property
    def latencies(self) -> list[float]:
        """The wait at any moment.

        A greenlet that waits sends nothing else meanwhile. So a pool that serves a few
        quickly and starves the others has very few long waits. The correction is Gil
        Tene's: a wait longer than everybody's fair interval represents the requests
        that would have been sent during it.
        """
        fair = len(self.served) / throughput(self) if any(self.served) else 1.0
        latencies = list(self.waits)
        for wait in self.waits:
            missed = int(wait / fair)
            latencies += [wait - fair * each for each in range(1, missed + 1)]
        return latencies


def throughput(turn: Turn) -> float:
    """Return the requests per second."""
    return sum(turn.served) / turn.wall


def cpu_each(turn: Turn) -> float:
    """Return the CPU seconds of this process per request."""
    return turn.cpu / max(1, sum(turn.served))


def p99(turn: Turn) -> float:
    """Return the 99th percentile of the latencies."""
    return percentile(turn.latencies, 0.99)


def unserved(turn: Turn) -> int:
    """Return how many greenlets had no reply."""
    return turn.served.count(0)


def lending(pool: PoolAdapter, talk: Callable[[Any], object]) -> Contestant:
    """Return greenlets that borrow from a pool, talk, and give back."""
    return Contestant([pool.lending(talk)], pool.refusals)


class _Sender:
    """One of the greenlets."""

    def __init__(self, contestant: Contestant, number: int) -> None:
        self.contestant = contestant
        self.request = contestant.requests[number % len(contestant.requests)]
        self.waits: list[float] = []
        self.refused = 0
        self.ready = Event()
        self.since: float | None = None
        self.ended: float | None = None

    def run(self, begin: AsyncResult[float], times: int | None) -> None:
        """Send so many requests, or until the time that *begin* tells. May switch."""
        try:
            if self.contestant.warms_up:
                self._send(range(1))
                self.waits.clear()
            self.ready.set()
            self._send(repeat(None) if times is None else range(times), begin.get())
        finally:
            # An error here must not keep the others waiting.
            self.ready.set()
            self.contestant.at_end()
            self.ended = time.perf_counter()

    def _send(self, times: Iterable[object], end: float = inf) -> None:
        request, refusals = self.request, self.contestant.refusals
        after, again = self.contestant.after, self.contestant.again
        clock, sleep = time.perf_counter, gevent.sleep
        for _ in times:
            began = self.since = clock()
            while True:
                try:
                    reply = request()
                    break
                except refusals:
                    self.refused += 1
                    sleep(again)
            now = clock()
            self.waits.append(now - began)
            self.since = None
            after(reply)
            if now >= end:
                return


def turn(
    contestant: Contestant,
    greenlets: int,
    seconds: float = 0.0,
    times: int | None = None,
    cuts: bool = False,
) -> Turn:
    """Let so many greenlets send requests for some time. May switch.

    :param times: how many requests each sends; None: for *seconds*.
    :param cuts: whether they are killed after the time, also those that wait. Else each
        sends its last request to the end.
    """
    begin: AsyncResult[float] = AsyncResult()
    senders = [_Sender(contestant, number) for number in range(greenlets)]
    tasks = [gevent.spawn(each.run, begin, times) for each in senders]
    half = gevent.Greenlet(_halfway, senders, times)
    if times:
        half.start()
    try:
        if contestant.warms_up:
            gevent.wait([each.ready for each in senders], timeout=PATIENCE)
        cpu, began = time.process_time(), time.perf_counter()
        begin.set(inf if cuts or times else began + seconds)
        limit = seconds if cuts else PATIENCE + seconds
        gevent.joinall(tasks, timeout=limit, raise_error=True)
        now, spent = time.perf_counter(), time.process_time() - cpu
        served, waits = _served(senders), [each.waits for each in senders]
        waits += [[now - each.since] for each in senders if each.since is not None]
        return Turn(
            max(each.ended or now for each in senders) - began,
            spent,
            list(chain.from_iterable(waits)),
            served,
            half.value or served,
            sum(each.refused for each in senders),
        )
    finally:
        gevent.killall([*tasks, half])


def _served(senders: Iterable[_Sender]) -> list[int]:
    return [len(each.waits) for each in senders]


def _halfway(senders: Sequence[_Sender], times: int) -> list[int]:
    # At the end all have had the same number, so fairness is judged at half time.
    while sum(served := _served(senders)) < len(senders) * times / 2:
        gevent.sleep(0.005)
    return served


@contextmanager
def own(connect: Callable[[], C], count: int = CONNECTIONS) -> Iterator[list[C]]:
    """Yield a connection for each greenlet. May switch."""
    with ExitStack() as stack:
        yield [stack.enter_context(closing(connect())) for _ in range(count)]


@contextmanager
def without_pool(
    connect: Callable[[], Any], talk: Callable[[Any], object]
) -> Iterator[Contestant]:
    """Yield greenlets that have a connection each. May switch."""
    with own(connect) as conns:
        yield Contestant([partial(talk, conn) for conn in conns])


RATE = Column("requests/s", throughput, "1/s", True, to=("floor", "peer"))
P99 = Column("p99", p99, to=("peer",))
COLUMNS = (
    Column("CPU each", cpu_each),
    Column("p50", lambda each: percentile(each.latencies, 0.5)),
)


def compare(
    report: Report,
    scale: Scale,
    what: str,
    contestants: Mapping[str, Contestant],
    greenlets: int = CONNECTIONS,
    after: Callable[[Turn], Turn] = lambda done: done,
    columns: Sequence[Column] = (),
    targets: Sequence[tuple[str, float]] = (),
    ours: str = OURS,
    **more: Any,
) -> Section:
    """Let contestants take turns, and add their table. May switch.

    With more greenlets than connections, the best peer is that with the shortest p99.

    :param after: completes a turn.
    :param columns: further ones.
    :param targets: how much *ours* must have of the throughput of others, or with more
        greenlets than connections may have of their p99. The best peer has no name.
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
        **more,
    )
    value = p99 if is_crowded else throughput
    for other, limit in targets:
        other = other or section.peer or ""
        ratio = section.over(ours, other, value)
        title = f"{what}: {value.__name__} of {ours} to {other}"
        report.target(title, ratio, limit, at_least=not is_crowded)
    section.starves(unserved, greenlets)
    for name, entry in section.series.items():
        refused = sum(each.refused for each in entry.samples)
        if refused:
            section.notes.append(f"{name} refused {refused:,} attempts")
    return section
