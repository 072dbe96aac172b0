"""
How many connections a pool should have, judged by a measured curve.

The smallest size that is as good as the best: more connections than that are a burden
to the server, for each costs it memory and a place, and do nobody any good. It is
bounded by what the server allows, divided among the processes that share it.

Knows numbers only: nothing is asked or printed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.report import duration

#: Of the best throughput, so much is not worth another connection.
TOLERANCE = 0.05
#: Of the server's places, so many are left to administrators and to others.
RESERVE = 0.1
#: A process that runs for this part of the time has none left.
BUSY = 0.9
#: A loan that takes longer than it should by this part of itself met a full house.
FULL = 0.2


@dataclass(frozen=True)
class Point:
    """What one pool size gave."""

    size: int
    #: Loans per second.
    throughput: float
    #: Seconds of waiting for a connection: on average, and of the slowest hundredth.
    wait: float
    p99: float
    #: Part of the time for which this process ran.
    cpu: float
    #: Seconds a loan took longer than it should have: what a full event loop adds.
    late: float = 0.0


@dataclass(frozen=True)
class Room:
    """What the server allows and how much of it others use; None: it does not say."""

    maximum: int | None = None
    others: int = 0

    @property
    def free(self) -> int | None:
        """Places nobody uses."""
        if self.maximum is None:
            return None
        return max(0, self.maximum - self.others)

    def share(self, processes: int) -> int | None:
        """What each of so many processes may have, with some left for others."""
        if self.free is None:
            return None
        return int(self.free * (1 - RESERVE)) // processes


@dataclass(frozen=True)
class Advice:
    """A size, and why."""

    size: int
    reasons: list[str]


def sizes(cap: int, most: int) -> list[int]:
    """
    The sizes to try: from 1 to *cap*, closer where they are small.

    :param most: no more than so many of them, but at least 3 if there are.
    """
    tried, size = [], 1.0
    while size < cap:
        tried.append(int(size))
        size = max(size + 1, size * 1.4)
    tried.append(cap)
    most = max(3, most)
    if len(tried) <= most:
        return tried
    step = (len(tried) - 1) / (most - 1)
    return sorted({tried[round(number * step)] for number in range(most)})


def judged(
    curve: Sequence[Point],
    room: Room,
    greenlets: int,
    processes: int = 1,
    wait: float | None = None,
    bound: str = "",
) -> Advice:
    """
    The size this curve speaks for.

    :param curve: by size, the smallest first.
    :param wait: the longest acceptable wait of the slowest hundredth, in seconds.
    :param bound: what kept larger sizes from being tried, in words.
    """
    best = max(curve, key=lambda point: point.throughput)
    enough = [
        point
        for point in curve
        if point.throughput >= best.throughput * (1 - TOLERANCE)
    ]
    quick = [point for point in enough if wait is None or point.p99 <= wait]
    chosen = (quick or enough)[0]
    reasons = [_why(chosen, best)]
    if wait is not None and not quick:
        reasons.append(
            f"No size that was tried keeps the p99 wait below {duration(wait)}: with "
            f"{chosen.size} it is {duration(chosen.p99)}. Fewer greenlets per process "
            "or shorter loans would."
        )
    reasons.append(_beyond(chosen, curve[-1], greenlets, bound))
    return _within(chosen, room, processes, reasons)


def _why(chosen: Point, best: Point) -> str:
    many = f"{chosen.size} connection{'s' if chosen.size > 1 else ''}"
    gives = f"{many} gave {chosen.throughput:,.0f} loans/s"
    waits = f"with a p99 wait of {duration(chosen.p99)}"
    if chosen is best:
        return f"{gives}, the most that was measured, {waits}."
    return (
        f"{gives}, within {TOLERANCE:.0%} of the most that was measured "
        f"({best.throughput:,.0f} with {best.size}), {waits}."
    )


def _beyond(chosen: Point, last: Point, greenlets: int, bound: str) -> str:
    """What more connections would do."""
    if chosen.size >= greenlets:
        return "Every greenlet has a connection: nobody ever waits, and more are idle."
    if chosen.cpu >= BUSY:
        return (
            f"More do not help: this process runs {chosen.cpu:.0%} of the time. "
            "Another process would."
        )
    if chosen is not last and chosen.late > (chosen.size / chosen.throughput) * FULL:
        return (
            f"More do not help: each loan took {duration(chosen.late)} longer than it "
            f"should, though this process ran only {chosen.cpu:.0%} of the time. The "
            "server is busy, or this machine with other work."
        )
    if chosen is last:
        why = f" because of {bound}" if bound else ""
        return (
            f"It is the largest size that was tried{why}, and there was more to be "
            "had: a larger pool would serve more."
        )
    return (
        f"More do not help, and not for want of this process's time "
        f"({chosen.cpu:.0%}): the server or the way to it gives no more."
    )


def _within(chosen: Point, room: Room, processes: int, reasons: list[str]) -> Advice:
    share = room.share(processes)
    several = f"{processes} processes" if processes > 1 else "One process"
    if share is None:
        reasons.append("The server does not tell its limit: see that it allows these.")
        return Advice(chosen.size, reasons)
    free = f"{room.free} of {room.maximum} places nobody else uses now"
    if chosen.size <= share:
        reasons.append(
            f"{several} with {chosen.size} make {processes * chosen.size}, of {free}."
        )
        return Advice(chosen.size, reasons)
    size = max(1, share)
    reasons.append(
        f"But {several.lower()} with {chosen.size} would need "
        f"{processes * chosen.size}, and there are {free}, a tenth of which should be "
        f"left to others: so {size} for each."
    )
    return Advice(size, reasons)
