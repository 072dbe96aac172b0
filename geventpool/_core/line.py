"""Waiting for a connection: the single switch point of ``Pool.acquire``.

A waiter sleeps until a connection is assigned to it, or polls if the direct hand-off is
switched off. Whatever ends the wait, no connection and no place in the line is lost.
"""

from __future__ import annotations

import itertools
from typing import Generic, TypeVar

import gevent
from gevent import get_hub, getcurrent
from greenlet import greenlet

from geventpool._core.deadlocks import is_deadlocked, waiting
from geventpool._core.dial_errors import copy_with_traceback
from geventpool._core.failures import describe
from geventpool._core.hub_lag import HubLag
from geventpool._core.ledger import FOREVER, Entry
from geventpool._core.lifecycle import Lifecycle
from geventpool._core.loan_watch import LoanWatch
from geventpool._core.loops import timer_length
from geventpool._core.measures import Measures
from geventpool._core.refusals import Refusal
from geventpool._core.states import IN_USE
from geventpool._core.wait_timers import ReturningWaiter, TimedWaiter, WaitTimers
from geventpool.admission import AdmissionControl
from geventpool.errors import (
    PoolClosedError,
    PoolDeadlockError,
    PoolExhaustedError,
    TooManyWaitingError,
)
from geventpool.policies import Backoff

__all__ = ["Line"]

C = TypeVar("C")

#: errors that may occur at any line of the pool's own code
_OVERFLOWS = frozenset({RecursionError, MemoryError})


class Line(Generic[C]):
    """The waiters of one pool, and those that poll.

    :param str name: the pool's.
    :param watch: explains a refusal by loans that stay unused.
    :param control: refuses callers early; None: nothing does.
    :param timeout: seconds to wait at most; None: without end.
    :param max_waiting: so many may wait for a place that another has; None: any number.
    :param bool handoff: False: poll while there is no room.
    """

    def __init__(
        self,
        name: str,
        lifecycle: Lifecycle[C],
        watch: LoanWatch,
        control: AdmissionControl | None,
        *,
        timeout: float | None,
        max_waiting: int | None,
        backoff: Backoff,
        handoff: bool,
    ) -> None:
        self._name = name
        self._lifecycle = lifecycle
        self._ledger = lifecycle.ledger
        self._listeners = lifecycle.listeners
        self._watch = watch
        self._control = control
        self.timeout = timeout
        self.max_waiting = max_waiting
        self._backoff = backoff
        self._handoff = handoff
        self._breaker = lifecycle.opener.breaker
        #: the limit of a call with neither *retry* nor *timeout*; None: there is none
        self.default_limit = self.limit(None, None)
        self.timers = WaitTimers(self.default_limit, self._ledger.waiters)
        ledger = self._ledger
        attend = watch.sampling(lifecycle.recovery.attend)
        self.hub_lag = HubLag(attend, lambda: ledger.clock())
        #: greenlets that had an error in this turn of the event loop, without a switch
        self._failed: set[greenlet] = set()
        #: greenlets that poll because *handoff* is off
        self.pollers: set[greenlet] = set()
        #: counts refusals; None: nothing is measured
        self.measures: Measures | None = None

    def __len__(self) -> int:
        return len(self._ledger.waiters) + len(self.pollers)

    def take_idle(self, now: float) -> Entry[C] | None:
        """Return an idle entry, now in use; None: none is fit. Nobody may wait."""
        try:
            entry = self._lifecycle.take_ready(now)
            if entry is not None:
                self._ledger.move(entry, IN_USE)
                entry.since = now
                entry.holder = None
        except BaseException:
            self._ledger.is_torn = True
            get_hub().loop.run_callback(self._lifecycle.recover)
            raise
        return entry

    def _open_at_once(self) -> Entry[C] | None:
        try:
            return self._lifecycle.open_at_once()
        except BaseException:
            self._ledger.is_torn = True
            get_hub().loop.run_callback(self._lifecycle.recover)
            raise

    def limit(self, retry: int | None, timeout: float | None) -> float | None:
        """Return the seconds that a caller waits at most; None: without end."""
        if timeout is None:
            timeout = self.timeout
        retries = self._backoff.retries if retry is None else retry
        if retries is None or (retries and not self._handoff):
            return timeout
        total = self._backoff.total(retries)
        return total if timeout is None else min(timeout, total)

    def wait(
        self, retry: int | None, timeout: float | None, started: float
    ) -> Entry[C]:
        """Return an entry that was given back or opened meanwhile. May switch.

        :param retry: as for ``Pool.acquire``; so is *timeout*.
        :param started: when the call began, by the pool's clock.
        :raises PoolError: there is none in time.
        :raises Exception: what the driver raised.
        """
        ledger = self._ledger
        if self._lifecycle.opens_at_once:
            came = ledger.returning.pop(getcurrent(), None)
            if came is not None:
                # It was admitted before.
                return self._join(timeout, started, True, came)
            entry = self._open_at_once()
            if entry is not None:
                return entry
        if self._breaker.paused:
            error = self._lifecycle.opener.error_at_once()
            if error is not None and self._may_fail_at_once(getcurrent()):
                raise error
        patience = self.default_limit
        if retry is not None or timeout is not None:
            patience = self.limit(retry, timeout)
        if self.max_waiting is not None:
            if self._without_place() >= self.max_waiting:
                raise self._refusal(TooManyWaitingError, started)
        if not self._handoff and not ledger.has_room:
            entry = self._poll(retry, patience, started)
            if entry is not None:
                return entry
            if patience is not None:
                patience = max(0.0, patience - (self._ledger.clock() - started))
        is_own = retry is not None or timeout is not None
        if self._control is not None:
            self._ask_for_admission(self._control, patience, started, is_own)
        return self._join(patience, started, is_own)

    def _without_place(self) -> int:
        """Return how many wait for places that others have; negative: some are left.

        Each place that no borrower has will serve one: a free one, and one whose
        connection is being opened, checked, reset or closed. Never switches.
        """
        ledger, lifecycle = self._ledger, self._lifecycle
        places, refused = ledger.max_connections, len(lifecycle.opener.refused)
        leases = lifecycle.leases
        if refused or (leases is not None and leases.is_blocked):
            # No more can be opened, because the server or the budget has no place.
            places = min(places, ledger.size - refused)
        return len(self) - max(0, places - ledger.in_use)

    def _ask_for_admission(
        self,
        control: AdmissionControl,
        limit: float | None,
        started: float,
        is_own: bool,
    ) -> None:
        """Raise the error of the admission control if it refuses the caller."""
        lifecycle = self._lifecycle
        if self._ledger.has_room:
            if lifecycle.leases is None and not lifecycle.opener.refused:
                # A connection will be opened: the rate so far tells nothing.
                limit, is_own = None, True
        error = control.arrive(started, limit, is_own)
        if error is not None:
            if not self._lifecycle.is_unobserved:
                self._listeners.notify("exhausted", 0.0)
            raise error

    def _join(
        self,
        limit: float | None,
        started: float,
        is_own: bool,
        came: float | None = None,
    ) -> Entry[C]:
        """Return an entry that was assigned within *limit* seconds. May switch.

        :param is_own: whether the limit is one of the call, and not the pool's.
        :param came: since when the caller has waited, if it was served before.
        """
        ledger = self._ledger
        hub = get_hub()
        current = getcurrent()
        waiter: TimedWaiter[C]
        if came is None:
            waiter = TimedWaiter(current, hub.loop)
        else:
            waiter = ReturningWaiter(current, hub.loop, came)
        if is_own and limit is not None:
            waiter.ends = started + limit
        lost = self.hub_lag.total
        kind = PoolExhaustedError
        try:
            if came is None:
                ledger.add_waiter(waiter)
            else:
                ledger.add_returning(waiter)
            waiting[current] = waiter
            if not ledger.is_exhausted:
                self._lifecycle.serve()
                if came is None and self._lifecycle.leases is not None:
                    self._check_lease(waiter, started)
            elif is_deadlocked(ledger, FOREVER if limit is None else started + limit):
                raise self._refusal(PoolDeadlockError, started)
            elif self._breaker.paused:
                # The loans may be of no use.
                self._lifecycle.serve()
            if limit != 0 and current is not hub:
                if not self.hub_lag.is_running:
                    self.hub_lag.start()
                self.timers.sleep(hub, waiter, limit)
            else:
                waiter.cancel_wake()
            if waiter.entry is None and waiter.error is None:
                if is_deadlocked(ledger, certain=False):
                    kind = PoolDeadlockError
                ledger.remove_waiter(waiter)
            waiting.pop(current, None)
            if not ledger.waiters:
                self.timers.stop_if_unused()
        except BaseException as error:
            # A kill, a foreign Timeout or a LoopExit; or an error of the pool's own,
            # such as a RecursionError. So the waiter is removed without a call.
            if current in ledger.waiters and ledger.waiters[current] is waiter:
                del ledger.waiters[current]
            if current in waiting and waiting[current] is waiter:
                del waiting[current]
            if error.__class__ in _OVERFLOWS:
                ledger.is_torn = True
            self._step_out(waiter)
            raise
        entry = waiter.entry
        if entry is not None:
            if entry.waiter is not waiter:
                raise self._lost_at_hand_over()
            entry.waiter = None
            return entry
        if waiter.error is not None:
            if isinstance(waiter.error, PoolExhaustedError):
                self._listeners.notify("exhausted", self._ledger.clock() - started)
            raise waiter.error
        raise self._refusal(kind, started, lost)

    def _check_lease(self, waiter: TimedWaiter[C], started: float) -> None:
        """Refuse *waiter* if the budget has no place for it, and too many wait.

        Only the attempt to lease tells that. Never switches.
        """
        if self.max_waiting is None or waiter.greenlet not in self._ledger.waiters:
            return
        if not waiter.has_attempt and self._without_place() > self.max_waiting:
            raise self._refusal(TooManyWaitingError, started)

    def _may_fail_at_once(self, current: greenlet) -> bool:
        """Whether the caller may get its error without a switch. Never switches.

        Once in a turn of the event loop: one that tries again at once must not keep all
        others from running.
        """
        failed = self._failed
        if current in failed:
            return False
        if not failed:
            get_hub().loop.run_callback(failed.clear)
        failed.add(current)
        return True

    def _step_out(self, waiter: TimedWaiter[C]) -> None:
        """End a wait that an exception ended. Pass on what was assigned."""
        entry = waiter.entry
        try:
            waiter.cancel_wake()
            self.timers.stop_if_unused()
            if entry is not None and entry.waiter is waiter:
                entry.waiter = None
                self._lifecycle.assign(entry)
            if self._ledger.is_torn:
                get_hub().loop.run_callback(self._lifecycle.recover)
        except BaseException:
            if entry is not None and entry.waiter is waiter:
                entry.waiter = None
            self._ledger.is_torn = True
            get_hub().loop.run_callback(self._lifecycle.recover)
            raise

    def _lost_at_hand_over(self) -> PoolClosedError:
        """Return why a connection that was assigned to a waiter is not the waiter's."""
        what = "was closed" if self._ledger.closed else "began anew in a forked child"
        return PoolClosedError(f"Pool {self._name!r} {what} while you waited")

    def _poll(
        self, retry: int | None, patience: float | None, started: float
    ) -> Entry[C] | None:
        """Poll for an idle entry; None: there is room for a new one. May switch."""
        retries = self._backoff.retries if retry is None else retry
        for attempt in itertools.count() if retries is None else range(retries):
            pause = self._backoff.delay(attempt)
            if patience is not None:
                pause = min(pause, started + patience - self._ledger.clock())
            if pause < 0 or patience == 0 or getcurrent() is get_hub():
                break
            self.pollers.add(getcurrent())
            try:
                gevent.sleep(timer_length(pause))
            finally:
                self.pollers.discard(getcurrent())
            if self._ledger.closed:
                raise self._lost_at_hand_over()
            # Those in line come first.
            found = (
                None if self._ledger.waiters else self.take_idle(self._ledger.clock())
            )
            if found is not None:
                return found
            if self._ledger.has_room:
                return None
        raise self._refusal(PoolExhaustedError, started)

    def _refusal(
        self, kind: type[PoolExhaustedError], started: float, lost: float | None = None
    ) -> PoolExhaustedError:
        """Return the error that tells why there is no connection."""
        now = self._ledger.clock()
        # One that could not use what it was lent has waited since it came.
        started = min(started, self._ledger.returning.get(getcurrent(), started))
        waited = now - started
        remarks: list[tuple[str, object]] = []
        leases = self._lifecycle.leases
        if leases is not None and self._ledger.has_room:
            remarks.append(("{}", leases.holders()))
        if lost is not None and (blocked := self.hub_lag.measured() - lost) > 0.1:
            remarks.append(("the hub was blocked for {:.1f} s of it", blocked))
        since = self._lifecycle.opener.breaker.since
        if since is not None:
            remarks.append(("no connection could be opened for {:.1f} s", now - since))
        rejections = self._lifecycle.checks.rejections
        if rejected := rejections.since(started):
            last = describe(rejections.error)
            text = f"{rejected} failed a check or reset, the last by {last}"
            remarks.append(("{}", text))
        if self._watch.idle_holds.worst is not None:
            remarks.append(("{}", self._watch.idle_holds.worst))
        error = kind(Refusal(self._name, kind, waited, self._ledger, now, remarks))
        failure = self._lifecycle.opener.failure
        if failure is not None and failure[0] >= started:
            error.__cause__ = failure[1]
        elif rejected and rejections.error is not None:
            error.__cause__ = copy_with_traceback(rejections.error)
        self._listeners.notify("exhausted", waited)
        if self.measures is not None:
            self.measures.refused(kind)
        return error
