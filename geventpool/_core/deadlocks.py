"""Detects deadlocks: all holders of a pool's connections wait for one another.

It reads ledgers and waiters, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from geventpool._core.abandonment import is_abandoned
from geventpool._core.holders import Holder
from geventpool._core.ledger import FOREVER, Entry, Ledger, Waiter

__all__ = ["indirect", "is_deadlocked", "waiting"]

#: The waiter of each waiting greenlet, of all pools and threads. A greenlet belongs to
#: one thread only.
waiting: dict[Hashable, Waiter[Any]] = {}

#: Greenlets that wait until another one has a connection. The value returns that one,
#: or None if there is none yet.
indirect: dict[Hashable, Callable[[], Hashable]] = {}


def is_deadlocked(
    ledger: Ledger[Any], until: float = FOREVER, *, certain: bool = True
) -> bool:
    """Whether no connection can be given back to *ledger* before the time *until*.

    This is so if each of its places is lent to a greenlet that waits, for this pool or
    for another one in the same state. Never switches.

    :param until: a time of the pools' clock.
    :param certain: True: only if it is certain. It is not if another greenlet than the
        holder may give a connection back, or if a holder stops waiting before *until*
        because of a shorter timeout. False: all holders wait at this moment.
    """
    # The first holder nearly always decides.
    first = next(iter(ledger.entries.values()), None)
    if first is None or _wait_of_holder(first) is None:
        return False
    ledgers = [ledger]
    for each in ledgers:
        for entry in each.entries.values():
            waiter = _wait_of_holder(entry)
            if waiter is None:
                return False
            if certain and not _is_proof(each, entry, waiter, until):
                return False
            if waiter.ledger is not None and waiter.ledger not in ledgers:
                ledgers.append(waiter.ledger)
        if each.in_use < each.max_connections:
            return False
    return True


def _is_proof(
    ledger: Ledger[Any], entry: Entry[Any], waiter: Waiter[Any], until: float
) -> bool:
    """Whether *entry* cannot come back while its holder waits in *waiter*."""
    if waiter.ends < until:
        return False
    # A loan without reclaim may be given back by another greenlet. One that nobody can
    # end is ended by the pool.
    if entry.block is not None:
        return not is_abandoned(entry)
    return ledger.owner_only and isinstance(entry.holder, Holder)


def _wait_of_holder(entry: Entry[Any]) -> Waiter[Any] | None:
    """Return the waiter of the holder of *entry*; None: it does not wait."""
    holder = None if entry.holder is None else entry.holder()
    waiter = None if holder is None else waiting.get(holder)
    if waiter is None and holder in indirect:
        waiter = waiting.get(indirect[holder]())
    if waiter is None or waiter.entry is not None or waiter.error is not None:
        return None
    return waiter
