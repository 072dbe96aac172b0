"""The method: how all contestants of a comparison are timed.

All contestants run in one process and take turns, round after round, each round in
another order, so that a slow moment of the machine affects all of them. The first round
only warms up. Garbage is collected before each turn and never during one. The result is
the median over the rounds with its bounds. Two contestants are compared round by round;
where the bounds of their ratio include 1, the result is "no difference".

pyperf itself times one benchmark after the other in separate workers, so a slow minute
would affect one contestant only.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import gevent
from rich.progress import Progress

T = TypeVar("T")
#: A contestant.
N = TypeVar("N")

#: How many rounds are run and discarded first.
WARM_UP = 1

#: With fewer rounds a spread says little.
FEWEST = 5

#: A standard deviation above this fraction of the mean is unsteady (pyperf's rule).
UNSTEADY = 0.1


@dataclass(frozen=True)
class Scale:
    """How much is measured: the same workloads at several sizes.

    :ivar rounds: that are counted.
    :ivar slice: seconds that one turn of a short, repeatable cycle should take.
    :ivar seconds: that one turn of a workload under contention takes.
    :ivar share: the fraction of the full number of connections and waiters.
    :ivar crowd: greenlets of a load.
    :ivar greenlets: the largest number of greenlets, where that number varies.
    """

    name: str
    rounds: int
    slice: float
    seconds: float
    share: float
    crowd: int = 200
    greenlets: int = 1000

    @property
    def long_rounds(self) -> int:
        """Rounds of what takes seconds and has thousands of values each."""
        return min(self.rounds, max(FEWEST, self.rounds // 3))

    def part(self, number: int) -> int:
        """Return this scale's share of the full *number*, at least 20."""
        return max(20, int(number * self.share))


TINY = Scale(
    "tiny", rounds=2, slice=0.0005, seconds=0.02, share=0.005, crowd=20, greenlets=30
)
QUICK = Scale("quick", rounds=7, slice=0.01, seconds=0.25, share=0.5)
FULL = Scale("full", rounds=15, slice=0.03, seconds=1.0, share=1.0)
#: All workloads together take about 25 minutes.
PAGE = Scale("page", rounds=9, slice=0.01, seconds=0.4, share=0.5)
SCALES = {scale.name: scale for scale in (TINY, QUICK, PAGE, FULL)}


@dataclass(frozen=True)
class Spread:
    """A median and its bounds.

    The bounds are the quartiles. With few values they are as far apart as it takes for
    the true median to be between them with a probability of 95 %.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        ordered = sorted(values)
        low, median, high = statistics.quantiles(ordered, n=4, method="inclusive")
        # By the normal approximation of the binomial law.
        aside = max(0, int((len(values) - 1 - 1.96 * len(values) ** 0.5) / 2))
        return cls(median, min(low, ordered[aside]), max(high, ordered[-1 - aside]))

    @property
    def width(self) -> float:
        """The distance of the bounds as a fraction of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0

    @property
    def is_no_difference(self) -> bool:
        """For a ratio: whether the bounds include 1."""
        return self.low <= 1.0 <= self.high


def is_unsteady(values: Sequence[float]) -> bool:
    """Whether these values, which should be equal, differ much."""
    if len(values) < 2:
        return False
    return statistics.stdev(values) > UNSTEADY * abs(statistics.fmean(values))


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value that this fraction does not exceed; 0 for no values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0


@dataclass(frozen=True)
class Sample:
    """One turn of one contestant: wall and CPU seconds, and the number of cycles."""

    wall: float
    cpu: float
    count: int

    @property
    def each(self) -> float:
        """Seconds per cycle."""
        return self.wall / self.count


@dataclass
class Series(Generic[T]):
    """The samples of one contestant, or the error that ended it."""

    name: str
    samples: list[T] = field(default_factory=list)
    error: str | None = None

    def spread(self, value: Callable[[T], float]) -> Spread:
        """Return the spread of one value of the samples."""
        return Spread.of([value(sample) for sample in self.samples])

    def over(self, other: Series[T], value: Callable[[T], float]) -> Spread:
        """Return the ratio of a value to that of another series, round by round.

        A round is a pair, so a disturbance of the machine cancels out.
        """
        pairs = zip(self.samples, other.samples, strict=True)
        return Spread.of([value(mine) / value(theirs) for mine, theirs in pairs])


def timed(work: Callable[[], int]) -> Sample:
    """Time one call of *work*, which returns the number of its cycles."""
    cpu, wall = time.process_time(), time.perf_counter()
    count = work()
    return Sample(time.perf_counter() - wall, time.process_time() - cpu, count)


def interleave(
    turns: Mapping[N, Callable[[], T]],
    rounds: int,
    label: str = "rounds",
    warm_up: int = WARM_UP,
) -> dict[N, Series[T]]:
    """Let all contestants take turns, and return their series by name.

    A contestant whose turn raises is out: its series has the error and no samples.
    May switch.

    :param turns: what each contestant does in its turn, by name, or by name and size.
    :param label: the name of this comparison in the progress display.
    :param warm_up: how many rounds are discarded first.
    """
    series: dict[N, Series[T]] = {name: Series(str(name)) for name in turns}
    names = list(turns)
    # Objects from before the first turn are not scanned before each turn: that would
    # take longer than many a turn, and fill the processor's caches.
    gc.collect()
    gc.freeze()
    try:
        # Drawn between two turns and never during one: a display that refreshes itself
        # would, on patched threads, run in the middle of a measurement.
        with Progress(
            auto_refresh=False, transient=True, disable=not sys.stdout.isatty()
        ) as bars:
            bar = bars.add_task(label, total=(warm_up + rounds) * len(names))
            for number in range(-warm_up, rounds):
                for name in names:
                    what = f"{label}: {name}"
                    bars.update(bar, advance=1, description=what, refresh=True)
                    if series[name].error is None:
                        _take(series[name], turns[name], counts=number >= 0)
                names.append(names.pop(0))
    finally:
        gc.unfreeze()
    return series


def _take(entry: Series[T], turn: Callable[[], T], counts: bool) -> None:
    gc.collect()
    gc.disable()
    try:
        sample = turn()
        if counts:
            entry.samples.append(sample)
    # A peer may fail in any way, also by a timeout of ours, which is a BaseException.
    # The table then says so, and the others continue.
    except (Exception, gevent.Timeout) as error:
        entry.samples.clear()
        entry.error = f"{type(error).__name__}: {error}"
    finally:
        gc.enable()


def calibrated(cycles: Callable[[int], object], seconds: float) -> int:
    """Return how many cycles take about *seconds*; at least 10."""
    count = 10
    # What happens once, in the first cycles, must not be counted.
    cycles(count)
    while True:
        began = time.perf_counter()
        cycles(count)
        took = time.perf_counter() - began
        if took >= seconds / 4:
            return max(10, int(count * seconds / took))
        count *= 4


def over(
    series: Mapping[str, Series[T]], name: str, other: str, value: Callable[[T], float]
) -> Spread | None:
    """Return the ratio of two contestants; None unless both have samples."""
    mine, theirs = series.get(name), series.get(other)
    if mine is None or theirs is None or not mine.samples or not theirs.samples:
        return None
    return mine.over(theirs, value)


def best_of(
    series: Mapping[str, Series[T]], names: Iterable[str], value: Callable[[T], float]
) -> str | None:
    """Return the contestant of these with the highest median; None if none ran."""
    ran = [series[name] for name in names if name in series]
    ran = [entry for entry in ran if entry.samples]
    best = max(ran, key=lambda entry: entry.spread(value).median, default=None)
    return best.name if best else None
