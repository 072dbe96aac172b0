"""Distributions of durations, kept in fixed buckets.

A histogram is a list of integers: to note a duration takes no lock and cannot switch,
so it works in the hub and on the path of a loan. Knows nothing of pools.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

__all__ = ["BOUNDS", "MANY", "Distribution", "Histogram"]

#: So many durations are counted at once.
MANY = 500

#: Upper bounds of the buckets, in seconds: 10 microseconds to 50 seconds, in steps of
#: 1, 2 and 5. One more bucket has what took longer.
BOUNDS = tuple(
    float(f"{digit}e{power}") for power in range(-5, 2) for digit in (1, 2, 5)
)


@dataclass(frozen=True)
class Distribution:
    """What a histogram had counted at one moment.

    :param counts: the number of durations in each bucket; the buckets end at
        :data:`BOUNDS`, and the last one has no end.
    :param total: the sum of all durations, in seconds.
    """

    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    total: float = 0.0

    @property
    def count(self) -> int:
        """The number of durations."""
        return sum(self.counts)

    @property
    def p50(self) -> float | None:
        """The median, in seconds; None: nothing was counted."""
        return self.quantile(0.5)

    @property
    def p95(self) -> float | None:
        """The duration that 95 % do not exceed, in seconds; None as for p50."""
        return self.quantile(0.95)

    @property
    def p99(self) -> float | None:
        """The duration that 99 % do not exceed, in seconds; None as for p50."""
        return self.quantile(0.99)

    def quantile(self, share: float) -> float | None:
        """The duration that *share* of all durations do not exceed, in seconds.

        It is interpolated inside its bucket. What is longer than the last bound counts
        as that bound.

        :param share: 0 to 1.
        :return: None: nothing was counted.
        """
        rank = share * self.count
        if not self.count:
            return None
        below = 0
        lower = 0.0
        for upper, number in zip(BOUNDS, self.counts, strict=False):
            if number and below + number >= rank:
                return lower + (upper - lower) * (rank - below) / number
            below += number
            lower = upper
        return lower

    def plus(self, other: Distribution) -> Distribution:
        """Both together."""
        pairs = zip(self.counts, other.counts, strict=True)
        return Distribution(tuple(a + b for a, b in pairs), self.total + other.total)


class Histogram:
    """Counts durations; :meth:`snapshot` returns what was counted."""

    __slots__ = ("_counts", "_total", "new")

    def __init__(self) -> None:
        #: as in a Distribution
        self._counts = [0] * (len(BOUNDS) + 1)
        self._total = 0.0
        #: durations that are not counted yet. Counting many at once takes half the
        #: time, so a caller may append to it, and call count() when it has MANY.
        self.new: list[float] = []

    def observe(self, seconds: float) -> None:
        """Count a duration. Never switches."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._total += seconds

    def count(self) -> None:
        """Count the durations in *new*, and empty it. Never switches."""
        # A finalizer that runs meanwhile may append to it.
        durations = self.new[:]
        del self.new[: len(durations)]
        self._total += sum(durations)
        durations.sort()
        start = 0
        for number, bound in enumerate(BOUNDS):
            end = bisect_right(durations, bound, start)
            self._counts[number] += end - start
            start = end
        self._counts[-1] += len(durations) - start

    def snapshot(self, zeros: int = 0) -> Distribution:
        """What was counted so far; does not change any more.

        :param zeros: so many durations of no length are added.
        """
        self.count()
        first, *others = self._counts
        return Distribution((first + zeros, *others), self._total)
