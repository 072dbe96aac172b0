"""Was the event loop blocked while somebody waited?

Knows the loop and a clock. A time-out that strikes because some greenlet computed for
three seconds is no fault of the pool's size, and its message should say so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent

__all__ = ["HubLag"]

#: Seconds between two beats: fine enough to blame, coarse enough to cost nothing.
INTERVAL = 0.05


class HubLag:
    """Beats while somebody waits, and notes how late each beat comes.

    :param is_needed: asked at each beat; False stops the beating.
    :param clock: gives seconds, monotonic.
    """

    def __init__(
        self, is_needed: Callable[[], object], clock: Callable[[], float]
    ) -> None:
        self._is_needed = is_needed
        self._clock = clock
        #: made when first needed: a pool never used touches no hub
        self._timer: Any = None
        self._last = 0.0
        self.is_running = False
        #: seconds of all delays so far
        self.total = 0.0

    def start(self) -> None:
        """Beat, if it does not already. Does not switch."""
        if self._timer is None:
            # ref=False: it neither keeps the loop alive nor hides a LoopExit.
            self._timer = gevent.get_hub().loop.timer(INTERVAL, INTERVAL, ref=False)
        if not self.is_running:
            self.is_running = True
            self._last = self._clock()
            self._timer.start(self._tick, update=True)

    def measured(self) -> float:
        """Seconds lost up to this moment, a beat that is overdue included."""
        if not self.is_running:
            return self.total
        return self.total + max(0.0, self._clock() - self._last - INTERVAL)

    def _tick(self) -> None:
        now = self._clock()
        self.total += max(0.0, now - self._last - INTERVAL)
        self._last = now
        if not self._is_needed():
            self._timer.stop()
            self.is_running = False
