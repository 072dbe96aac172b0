"""The connections of a pool, and the greenlets that look after them.

Opens, checks, cleans and closes; looks at the idle ones now and then; and brings what
comes free together with who waits. Knows nothing of borrowers: it neither waits for a
connection nor asks who holds one.

Whatever may switch is done by greenlets of its own: a kill or a ``gevent.Timeout`` can
only hit what it was aimed at. Room that comes free for whatever reason ends in
:meth:`Stock.serve`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, Generic, TypeVar

import gevent
from gevent.event import Event
from gevent.queue import LifoQueue, Queue

from geventpool._core.breaker import Breaker
from geventpool._core.cancellation import Cancellations
from geventpool._core.demand import CHECKERS, RESETTERS
from geventpool._core.hangups import HangupWatcher
from geventpool._core.holders import Holder
from geventpool._core.leases import Leases
from geventpool._core.ledger import (
    CHECKING,
    CLOSING,
    FOREVER,
    GONE,
    IDLE,
    IN_USE,
    OPENING,
    RESETTING,
    CloseReason,
    Entry,
    Ledger,
)
from geventpool._core.opener import Dialled, Opener, log_failure
from geventpool._core.reaper import Reaper
from geventpool._core.workers import WorkerGroup, WorkQueue, within
from geventpool.budget import Budget
from geventpool.connector import Connector, ErrorAction, asked, judge
from geventpool.listeners import Listeners
from geventpool.policies import Backoff, Expiry, Outage, Timeouts

__all__ = ["Lifecycle"]

C = TypeVar("C")

log = logging.getLogger("geventpool")

#: So many connections are closed at a time.
CLOSERS = 16
#: Seconds after which nobody waits any more for a reset that is under way.
PROMPT = 0.05
#: So many idle entries behind one that must be checked are looked through for one that
#: need not be.
BEHIND = 8
#: Seconds for which a passed check counts if nobody waited for it any more.
FRESH = 0.1
#: A sweep lets the others run after so many seconds.
SLICE = 0.002


class Lifecycle(Generic[C]):
    """What :class:`~geventpool.Pool` has to lend; its arguments are explained there.

    :param name: the pool's, for the other processes of the budget.
    :param chore: something else to be done at each sweep.
    """

    def __init__(
        self,
        connector: Connector[C],
        listeners: Listeners,
        expiry: Expiry,
        backoff: Backoff,
        timeouts: Timeouts,
        outage: Outage,
        *,
        max_connections: int,
        min_connections: int,
        max_connecting: int,
        lifo: bool,
        reaps: bool,
        reap_interval: float,
        on_sweep: Callable[[], object],
        budget: Budget | None = None,
        name: str = "",
    ) -> None:
        queue: Queue[Entry[C]] = LifoQueue() if lifo else Queue()
        self.ledger: Ledger[C] = Ledger(queue, max_connections, lifo)
        self.connector = connector
        self.listeners = listeners
        #: nobody is to be told of anything
        self.is_unobserved = not listeners
        #: counts the seconds of a loan that has ended; None: nobody measures
        self.observe_use: Callable[[float], None] | None = None
        self.expiry = expiry
        self.has_age_limits = expiry.has_age_limits
        self.timeouts = timeouts
        self.ledger.min_connections = min_connections
        self.reaps = reaps
        self.reap_interval = reap_interval
        self._on_sweep = on_sweep
        #: set when anything changes after it was closed
        self.changed = Event()

        self.workers = WorkerGroup()
        self._checkers = WorkQueue(self.workers, CHECKERS, self._check)
        self._resetters = WorkQueue(self.workers, RESETTERS, self._reset)
        self._closers = WorkQueue(self.workers, CLOSERS, self._close_one)
        self.cancellations = Cancellations(
            connector, self.workers, timeouts.close, self._cancel_ended
        )
        self._hangup_checkers = WorkQueue(self.workers, 1, self._hung_up)
        #: entries whose descriptors are closed in the next turn of the loop
        self._condemned: set[Entry[C]] = set()
        #: hears of idle connections that are hung up; None: not yet, or it cannot
        self.watch: HangupWatcher | None = None
        self.reaper: Reaper[Lifecycle[C]] | None = None
        #: the leases of its places; None: there is no budget
        self.leases = None if budget is None else Leases(budget, name, self)
        self.opener = Opener(
            self.ledger,
            connector,
            listeners,
            self.workers,
            Breaker(outage, max_connecting),
            backoff,
            timeouts.open,
            self.leases,
            work=self._dial,
            on_change=self.serve,
        )

        # A verb that the connector leaves as it is costs no call.
        kind = type(connector)
        self.probe: Callable[[C], bool] | None = None
        if kind.is_usable is not Connector.is_usable:
            self.probe = self._is_usable
        #: tells the connector that a loan has ended; True: reset the connection.
        #: None: the connector neither wants to know nor ever asks for a reset.
        self.on_loan_end: Callable[[C], bool] | None = None
        if kind.end_loan is not Connector.end_loan:
            self.on_loan_end = self._end_loan_of
        elif kind.needs_reset is not Connector.needs_reset:
            self.on_loan_end = self._asks_for_reset
        self._can_watch = bool(self.probe) and kind.fileno is not Connector.fileno
        #: nothing to be done when a connection comes back but to note it
        self.return_is_trivial = self.is_unobserved and not self.has_age_limits

    def observe(self) -> None:
        """Notify the listeners of loans too: there are some now. Never switches."""
        self.is_unobserved = self.return_is_trivial = False

    # Lending and taking back.

    def take_ready(self, now: float, checks: int | None = None) -> Entry[C] | None:
        """The next idle entry that may be lent; those before it are seen to.

        :param checks: so many checks may be under way; None: one for each waiter
            and one for the caller. A single loan must not have all idle ones pinged.
        :return: it is CHECKING, as every entry that is taken out of the queue.
        """
        ledger = self.ledger
        if checks is None:
            checks = len(ledger.waiters) + 1
        aside: list[Entry[C]] = []
        lost = False
        try:
            while len(aside) < BEHIND and (entry := ledger.take_idle()) is not None:
                if now < entry.ready_until:
                    if self._passes(entry):
                        return entry
                    lost = True
                elif (reason := self.expiry_reason(entry, now)) is not None:
                    self.close_entry(entry, reason)
                elif len(ledger.checking) - len(aside) <= checks:
                    self._checkers.put(entry)
                else:
                    aside.append(entry)
            return None
        finally:
            # In the order in which they stood, but for a queue that is no stack.
            for entry in reversed(aside):
                ledger.move(entry, IDLE)
                ledger.make_idle(entry)
            if lost:
                self.opener.serve(fill=True)

    def _passes(self, entry: Entry[C]) -> bool:
        """Whether the probe finds *entry* usable; if not, it is seen to.

        If its reset is still awaited, a greenlet of the pool waits for that; otherwise
        it is discarded.
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
                self._see_to_unusable(entry)
        return passed

    def _see_to_unusable(self, entry: Entry[C]) -> None:
        """Discard an entry, unless it is only waiting for the end of its reset."""
        if not self._is_awaited(entry):
            self._part_with(entry, CloseReason.UNUSABLE)
        elif entry.state is CHECKING:
            self._checkers.put(entry)
        elif entry.state is IN_USE:
            self.end_loan(entry)
            self.ledger.move(entry, RESETTING)
            self._resetters.put(entry)

    def _is_awaited(self, entry: Entry[C]) -> bool:
        try:
            return self.connector.awaits_reset(entry.conn)
        except Exception:
            log.exception("awaits_reset failed: %r counts as unusable", entry.conn)
            return False

    def expiry_reason(self, entry: Entry[C], now: float) -> CloseReason | None:
        """Why an idle entry must go, if it must."""
        if now >= entry.expires:
            return CloseReason.EXPIRED
        max_idle = self.expiry.max_idle
        if max_idle is not None and now - entry.used >= max_idle:
            # Those that say goodbye are still counted, but they do not stay.
            ledger = self.ledger
            if ledger.size - len(ledger.closing) > self.ledger.min_connections:
                return CloseReason.IDLE
        return None

    def _is_usable(self, conn: C) -> bool:
        try:
            return self.connector.is_usable(conn)
        except Exception:
            log.exception("is_usable failed: %r counts as unusable", conn)
            return False

    def end_loan_normally(self, entry: Entry[C]) -> None:
        """End a loan whose borrower left the connection in order. Never switches."""
        if self.observe_use is not None:
            self.observe_use(self.ledger.clock() - entry.since)
        if self.is_unobserved:
            self._receive(entry)
        else:
            self._receive_observed(entry)

    def _receive_observed(self, entry: Entry[C]) -> None:
        listeners = self.listeners
        now = self.ledger.clock()
        used = now - entry.since
        if (
            not self.ledger.waiters
            and entry.close_reason is None
            and now < entry.expires
        ):
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
        """Reset a connection whose loan has ended, if need be, or assign it."""
        if self.has_age_limits:
            entry.used = entry.alive = self.ledger.clock()
            if entry.close_reason is None and entry.used >= entry.expires:
                entry.close_reason = CloseReason.EXPIRED
        on_loan_end = self.on_loan_end
        # Written so that no reason costs no call.
        if on_loan_end is not None and (
            entry.close_reason is None or self.close_reason_of(entry) is None
        ):
            # The connector may drain the pool in this call.
            if on_loan_end(entry.conn) and self.close_reason_of(entry) is None:
                self.ledger.move(entry, RESETTING)
                self._resetters.put(entry)
                return
        # The most frequent case of assign(), without calling it, because calls cost
        # more than the rest of a release.
        if (
            self.return_is_trivial
            and entry.close_reason is None
            and entry.state is IN_USE
            and not self.ledger.waiters
        ):
            entry.state = IDLE
            self.ledger.idle_queue.put_nowait(entry)
            return
        self.assign(entry)

    def assign(self, entry: Entry[C], probe: bool = True) -> None:
        """Decide what becomes of a connection that nobody uses. Never switches.

        It is closed if there is a reason to, else lent to the first waiter, else idle.
        Each connection that was returned, reset, checked or opened comes here.

        :param bool probe: look at it once more before a waiter gets it.
        """
        ledger = self.ledger
        if entry.close_reason is not None:
            if (reason := self.close_reason_of(entry)) is not None:
                self.close_entry(entry, reason)
                return
            # Other connections were closed in its place.
            entry.close_reason = None
        # A waiter does not look at what it is given, so this is the last chance to
        # find that it is closed, or that a reply is unread.
        if probe and ledger.waiters and not self._passes(entry):
            self._replace()
            return
        if entry.state is IN_USE and ledger.waiters and self.return_is_trivial:
            # The same as below, with fewer calls.
            ledger.assign_to_waiter(entry, ledger.clock())
            return
        if self.has_age_limits:
            entry.ready_until = self.expiry.ready_until(
                entry.expires, entry.used, entry.alive
            )
        ledger.assign(entry, self.ledger.clock())

    def _end_loan_of(self, conn: C) -> bool:
        try:
            return self.connector.end_loan(conn)
        except Exception:
            log.exception("end_loan failed: %r is reset", conn)
            return True

    def _asks_for_reset(self, conn: C) -> bool:
        # The default of end_loan(), with one call less.
        try:
            return self.connector.needs_reset(conn)
        except Exception:
            log.exception("needs_reset failed: %r is reset", conn)
            return True

    def close_reason_of(self, entry: Entry[C]) -> CloseReason | None:
        """Return why an entry must be closed when nobody uses it; None: it stays."""
        reason = entry.close_reason
        if reason is CloseReason.SURPLUS and not self._has_surplus():
            return None
        return reason

    def end_loan(self, entry: Entry[C]) -> None:
        """Forget who held this entry, and which waiter it was meant for."""
        holder, entry.holder, entry.block, entry.waiter = entry.holder, None, None, None
        if isinstance(holder, Holder):
            holder.ended(entry)

    # Letting go.

    def terminate(self, entry: Entry[C], reason: CloseReason) -> None:
        """Close it at once and without a goodbye. Never switches.

        What has no descriptor to be closed is closed by a greenlet of the pool.
        """
        self.note_early_end(entry)
        with self.listeners.held():
            self._part_with(entry, reason)
            self._replace()

    def note_early_end(self, entry: Entry[C]) -> None:
        """Measure a loan that ends otherwise than well. Never switches."""
        if entry.state is IN_USE and entry.waiter is None:
            if self.observe_use is not None:
                self.observe_use(self.ledger.clock() - entry.since)

    def _part_with(self, entry: Entry[C], reason: CloseReason) -> None:
        self.end_loan(entry)
        self._leave_queue(entry, CLOSING)
        if not self.cancellations.begin(entry, reason):
            self._let_go_of(entry)
            self.listeners.notify("closed", entry.conn, reason)

    def _let_go_of(self, entry: Entry[C]) -> None:
        if log_failure(self.connector.terminate, entry.conn) is False:
            # Only its close() can do it, which may wait: the place stays taken.
            self._closers.put(entry)
        else:
            self.ledger.move(entry, GONE)

    def _cancel_ended(
        self, entry: Entry[C], reason: CloseReason | None, is_reusable: bool
    ) -> None:
        """The request of a CLOSING entry has ended at the server. Never switches.

        :param reason: why it was to be closed; None: the listeners were told.
        """
        if is_reusable and self.close_reason_of(entry) is None:
            self.cancellations.saved += 1
            entry.used = entry.alive = self.ledger.clock()
            self.ledger.move(entry, RESETTING)
            self._resetters.put(entry)
            return
        with self.listeners.held():
            self._let_go_of(entry)
            if reason is not None:
                self.listeners.notify("closed", entry.conn, reason)
            self._replace()

    def _replace(self) -> None:
        """Have a free place used, by a waiter or for *min_connections*."""
        self.serve(fill=True)

    def close_entry(self, entry: Entry[C], reason: CloseReason) -> None:
        """Take leave politely, in a greenlet of ours; until then the place is taken."""
        self.end_loan(entry)
        self._leave_queue(entry, CLOSING)
        self._closers.put(entry)
        if not self.listeners.is_deaf:
            self.listeners.notify("closed", entry.conn, reason)

    def _leave_queue(self, entry: Entry[C], state: Any) -> None:
        if self.watch is not None:
            self.watch.forget(entry)
        if entry.state is IDLE:
            self.ledger.withdraw(entry, state)
        else:
            self.ledger.move(entry, state)

    def _close_one(self, entry: Entry[C]) -> None:
        """In a greenlet of the pool. *May switch.*"""
        try:
            within(self.timeouts.close, "closing", self.connector.close, entry.conn)
        except Exception as error:
            log.debug("%r was not closed cleanly: %r", entry.conn, error)
            log_failure(self.connector.terminate, entry.conn)
        except BaseException:
            # Killed: whatever kills the pool's own greenlets wants no goodbye.
            log_failure(self.connector.terminate, entry.conn)
            raise
        finally:
            if entry.state is not GONE:
                self.ledger.move(entry, GONE)
                self._replace()

    # Opening.

    def serve(self, unless_checking: bool = True, fill: bool = False) -> None:
        """Check and open what is needed. Never switches.

        Called when a place is free, and when there is one more waiter.

        :param bool unless_checking: as for :meth:`Opener.serve`; so is *fill*.
        """
        if self.ledger.closed:
            self.changed.set()
        self._check_for_line()
        self.opener.serve(unless_checking, fill)

    def _check_for_line(self) -> None:
        """Have an idle connection checked for each waiter. Never switches."""
        ledger = self.ledger
        while ledger.idle_queue.qsize() and len(ledger.checking) < len(ledger.waiters):
            now = self.ledger.clock()
            entry = self.take_ready(now, len(ledger.waiters))
            if entry is None:
                return
            ledger.assign(entry, now)

    def _dial(self, entry: Entry[C]) -> BaseException | None:
        """Open the connection of *entry*, in a greenlet of the pool. May switch.

        :return: why it could not be opened; None: it is open, or not needed any more.
        """
        if entry not in self.ledger.opening:
            return None
        self.ensure_reaper()
        # In no local variable: the traceback of an error keeps this frame alive, and
        # the error the frames of its borrower.
        return self._conclude(entry, self._try_to_open(entry))

    def _try_to_open(self, entry: Entry[C]) -> Dialled[C]:
        try:
            return self.opener.dial(entry)
        except BaseException:
            # The place is free.
            self.serve()
            raise

    def _conclude(self, entry: Entry[C], dialled: Dialled[C]) -> BaseException | None:
        """Assign the opened connection, or refuse its waiter. Never switches."""
        if entry.state is not GONE:
            with self.listeners.held():
                self.opener.register(entry, dialled)
                if dialled.error is None:
                    self._start(entry)
                self.serve(fill=dialled.error is None)
        return dialled.error

    def _start(self, entry: Entry[C]) -> None:
        """Assign a connection that was just opened."""
        now = self.ledger.clock()
        entry.expires = self.expiry.expires(now)
        entry.used = entry.alive = now
        self._ensure_watching()
        # No probe: a server that accepts and hangs up would be dialled endlessly. The
        # borrower gets the error.
        self.assign(entry, probe=False)

    def drain(self) -> None:
        """Renew all: perhaps because the server is to be had otherwise now."""
        self.evict_all(CloseReason.DRAINED)
        self.opener.resume()

    # Checking and cleaning.

    def _check(self, entry: Entry[C]) -> None:
        """Ping an idle connection, in a greenlet of the pool. *May switch.*"""
        passed = False
        try:
            within(self.timeouts.ping, "a ping", self.connector.ping, entry.conn)
            passed = True
        except Exception as error:
            log.debug("%r did not answer a ping: %r", entry.conn, error)
            if not entry.suspect:
                # It was a matter of routine: now the others have to be asked as well.
                self.revalidate_after(error)
        finally:
            if entry.state is CHECKING:
                if passed:
                    self._passed_check(entry)
                else:
                    self.terminate(entry, CloseReason.PING_FAILED)
                    # Others of its age may be as dead: do not let the first in line
                    # wait for check after check.
                    self.serve(unless_checking=False)

    def _passed_check(self, entry: Entry[C]) -> None:
        entry.alive = self.ledger.clock()
        entry.suspect = False
        # assign() computes this anew if there are age limits.
        entry.ready_until = entry.expires
        self.assign(entry)
        if entry.state is IDLE:
            # Who asked for it has gone. Else with ping_after=0 one who asks again and
            # again, and never waits, would never be served.
            fresh = min(entry.alive + FRESH, entry.expires)
            entry.ready_until = max(entry.ready_until, fresh)

    def _reset(self, entry: Entry[C]) -> None:
        """Clean up after a loan, in a greenlet of the pool. *May switch.*"""
        passed = False
        timer = gevent.get_hub().loop.timer(PROMPT, ref=False)
        timer.start(self._reset_lags, entry)
        try:
            within(self.timeouts.reset, "a reset", self.connector.reset, entry.conn)
            passed = True
        except Exception as error:
            log.debug("%r could not be reset: %r", entry.conn, error)
        finally:
            timer.close()
            self.ledger.lagging.discard(entry)
            if entry.state is RESETTING:
                if passed:
                    self.assign(entry)
                else:
                    self.terminate(entry, CloseReason.RESET_FAILED)

    def _reset_lags(self, entry: Entry[C]) -> None:
        """A reset takes long: who waits for it gets a new connection. In the hub."""
        self.ledger.lagging.add(entry)
        self.serve()

    # Looking after the idle ones.

    def drop_expired(self) -> None:
        """Close the idle connections that have expired or died. Never switches."""
        now = self.ledger.clock()
        with self.listeners.held():
            for entry in self.ledger.all_in(IDLE):
                self._look_at(entry, now)

    def _look_at(self, entry: Entry[C], now: float) -> bool:
        """Close an idle entry if it must go; True: it stays."""
        reason = self.expiry_reason(entry, now)
        if reason is not None:
            self.close_entry(entry, reason)
        elif not self._passes(entry):
            self._replace()
        return entry.state is IDLE

    def _ensure_watching(self) -> None:
        """See to it that whoever hangs up is heard, if that is possible."""
        if self._can_watch and not self.ledger.closed:
            if self.watch is None:
                loop = gevent.get_hub().loop
                self.watch = HangupWatcher(
                    loop, self._watchable, self._hangup_checkers.put
                )
            self.watch.schedule()

    def _watchable(self) -> Iterator[tuple[Entry[C], int | None]]:
        """Who is not yet watched; with his descriptor, if he is idle."""
        for entry in [*self.ledger.entries.values()]:
            if self.watch is None or entry in self.watch.watchers:
                continue
            if entry.state is not IDLE:
                yield entry, None
            elif (descriptor := self._descriptor(entry.conn)) >= 0:
                yield entry, descriptor

    def _descriptor(self, conn: C) -> int:
        try:
            return self.connector.fileno(conn)
        except Exception:
            log.exception("fileno failed: %r is not watched", conn)
            return -1

    def _hung_up(self, entry: Entry[C]) -> None:
        """An idle connection has something to read, in a greenlet of the pool."""
        if entry.state is IDLE and not self._passes(entry):
            self._replace()

    def ensure_reaper(self) -> None:
        """See to it that a reaper is at work, if one is needed."""
        if self.ledger.closed or (self.reaper is not None and self.reaper.is_alive):
            return
        pings = self.expiry.ping_interval is not None
        if self.reaps or self.ledger.min_connections or pings:
            self.reaper = Reaper(self, Lifecycle.sweep, self.reap_interval)
            self.opener.serve(retry=True)

    def sweep(self) -> None:
        """What the reaper does each time. *May switch.*"""
        self._on_sweep()
        began = self.ledger.clock()
        interval = self.expiry.ping_interval
        for entry in self.ledger.all_in(IDLE):
            now = self.ledger.clock()
            stays = not self.reaps or self._look_at(entry, now)
            if stays and interval is not None and now - entry.alive >= interval:
                self.ledger.withdraw(entry, CHECKING)
                self._checkers.put(entry)
            if now - began > SLICE:
                # Not sleep(0): that only turns the callbacks over, and lets no event
                # of a socket in.
                gevent.sleep(SLICE / 4, ref=False)
                began = self.ledger.clock()
        self.opener.serve(retry=True)

    # Changing them all.

    def evict_all(self, reason: CloseReason) -> None:
        """Part with all: the idle ones now, the others when they come back."""
        ledger = self.ledger
        with self.listeners.held():
            while (entry := ledger.take_idle()) is not None:
                self.close_entry(entry, reason)
            for entry in (*ledger.entries.values(), *ledger.opening):
                # Those that are CLOSING too: such as are cancelled might be kept.
                entry.close_reason = reason

    def revalidate_after(self, error: BaseException | None) -> None:
        """Suspect the idle ones if *error* may have hit them too. Never switches."""
        if judge(self.connector, error) is ErrorAction.DISCONNECT:
            self.revalidate()

    def revalidate(self) -> None:
        """Have each idle one pinged before it is lent, or renewed. Never switches.

        Not renewed at once, all of them: a single connection that was killed by hand
        would cost as many dials as there are idle ones. A ping is a round trip.
        """
        with self.listeners.held():
            for entry in self.ledger.all_in(IDLE):
                if entry.suspect:
                    continue
                if asked(self.connector, "can_ping", entry.conn, otherwise=False):
                    entry.suspect = True
                    entry.ready_until = -FOREVER
                else:
                    self.close_entry(entry, CloseReason.SUSPECT)

    def resize(self, max_connections: int) -> None:
        """More or fewer places. Never switches."""
        ledger = self.ledger
        ledger.max_connections = max_connections
        with self.listeners.held():
            for entry in ledger.all_in(IDLE):
                if not self._has_surplus():
                    break
                self.close_entry(entry, CloseReason.SURPLUS)
            if self._has_surplus():
                # Those that come back first are closed; see close_reason_of().
                for entry in (*ledger.entries.values(), *ledger.opening):
                    if entry.close_reason is None:
                        entry.close_reason = CloseReason.SURPLUS
            self.serve()

    def _has_surplus(self) -> bool:
        ledger = self.ledger
        most = ledger.max_connections
        if self.leases is not None:
            most = min(most, self.leases.most)
        return ledger.size - len(ledger.closing) > most

    def lacking(self) -> int:
        """How many more connections would be opened now if there were places."""
        return self.opener.lacking()

    def close(self) -> None:
        """Open nothing any more, and part with all. Never switches."""
        self.ledger.closed = True
        if self.reaper is not None:
            self.reaper.stop()
        self.opener.close()
        if self.watch is not None:
            self.watch.stop()
        self.evict_all(CloseReason.POOL_CLOSED)

    def cut_off(self, entries: Iterable[Entry[C]]) -> None:
        """Let go of these at once, whoever has them. Never switches."""
        self.workers.kill_all()
        for entry in entries:
            before = entry.state
            self.note_early_end(entry)
            self.end_loan(entry)
            if before is OPENING:
                self.ledger.move(entry, GONE)
                continue
            if before is not CLOSING:
                self._leave_queue(entry, CLOSING)
                self.listeners.notify("closed", entry.conn, CloseReason.POOL_CLOSED)
            done = log_failure(self.connector.terminate, entry.conn) is not False
            if done or before is CLOSING:
                self.ledger.move(entry, GONE)
            else:
                self._closers.put(entry)
        # Others may be closing it too, and wait.
        self.changed.set()

    def forget(self) -> None:
        """In a child after a fork: everything here is the parent's.

        A copied greenlet of the parent runs on in the child. So the copied
        descriptors are closed, which the parent does not notice, and the greenlets
        are told to end. Likewise if the loop was destroyed, which takes no calls.
        """
        ledger = self.ledger
        with suppress(AttributeError, ValueError):
            self.workers.kill_all()
        with suppress(AttributeError, ValueError):
            self.opener.close()
        with suppress(AttributeError, ValueError):
            if self.reaper is not None:
                self.reaper.stop()
        with suppress(AttributeError, ValueError):
            if self.watch is not None:
                self.watch.stop()
        for entry in (*ledger.entries.values(), *ledger.opening):
            self.end_loan(entry)
            if entry.state is not OPENING:
                log_failure(self.connector.terminate, entry.conn)
            entry.state = GONE
        if self.leases is not None:
            self.leases.forget()

    def terminate_all(self) -> None:
        """In a finaliser: the idle connections go, without a word."""
        self.ledger.closed = True
        if self.watch is not None:
            self.watch.stop()
        for entry in (*self.ledger.entries.values(), *self.ledger.opening):
            if entry.state is IDLE:
                log_failure(self.connector.terminate, entry.conn)
                if self.leases is not None:
                    self.leases.give_back_soon()
            else:
                # What a greenlet of ours has at this moment must not become idle.
                entry.close_reason = CloseReason.POOL_CLOSED
                if self.leases is not None and entry.state is IN_USE:
                    self.leases.leave_to(entry.conn)

    # Where the handling of a connection must not happen at once, or did not end.

    def discard_soon(self, entry: Entry[C], reason: CloseReason) -> None:
        """Drop the descriptor in a turn of the loop of its own. Never switches.

        For a connection that another greenlet may be using. The caller may be a
        finaliser that runs while that greenlet is about to start a watcher for the
        descriptor; if the descriptor is closed by then, libev ends the process. The
        place is taken until the descriptor is closed.
        """
        self.note_early_end(entry)
        self.end_loan(entry)
        self._leave_queue(entry, CLOSING)
        gevent.get_hub().loop.run_callback(self._terminate, entry)
        self._condemned.add(entry)
        self.listeners.notify("closed", entry.conn, reason)

    def _terminate(self, entry: Entry[C]) -> None:
        """Close the descriptor of an entry that is CLOSING; then its place is free."""
        self._condemned.discard(entry)
        if entry.state is CLOSING:
            if not self.cancellations.begin(entry, None):
                self._let_go_of(entry)
            self._replace()

    def recover(self) -> None:
        """Let go of the entries that nothing has. Never switches.

        An exception struck the pool's own code: a RecursionError, a MemoryError, or
        one that a signal handler raised. It is unknown how far the handling came, so
        the connection is not lent again.
        """
        if self.ledger.is_torn:
            self.listeners.let_out()
            for entry in self._ownerless():
                if entry.state is CLOSING:
                    self._terminate(entry)
                else:
                    if entry.state is IDLE:
                        self.ledger.move(entry, IN_USE)
                    self.terminate(entry, CloseReason.INTERRUPTED)
            self.ledger.is_torn = False
            self._replace()

    def _ownerless(self) -> list[Entry[C]]:
        ledger = self.ledger
        owned = {
            IDLE: ledger.queued(),
            CHECKING: self._checkers.items(),
            RESETTING: self._resetters.items(),
            CLOSING: self._closers.items()
            | self._condemned
            | self.cancellations.entries(),
        }
        return [
            entry
            for entry in ledger.entries.values()
            if (
                entry.holder is None and entry.waiter is None
                if entry.state is IN_USE
                else entry not in owned[entry.state]
            )
        ]

    def attend(self) -> bool:
        """Recover what was interrupted; return whether anybody waits."""
        self.recover()
        return bool(self.ledger.waiters)
