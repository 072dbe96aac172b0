"""What does it cost to notice hang-ups at once, and to be observed?

First the same uncontended cycle with a pool that watches nothing, and with the watch as
it is (begun now and then, for nothing is done at a loan). Then with the listeners that
count and report: whatever else observes a pool becomes a row of :data:`OBSERVERS`.

Last a loan that waits, with and without the samples of holders that are taken every 50
ms while greenlets wait, and of the lines that borrow.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gevent

from benchmarks.adapters import close, ours
from benchmarks.cycle import borrowing, compare, each
from benchmarks.fakes import Fake, FakeConnector, silent
from benchmarks.report import Report
from benchmarks.rounds import Scale
from geventpool import Counters, Pool
from geventpool.sockets import is_quiet
from tests import parts

BLIND, WATCHED = "nothing watched", "watched as it is"
COUNTED, MEASURED = "observed by Counters", "with metrics"

NOT_SAMPLED, SAMPLED = "not sampled", "sampled as it is"
#: Loans that wait: greenlets, and connections.
GREENLETS, CONNECTIONS = 10, 2
#: How long a loan may take with samples, relative to one without.
ALLOWED_SAMPLES = 1.01

#: Seconds that watching, and metrics, may add to a loan.
ALLOWED_WATCH, ALLOWED_METRICS = 0.3e-6, 0.35e-6


class Blind(FakeConnector):
    """Looks at a real descriptor before each loan, and does not tell it."""

    def is_usable(self, conn: Fake) -> bool:
        """Return whether there is nothing to read."""
        return is_quiet(silent())


class Seeing(Blind):
    """Tells the descriptor, so that the event loop can watch it."""

    def fileno(self, conn: Fake) -> int:
        """Return the descriptor."""
        return silent().fileno()


def run(scale: Scale) -> Report:
    """Measure a cycle with each way of watching and observing. May switch."""
    report = Report("hangup_cost", "what does watching and observing a pool cost?")
    pools = {
        BLIND: _pool(Blind()),
        WATCHED: _pool(Seeing()),
        COUNTED: _pool(Blind(), listeners=[Counters()]),
        MEASURED: _pool(Blind()),
    }
    pools[MEASURED].measure()
    adapters = {name: ours.adapter(pool) for name, pool in pools.items()}
    cycles = {name: borrowing(each) for name, each in adapters.items()}
    more: Any = {"first": "cycle", "floor": BLIND}
    table = compare(report, scale, "one loan", cycles, **more)
    close(*adapters.values())
    alone = table.spread(BLIND, each)
    # A listener has a price of its own, which is shown and not promised.
    for name, allowed in ((WATCHED, ALLOWED_WATCH), (MEASURED, ALLOWED_METRICS)):
        limit = 1 + allowed / alone.median if alone else 0
        over = table.over(name, BLIND, each)
        report.target(f"{name}, to nothing watched", over, limit)
    waited = {
        name: Pool(FakeConnector(), max_connections=CONNECTIONS, timeout=None)
        for name in (NOT_SAMPLED, SAMPLED)
    }
    # There is no option for it, because it should cost nothing that can be measured.
    parts.idle_holds(waited[NOT_SAMPLED]).sample = int
    loans = {name: partial(_wait_for_loans, pool) for name, pool in waited.items()}
    more = {"first": "loan", "floor": NOT_SAMPLED}
    table = compare(report, scale, "one loan that waits", loans, **more)
    for pool in waited.values():
        pool.close()
    over = table.over(SAMPLED, NOT_SAMPLED, each)
    report.target(f"{SAMPLED}, to {NOT_SAMPLED}", over, ALLOWED_SAMPLES)
    return report


def _wait_for_loans(pool: Pool[Fake], number: int) -> None:
    """Have several greenlets borrow so many times together. May switch."""

    def borrow(times: int) -> None:
        for _ in range(times):
            conn = pool.acquire()
            gevent.sleep(0)
            pool.release(conn)

    each_of_them = -(-number // GREENLETS)
    gevent.joinall([gevent.spawn(borrow, each_of_them) for _ in range(GREENLETS)])


def _pool(connector: Blind, **options: Any) -> Pool[Fake]:
    return Pool(connector, initial_connections=1, max_connections=1, **options)
