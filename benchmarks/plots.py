"""Draw the figures of a saved run as PNG and SVG, from its numbers alone.

A pool has the same colour and mark in every picture. Ours is the thick line in front;
what only shows what is possible is grey and dashed. The colours are those of Okabe and
Ito and of Paul Tol, which colour-blind readers can distinguish; the marks help where
they are printed in grey. The same numbers give the same files, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from benchmarks import results
from benchmarks.adapters import base
from benchmarks.contention import POSSIBLE
from benchmarks.figures import Figure
from benchmarks.results import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Colour, mark and dashes of each contestant.
LOOKS = {
    base.OURS: ("#D55E00", "o", "-"),
    base.BLOCKING: ("#0072B2", "s", "-"),
    base.PLAIN: ("#56B4E9", "D", "-"),
    base.QUEUE_POOL: ("#009E73", "^", "-"),
    base.POOLED_DB: ("#CC79A7", "v", "-"),
    base.GSOCKETPOOL: ("#E69F00", "X", "-"),
    base.MYSQL_POOL: ("#332288", "P", "-"),
    base.HTTP_POOL: ("#882255", "<", "-"),
    base.PSYCOPG_POOL: ("#999933", ">", "-"),
    base.FLOOR: ("#444444", None, ":"),
    POSSIBLE: ("#777777", None, "--"),
    base.GENERATOR: ("#AAAAAA", None, "-."),
}

#: Of any other contestant.
SPARE = ("#44AA99", "h", "-")

#: Inches and dots per inch, and characters per line of the legend.
SIZE, DOTS, LEGEND = (9.0, 4.8), 100, 28

#: No random names: a picture changes only when its numbers do.
STYLE: Any = {"axes.grid": True, "grid.color": "#E4E4E4", "svg.hashsalt": "geventpool"}

#: Seconds; shorter waits are drawn as this, for 0 has no place on a logarithmic axis.
FASTEST = 1e-5


def draw(run: Run, folder: Path, names: tuple[str, ...] = ()) -> Iterator[Path]:
    """Draw the figures of a run, and yield each file when it is written.

    :param folder: where to; created if needed.
    :param names: only these; all if empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for figure in results.figures(run):
        if figure.curves and (not names or figure.name in names):
            yield from _write(figure, run["command"], folder)


def _write(figure: Figure, command: str, folder: Path) -> Iterator[Path]:
    # Imported only where something is drawn, and without a window.
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=SIZE, dpi=DOTS)
        FigureCanvasAgg(canvas)
        axes = canvas.add_axes((0.1, 0.2, 0.62, 0.66))
        for curve in figure.curves:
            style = style_of(curve.name)
            every = max(1, len(curve.x) // 8)
            y = [max(value, FASTEST) for value in curve.y]
            axes.plot(curve.x, y, **style, markersize=5.5, markevery=every)
            if curve.low:
                area = {"color": style["color"], "alpha": 0.15, "linewidth": 0}
                axes.fill_between(curve.x, curve.low, curve.high, **area)
        _scale(axes, figure)
        _add_legend(axes, figure)
        title = fill(figure.title, 85)
        canvas.text(0.02, 0.965, title, fontsize=12, fontweight="bold", va="top")
        caption = f"{fill(figure.caption, 125)}\n{shown_command(command)}"
        canvas.text(0.02, 0.022, caption, fontsize=8, color="#666666")
        for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            path = folder / f"{figure.name}.{ending}"
            canvas.savefig(path, metadata=metadata)
            yield path


def shown_command(command: str) -> str:
    """Return the command without the paths of files."""
    return re.sub(r" --(json|plots|page)[ =]\S+", "", command)


def style_of(name: str) -> dict[str, Any]:
    """Return how a contestant is drawn, in all pictures alike."""
    known = [each for each in LOOKS if name.startswith(each)]
    colour, mark, dashes = LOOKS[known[0]] if known else SPARE
    is_ours, is_variant = name.startswith(base.OURS), bool(known) and name not in LOOKS
    return {
        "color": colour,
        "marker": mark,
        # The same pool with other settings has its colour but another line.
        "linestyle": (0, (4, 1.5)) if is_variant else dashes,
        "linewidth": 3.0 if is_ours and not is_variant else 1.5,
        "zorder": 5 if is_ours else 2,
        "label": fill(name, LEGEND),
    }


def _scale(axes: Axes, figure: Figure) -> None:
    from matplotlib.ticker import EngFormatter, FuncFormatter

    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    axes.set_xscale("log")
    if figure.is_waits:
        # Each further nine of the percentile takes the same space.
        axes.invert_xaxis()
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(EngFormatter("s"))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{1 - x:.6g}"))
        return
    axes.set_xticks(sorted({x for curve in figure.curves for x in curve.x}))
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


def _add_legend(axes: Axes, figure: Figure) -> None:
    # In the order in which the lines end.
    handles, _ = axes.get_legend_handles_labels()
    order = sorted(zip(figure.curves, handles), key=lambda each: -each[0].y[-1])
    legend = axes.legend(
        handles=[handle for _, handle in order],
        loc="upper left",
        bbox_to_anchor=(1.02, 1.02),
        frameon=False,
        fontsize=9,
    )
    for text in legend.get_texts():
        if text.get_text().startswith(base.OURS):
            text.set_fontweight("bold")
