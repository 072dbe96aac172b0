"""When one greenlet is left for another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import greenlet

__all__ = ["both_orders", "no_switch", "switches", "tracing", "wait_until"]

#: Seconds between two looks at a condition that nobody announces.
LOOK = 0.005


@contextmanager
def switches(of: greenlet.greenlet | None = None) -> Iterator[list[Any]]:
    """A list that gets an item whenever a greenlet is left for another.

    :param of: only when this greenlet is left; None: the one that runs now.
    """
    # A greenlet is falsy until it has started.
    watched = greenlet.getcurrent() if of is None else of
    seen: list[Any] = []

    # Coverage is not traced within greenlet's own tracing.
    def trace(event: str, parties: Any) -> None:  # pragma: no cover
        origin, target = parties
        if origin is watched:
            seen.append(target)

    with tracing(trace):
        yield seen


@contextmanager
def tracing(trace: Callable[[str, Any], None]) -> Iterator[None]:
    """Have *trace* called at each switch of this thread."""
    before = greenlet.settrace(trace)
    try:
        yield
    finally:
        greenlet.settrace(before)


@contextmanager
def no_switch() -> Iterator[None]:
    """A block in which the current greenlet must not be left.

    :raises AssertionError: it was, if the block did not fail by itself.
    """
    with switches() as seen:
        yield
    assert not seen, f"switched to {seen}"


def wait_until(
    condition: Callable[[], object], what: str = "the condition", timeout: float = 20.0
) -> None:
    """Return as soon as *condition* holds.

    May switch.

    For what no event announces, such as a change in a server. The condition is looked
    at again and again.

    :param str what: named in the error.
    :param float timeout: seconds.
    :raises AssertionError: it does not hold in time.
    """
    late = AssertionError(f"not within {timeout:g} s: {what}")
    with gevent.Timeout(timeout, late):
        while not condition():
            gevent.sleep(LOOK)


def both_orders(
    one: Callable[[], object], other: Callable[[], object]
) -> Iterator[Callable[[], None]]:
    """Two functions, each of which calls both within one turn of the event loop."""

    def forth() -> None:
        one()
        other()

    def back() -> None:
        other()
        one()

    yield forth
    yield back
