"""The table of the demo, and the verdict on our pools."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table

from benchmarks.demo.show import Show, Sight
from benchmarks.report import duration
from benchmarks.rounds import percentile
from benchmarks.stores import LIMIT

#: Seconds between two lines where nothing can be redrawn.
LINE_EVERY = 2.0

COLUMNS = ("", "per s", "p50", "p99", "longest", "replies", "failed", "wrong")
COLUMNS += ("sockets", "places", "back")

LEGEND = """\
per s: replies per second; p50, p99: time from a request to its reply, in the first,
calm act; longest: of the whole run, from the first attempt of a request to its reply,
for a client tries a failed request again; failed: attempts that raised an error; wrong:
replies to another request; sockets: the most that the server had at once; places:
connections that could be borrowed at once at the end; back: from the server's return to
the first reply. Replies, failed and wrong count the whole run; a request that the
client itself gave up is neither. Both runs have the same clients and the same outage.
Every pool has its defaults."""


class Screen:
    """Draws a show on a console, redrawn in place or as a line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        # Without a refreshing thread, which would be one greenlet more.
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._line_at = 0.0
        self._act = ""

    def __enter__(self) -> Screen:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._live.stop()

    def draw(self, show: Show) -> None:
        """Show the present state."""
        if self._console.is_terminal:
            title = f"{show.title}, {show.elapsed:4.1f} of {show.seconds:g} s, "
            title += f"{show.act} ({show.killed} killed)"
            self._live.update(summary([show], title), refresh=True)
        elif show.act != self._act or show.elapsed >= self._line_at:
            self._act, self._line_at = show.act, show.elapsed + LINE_EVERY
            self._console.print(line(show), soft_wrap=True, highlight=False)


def line(show: Show) -> str:
    """Return the show as a line."""
    parts = []
    for sight in show.sights:
        sockets = "down" if sight.sockets is None else f"{sight.sockets} sockets"
        account = sight.account
        counts = f"{account.answered:,} replies, {account.failed} failed"
        parts.append(f"{sight.store.name} {counts}, {sockets}")
    return f"{show.elapsed:5.1f} s  {show.act:22}  {';  '.join(parts)}"


def summary(shows: Sequence[Show], title: str) -> Table:
    """Return one row for each pool of each show, store by store."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for sights in zip(*(show.sights for show in shows), strict=True):
        for show, sight in zip(shows, sights, strict=True):
            name = f"{sight.store.name}, {show.title}"
            style = "bold" if show.title == "ours" else None
            table.add_row(name, *_cells(sight), style=style)
    return table


def _cells(sight: Sight) -> Iterator[str]:
    account = sight.account
    yield f"{sight.calm_rate:,.0f}"
    yield duration(percentile(sight.calm, 0.5))
    yield duration(percentile(sight.calm, 0.99))
    yield duration(max(sight.whole, default=0.0))
    yield from map("{:,}".format, (account.answered, account.failed, account.wrong))
    yield f"{sight.peak}/{LIMIT}"
    yield f"{sight.places}/{LIMIT}"
    yield "" if sight.back is None else duration(sight.back)


def verdict(show: Show, console: Console) -> bool:
    """Say whether our pool kept its promises, and which it did not."""
    console.print(LEGEND, style="dim", highlight=False)
    broken = [promise for sight in show.sights for promise in _broken(sight)]
    for promise in broken:
        console.print(f"FAILED  {promise}", style="red")
    if not broken:
        answered = sum(sight.account.answered for sight in show.sights)
        console.print(
            f"{answered:,} replies, none wrong; {show.killed} greenlets killed; never "
            f"more than {LIMIT} sockets at a server, and no place lost.",
            style="green",
            highlight=False,
        )
    return not broken


def _broken(sight: Sight) -> Iterator[str]:
    name, account = sight.store.name, sight.account
    if account.wrong:
        yield f"{name}: {account.wrong} replies were wrong"
    if not sight.peak:
        yield f"{name}: the server never told how many sockets it had"
    if sight.peak > LIMIT:
        yield f"{name}: the server had {sight.peak} sockets"
    if sight.places < LIMIT:
        yield f"{name}: only {sight.places} of {LIMIT} places are left"
    if not account.answered:
        errors = ", ".join(f"{kind} {count}" for kind, count in account.errors.items())
        yield f"{name}: no request was answered ({errors})"
