"""The live table of the demo, the summary of both runs, and the verdict on ours."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table

from benchmarks.clients import percentile
from benchmarks.demo.show import Show, Sight
from benchmarks.report import duration
from benchmarks.stores import LIMIT

#: Seconds between two lines where nothing can be redrawn.
LINE_EVERY = 2.0

#: The counts of both tables; see :func:`_counts`.
COUNTS = ("failed", "wrong")

LIVE = ("", "replies", "per s", "p50", "p99", "sockets")
SUMMARY = ("", "per s", "p50", "p99", "longest")

LEGEND = """\
per s: replies per second; p50, p99: time from a request to its reply, in the first,
calm act; longest: of the whole run, from the first attempt of a request to its reply,
for a client tries a failed request again; failed: attempts that raised an error;
wrong: replies to another request; sockets: the most that the server had at once;
places: connections that could be borrowed at once at the end; back: from the server's
return to the first reply. Failed and wrong count the whole run, as in the table above;
a request that the client itself gave up is neither. Both runs have the same clients and
the same outage. Every pool has its defaults."""


def _counts(sight: Sight) -> tuple[str, ...]:
    account = sight.account
    return f"{account.failed:,}", f"{account.wrong:,}"


class Screen:
    """Draws a show on a console, redrawn in place or as a line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._line_at = 0.0
        self._act = ""

    def __enter__(self) -> Screen:
        if self._console.is_terminal:
            # Without a refreshing thread, which would be one greenlet more.
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._live is not None:
            self._live.stop()

    def draw(self, show: Show) -> None:
        """Show the present state."""
        if self._live is not None:
            self._live.update(table(show), refresh=True)
        elif show.act != self._act or show.elapsed >= self._line_at:
            self._act, self._line_at = show.act, show.elapsed + LINE_EVERY
            self._console.print(line(show), soft_wrap=True, highlight=False)


def _table(title: str, columns: Sequence[str]) -> Table:
    result = Table(
        title=title,
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in columns:
        result.add_column(column, justify="right" if column else "left", no_wrap=True)
    return result


def table(show: Show) -> Table:
    """Return the show as a table."""
    title = f"{show.title}  {show.elapsed:4.1f} of {show.seconds:g} s  {show.act}"
    if show.killed:
        title += f"  ({show.killed} killed)"
    result = _table(title, (*LIVE, *COUNTS))
    for sight in show.sights:
        result.add_row(
            sight.store.name,
            f"{sight.account.answered:,}",
            f"{sight.rate:,.0f}",
            duration(sight.p(0.5)),
            duration(sight.p(0.99)),
            "down" if sight.sockets is None else f"{sight.sockets}/{LIMIT}",
            *_counts(sight),
        )
    return result


def line(show: Show) -> str:
    """Return the show as a line."""
    parts = []
    for sight in show.sights:
        sockets = "down" if sight.sockets is None else f"{sight.sockets} sockets"
        parts.append(
            f"{sight.store.name} {sight.rate:,.0f}/s, {sockets}, p99 "
            f"{duration(sight.p(0.99))}, {sight.account.failed} failed"
        )
    return f"{show.elapsed:5.1f} s  {show.act:22}  {';  '.join(parts)}"


def summary(shows: Sequence[Show]) -> Table:
    """Return one row for each pool of each show, store by store."""
    columns = (*SUMMARY, *COUNTS, "sockets", "places", "back")
    result = _table("The same clients, the same kills, the same restart", columns)
    for sights in zip(*(show.sights for show in shows), strict=True):
        for show, sight in zip(shows, sights, strict=True):
            result.add_row(
                f"{sight.store.name}, {show.title}",
                f"{sight.calm_rate:,.0f}",
                duration(percentile(sight.calm, 0.5)),
                duration(percentile(sight.calm, 0.99)),
                duration(max(sight.whole, default=0.0)),
                *_counts(sight),
                f"{sight.peak}/{LIMIT}",
                f"{sight.places}/{LIMIT}",
                "" if sight.back is None else duration(sight.back),
                style="bold" if show is shows[0] else None,
            )
    return result


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


def _broken(sight: Sight) -> list[str]:
    name, account = sight.store.name, sight.account
    broken = []
    if account.wrong:
        broken.append(f"{name}: {account.wrong} replies were wrong")
    if not sight.peak:
        broken.append(f"{name}: the server never told how many sockets it had")
    if sight.peak > LIMIT:
        broken.append(f"{name}: the server had {sight.peak} sockets")
    if sight.places < LIMIT:
        broken.append(f"{name}: only {sight.places} of {LIMIT} places are left")
    if not account.answered:
        errors = ", ".join(f"{kind} {count}" for kind, count in account.errors.items())
        broken.append(f"{name}: no request was answered ({errors})")
    return broken
