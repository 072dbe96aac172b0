"""A time limit that gives a blocked event loop the chance to look at its sockets.

When a greenlet has held up the loop, timers and sockets come due together. An answer
may have been there long before the time was over, and only nobody could read it.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any

__all__ = ["FAR", "LATE", "MOMENT", "Deadline"]

#: A timer that is so many seconds late was held up by somebody.
LATE = 0.02
#: Seconds that are granted then: enough for what takes a few turns of the loop.
MOMENT = 0.05
#: Seconds that a timer runs at most, about thirty years: libuv takes no more
#: milliseconds than 64 bits hold.
FAR = 1e9


class Deadline:
    """Calls *strike* in the hub when the time is over.

    If the loop was blocked at that moment, it is called MOMENT later.

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
        # A low priority: in the same turn of the loop sockets come first.
        self._timer = self._loop.timer(min(pause, FAR), priority=-1)
        # update: else it would count from when this turn of the loop began.
        self._timer.start(callback, update=True)

    def _expired(self) -> None:
        if monotonic() - self._due > LATE:
            self.close()
            self._start(MOMENT, self._strike)
        else:
            self._strike()

    def close(self) -> None:
        """Strike no more. Never switches."""
        self._timer.close()
