"""The table on the terminal: redrawn in place, or a line now and then elsewhere."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from benchmarks.demo.show import Show, Sight
from benchmarks.demo.stores import LIMIT
from benchmarks.report import duration, milliseconds

#: Seconds between two lines where nothing can be redrawn.
LINE_EVERY = 2.0

#: Waits are milliseconds; it all fits into 80 columns.
COLUMNS = ("", "requests", "per s", "used", "idle", "wait", "p50 ms", "p99 ms")
LAST_COLUMNS = ("sockets", "failed", "astray")


class Screen:
    """Draws a show, on a console that may or may not be a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._line_at = 0.0
        self._act = ""

    def __enter__(self) -> Screen:
        if self._console.is_terminal:
            # We refresh: its own thread would be one greenlet more in the crowd.
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        self._line_at, self._act = 0.0, ""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def draw(self, show: Show) -> None:
        """Show how it stands."""
        if self._live is not None:
            self._live.update(table(show), refresh=True)
        elif show.act != self._act or show.elapsed >= self._line_at:
            self._act = show.act
            self._line_at = show.elapsed + LINE_EVERY
            self._console.print(line(show), soft_wrap=True, highlight=False)


def table(show: Show) -> Table:
    """The show as a table."""
    title = f"{show.title}  {show.elapsed:4.1f} of {show.seconds:g} s  {show.act}"
    if show.killed:
        title += f"  ({show.killed} killed)"
    result = Table(
        title=title,
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in (*COLUMNS, *LAST_COLUMNS):
        result.add_column(column, justify="right" if column else "left", no_wrap=True)
    for sight in show.sights:
        result.add_row(*_cells(sight))
    return result


def _cells(sight: Sight) -> tuple[str, ...]:
    tally, places = sight.door.tally, sight.door.places()
    used, idle, waiting = places or ("", "", len(tally.waiting))
    return (
        sight.store.name,
        f"{tally.answered:,}",
        f"{sight.rate:,.0f}",
        str(used),
        str(idle),
        str(waiting),
        milliseconds(sight.recent.p50),
        milliseconds(sight.recent.p99),
        "down" if sight.seen is None else f"{sight.seen}/{LIMIT}",
        str(sum(tally.errors.values()) + tally.given_up),
        str(tally.astray),
    )


def line(show: Show) -> str:
    """The show as a line."""
    parts = []
    for sight in show.sights:
        seen = "down" if sight.seen is None else f"{sight.seen} sockets"
        waits = f"wait p99 {duration(sight.recent.p99)}"
        parts.append(f"{sight.store.name} {sight.rate:,.0f}/s, {seen}, {waits}")
    return f"{show.elapsed:5.1f} s  {show.act:22}  {';  '.join(parts)}"
