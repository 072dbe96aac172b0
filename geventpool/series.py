"""What the exporters publish: the names, units and values of all metrics.

The names of the first nine, and the attributes, are those of OpenTelemetry's semantic
conventions for database clients. Pools of one name are added up.

Reading takes no lock that a loan could wait for, and never switches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gevent.monkey import get_original

from geventpool._core.histograms import Distribution
from geventpool._core.measured import Measured
from geventpool._core.measures import kept, measure_by_default, retired
from geventpool.listeners import PoolStats
from geventpool.pool import pools

__all__ = [
    "HISTOGRAMS",
    "POOL_NAME",
    "VALUES",
    "Instrument",
    "Reading",
    "Times",
    "Value",
    "begin",
    "read",
]

POOL_NAME = "db.client.connection.pool.name"
STATE = "db.client.connection.state"
#: The name of the class of a refusal.
ERROR = "error.type"
REASON = "geventpool.close.reason"
KIND = "geventpool.reset.kind"

#: Attributes beside the name of the pool, with the value for them.
Points = Iterator[tuple[Mapping[str, str], float]]


@dataclass(frozen=True)
class Reading:
    """All pools of one name at one moment.

    :param stats: of each of them that is there.
    :param measured: by all of them, and by those that are no more.
    """

    name: str
    stats: tuple[PoolStats, ...]
    measured: Measured

    def total(self, field: str) -> int:
        """The sum of a number of the statistics."""
        return sum(getattr(each, field) for each in self.stats)

    @property
    def used(self) -> int:
        """The connections that are not idle, also while checked, reset or closed."""
        return self.total("size") - self.total("idle") - self.total("opening")


@dataclass(frozen=True)
class Instrument:
    """What is published under one name.

    :param unit: as OpenTelemetry writes it: ``s``, or ``{connection}``.
    """

    name: str
    unit: str
    description: str


@dataclass(frozen=True)
class Value(Instrument):
    """A number for each combination of attributes.

    :param bool grows: it is a count that only grows; False: it may fall.
    """

    points: Callable[[Reading], Points]
    grows: bool = False


@dataclass(frozen=True)
class Times(Instrument):
    """A distribution of durations."""

    distribution: Callable[[Measured], Distribution]


def _field(field: str) -> Callable[[Reading], Points]:
    def points(reading: Reading) -> Points:
        yield {}, reading.total(field)

    return points


def _limit(field: str) -> Callable[[Reading], Points]:
    def points(reading: Reading) -> Points:
        # A pool of SQLAlchemy may have no limit.
        if (limit := reading.total(field)) < sys.maxsize:
            yield {}, limit

    return points


def _measured(field: str) -> Callable[[Reading], Points]:
    def points(reading: Reading) -> Points:
        yield {}, getattr(reading.measured, field)

    return points


def _refused(error: str) -> Callable[[Reading], Points]:
    def points(reading: Reading) -> Points:
        yield {}, reading.measured.refused.get(error, 0)

    return points


def _states(reading: Reading) -> Points:
    yield {STATE: "idle"}, reading.total("idle")
    yield {STATE: "used"}, reading.used


def _refusals(reading: Reading) -> Points:
    for error, number in reading.measured.refused.items():
        yield {ERROR: error}, number


def _closed(reading: Reading) -> Points:
    for reason, number in reading.measured.closed.items():
        yield {REASON: reason.value}, number


def _resets(reading: Reading) -> Points:
    for kind, number in reading.measured.resets.items():
        yield {KIND: kind}, number


VALUES = (
    Value(
        "db.client.connection.count",
        "{connection}",
        "Connections that are open, idle or used.",
        _states,
    ),
    Value(
        "db.client.connection.idle.max",
        "{connection}",
        "The most connections that may be idle.",
        _limit("max_idle_connections"),
    ),
    Value(
        "db.client.connection.idle.min",
        "{connection}",
        "Connections that are kept open, idle or used.",
        _field("min_connections"),
    ),
    Value(
        "db.client.connection.max",
        "{connection}",
        "The most connections that may be open.",
        _limit("max_connections"),
    ),
    Value(
        "db.client.connection.pending_requests",
        "{request}",
        "Greenlets that wait for a connection.",
        _field("waiting"),
    ),
    Value(
        "db.client.connection.timeouts",
        "{timeout}",
        "Waits for a connection that ended because the time was up.",
        _refused("PoolExhaustedError"),
        True,
    ),
    Value(
        "geventpool.outage",
        "{pool}",
        "Pools whose server cannot be reached at present.",
        _field("paused"),
    ),
    Value(
        "geventpool.outages",
        "{outage}",
        "Outages of the server so far.",
        _measured("outages"),
        True,
    ),
    Value(
        "geventpool.outage.time",
        "s",
        "How long the outages that are over lasted together.",
        _measured("outage_seconds"),
        True,
    ),
    Value(
        "geventpool.connection.failures",
        "{failure}",
        "Attempts to open a connection that failed.",
        _measured("open_failed"),
        True,
    ),
    Value(
        "geventpool.connection.closed",
        "{connection}",
        "Connections that were closed, by reason.",
        _closed,
        True,
    ),
    Value(
        "geventpool.refusals",
        "{refusal}",
        "Borrowers that got an error in place of a connection, by its class.",
        _refusals,
        True,
    ),
    Value(
        "geventpool.deadlocks",
        "{deadlock}",
        "Refusals because all holders waited for a connection themselves.",
        _refused("PoolDeadlockError"),
        True,
    ),
    Value(
        "geventpool.loop.lag",
        "s",
        "How long the event loop was blocked while a greenlet waited.",
        _measured("loop_lag"),
        True,
    ),
    Value(
        "geventpool.resets",
        "{reset}",
        "Ends of loans, by what was done to reset the connection.",
        _resets,
        True,
    ),
    Value(
        "geventpool.commands.in_flight",
        "{command}",
        "Commands that are under way on shared connections.",
        _field("in_flight"),
    ),
)

HISTOGRAMS = (
    Times(
        "db.client.connection.create_time",
        "s",
        "The time it took to open a connection.",
        lambda measured: measured.create,
    ),
    Times(
        "db.client.connection.wait_time",
        "s",
        "The time it took to get a connection from the pool.",
        lambda measured: measured.wait,
    ),
    Times(
        "db.client.connection.use_time",
        "s",
        "The time between the loan of a connection and its return.",
        lambda measured: measured.use,
    ),
)


#: Of threads and not of greenlets: nothing switches while it is held.
_reading = get_original("_thread", "allocate_lock")()


def begin() -> None:
    """Have all pools measured, those that are there and those to come."""
    measure_by_default()
    for pool in pools():
        pool.measure()


def read() -> list[Reading]:
    """What there is to publish, one reading for each name. Never switches."""
    with _reading:
        found: dict[str, list[Any]] = {}
        for pool in kept():
            found.setdefault(pool.name, []).append(pool.stats())
        before = retired()
    for name in before:
        found.setdefault(name, [])
    return [
        Reading(name, tuple(stats), _sum(before.get(name), stats))
        for name, stats in sorted(found.items())
    ]


def _sum(before: Measured | None, stats: list[PoolStats]) -> Measured:
    total = before or Measured()
    for measured in [each.measured for each in stats if each.measured is not None]:
        total = total.plus(measured)
    return total
