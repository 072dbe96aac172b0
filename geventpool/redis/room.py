"""The limit of unanswered calls on one shared connection."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from gevent import getcurrent

from geventpool.errors import PoolExhaustedError, TooManyWaitingError
from geventpool.extension import Deadline
from geventpool.redis.calls import Call

__all__ = ["Room"]


class Calls(Protocol):
    """The unanswered calls."""

    #: calls of which no byte was written
    out: deque[Call]
    #: calls that were written completely or in part
    sent: deque[Call]

    def abandon(self, call: Call) -> None:
        """Note that no greenlet waits for *call* any more. Never switches."""


class _Waiter:
    """One greenlet that waits for room."""

    __slots__ = ("call", "error", "granted", "greenlet", "is_expired", "units")

    def __init__(self, call: Call, units: int) -> None:
        self.call = call
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
        # As in wake(): no call between these lines, after which a signal may interrupt.
        self.is_expired = True
        greenlet, self.greenlet = self.greenlet, None
        if greenlet is not None:  # pragma: no branch (a signal)
            greenlet.switch()


class Room:
    """Queues calls in the order in which they came, as far as there is room.

    What is free is calculated from the calls themselves: wherever a signal handler
    raises, no room is lost.

    :param Calls calls: the calls that take room.
    :param int size: how many units they may take in total.
    :param hub: the hub of the greenlets that wait.
    :param str name: the name of the pool, for messages.
    """

    def __init__(self, calls: Calls, size: int, hub: Any, name: str) -> None:
        self.size = size
        #: a call of one unit may be queued without asking if there are fewer calls
        self.limit = size
        #: the waiters, longest first
        self.waiters: deque[_Waiter] = deque()
        #: calls that take more than one unit; some may have been answered
        self._large: list[Call] = []
        self._calls = calls
        self._hub = hub
        self._name = name
        self._is_closed = False

    @property
    def free(self) -> int:
        """The units that are not taken."""
        calls = self._calls
        return self.size - len(calls.out) - len(calls.sent) - self._excess()

    def _excess(self) -> int:
        """Return how many units calls take beyond one each."""
        return sum(call.units - 1 for call in self._large if call.left)

    def take(
        self, call: Call, units: int, timeout: float | None, most: int | None
    ) -> None:
        """Queue *call*, after all earlier waiters.

        May switch.

        :param int units: the room that it takes, at most the size of the room.
        :param timeout: the most seconds to wait; None: no limit; 0: do not wait.
        :param most: how many may wait; 0: the call is queued only if there is room now;
            None: no limit.
        :raises PoolExhaustedError: the timeout has passed.
        :raises TooManyWaitingError: *most* wait already.
        """
        calls = self._calls
        # First what is cheap to calculate: what large calls take is added up only if it
        # matters.
        if units <= self.limit - len(calls.out) - len(calls.sent) or (
            not self.waiters and units <= self.free
        ):
            calls.out.append(call)
            self._note_large(call, units)
            return
        if most is not None and len(self.waiters) >= most:
            raise TooManyWaitingError(self._refusal("max_waiting is reached"))
        if timeout == 0:
            raise PoolExhaustedError(self._refusal("no room"))
        waiter = _Waiter(call, units)
        self.limit = 0
        try:
            self.waiters.append(waiter)
            self._sleep(waiter, timeout)
        except BaseException:
            self._leave(waiter)
            raise
        if waiter.error is not None:
            raise waiter.error
        if not waiter.granted:
            self._leave(waiter)
            raise PoolExhaustedError(self._refusal(f"no room within {timeout:.1f} s"))

    def _note_large(self, call: Call, units: int) -> None:
        # After it was queued: in the other order a signal handler that raises in
        # between would leave room taken by nothing.
        if units > 1:
            call.units = units
            self._large.append(call)
            self.limit -= units - 1

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
            self._calls.abandon(waiter.call)
        elif waiter in self.waiters:
            self.waiters.remove(waiter)
            # Later waiters may need less room than it did.
            self.serve()

    def serve(self) -> None:
        """Queue the calls of waiters as far as there is room. Never switches."""
        waiters, out = self.waiters, self._calls.out
        self._large = [call for call in self._large if call.left and call.units > 1]
        while waiters and (waiters[0].is_decided or waiters[0].units <= self.free):
            waiter = waiters[0]
            if not waiter.is_decided:
                self._wake_soon(waiter)
                try:
                    # No call between these lines, after which a signal may interrupt.
                    waiter.granted = True
                    out.append(waiter.call)
                except Exception as error:
                    # Such as a MemoryError.
                    waiter.granted, waiter.error = False, error
                else:
                    self._note_large(waiter.call, waiter.units)
            waiters.popleft()
        if waiters or self._is_closed:
            self.limit = 0
        else:
            large = self._large
            self.limit = self.size - sum([call.units for call in large]) + len(large)

    def _wake_soon(self, waiter: _Waiter) -> None:
        # Twice, because a call can fail before its first line, for want of memory or by
        # a signal. The second one does nothing if the first has not failed.
        run = self._hub.loop.run_callback
        run(waiter.wake)
        run(waiter.wake)

    def refuse(self, error: BaseException) -> None:
        """Raise *error* in all waiters. Never switches."""
        self._is_closed = True
        self.limit = 0
        while self.waiters:
            waiter = self.waiters[0]
            self._wake_soon(waiter)
            waiter.error = error
            self.waiters.popleft()
