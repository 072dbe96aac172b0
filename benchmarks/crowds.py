"""
Crowds of greenlets that want the few connections of a pool, and what becomes of them.

A load says what a crowd wants; a crowd is what one pool made of it; "the possible" is
what the same connections could serve without any pool.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import repeat

import gevent

from benchmarks.figures import jain
from benchmarks.generator import no_op
from benchmarks.peers import Contestant
from benchmarks.report import duration

CONNECTIONS = 10
#: Seconds each loan lasts.
HOLD = 0.001
POSSIBLE = "the possible"
#: Seconds a job may take before its pool counts as failed.
PATIENCE = 20.0


@dataclass(frozen=True)
class Crowd:
    """One turn: how many were served, how long each waited, and at what price."""

    seconds: float
    cpu: float
    #: Seconds of every wait, those that never ended included, sorted.
    waits: list[float]
    #: Loans per greenlet.
    served: list[int]
    #: The same at the time fairness is judged.
    halfway: list[int]
    refused: int

    @property
    def throughput(self) -> float:
        """Loans per second."""
        return sum(self.served) / self.seconds

    @property
    def unserved(self) -> int:
        """How many greenlets never got any."""
        return self.served.count(0)

    @property
    def cpu_each(self) -> float:
        """Seconds of CPU per loan, in the whole process."""
        return self.cpu / max(1, sum(self.served))

    @property
    def fairness(self) -> float:
        """Jain's index: 1 if all were served alike, 1/n if one got everything."""
        return jain(self.halfway)

    def wait(self, part: float) -> float:
        """The wait that ``part`` of all waits kept below; 1 gives the longest."""
        return self.waits[min(len(self.waits) - 1, int(len(self.waits) * part))]


@dataclass(frozen=True)
class Load:
    """What the crowd wants."""

    name: str = "crowd"
    greenlets: int = 200
    connections: int = CONNECTIONS
    hold: float = HOLD
    seconds: float = 1.0
    #: Whether everyone asks again at once, or lets the others run first.
    hurried: bool = True
    #: How often everyone borrows; None is till time is up.
    loans: int | None = None

    @property
    def title(self) -> str:
        """The load in words."""
        end = f"for {duration(self.seconds)}"
        if self.loans is not None:
            end = f"{self.loans} times each"
        again = "at once" if self.hurried else "after a turn of the loop"
        return (
            f"{self.name}: {self.greenlets} greenlets, {self.connections} connections, "
            f"held {duration(self.hold)}, wanted again {again}, {end}"
        )


class Stall:
    """One greenlet's place in the crowd: borrows, holds, gives back."""

    def __init__(self, contestant: Contestant, load: Load) -> None:
        self.contestant = contestant
        self.load = load
        self.waits: list[float] = []
        self.refused = 0
        self.asked_at: float | None = None
        self.ended_at: float | None = None

    def run(self) -> None:
        """Borrow as often as the load says. **May switch.**"""
        acquire, release = self.contestant.acquire, self.contestant.release
        hold, hurried = self.load.hold, self.load.hurried
        clock, sleep = time.perf_counter, gevent.sleep
        refusals = self.contestant.refusals
        turns = repeat(None) if self.load.loans is None else range(self.load.loans)
        for _ in turns:
            asked_at = self.asked_at = clock()
            while True:
                try:
                    conn = acquire()
                    break
                except refusals:
                    # A pool that refuses is asked again after the time of one loan.
                    self.refused += 1
                    sleep(hold)
            self.waits.append(clock() - asked_at)
            self.asked_at = None
            sleep(hold)
            release(conn)
            if not hurried:
                sleep(0)
        self.ended_at = clock()


def crowd(contestant: Contestant, load: Load) -> Crowd:
    """What becomes of a crowd at this contestant's door. **May switch.**"""
    stalls = [Stall(contestant, load) for _ in range(load.greenlets)]
    cpu, began = time.process_time(), time.perf_counter()
    greenlets = [gevent.spawn(stall.run) for stall in stalls]
    try:
        if load.loans is None:
            gevent.sleep(load.seconds)
            halfway = _served(stalls)
        else:
            halfway = _finish(stalls, greenlets, load.loans)
        now, spent = time.perf_counter(), time.process_time() - cpu
        waits = [wait for stall in stalls for wait in stall.waits]
        waits += [now - stall.asked_at for stall in stalls if stall.asked_at]
        return Crowd(
            max(stall.ended_at or now for stall in stalls) - began,
            spent,
            sorted(waits),
            _served(stalls),
            halfway,
            sum(stall.refused for stall in stalls),
        )
    finally:
        gevent.killall(greenlets)


def _served(stalls: list[Stall]) -> list[int]:
    return [len(stall.waits) for stall in stalls]


def _finish(
    stalls: list[Stall], greenlets: list[gevent.Greenlet[..., None]], loans: int
) -> list[int]:
    # In the end all have had the same, so fairness is looked at when half is done.
    halfway: list[int] = []
    with gevent.Timeout(PATIENCE):
        while not all(greenlet.dead for greenlet in greenlets):
            gevent.sleep(0.005)
            served = _served(stalls)
            if not halfway and sum(served) >= len(stalls) * loans / 2:
                halfway = served
    return halfway


def without_pool(load: Load) -> Crowd:
    """What is to be had: a holder for each connection, and nobody waits."""
    seats = min(load.greenlets, load.connections)
    holders = replace(load, greenlets=seats, loans=None, hurried=True)
    free = crowd(no_op(seats), holders)
    # In a crowd served in turn, all others are served between two loans of one's own,
    # and of that time one's own loan is no wait.
    hold = seats / free.throughput
    wait = (load.greenlets - seats) * hold / seats
    return Crowd(free.seconds, free.cpu, [wait], free.served, free.served, 0)
