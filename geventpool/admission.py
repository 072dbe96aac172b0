"""Who is refused early, when more work arrives than the connections can do.

A fair line under overload serves each waiter just before it gives up: all connections
are busy, and nobody has a reply in time. Two rules keep the line short:

* A caller that cannot be served within its time limit is refused before it joins the
  line. The expected wait is its place in line times the mean time between two returns,
  which the pool measures itself.
* Callers without a time limit of their own are refused when the line stands, that is,
  when for a whole interval the wait never was short. The idea is that of CoDel (K.
  Nichols and V. Jacobson, "Controlling Queue Delay", ACM Queue, 2012). CoDel
  refuses few and then more, because senders slow down; callers of a pool do not, so
  the line is made as short as it may be at once.

Knows the line, and time as seconds that it is handed; reads no clock, never waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from geventpool._core.ledger import FOREVER
from geventpool.errors import PoolOverloadedError
from geventpool.policies import check_seconds, safe_repr

__all__ = ["Admission", "AdmissionControl", "ReturnRate", "as_admission"]

#: The fewest returns that tell a rate.
ENOUGH = 10
#: Seconds without a line after which the measured rate is forgotten.
STALE = 1.0
#: The most waiters that are refused for one return, so that the event loop goes on.
AT_A_TIME = 64


@dataclass(frozen=True)
class Admission:
    """Which callers are refused early, because too many wait.

    :param float target: seconds that a waiter may always wait. Where loans last longer
        on average, that mean takes its place.
    :param float interval: seconds, above 0. If the wait in line never was *target* or
        less in this time, callers without a time limit of their own wait no longer
        than about twice *target*, until it is.
    :raises TypeError: a value is not a number.
    :raises ValueError: a value is negative, NaN or infinite, or *interval* is 0.
    """

    target: float = 0.02
    interval: float = 0.1

    def __post_init__(self) -> None:
        check_seconds("admission.target", self.target)
        if not check_seconds("admission.interval", self.interval):
            raise ValueError(
                f"admission.interval must be above 0, not {self.interval!r}"
            )


def as_admission(name: str, value: Any) -> Admission | None:
    """Return the policy that *value* stands for: True is the default, False is None.

    :raises TypeError: it is no :class:`Admission`, no truth value and not None.
    """
    if value is None or value is False:
        return None
    if value is True:
        return Admission()
    if not isinstance(value, Admission):
        raise TypeError(
            f"{name} must be an Admission, True, False or None, not {safe_repr(value)}"
        )
    return value


class ReturnRate:
    """How fast connections come back while somebody waits.

    Counts the returns in two windows, the present one and the one before, so that old
    measurements are forgotten. The time in which nobody waits is not counted.

    :param float interval: the least seconds of a window.
    """

    __slots__ = ("_interval", "_count", "_seconds", "_earlier", "_mark")

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._count = 0
        self._seconds = 0.0
        #: returns and seconds of the window before
        self._earlier = (0, 0.0)
        #: the time of the last return, or when the line began
        self._mark = -FOREVER

    def line_began(self, now: float) -> None:
        """Somebody waits, and nobody did before."""
        if now - self._mark > STALE:
            self._count, self._seconds, self._earlier = 0, 0.0, (0, 0.0)
        self._mark = now

    def returned(self, now: float, size: int) -> None:
        """A connection came back while somebody waited.

        :param size: the number of connections. Many may come back together, so a
            window has the returns of at least two rounds.
        """
        gap = now - self._mark
        if mean := self._mean(0.0, size):
            # A standstill that is over tells nothing of the rate from now on.
            gap = min(gap, self._usual_gap(mean, size))
        self._mark = now
        self._seconds += gap
        self._count += 1
        if self._seconds >= self._interval and self._count >= 2 * max(size, ENOUGH):
            self._earlier = (self._count, self._seconds)
            self._count, self._seconds = 0, 0.0

    def seconds_each(self, now: float, size: int) -> float:
        """Return the mean seconds between two returns; 0.0: too few were seen."""
        mean = self._mean(0.0, size)
        since = now - self._mark - self._usual_gap(mean, size)
        # Less is no standstill: many may come back together, or the loop was blocked.
        return self._mean(since, size) if since > 0 else mean

    def _usual_gap(self, mean: float, size: int) -> float:
        return max(self._interval, 2 * size * mean)

    def _mean(self, since: float, size: int) -> float:
        count, seconds = self._earlier
        count += self._count
        if count < size or count < ENOUGH:
            return 0.0
        return (seconds + self._seconds + since) / count


class Line(Protocol):
    """What is asked of the pool's ledger."""

    @property
    def waiters(self) -> Mapping[Any, Any]: ...
    @property
    def entries(self) -> Mapping[Any, Any]: ...
    def fail(self, waiter: Any, error: BaseException) -> None: ...


class AdmissionControl:
    """Applies one policy to one line.

    :param str name: the pool's, for messages.
    """

    def __init__(self, policy: Admission, name: str, line: Line) -> None:
        self.policy = policy
        self._name = name
        self._line = line
        self.rate = ReturnRate(policy.interval)
        #: was the wait in line too long at each return of the last interval?
        self.is_standing = False
        #: the shortest wait in the present interval, and when that began
        self._shortest = 0.0
        self._began = -FOREVER

    def arrive(
        self, now: float, limit: float | None, is_own: bool
    ) -> PoolOverloadedError | None:
        """Somebody is about to join the line. Never switches.

        :param limit: seconds that it waits at most; None: without limit.
        :param is_own: whether the limit is one of the call, and not the pool's.
        :return: the error if it is refused; None: it is admitted.
        """
        waiting = len(self._line.waiters)
        if not waiting:
            # The first one is always admitted: its wait is the next measurement.
            self.rate.line_began(now)
            self.is_standing = False
            self._shortest = 0.0
            return None
        size = len(self._line.entries)
        each = self.rate.seconds_each(now, size)
        if self.is_standing and not is_own:
            most = 2 * self._acceptable(each, size)
            limit = most if limit is None else min(limit, most)
        expected = (waiting + 1) * each
        if limit is None or expected <= limit:
            return None
        return PoolOverloadedError(self._name, expected, waiting + 1, limit)

    def on_return(self, now: float) -> None:
        """A connection is about to go to the first in line. Never switches.

        If the line stands, those that have waited longest are refused until it is short
        enough, but for the last one: a connection is never idle because of a refusal.
        """
        line = self._line
        size = len(line.entries)
        self.rate.returned(now, size)
        each = self.rate.seconds_each(now, size)
        acceptable = self._acceptable(each, size)
        self._shortest = min(self._shortest, (len(line.waiters) - 1) * each)
        if now - self._began >= max(self.policy.interval, each * size):
            self.is_standing = self._shortest > acceptable
            self._shortest = FOREVER
            self._began = now
        if self.is_standing:
            self._shorten(2 * acceptable, each)

    def _shorten(self, limit: float, each: float) -> None:
        line = self._line
        for _ in range(AT_A_TIME):
            length = len(line.waiters)
            if length < 2 or length * each <= limit:
                return
            waiter = next(iter(line.waiters.values()))
            if waiter.ends != FOREVER:
                return
            error = PoolOverloadedError(
                self._name, length * each, length, limit, "in line"
            )
            line.fail(waiter, error)

    def _acceptable(self, each: float, size: int) -> float:
        """Seconds that one may always wait: as long as a loan lasts on average."""
        return max(self.policy.target, each * size)
