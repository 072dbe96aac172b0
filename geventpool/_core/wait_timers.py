"""Sleeping in line: how a greenlet is woken, and when it has waited long enough.

Knows the loop and the slots of a line. Most waits are of one length, and few end by it.
So those have one timer together, set to the first of them: one for each would cost as
much as all the rest of joining the line, and more where they are too many for the
processor's caches.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import Any, TypeVar

from geventpool._core.deadline import FAR, LATE, MOMENT, Deadline
from geventpool._core.ledger import Waiter

__all__ = ["WaitTimers", "TimedWaiter"]

C = TypeVar("C")

#: Seconds by which one who shares the timer may be late for each in front of him who
#: does not. So looking past many of them, over and over, cannot fill the loop.
STRIDE = 1e-6
INFINITE = float("inf")


class TimedWaiter(Waiter[C]):
    """A slot whose owner sleeps in the hub.

    However often and by whomever it is woken, the greenlet is switched to once: a
    second switch would strike in another sleep, later.

    :param loop: the loop of the greenlet's hub.
    """

    __slots__ = ("loop", "call", "deadline")

    greenlet: Any

    def __init__(self, greenlet: Any, loop: Any) -> None:
        # Not super(), which would cost more than the rest of this method.
        Waiter.__init__(self, greenlet)
        self.loop = loop
        #: the switch, once it is scheduled
        self.call: Any = None
        #: when the shared timer is to wake it; None: not at all
        self.deadline: float | None = None

    def wake(self) -> None:
        """Have the hub switch to the greenlet soon. Does not switch."""
        if self.call is None:
            self.call = self.loop.run_callback(self.greenlet.switch)

    def sleep(self, hub: Any) -> None:
        """Return when it was woken, and not when another greenlet switches to it.

        *May switch.*
        """
        self._pause(hub)
        while self.call is None:
            self._pause(hub)
        # If another greenlet's switch came first, the hub's must not follow.
        self.call.stop()

    def _pause(self, hub: Any) -> None:
        # In a method of its own: the coverage of lines that follow a switch directly is
        # counted for the greenlet that ran before.
        hub.switch()

    def cancel_wake(self) -> None:
        """It is up already, by another's doing: do not switch to it any more."""
        if self.call is not None:
            self.call.stop()


class WaitTimers:
    """The timers of one pool's line.

    :param usual: seconds of the waits that share a timer; None: none do.
    :param line: the :class:`TimedWaiter` of each who waits, first come first.
    """

    def __init__(
        self, default_timeout: float | None, waiters: Mapping[Any, Any]
    ) -> None:
        self._default_timeout = default_timeout
        self._waiters = waiters
        #: the shared timer, while it runs
        self._timer: Any = None
        #: one of the usual length, kept, for making one costs three times what starting
        #: it does; made when first needed: a pool never used touches no hub
        self._whole: Any = None
        #: when the shared timer should fire; INFINITE: however late it does
        self._due = INFINITE

    def sleep(self, hub: Any, waiter: TimedWaiter[Any], limit: float | None) -> None:
        """Return when *waiter* was woken, or after *limit* seconds. *May switch.*

        Whoever has slept leaves the line, and then calls :meth:`stop_if_unused`.

        :param hub: of the greenlet that is to sleep, which calls.
        :param limit: None: without end.
        """
        if limit is None:
            waiter.sleep(hub)
        elif limit == self._default_timeout:
            waiter.deadline = monotonic() + limit
            if self._timer is None:
                if self._whole is None:
                    self._whole = hub.loop.timer(min(limit, FAR))
                self._start(self._whole, waiter.deadline)
            waiter.sleep(hub)
        else:
            deadline = Deadline(hub.loop, limit, waiter.wake)
            try:
                waiter.sleep(hub)
            finally:
                deadline.close()

    def stop_if_unused(self) -> None:
        """If nobody waits, keep no loop alive. Does not switch."""
        if self._timer is not None and not self._waiters:
            self._stop()

    def _start(self, timer: Any, deadline: float) -> None:
        self._timer = timer
        self._due = deadline
        # update: else it would count from when this turn of the loop began.
        timer.start(self._on_timeout, update=True)

    def _stop(self) -> None:
        timer, self._timer = self._timer, None
        timer.stop()
        if timer is not self._whole:
            timer.close()

    def _on_timeout(self) -> None:
        """In the hub: wake those whose time has come, and look again for the next."""
        self._stop()
        now = monotonic()
        if now - self._due > LATE and self._waiters:
            # The loop was blocked. What they wait for may be there already, and needs
            # a few turns of the loop to be read; see deadline.py.
            loop = next(iter(self._waiters.values())).loop
            self._start(loop.timer(MOMENT), INFINITE)
            return
        passed = 0
        for waiter in self._waiters.values():
            if waiter.deadline is None:
                passed += 1
            elif waiter.deadline <= now:
                waiter.wake()
            else:
                pause = max(waiter.deadline - now, passed * STRIDE)
                self._start(waiter.loop.timer(min(pause, FAR)), now + pause)
                break
