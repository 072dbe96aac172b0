"""``python -m geventpool top``: the pools of another process as a live table.

It reads the JSON of the status application. The answer of the other process is not
trusted: it is bounded in size, and control characters never reach the terminal.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import gevent

from geventpool.extension import describe

__all__ = ["main"]

#: The longest answer that is read, in bytes.
LONGEST = 16 << 20
#: The longest text that is shown of one value, in characters.
SHOWN = 120
#: So many loans are shown below the table, and so many lines of each pool that hold
#: connections while they are idle.
LOANS = 5
HOLDS = 3


class TopError(Exception):
    """The state cannot be shown; the message says why."""


class _NoRedirects(HTTPRedirectHandler):
    """Credentials must not follow to another address."""

    def redirect_request(self, *args: Any) -> None:
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    May switch.

    :return: 0 if the state was shown, 1 if it could not be read, 2 for bad arguments.
    """
    try:
        options = _options(arguments)
    except SystemExit as error:
        return int(error.code or 0)
    try:
        if options.json:
            print(json.dumps(read(options.url, options.timeout), indent=1))
        else:
            _show(options)
    except TopError as error:
        print(f"top: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m geventpool top",
        description="Show the pools of a process that serves geventpool.status.app().",
    )
    parser.add_argument(
        "url",
        type=_address,
        metavar="URL",
        help="of the status page: http://host/pools",
    )
    for name, default, text in (
        ("interval", 1.0, "seconds between two readings (1)"),
        ("timeout", 5.0, "seconds that one answer may take (5)"),
    ):
        parser.add_argument(
            f"--{name}", type=_seconds, default=default, metavar="SECONDS", help=text
        )
    parser.add_argument("--once", action="store_true", help="show the table once")
    parser.add_argument("--json", action="store_true", help="print the JSON once")
    return parser.parse_args(arguments)


def _address(text: str) -> str:
    # The message does not quote the text: it may contain a password.
    try:
        parts = urlsplit(text)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname)
        parts.port  # noqa: B018 (raises if it is no number)
    except ValueError:
        fits = False
    if not fits or not text.isprintable() or " " in text:
        raise argparse.ArgumentTypeError("must look like http://host:port/path")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if 0.1 <= seconds <= 3600:
        return seconds
    raise argparse.ArgumentTypeError(f"must be from 0.1 to 3600 seconds, not {text!r}")


def read(url: str, timeout: float) -> dict[str, Any]:
    """The state that the status application at *url* answers with.

    May switch.

    :raises TopError: there is no such answer in time. The message has no password.
    """
    place, request = _request(url)
    try:
        with gevent.Timeout(timeout, TimeoutError()):
            with build_opener(_NoRedirects).open(request, timeout=timeout) as answer:
                body = answer.read(LONGEST + 1)
    except HTTPError as error:
        error.close()
        raise TopError(f"{place} answers with status {error.code}") from None
    except (OSError, URLError) as error:
        reason = getattr(error, "reason", error)
        told = describe(reason) if isinstance(reason, OSError) else "no connection"
        raise TopError(f"{place} cannot be read: {told}") from None
    except Exception as error:
        raise TopError(f"{place} cannot be read: {type(error).__name__}") from None
    if len(body) > LONGEST:
        raise TopError(f"{place} answers with more than {LONGEST} bytes")
    try:
        state = json.loads(body)
        _check(state)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise TopError(
            f"{place} is no status page of geventpool; mount geventpool.status.app()"
        ) from None
    return dict(state)


def _request(url: str) -> tuple[str, Request]:
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    if not path.endswith("/status.json"):
        path += "/status.json"
    host = parts.netloc.rpartition("@")[2]
    place = urlunsplit((parts.scheme, host, path, "", ""))
    request = Request(urlunsplit((parts.scheme, host, path, parts.query, "")))
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        token = base64.b64encode(pair.encode()).decode()
        request.add_header("Authorization", f"Basic {token}")
    return place, request


def _check(state: Any) -> None:
    """See that *state* has what the table shows.

    :raises TypeError: it has not; or a KeyError or a ValueError.
    """
    float(state["process"])
    for pool in state["pools"]:
        str(pool["name"]), bool(pool["ready"])
        if "stats" in pool:
            for key in ("in_use", "max_connections", "idle", "size", "waiting"):
                float(pool["stats"][key])
            for loan in pool["loans"]:
                float(loan["seconds"])
                str(loan["holder"]), str(loan["place"])
            for hold in pool["stats"].get("idle_holds", ()):
                float(hold["share"])
                str(hold["borrowed_at"]), str(hold["waits_at"])
    for budget in state.get("budgets", ()):
        str(budget["name"])
        for key in ("total", "held", "waiting", "moved", "recovered"):
            float(budget[key])
        for share in budget["shares"]:
            for key in ("pid", "held", "waiting", "moved"):
                float(share[key])
            str(share["name"])


def _show(options: argparse.Namespace) -> None:
    try:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        raise TopError(
            "rich is not installed: pip install 'geventpool[cli]', or use --json"
        ) from None

    def table(
        title: Any, headings: Sequence[str], rows: Iterable[Iterable[str]]
    ) -> Any:
        made = Table(title=title, expand=True)
        for heading in headings:
            made.add_column(heading, justify="left" if heading == "pool" else "right")
        for row in rows:
            # Text, so that nothing is read as markup.
            made.add_row(*map(Text, row))
        return made

    def picture(state: Mapping[str, Any]) -> Any:
        title = f"process {printable(state['process'])}"
        pools = table(title, _POOL_HEADINGS, map(_row, state["pools"]))
        budgets = [
            table(
                Text(_budget_title(each)),
                _SHARE_HEADINGS,
                map(_share_row, each["shares"]),
            )
            for each in state.get("budgets", ())
        ]
        return Group(pools, *budgets, *map(Text, _notes(state)))

    console = Console()
    first = picture(read(options.url, options.timeout))
    if options.once or not console.is_terminal:
        console.print(first)
        return
    with Live(first, console=console, screen=True, auto_refresh=False) as live:
        _follow(options, lambda state: live.update(picture(state), refresh=True))


def _follow(
    options: argparse.Namespace, show: Callable[[Mapping[str, Any]], object]
) -> None:
    state: dict[str, Any] = {}
    while True:
        gevent.sleep(options.interval)
        try:
            state = read(options.url, options.timeout)
        except TopError as error:
            # It may be restarted at this moment.
            state = {"process": "?", "pools": [], "error": str(error)}
        show(state)


_POOL_HEADINGS = ("pool", "state", "in use", "idle", "other", "waiting", "oldest")


def _row(pool: Mapping[str, Any]) -> Iterator[str]:
    yield printable(pool["name"])
    yield "ready" if pool["ready"] else printable(pool.get("reason"))
    if "stats" not in pool:
        yield from ["?"] * 5
        return
    stats, loans = pool["stats"], pool["loans"]
    yield f"{stats['in_use']:g}/{stats['max_connections']:g}"
    yield f"{stats['idle']:g}"
    yield f"{stats['size'] - stats['idle'] - stats['in_use']:g}"
    yield f"{stats['waiting']:g}"
    yield f"{loans[0]['seconds']:.1f} s" if loans else ""


def _budget_title(budget: Mapping[str, Any]) -> str:
    return (
        f"budget {printable(budget['name'])}: {budget['held']:g}/{budget['total']:g} "
        f"places taken, {budget['waiting']:g} waited for, {budget['moved']:g} moved, "
        f"{budget['recovered']:g} recovered"
    )


_SHARE_HEADINGS = ("process", "pool", "places", "waiting", "given to others")


def _share_row(share: Mapping[str, Any]) -> Iterator[str]:
    yield f"{share['pid']:.0f}"
    yield printable(share["name"])
    for key in ("held", "waiting", "moved"):
        yield f"{share[key]:g}"


def _notes(state: Mapping[str, Any]) -> Iterator[str]:
    """The lines below the table."""
    if "error" in state:
        yield printable(state["error"])
    for pool in state["pools"]:
        name = printable(pool["name"])
        failure = pool.get("failure")
        if isinstance(failure, Mapping):
            yield f"{name}: last failure: {printable(failure.get('error'))}"
        for hold in pool.get("stats", {}).get("idle_holds", ())[:HOLDS]:
            line, place = printable(hold["borrowed_at"]), printable(hold["waits_at"])
            yield (
                f"{name}: {line} holds a connection {hold['share']:.0%} of the time "
                f"while it waits at {place}"
            )
    loans = [
        (float(loan["seconds"]), printable(pool["name"]), loan)
        for pool in state["pools"]
        for loan in pool.get("loans", ())
    ]
    loans.sort(key=lambda each: -each[0])
    for seconds, name, loan in loans[:LOANS]:
        holder, place = printable(loan["holder"]), printable(loan["place"])
        yield f"{name}: {holder} for {seconds:.1f} s, at {place}"


def printable(value: Any) -> str:
    """The text of a value, without control characters and bounded in length."""
    text = str(value)[:SHOWN]
    return "".join(each if each.isprintable() else "?" for each in text)
