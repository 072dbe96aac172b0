"""A server that cannot be reached: when it is tried, and which waiters stay in line.

It knows the breaker, the waiters and the loans. It opens nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import gevent

from geventpool._core.breaker import Breaker
from geventpool._core.ledger import FOREVER, Entry, Ledger
from geventpool._core.loops import timer_length
from geventpool._core.states import CLOSING, IN_USE
from geventpool._core.workers import WorkerGroup

__all__ = ["ServerProbe"]

C = TypeVar("C")

#: A loan that has lasted for so many seconds may be a subscription, or wait for an
#: event: no waiter should wait for its end in an outage.
SHORT_LOAN = 1.0


class ServerProbe(Generic[C]):
    """Tries the server of one pool during an outage.

    :param look: opens one connection for the waiters. May switch.
    :param on_change: called when waiters may be served or must be refused.
    :param is_cut: whether a lent connection has lost its socket; None: it is unknown.
    """

    def __init__(
        self,
        ledger: Ledger[C],
        workers: WorkerGroup,
        breaker: Breaker,
        look: Callable[[], object],
        on_change: Callable[[], object],
        is_cut: Callable[[C], bool] | None,
    ) -> None:
        self._ledger = ledger
        self._on_change = on_change
        self._workers = workers
        self._breaker = breaker
        self._look = look
        self._is_cut = is_cut
        #: the greenlet that tries the server
        self.greenlet: gevent.Greenlet[..., Any] | None = None
        #: ends the grace
        self._timer: Any = None

    def begin(self) -> None:
        """Try the server from now on, because a pause has begun. Never switches."""
        if self.greenlet is None or self.greenlet.dead:
            self.greenlet = self._workers.spawn(self._run)
            # A link, because ``finally`` is not run in a greenlet that is killed before
            # it has started.
            self.greenlet.rawlink(self._left)
        self._stop_timer()
        left = self._breaker.grace_left(self._ledger.clock())
        if 0 < left < FOREVER:
            self._timer = gevent.get_hub().loop.timer(timer_length(left), ref=False)
            # update: otherwise the time counts from the start of this turn of the loop.
            self._timer.start(self._grace_is_over, update=True)

    def _grace_is_over(self) -> None:
        """The grace has ended. In the hub: an attempt of the greenlet may hang."""
        self._stop_timer()
        self._on_change()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.close()

    def can_still_serve(self) -> bool:
        """Whether the waiters may still be served, though nothing can be opened."""
        now = self._ledger.clock()
        if self._breaker.grace_left(now) > 0:
            return True
        if not self._breaker.paused:
            return False
        entries = self._ledger.entries.values()
        if len(entries) >= self._ledger.max_connections:
            # They wait for a loan to end, as always when no place is left.
            return not all(self._is_useless(entry) for entry in entries)
        return any(self._ends_soon(entry, now) for entry in entries)

    def _is_useless(self, entry: Entry[C]) -> bool:
        """Whether a loan has lost its connection, and tries to connect it again."""
        if self._is_cut is None or entry.state is not IN_USE:
            return False
        return self._is_cut(entry.conn)

    def _ends_soon(self, entry: Entry[C], now: float) -> bool:
        if entry.state is not IN_USE:
            return entry.state is not CLOSING
        if now - entry.since >= SHORT_LOAN or self._is_useless(entry):
            return False
        holder = entry.holder() if entry.holder is not None else None
        return holder is None or holder not in self._ledger.waiters

    def _run(self) -> None:
        """Try the server at intervals, in a greenlet of the pool. May switch."""
        breaker = self._breaker
        while breaker.paused:
            gevent.sleep(timer_length(breaker.next_pause(self._ledger.clock())))
            wanted = breaker.demand or self._ledger.waiters
            if self._ledger.closed or not (breaker.paused and wanted):
                return
            breaker.demand = False
            if self._ledger.has_room:
                self._look()

    def _left(self, greenlet: object) -> None:
        if self._breaker.paused and greenlet is self.greenlet:
            self._breaker.half_open()
            self._on_change()

    def resume(self) -> None:
        """Let the next caller try the server again, if it could not be reached."""
        if self._breaker.paused and self.greenlet is not None:
            self.greenlet.kill(block=False)
            self._breaker.half_open()
            self._on_change()

    def close(self) -> None:
        """Do not try the server any more."""
        self._stop_timer()
        if self.greenlet is not None:
            self.greenlet.kill(block=False)
