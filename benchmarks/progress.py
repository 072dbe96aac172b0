"""How far a comparison has come.

Bars are drawn between two turns and never during one: a display that refreshes itself
would, on patched threads, run in the middle of a measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

#: The display and the name of the workload; None: nothing is displayed.
_display: tuple[Progress, str] | None = None


@contextmanager
def bars(workload: str, console: Console) -> Iterator[None]:
    """Draw a bar for each :func:`step` in this block, if *console* is a terminal."""
    global _display
    if not console.is_terminal:
        yield
        return
    with Progress(console=console, transient=True, auto_refresh=False) as display:
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
    task = display.add_task(f"{workload}: {label}", total=total)
    done = -1

    def tick(following: str) -> None:
        nonlocal done
        done += 1
        text = f"{workload}: {label}, {done}/{total}: {following}"
        display.update(task, completed=done, description=text, refresh=True)

    yield tick
    display.remove_task(task)
