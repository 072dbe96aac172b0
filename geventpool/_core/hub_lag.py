"""Measures how long the event loop was blocked while greenlets waited.

If a wait times out because some greenlet computed for three seconds, a larger pool does
not help, and the message says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent

__all__ = ["HubLag"]

#: Seconds between two measurements.
INTERVAL = 0.05


class HubLag:
    """A timer that adds up how late it fires.

    :param is_needed: called each time it fires; False stops it.
    :param clock: returns seconds, monotonic.
    """

    def __init__(
        self, is_needed: Callable[[], object], clock: Callable[[], float]
    ) -> None:
        self._is_needed = is_needed
        self._clock = clock
        #: made at first use, because an unused pool must not create a hub
        self._timer: Any = None
        self._last = 0.0
        self.is_running = False
        #: the sum of all delays, in seconds
        self.total = 0.0

    def start(self) -> None:
        """Start the timer, unless it is running. Never switches."""
        if self._timer is None:
            # ref=False: it does not keep the loop running, and hides no LoopExit.
            self._timer = gevent.get_hub().loop.timer(INTERVAL, INTERVAL, ref=False)
        if not self.is_running:
            self.is_running = True
            self._last = self._clock()
            self._timer.start(self._tick, update=True)

    def measured(self) -> float:
        """Return the sum of all delays, including the present one."""
        if not self.is_running:
            return self.total
        return self.total + max(0.0, self._clock() - self._last - INTERVAL)

    def _tick(self) -> None:
        now = self._clock()
        self.total += max(0.0, now - self._last - INTERVAL)
        self._last = now
        if not self._is_needed():
            timer, self._timer = self._timer, None
            timer.close()
            self.is_running = False
