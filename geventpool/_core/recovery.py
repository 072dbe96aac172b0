"""Recovering entries after an exception struck the pool's own code.

That is a RecursionError, a MemoryError, or what a signal handler raised. It is unknown
how far the handling of an entry came, so its connection is not lent again.

Mostly the interrupted code says that there is something to recover. It cannot if a
signal handler raises between two of its functions. So while greenlets wait, the pool
looks for loans that nobody can end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from geventpool._core.abandonment import is_abandoned
from geventpool._core.closing import Closer
from geventpool._core.ledger import Entry, Ledger
from geventpool._core.states import (
    CHECKING,
    CLOSING,
    IDLE,
    IN_USE,
    RESETTING,
    CloseReason,
)
from geventpool._core.workers import WorkQueue
from geventpool.listeners import Listeners

__all__ = ["Recovery"]

C = TypeVar("C")


class Recovery(Generic[C]):
    """Finds and closes the entries of one pool that nothing has. Never switches.

    :param checks: has the entries that are to be pinged.
    :param resets: has the entries that are to be reset.
    :param on_room: called when a place has become free.
    """

    def __init__(
        self,
        ledger: Ledger[C],
        listeners: Listeners,
        closer: Closer[C],
        checks: WorkQueue[Entry[C]],
        resets: WorkQueue[Entry[C]],
        on_room: Callable[[], object],
    ) -> None:
        self._ledger = ledger
        self._listeners = listeners
        self._closer = closer
        self._checks = checks
        self._resets = resets
        self._on_room = on_room

    def recover(self) -> None:
        """Close the entries that nothing has, if there may be any."""
        ledger, closer = self._ledger, self._closer
        if ledger.is_torn:
            self._listeners.let_out()
            for entry in self._ownerless():
                if entry.state is CLOSING:
                    closer.finish(entry)
                else:
                    if entry.state is IDLE:
                        ledger.move(entry, IN_USE)
                    closer.terminate(entry, CloseReason.INTERRUPTED)
            # To start a greenlet for what they have may have failed as well.
            for queue in self._checks, self._resets, closer:
                queue.resume()
            ledger.is_torn = False
            self._on_room()

    def repair(self) -> None:
        """Close the entries that nothing has, after an error of a greenlet."""
        self._ledger.is_torn = True
        self.recover()

    def _ownerless(self) -> list[Entry[Any]]:
        ledger = self._ledger
        owned = {
            IDLE: ledger.queued(),
            CHECKING: self._checks.items(),
            RESETTING: self._resets.items(),
            CLOSING: self._closer.entries(),
        }
        return [
            entry
            for entry in ledger.entries.values()
            if (
                is_abandoned(entry)
                if entry.state is IN_USE
                else entry not in owned[entry.state]
            )
        ]

    def attend(self) -> bool:
        """Recover what was interrupted; return whether there are waiters."""
        ledger = self._ledger
        if ledger.waiters and any(map(is_abandoned, ledger.all_in(IN_USE))):
            ledger.is_torn = True
        self.recover()
        return bool(ledger.waiters)
