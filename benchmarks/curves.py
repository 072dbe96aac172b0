"""The curves that a workload shows, as plain numbers.

A figure is saved as it is in the JSON file, so that it can be drawn later and
elsewhere. This module knows how waits become a latency curve, and nothing about
colours, fonts or files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.rounds import Spread

Kind = Literal["waits", "lines"]

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
    :ivar kind: "waits" has percentiles as fractions of 1 on the x axis, "lines" any
        number.
    :ivar title: the message, as a sentence made from the numbers.
    :ivar caption: what was done, in words.
    :ivar unit: of the y axis: "s" for times, else empty.
    """

    name: str
    kind: Kind
    title: str
    caption: str
    x_label: str
    y_label: str
    curves: list[Curve]
    log_x: bool = False
    log_y: bool = False
    unit: str = ""

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
        return cls(name, "waits", title, caption, *labels, curves, log_y=True, unit="s")

    @classmethod
    def of_lines(
        cls,
        name: str,
        title: str,
        caption: str,
        x_label: str,
        y_label: str,
        lines: Mapping[str, Mapping[float, Spread]],
        *,
        log_x: bool = True,
        log_y: bool = True,
        unit: str = "",
    ) -> Figure:
        """Return any quantity against a number, with its spread.

        :param lines: the spread at each x, by contestant.
        """
        curves = [
            _line(contestant, sorted(line.items()))
            for contestant, line in lines.items()
            if line
        ]
        labels = (x_label, y_label)
        return cls(
            name, "lines", title, caption, *labels, curves, log_x, log_y, unit
        )  # fmt: skip

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any]) -> Figure:
        """Return a figure that was saved as plain data."""
        curves = [Curve(**curve) for curve in plain["curves"]]
        return cls(**{**plain, "curves": curves})


def jain(counts: Sequence[float]) -> float:
    """Return Jain's index: 1 for equal shares, 1/n if one got all, 0 for nothing."""
    squares = sum(count * count for count in counts)
    return float(sum(counts) ** 2 / (len(counts) * squares)) if squares else 0.0


def _latency(waits: list[float]) -> tuple[list[float], list[float]]:
    # As far to the right as there is more than one wait.
    parts = list(_parts(len(waits)))
    return parts, [waits[min(len(waits) - 1, int(part * len(waits)))] for part in parts]


def _parts(count: int) -> Iterator[float]:
    steps = int(math.log10(count) * POINTS)
    yield from (1 - 10 ** (-number / POINTS) for number in range(steps))
    yield 1 - 1 / count


def _line(contestant: str, points: list[tuple[float, Spread]]) -> Curve:
    return Curve(
        contestant,
        [float(x) for x, _ in points],
        [spread.median for _, spread in points],
        [spread.low for _, spread in points],
        [spread.high for _, spread in points],
    )
