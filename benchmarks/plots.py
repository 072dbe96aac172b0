"""Draw the figures of a saved run as PNG and SVG, from its numbers alone.

A pool has the same colour and mark in every picture. Ours is the thick line in front;
what only shows what is possible is grey and dashed. The colours are those of Okabe and
Ito and of Paul Tol, which colour-blind readers can distinguish; the marks help where
they are printed in grey. The same numbers give the same files, byte for byte.
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

from benchmarks import results
from benchmarks.adapters import base
from benchmarks.curves import Curve, Figure
from benchmarks.load import GENERATOR, POSSIBLE
from benchmarks.results import Run

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
    base.OURS: Look("#D55E00", "o"),
    base.BLOCKING: Look("#0072B2", "s"),
    base.PLAIN: Look("#56B4E9", "D"),
    base.QUEUE_POOL: Look("#009E73", "^"),
    base.POOLED_DB: Look("#CC79A7", "v"),
    base.GSOCKETPOOL: Look("#E69F00", "X"),
    base.MYSQL_POOL: Look("#332288", "P"),
    base.HTTP_POOL: Look("#882255", "<"),
    base.PSYCOPG_POOL: Look("#999933", ">"),
    base.FLOOR: Look("#444444", "", ":"),
    POSSIBLE: Look(GREY, "", "--"),
    "a bare line": Look(GREY, "", "--"),
    GENERATOR: Look("#AAAAAA", "", "-."),
}

#: For all other names.
SPARE = tuple(Look(colour, "h") for colour in ("#44AA99", "#AA4499", "#661100"))

#: Inches and dots per inch, and characters per line of the legend.
SIZE, DOTS, LEGEND = (9.0, 4.8), 100, 28

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
    # No random names: a picture changes only when its numbers do.
    "svg.hashsalt": "geventpool",
    "svg.fonttype": "path",
    "path.simplify": True,
}

#: Seconds; shorter waits are drawn as this, for 0 has no place on a logarithmic axis.
FASTEST = 1e-5

PERCENTILES = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999)

#: Up to so many x values have their numbers on the axis.
FEW = 8


def draw(run: Run, folder: Path, names: tuple[str, ...] = ()) -> Iterator[Path]:
    """Draw the figures of a run, and yield each file when it is written.

    :param folder: where to; created if needed.
    :param names: only these; all if empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for figure in results.figures(run):
        if figure.curves and (not names or figure.name in names):
            yield from _write(figure, run["command"], folder)


def look_of(name: str) -> Look:
    """Return how a contestant is drawn, in all pictures alike."""
    for known, look in LOOKS.items():
        if name.startswith(known):
            return look
    return SPARE[sum(name.encode()) % len(SPARE)]


def _write(figure: Figure, command: str, folder: Path) -> Iterator[Path]:
    # Imported only where something is drawn, and without a window.
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=SIZE, dpi=DOTS)
        FigureCanvasAgg(canvas)
        _fill(canvas.add_axes((0.1, 0.2, 0.62, 0.66)), figure)
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
    """Return the command without the paths of files."""
    return re.sub(r" --(json|plots|compare)[ =]\S+", "", command)


def _fill(axes: Axes, figure: Figure) -> None:
    is_waits = figure.kind == "waits"
    for curve in figure.curves:
        _draw_waits(axes, curve) if is_waits else _draw_line(axes, curve)
    if figure.log_y:
        axes.set_yscale("log")
    if figure.log_x:
        axes.set_xscale("log")
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    if is_waits:
        _finish_waits(axes, figure)
    else:
        _finish_lines(axes, figure)
    if figure.log_y:
        _set_few_ticks(axes)
    if figure.unit == "s":
        text = short_or_less if is_waits else short_duration
        axes.yaxis.set_major_formatter(lambda value, _: text(value))
    elif not figure.log_y:
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _add_legend(axes, figure)


def _set_few_ticks(axes: Axes) -> None:
    # Powers of ten alone leave a short axis without any number.
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axes.get_ylim()
    digits = (1.0,) if high / low > 1000 else (1.0, 2.0, 5.0)
    axes.yaxis.set_major_locator(LogLocator(subs=digits))
    axes.yaxis.set_minor_formatter(NullFormatter())


def short_duration(seconds: float) -> str:
    """Write a round time as on an axis: 10 ms, not 10.0 ms."""
    if seconds <= 0:
        return "0"
    for unit, size in (("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3)):
        if seconds < size * 999.5:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def short_or_less(seconds: float) -> str:
    """Write a time where everything below FASTEST is drawn as that."""
    return ("≤ " if seconds <= FASTEST else "") + short_duration(seconds)


def _style_of(curve: Curve) -> dict[str, Any]:
    look = look_of(curve.name)
    is_ours = curve.name.startswith(base.OURS)
    # The same pool with other settings has its colour but another line.
    is_variant = curve.name not in LOOKS and look.dashes == "-"
    return {
        "color": look.colour,
        "linestyle": (0, (4, 1.5)) if is_variant else look.dashes,
        "linewidth": (2.0 if is_variant else 3.2) if is_ours else 1.5,
        "zorder": 5 if is_ours else 3 if look.mark else 2,
        "label": fill(curve.name, LEGEND),
        "marker": look.mark or None,
    }


def _draw_waits(axes: Axes, curve: Curve) -> None:
    points = [(_nines(x), max(y, FASTEST)) for x, y in zip(curve.x, curve.y)]
    every = (len(points) // 8 or 1, len(points) // 5 or 1)
    axes.plot(*zip(*points), **_style_of(curve), markersize=5, markevery=every)


def _nines(part: float) -> float:
    # Each further nine of the percentile takes the same space.
    return -math.log10(1 - part)


def _finish_waits(axes: Axes, figure: Figure) -> None:
    longest = max(_nines(curve.x[-1]) for curve in figure.curves)
    marks = [part for part in PERCENTILES if _nines(part) <= longest]
    axes.set_xticks([_nines(part) for part in marks])
    axes.set_xticklabels([f"{part * 100:g} %" for part in marks])
    axes.set_xlim(0, longest)
    if min(min(curve.y) for curve in figure.curves) < FASTEST:
        axes.set_ylim(bottom=FASTEST)


def _draw_line(axes: Axes, curve: Curve) -> None:
    axes.plot(curve.x, curve.y, **_style_of(curve), markersize=5.5)
    colour = look_of(curve.name).colour
    area: Any = {"color": colour, "alpha": 0.15, "linewidth": 0, "zorder": 1}
    axes.fill_between(curve.x, curve.low, curve.high, **area)


def _finish_lines(axes: Axes, figure: Figure) -> None:
    places = sorted({x for curve in figure.curves for x in curve.x})
    if len(places) <= FEW:
        axes.set_xticks(places)
    if figure.log_x:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axes.minorticks_off()
    if not figure.log_y:
        axes.set_ylim(bottom=0)


def _add_legend(axes: Axes, figure: Figure) -> None:
    # In the order in which the lines end.
    handles, labels = axes.get_legend_handles_labels()
    last = {fill(curve.name, LEGEND): curve.y[-1] for curve in figure.curves}
    order = sorted(range(len(labels)), key=lambda at: last[labels[at]], reverse=True)
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
        if text.get_text().startswith(base.OURS):
            text.set_fontweight("bold")


def main(arguments: list[str]) -> int:
    """Run ``python -m benchmarks plot FILE DIR``; return 0 if anything was drawn."""
    parser = argparse.ArgumentParser("python -m benchmarks plot")
    parser.add_argument("file", type=Path, help="what --json wrote")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    options = parser.parse_args(arguments)
    try:
        paths = list(draw(results.load(options.file), options.folder))
    except (OSError, results.NotARunError) as error:
        parser.exit(2, f"{error}\n")
    for path in paths:
        print(path)
    return 0 if paths else 1
