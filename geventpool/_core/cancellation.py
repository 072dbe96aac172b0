"""Lost connections whose requests are ended at the server before their places are free.

Knows the connector's verbs for this and the time limit. The lifecycle decides what is
done with a connection afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from geventpool._core.ledger import Entry
from geventpool._core.states import CLOSING, CloseReason
from geventpool._core.workers import WorkerGroup, WorkQueue, within
from geventpool.connector import CannotCancel, Connector
from geventpool.policies import safe_repr

__all__ = ["Cancellations"]

C = TypeVar("C")

log = logging.getLogger("geventpool")

#: So many are worked at at a time. All of them, in practice: one that the server does
#: not end must not use up the time of the others.
CANCELLERS = 10_000


class Cancellations(Generic[C]):
    """The entries whose requests are being ended at the server.

    They are CLOSING, and count against the limit.

    :param limit: seconds for each of them.
    :param done: called with an entry, its reason, and whether it may be lent again
        after a reset. Not called for an entry that is not CLOSING any more.
    """

    def __init__(
        self,
        connector: Connector[C],
        workers: WorkerGroup,
        limit: float,
        done: Callable[[Entry[C], CloseReason | None, bool], object],
    ) -> None:
        self._connector = connector
        self._limit = limit
        self._done = done
        kind: Any = type(connector)
        # A verb that the connector leaves as it is costs no call.
        self._is_supported = kind.begin_cancel is not Connector.begin_cancel
        self._queue: WorkQueue[tuple[Entry[C], CloseReason | None]]
        self._queue = WorkQueue(workers, CANCELLERS, self._cancel)
        #: how many of them the server has let go of in time
        self.cancelled = 0
        #: how many of these were kept
        self.saved = 0
        #: how many were closed without knowing whether the server has let go
        self.abandoned = 0

    def entries(self) -> set[Entry[C]]:
        """The entries that are worked at or queued."""
        return {entry for entry, _ in self._queue.items()}

    def resume(self) -> None:
        """Start the greenlets that are missing. Never switches."""
        self._queue.resume()

    def begin(self, entry: Entry[C], reason: CloseReason | None) -> bool:
        """Have the request of *entry* ended if one may be running. Never switches.

        :param entry: must be CLOSING.
        :param reason: why its connection is given up; None: it must not be kept, and
            the listeners have been told.
        :return: False: nothing is running, and the entry is as it was.
        """
        if not self._is_supported:
            return False
        try:
            is_running = self._connector.begin_cancel(entry.conn)
        except Exception:
            log.exception("begin_cancel failed: %s is closed", safe_repr(entry.conn))
            return False
        if is_running:
            self._queue.put((entry, reason))
        return is_running

    def _cancel(self, item: tuple[Entry[C], CloseReason | None]) -> None:
        """End one request, in a greenlet of the pool. May switch."""
        entry, reason = item
        is_reusable = False
        try:
            is_reusable = within(
                self._limit, "cancelling", self._connector.cancel, entry.conn
            )
            self.cancelled += 1
        except CannotCancel:
            self.abandoned += 1
        except Exception as error:
            self.abandoned += 1
            log.warning(
                "the server may still be working for %s, which is closed now: %s",
                safe_repr(entry.conn),
                error,
            )
        finally:
            # Else the pool has let go of it meanwhile.
            if entry.state is CLOSING:
                self._done(entry, reason, is_reusable and reason is not None)
