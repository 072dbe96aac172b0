"""A time limit that lets a blocked event loop handle its sockets first.

After a greenlet has blocked the loop, timers and sockets are due together. An answer
may have arrived long before the time limit, but could not be read.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

from geventpool._core.loops import timer_length

__all__ = ["LATE", "MOMENT", "Deadline"]

#: A timer that is late by this many seconds was delayed by a blocked loop.
LATE = 0.02
#: Seconds of extra time in that case, enough for a few turns of the loop.
MOMENT = 0.05


class Deadline:
    """Calls *strike* in the hub when the time limit has passed.

    If the loop was blocked at that time, it is called MOMENT seconds later.

    :param loop: the event loop.
    :param float limit: seconds from now.
    :param strike: must not raise.
    """

    __slots__ = ("_loop", "_due", "_strike", "_timer")

    def __init__(self, loop: Any, limit: float, strike: Callable[[], object]) -> None:
        self._loop = loop
        self._due = monotonic() + limit
        self._strike = strike
        self._timer: Any = None
        self._start(limit, self._expired)

    def _start(self, pause: float, callback: Callable[[], object]) -> None:
        # A low priority, so that sockets are handled first in the same turn of the
        # loop.
        self._timer = self._loop.timer(timer_length(pause), priority=-1)
        # update: otherwise the time counts from the start of this turn of the loop.
        self._timer.start(callback, update=True)

    def _expired(self) -> None:
        if monotonic() - self._due > LATE:
            self.close()
            self._start(MOMENT, self._strike)
        else:
            self._strike()

    def close(self) -> None:
        """Cancel the time limit. Never switches."""
        self._timer.close()
