"""The names, units and values of all metrics.

The names of the first nine, and the attributes, are those of OpenTelemetry's semantic
conventions for database clients. Pools of one name are added up.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from geventpool.budget import BudgetShare
from geventpool.extension import Distribution, Measured
from geventpool.series.readings import Reading

__all__ = [
    "BUDGET",
    "ERROR",
    "HISTOGRAMS",
    "KIND",
    "LABEL",
    "LINE",
    "POOL_NAME",
    "REASON",
    "STATE",
    "VALUES",
    "Instrument",
    "Times",
    "Value",
    "prometheus_label",
    "prometheus_name",
]

POOL_NAME = "db.client.connection.pool.name"
STATE = "db.client.connection.state"
#: The name of the class of a refusal.
ERROR = "error.type"
REASON = "geventpool.close.reason"
KIND = "geventpool.reset.kind"
BUDGET = "geventpool.budget.name"
#: The line that borrows.
LINE = "geventpool.borrowed_at"
LABEL = "geventpool.label"

#: So many lines of a pool are published, the worst.
LINES = 8

#: Attributes beside the name of the pool, with the value for them.
Points = Iterator[tuple[Mapping[str, str], float]]


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
    :param bool adds: the values of several processes can be added up; False: the
        highest of them counts.
    """

    points: Callable[[Reading], Points]
    grows: bool = False
    adds: bool = True


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


def _if_measured(points: Callable[[Reading], Points]) -> Callable[[Reading], Points]:
    """The same, or nothing for pools that are not measured."""

    def of(reading: Reading) -> Points:
        return points(reading) if reading.is_measured else iter(())

    return of


def _measured(field: str) -> Callable[[Reading], Points]:
    @_if_measured
    def points(reading: Reading) -> Points:
        yield {}, getattr(reading.measured, field)

    return points


def _moves(field: str) -> Callable[[Reading], Points]:
    @_if_measured
    def points(reading: Reading) -> Points:
        number = getattr(reading.measured, field)
        if number or reading.budgets:
            yield {}, number

    return points


def _labelled(field: str) -> Callable[[Reading], Points]:
    @_if_measured
    def points(reading: Reading) -> Points:
        for counts in reading.measured.labels:
            yield {LABEL: counts.label}, getattr(counts, field)

    return points


def _refused(error: str) -> Callable[[Reading], Points]:
    @_if_measured
    def points(reading: Reading) -> Points:
        yield {}, reading.measured.refused.get(error, 0)

    return points


def _of_host(field: str) -> Callable[[Reading], Points]:
    def points(reading: Reading) -> Points:
        for name, budgets in reading.budgets.items():
            yield {BUDGET: name}, getattr(budgets[-1], field)

    return points


def _of_pool(field: str) -> Callable[[Reading], Points]:
    def points(reading: Reading) -> Points:
        for name, budgets in reading.budgets.items():
            shares: list[BudgetShare | None] = [each.own for each in budgets]
            yield (
                {BUDGET: name},
                sum(0 if share is None else getattr(share, field) for share in shares),
            )

    return points


def _states(reading: Reading) -> Points:
    yield {STATE: "idle"}, reading.total("idle")
    yield {STATE: "used"}, reading.used


def _idle_holds(reading: Reading) -> Points:
    shares: dict[str, float] = {}
    for each in reading.stats:
        for hold in each.idle_holds[:LINES]:
            known = shares.get(hold.borrowed_at, 0.0)
            shares[hold.borrowed_at] = max(hold.share, known)
    for line, share in shares.items():
        yield {LINE: line}, share


def _leaks(reading: Reading) -> Points:
    numbers: dict[str, int] = {}
    for each in reading.stats:
        for leak in each.leaks[:LINES]:
            known = numbers.get(leak.borrowed_at, 0)
            numbers[leak.borrowed_at] = known + leak.open
    for line, number in numbers.items():
        yield {LINE: line}, number


@_if_measured
def _refusals(reading: Reading) -> Points:
    for error, number in reading.measured.refused.items():
        yield {ERROR: error}, number


@_if_measured
def _closed(reading: Reading) -> Points:
    for reason, number in reading.measured.closed.items():
        yield {REASON: reason.value}, number


@_if_measured
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
    Value(
        "geventpool.idle_holds",
        "1",
        "Share of the time for which a line holds connections while they are idle and "
        "others wait.",
        _idle_holds,
        adds=False,
    ),
    Value(
        "geventpool.leaks",
        "{loan}",
        "Loans that last longer than leak_after, by the line that borrowed.",
        _leaks,
    ),
    Value(
        "geventpool.label.loans",
        "{loan}",
        "Loans by label; see Pool.label().",
        _labelled("loans"),
        True,
    ),
    Value(
        "geventpool.label.refusals",
        "{refusal}",
        "Borrowers that got no connection, by label.",
        _labelled("refused"),
        True,
    ),
    Value(
        "geventpool.label.wait_time",
        "s",
        "The time that borrowers waited for a connection, by label.",
        _labelled("waited"),
        True,
    ),
    Value(
        "geventpool.label.use_time",
        "s",
        "The time for which connections were held, of loans that have ended, by label.",
        _labelled("used"),
        True,
    ),
    Value(
        "geventpool.budget.limit",
        "{connection}",
        "The most connections of all processes of the host together.",
        _of_host("total"),
        adds=False,
    ),
    Value(
        "geventpool.budget.taken",
        "{connection}",
        "Places of the budget that all processes of the host hold together.",
        _of_host("held"),
        adds=False,
    ),
    Value(
        "geventpool.budget.held",
        "{connection}",
        "Places of the budget that the pool holds.",
        _of_pool("held"),
    ),
    Value(
        "geventpool.budget.waiting",
        "{connection}",
        "Places of the budget that the pool waits for.",
        _of_pool("waiting"),
    ),
    Value(
        "geventpool.budget.moved",
        "{connection}",
        "Places of its budget that the pool gave to other pools.",
        _moves("moved"),
        True,
    ),
    Value(
        "geventpool.budget.recovered",
        "{connection}",
        "Places of processes that died which the pool has taken over.",
        _moves("recovered"),
        True,
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


def prometheus_label(name: str) -> str:
    """The name of an attribute, as Prometheus writes it."""
    return name.replace(".", "_")


def prometheus_name(instrument: Instrument) -> str:
    """The name that OpenTelemetry gives to Prometheus.

    The ``_total`` of a counter is not part of it.
    """
    suffix = "_seconds" if instrument.unit == "s" else ""
    suffix = "_ratio" if instrument.unit == "1" else suffix
    return instrument.name.replace(".", "_") + suffix
