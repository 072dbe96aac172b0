"""The state of a pool at one moment, as constant objects.

It reads all parts of a pool, and changes nothing.
"""

from __future__ import annotations

from typing import Any

from geventpool._core.failures import Failure, describe
from geventpool._core.ledger import IN_USE, Ledger
from geventpool._core.lifecycle import Lifecycle
from geventpool._core.line import Line
from geventpool._core.loan_watch import LoanWatch
from geventpool._core.measured import Measured
from geventpool._core.measures import Measures
from geventpool.labels import labels_of
from geventpool.listeners import PoolStats

__all__ = ["last_failure", "loans_under_way", "stats_of"]


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


def stats_of(
    name: str,
    lifecycle: Lifecycle[Any],
    line: Line[Any],
    watch: LoanWatch,
    measures: Measures | None,
) -> PoolStats:
    """Return the state of a pool at this moment.

    :param name: the pool's.
    :param measures: what is measured; None: nothing.
    """
    ledger, leases = lifecycle.ledger, lifecycle.leases
    cancellations, connector = lifecycle.closer.cancellations, lifecycle.connector
    return PoolStats(
        name=name,
        max_connections=ledger.max_connections,
        size=ledger.size,
        idle=ledger.idle,
        in_use=ledger.in_use,
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
