"""``python -m geventpool advise``: how many connections should a pool have?

It measures a server through the pool, at the given number of greenlets and with loans
of the given length, and suggests a size. It only reads, is bounded in time and in
connections, and announces what it will do before it begins.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import gevent

from geventpool.advise.load import measure
from geventpool.advise.servers import AddressError, MySQLTarget, RedisTarget, Target
from geventpool.advise.sizing import (
    Advice,
    Capacity,
    Point,
    format_seconds,
    sizes_to_try,
    suggest,
)

__all__ = ["main"]

#: How often each size is measured: once upwards, once downwards.
PASSES = 2

#: The least that one size is measured for: seconds, and loans of each connection.
MIN_SECONDS, MIN_LOANS = 0.2, 8

#: Round trips that are timed before the load, and the seconds they may take.
TRIPS, TRIPS_SECONDS = 200, 1.0

#: Seconds beyond ``--seconds`` after which a silent server is given up.
GRACE = 10.0

#: Width of the longest bar in the table, in characters.
BAR = 30

TARGETS: dict[str, type[Any]] = {"redis": RedisTarget, "mysql": MySQLTarget}


@dataclass(frozen=True)
class Survey:
    """What is known before any load.

    :ivar round_trip: the median round trip, in seconds.
    :ivar dial: seconds that the first dial took.
    :ivar largest: the largest pool size to try, and *bound* says why no larger one.
    """

    round_trip: float
    dial: float
    capacity: Capacity
    largest: int
    bound: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    May switch.

    :return: 0 if it gave advice, 1 if the server could not be measured, 2 for bad
        arguments.
    """
    try:
        options = _options(arguments)
    except SystemExit as error:
        return int(error.code or 0)
    kind = "redis" if options.redis is not None else "mysql"
    try:
        target: Target = TARGETS[kind](getattr(options, kind))
    except AddressError as error:
        return _fail(2, f"--{kind}: {error}")
    except ImportError as error:
        extra = f"pip install 'geventpool[{kind}]'"
        return _fail(1, f"the driver is not installed ({error}): {extra}")
    try:
        with gevent.Timeout(options.seconds + GRACE) as limit:
            return _advise(target, options)
    except gevent.Timeout as late:
        if late is not limit:
            raise
        reason = f"no result after {options.seconds + GRACE:g} s"
    except Exception as error:
        reason = target.describe(error)
    finally:
        with suppress(Exception):
            target.close()
    return _fail(1, f"{target.place}: {reason}")


def _fail(status: int, reason: str) -> int:
    print(f"advise: {reason}", file=sys.stderr)
    return status


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = (parser := _parser()).parse_args(arguments)
    if options.seconds < 2:
        parser.error(f"--seconds must be at least 2, not {options.seconds:g}")
    longest = options.seconds / (4 * MIN_LOANS)
    if options.hold > longest:
        parser.error(
            f"--hold must be at most {longest:g}, a {4 * MIN_LOANS}th of --seconds, "
            f"not {options.hold:g}: allow more --seconds"
        )
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m geventpool advise",
        description="Measure a server of yours and suggest a pool size for it.",
    )
    server = parser.add_mutually_exclusive_group(required=True)
    server.add_argument("--redis", metavar="URL", help="redis://host:port/db")
    server.add_argument("--mysql", metavar="URL", help="mysql://user@host:port/db")
    for name, kind, default, text in (
        ("greenlets", _whole, ..., "borrowers at the same time, in one process"),
        ("hold", _seconds, ..., "how long a loan lasts beyond one round trip"),
        ("processes", _whole, 1, "processes that share the server (1)"),
        ("wait", _seconds, None, "the longest acceptable 99th percentile of waits"),
        ("limit", _whole, 100, "never open more connections than this (100)"),
        ("seconds", _seconds, 20.0, "how long all of it may take (20)"),
    ):
        parser.add_argument(
            f"--{name}",
            type=kind,
            default=default,
            required=default is ...,
            metavar="N" if kind is _whole else "SECONDS",
            help=text,
        )
    parser.add_argument("--json", action="store_true", help="print numbers as JSON")
    return parser


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


def _advise(target: Target, options: argparse.Namespace) -> int:
    # With --json the standard output is for the numbers alone.
    progress = sys.stderr if options.json else sys.stdout

    def say(text: str, end: str = "\n") -> None:
        print(text, end=end, file=progress, flush=True)

    began = time.monotonic()
    say(
        f"{target.place} will be asked only {target.questions}, for at most "
        f"{options.seconds:g} s, over at most {options.limit} connections and never "
        "more than half of those that are free."
    )
    survey = _survey(target, options)
    say(_describe(survey))
    left = options.seconds - (time.monotonic() - began)
    curve = measure_curve(
        target,
        survey,
        options.greenlets,
        options.hold,
        left,
        lambda size: say(f"  {size} ...", end=""),
    )
    say("")
    advice = suggest(
        curve,
        survey.capacity,
        options.greenlets,
        options.processes,
        options.wait,
        survey.bound,
    )
    if options.json:
        print(json.dumps(_as_json(target, options, survey, curve, advice), indent=1))
    else:
        print("\n".join(_as_text(options, curve, advice)))
    return 0


def _survey(target: Target, options: argparse.Namespace) -> Survey:
    trips: list[float] = []
    conn = target.acquire()
    try:
        target.ask(conn)
        until = time.perf_counter() + TRIPS_SECONDS
        while len(trips) < TRIPS and (began := time.perf_counter()) < until:
            target.ask(conn)
            trips.append(time.perf_counter() - began)
    finally:
        target.release(conn)
    capacity = target.capacity()
    bounds = [(options.limit, "--limit"), (options.greenlets, "--greenlets")]
    if capacity.free is not None:
        bounds.append((capacity.free // 2, "the server's limit"))
    largest, bound = min(bounds)
    if largest < 1:
        raise RuntimeError(
            f"{capacity.used} of its {capacity.maximum} connections are in use: not "
            "enough are free to measure"
        )
    return Survey(
        statistics.median(trips), target.dials.seconds[0], capacity, largest, bound
    )


def _describe(survey: Survey) -> str:
    capacity = survey.capacity
    limit = (
        "the server does not tell its connection limit"
        if capacity.maximum is None
        else f"the server accepts {capacity.maximum} connections, {capacity.used} are "
        "in use by others"
    )
    return (
        f"A round trip takes {format_seconds(survey.round_trip)}, the first dial took "
        f"{format_seconds(survey.dial)}; {limit}. Sizes up to {survey.largest} are "
        f"tried (because of {survey.bound}):"
    )


def measure_curve(
    target: Target,
    survey: Survey,
    greenlets: int,
    hold: float,
    seconds: float,
    on_size: Callable[[int], object] = lambda size: None,
) -> list[Point]:
    """Measure several pool sizes, the smallest first.

    May switch.

    Each size is measured on the way up and on the way down, so that a disturbance that
    changes with time affects all of them.

    :param seconds: how long all of it may take.
    :param on_size: called with each size before it is measured.
    """
    least = max(MIN_SECONDS, MIN_LOANS * (hold + survey.round_trip))
    # A part of the time is spent on opening connections.
    left = seconds - survey.dial * survey.largest
    sizes = sizes_to_try(survey.largest, int(left / PASSES / least))
    each = max(least / 2, left / PASSES / len(sizes) * 0.9)
    points: dict[int, list[Point]] = {size: [] for size in sizes}
    for size in [*sizes, *reversed(sizes)]:
        on_size(size)
        target.open(size)
        point = measure(target, size, greenlets, hold, each, survey.round_trip)
        points[size].append(point)
    # A disturbance only ever lowers the rate, so the faster pass is more accurate.
    return [max(points[size], key=lambda point: point.throughput) for size in sizes]


def _as_text(
    options: argparse.Namespace, curve: list[Point], advice: Advice
) -> Iterator[str]:
    yield (
        f"{options.greenlets} greenlets, each keeps a connection for "
        f"{format_seconds(options.hold)} and borrows again:"
    )
    row = "{:>11}  {:>9}  {:>9}  {:>9}  {:>5}  {}".format
    yield row(
        "connections", "loans/s", "wait", "p99 wait", "CPU", "throughput"
    ).rstrip()
    best = max(point.throughput for point in curve)
    marked = max(point.size for point in curve if point.size <= advice.size)
    for point in curve:
        bar = "#" * round(BAR * point.throughput / best)
        yield row(
            point.size,
            f"{point.throughput:,.0f}",
            format_seconds(point.mean_wait),
            format_seconds(point.p99_wait),
            f"{point.cpu:.0%}",
            bar + (" <" if point.size == marked else ""),
        ).rstrip()
    yield f"Suggested: max_connections={advice.size}"
    yield from (f"  {reason}" for reason in advice.reasons)
    yield (
        "  wait: the mean, by Little's law. A loan here keeps a connection busy but "
        "not the server. If your queries are slow, the server may reach its own limit "
        "earlier."
    )


def _as_json(
    target: Target,
    options: argparse.Namespace,
    survey: Survey,
    curve: list[Point],
    advice: Advice,
) -> dict[str, Any]:
    return {
        "server": target.place,
        "greenlets": options.greenlets,
        "hold": options.hold,
        "processes": options.processes,
        "round_trip": survey.round_trip,
        "dial": survey.dial,
        "maximum": survey.capacity.maximum,
        "used_by_others": survey.capacity.used,
        "largest_tried": survey.largest,
        "bound": survey.bound,
        "curve": [asdict(point) for point in curve],
        "max_connections": advice.size,
        "reasons": advice.reasons,
    }
