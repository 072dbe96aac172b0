"""Which idle connection can be lent, and what is done with the others.

An idle connection may have expired, be too long unused, need a ping, or be unusable.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from geventpool._core.closing import Closer
from geventpool._core.holders import end_loan
from geventpool._core.ledger import Entry, Ledger
from geventpool._core.states import CHECKING, IDLE, IN_USE, RESETTING, CloseReason
from geventpool._core.workers import WorkQueue
from geventpool.connector import Connector, asked
from geventpool.policies import Expiry

__all__ = ["Readiness"]

C = TypeVar("C")

log = logging.getLogger("geventpool")

#: The most idle entries behind one that must be checked that are searched for one that
#: need not be.
BEHIND = 8


class Readiness(Generic[C]):
    """Looks at the idle connections of one pool. Its methods never switch.

    :param checks: takes entries that must be pinged before the next loan.
    :param resets: takes entries whose connections must be reset before the next loan.
    :param on_room: called when places have become free in :meth:`take`.
    """

    def __init__(
        self,
        ledger: Ledger[C],
        connector: Connector[C],
        closer: Closer[C],
        expiry: Expiry,
        checks: WorkQueue[Entry[C]],
        resets: WorkQueue[Entry[C]],
        on_room: Callable[[], object],
    ) -> None:
        self._ledger = ledger
        self._connector = connector
        self._closer = closer
        self._expiry = expiry
        self._checks = checks
        self._resets = resets
        self._on_room = on_room
        #: tells whether an idle connection is usable; None: the connector never looks
        self.probe: Callable[[C], bool] | None = None
        if type(connector).is_usable is not Connector.is_usable:
            self.probe = self._is_usable

    def _is_usable(self, conn: C) -> bool:
        try:
            return self._connector.is_usable(conn)
        except Exception:
            log.exception("is_usable failed: %r counts as unusable", conn)
            return False

    def take(self, now: float, checks: int | None = None) -> Entry[C] | None:
        """Take the next idle entry that can be lent out of the queue.

        Those before it are closed or checked.

        :param checks: the most checks that may be under way; None: one for each waiter
            and one for the caller. A single loan must not have all idle ones pinged.
        :return: it is CHECKING, as every entry that is taken out of the queue.
        """
        ledger = self._ledger
        if checks is None:
            checks = len(ledger.waiters) + 1
        aside: list[Entry[C]] = []
        is_lost = False
        try:
            while len(aside) < BEHIND and (entry := ledger.take_idle()) is not None:
                if now < entry.ready_until:
                    if self.passes(entry):
                        return entry
                    is_lost = True
                elif (reason := self.expiry_reason(entry, now)) is not None:
                    self._closer.close(entry, reason)
                elif len(ledger.checking) - len(aside) <= checks:
                    self._checks.put(entry)
                else:
                    aside.append(entry)
            return None
        finally:
            # Back in the order in which they stood, if the queue is a stack.
            for entry in reversed(aside):
                ledger.move(entry, IDLE)
                ledger.make_idle(entry)
            if is_lost:
                self._on_room()

    def passes(self, entry: Entry[C]) -> bool:
        """Whether the probe finds *entry* usable. If not, it is handled.

        If its reset is still awaited, a greenlet of the pool waits for that. Otherwise
        it is discarded, and the caller offers its place.
        """
        if self.probe is None:
            return True
        before = entry.state
        passed = False
        try:
            passed = self.probe(entry.conn)
        finally:
            # A probe must not switch. If one does, others may have closed it meanwhile.
            if entry.state is not before:
                passed = False
            elif not passed:
                self._handle_unusable(entry)
        return passed

    def _handle_unusable(self, entry: Entry[C]) -> None:
        if not asked(self._connector, "awaits_reset", entry.conn, otherwise=False):
            self._closer.discard(entry, CloseReason.UNUSABLE)
        elif entry.state is CHECKING:
            self._checks.put(entry)
        elif entry.state is IN_USE:
            end_loan(entry)
            self._ledger.move(entry, RESETTING)
            self._resets.put(entry)

    def expiry_reason(self, entry: Entry[C], now: float) -> CloseReason | None:
        """Return why an idle entry must be closed; None: it need not be."""
        if now >= entry.expires:
            return CloseReason.EXPIRED
        max_idle = self._expiry.max_idle
        if max_idle is not None and now - entry.used >= max_idle:
            # Connections that are being closed do not count towards the minimum.
            ledger = self._ledger
            if ledger.size - len(ledger.closing) > ledger.min_connections:
                return CloseReason.IDLE
        return None
