"""How a waiter sleeps, is woken, and times out.

It knows the event loop and waiters. Most waits have the same time limit, and few reach
it. So these share one timer, set for the first of them. A timer for each would cost as
much as everything else that a wait needs, and more if there are too many timers for the
caches of the processor.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import Any, TypeVar

from geventpool._core.deadline import LATE, MOMENT, Deadline
from geventpool._core.ledger import Waiter
from geventpool._core.loops import is_libuv, timer_length

__all__ = ["ReturningWaiter", "TimedWaiter", "WaitTimers"]

C = TypeVar("C")

#: Minimum delay of the shared timer for each waiter that it skips, in seconds. Waiters
#: with a time limit of their own are skipped; this bounds how often many of them are.
STRIDE = 1e-6
INFINITE = float("inf")


class TimedWaiter(Waiter[C]):
    """A waiter whose greenlet sleeps in the hub.

    However often it is woken, the greenlet is switched to once: a second switch would
    end a later sleep of the greenlet.

    :param loop: the event loop of the greenlet's hub.
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
        """Have the hub switch to the greenlet soon. Never switches."""
        if self.call is None:
            self.call = self.loop.run_callback(self.greenlet.switch)

    def sleep(self, hub: Any) -> None:
        """Return when it was woken, not when another greenlet switches to it.

        May switch.
        """
        self._pause(hub)
        while self.call is None:
            self._pause(hub)
        # Another greenlet may have switched first. The hub must not do it again.
        self.call.stop()

    def _pause(self, hub: Any) -> None:
        # A method of its own, because coverage counts the lines directly after a switch
        # for the greenlet that ran before.
        hub.switch()

    def cancel_wake(self) -> None:
        """Do not switch to the greenlet any more: something else has woken it."""
        if self.call is not None:
            self.call.stop()


class ReturningWaiter(TimedWaiter[C]):
    """A waiter that was served before, with what turned out to be of no use.

    :param float came: since when it has waited.
    """

    __slots__ = ("came",)

    def __init__(self, greenlet: Any, loop: Any, came: float) -> None:
        super().__init__(greenlet, loop)
        self.came = came


class WaitTimers:
    """The timers of the waiters of one pool.

    :param default_timeout: seconds of the waits that share a timer; None: none do.
    :param waiters: the :class:`TimedWaiter` objects by greenlet, in order of arrival.
    """

    def __init__(
        self, default_timeout: float | None, waiters: Mapping[Any, Any]
    ) -> None:
        self._default_timeout = default_timeout
        self._waiters = waiters
        #: the shared timer, while it runs
        self._timer: Any = None
        #: a timer of the default length, which is kept: making one costs three times as
        #: much as starting it. Made at first use: an unused pool must not create a hub.
        self._whole: Any = None
        #: when the shared timer should fire; INFINITE: it is never late
        self._due = INFINITE

    def sleep(self, hub: Any, waiter: TimedWaiter[Any], limit: float | None) -> None:
        """Return when *waiter* was woken, or after *limit* seconds. May switch.

        The caller then removes the waiter, and calls :meth:`stop_if_unused`.

        :param hub: the hub of the calling greenlet, which sleeps.
        :param limit: None: without limit.
        """
        if limit is None:
            waiter.sleep(hub)
        elif limit == self._default_timeout:
            waiter.deadline = monotonic() + limit
            if self._timer is None:
                timer = self._whole or self._make_whole(hub.loop, limit)
                self._start(timer, waiter.deadline)
            waiter.sleep(hub)
        else:
            deadline = Deadline(hub.loop, limit, waiter.wake)
            try:
                waiter.sleep(hub)
            finally:
                deadline.close()

    def _make_whole(self, loop: Any, limit: float) -> Any:
        timer = loop.timer(timer_length(limit))
        # Nobody closes a timer that is kept.
        self._whole = None if is_libuv(loop) else timer
        return timer

    def stop_if_unused(self) -> None:
        """Stop the shared timer if there are no waiters. Never switches.

        It would keep the event loop running.
        """
        if self._timer is not None and not self._waiters:
            self._stop()

    def _start(self, timer: Any, deadline: float) -> None:
        self._timer = timer
        self._due = deadline
        # update: otherwise the time counts from the start of this turn of the loop.
        timer.start(self._on_timeout, update=True)

    def _stop(self) -> None:
        timer, self._timer = self._timer, None
        timer.stop()
        if timer is not self._whole:
            timer.close()

    def _on_timeout(self) -> None:
        """Wake the waiters that have timed out, and set the next timer. In the hub."""
        self._stop()
        now = monotonic()
        if now - self._due > LATE and self._waiters:
            # The loop was blocked. The answers of the server may be there already, and
            # a few turns of the loop are needed to read them; see deadline.py.
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
                self._start(waiter.loop.timer(timer_length(pause)), now + pause)
                break
