"""
The method: how all contestants of a comparison are timed.

All contestants run in one process and take turns, round after round, each round in
another order, so that a slow moment of the machine falls on all of them. The first
rounds only warm up. Garbage is collected before each turn and never during one.
What is told is the median over the rounds and between what bounds it lies; two
contestants are compared round by round, and where the bounds of that ratio lie on both
sides of 1 the honest answer is "no difference".

Of pyperf's methods these are used: the loops are calibrated until the clock can tell,
warm-up values are thrown away, a series whose standard deviation is more than a tenth
of its mean is called unsteady, the surroundings are saved with the values, and what
makes a machine unsteady is told (machine.py). Not pyperf itself: its runner times one
benchmark after the other in workers of their own, so a slow minute falls on one
contestant alone, and on a shared machine that minute is larger than what is looked
for; and a value is for it one number, where a crowd has thousands of waits and a
share for every greenlet. It does not tune the system either (``pyperf system tune``
may, before), since whoever runs this may not be allowed to.

It knows nothing of pools, tables or files.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from math import comb
from typing import Generic, TypeVar

import gevent

from benchmarks.progress import step

T = TypeVar("T")

#: How many rounds are run and thrown away before counting begins.
WARM_UP = 1

#: Of fewer rounds, no spread can be told that is worth its name.
FEWEST = 5

#: Chance of a median beyond the bounds of its spread.
DOUBT = 0.05

#: A standard deviation above this part of the mean is called unsteady (pyperf's rule).
UNSTEADY = 0.1


@dataclass(frozen=True)
class Scale:
    """How much is done: the same workloads at three sizes."""

    name: str
    #: Rounds that count.
    rounds: int
    #: Seconds one turn of a short, repeatable cycle should take.
    slice: float
    #: Seconds one turn of a workload under contention takes.
    seconds: float
    #: Part of the full number of connections and waiters that is used.
    share: float
    #: Greenlets in a crowd.
    crowd: int = 200
    #: The most greenlets a pool ever meets, where their number is what changes.
    greenlets: int = 1000

    @property
    def long_rounds(self) -> int:
        """Rounds of what takes so long that fewer must do: of seconds and thousands."""
        return min(self.rounds, max(FEWEST, self.rounds // 3))

    def part(self, number: int) -> int:
        """This scale's share of the full ``number``, at least 20."""
        return max(20, int(number * self.share))


TINY = Scale(
    "tiny", rounds=2, slice=0.0005, seconds=0.02, share=0.005, crowd=20, greenlets=30
)
QUICK = Scale("quick", rounds=7, slice=0.01, seconds=0.25, share=0.5)
FULL = Scale("full", rounds=15, slice=0.03, seconds=1.0, share=1.0)
SCALES = {scale.name: scale for scale in (TINY, QUICK, FULL)}


@dataclass(frozen=True)
class Spread:
    """
    A median, and between what bounds it lies.

    The bounds are the quartiles, or further apart where there are so few values that
    their quartiles say nothing: then as far as it takes for the true median to lie
    between them with 19 chances in 20, whatever the distribution (as between two of
    the values by the binomial law). Of fewer than six values, that is all of them.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of ``values``, of which there must be at least one."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        ordered = sorted(values)
        low, median, high = statistics.quantiles(ordered, n=4, method="inclusive")
        aside = _outside(len(ordered))
        return cls(median, min(low, ordered[aside]), max(high, ordered[-1 - aside]))

    @property
    def width(self) -> float:
        """The distance of the bounds as a part of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0

    @property
    def is_no_difference(self) -> bool:
        """Read as a ratio: does the spread lie on both sides of 1?"""
        return self.low <= 1.0 <= self.high

    def over(self, other: Spread) -> Spread:
        """
        The ratio of two spreads that were not taken together.

        Its bounds are as far apart as those of both allow: the ratio is "no
        difference" exactly where the two overlap. Only for what is above 0.
        """
        return Spread(
            self.median / other.median, self.low / other.high, self.high / other.low
        )


@cache
def _outside(count: int) -> int:
    """How many of so many values may be left aside at each end; see Spread."""
    chance, aside = 0.5**count, 0
    while True:
        chance += comb(count, aside + 1) * 0.5**count
        if 2 * chance > DOUBT:
            return aside
        aside += 1


def is_unsteady(values: Sequence[float]) -> bool:
    """Whether these values, which should all be the same, are far from it."""
    if len(values) < 2:
        return False
    return statistics.stdev(values) > UNSTEADY * abs(statistics.fmean(values))


@dataclass(frozen=True)
class Sample:
    """One turn of one contestant: seconds on the wall and of the CPU, and cycles."""

    wall: float
    cpu: float
    count: int

    @property
    def each(self) -> float:
        """Seconds one cycle took."""
        return self.wall / self.count

    @property
    def cpu_each(self) -> float:
        """Seconds of CPU one cycle took, in the whole process."""
        return self.cpu / self.count


@dataclass
class Series(Generic[T]):
    """What one contestant did over the rounds, or why it did not."""

    name: str
    samples: list[T] = field(default_factory=list)
    error: str | None = None

    def spread(self, value: Callable[[T], float]) -> Spread:
        """The spread of one value of the samples."""
        return Spread.of([value(sample) for sample in self.samples])

    def over(self, other: Series[T], value: Callable[[T], float]) -> Spread:
        """
        The ratio of a value of this series to the other's, round by round.

        A round is a pair, so what slows the machine down for a while cancels out.
        """
        pairs = zip(self.samples, other.samples, strict=True)
        return Spread.of([value(mine) / value(theirs) for mine, theirs in pairs])


def timed(work: Callable[[], int]) -> Sample:
    """The sample of one call of ``work``, which returns how many cycles it did."""
    cpu, wall = time.process_time(), time.perf_counter()
    count = work()
    return Sample(time.perf_counter() - wall, time.process_time() - cpu, count)


def interleave(
    turns: Mapping[str, Callable[[], T]], rounds: int, label: str = "rounds"
) -> dict[str, Series[T]]:
    """
    The series of every contestant. **May switch.**

    A contestant whose turn raises is out: its series keeps the error and no samples.

    :param turns: what each contestant does in its turn, by name.
    :param rounds: how many rounds count.
    :param label: what this comparison is called where its progress is shown.
    """
    series: dict[str, Series[T]] = {name: Series(name) for name in turns}
    names = list(turns)
    with _only_new_garbage(), step(label, (WARM_UP + rounds) * len(names)) as tick:
        for number in range(-WARM_UP, rounds):
            for name in names:
                entry = series[name]
                tick(name)
                if entry.error is None:
                    _take(entry, turns[name], counts=number >= 0)
            names.append(names.pop(0))
    return series


@contextmanager
def _only_new_garbage() -> Iterator[None]:
    # What is there before the first turn needs not be looked through before each: that
    # takes longer than many a turn and leaves the processor's caches full of it.
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _take(entry: Series[T], turn: Callable[[], T], counts: bool) -> None:
    gc.collect()
    gc.disable()
    try:
        sample = turn()
    # A peer may fail in any way, by a time limit of ours (a BaseException) too; the
    # table then says so, and the others go on.
    except (Exception, gevent.Timeout) as error:
        entry.samples.clear()
        entry.error = f"{type(error).__name__}: {error}"
        return
    finally:
        gc.enable()
    if counts:
        entry.samples.append(sample)


def calibrated(cycles: Callable[[int], object], seconds: float) -> int:
    """How many cycles take about ``seconds``; at least 10."""
    count = 10
    # What is done once only, in the very first cycles, must not count here.
    cycles(count)
    while True:
        began = time.perf_counter()
        cycles(count)
        took = time.perf_counter() - began
        if took >= seconds / 4:
            return max(10, int(count * seconds / took))
        count *= 4
