"""What borrowers do while their server cannot be reached, or is full.

SQLAlchemy connects in the borrower's greenlet, so the core pool does not learn whether
that worked. The gate here learns it, and tells the core's circuit breaker. It opens
nothing itself: a borrower that may try the server does that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import takewhile
from typing import Any, TypeVar

import gevent
from gevent.event import Event

from geventpool.connector import ErrorAction
from geventpool.extension import (
    PROMPT,
    SLOW,
    Breaker,
    chain,
    copy_error,
    timer_length,
)
from geventpool.policies import Backoff, Outage
from geventpool.sqlalchemy.full_servers import FullServer

__all__ = ["ConnectGate"]

C = TypeVar("C")

#: After an outage so many borrowers may connect at a time, as many as the other pools
#: open by default. With each success twice as many may.
FIRST = 4
#: When so many may, there is no limit any more.
NO_LIMIT_FROM = 16
#: Seconds between two attempts at least, so that others run meanwhile.
SHORTEST = 0.001

FOREVER = float("inf")

#: The pauses of a borrower that has a place, and connects it again to a full server.
PAUSES = Backoff()


class ConnectGate:
    """Lets borrowers connect, wait, or fail at once.

    :param Outage policy: what is done while the server cannot be reached.
    :param clock: returns seconds, monotonic.
    :param classify: returns what an error of the driver means. It raises nothing.
    :param notify: called with "paused" and the error, and with "resumed" and seconds.
    """

    def __init__(
        self,
        policy: Outage,
        clock: Callable[[], float],
        classify: Callable[[Exception], ErrorAction],
        notify: Callable[[str, Any], object],
    ) -> None:
        self.breaker = Breaker(policy, NO_LIMIT_FROM, FIRST)
        self.full = FullServer()
        self._clock = clock
        self._classify = classify
        self._notify = notify
        #: the attempts under way, and when they began
        self._attempts: dict[object, float] = {}
        #: the last failure; None: there was none
        self._error: Exception | None = None
        #: connections made so far
        self._successes = 0
        #: when the server may be tried again
        self._next_try = 0.0
        #: set when the next attempt ends
        self._ended = Event()

    def connect(
        self, dial: Callable[[], C], limit: float | None, gives_way: bool = False
    ) -> C:
        """Return what *dial* returns, as soon as it may be called. May switch.

        In the grace of an outage the caller waits, and *dial* is called again; so it is
        while the server is full.

        :param dial: connects to the server.
        :param limit: seconds to wait at most, while the server is away; None: no limit.
        :param bool gives_way: do not wait at a full server.
        :raises Exception: raised by *dial*; in an outage the last error of another.
        """
        # The caller may be handling an error that has nothing to do with this.
        older = sys.exc_info()[1]
        ends = FOREVER if limit is None else self._clock() + limit
        attempt = 0
        while True:
            try:
                return self._reach(dial, ends, older)
            except Exception as error:
                left = ends - self._clock()
                if gives_way or left <= 0 or not self.is_refusal(error):
                    raise
            gevent.sleep(timer_length(min(PAUSES.delay(attempt), left)))
            attempt += 1

    def is_refusal(self, error: Exception) -> bool:
        """Whether *error* says that the server is full. Never switches."""
        return self._classify(error) is ErrorAction.BACK_OFF

    def _reach(
        self, dial: Callable[[], C], ends: float, older: BaseException | None
    ) -> C:
        while True:
            pause = self._pause()
            if pause > 0 and self._clock() < ends and self._is_worth_waiting:
                self._wait(min(pause, ends - self._clock()))
            elif pause > 0 and self._error is not None:
                raise copy_error(self._error)
            elif made := self._try(dial, ends, older):
                return made[0]

    @property
    def _is_worth_waiting(self) -> bool:
        breaker = self.breaker
        return breaker.since is None or breaker.grace_left(self._clock()) > 0

    def _pause(self) -> float:
        """Return the seconds until one more may try the server; 0 or less: now."""
        breaker, now = self.breaker, self._clock()
        if breaker.limit == NO_LIMIT_FROM:
            return 0.0
        # A server that has just come back may need long for its first connections.
        is_over = breaker.paused and breaker.grace_left(now) <= 0
        slow = SLOW if is_over else PROMPT
        recent = [began for began in self._attempts.values() if now - began < slow]
        if len(recent) >= max(1, breaker.limit):
            return min(recent) + slow - now
        return self._next_try - now if breaker.paused else 0.0

    def _wait(self, seconds: float) -> None:
        """Wait for the end of an attempt, or of the grace. May switch."""
        left = self.breaker.grace_left(self._clock())
        self._ended.wait(timer_length(min(seconds, left) if left else seconds))

    def _try(
        self, dial: Callable[[], C], ends: float, older: BaseException | None
    ) -> list[C]:
        """Return what *dial* returns, in a list; an empty one: try again."""
        attempt, began, successes = object(), self._clock(), self._successes
        self._attempts[attempt] = began
        try:
            conn = dial()
        except Exception as error:
            if self.is_refusal(error):
                self.full.refused(copy_error(error), began, self._clock())
                raise
            if not self._is_loss(error, older):
                raise
            if self._successes > successes:
                # It hung in an outage that has ended meanwhile.
                is_worth_waiting = self.breaker.has_grace
            else:
                self._failed(error, began)
                is_worth_waiting = self._is_worth_waiting
            if self._clock() >= ends or not is_worth_waiting:
                raise
            return []
        else:
            self._succeeded()
            return [conn]
        finally:
            del self._attempts[attempt]
            ended, self._ended = self._ended, Event()
            ended.set()

    def _failed(self, error: Exception, began: float) -> None:
        now = self._clock()
        self._error = copy_error(error)
        begins = self.breaker.failed(now, began=began)
        self._next_try = now + max(self.breaker.next_pause(now), SHORTEST)
        if begins:
            self._notify("paused", error)

    def _succeeded(self) -> None:
        self._error = None
        self.full.had_room()
        self._successes += 1
        outage = self.breaker.succeeded(self._clock())
        if outage is not None:
            self._notify("resumed", outage)

    def _is_loss(self, error: Exception, older: BaseException | None) -> bool:
        """Whether *error* came of the way to the server, as far as can be told."""
        # Drivers raise errors of their own while they handle that of the socket.
        for each in takewhile(lambda each: each is not older, chain(error)):
            if isinstance(each, (OSError, EOFError)):
                return True
        return self._classify(error) is ErrorAction.DISCONNECT
