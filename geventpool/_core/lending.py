"""Lending a connection where the fast path cannot.

It cannot if no connection is idle, if greenlets wait, or if the loan is to be noted.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from gevent import get_hub

from geventpool._core.ledger import Entry, anyone
from geventpool._core.lifecycle import Lifecycle
from geventpool._core.line import Line
from geventpool._core.loan_watch import LoanWatch
from geventpool._core.states import IN_USE
from geventpool.errors import PoolClosedError
from geventpool.policies import check_int, check_seconds

__all__ = ["Lending"]

C = TypeVar("C")


class Lending(Generic[C]):
    """Lends the connections of one pool, to callers in its thread.

    :param str name: the pool's.
    :param line: where a caller waits if no connection is idle.
    :param watch: notes the loans.
    """

    def __init__(
        self, name: str, lifecycle: Lifecycle[C], line: Line[C], watch: LoanWatch
    ) -> None:
        self._name = name
        self._lifecycle = lifecycle
        self._ledger = lifecycle.ledger
        self._listeners = lifecycle.listeners
        self._line = line
        self._watch = watch
        #: whether nothing has to be notified of the next loan; the pool sets it
        self.is_unobserved = False

    def borrow(self, retry: int | None, timeout: float | None) -> Entry[C]:
        """Return an entry that is in use. The caller notes its holder. May switch.

        :param retry: as for ``Pool.acquire``; so is *timeout*.
        :raises PoolError: there is none in time.
        :raises Exception: what the driver raised.
        """
        if timeout is not None:
            timeout = check_seconds("timeout", timeout)
        if retry is not None:
            check_int("retry", retry)
        ledger, line = self._ledger, self._line
        if ledger.closed:
            raise PoolClosedError(f"Pool {self._name!r} is closed")
        if ledger.is_torn:
            self._lifecycle.recover()
        started = ledger.clock()
        entry = None if ledger.waiters else line.take_idle(started)
        waited = 0.0
        if entry is None:
            entry = line.wait(retry, timeout, started)
            if self.is_unobserved and line.measures is None:
                return entry
            waited = ledger.clock() - started
        if not self.is_unobserved:
            self._notify_acquired(entry, waited)
        if waited and line.measures is not None:
            line.measures.wait.observe(waited)
        return entry

    def _notify_acquired(self, entry: Entry[C], waited: float) -> None:
        # An entry without a holder counts as lost if a listener switches and another
        # greenlet is interrupted meanwhile.
        entry.holder = anyone
        try:
            self._watch.note(entry)
            self._listeners.notify("acquired", entry.conn, waited)
        except BaseException:
            # A listener was interrupted, and the borrower will not get the entry.
            self._ledger.is_torn = True
            get_hub().loop.run_callback(self._lifecycle.recover)
            if entry.state is IN_USE:
                self._lifecycle.assign(entry)
            raise
        if entry.state is not IN_USE:
            raise PoolClosedError(f"Pool {self._name!r} was closed by a listener")
        entry.holder = None
