"""
How far a comparison has come: told to whoever watches, who may be nobody.

What is measured tells each step here and does not know whether anyone looks. The bars
are drawn between two turns and never during one: a display that refreshes itself
would, on patched threads, run right in the middle of what is being timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

#: Told what comes next; each call but the first means that something is done.
Tick = Callable[[str], object]
Watcher = Callable[[str, int], AbstractContextManager[Tick]]


@contextmanager
def _unwatched(label: str, total: int) -> Iterator[Tick]:
    yield lambda following: None


_watcher: Watcher = _unwatched


def step(label: str, total: int) -> AbstractContextManager[Tick]:
    """
    A block in which ``total`` things are done one after the other.

    :param label: what they are, together.
    :return: gives a function to be called *before* each of them, with its name.
    """
    return _watcher(label, total)


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Have the steps in this block told to ``watcher``."""
    global _watcher
    before, _watcher = _watcher, watcher
    try:
        yield
    finally:
        _watcher = before


@contextmanager
def bars(workload: str, console: Console) -> Iterator[None]:
    """Draw a bar for each step in this block, if ``console`` is a terminal."""
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
    with (
        Progress(
            *columns, console=console, transient=True, auto_refresh=False
        ) as shown,
        watched_by(lambda label, total: _bar(shown, f"{workload}: {label}", total)),
    ):
        yield


@contextmanager
def _bar(shown: Progress, label: str, total: int) -> Iterator[Tick]:
    task = shown.add_task(label, total=total, following="")
    done = -1

    def tick(following: str) -> None:
        nonlocal done
        done += 1
        shown.update(task, completed=done, following=following)
        shown.refresh()

    try:
        yield tick
    finally:
        shown.remove_task(task)
        shown.refresh()
