"""The greenlets a pool owns: no kill or ``Timeout`` aimed at a borrower can hit them.

Knows greenlets and time limits; what they work at is other people's business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import gevent

__all__ = ["Crew", "Staff", "within"]

T = TypeVar("T")


def within(limit: float, what: str, work: Callable[..., T], *args: Any) -> T:
    """What *work* returns, if that takes no longer than *limit* seconds.

    *May switch.*

    :param str what: named in the error.
    :raises TimeoutError: it took longer.
    """
    timer = gevent.Timeout.start_new(limit)
    try:
        return work(*args)
    except gevent.Timeout as late:
        # Only our own: a Timeout that the work itself set up is its own affair.
        if late is not timer:
            raise
        raise TimeoutError(f"{what} took longer than {limit:g} s") from None
    finally:
        timer.close()


class Staff:
    """All greenlets at work for one pool."""

    def __init__(self) -> None:
        self._at_work: set[gevent.Greenlet[..., Any]] = set()

    def spawn(
        self, work: Callable[..., object], *args: Any
    ) -> gevent.Greenlet[..., Any]:
        """The greenlet that will do *work*. Does not switch."""
        worker = gevent.Greenlet(work, *args)
        self._at_work.add(worker)
        worker.rawlink(self._at_work.discard)
        worker.start()
        return worker

    def dismiss(self) -> None:
        """End them all, soon. Does not switch."""
        for worker in list(self._at_work):
            worker.kill(block=False)


class Crew(Generic[T]):
    """At most *size* greenlets that do the same *work* to one item after another.

    :param work: called with an item; may switch; what it raises ends only that item's
        turn and is reported by the hub.
    """

    def __init__(self, staff: Staff, size: int, work: Callable[[T], object]) -> None:
        self._staff = staff
        self._size = size
        self._work = work
        self._items: deque[T] = deque()
        self._members = 0

    def put(self, item: T) -> None:
        """Have *item* worked at, in turn. Does not switch."""
        self._items.append(item)
        if self._members < self._size:
            self._members += 1
            self._staff.spawn(self._run)

    def _run(self) -> None:
        try:
            while self._items:
                self._work(self._items.popleft())
        finally:
            self._members -= 1
            # Killed in the middle: somebody must go on with what is left.
            if self._items and not self._members:
                self._members += 1
                self._staff.spawn(self._run)
