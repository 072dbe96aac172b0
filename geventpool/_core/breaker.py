"""Whether a server that could not be reached is tried again, and by how many at a time.

The circuit breaker of a pool. Knows failures and successes as it is told of them, and
time as seconds that it is handed; opens nothing, waits for nobody.

::

    closed ---- so many failures in a row ---> paused <---+
       ^                                        |   |      | a failure
       |                              a success |   +-> half-open, one try at a time
       +-- as many at a time as ever <----------+----------+
"""

from __future__ import annotations

import math
import random

from geventpool.policies import Outage

__all__ = ["Breaker"]

#: Within the grace the server is tried at least every so many seconds.
LOOK = 0.05
#: Within the grace no more failures than this are needed for a pause.
ENOUGH = 3
#: Failures with more seconds between them do not belong to one outage.
APART = 10.0


class Breaker:
    """The state of one pool's way to its server.

    :param Outage policy: when to pause, and for how long.
    :param int most: so many connections are opened at a time when all is well.
    """

    def __init__(self, policy: Outage, most: int) -> None:
        self.policy = policy
        self.most = most
        #: connections that may be opened at a time when it is not paused
        self._admitted = most
        #: failures in a row; kept at the edge until all is well again
        self._failures = 0
        #: tries since the pause began
        self._tries = 0
        self._told = False
        #: when the first failure of the present row was; None: all is well
        self.since: float | None = None
        #: is nothing opened but by the one who looks for the server?
        self.paused = False
        #: has anybody wanted a connection since the last try?
        self.demand = False
        #: was a connection ever opened?
        self.reached = False
        #: did the last failure come of a lost connection?
        self._lost = False
        #: when the last failure was, and the first one of those close before it
        self._last = self._first = -math.inf

    @property
    def limit(self) -> int:
        """How many connections may be opened at a time."""
        return 0 if self.paused else self._admitted

    def failed(self, now: float, lost: bool = True, began: float | None = None) -> bool:
        """A connection could not be opened.

        :param began: when the attempt began; None: just now.
        :param bool lost: because the way to the server is lost; False: for another
            reason, such as a wrong password.
        :return: True: the pause begins with this.
        """
        if began is None:
            began = now
        if self.since is None or began - self._last > APART:
            self._first = now
        if self.since is None:
            self.since = now
        self._last = now
        self._lost = lost
        self._failures += 1
        if self.paused or not self._is_too_much(now):
            return False
        self.paused = self._told = self.demand = True
        return True

    @property
    def has_grace(self) -> bool:
        """Whether waiters stay in line for some time when the way is lost."""
        policy = self.policy
        return policy.failures is not None and (policy.wait or policy.grace > 0)

    def _is_too_much(self, now: float) -> bool:
        allowed = self.policy.failures
        if allowed is None:
            return False
        if self.grace_left(now) > 0:
            # The waiters are not told, so nothing but a pause ends the attempts.
            allowed = min(allowed, ENOUGH)
        return self._failures >= allowed

    def grace_left(self, now: float) -> float:
        """For so many seconds the waiters stay in line; 0: they do not."""
        policy = self.policy
        if policy.failures is None or self.since is None:
            return 0.0
        if policy.wait:
            return math.inf
        if not (self.reached and self._lost):
            return 0.0
        return max(0.0, self._first + policy.grace - now)

    def succeeded(self, now: float) -> float | None:
        """A connection was opened.

        :return: seconds since the first failure, if an outage ended with this.
        """
        outage = now - self.since if self._told and self.since is not None else None
        self._admitted = 1 if self._told else min(self.most, 2 * self._admitted)
        self.since = None
        self.reached = True
        self.paused = self._told = False
        self._tries = 0
        # One failure is enough while the server is only beginning to answer.
        edge = (self.policy.failures or 1) - 1
        self._failures = 0 if self._admitted == self.most else edge
        return outage

    def next_pause(self, now: float) -> float:
        """Count one more attempt, and return the seconds until it."""
        backoff = self.policy.backoff
        pause = backoff.delay(self._tries)
        self._tries += 1
        if self._first <= now < self._first + self.policy.grace:
            # Less by the jitter: many processes must not look in step.
            pause = min(pause, LOOK * (1 - backoff.jitter * random.random()))
        return pause

    def half_open(self) -> None:
        """Nobody looks for the server any more: the next who asks may try it."""
        self.paused = False
        self._admitted = 1
