"""When: frozen numbers that refuse bad input, and pure arithmetic on them.

Knows time only as seconds that it is handed; reads no clock, never waits.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Backoff",
    "Expiry",
    "Timeouts",
    "Outage",
    "check_bool",
    "check_optional_seconds",
    "check_optional_int",
    "check_seconds",
    "safe_repr",
    "check_int",
]

FOREVER = math.inf

#: So much of a bad value is shown: a message is to be read.
ENOUGH = 1000

#: So many pauses are as good as any number: beyond any clock, within any timer.
MANY = 10**12


def safe_repr(value: Any) -> str:
    """The value for a message, not too long, whatever it is."""
    try:
        text = repr(value)
    except Exception:
        # A whole number of thousands of digits, or a mistake in somebody's __repr__.
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
    # A whole number too big for a float is above every maximum; NaN is nowhere.
    if not minimum <= value <= maximum:
        raise ValueError(f"{name} must be {rule}, not {safe_repr(value)}")
    return float(value)


def check_seconds(name: str, value: Any) -> float:
    """The duration as a float: finite and not negative.

    A NaN that reaches an event loop's heap of timers stops *every* timer of the
    process, so it is refused at the door.

    :param str name: what the argument is called, for the message.
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
    """The whole number, at least *minimum*.

    :raises TypeError: not an ``int`` (``bool`` is not one).
    :raises ValueError: below *minimum*, or beyond what can be counted.
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
    """The truth value: True or False and nothing that merely resembles them.

    :raises TypeError: not a ``bool``.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {safe_repr(value)}")
    return value


@dataclass(frozen=True)
class Backoff:
    """How long to pause between two tries.

    Pause *n* (counted from 0) is ``initial * factor ** n``, at most
    *maximum*, and then spread by plus or minus *jitter* of itself.

    ``Backoff(0.1, factor=1, jitter=0, retries=10)`` is what gsocketpool does.

    :param float initial: the first pause, in seconds.
    :param float factor: each pause is this many times the one before; at least 1.
    :param float maximum: no pause is longer than this many seconds (before jitter).
    :param float jitter: the part of a pause that is random, 0 (none) to 1.
    :param int retries: pauses after which one gives up; None: never, only the
        caller's time limit ends it.
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
        """Seconds that pause number *attempt* lasts.

        :param int attempt: 0 for the first pause.
        :param chance: gives a number from 0 to 1; a test puts its own here.
        """
        try:
            pause = min(self.initial * float(self.factor) ** attempt, self.maximum)
        except OverflowError:
            # Nothing grows from nothing.
            pause = self.maximum if self.initial else 0.0
        pause *= 1 + self.jitter * (2 * chance() - 1)
        # Not infinite, however near to it the maximum is.
        return min(pause, sys.float_info.max)

    def total(self, retries: int) -> float:
        """Seconds that *retries* pauses last together, without jitter.

        The line is not polled, so there a number of tries can only mean a time.
        """
        retries = min(retries, MANY)
        total = 0.0
        for attempt in range(retries):
            pause = self.delay(attempt, chance=lambda: 0.5)
            # From here on they are all alike.
            if pause >= self.maximum or self.factor == 1 or not pause:
                total += pause * (retries - attempt)
                break
            total += pause
        return min(total, sys.float_info.max)


@dataclass(frozen=True)
class Outage:
    """What a pool does while its server cannot be reached.

    A short outage is a delay, and a long one fails fast. When *failures* attempts to
    open a connection have failed in a row, the pool pauses: it opens nothing, but tries
    the server by one attempt at a time. For *grace* seconds from the first failure on
    those who wait stay in line; the server is tried every 50 ms then. After that they
    and newcomers fail at once with the last error, unless a loan that has only begun
    may serve them; the server is tried with pauses after *backoff*, for as long as
    somebody asks for connections. The first success ends the pause; from then on
    connections are opened by ones, twos and fours again.

    There is no grace for a server that was never reached, and for an error that is no
    loss of the connection, such as a wrong password: those fail at once.

    The server being *full* is no outage; see the pool's *backoff*. (The pause is that
    of MongoDB's drivers, the three states are Nygard's circuit breaker.)

    :param failures: so many in a row; None: never pause, let each who waits have the
        error of an attempt of his own.
    :param float grace: seconds; 0: none. Nobody waits longer than his own *timeout*.
    :param bool wait: a grace without end, also for a server that was never reached.
    :param Backoff backoff: the pauses; its *retries* has no meaning here.
    :raises TypeError: a value is of the wrong kind.
    :raises ValueError: a value is out of its range; *wait* without *failures*.
    """

    failures: int | None = 3
    grace: float = 3.0
    wait: bool = False
    backoff: Backoff = Backoff(initial=0.05, maximum=0.25, jitter=0.2)

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
    """How long the pool lets its own greenlets talk to a server, in seconds.

    :param float open: to open a connection, handshake included.
    :param float ping: to check one by a round trip.
    :param float reset: to clean one up after a loan.
    :param float close: to take leave; then the socket is closed without.
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
    """How long a connection may live and stand idle; all in seconds, None: no limit.

    :param max_lifetime: from being opened to being replaced. Each connection draws
        its own lifetime, up to *jitter* of it shorter, so that connections opened
        together do not all expire together (psycopg_pool and HikariCP do the same).
    :param max_idle: unused for longer than this, it is closed.
    :param ping_after: unused and unchecked for longer than this, it is checked by a
        round trip before it is lent.
    :param ping_interval: idle connections are sent a round trip this often.
    :param float jitter: the part of *max_lifetime* that is random, 0 (none) to 1.
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
        """Does any limit ask when a connection was used?"""
        limits = (self.max_lifetime, self.max_idle, self.ping_after)
        return any(limit is not None for limit in (*limits, self.ping_interval))

    def expires(
        self, opened: float, chance: Callable[[], float] = random.random
    ) -> float:
        """When a connection opened at *opened* has lived long enough."""
        if self.max_lifetime is None:
            return FOREVER
        return opened + self.max_lifetime * (1 - self.jitter * chance())

    def ready_until(self, expires: float, used: float, alive: float) -> float:
        """Until when an idle connection may be lent without a further look.

        :param expires: what :meth:`expires` said.
        :param used: when it was last used.
        :param alive: when it was last known to be alive: used, or pinged.
        """
        until = expires
        if self.max_idle is not None:
            until = min(until, used + self.max_idle)
        if self.ping_after is not None:
            until = min(until, alive + self.ping_after)
        return until
