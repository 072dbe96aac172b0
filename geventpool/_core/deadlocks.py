"""Whether a wait cannot end: its pool's holders wait themselves, for one another.

Knows ledgers and which greenlet waits for which of them; changes nothing.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from geventpool._core.holders import Holder
from geventpool._core.ledger import FOREVER, Entry, Ledger, Waiter

__all__ = ["is_deadlocked", "waiting"]

#: the slot of each greenlet that waits, whatever pool it waits for; of all threads,
#: because no greenlet is of two
waiting: dict[Hashable, Waiter[Any]] = {}


def is_deadlocked(
    ledger: Ledger[Any], until: float = FOREVER, *, certain: bool = True
) -> bool:
    """Whether nothing can come back to *ledger* before the time *until*.

    That is so if each of its places is lent to a greenlet that waits, for this pool or
    for another one of which the same holds. Never switches.

    :param until: by the clock of the pools.
    :param certain: True: it must be proved. A loan that another greenlet than its
        holder may give back proves nothing, nor does a holder that stops waiting before
        *until* because its own call has a shorter time limit. False: it is enough that
        all holders wait at this moment.
    """
    ledgers = [ledger]
    for each in ledgers:
        # The first holder nearly always answers it.
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
    # A loan without reclaim is meant to be given back by another greenlet.
    return entry.block is not None or (
        ledger.owner_only and isinstance(entry.holder, Holder)
    )


def _wait_of_holder(entry: Entry[Any]) -> Waiter[Any] | None:
    """The slot in which the holder of *entry* waits."""
    holder = None if entry.holder is None else entry.holder()
    waiter = None if holder is None else waiting.get(holder)
    if waiter is None or waiter.entry is not None or waiter.error is not None:
        return None
    return waiter
