"""``python -m geventpool doctor``: the checks in their order, as text or JSON."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import gevent

from geventpool.advise.servers import AddressError
from geventpool.doctor.finding import ERROR, Finding
from geventpool.doctor.process import check_process
from geventpool.doctor.program import check_program
from geventpool.doctor.servers import TARGETS, Settings, check_proxy, check_server

__all__ = ["main"]

#: Seconds that all questions to one server may take.
PATIENCE = 15.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    May switch.

    :return: 0 if no check found an error, 1 if one did, 2 for bad arguments.
    """
    try:
        options = _options(arguments)
    except SystemExit as error:
        return int(error.code or 0)
    try:
        findings = list(_findings(options))
    except AddressError as error:
        print(f"doctor: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        print("\n".join(_as_text(findings)))
    return int(any(finding.level == ERROR for finding in findings))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m geventpool doctor",
        description="Check this computer, a program and its servers; say what to "
        "change. Nothing is written.",
    )
    parser.add_argument(
        "--program",
        metavar="MODULE",
        help="import it in a process of its own and check its patching",
    )
    parser.add_argument("--redis", metavar="URL", help="redis://host:port/db")
    parser.add_argument("--mysql", metavar="URL", help="mysql://user@host:port/db")
    for name, kind, default, text in (
        ("workers", _whole, 1, "processes with such a pool (1)"),
        ("max-connections", _whole, 200, "of each pool (200)"),
        ("max-idle", _seconds, None, "of each pool (no limit)"),
        ("proxy-timeout", _seconds, None, "idle time-out of a proxy on the way"),
    ):
        metavar = "N" if kind is _whole else "SECONDS"
        parser.add_argument(
            f"--{name}", type=kind, default=default, metavar=metavar, help=text
        )
    parser.add_argument(
        "--json", action="store_true", help="print the findings as JSON"
    )
    return parser.parse_args(arguments)


def _whole(text: str) -> int:
    with suppress(ValueError):
        if int(text) >= 1:
            return int(text)
    raise argparse.ArgumentTypeError(f"must be a whole number from 1, not {text!r}")


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"must be a number of seconds, not {text!r}")


def _findings(options: argparse.Namespace) -> Iterator[Finding]:
    settings = Settings(
        options.workers,
        options.max_connections,
        options.max_idle,
        options.proxy_timeout,
    )
    yield from check_process(options.max_connections)
    if options.program is not None:
        yield from check_program(options.program)
    for kind, make in TARGETS.items():
        url = getattr(options, kind)
        if url is not None:
            yield from _check_target(kind, make, url, settings)
    yield from check_proxy(settings)


def _check_target(
    kind: str, make: Callable[[str], Any], url: str, settings: Settings
) -> Iterator[Finding]:
    try:
        target = make(url)
    except AddressError as error:
        raise AddressError(f"--{kind}: {error}") from None
    except ImportError:
        advice = f"pip install 'geventpool[{kind}]'"
        yield Finding("server", ERROR, "the driver is not installed", advice)
        return
    try:
        with gevent.Timeout(PATIENCE, TimeoutError(f"no answer in {PATIENCE:g} s")):
            yield from list(check_server(target, settings))
    except Exception as error:
        text = f"{target.place}: {target.describe(error)}"
        yield Finding("server", ERROR, text, "check the address and the account")
    finally:
        with suppress(Exception):
            target.close()


def _as_text(findings: Sequence[Finding]) -> Iterator[str]:
    for finding in findings:
        yield f"{finding.level:8} {finding.check}: {finding.text}"
        if finding.advice:
            yield f"{'':8} -> {finding.advice}"
