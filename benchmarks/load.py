"""The load: many greenlets that want the few connections of a pool again and again.

A :class:`Load` says what the greenlets want, :func:`run_load` returns what became of
it, and :func:`without_pool` what the same connections could serve without a pool.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import repeat

import gevent

from benchmarks.adapters import Builder, PoolAdapter
from benchmarks.adapters.base import CONNECTIONS
from benchmarks.fakes import Fake
from benchmarks.report import duration

#: Seconds that each loan lasts.
HOLD = 0.001

#: What the same connections could serve without a pool.
POSSIBLE = "the possible"

#: The same load at a "pool" that lends one connection to everybody at once. No pool can
#: be measured to make more loans than this.
GENERATOR = "the generator alone"

#: Seconds that a load with a fixed number of loans may take.
PATIENCE = 20.0


@dataclass(frozen=True)
class Load:
    """What the greenlets want.

    :ivar hold: seconds that a loan lasts.
    :ivar is_greedy: whether a greenlet borrows again at once, or lets the event loop
        turn first.
    :ivar loans: how often each greenlet borrows; None: for *seconds*.
    """

    name: str = "load"
    greenlets: int = 200
    connections: int = CONNECTIONS
    hold: float = HOLD
    seconds: float = 1.0
    is_greedy: bool = True
    loans: int | None = None

    @property
    def title(self) -> str:
        """The load in words."""
        each = f"{self.loans} times each"
        end = f"for {duration(self.seconds)}" if self.loans is None else each
        again = "at once" if self.is_greedy else "after a turn of the loop"
        return (
            f"{self.name}: {self.greenlets} greenlets, {self.connections} connections, "
            f"held {duration(self.hold)}, wanted again {again}, {end}"
        )


@dataclass(frozen=True)
class Outcome:
    """What became of a load.

    :ivar waits: seconds of each wait; a wait that did not end is counted as
        long as it lasted, so that a pool cannot hide that it starves some.
    :ivar served: loans of each greenlet.
    :ivar halfway: the same when fairness is judged.
    """

    seconds: float
    cpu: float
    waits: list[float]
    served: list[int]
    halfway: list[int]
    refused: int

    @property
    def throughput(self) -> float:
        """Loans per second."""
        return sum(self.served) / self.seconds


def jain(counts: Sequence[float]) -> float:
    """Return Jain's index: 1 for equal shares, 1/n if one got all, 0 for nothing."""
    squares = sum(count * count for count in counts)
    return float(sum(counts) ** 2 / (len(counts) * squares)) if squares else 0.0


class _Borrower:
    """One greenlet of the load."""

    def __init__(self, pool: PoolAdapter, load: Load) -> None:
        self.pool = pool
        self.load = load
        self.waits: list[float] = []
        self.refused = 0
        self.waiting_since: float | None = None
        self.ended: float | None = None

    def run(self) -> None:
        """Borrow as often as the load says. May switch."""
        acquire, release = self.pool.acquire, self.pool.release
        hold, is_greedy = self.load.hold, self.load.is_greedy
        clock, sleep = time.perf_counter, gevent.sleep
        turns = repeat(None) if self.load.loans is None else range(self.load.loans)
        for _ in turns:
            began = self.waiting_since = clock()
            while True:
                try:
                    conn = acquire()
                    break
                except self.pool.refusals:
                    # Try again after the time of one loan.
                    self.refused += 1
                    sleep(hold)
            self.waits.append(clock() - began)
            self.waiting_since = None
            sleep(hold)
            release(conn)
            if not is_greedy:
                sleep(0)
        self.ended = clock()


def run_load(pool: PoolAdapter, load: Load) -> Outcome:
    """Put a load on a pool. May switch."""
    borrowers = [_Borrower(pool, load) for _ in range(load.greenlets)]
    cpu, began = time.process_time(), time.perf_counter()
    greenlets = [gevent.spawn(borrower.run) for borrower in borrowers]
    try:
        if load.loans is None:
            gevent.sleep(load.seconds)
            halfway = _served(borrowers)
        else:
            halfway = _finish(borrowers, greenlets, load.loans)
        now, spent = time.perf_counter(), time.process_time() - cpu
        waits = [wait for each in borrowers for wait in each.waits]
        waits += [now - each.waiting_since for each in borrowers if each.waiting_since]
        return Outcome(
            max(each.ended or now for each in borrowers) - began,
            spent,
            waits,
            _served(borrowers),
            halfway,
            sum(each.refused for each in borrowers),
        )
    finally:
        gevent.killall(greenlets)


def _served(borrowers: list[_Borrower]) -> list[int]:
    return [len(borrower.waits) for borrower in borrowers]


def _finish(
    borrowers: list[_Borrower], greenlets: list[gevent.Greenlet[..., None]], loans: int
) -> list[int]:
    # At the end all have had the same number, so fairness is judged at half time.
    halfway: list[int] = []
    with gevent.Timeout(PATIENCE):
        while not all(greenlet.dead for greenlet in greenlets):
            gevent.sleep(0.005)
            served = _served(borrowers)
            if not halfway and sum(served) >= len(borrowers) * loans / 2:
                halfway = served
    return halfway


def turn_of(build: Builder, load: Load) -> Callable[[], Outcome]:
    """Return a turn that puts the load on a new pool.

    A pool that lost connections to the killed greenlets of its last turn would begin
    the next one with fewer.
    """

    def turn() -> Outcome:
        pool = build(load.connections)
        try:
            return run_load(pool, load)
        finally:
            pool.close()

    return turn


def generator(limit: int) -> PoolAdapter:
    """Build no pool at all, see :data:`GENERATOR`."""
    conn = Fake()
    return PoolAdapter(GENERATOR, lambda: conn, lambda conn: None, lambda: None)


def without_pool(load: Load) -> Outcome:
    """Return what is possible: a holder for each connection. May switch."""
    holders = min(load.greenlets, load.connections)
    alone = replace(load, greenlets=holders, loans=None, is_greedy=True)
    free = run_load(generator(holders), alone)
    # If all are served in turn, each waits while all the others have their loan.
    hold = holders / free.throughput
    wait = (load.greenlets - holders) * hold / holders
    return Outcome(free.seconds, free.cpu, [wait], free.served, free.served, 0)
