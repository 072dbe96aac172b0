"""
``python -m benchmarks advise``: how many connections should my pool have?

It measures a server of yours through the pool, at your number of greenlets and with
loans as long as yours, and suggests a size. It is harmless: it reads only, is bounded
in time and in connections, and says beforehand what it is going to do.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import gevent
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import advice
from benchmarks.advice import Advice, Point, Room
from benchmarks.report import duration
from benchmarks.subjects import (
    BadAddressError,
    MySQLSubject,
    RedisSubject,
    Subject,
    loaded,
)

#: How often each size is tried: upwards and downwards.
PASSES = 2
#: The least time one size is tried for, in seconds and in loans.
LEAST, LOANS = 0.2, 8
#: Round trips and dials that are timed.
TRIPS, TRIPS_TIME = 200, 1.0
BAR = 30


@dataclass(frozen=True)
class Survey:
    """What there is to know before any load: seconds, and the server's room."""

    trip: float
    dial: float
    room: Room
    cap: int
    #: Why no more connections than that are used.
    bound: str


def main(arguments: list[str] | None = None) -> int:
    """0: advice given; 1: the server could not be measured; 2: bad arguments."""
    try:
        options = _options(arguments)
    except SystemExit as error:
        return int(error.code or 0)
    told = Console(stderr=options.json, width=None if sys.stdout.isatty() else 100)
    kind, url = (
        (RedisSubject, options.redis)
        if options.redis is not None
        else (MySQLSubject, options.mysql)
    )
    try:
        subject: Subject = kind(url)
    except BadAddressError as error:
        name = "--redis" if options.redis is not None else "--mysql"
        print(f"advise: {name}: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        print(f"advise: its driver is not installed: {error}", file=sys.stderr)
        return 1
    try:
        # Should the server fall silent in the midst of it.
        with gevent.Timeout(options.seconds + 10):
            return _advise(subject, options, told)
    except gevent.Timeout:
        error_text = f"no end after {options.seconds + 10:g} s"
    except Exception as error:
        error_text = subject.described(error)
    finally:
        with suppress(Exception):
            subject.close()
    print(f"advise: {subject.place}: {error_text}", file=sys.stderr)
    return 1


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks advise",
        description="Measure a server of yours and suggest a pool size for it.",
    )
    server = parser.add_mutually_exclusive_group(required=True)
    server.add_argument("--redis", metavar="URL", help="redis://host:port/db")
    server.add_argument("--mysql", metavar="URL", help="mysql://user@host:port/db")
    parser.add_argument(
        "--greenlets",
        type=_whole,
        required=True,
        metavar="N",
        help="how many want a connection at the same time, in one process",
    )
    parser.add_argument(
        "--hold",
        type=_seconds,
        required=True,
        metavar="SECONDS",
        help="how long each keeps it, beyond one round trip",
    )
    parser.add_argument(
        "--processes",
        type=_whole,
        default=1,
        metavar="N",
        help="how many processes share the server (1)",
    )
    parser.add_argument(
        "--wait",
        type=_seconds,
        metavar="SECONDS",
        help="the longest acceptable wait of the slowest hundredth",
    )
    parser.add_argument(
        "--limit",
        type=_whole,
        default=100,
        metavar="N",
        help="never open more connections than this (100)",
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=20.0,
        metavar="SECONDS",
        help="how long all of it may take (20)",
    )
    parser.add_argument("--json", action="store_true", help="the numbers, as JSON")
    options = parser.parse_args(arguments)
    most = options.seconds / (4 * LOANS)
    if options.seconds < 2:
        parser.error(f"--seconds must be at least 2, not {options.seconds:g}")
    if options.hold > most:
        parser.error(
            f"--hold must be at most {most:g}, a {4 * LOANS}th of --seconds, not "
            f"{options.hold:g}: allow it more --seconds"
        )
    return options


def _whole(text: str) -> int:
    with suppress(ValueError):
        if int(text) >= 1:
            return int(text)
    raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(
        f"must be a number of seconds, 0 or more, not {text!r}"
    )


def _advise(subject: Subject, options: argparse.Namespace, console: Console) -> int:
    began = time.monotonic()
    console.print(
        f"{subject.place} will be asked nothing but {subject.questions}, for at most "
        f"{options.seconds:g} s, over at most {options.limit} connections and never "
        "more than half of those it has free."
    )
    survey = _surveyed(subject, options)
    console.print(_told(survey), highlight=False)
    left = options.seconds - (time.monotonic() - began)
    curve = measured(
        subject,
        survey,
        options.greenlets,
        options.hold,
        left,
        lambda size: console.print(f"  {size} ...", end="", highlight=False),
    )
    console.print()
    given = advice.judged(
        curve,
        survey.room,
        options.greenlets,
        options.processes,
        options.wait,
        survey.bound,
    )
    if options.json:
        print(json.dumps(_plain(subject, options, survey, curve, given), indent=1))
    else:
        _show(console, options, curve, given)
    return 0


def _surveyed(subject: Subject, options: argparse.Namespace) -> Survey:
    trips: list[float] = []
    conn = subject.acquire()
    try:
        subject.ask(conn)
        until = time.perf_counter() + TRIPS_TIME
        while len(trips) < TRIPS and (began := time.perf_counter()) < until:
            subject.ask(conn)
            trips.append(time.perf_counter() - began)
    finally:
        subject.release(conn)
    room = subject.room()
    bounds = [(options.limit, "--limit"), (options.greenlets, "--greenlets")]
    if room.free is not None:
        bounds.append((room.free // 2, "the server's limit"))
    cap, bound = min(bounds)
    if cap < 1:
        raise RuntimeError(
            f"{room.others} of its {room.maximum} connections are in use: there is no "
            "room to measure in"
        )
    return Survey(
        statistics.median(trips),
        subject.dials.seconds[0],
        room,
        cap,
        bound,
    )


def _told(survey: Survey) -> str:
    room = survey.room
    limit = (
        "it does not tell its limit"
        if room.maximum is None
        else f"it allows {room.maximum} connections, {room.others} are in use by others"
    )
    return (
        f"A round trip takes {duration(survey.trip)}, the first dial took "
        f"{duration(survey.dial)}; {limit}. Up to {survey.cap} are tried "
        f"(because of {survey.bound}):"
    )


def measured(
    subject: Subject,
    survey: Survey,
    greenlets: int,
    hold: float,
    seconds: float,
    tick: Callable[[int], object] = lambda size: None,
) -> list[Point]:
    """
    The curve, the smallest size first. **May switch.**

    Each size is tried on the way up and on the way down again, so that what changes
    in the course of time changes all of them.

    :param seconds: that all of it may take.
    """
    least = max(LEAST, LOANS * (hold + survey.trip))
    # Of the time for each size, a part goes to opening its connections.
    opening = survey.dial * survey.cap
    most = int((seconds - opening) / PASSES / least)
    sizes = advice.sizes(survey.cap, most)
    each = max(least / 2, (seconds - opening) / PASSES / len(sizes) * 0.9)
    points: dict[int, list[Point]] = {size: [] for size in sizes}
    for size in [*sizes, *reversed(sizes)]:
        tick(size)
        subject.resize(size)
        points[size].append(loaded(subject, size, greenlets, hold, each, survey.trip))
    # What disturbs takes away and never adds: the better pass is the truer one.
    return [max(points[size], key=lambda point: point.throughput) for size in sizes]


def _show(
    console: Console, options: argparse.Namespace, curve: list[Point], given: Advice
) -> None:
    table = Table(
        title=f"{options.greenlets} greenlets, each keeps a connection for "
        f"{duration(options.hold)} and wants it again",
        title_justify="left",
        box=box.SIMPLE,
        pad_edge=False,
    )
    for name in ("connections", "loans/s", "wait", "p99 wait", "CPU"):
        table.add_column(name, justify="right")
    table.add_column("throughput")
    best = max(point.throughput for point in curve)
    shown = [point.size for point in curve]
    marked = max((size for size in shown if size <= given.size), default=shown[0])
    for point in curve:
        bar = "█" * round(BAR * point.throughput / best) if best else ""
        table.add_row(
            str(point.size),
            f"{point.throughput:,.0f}",
            duration(point.wait),
            duration(point.p99),
            f"{point.cpu:.0%}",
            bar + (" <" if point.size == marked else ""),
            style="bold" if point.size == marked else None,
        )
    console.print(table)
    console.print(f"Suggested: max_connections={given.size}", style="bold")
    for reason in given.reasons:
        console.print(f"  {reason}", highlight=False)
    console.print(
        "  wait: on average, by Little's law; loans that keep a connection busy here "
        "keep nothing busy at the server: where a query is what takes the time, the "
        "server may reach its own limit earlier.",
        style="dim",
    )


def _plain(
    subject: Subject,
    options: argparse.Namespace,
    survey: Survey,
    curve: list[Point],
    given: Advice,
) -> dict[str, Any]:
    return {
        "server": subject.place,
        "greenlets": options.greenlets,
        "hold": options.hold,
        "processes": options.processes,
        "round_trip": survey.trip,
        "dial": survey.dial,
        "maximum": survey.room.maximum,
        "in_use_by_others": survey.room.others,
        "tried_up_to": survey.cap,
        "because_of": survey.bound,
        "curve": [asdict(point) for point in curve],
        "max_connections": given.size,
        "reasons": given.reasons,
    }
