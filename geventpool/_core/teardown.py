"""Giving up all connections: when a pool is drained, closed, forgotten or forked."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Generic, TypeVar

from gevent.event import Event

from geventpool._core.closing import Closer
from geventpool._core.holders import end_loan
from geventpool._core.housekeeping import Housekeeping
from geventpool._core.leases import Leases
from geventpool._core.ledger import Entry, Ledger
from geventpool._core.opener import Opener
from geventpool._core.states import CLOSING, GONE, IDLE, IN_USE, OPENING, CloseReason
from geventpool._core.workers import WorkerGroup, log_failure
from geventpool.connector import Connector
from geventpool.listeners import Listeners
from geventpool.sockets import keep_numbers

__all__ = ["Teardown"]

C = TypeVar("C")


class Teardown(Generic[C]):
    """Gives up all connections of one pool.

    :param leases: the leases of the places; None: there is no budget.
    """

    def __init__(
        self,
        ledger: Ledger[C],
        connector: Connector[C],
        listeners: Listeners,
        workers: WorkerGroup,
        closer: Closer[C],
        opener: Opener[C],
        housekeeping: Housekeeping[C],
        leases: Leases | None,
    ) -> None:
        self._ledger = ledger
        self._connector = connector
        self._listeners = listeners
        self._workers = workers
        self._closer = closer
        self._opener = opener
        self._housekeeping = housekeeping
        self._leases = leases
        #: set when anything changes after the pool was closed
        self.changed = Event()

    def evict_all(self, reason: CloseReason) -> None:
        """Close the idle connections now, the others when they come back.

        Never switches.
        """
        ledger = self._ledger
        with self._listeners.held():
            while (entry := ledger.take_idle()) is not None:
                self._closer.close(entry, reason)
            for entry in (*ledger.entries.values(), *ledger.opening):
                # The CLOSING ones too, because cancelled ones might be kept.
                entry.close_reason = reason

    def close(self) -> None:
        """Open nothing any more, and close all connections. Never switches."""
        self._ledger.closed = True
        self._housekeeping.stop()
        self._opener.close()
        self.evict_all(CloseReason.POOL_CLOSED)

    def cut_off(self, entries: Iterable[Entry[C]]) -> None:
        """Close these at once, also under their holders. Never switches."""
        self._workers.kill_all()
        for entry in entries:
            self._ledger.observe_early_end(entry)
            end_loan(entry)
            if entry.state is OPENING:
                self._ledger.move(entry, GONE)
            else:
                # The end of its block reads it.
                entry.close_reason = CloseReason.POOL_CLOSED
                self._closer.force(entry, CloseReason.POOL_CLOSED)
        # Other greenlets may be closing the pool too, and wait.
        self.changed.set()

    def forget_lent(self) -> None:
        """Forget the connections on loan, which stay open. Never switches.

        Their places are free, and their leases end with the connections.
        """
        ledger = self._ledger
        on_closed, ledger.on_closed = ledger.on_closed, None
        for entry in ledger.all_in(IN_USE):
            ledger.observe_early_end(entry)
            end_loan(entry)
            ledger.move(entry, GONE)
            if self._leases is not None:
                self._leases.leave_to(entry.conn)
        ledger.on_closed = on_closed

    def close_idle(self) -> None:
        """Close the idle connections one after another. May switch."""
        ledger = self._ledger
        while (entry := ledger.take_idle()) is not None:
            ledger.move(entry, CLOSING)
            if not self._listeners.is_deaf:
                try:
                    self._listeners.notify("closed", entry.conn, CloseReason.DRAINED)
                except BaseException:
                    self._closer.finish(entry)
                    raise
            self._closer.close_now(entry)

    def forget(self) -> None:
        """Close the copies of the parent's descriptors, in a forked child.

        The parent does not notice this. Copies of the parent's greenlets may run on in
        the child, so they are told to end. The same is done if the event loop was
        destroyed, which takes no calls then. Never switches.
        """
        ledger = self._ledger
        for stop in (self._workers.kill_all, self._opener.close):
            with suppress(AttributeError, ValueError):
                stop()
        with suppress(AttributeError, ValueError):
            if self._housekeeping.reaper is not None:
                self._housekeeping.reaper.stop()
        with suppress(AttributeError, ValueError):
            if self._closer.watch is not None:
                self._closer.watch.stop()
        for entry in (*ledger.entries.values(), *ledger.opening):
            end_loan(entry)
            keep_numbers(entry.state is not IDLE)
            if entry.state is not OPENING:
                log_failure(self._connector.terminate, entry.conn)
            entry.state = GONE
        keep_numbers(False)
        if self._leases is not None:
            self._leases.forget()

    def terminate_idle(self) -> None:
        """Terminate the idle connections, in a finalizer. Never switches."""
        self._ledger.closed = True
        if self._closer.watch is not None:
            self._closer.watch.stop()
        for entry in (*self._ledger.entries.values(), *self._ledger.opening):
            if entry.state is IDLE:
                log_failure(self._connector.terminate, entry.conn)
                if self._leases is not None:
                    self._leases.give_back_soon()
            else:
                # What a greenlet of the pool has at this moment must not become idle.
                entry.close_reason = CloseReason.POOL_CLOSED
                if self._leases is not None and entry.state is IN_USE:
                    self._leases.leave_to(entry.conn)
