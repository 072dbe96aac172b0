"""Whether a server that could not be reached is tried again, and how often at a time.

The circuit breaker of a pool. It is told of failures and successes, and of the time. It
opens nothing, and does not wait.

::

    closed ------ many failures in a row ----> paused <---+
       ^                                        |   |      | a failure
       |                              a success |   +-> half-open, one try at a time
       +----------------------------------------+----------+

After a success the server is *recovering* for some successes more: as many as are
usual are opened at a time, but one failure begins the next pause.
"""

from __future__ import annotations

import math
import random

from geventpool.policies import Outage

__all__ = ["Breaker"]

#: The most seconds between two attempts in the grace.
LOOK = 0.05
#: In the grace so many failures are enough for a pause.
ENOUGH = 3
#: Failures with more seconds between them belong to different outages.
APART = 10.0


class Breaker:
    """The circuit breaker of one pool.

    :param Outage policy: when to pause, and for how long.
    :param int most: the connections that may be opened at a time without an outage.
    :param first: so many after the first success of an outage, and then twice as many
        with each success; None: *most*.
    """

    def __init__(self, policy: Outage, most: int, first: int | None = None) -> None:
        self.policy = policy
        self.most = most
        self._first_limit = most if first is None else first
        #: the connections that have proven the server: 1 after an outage, twice as many
        #: with each success, until there are *most*
        self._proven = most
        #: failures in a row; kept one below a pause until the outage is over
        self._failures = 0
        #: attempts since the pause began
        self._tries = 0
        self._told = False
        #: when the first failure in a row was; None: the last attempt succeeded
        self.since: float | None = None
        #: whether only the probe greenlet may connect
        self.paused = False
        #: whether a caller has wanted a connection since the last attempt
        self.demand = False
        #: whether a connection was ever opened
        self.reached = False
        #: whether the last failure means that the server could not be reached
        self._lost = False
        #: when the last failure was, and the first one of the same outage
        self._last = self._first = -math.inf
        #: whether waiters do not stay in line in this outage
        self._is_given_up = False

    @property
    def limit(self) -> int:
        """How many connections may be opened at a time."""
        if self.paused:
            return 0
        # Told, but not paused: it is half-open.
        return 1 if self._told else max(self._first_limit, self._proven)

    @property
    def is_recovering(self) -> bool:
        """Whether the server has only begun to answer again, or may be tried."""
        return not self.paused and self._proven < self.most

    def failed(self, now: float, lost: bool = True, began: float | None = None) -> bool:
        """Note that a connection could not be opened.

        :param began: when the attempt began; None: just now.
        :param bool lost: whether the server could not be reached; False: another
            reason, such as a wrong password.
        :return: whether the pause begins now.
        """
        if began is None:
            began = now
        if self.since is None or began - self._last > APART:
            self._first = now
            self._is_given_up = False
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
        """Whether waiters stay in line for some time when the server is away."""
        policy = self.policy
        return policy.failures is not None and (policy.wait or policy.grace > 0)

    def _is_too_much(self, now: float) -> bool:
        allowed = self.policy.failures
        if allowed is None:
            return False
        if self.grace_left(now) > 0:
            # The waiters get no error, so only a pause ends the attempts.
            allowed = min(allowed, ENOUGH)
        return self._failures >= allowed

    def grace_left(self, now: float) -> float:
        """Return the seconds that waiters stay in line; 0: they do not."""
        policy = self.policy
        if policy.failures is None or self.since is None or self._is_given_up:
            return 0.0
        if policy.wait:
            return math.inf
        if not (self.reached and self._lost):
            return 0.0
        return max(0.0, self._first + policy.grace - now)

    def give_up(self) -> None:
        """End the grace of this outage: another server does the work."""
        self._is_given_up = True

    def succeeded(self, now: float) -> float | None:
        """Note that a connection was opened.

        :return: the seconds since the first failure, if this ends an outage; or None.
        """
        outage = now - self.since if self._told and self.since is not None else None
        self._proven = 1 if self._told else min(self.most, 2 * self._proven)
        self.since = None
        self.reached = True
        self.paused = self._told = False
        self._tries = 0
        # One failure is enough while the server is only beginning to answer.
        edge = (self.policy.failures or 1) - 1
        self._failures = edge if self.is_recovering else 0
        return outage

    def next_pause(self, now: float) -> float:
        """Count one more attempt, and return the seconds until it."""
        backoff = self.policy.backoff
        pause = backoff.delay(self._tries)
        self._tries += 1
        if self._first <= now < self._first + self.policy.grace:
            # Less by the jitter, so that many processes do not try at the same time.
            pause = min(pause, LOOK * (1 - backoff.jitter * random.random()))
        return pause

    def half_open(self) -> None:
        """Let the next caller try the server, because the probe greenlet has ended."""
        self.paused = False
        self._proven = 1
