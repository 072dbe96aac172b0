"""Closing a pool: refuse the waiters, wait for the loans, end those that are left."""

from __future__ import annotations

from typing import Any

import gevent
from gevent import getcurrent

from geventpool._core.ledger import Entry
from geventpool._core.lifecycle import Lifecycle
from geventpool._core.loops import timer_length
from geventpool._core.reports import Loan, loans
from geventpool._core.states import IN_USE
from geventpool.errors import PoolClosedError

__all__ = ["shut_down"]


def shut_down(
    lifecycle: Lifecycle[Any], name: str, timeout: float | None
) -> list[Loan]:
    """Close a pool; see ``Pool.close``. May switch.

    :param name: the pool's.
    :return: the loans that were ended under their holders.
    """
    ledger = lifecycle.ledger
    if not ledger.closed:
        ledger.closed = True
        for waiter in list(ledger.waiters.values()):
            error = PoolClosedError(f"Pool {name!r} was closed while you waited")
            ledger.fail(waiter, error)
        lifecycle.teardown.close()
    if getcurrent() is not gevent.get_hub():
        _wait_for_all(lifecycle, timeout)
    return _cut_off(lifecycle)


def _wait_for_all(lifecycle: Lifecycle[Any], timeout: float | None) -> None:
    ledger = lifecycle.ledger
    deadline = None if timeout is None else ledger.clock() + timeout
    while _others(lifecycle):
        left = None if deadline is None else deadline - ledger.clock()
        if left is not None and left <= 0:
            return
        lifecycle.teardown.changed.clear()
        lifecycle.teardown.changed.wait(None if left is None else timer_length(left))


def _others(lifecycle: Lifecycle[Any]) -> list[Entry[Any]]:
    """Return what is not yet closed and not held by the caller."""
    current = getcurrent()
    ledger = lifecycle.ledger
    return [
        entry
        for entry in (*ledger.entries.values(), *ledger.opening)
        if entry.state is not IN_USE
        or entry.holder is None
        or entry.holder() is not current
    ]


def _cut_off(lifecycle: Lifecycle[Any]) -> list[Loan]:
    left = _others(lifecycle)
    if not left:
        return []
    lent = [entry for entry in left if entry.state is IN_USE]
    report = loans(lent, lifecycle.ledger.clock())
    lifecycle.teardown.cut_off(left)
    return report
