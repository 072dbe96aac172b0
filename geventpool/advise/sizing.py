"""The pool size that a measured curve supports: computation without input or output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Advice", "Capacity", "Point", "format_seconds", "sizes_to_try", "suggest"]

#: A gain in throughput below this fraction does not justify another connection.
TOLERANCE = 0.05

#: The fraction of the server's free connections that is left to administrators.
RESERVE = 0.1

#: A process that runs for more than this fraction of the time has no CPU time left.
BUSY = 0.9

#: A loan that exceeds its expected time by this fraction met a busy server or machine.
EXCESS = 0.2


@dataclass(frozen=True)
class Point:
    """The measurement of one pool size.

    :ivar size: connections in the pool.
    :ivar throughput: loans per second.
    :ivar mean_wait: seconds that a borrower waits for a connection on average.
    :ivar p99_wait: the 99th percentile of these waits, in seconds.
    :ivar cpu: the fraction of the time for which this process ran.
    :ivar excess: seconds that a loan took beyond one round trip and the hold time.
    """

    size: int
    throughput: float
    mean_wait: float
    p99_wait: float
    cpu: float
    excess: float = 0.0


@dataclass(frozen=True)
class Capacity:
    """How many connections the server accepts.

    :ivar maximum: the limit, None if the server does not tell it.
    :ivar used: connections that other clients have open.
    """

    maximum: int | None = None
    used: int = 0

    @property
    def free(self) -> int | None:
        """Connections that no client uses; None: the limit is unknown."""
        if self.maximum is None:
            return None
        return max(0, self.maximum - self.used)

    def per_process(self, processes: int) -> int | None:
        """Connections for each process, after the reserve; None if unknown."""
        if self.free is None:
            return None
        return int(self.free * (1 - RESERVE)) // processes


@dataclass(frozen=True)
class Advice:
    """A pool size and the reasons for it, one sentence or two each."""

    size: int
    reasons: list[str]


def format_seconds(seconds: float) -> str:
    """A duration in the unit that fits it, in ASCII."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds:.2f} s"


def sizes_to_try(largest: int, count: int) -> list[int]:
    """Pool sizes from 1 to *largest*, denser where they are small.

    :param count: return at most so many sizes, but at least 3 where there are 3.
    """
    found, size = [], 1.0
    while size < largest:
        found.append(int(size))
        size = max(size + 1, size * 1.4)
    found.append(largest)
    count = max(3, count)
    if len(found) <= count:
        return found
    step = (len(found) - 1) / (count - 1)
    return sorted({found[round(number * step)] for number in range(count)})


def suggest(
    curve: Sequence[Point],
    capacity: Capacity,
    greenlets: int,
    processes: int = 1,
    wait: float | None = None,
    bound: str = "",
) -> Advice:
    """The smallest size that is nearly as fast as the best one.

    :param curve: the measurements, smallest size first.
    :param greenlets: how many borrowers there are in one process.
    :param processes: how many processes share the server.
    :param wait: the longest acceptable p99 wait, in seconds.
    :param bound: what prevented larger sizes from being tried, in words.
    """
    best = max(curve, key=lambda point: point.throughput)
    fast = [
        point
        for point in curve
        if point.throughput >= best.throughput * (1 - TOLERANCE)
    ]
    prompt = [point for point in fast if wait is None or point.p99_wait <= wait]
    chosen = (prompt or fast)[0]
    reasons = [_measured(chosen, best)]
    if wait is not None and not prompt:
        reasons.append(
            f"No size that was tried keeps the p99 wait below {format_seconds(wait)}: "
            f"with {chosen.size} it is {format_seconds(chosen.p99_wait)}. Use fewer "
            "greenlets per process or shorter loans."
        )
    reasons.append(_effect_of_more(chosen, curve[-1], greenlets, bound))
    return _within_capacity(chosen, capacity, processes, reasons)


def _measured(chosen: Point, best: Point) -> str:
    many = f"{chosen.size} connection{'s' if chosen.size > 1 else ''}"
    rate = f"{many} gave {chosen.throughput:,.0f} loans/s"
    wait = f"with a p99 wait of {format_seconds(chosen.p99_wait)}"
    if chosen is best:
        return f"{rate}, the highest rate measured, {wait}."
    return (
        f"{rate}, within {TOLERANCE:.0%} of the highest rate measured "
        f"({best.throughput:,.0f} with {best.size}), {wait}."
    )


def _effect_of_more(chosen: Point, last: Point, greenlets: int, bound: str) -> str:
    """What more connections would change."""
    if chosen.size >= greenlets:
        return (
            "Every greenlet has its own connection: nobody waits, and more connections "
            "would stay idle."
        )
    if chosen.cpu >= BUSY:
        return (
            f"More connections do not help: this process runs {chosen.cpu:.0%} of the "
            "time. Use another process."
        )
    if chosen is last:
        why = f" because of {bound}" if bound else ""
        return (
            f"This is the largest size that was tried{why}, and the rate still grew: a "
            "larger pool would serve more."
        )
    if chosen.excess > chosen.size / chosen.throughput * EXCESS:
        return (
            "More connections do not help: each loan took "
            f"{format_seconds(chosen.excess)} longer than expected, although this "
            f"process ran only {chosen.cpu:.0%} of the time. The server is busy, or "
            "other processes use this machine."
        )
    return (
        f"More connections do not help: this process runs only {chosen.cpu:.0%} of the "
        "time, so the server or the network is the limit."
    )


def _within_capacity(
    chosen: Point, capacity: Capacity, processes: int, reasons: list[str]
) -> Advice:
    share = capacity.per_process(processes)
    several = f"{processes} processes" if processes > 1 else "One process"
    if share is None:
        reasons.append(
            "The server does not tell its limit: check that it accepts this number."
        )
        return Advice(chosen.size, reasons)
    free = f"{capacity.free} of {capacity.maximum} connections are free"
    needed = processes * chosen.size
    if chosen.size <= share:
        reasons.append(f"{several} with {chosen.size} each need {needed}; {free}.")
        return Advice(chosen.size, reasons)
    size = max(1, share)
    reasons.append(
        f"{several} with {chosen.size} each would need {needed}, but {free}, and a "
        f"tenth of these should be left to others: so {size} each."
    )
    return Advice(size, reasons)
