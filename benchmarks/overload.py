"""How much useful work is left when more arrives than the connections can do?

Requests arrive at random at a fixed rate (a Poisson process), whatever becomes of the
earlier ones, at 0.8, 1.2, 2 and 4 times the capacity of 10 connections held for 50 ms.
Every caller gives up 1.5 s after its arrival, and a reply after that is worth nothing.
The table shows the replies in time as a fraction of the capacity.

Requests and loans are in one process. If it has not enough CPU time to send so many
requests, they are sent late and loans last longer, and the goodput is that of the
machine. So loans are long: with 10 ms, 4 times the capacity are 4,000 requests in a
second, and on two busy cores the goodput of every pool halves. The column "late" tells
whether the requests were sent in time, and a note says so where they were not.

A pool that serves in order serves everybody just before they give up: all connections
are busy, and nobody has a reply in time.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from functools import partial

import gevent

from benchmarks import adapters
from benchmarks.adapters import OURS, Builder, Builders, PoolAdapter
from benchmarks.adapters.base import CONNECTIONS
from benchmarks.report import Column, Report, duration, per_cent
from benchmarks.rounds import Scale, percentile

#: Seconds that a loan lasts; and where only the benchmark itself is tried.
HOLD, SHORT_HOLD = 0.05, 0.01

#: Loans after whose time a caller gives up.
PATIENCE = 30

#: The fewest loans that a connection makes while goodput is measured: the first and the
#: last one are only partly within that time.
LOANS = 40

#: Requests that are sent later than this part of a caller's patience were limited by
#: the machine.
LATE = 0.1

#: Arrivals as a multiple of the capacity.
RATES = (0.8, 1.2, 2.0, 4.0)

ADMISSION = f"{OURS}, admission=True"


@dataclass(frozen=True)
class Result:
    """What became of the requests, after the load had become steady.

    :ivar goodput: replies in time, as a fraction of the capacity.
    :ivar failed: the fraction of the requests without a reply in time.
    :ivar late: seconds after which a request was sent, p99.
    :ivar cpu_each: CPU seconds of the whole process for each request.
    """

    goodput: float
    failed: float
    arrived: int
    refused: int
    late: float
    cpu_each: float


@dataclass
class Request:
    """One request: when it was due, when its reply came in time, was it refused.

    :ivar hold: seconds that its loan lasts.
    :ivar sent: when it was really sent.
    """

    arrived: float
    hold: float
    sent: float = 0.0
    replied: float = 0.0
    is_refused: bool = False

    def run(self, pool: PoolAdapter) -> None:
        """Borrow a connection, hold it, and give it back. May switch."""
        self.sent = time.perf_counter()
        with gevent.Timeout(PATIENCE * self.hold, False):
            try:
                conn = pool.acquire()
            except pool.refusals:
                self.is_refused = True
                return
            try:
                gevent.sleep(self.hold)
            finally:
                pool.release(conn)
            self.replied = time.perf_counter()


COLUMNS = (
    Column("goodput", lambda each: each.goodput, "", True, per_cent, to=()),
    Column("failed", lambda each: each.failed, "", text=per_cent),
    Column("arrived", lambda each: each.arrived, ""),
    Column("refused", lambda each: each.refused, ""),
    Column("late", lambda each: each.late),
    Column("CPU each", lambda each: each.cpu_each),
)


def run(scale: Scale) -> Report:
    """Send each rate of requests to every pool. May switch."""
    report = Report("overload", "how much useful work is left under overload?")
    builders, report.missing = adapters.installed()
    fake = adapters.ours.fake
    ours: Builders = {OURS: fake, ADMISSION: partial(fake, admission=True)}
    contestants = {**ours, **builders, **ours}
    rates, hold, loans = RATES, HOLD, LOANS
    if scale.name == "tiny":
        rates, contestants = RATES[2:3], ours
        hold, loans = SHORT_HOLD, 10
    seconds = max(2 * scale.seconds, loans * hold)
    for rate in rates:
        how = f"{rate:g} times the capacity"
        table = report.compare(
            f"{rate:g} times what {CONNECTIONS} connections held {duration(hold)} can "
            f"do, callers give up after {duration(PATIENCE * hold)}",
            {
                name: partial(offered, build, rate, seconds, hold)
                for name, build in contestants.items()
            },
            max(1, scale.rounds // 5),
            COLUMNS,
            # Each turn has a time to become steady.
            warm_up=0,
        )
        text = "goodput: replies in time, of what the connections can serve; late: how "
        text += "long after its time a request was sent, p99"
        table.notes.append(text)
        late = table.spread(ADMISSION, lambda each: each.late)
        if late is not None and late.median > LATE * PATIENCE * hold:
            table.notes.append(
                f"requests were sent {duration(late.median)} late: the limit was this "
                "machine, and the goodput is not that of the pools"
            )
        if rate > 1.5:
            goodput = table.spread(ADMISSION, lambda each: each.goodput)
            report.target(f"goodput at {how}", goodput, 0.9, at_least=True)
        elif rate < 1:
            failed = table.spread(ADMISSION, lambda each: each.failed)
            report.target(f"failed at {how}", failed, 0.01)
    return report


def offered(build: Builder, rate: float, seconds: float, hold: float) -> Result:
    """Send requests at *rate* times the capacity to a new pool. May switch.

    :param seconds: for which the steady load is measured.
    :param hold: seconds that each loan lasts.
    """
    capacity = CONNECTIONS / hold
    chance = random.Random(11)
    pool = build(CONNECTIONS)
    requests: list[Request] = []
    greenlets: list[gevent.Greenlet[..., None]] = []
    cpu, due = time.process_time(), time.perf_counter()
    # By then the first callers have given up, and the load is steady.
    begin = due + 1.2 * PATIENCE * hold
    end = begin + seconds
    while (due := due + chance.expovariate(rate * capacity)) < end:
        gevent.sleep(max(0.0, due - time.perf_counter()))
        requests.append(Request(due, hold))
        greenlets.append(gevent.spawn(requests[-1].run, pool))
    gevent.joinall(greenlets, timeout=2 * PATIENCE * hold)
    cpu = time.process_time() - cpu
    gevent.killall(greenlets)
    adapters.close(pool)
    steady = [each for each in requests if begin <= each.arrived < end]
    in_time = sum(begin <= each.replied < end for each in requests)
    return Result(
        goodput=in_time / (seconds * capacity),
        failed=sum(not each.replied for each in steady) / max(1, len(steady)),
        arrived=len(steady),
        refused=sum(each.is_refused for each in steady),
        late=percentile([(each.sent or end) - each.arrived for each in steady], 0.99),
        cpu_each=cpu / len(requests),
    )
