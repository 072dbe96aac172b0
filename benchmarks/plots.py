"""
Figures as pictures, PNG and SVG, drawn from the numbers of a saved run alone.

A pool has the same colour and mark in every picture; ours is the thick line in front,
and what is no pool but only shows what is possible is grey and dashed. The colours are
those of Okabe and Ito and of Paul Tol, which colour-blind readers can tell apart; the
marks help where they are printed in grey.

The same numbers give the same files, byte for byte.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from benchmarks import peers, saved
from benchmarks.crowds import POSSIBLE
from benchmarks.figures import Curve, Figure
from benchmarks.generator import GENERATOR
from benchmarks.saved import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Look:
    """How a contestant is drawn: colour and mark."""

    colour: str
    mark: str
    dashes: str = "-"


GREY = "#777777"

#: By the beginning of the name: "geventpool with block" looks like "geventpool".
LOOKS = {
    peers.OURS: Look("#D55E00", "o"),
    peers.BLOCKING: Look("#0072B2", "s"),
    "redis Pool": Look("#56B4E9", "D"),
    peers.QUEUE_POOL: Look("#009E73", "^"),
    peers.POOLED_DB: Look("#CC79A7", "v"),
    "gsocketpool": Look("#E69F00", "X"),
    peers.MYSQL_POOL: Look("#332288", "P"),
    peers.HTTP_POOL: Look("#882255", "<"),
    peers.PSYCOPG_POOL: Look("#999933", ">"),
    "BlockingConnectionPool": Look("#0072B2", "s"),
    "ConnectionPool": Look("#56B4E9", "D"),
    peers.FLOOR: Look("#444444", "", ":"),
    POSSIBLE: Look(GREY, "", "--"),
    "no pool": Look(GREY, "", "--"),
    "a connection each": Look(GREY, "", "--"),
    "a bare line": Look(GREY, "", "--"),
    GENERATOR: Look("#AAAAAA", "", "-."),
}
#: For names that nobody thought of.
SPARE = tuple(Look(colour, "h") for colour in ("#44AA99", "#AA4499", "#661100"))

#: Inches, and dots to the inch: 900 dots wide, what a page shows without shrinking.
SIZE = (9.0, 4.8)
#: Letters that have room in the legend.
ROOM = 28
DOTS = 100

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "axes.edgecolor": "#888888",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "axes.labelcolor": "#222222",
    # No date and no random names: a picture changes only when its numbers do.
    "svg.hashsalt": "geventpool",
    "svg.fonttype": "path",
    "path.simplify": True,
}


def draw(run: Run, folder: Path, names: tuple[str, ...] = ()) -> Iterator[Path]:
    """
    Draw the figures of a run; gives the files as they are written.

    :param folder: where to; made if it is not there.
    :param names: only these; all if empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for figure in saved.figures(run):
        if figure.curves and (not names or figure.name in names):
            yield from _write(figure, run["command"], folder)


def look_of(name: str) -> Look:
    """How a contestant is drawn, in all pictures alike."""
    for known, look in LOOKS.items():
        if name.startswith(known):
            return look
    return SPARE[sum(name.encode()) % len(SPARE)]


def _write(figure: Figure, command: str, folder: Path) -> Iterator[Path]:
    # Imported late, for whoever draws nothing; and never with a window.
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=SIZE, dpi=DOTS)
        FigureCanvasAgg(canvas)
        axes = canvas.add_axes((0.1, 0.2, 0.62, 0.66))
        _fill(axes, figure)
        title = fill(figure.title, 80) if len(figure.title) > 90 else figure.title
        large = 12.5 if len(figure.title) <= 76 else 11
        canvas.text(0.02, 0.965, title, fontsize=large, fontweight="bold", va="top")
        caption = f"{fill(figure.caption, 125)}\n{shown_command(command)}"
        canvas.text(0.02, 0.022, caption, fontsize=8, color="#666666")
        for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            path = folder / f"{figure.name}.{ending}"
            canvas.savefig(path, metadata=metadata)
            yield path


def shown_command(command: str) -> str:
    """The command without its files, which are nobody's business."""
    return re.sub(r" --(json|plots|compare)[ =]\S+", "", command)


def _fill(axes: Axes, figure: Figure) -> None:
    for curve in figure.curves:
        _DRAWERS[figure.kind](axes, curve)
    if figure.log_y:
        axes.set_yscale("log")
    if figure.log_x:
        axes.set_xscale("log")
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    _FINISHERS[figure.kind](axes, figure)
    if figure.log_y:
        _few_ticks(axes)
    if figure.unit == "s":
        named = short_or_less if figure.kind == "waits" else short_duration
        axes.yaxis.set_major_formatter(lambda value, _: named(value))
    elif not figure.log_y and figure.kind == "lines":
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _legend(axes, figure)


def _few_ticks(axes: Axes) -> None:
    # Powers of ten alone leave a short axis without any number.
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axes.get_ylim()
    digits = (1.0,) if high / low > 1000 else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(subs=digits))
    axes.yaxis.set_minor_formatter(NullFormatter())


def short_duration(seconds: float) -> str:
    """A round time as on an axis: 10 ms, not 10.0 ms."""
    if seconds <= 0:
        return "0"
    for unit, size in (("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3)):
        if seconds < size * 999.5:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def short_or_less(seconds: float) -> str:
    """The same where everything below FASTEST is drawn as that."""
    return ("≤ " if seconds <= FASTEST else "") + short_duration(seconds)


# The kinds of figures.


def _line_of(curve: Curve) -> dict[str, Any]:
    look = look_of(curve.name)
    ours = curve.name.startswith(peers.OURS)
    # The same pool set up in another way: its colour, but not its line.
    is_variant = curve.name not in LOOKS and look.dashes == "-"
    return {
        "color": look.colour,
        "linestyle": (0, (4, 1.5)) if is_variant else look.dashes,
        "linewidth": (2.0 if is_variant else 3.2) if ours else 1.5,
        "zorder": 5 if ours else 3 if look.mark else 2,
        "label": _label(curve),
    }


def _label(curve: Curve) -> str:
    label = f"{curve.name} ({curve.remark})" if curve.remark else curve.name
    return fill(label, ROOM)


def _waits(axes: Axes, curve: Curve) -> None:
    # A wait of no time at all has no place on a logarithmic axis.
    points = [(_nines(x), max(y, FASTEST)) for x, y in zip(curve.x, curve.y)]
    look = look_of(curve.name)
    axes.plot(
        *zip(*points),
        **_line_of(curve),
        marker=look.mark or None,
        markersize=5,
        markevery=(len(points) // 8 or 1, len(points) // 5 or 1),
    )


#: Seconds; what is shorter is drawn as this.
FASTEST = 1e-5


def _nines(part: float) -> float:
    # The logarithm of how few waits are longer: each further nine takes as much room.
    return -math.log10(1 - part)


def _finish_waits(axes: Axes, figure: Figure) -> None:
    longest = max(_nines(curve.x[-1]) for curve in figure.curves)
    marks = [part for part in PERCENTILES if _nines(part) <= longest]
    axes.set_xticks([_nines(part) for part in marks])
    axes.set_xticklabels([f"{part * 100:g} %" for part in marks])
    axes.set_xlim(0, longest)
    if min(min(curve.y) for curve in figure.curves) < FASTEST:
        axes.set_ylim(bottom=FASTEST)


PERCENTILES = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999)


def _shares(axes: Axes, curve: Curve) -> None:
    look = look_of(curve.name)
    axes.plot(
        curve.x,
        curve.y,
        **_line_of(curve),
        drawstyle="steps-mid",
        marker=look.mark or None,
        markersize=5,
        markevery=max(1, len(curve.x) // 8),
    )


def _finish_shares(axes: Axes, figure: Figure) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.axhline(1, color=GREY, linestyle="--", linewidth=1, zorder=1)
    count = max(curve.x[-1] for curve in figure.curves)
    axes.annotate(
        "everyone alike",
        (0.01, 1),
        xycoords=axes.get_yaxis_transform(),
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=8,
        color="#666666",
    )
    axes.set_xlim(0.5, count + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_yscale("symlog", linthresh=2, linscale=1.2)
    most = max(max(curve.y) for curve in figure.curves)
    ticks = [tick for tick in (0, 1, 2, 5, 10, 20, 50, 100) if tick <= most * 1.1]
    axes.set_yticks(ticks)
    axes.set_yticklabels([f"{tick}×" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(-0.06, max(2.2, most * 1.1))


def _lines(axes: Axes, curve: Curve) -> None:
    look = look_of(curve.name)
    line = _line_of(curve)
    axes.plot(curve.x, curve.y, **line, marker=look.mark or None, markersize=5.5)
    if curve.low:
        axes.fill_between(
            curve.x,
            curve.low,
            curve.high,
            color=look.colour,
            alpha=0.15,
            linewidth=0,
            zorder=1,
        )


def _finish_lines(axes: Axes, figure: Figure) -> None:
    places = sorted({x for curve in figure.curves for x in curve.x})
    if len(places) <= FEW_PLACES:
        axes.set_xticks(places)
    if figure.log_x:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axes.minorticks_off()
    if not figure.log_y:
        axes.set_ylim(bottom=0)


#: Where no more places than these were measured, each has its number on the axis.
FEW_PLACES = 8

_DRAWERS = {"waits": _waits, "shares": _shares, "lines": _lines}
_FINISHERS = {
    "waits": _finish_waits,
    "shares": _finish_shares,
    "lines": _finish_lines,
}


def _legend(axes: Axes, figure: Figure) -> None:
    # In the order in which the lines end, so that the eye need not search.
    handles, labels = axes.get_legend_handles_labels()
    last = {_label(curve): (curve.x[-1], curve.y[-1]) for curve in figure.curves}
    order = sorted(
        range(len(labels)), key=lambda place: last[labels[place]][1], reverse=True
    )
    legend = axes.legend(
        [handles[place] for place in order],
        [labels[place] for place in order],
        loc="upper left",
        bbox_to_anchor=(1.02, 1.02),
        frameon=False,
        borderaxespad=0,
        fontsize=9,
        handlelength=2.4,
    )
    for text in legend.get_texts():
        if text.get_text().startswith(peers.OURS):
            text.set_fontweight("bold")


def main(arguments: list[str]) -> int:
    """``python -m benchmarks plot FILE DIR``; 0 if anything was drawn."""
    parser = argparse.ArgumentParser("python -m benchmarks plot")
    parser.add_argument("file", type=Path, help="what --json wrote")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    options = parser.parse_args(arguments)
    try:
        paths = list(draw(saved.load(options.file), options.folder))
    except (OSError, saved.NotARunError) as error:
        parser.exit(2, f"{error}\n")
    for path in paths:
        print(path)
    return 0 if paths else 1
