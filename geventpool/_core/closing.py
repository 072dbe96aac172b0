"""Closing connections: politely, at once, or later; and freeing their places.

A place is taken until the descriptor of its connection is closed. After that
*on_room* is called, so that a waiter or *min_connections* can have the place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import gevent

from geventpool._core.cancellation import Cancellations
from geventpool._core.failures import log_connector_failure
from geventpool._core.hangups import HangupWatcher
from geventpool._core.holders import end_loan
from geventpool._core.ledger import Entry, Ledger
from geventpool._core.states import CLOSING, GONE, IDLE, RESETTING, CloseReason
from geventpool._core.workers import WorkerGroup, WorkQueue, log_failure, within
from geventpool.connector import Connector
from geventpool.listeners import Listeners

__all__ = ["Closer"]

C = TypeVar("C")

#: The most connections that are closed at a time.
CLOSERS = 16


class Closer(Generic[C]):
    """Closes the connections of one pool. Its methods never switch.

    :param float limit: seconds that closing one connection may take.
    :param resets: takes entries whose connections must be reset before the next loan.
    :param on_room: called when a place has become free.
    """

    def __init__(
        self,
        ledger: Ledger[C],
        connector: Connector[C],
        listeners: Listeners,
        workers: WorkerGroup,
        limit: float,
        resets: WorkQueue[Entry[C]],
        on_room: Callable[[], object],
    ) -> None:
        self._ledger = ledger
        self._connector = connector
        self._listeners = listeners
        self._limit = limit
        self._resets = resets
        self._on_room = on_room
        self._queue: WorkQueue[Entry[C]] = WorkQueue(workers, CLOSERS, self.close_now)
        self.cancellations = Cancellations(
            connector, workers, limit, self._cancel_ended
        )
        #: entries whose descriptors are closed in the next turn of the event loop
        self._deferred: set[Entry[C]] = set()
        #: watches idle connections; None: not started, or not possible
        self.watch: HangupWatcher | None = None

    # Politely

    def close(self, entry: Entry[C], reason: CloseReason) -> None:
        """Close it by the connector's ``close``, in a greenlet of the pool.

        The place is taken until then.
        """
        end_loan(entry)
        self._leave_queue(entry)
        self._queue.put(entry)
        if not self._listeners.is_deaf:
            self._listeners.notify("closed", entry.conn, reason)

    def close_now(self, entry: Entry[C]) -> None:
        """Close the connection of an entry that is CLOSING. May switch."""
        terminate = self._connector.terminate
        try:
            within(self._limit, "closing", self._connector.close, entry.conn)
        except Exception as error:
            log_connector_failure("was not closed cleanly", entry.conn, error)
            log_failure(terminate, entry.conn)
        except BaseException:
            # This greenlet is killed, so there is no time for a closing message.
            log_failure(terminate, entry.conn)
            raise
        finally:
            if entry.state is not GONE:
                self._ledger.move(entry, GONE)
                self._on_room()

    # At once

    def terminate(self, entry: Entry[C], reason: CloseReason) -> None:
        """Close it at once, without a closing message.

        If it has no descriptor, its ``close`` is called in a greenlet of the pool.
        """
        self._ledger.observe_early_end(entry)
        with self._listeners.held():
            self.discard(entry, reason)
            self._on_room()

    def discard(self, entry: Entry[C], reason: CloseReason) -> None:
        """Do the same as :meth:`terminate`, but do not offer the place to anybody."""
        end_loan(entry)
        self._leave_queue(entry)
        if not self.cancellations.begin(entry, reason):
            self._close_descriptor(entry)
            self._listeners.notify("closed", entry.conn, reason)

    def _close_descriptor(self, entry: Entry[C]) -> None:
        if log_failure(self._connector.terminate, entry.conn) is False:
            # Only its close() can do it, which may wait. The place stays taken.
            self._queue.put(entry)
        else:
            self._ledger.move(entry, GONE)

    def _leave_queue(self, entry: Entry[C]) -> None:
        """Make an entry CLOSING, whatever its state was."""
        if self.watch is not None:
            self.watch.forget(entry)
        if entry.state is IDLE:
            self._ledger.withdraw(entry, CLOSING)
        else:
            self._ledger.move(entry, CLOSING)

    def _cancel_ended(
        self, entry: Entry[C], reason: CloseReason | None, is_reusable: bool
    ) -> None:
        """The request of a CLOSING entry has ended at the server.

        :param reason: why it was to be closed; None: the listeners have been told.
        """
        ledger = self._ledger
        if is_reusable and ledger.close_reason_of(entry) is None:
            self.cancellations.saved += 1
            entry.used = entry.alive = ledger.clock()
            ledger.move(entry, RESETTING)
            self._resets.put(entry)
            return
        with self._listeners.held():
            self._close_descriptor(entry)
            if reason is not None:
                self._listeners.notify("closed", entry.conn, reason)
            self._on_room()

    # In the next turn of the event loop

    def discard_soon(self, entry: Entry[C], reason: CloseReason) -> None:
        """Close the descriptor in a turn of the event loop of its own.

        For a connection that another greenlet may be using. The caller may be a
        finalizer that runs while that greenlet is about to start a watcher for the
        descriptor. If the descriptor is closed then, libev ends the process. The place
        is taken until the descriptor is closed.
        """
        self._ledger.observe_early_end(entry)
        end_loan(entry)
        self._leave_queue(entry)
        run = gevent.get_hub().loop.run_callback
        run(self._finish_deferred, entry)
        # The second one does nothing, unless a signal handler raised in the first.
        run(self._finish_deferred, entry)
        self._deferred.add(entry)
        self._listeners.notify("closed", entry.conn, reason)

    def _finish_deferred(self, entry: Entry[C]) -> None:
        if entry in self._deferred:
            self.finish(entry)
            self._deferred.discard(entry)

    def finish(self, entry: Entry[C]) -> None:
        """Close the descriptor of an entry that is CLOSING, and free its place."""
        if entry.state is CLOSING and not self.cancellations.begin(entry, None):
            self._close_descriptor(entry)
        self._on_room()

    # The end of the pool

    def force(self, entry: Entry[C], reason: CloseReason) -> None:
        """Close it at once, whatever is done with it, and offer the place to nobody."""
        ledger = self._ledger
        is_closing = entry.state is CLOSING
        if not is_closing:
            self._leave_queue(entry)
            self._listeners.notify("closed", entry.conn, reason)
        is_done = log_failure(self._connector.terminate, entry.conn) is not False
        if is_done or is_closing:
            ledger.move(entry, GONE)
        else:
            self._queue.put(entry)

    def resume(self) -> None:
        """Start the greenlets that are missing. Never switches."""
        self._queue.resume()
        self.cancellations.resume()

    def entries(self) -> set[Entry[Any]]:
        """The CLOSING entries that something is going to close."""
        return self._queue.items() | self._deferred | self.cancellations.entries()
