"""The bound on what is under way over one shared connection."""

from __future__ import annotations

from collections import deque
from typing import Any

from gevent import getcurrent

from geventpool.errors import PoolExhaustedError, TooManyWaitingError

__all__ = ["Room"]


class _Place:
    """One greenlet in line for room."""

    __slots__ = ("due", "error", "granted", "units", "waiter")

    def __init__(self, units: int) -> None:
        self.units = units
        #: None: it does not wait in the hub
        self.waiter: Any = None
        self.granted = False
        self.due = False
        self.error: BaseException | None = None

    @property
    def is_decided(self) -> bool:
        """Whether it need not wait any longer."""
        return self.granted or self.due or self.error is not None

    def wake(self) -> None:
        """Switch to the greenlet if it still waits. In the hub only."""
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            waiter.switch()

    def expire(self) -> None:
        """The time is up. In the hub only."""
        self.due = True
        self.wake()


class Room:
    """Units that are taken in the order in which they were asked for.

    :param int size: units that may be taken together.
    :param hub: the hub of the greenlets that wait.
    :param str name: of the pool, for messages.
    """

    def __init__(self, size: int, hub: Any, name: str) -> None:
        self.size = size
        #: units that are not taken
        self.free = size
        #: the waiters, longest first
        self.line: deque[_Place] = deque()
        self._hub = hub
        self._name = name

    def take(self, units: int, timeout: float | None, most: int | None) -> None:
        """Take *units*, after all who asked before.

        May switch.

        :param int units: at most the size of the room.
        :param timeout: seconds to wait at most; None: without end; 0: not at all.
        :param most: so many may wait; one more is refused. None: any number.
        :raises PoolExhaustedError: the time is up.
        :raises TooManyWaitingError: *most* wait already.
        """
        if self.free >= units and not self.line:
            self.free -= units
            return
        if most is not None and len(self.line) >= most:
            raise TooManyWaitingError(self._refusal("too many wait already"))
        if timeout == 0:
            raise PoolExhaustedError(self._refusal("no room"))
        place = _Place(units)
        self.line.append(place)
        try:
            self._sleep(place, timeout)
        except BaseException:
            self._leave(place)
            raise
        if place.error is not None:
            raise place.error
        if not place.granted:
            self._leave(place)
            raise PoolExhaustedError(self._refusal(f"no room within {timeout:.1f} s"))

    def _refusal(self, reason: str) -> str:
        return (
            f"Pool {self._name!r} exhausted: {reason} for another command on the "
            f"shared connection ({self.size - self.free} of max_in_flight "
            f"{self.size} taken, {len(self.line)} waiting)"
        )

    def _sleep(self, place: _Place, timeout: float | None) -> None:
        timer = None
        if timeout is not None:
            timer = self._hub.loop.timer(timeout)
            timer.start(place.expire, update=True)
        try:
            # Another may switch to this greenlet, for reasons of its own.
            while not place.is_decided:
                self._pause(place)
        finally:
            place.waiter = None
            if timer is not None:
                timer.stop()
                timer.close()

    def _pause(self, place: _Place) -> None:
        place.waiter = getcurrent()
        self._hub.switch()

    def _leave(self, place: _Place) -> None:
        if place.granted:
            self.give_back(place.units)
        elif place in self.line:
            self.line.remove(place)
            # It may have kept others waiting that need less.
            self.serve()

    def give_back(self, units: int) -> None:
        """*units* are free again. Never switches."""
        self.free += units
        if self.line:
            self.serve()

    def serve(self) -> None:
        """Grant what those in line wait for, as far as there is room."""
        while self.line and self.line[0].units <= self.free:
            place = self.line.popleft()
            self.free -= place.units
            place.granted = True
            self._hub.loop.run_callback(place.wake)

    def refuse(self, error: BaseException) -> None:
        """All waiters get *error*. Never switches."""
        while self.line:
            place = self.line.popleft()
            place.error = error
            self._hub.loop.run_callback(place.wake)
