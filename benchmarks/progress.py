"""How far a comparison has come.

Bars are drawn between two turns and never during one: a display that refreshes itself
would, on patched threads, run in the middle of a measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

#: The display and the name of the workload; None: nothing is displayed.
_display: tuple[Progress, str] | None = None


@contextmanager
def bars(workload: str, console: Console) -> Iterator[None]:
    """Draw a bar for each :func:`step` in this block, if *console* is a terminal."""
    global _display
    if not console.is_terminal:
        yield
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("[dim]{task.fields[following]}"),
    )
    with Progress(
        *columns, console=console, transient=True, auto_refresh=False
    ) as display:
        _display = display, workload
        try:
            yield
        finally:
            _display = None


@contextmanager
def step(label: str, total: int) -> Iterator[Callable[[str], None]]:
    """Yield a function to call *before* each of *total* things with its name."""
    if _display is None:
        yield lambda following: None
        return
    display, workload = _display
    task = display.add_task(f"{workload}: {label}", total=total, following="")
    done = -1

    def tick(following: str) -> None:
        nonlocal done
        done += 1
        display.update(task, completed=done, following=following)
        display.refresh()

    try:
        yield tick
    finally:
        display.remove_task(task)
        display.refresh()
