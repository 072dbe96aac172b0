"""
What a workload has to show as pictures: curves as plain numbers.

A figure goes into the JSON file as it is, so that it can be drawn again, later and
elsewhere. It knows how waits become a latency curve and loans per greenlet a curve of
shares, and nothing of colours, fonts or files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.rounds import Spread

Kind = Literal["waits", "shares", "lines"]

#: Points of a latency curve for each further nine of its percentiles.
POINTS = 20


@dataclass(frozen=True)
class Curve:
    """One contestant's line; ``low`` and ``high`` bound each y, or are empty."""

    name: str
    x: list[float]
    y: list[float]
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    #: What the legend says of it beside the name.
    remark: str = ""


@dataclass(frozen=True)
class Figure:
    """
    A picture of several contestants.

    :ivar name: the file's name without its ending; no other figure has it.
    :ivar kind: "waits" has percentiles as parts of 1 on its x axis, "shares" has
        greenlets, "lines" anything.
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
        """
        Latency curves: how long the wait is that so many of all waits keep below.

        :param waits: seconds of every wait, in any order, by contestant.
        """
        curves = [
            Curve(contestant, *_latency(sorted(seconds)))
            for contestant, seconds in waits.items()
            if seconds
        ]
        labels = ("part of all waits that are no longer", "wait")
        return cls(name, "waits", title, caption, *labels, curves, log_y=True, unit="s")

    @classmethod
    def of_shares(
        cls, name: str, title: str, caption: str, shares: Mapping[str, Sequence[float]]
    ) -> Figure:
        """
        What each greenlet got, beside what it should have had, the poorest first.

        :param shares: loans of each greenlet, in any order, by contestant.
        """
        curves = [
            _shares(contestant, sorted(counts))
            for contestant, counts in shares.items()
            if sum(counts)
        ]
        labels = ("greenlets, the poorest to the left", "loans, of an equal share")
        return cls(name, "shares", title, caption, *labels, curves)

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
        """
        Anything against a number, with its spread.

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
        """The figure that was saved as plain data."""
        curves = [Curve(**curve) for curve in plain["curves"]]
        return cls(**{**plain, "curves": curves})


def jain(counts: Sequence[float]) -> float:
    """Jain's index: 1 if all got the same, 1/n if one got everything, 0 for nothing."""
    squares = sum(count * count for count in counts)
    return float(sum(counts) ** 2 / (len(counts) * squares)) if squares else 0.0


def _latency(waits: list[float]) -> tuple[list[float], list[float]]:
    # As far to the right as there is more than one wait to tell of.
    parts = list(_parts(len(waits)))
    return parts, [waits[min(len(waits) - 1, int(part * len(waits)))] for part in parts]


def _parts(count: int) -> Iterator[float]:
    steps = int(math.log10(count) * POINTS)
    yield from (1 - 10 ** (-number / POINTS) for number in range(steps))
    yield 1 - 1 / count


def _shares(contestant: str, counts: list[float]) -> Curve:
    equal = sum(counts) / len(counts)
    ranks = [float(rank) for rank in range(1, len(counts) + 1)]
    remark = f"Jain {jain(counts):.2f}"
    return Curve(contestant, ranks, [count / equal for count in counts], remark=remark)


def _line(contestant: str, points: list[tuple[float, Spread]]) -> Curve:
    return Curve(
        contestant,
        [float(x) for x, _ in points],
        [spread.median for _, spread in points],
        [spread.low for _, spread in points],
        [spread.high for _, spread in points],
    )
