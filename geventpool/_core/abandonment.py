"""Finds loans that nobody can end, because a signal handler raised.

It may have raised between two functions of the pool, or before the first line of an
``__exit__``, where no code could catch it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from geventpool._core.ledger import Entry

__all__ = ["is_abandoned"]

#: Counts the references to an object; None: this interpreter does not count them.
_references: Callable[[object], int] | None = getattr(sys, "getrefcount", None)


def _least_references() -> int:
    """Return the references to a block that only its entry refers to."""
    entry: Entry[Any] = Entry()
    entry.block = object()
    return 0 if _references is None else _references(entry.block)


_LEAST = _least_references()


def is_abandoned(entry: Entry[Any]) -> bool:
    """Whether nobody can end the loan of an IN_USE entry. Never switches.

    A borrower notes itself as the holder before another greenlet can run. A ``with``
    block whose ``__exit__`` was not run is referred to by nothing but its entry.
    """
    if entry.holder is None and entry.waiter is None:
        return True
    return entry.block is not None and (
        _references is not None and _references(entry.block) <= _LEAST
    )
