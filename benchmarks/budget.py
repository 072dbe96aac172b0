"""What does one limit for all workers of a host cost, and does it hold?

Eight worker processes share 40 connections to one server. The load is in one worker, in
all of them, or wanders. The peers are what is done without a budget: one pool with all
connections, and eight pools with an equal part each.

``python -m benchmarks.budget SECONDS`` lets the load wander for so long, while each
second a worker is killed by SIGKILL and replaced, and each minute all are replaced by
new ones that run beside them for a while. It prints what the server saw.
"""

from __future__ import annotations

import random
import signal
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from benchmarks.report import Column, Report
from benchmarks.rounds import Scale, Spread
from tests.budget.host import TOTAL, Host, Worker

WORKERS = 8

SHARED, APART = "geventpool, one budget", "geventpool, eight pools of 5"
SINGLE = "geventpool, one pool of 40"


@dataclass(frozen=True)
class Turn:
    """Loans and dials in a second, and the most connections at the server."""

    loans: float
    dials: float
    most: int


COLUMNS = [
    Column("loans/s", lambda turn: turn.loans, "1/s", more_is_better=True, to=()),
    Column("dials/s", lambda turn: turn.dials, "1/s"),
    Column("open at most", lambda turn: turn.most, "1"),
]


def run(scale: Scale) -> Report:
    """Measure throughput, and the time to a fair share. May switch."""
    report = Report("budget", "what does one limit for all workers cost?")
    with ExitStack() as stack:
        hosts = {
            SHARED: Host(WORKERS, TOTAL, budget=True),
            APART: Host(WORKERS, TOTAL // WORKERS, budget=False),
            SINGLE: Host(1, TOTAL, budget=False),
        }
        for host in hosts.values():
            stack.callback(host.close)
        seconds = max(0.2, scale.seconds)
        rounds = min(scale.long_rounds, 7)
        for title, users, peer in (
            ("all load in one worker", [80] + [0] * (WORKERS - 1), SINGLE),
            ("the same load in each worker", [10] * WORKERS, APART),
        ):
            turns = {
                name: partial(turn, hosts[name], users, seconds)
                for name in (SHARED, peer)
            }
            table = report.compare(title, turns, rounds, COLUMNS)
            over = table.over(SHARED, peer, lambda turn: turn.loans)
            report.target(f"loans, {title}", over, 0.95, at_least=True)
            most = table.spread(SHARED, lambda turn: turn.most)
            report.target(f"open at most, {title}", most, TOTAL)
        waits = Spread.of([newcomer(hosts[SHARED]) for _ in range(rounds)])
        report.target("seconds until a worker has its fair share", waits, 0.5)
    return report


def turn(host: Host, users: list[int], seconds: float) -> Turn:
    """Have a load for so long, and no load before and after."""
    for worker, number in zip(host.workers, users):
        worker.load(number)
    # Until the places are where they are wanted.
    time.sleep(0.5)
    host.seen()
    began = time.monotonic()
    for worker, number in zip(host.workers, users):
        worker.load(number)
    time.sleep(seconds)
    loans = sum(worker.load(0)["loans"] for worker in host.workers)
    took = time.monotonic() - began
    most, opened = host.seen()
    return Turn(loans / took, opened / took, most)


def newcomer(host: Host) -> float:
    """Seconds until a worker that begins to want has half of the places."""
    first, second = host.workers[:2]
    first.load(80)
    time.sleep(1)
    began = time.monotonic()
    second.load(80)
    while second.load(80)["size"] < TOTAL // 2 and time.monotonic() < began + 5:
        time.sleep(0.005)
    took = time.monotonic() - began
    first.load(0)
    second.load(0)
    time.sleep(0.5)
    return took


def wander(seconds: float) -> int:
    """Let the load wander, kill workers, and replace all of them each minute.

    :return: 0 if there were never more connections than the total.
    """
    from geventpool import Budget

    host = Host(WORKERS, TOTAL, budget=True)
    budget = Budget(host.budget, TOTAL)
    freed: list[float] = []
    failed: list[str] = []
    old: list[Worker] = []
    most = dials = loans = 0
    began = time.monotonic()
    try:
        while time.monotonic() - began < seconds:
            step = len(freed)
            hot = step // 2 * 7 % WORKERS
            for number, worker in enumerate(host.workers):
                answer = worker.load(60 if number == hot else 6)
                loans += answer["loans"]
                failed += answer["failed"]
            time.sleep(0.5)
            if step % 60 == 30:
                old, host.workers = host.workers, [host.begin() for _ in range(WORKERS)]
            elif step % 60 == 33:
                while old:
                    old.pop().end(signal.SIGTERM)
            victim = random.randrange(WORKERS)
            killed = host.workers[victim]
            at = time.monotonic()
            killed.end()
            while any(share.pid == killed.pid for share in budget.stats().shares):
                time.sleep(0.001)
            freed.append(time.monotonic() - at)
            host.workers[victim] = host.begin()
            time.sleep(0.5)
            peak, opened = host.seen()
            most, dials = max(most, peak), dials + opened
        stats = budget.stats()
    finally:
        host.workers += old
        host.close()
    print(
        f"{seconds:g} s, {WORKERS} workers, total {TOTAL}, {len(freed)} kills: "
        f"at most {most} open at once, {loans} loans, {dials / seconds:.0f} dials/s, "
        f"{len(failed)} failed {failed[:1]}, leases of a killed worker free after "
        f"{statistics.median(freed) * 1e3:.0f} ms (median), at most "
        f"{max(freed) * 1e3:.0f} ms, {sum(each > 0.2 for each in freed)} of them after "
        f"more than 200 ms; {stats.moved} places moved"
    )
    return int(most > TOTAL)


if __name__ == "__main__":
    sys.exit(wander(float(sys.argv[1])))
