"""What does one limit for all workers of a host cost?

Eight worker processes share 40 connections to one server. The load is in one worker or
in all of them. The peers are what is done without a budget: one pool with all
connections, and eight pools with an equal part each.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from benchmarks.report import Column, Report
from benchmarks.rounds import Scale, Spread
from tests.budget.host import TOTAL, Host
from tests.budget.soak import WORKERS

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
