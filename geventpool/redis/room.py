"""The limit of unanswered calls on one shared connection."""

from __future__ import annotations

from collections import deque
from typing import Any

from gevent import getcurrent

from geventpool.errors import PoolExhaustedError, TooManyWaitingError
from geventpool.extension import Deadline

__all__ = ["Room"]


class _Waiter:
    """One greenlet that waits for room."""

    __slots__ = ("error", "granted", "greenlet", "is_expired", "units")

    def __init__(self, units: int) -> None:
        self.units = units
        #: the greenlet; None: it is not in the hub
        self.greenlet: Any = None
        self.granted = False
        self.is_expired = False
        self.error: BaseException | None = None

    @property
    def is_decided(self) -> bool:
        """Whether the wait has ended."""
        return self.granted or self.is_expired or self.error is not None

    def wake(self) -> None:
        """Switch to the greenlet if it still waits. Runs in the hub."""
        greenlet, self.greenlet = self.greenlet, None
        if greenlet is not None:
            greenlet.switch()

    def expire(self) -> None:
        """End the wait because the timeout has passed. Runs in the hub."""
        self.is_expired = True
        self.wake()


class Room:
    """A counter of units that waiters take in the order in which they came.

    :param int size: how many units may be taken in total.
    :param hub: the hub of the greenlets that wait.
    :param str name: the name of the pool, for messages.
    """

    def __init__(self, size: int, hub: Any, name: str) -> None:
        self.size = size
        #: units that are not taken
        self.free = size
        #: the waiters, longest first
        self.waiters: deque[_Waiter] = deque()
        self._hub = hub
        self._name = name

    def take(self, units: int, timeout: float | None, most: int | None) -> None:
        """Take *units*, after all earlier waiters.

        May switch.

        :param int units: at most the size of the room.
        :param timeout: the most seconds to wait; None: no limit; 0: do not wait.
        :param most: how many may wait; None: no limit.
        :raises PoolExhaustedError: the timeout has passed.
        :raises TooManyWaitingError: *most* wait already.
        """
        if self.free >= units and not self.waiters:
            self.free -= units
            return
        if most is not None and len(self.waiters) >= most:
            raise TooManyWaitingError(self._refusal("too many wait already"))
        if timeout == 0:
            raise PoolExhaustedError(self._refusal("no room"))
        waiter = _Waiter(units)
        self.waiters.append(waiter)
        try:
            self._sleep(waiter, timeout)
        except BaseException:
            self._leave(waiter)
            raise
        if waiter.error is not None:
            raise waiter.error
        if not waiter.granted:
            self._leave(waiter)
            raise PoolExhaustedError(self._refusal(f"no room within {timeout:.1f} s"))

    def _refusal(self, reason: str) -> str:
        return (
            f"Pool {self._name!r} exhausted: {reason} for another command on the "
            f"shared connection ({self.size - self.free} of max_in_flight "
            f"{self.size} taken, {len(self.waiters)} waiting)"
        )

    def _sleep(self, waiter: _Waiter, timeout: float | None) -> None:
        deadline = None
        if timeout is not None:
            deadline = Deadline(self._hub.loop, timeout, waiter.expire)
        try:
            # Other code may switch to this greenlet as well.
            while not waiter.is_decided:
                self._pause(waiter)
        finally:
            waiter.greenlet = None
            if deadline is not None:
                deadline.close()

    def _pause(self, waiter: _Waiter) -> None:
        waiter.greenlet = getcurrent()
        self._hub.switch()

    def _leave(self, waiter: _Waiter) -> None:
        if waiter.granted:
            self.give_back(waiter.units)
        elif waiter in self.waiters:
            self.waiters.remove(waiter)
            # Later waiters may need less room than it did.
            self.serve()

    def give_back(self, units: int) -> None:
        """Free *units*. Never switches."""
        self.free += units
        if self.waiters:
            self.serve()

    def serve(self) -> None:
        """Serve the waiters as far as there is room. Never switches."""
        while self.waiters and self.waiters[0].units <= self.free:
            waiter = self.waiters[0]
            self._wake_soon(waiter)
            self.waiters.popleft()
            self.free -= waiter.units
            waiter.granted = True

    def _wake_soon(self, waiter: _Waiter) -> None:
        # Twice, because a call can fail before its first line, for want of memory or by
        # a signal. The second one does nothing if the first has not failed.
        run = self._hub.loop.run_callback
        run(waiter.wake)
        run(waiter.wake)

    def refuse(self, error: BaseException) -> None:
        """Raise *error* in all waiters. Never switches."""
        while self.waiters:
            waiter = self.waiters[0]
            self._wake_soon(waiter)
            self.waiters.popleft()
            waiter.error = error
