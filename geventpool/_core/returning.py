"""What becomes of a connection that nobody uses any more.

A returned connection may need a reset. Each connection that was returned, reset,
checked or opened is assigned: closed, lent to the first waiter, or made idle.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from geventpool._core.closing import Closer
from geventpool._core.ledger import Entry, Ledger
from geventpool._core.readiness import Readiness
from geventpool._core.states import IDLE, IN_USE, RESETTING, CloseReason
from geventpool._core.workers import WorkQueue
from geventpool.connector import Connector
from geventpool.listeners import Listeners
from geventpool.policies import Expiry

__all__ = ["Returns"]

C = TypeVar("C")

log = logging.getLogger("geventpool")


class Returns(Generic[C]):
    """Takes back the connections of one pool. Its methods never switch.

    :param resets: takes entries whose connections must be reset before the next loan.
    :param on_room: called when a place has become free.
    """

    def __init__(
        self,
        ledger: Ledger[C],
        connector: Connector[C],
        listeners: Listeners,
        closer: Closer[C],
        readiness: Readiness[C],
        expiry: Expiry,
        resets: WorkQueue[Entry[C]],
        on_room: Callable[[], object],
    ) -> None:
        self._ledger = ledger
        self._connector = connector
        self._listeners = listeners
        self._closer = closer
        self._readiness = readiness
        self._expiry = expiry
        self._resets = resets
        self._on_room = on_room
        #: whether nothing has to be notified of loans
        self.is_unobserved = not listeners
        self._has_age_limits = expiry.has_age_limits
        #: whether a returned connection only has to be put into the queue
        self.is_trivial = self.is_unobserved and not self._has_age_limits
        #: tells the connector that a loan has ended; True: reset the connection.
        #: None: the connector neither wants to know nor ever asks for a reset.
        self.on_loan_end: Callable[[C], bool] | None = None
        # A method that the connector leaves as it is costs no call.
        kind = type(connector)
        if kind.end_loan is not Connector.end_loan:
            self.on_loan_end = self._end_loan_of
        elif kind.needs_reset is not Connector.needs_reset:
            self.on_loan_end = self._asks_for_reset

    def _end_loan_of(self, conn: C) -> bool:
        try:
            return self._connector.end_loan(conn)
        except Exception:
            log.exception("end_loan failed: %r is reset", conn)
            return True

    def _asks_for_reset(self, conn: C) -> bool:
        # The default of end_loan(), with one call less.
        try:
            return self._connector.needs_reset(conn)
        except Exception:
            log.exception("needs_reset failed: %r is reset", conn)
            return True

    def end_loan_normally(self, entry: Entry[C]) -> None:
        """End a loan whose borrower left the connection in order."""
        ledger = self._ledger
        if ledger.observe_use is not None:
            ledger.observe_use(ledger.clock() - entry.since)
        if self.is_unobserved:
            self._receive(entry)
        else:
            self._receive_observed(entry)

    def _receive_observed(self, entry: Entry[C]) -> None:
        ledger, listeners = self._ledger, self._listeners
        now = ledger.clock()
        used = now - entry.since
        if not ledger.waiters and entry.close_reason is None and now < entry.expires:
            # No other notification can follow, so none has to be held back.
            self._receive(entry)
            listeners.notify("released", entry.conn, used)
            return
        listeners.hold()
        try:
            self._receive(entry)
        finally:
            listeners.deliver("released", entry.conn, used)

    def _receive(self, entry: Entry[C]) -> None:
        """Have a returned connection reset if it needs that, or assign it."""
        ledger = self._ledger
        if self._has_age_limits:
            entry.used = entry.alive = ledger.clock()
            if entry.close_reason is None and entry.used >= entry.expires:
                entry.close_reason = CloseReason.EXPIRED
        on_loan_end = self.on_loan_end
        # Written so that no reason costs no call.
        if on_loan_end is not None and (
            entry.close_reason is None or ledger.close_reason_of(entry) is None
        ):
            # The connector may drain the pool in this call.
            if on_loan_end(entry.conn) and ledger.close_reason_of(entry) is None:
                ledger.move(entry, RESETTING)
                self._resets.put(entry)
                return
        # The most frequent case of assign(), without calling it, because calls cost
        # more than the rest of a release.
        if (
            self.is_trivial
            and entry.close_reason is None
            and entry.state is IN_USE
            and not ledger.waiters
        ):
            entry.state = IDLE
            ledger.idle_queue.put_nowait(entry)
            return
        self.assign(entry)

    def assign(self, entry: Entry[C], probe: bool = True) -> None:
        """Decide what becomes of a connection that nobody uses.

        It is closed if there is a reason to, or else lent to the first waiter, or else
        made idle.

        :param bool probe: look at it once more before a waiter gets it.
        """
        ledger = self._ledger
        if entry.close_reason is not None:
            if (reason := ledger.close_reason_of(entry)) is not None:
                self._closer.close(entry, reason)
                return
            # Other connections were closed in its place.
            entry.close_reason = None
        # A waiter does not look at what it is given. So this is the last chance to find
        # that it is closed, or that a reply is unread.
        readiness = self._readiness
        if probe and ledger.waiters and readiness.probe is not None:
            if not readiness.passes(entry):
                self._on_room()
                return
        if entry.state is IN_USE and ledger.waiters and self.is_trivial:
            # The same as below, with fewer calls.
            ledger.assign_to_waiter(entry, ledger.clock())
            return
        if self._has_age_limits:
            entry.ready_until = self._expiry.ready_until(
                entry.expires, entry.used, entry.alive
            )
        ledger.assign(entry, ledger.clock())
