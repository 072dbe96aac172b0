"""Timers for those who wait in line: most waits are of one length, and few end by it.

Knows the loop and waiters. Making a timer costs three times what restarting one does.
"""

from __future__ import annotations

from typing import Any

from gevent.hub import Waiter

__all__ = ["Alarms"]

#: So many stopped timers are kept.
KEPT = 64


class Alarms:
    """The timers of one pool.

    :param usual: seconds of the wait that is worth keeping timers for; None: none.
    """

    def __init__(self, usual: float | None) -> None:
        self._usual = usual
        self._stopped: list[Any] = []

    def sleep(self, loop: Any, waiter: Waiter[None], limit: float | None) -> None:
        """Return when *waiter* was woken, or after *limit* seconds. *May switch.*

        :param loop: the loop of the waiting greenlet's hub.
        :param limit: None: without end.
        """
        if limit is None:
            return waiter.get()
        if limit == self._usual and self._stopped:
            timer = self._stopped.pop()
        else:
            timer = loop.timer(limit)
        # update: else it would count from when this turn of the loop began.
        timer.start(waiter.switch, None, update=True)
        try:
            waiter.get()
        finally:
            timer.stop()
            if limit == self._usual and len(self._stopped) < KEPT:
                self._stopped.append(timer)
            else:
                timer.close()
