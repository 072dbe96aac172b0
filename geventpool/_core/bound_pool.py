"""A pool bound to its event loop: the parts that it has there, and what a loan touches.

With another event loop, and in a forked child, a pool begins anew, with other parts and
without connections.

The fast path of a loan is written out four times: in ``Pool.acquire``, ``Pool.release``
and at both ends of ``ConnectionContext``. What it needs of the parts is bound to the
pool. Each look-up by way of a part would cost a hundredth of an uncontended loan, and
each call a tenth.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from greenlet import greenlet

from geventpool._core.context import NO_HOLDER
from geventpool._core.holders import Holder
from geventpool._core.ledger import Entry
from geventpool._core.measures import Measures, keep
from geventpool._core.pool_parts import PoolParts
from geventpool._core.pool_state import PoolState, loans_under_way
from geventpool.connector import Connector
from geventpool.labels import find_labels
from geventpool.listeners import Listeners
from geventpool.options import PoolOptions
from geventpool.patching import NotPatchedError, is_patched

__all__ = ["BoundPool"]

C = TypeVar("C")


class BoundPool(PoolState[C]):
    """What of a :class:`~geventpool.Pool` is bound to one event loop.

    The slots for it are in ``Pool``.
    """

    __slots__ = ("__dict__", "__weakref__")

    connector: Connector[C]
    _listeners: Listeners
    _options: PoolOptions

    def _begin(
        self,
        max_connections: int,
        clock: Callable[[], float] = time.monotonic,
        closed: bool = False,
    ) -> None:
        """Begin without connections: in the constructor, and in a forked child."""
        parts = PoolParts(
            self.name,
            self.connector,
            self._listeners,
            self._options,
            max_connections=max_connections,
            clock=clock,
            closed=closed,
            on_change=self._choose_path,
        )
        self._bind(parts)

    def _within_budget(self, max_connections: int) -> int:
        """Return the number of places that the pool may have at most."""
        budget = self._options.shared_budget
        return max_connections if budget is None else min(max_connections, budget.total)

    # The fast path

    def _bind(self, parts: PoolParts[C]) -> None:
        """Have the next loan use *parts*."""
        self._parts = parts
        self.extension = parts.extension
        lifecycle = self._lifecycle = parts.lifecycle
        ledger = self._ledger = parts.ledger
        self._holders = parts.holders
        self._clock = ledger.clock
        #: the greenlet that entered a block last
        self._last_block_owner: Callable[[], greenlet | None] = NO_HOLDER
        #: the last greenlet that gave back; not the same attribute as the holder that
        #: borrowed last, because a release takes the fast path even if a loan is to be
        #: noted where it begins
        self._last_releaser: Any = NO_HOLDER
        self._waiters = ledger.waiters
        self._get_idle: Callable[[], Entry[C]] = ledger.idle_queue.get_nowait
        self._put_back: Callable[[Entry[C]], object] = ledger.idle_queue.put_nowait
        #: the same at the end of a loan, which may be measured
        self._make_idle: Callable[[Entry[C]], object] = self._put_back
        self._pass_on: Callable[[Entry[C]], object] = lifecycle.assign
        self._probe = lifecycle.readiness.probe
        #: whether a returned connection only has to be put into the queue
        self._release_is_trivial = (
            lifecycle.returns.is_trivial and lifecycle.returns.on_loan_end is None
        )
        if self._measures is not None:
            self._begin_measuring()
        self._choose_path()

    def _choose_path(self) -> None:
        """Take the fast path, unless the next loan is to be noted."""
        parts = self._parts
        is_fast = parts.lifecycle.is_unobserved and not parts.watch.is_wanted
        self._is_unobserved = parts.lending.is_unobserved = is_fast
        self._holders_by_id: dict[int, Holder] = self._holders.by_id if is_fast else {}
        #: the holder that borrowed last: most often it is the next one too
        self._last_holder: Any = NO_HOLDER

    def _rule(self, clock: Callable[[], float]) -> None:
        """Use *clock* from now on: it returns seconds, monotonic. For tests."""
        # The copy saves each loan a look at the ledger.
        self._clock = self._ledger.clock = clock
        if self._measures is not None:
            self._make_idle = self._measures.measured(self._put_back, clock)

    def _begin_measuring(self) -> None:
        lifecycle = self._lifecycle
        measures = Measures(
            loans_under_way(self._ledger),
            self.connector.reset_counts(),
            has_connections=not self.connector.connects_later,
        )
        self._measures = self._parts.line.measures = measures
        if (labels := find_labels(self._listeners.listeners)) is not None:
            measures.count_labels(labels.counts)
        keep(self, measures)
        self._listeners.set_recorder(measures)
        self._ledger.observe_use = measures.use.observe
        self._make_idle = measures.measured(self._put_back, self._clock)
        self._pass_on = lifecycle.end_loan_normally

    # Thread, event loop, process

    def _check_thread(self) -> None:
        """Raise an error in a foreign thread; begin anew with another hub."""
        # Not by _is_here(), because this is a part of each contended loan.
        if not self._parts.home.is_here(self._start_over):
            raise RuntimeError(
                f"Pool {self.name!r} belongs to the event loop of another thread; "
                "give each thread a pool of its own"
            )

    @property
    def _is_replaced(self) -> bool:
        """Whether the driver's own pool lends, because gevent has not patched."""
        return self.connector.stock is not None and not is_patched("socket")

    def _check_lends(self, verb: str) -> None:
        """Check that the pool lends in this process, and in this thread.

        :param verb: the method that was called.
        :raises NotPatchedError: the driver's own pool lends instead.
        :raises RuntimeError: the thread is another one.
        """
        if self._is_replaced:
            raise NotPatchedError(
                f"{verb}() has no connections to work on: gevent has not patched this "
                f"process, so the driver's own pool lends in place of {self.name!r}"
            )
        self._check_thread()

    def _is_here(self) -> bool:
        """Whether this is the thread of the pool. Begin anew if it has another hub."""
        return self._parts.home.is_here(self._start_over)

    def _start_over(self) -> None:
        """Begin without connections, because the event loop was destroyed."""
        self._forked()
        self._parts.home.enter()

    def _forked(self) -> None:
        """In a forked child: begin without connections; keep the parent's intact."""
        self._parts.forget()
        ledger = self._ledger
        self._begin(ledger.max_connections, ledger.clock, ledger.closed)

    def __del__(self, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
        """Terminate the idle connections of a pool that nothing refers to.

        A finalizer runs anywhere, so it does nothing that could switch. It is not a
        ``weakref.finalize``, which would keep the ledger and the connections alive, and
        connections of some drivers refer to their pool. Borrowers keep what they have.
        """
        parts = getattr(self, "_parts", None)
        if parts is None:
            return
        try:
            parts.let_go()
        except Exception:
            # At the end of the interpreter the modules that this needs may be gone. The
            # system closes the sockets.
            if not is_ending():
                raise
