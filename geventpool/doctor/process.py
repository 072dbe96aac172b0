"""Checks of what every program on this computer shares: versions, loop, limits."""

from __future__ import annotations

import platform
import resource
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import gevent

from geventpool.doctor.finding import ERROR, OK, WARNING, Finding

__all__ = ["check_files", "check_loop", "check_process"]

#: The oldest versions that the pools work with.
OLDEST = {
    "gevent": (25, 9, 1),
    "redis": (6, 4),
    "PyMySQL": (1, 1),
    "SQLAlchemy": (2, 0),
}
OLDEST["Django"] = (4, 2)
#: Descriptors that a process needs beside those of its connections.
SPARE_FILES = 64


def check_process(connections: int | None) -> Iterator[Finding]:
    """Check versions, the event loop, the resolver and the limit of open files.

    Never switches.

    :param connections: how many a process may open; None: it is not known.
    """
    yield Finding("python", OK, platform.python_version())
    for name, oldest in OLDEST.items():
        yield from _check_version(name, oldest)
    yield from _check_parser()
    yield from check_loop(gevent.get_hub())
    yield check_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0], connections)


def installed(name: str) -> str | None:
    """The version of a distribution; None: it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _check_version(name: str, oldest: tuple[int, ...]) -> Iterator[Finding]:
    found = installed(name)
    if found is None:
        # It is optional; gevent itself runs this.
        return
    wanted = ".".join(map(str, oldest))
    if _numbers(found) < oldest:
        advice = f"install {name} {wanted} or newer"
        yield Finding(name, ERROR, f"{found} is too old", advice)
    else:
        yield Finding(name, OK, found)


def _numbers(text: str) -> tuple[int, ...]:
    numbers = []
    for part in text.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def _check_parser() -> Iterator[Finding]:
    if installed("redis") is None:
        return
    found = installed("hiredis")
    if found is None:
        text = "hiredis is not installed: replies are parsed in Python"
        yield Finding("hiredis", WARNING, text, "pip install hiredis")
    else:
        yield Finding("hiredis", OK, found)


def check_loop(hub: Any) -> Iterator[Finding]:
    """Check the event loop and the resolver of a hub."""
    loop = hub.loop
    kind = type(loop).__module__
    backend = getattr(loop, "backend", "")
    text = f"{kind} {backend}".strip()
    if backend in ("select", "poll"):
        advice = "unset GEVENT_BACKEND: its cost grows with the connections"
        yield Finding("event loop", WARNING, text, advice)
    else:
        yield Finding("event loop", OK, text)
    resolver = type(hub.resolver).__module__
    if "blocking" in resolver:
        advice = "unset GEVENT_RESOLVER: a slow name server blocks all greenlets"
        yield Finding("resolver", ERROR, resolver, advice)
    else:
        yield Finding("resolver", OK, resolver)


def check_files(limit: int, connections: int | None) -> Finding:
    """Check that a process may open files for so many connections.

    :param connections: None: their number is not known.
    """
    if limit == resource.RLIM_INFINITY:
        return Finding("open files", OK, "no limit")
    text = f"at most {limit}"
    if connections is not None and connections + SPARE_FILES > limit:
        advice = (
            f"raise it (ulimit -n {connections + SPARE_FILES}) or lower max_connections"
        )
        return Finding(
            "open files", ERROR, f"{text}, for {connections} connections", advice
        )
    return Finding("open files", OK, text)
