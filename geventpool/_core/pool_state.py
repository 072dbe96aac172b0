"""The state of a pool, as its public attributes and as constant objects.

It reads all parts of a pool, and changes nothing. Nothing here switches.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from geventpool._core.failures import Failure, describe
from geventpool._core.ledger import Ledger
from geventpool._core.lifecycle import Lifecycle
from geventpool._core.line import Line
from geventpool._core.measured import Measured
from geventpool._core.measures import Measures
from geventpool._core.pool_parts import PoolParts
from geventpool._core.reports import Loan, loans, summary
from geventpool._core.states import IDLE, IN_USE
from geventpool.labels import labels_of
from geventpool.listeners import PoolStats

__all__ = ["PoolState", "loans_under_way"]

C = TypeVar("C")


class PoolState(Generic[C]):
    """What can be read of a :class:`~geventpool.Pool`, which sets the parts below."""

    __slots__ = ()

    name: str
    _parts: PoolParts[C]
    _ledger: Ledger[C]
    _lifecycle: Lifecycle[C]
    _measures: Measures | None

    @property
    def size(self) -> int:
        """The number of places taken, by connections and by those being opened."""
        return self._ledger.size

    @property
    def max_connections(self) -> int:
        """The number of places."""
        return self._ledger.max_connections

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._ledger.closed

    def idle_connections(self) -> list[C]:
        """The connections that nobody uses; a copy."""
        return [entry.conn for entry in self._ledger.all_in(IDLE)]

    def lent_connections(self) -> list[C]:
        """The connections on loan; a copy."""
        return [entry.conn for entry in self._ledger.all_in(IN_USE)]

    def loans(self, most: int | None = None) -> list[Loan]:
        """The loans with holder, time and present line, the oldest loan first.

        :param most: return only so many loans, the oldest; None: all.
        """
        return loans(self._ledger.all_in(IN_USE), self._ledger.clock(), most)

    def failure(self) -> Failure | None:
        """The last failure to open a connection; None after a success.

        Never switches.
        """
        return last_failure(self._lifecycle)

    @property
    def measures(self) -> Measures | None:
        """The counts kept in this process; None: :meth:`measure` was not called."""
        return self._measures

    def stats(self) -> PoolStats:
        """The state of the pool at this moment; the object does not change later."""
        return stats_of(self.name, self._parts, self._measures)

    def __repr__(self) -> str:
        state = " closed" if self._ledger.closed else ""
        if self._lifecycle.opener.breaker.paused and not state:
            state = " paused"
        return f"<{type(self).__name__} {self.name!r}{state} {summary(self._ledger)}>"


def loans_under_way(ledger: Ledger[Any]) -> int:
    """How many connections borrowers have, without those on the way to a waiter."""
    return sum(entry.waiter is None for entry in ledger.all_in(IN_USE))


def last_failure(lifecycle: Lifecycle[Any]) -> Failure | None:
    """Return the last failure to open a connection; None after a success."""
    opener = lifecycle.opener
    if opener.failure is None:
        return None
    when, error = opener.failure
    now = lifecycle.ledger.clock()
    since = opener.breaker.since
    lasting = None if since is None else now - since
    return Failure(describe(error), now - when, lasting)


def stats_of(name: str, parts: PoolParts[Any], measures: Measures | None) -> PoolStats:
    """Return the state of a pool at this moment.

    :param name: the pool's.
    :param measures: what is measured; None: nothing.
    """
    lifecycle, line, watch = parts.lifecycle, parts.line, parts.watch
    ledger, leases = parts.ledger, lifecycle.leases
    cancellations, connector = lifecycle.closer.cancellations, lifecycle.connector
    # Of a pool in place of this one.
    idle, lent = (0, 0) if connector.stock is None else connector.stock()
    return PoolStats(
        name=name,
        max_connections=ledger.max_connections,
        size=ledger.size + idle + lent,
        idle=ledger.idle + idle,
        in_use=ledger.in_use + lent,
        opening=len(ledger.opening),
        checking=len(ledger.checking),
        resetting=len(ledger.resetting),
        closing=len(ledger.closing),
        waiting=len(line),
        paused=lifecycle.opener.breaker.paused,
        budget=None if leases is None else leases.stats(),
        cancelled=cancellations.cancelled,
        saved=cancellations.saved,
        abandoned=cancellations.abandoned,
        totals=lifecycle.listeners.totals(),
        min_connections=ledger.min_connections,
        max_idle_connections=ledger.max_connections,
        measured=None if measures is None else _measured(lifecycle, line, measures),
        leaks=() if watch.leaks is None else tuple(watch.leaks.report()),
        idle_holds=tuple(watch.idle_holds.report()),
        labels=labels_of(lifecycle.listeners.listeners),
        in_flight=connector.in_flight(),
    )


def _measured(
    lifecycle: Lifecycle[Any], line: Line[Any], measures: Measures
) -> Measured:
    lag = line.hub_lag.measured()
    resets = lifecycle.connector.reset_counts()
    moves = None if lifecycle.leases is None else lifecycle.leases.moves()
    in_use = loans_under_way(lifecycle.ledger)
    return measures.snapshot(in_use, lag, resets, moves)
