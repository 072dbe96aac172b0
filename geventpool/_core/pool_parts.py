"""The parts of a pool, made from its options.

A pool has them for as long as its event loop exists. With another event loop, and in a
forked child, it gets new ones, without connections. No part refers to the pool.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from geventpool._core.claims import Claims
from geventpool._core.deadlocks import waiting
from geventpool._core.holders import Holder, Holders
from geventpool._core.home import Home
from geventpool._core.lending import Lending
from geventpool._core.lifecycle import Lifecycle
from geventpool._core.line import Line
from geventpool._core.loan_watch import LoanWatch, weak_call
from geventpool.admission import Admission, AdmissionControl
from geventpool.connector import Connector
from geventpool.extension import Extension
from geventpool.listeners import Listeners
from geventpool.options import PoolOptions

__all__ = ["PoolParts"]

C = TypeVar("C")


class PoolParts(Generic[C]):
    """What one pool consists of.

    :param name: the pool's.
    :param max_connections: the limit, which the budget may have lowered.
    :param clock: returns seconds, monotonic.
    :param closed: whether the pool was closed before.
    :param on_change: a bound method that is called when it has changed whether the next
        loan is to be noted. Its object is not kept alive.
    """

    def __init__(
        self,
        name: str,
        connector: Connector[C],
        listeners: Listeners,
        options: PoolOptions,
        *,
        max_connections: int,
        clock: Callable[[], float],
        closed: bool,
        on_change: Callable[[], object],
    ) -> None:
        self.home = Home()
        self.holders = Holders(self._holder_died, options.reclaim)
        lifecycle = self.lifecycle = Lifecycle(
            connector,
            listeners,
            options,
            max_connections=max_connections,
            on_sweep=self.holders.sweep,
            name=name,
        )
        ledger = self.ledger = lifecycle.ledger
        ledger.clock = clock
        ledger.closed = closed
        ledger.owner_only = options.owner_only and options.reclaim
        #: refuses callers early; None: nothing does
        self.control: AdmissionControl | None = None
        if isinstance(options.admission, Admission):
            self.control = AdmissionControl(options.admission, name, ledger)
            ledger.on_return = self.control.on_return
        self.watch = LoanWatch(
            name, ledger, listeners, options.leak_after, weak_call(on_change)
        )
        self.line: Line[C] = Line(
            name,
            lifecycle,
            self.watch,
            self.control,
            timeout=options.timeout,
            max_waiting=options.max_waiting,
            backoff=options.backoff,
            handoff=options.handoff,
        )
        self.lending = Lending(name, lifecycle, self.line, self.watch)
        self.claims = Claims(lifecycle, self.holders, self.home, options.owner_only)
        self.extension = Extension(lifecycle, self.claims, self.home, options.timeout)

    def _holder_died(self, holder: Holder) -> None:
        self.claims.holder_died(holder)

    def forget(self) -> None:
        """Forget all loans, waiters and connections, and close nothing of a parent's.

        Never switches. The event loop is lost: it was destroyed, or it is a parent's.
        """
        for waiter in self.ledger.waiters:
            waiting.pop(waiter, None)
        self.holders.by_id.clear()
        self.lifecycle.teardown.forget()

    def let_go(self) -> None:
        """Give up what a pool kept that nothing refers to any more.

        Never switches. Can be called in any thread, and in a finalizer.
        """
        if self.home.is_this_thread:
            self._let_go()
        else:
            # No other thread may touch what the event loop refers to.
            self.home.call(self._let_go)

    def _let_go(self) -> None:
        # A greenlet that outlives many pools must not collect their links.
        self.holders.clear()
        self.lifecycle.teardown.terminate_idle()
