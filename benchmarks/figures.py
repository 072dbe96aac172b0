"""The curves that a workload shows, as plain numbers.

A figure is saved as it is with the numbers, so that it can be drawn later and
elsewhere. :mod:`benchmarks.plots` draws it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

from benchmarks.rounds import Series

#: Points of a latency curve for each further nine of the percentile.
POINTS = 20


@dataclass(frozen=True)
class Curve:
    """The line of one contestant; *low* and *high* bound each y, or are empty."""

    name: str
    x: list[float]
    y: list[float]
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Figure:
    """A picture of several contestants.

    :ivar name: the unique name of its file, without extension.
    :ivar title: the message, as a sentence made from the numbers.
    :ivar caption: what was done, in words.
    :ivar is_waits: whether it is a latency curve: x is the fraction of the waits that
        are longer, y the wait in seconds, and both axes are logarithmic.
    """

    name: str
    title: str
    caption: str
    x_label: str
    y_label: str
    curves: list[Curve]
    is_waits: bool = False

    @classmethod
    def of_waits(
        cls, name: str, title: str, caption: str, waits: Mapping[str, Sequence[float]]
    ) -> Figure:
        """Return latency curves: the wait that a fraction of all waits does not exceed.

        :param waits: seconds of every wait, in any order, by contestant.
        """
        curves = [
            Curve(contestant, *_latency(sorted(seconds)))
            for contestant, seconds in waits.items()
            if seconds
        ]
        labels = ("fraction of all waits that are not longer", "wait")
        return cls(name, title, caption, *labels, curves, is_waits=True)

    @classmethod
    def of_sizes(
        cls,
        name: str,
        title: str,
        caption: str,
        labels: tuple[str, str],
        sizes: Mapping[int, Mapping[str, Series[Any]]],
        value: Callable[[Any], float],
    ) -> Figure:
        """Return any quantity against a number, with its spread.

        :param labels: of the axes.
        :param sizes: the series at each x, by contestant.
        """
        lines: dict[str, list[tuple[float, ...]]] = {}
        for x, series in sorted(sizes.items()):
            for entry in series.values():
                if entry.samples:
                    point = float(x), *astuple(entry.spread(value))
                    lines.setdefault(entry.name, []).append(point)
        curves = [
            Curve(contestant, *map(list, zip(*points)))
            for contestant, points in lines.items()
        ]
        return cls(name, title, caption, *labels, curves)

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any]) -> Figure:
        """Return a figure that was saved as plain data."""
        curves = [Curve(**curve) for curve in plain["curves"]]
        return cls(**{**plain, "curves": curves})


def _latency(waits: list[float]) -> tuple[list[float], list[float]]:
    # As far to the right as there is more than one wait.
    steps = int(math.log10(len(waits)) * POINTS)
    longer = [10 ** (-number / POINTS) for number in range(steps)] + [1 / len(waits)]
    last = len(waits) - 1
    return longer, [waits[min(last, int((1 - part) * len(waits)))] for part in longer]
