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

from geventpool.policies import Outage

__all__ = ["Breaker"]


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
        self.asked = False

    @property
    def limit(self) -> int:
        """How many connections may be opened at a time."""
        return 0 if self.paused else self._admitted

    def failed(self, now: float) -> bool:
        """A connection could not be opened; True: the pause begins with this."""
        if self.since is None:
            self.since = now
        self._failures += 1
        if self.paused or not self._is_too_much():
            return False
        self.paused = self._told = self.asked = True
        return True

    def _is_too_much(self) -> bool:
        allowed = self.policy.failures
        return allowed is not None and self._failures >= allowed

    def succeeded(self, now: float) -> float | None:
        """A connection was opened.

        :return: seconds since the first failure, if an outage ended with this.
        """
        outage = now - self.since if self._told and self.since is not None else None
        self._admitted = 1 if self._told else min(self.most, 2 * self._admitted)
        self.since = None
        self.paused = self._told = False
        self._tries = 0
        # One failure is enough while the server is only beginning to answer.
        edge = (self.policy.failures or 1) - 1
        self._failures = 0 if self._admitted == self.most else edge
        return outage

    def pause(self) -> float:
        """Seconds until the next try."""
        pause = self.policy.backoff.delay(self._tries)
        self._tries += 1
        return pause

    def relent(self) -> None:
        """Nobody looks for the server any more: the next who asks may try it."""
        self.paused = False
        self._admitted = 1
