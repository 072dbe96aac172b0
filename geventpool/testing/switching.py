"""Observation of greenlet switches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import greenlet

__all__ = ["both_orders", "no_switch", "switches", "tracing", "wait_until"]

#: Seconds between two tests of a condition that has no event.
LOOK = 0.005


@contextmanager
def switches(of: greenlet.greenlet | None = None) -> Iterator[list[Any]]:
    """Yield a list that gets an item whenever a greenlet switches away.

    :param of: the greenlet to observe; None: the current one.
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
    """Call *trace* at each switch of this thread, within the block."""
    before = greenlet.settrace(trace)
    try:
        yield
    finally:
        greenlet.settrace(before)


@contextmanager
def no_switch() -> Iterator[None]:
    """A block in which the current greenlet must not switch.

    :raises AssertionError: it has switched, and the block raised nothing itself.
    """
    with switches() as seen:
        yield
    assert not seen, f"switched to {seen}"


def wait_until(
    condition: Callable[[], object], what: str = "the condition", timeout: float = 20.0
) -> None:
    """Return as soon as *condition* is true.

    May switch. For changes without an event, such as those in a server. The condition
    is tested repeatedly.

    :param str what: the condition's name in the error.
    :param float timeout: the most seconds to wait.
    :raises AssertionError: it is not true in time.
    """
    late = AssertionError(f"not within {timeout:g} s: {what}")
    with gevent.Timeout(timeout, late):
        while not condition():
            gevent.sleep(LOOK)


def both_orders(
    one: Callable[[], object], other: Callable[[], object]
) -> Iterator[Callable[[], None]]:
    """Yield two functions that call *one* and *other* in both orders.

    Each calls both within one turn of the event loop.
    """

    def forth() -> None:
        one()
        other()

    def back() -> None:
        other()
        one()

    yield forth
    yield back
