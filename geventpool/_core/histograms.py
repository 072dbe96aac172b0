"""Distributions of durations, kept in fixed buckets.

A histogram is a list of integers: to note a duration takes no lock and cannot switch,
so it works in the hub and on the path of a loan. Knows nothing of pools.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

__all__ = ["BOUNDS", "Distribution", "Histogram"]

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

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        #: as in a Distribution
        self.counts = [0] * (len(BOUNDS) + 1)
        #: the sum, in a list, so that a function can change it without this object
        self.total = [0.0]

    def observe(self, seconds: float) -> None:
        """Count a duration. Never switches."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total[0] += seconds

    def snapshot(self, zeros: int = 0) -> Distribution:
        """What was counted so far; does not change any more.

        :param zeros: so many durations of no length are added.
        """
        first, *others = self.counts
        return Distribution((first + zeros, *others), self.total[0])
