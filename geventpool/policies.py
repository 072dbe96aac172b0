"""Frozen classes for times and back-off, which validate their values.

They get times as arguments: they read no clock and never wait.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = [
    "Backoff",
    "Expiry",
    "Timeouts",
    "Outage",
    "check_bool",
    "check_optional_callable",
    "check_optional_seconds",
    "check_optional_int",
    "check_seconds",
    "safe_repr",
    "check_int",
]

F = TypeVar("F")

FOREVER = math.inf

#: The most characters of a bad value in a message.
ENOUGH = 1000

#: A number of pauses that never ends in practice, but does not overflow a timer.
MANY = 10**12


def safe_repr(value: Any) -> str:
    """Return a short ``repr`` of any value, for a message. Never raises."""
    try:
        text = repr(value)
    except Exception:
        # An int of thousands of digits, or a __repr__ that raises.
        return f"<{type(value).__name__} that cannot be shown>"
    return text if len(text) <= ENOUGH else f"{text[:ENOUGH]}..."


def _number(
    name: str,
    value: Any,
    rule: str,
    minimum: float = 0,
    maximum: float = sys.float_info.max,
) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be {rule}, not {safe_repr(value)}")
    # An int that is too large for a float is above every maximum. NaN is in no range.
    if not minimum <= value <= maximum:
        raise ValueError(f"{name} must be {rule}, not {safe_repr(value)}")
    return float(value)


def check_seconds(name: str, value: Any) -> float:
    """Check that a duration is finite and not negative; return it as a float.

    A NaN in an event loop's heap of timers stops *every* timer of the process.

    :param str name: the name of the argument, for the message.
    :raises TypeError: not a number (``bool`` is not one).
    :raises ValueError: negative, NaN or infinite.
    """
    rule = "a number of seconds, finite and not negative"
    return _number(name, value, rule)


def _share(name: str, value: Any) -> float:
    return _number(name, value, "a number from 0 to 1", maximum=1)


def check_optional_seconds(name: str, value: Any) -> float | None:
    """Like :func:`check_seconds`; None, for "no limit", stays None."""
    return None if value is None else check_seconds(name, value)


def check_int(name: str, value: Any, minimum: int = 0) -> int:
    """Check that a value is a whole number of at least *minimum*; return it.

    :raises TypeError: not an ``int`` (``bool`` is not one).
    :raises ValueError: below *minimum*, or above ``sys.maxsize``.
    """
    rule = f"a whole number of at least {minimum}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be {rule}, not {safe_repr(value)}")
    if value > sys.maxsize:
        rule += f" and at most {sys.maxsize}"
    if not minimum <= value <= sys.maxsize:
        raise ValueError(f"{name} must be {rule}, not {safe_repr(value)}")
    return value


def check_optional_int(name: str, value: Any, minimum: int = 0) -> int | None:
    """Like :func:`check_int`; None, for "no limit", stays None."""
    return None if value is None else check_int(name, value, minimum)


def check_bool(name: str, value: Any) -> bool:
    """Check that a value is True or False, and nothing that is only equal to them.

    :raises TypeError: not a ``bool``.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {safe_repr(value)}")
    return value


def check_optional_callable(name: str, value: F) -> F:
    """Check that a value is None or can be called; return it.

    :raises TypeError: neither.
    """
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a callable or None, not {safe_repr(value)}")
    return value


@dataclass(frozen=True)
class Backoff:
    """The pauses between attempts.

    Pause *n* (counted from 0) is ``initial * factor ** n``, at most *maximum*, and then
    changed at random by up to plus or minus *jitter* of itself.

    ``Backoff(0.1, factor=1, jitter=0, retries=10)`` behaves as gsocketpool.

    :param float initial: the first pause, in seconds.
    :param float factor: the ratio of a pause to the one before; at least 1.
    :param float maximum: the longest pause in seconds (before jitter).
    :param float jitter: the random fraction of a pause, 0 (none) to 1.
    :param int retries: the number of pauses; None: no limit but the caller's timeout.
    :raises TypeError: a value is not a number.
    :raises ValueError: a value is out of its range.
    """

    initial: float = 0.05
    factor: float = 2.0
    maximum: float = 5.0
    jitter: float = 0.1
    retries: int | None = None

    def __post_init__(self) -> None:
        initial = check_seconds("initial", self.initial)
        _number("factor", self.factor, "a finite number of at least 1", minimum=1)
        if check_seconds("maximum", self.maximum) < initial:
            raise ValueError(
                f"maximum must be at least initial ({initial!r}), not {self.maximum!r}"
            )
        _share("jitter", self.jitter)
        check_optional_int("retries", self.retries)

    def delay(self, attempt: int, chance: Callable[[], float] = random.random) -> float:
        """Return the duration of pause number *attempt* in seconds.

        :param int attempt: 0: the first pause.
        :param chance: returns a number from 0 to 1. A test may give its own.
        """
        try:
            pause = min(self.initial * float(self.factor) ** attempt, self.maximum)
        except OverflowError:
            # Multiples of 0 stay 0.
            pause = self.maximum if self.initial else 0.0
        pause *= 1 + self.jitter * (2 * chance() - 1)
        # With jitter, a huge maximum could become infinite.
        return min(pause, sys.float_info.max)

    def total(self, retries: int) -> float:
        """Return the total seconds of *retries* pauses, without jitter.

        Waiters do not poll, so a number of attempts can only mean a time.
        """
        retries = min(retries, MANY)
        total = 0.0
        for attempt in range(retries):
            pause = self.delay(attempt, chance=lambda: 0.5)
            # All further pauses are equal.
            if pause >= self.maximum or self.factor == 1 or not pause:
                total += pause * (retries - attempt)
                break
            total += pause
        return min(total, sys.float_info.max)


@dataclass(frozen=True)
class Outage:
    """What a pool does while its server cannot be reached.

    A short outage is a delay, and during a long one callers fail fast. When *failures*
    attempts to open a connection have failed in a row, the pool pauses: it only probes
    the server, by one attempt at a time. For *grace* seconds from the first failure,
    waiters go on waiting, and the server is probed at least every 50 ms. After that,
    waiters and new callers fail at once with the last error, unless a loan that has
    just begun may serve them. The server is probed with the pauses of *backoff*, while
    connections are requested. By default they are about 1 % of the outage so far, from
    5 ms to 0.25 s. The first success ends the pause, and *max_connecting* connections
    are opened at a time again.

    There is no grace for a server that was never reached, or for an error that is no
    loss of the connection, such as a wrong password. Callers then fail at once.

    A server that is *full* is no outage; see the pool's *backoff*. (The pause is that
    of MongoDB's drivers, the three states are Nygard's circuit breaker.)

    :param failures: how many failures in a row begin a pause; None: never pause. Each
        waiter then gets the error of an attempt of its own.
    :param float grace: seconds; 0: none. No caller waits longer than its own *timeout*.
    :param bool wait: the grace does not end, even for a server that was never reached.
    :param Backoff backoff: the pauses. Its *retries* has no effect here.
    :raises TypeError: a value is of the wrong type.
    :raises ValueError: a value is out of its range; *wait* without *failures*.
    """

    failures: int | None = 3
    grace: float = 3.0
    wait: bool = False
    backoff: Backoff = Backoff(0.005, factor=1.007, maximum=0.25, jitter=0.2)

    def __post_init__(self) -> None:
        check_optional_int("outage.failures", self.failures, 1)
        check_seconds("outage.grace", self.grace)
        check_bool("outage.wait", self.wait)
        if not isinstance(self.backoff, Backoff):
            raise TypeError(
                f"outage.backoff must be a Backoff, not {safe_repr(self.backoff)}"
            )
        if self.wait and self.failures is None:
            raise ValueError(
                "outage.failures must be a whole number with outage.wait, not None: "
                "without a pause the server would be tried without end"
            )


@dataclass(frozen=True)
class Timeouts:
    """The time limits of the pool's own greenlets, in seconds.

    :param float open: to open a connection, with its handshake.
    :param float ping: to check a connection by a round trip.
    :param float reset: to reset a connection after a loan.
    :param float close: to close a connection. After that its socket is closed without
        sending anything.
    :raises TypeError: a value is not a number.
    :raises ValueError: a value is negative, NaN or infinite.
    """

    open: float = 30.0
    ping: float = 5.0
    reset: float = 5.0
    close: float = 5.0

    def __post_init__(self) -> None:
        for name in ("open", "ping", "reset", "close"):
            check_seconds(f"timeouts.{name}", getattr(self, name))


@dataclass(frozen=True)
class Expiry:
    """The age limits of connections. Times are in seconds; None: no limit.

    :param max_lifetime: the age at which a connection is replaced. The lifetime of each
        connection is shortened at random by up to *jitter* of it, so that connections
        that were opened together do not expire together (as in psycopg_pool and
        HikariCP).
    :param max_idle: the idle time after which a connection is closed.
    :param ping_after: the time since the last use or check after which a connection is
        pinged before it is lent.
    :param ping_interval: the interval at which idle connections are pinged.
    :param float jitter: the random fraction of *max_lifetime*, 0 (none) to 1.
    :raises TypeError: a value is not a number.
    :raises ValueError: a value is out of its range, NaN or infinite.
    """

    max_lifetime: float | None = None
    max_idle: float | None = None
    ping_after: float | None = None
    ping_interval: float | None = None
    jitter: float = 0.05

    def __post_init__(self) -> None:
        for name in ("max_lifetime", "max_idle", "ping_after", "ping_interval"):
            check_optional_seconds(name, getattr(self, name))
        _share("jitter", self.jitter)

    @property
    def has_age_limits(self) -> bool:
        """Whether any limit is set."""
        limits = (self.max_lifetime, self.max_idle, self.ping_after)
        return any(limit is not None for limit in (*limits, self.ping_interval))

    def expires(
        self, opened: float, chance: Callable[[], float] = random.random
    ) -> float:
        """Return the time at which a connection opened at *opened* expires."""
        if self.max_lifetime is None:
            return FOREVER
        return opened + self.max_lifetime * (1 - self.jitter * chance())

    def ready_until(self, expires: float, used: float, alive: float) -> float:
        """Return the time until which an idle connection needs no check by age.

        :param expires: the result of :meth:`expires`.
        :param used: the time of its last use.
        :param alive: the time of its last use or ping.
        """
        until = expires
        if self.max_idle is not None:
            until = min(until, used + self.max_idle)
        if self.ping_after is not None:
            until = min(until, alive + self.ping_after)
        return until
