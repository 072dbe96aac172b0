"""The connections of a pool, and the greenlets that work on them.

This file puts the parts together and opens connections. ``readiness.py`` looks at idle
connections, ``returning.py`` takes used ones back, ``checking.py`` pings and resets,
``closing.py`` closes, ``housekeeping.py`` sweeps, ``recovery.py`` finds lost entries,
``teardown.py`` gives up all. Nothing here waits for a connection.

Whatever may switch is done by greenlets of the pool. So a kill or a ``gevent.Timeout``
can interrupt only the greenlet that it is meant for. When a place becomes free, for
whatever reason, :meth:`Lifecycle.serve` is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from gevent import get_hub
from gevent.queue import LifoQueue, Queue

from geventpool._core.breaker import Breaker
from geventpool._core.checking import Checks
from geventpool._core.closing import Closer
from geventpool._core.demand import CHECKERS, RESETTERS
from geventpool._core.housekeeping import Housekeeping
from geventpool._core.leases import Leases
from geventpool._core.ledger import Entry, Ledger, anyone
from geventpool._core.opener import Dialled, Opener
from geventpool._core.readiness import Readiness
from geventpool._core.recovery import Recovery
from geventpool._core.returning import Returns
from geventpool._core.seat_client import SeatClient
from geventpool._core.states import GONE, IDLE, IN_USE, OPENING, CloseReason
from geventpool._core.teardown import Teardown
from geventpool._core.workers import WorkerGroup, WorkQueue, log_failure
from geventpool.connector import Connector
from geventpool.listeners import Listeners
from geventpool.options import PoolOptions

__all__ = ["Lifecycle"]

C = TypeVar("C")


class Lifecycle(Generic[C]):
    """The connections of one pool, and the greenlets that work on them.

    :param options: the options of the pool.
    :param max_connections: the limit, which the budget may have lowered.
    :param on_sweep: called at each sweep, for other work.
    :param name: the pool's, for the other processes of the budget.
    """

    def __init__(
        self,
        connector: Connector[C],
        listeners: Listeners,
        options: PoolOptions,
        *,
        max_connections: int,
        on_sweep: Callable[[], object],
        name: str,
    ) -> None:
        self.connector = connector
        self.listeners = listeners
        self.expiry = options.expiry
        self.timeouts = options.timeouts
        #: whether the connector makes connections without switching
        kind = type(connector)
        self.opens_at_once = kind.open_at_once is not Connector.open_at_once
        queue: Queue[Entry[C]] = LifoQueue() if options.lifo else Queue()
        self.ledger: Ledger[C] = Ledger(queue, max_connections, options.lifo)
        self.ledger.min_connections = options.min_connections
        self.workers = WorkerGroup()
        #: the leases of the places; None: there is no budget
        self.leases: Leases | None = None
        if options.shared_budget is not None:
            self.leases = Leases(options.shared_budget, name, self.ledger)
        self._make_parts(options, on_sweep)
        self._bind()

    def _make_parts(self, options: PoolOptions, on_sweep: Callable[[], object]) -> None:
        workers = self.workers
        checks: WorkQueue[Entry[C]] = WorkQueue(workers, CHECKERS, self._check)
        resets: WorkQueue[Entry[C]] = WorkQueue(workers, RESETTERS, self._reset)
        self._make_closer_and_opener(options, resets)
        self._make_parts_of_a_loan(options, checks, resets)
        self._make_upkeep(options, checks, resets, on_sweep)

    def _make_closer_and_opener(
        self, options: PoolOptions, resets: WorkQueue[Entry[C]]
    ) -> None:
        self.closer = Closer(
            self.ledger,
            self.connector,
            self.listeners,
            self.workers,
            options.timeouts.close,
            resets,
            self.fill,
        )
        self.opener = Opener(
            self.ledger,
            self.connector,
            self.listeners,
            self.workers,
            Breaker(options.outage, options.max_connecting),
            options.backoff,
            options.timeouts.open,
            self.leases,
            work=self._open,
            on_change=self.serve,
        )
        if self.leases is not None:
            self.leases.client = SeatClient(
                self.ledger, self.leases, self.closer, self.opener, self.serve
            )

    def _make_parts_of_a_loan(
        self,
        options: PoolOptions,
        checks: WorkQueue[Entry[C]],
        resets: WorkQueue[Entry[C]],
    ) -> None:
        """What begins a loan, what ends it, and what checks a connection after it."""
        ledger, connector, listeners = self.ledger, self.connector, self.listeners
        self.readiness = Readiness(
            ledger,
            connector,
            self.closer,
            self.expiry,
            checks,
            resets,
            self._open_minimum,
        )
        self.returns = Returns(
            ledger,
            connector,
            listeners,
            self.closer,
            self.readiness,
            self.expiry,
            resets,
            self.fill,
        )
        self.checks = Checks(
            ledger,
            connector,
            listeners,
            options.timeouts,
            self.closer,
            self.returns,
            self.serve,
        )

    def _make_upkeep(
        self,
        options: PoolOptions,
        checks: WorkQueue[Entry[C]],
        resets: WorkQueue[Entry[C]],
        on_sweep: Callable[[], object],
    ) -> None:
        """What sweeps, what finds lost entries, and what gives up all."""
        ledger, connector, listeners = self.ledger, self.connector, self.listeners
        self.housekeeping = Housekeeping(
            ledger,
            connector,
            listeners,
            self.workers,
            self.closer,
            self.readiness,
            self.opener,
            options,
            checks,
            on_sweep,
            self.fill,
        )
        self.recovery = Recovery(
            ledger, listeners, self.closer, checks, resets, self.fill
        )
        self.teardown = Teardown(
            ledger,
            connector,
            listeners,
            self.workers,
            self.closer,
            self.opener,
            self.housekeeping,
            self.leases,
        )

    def _bind(self) -> None:
        """Bind what each loan calls: one look-up less than by way of the part."""
        self.take_ready = self.readiness.take
        self.assign = self.returns.assign
        self.end_loan_normally = self.returns.end_loan_normally
        self.terminate = self.closer.terminate
        self.recover = self.recovery.recover
        self.workers.on_failure = self.recovery.repair

    @property
    def is_unobserved(self) -> bool:
        """Whether nothing has to be notified of loans."""
        return self.returns.is_unobserved

    def observe(self) -> None:
        """Notify the listeners of loans too: there are some now. Never switches."""
        self.returns.is_unobserved = self.returns.is_trivial = False

    def _check(self, entry: Entry[C]) -> None:
        self.checks.check(entry)

    def _reset(self, entry: Entry[C]) -> None:
        self.checks.reset(entry)

    # Serving waiters

    def serve(self, unless_checking: bool = True, fill: bool = False) -> None:
        """Check and open what is needed. Never switches.

        Called when a place is free, and when there is one more waiter.

        :param bool unless_checking: as for :meth:`Opener.serve`; so is *fill*.
        """
        if self.ledger.closed:
            self.teardown.changed.set()
        self._check_for_line()
        self.opener.serve(unless_checking, fill)

    def fill(self) -> None:
        """Have a free place used, by a waiter or for *min_connections*."""
        self.serve(fill=True)

    def _open_minimum(self) -> None:
        self.opener.serve(fill=True)

    def _check_for_line(self) -> None:
        """Have an idle connection checked for each waiter. Never switches."""
        ledger = self.ledger
        while ledger.idle_queue.qsize() and len(ledger.checking) < len(ledger.waiters):
            now = ledger.clock()
            entry = self.take_ready(now, len(ledger.waiters))
            if entry is None:
                return
            ledger.assign(entry, now)

    # Opening in a greenlet of the pool

    def _open(self, entry: Entry[C]) -> BaseException | None:
        """Open the connection of *entry*, in a greenlet of the pool. May switch.

        :return: why it could not be opened; None: it is open, or not needed any more.
        """
        if entry not in self.ledger.opening:
            return None
        self.housekeeping.ensure_reaper()
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
        """Assign the opened connection, or fail its waiter. Never switches."""
        try:
            if entry.state is not GONE:
                with self.listeners.held():
                    self.opener.register(entry, dialled)
                    if dialled.error is None:
                        self._start(entry)
                    self.serve(fill=dialled.error is None)
        except BaseException:
            # It may be a MemoryError, so as little as possible is called.
            self.ledger.is_torn = True
            get_hub().loop.run_callback(self._abandon, entry, dialled.conn)
            raise
        return dialled.error

    def _abandon(self, entry: Entry[C], conn: C | None) -> None:
        """Give up an opened connection that an exception kept from being assigned.

        Its waiter gets another one. Never switches.
        """
        if entry.state is OPENING:
            self.ledger.settle(entry)
            self.ledger.move(entry, GONE)
            if conn is not None:
                log_failure(self.connector.terminate, conn)
        self.recover()

    def _start(self, entry: Entry[C]) -> None:
        """Assign a connection that was just opened."""
        now = self.ledger.clock()
        entry.expires = self.expiry.expires(now)
        entry.used = entry.alive = now
        self.housekeeping.ensure_watching()
        # No probe: a server that accepts and closes would be connected to endlessly.
        # The borrower gets the error.
        self.assign(entry, probe=False)

    # Connections that are there at once

    def open_at_once(self) -> Entry[C] | None:
        """Return an entry, in use, of a connection that the connector makes at once.

        Never switches.

        :return: None: the connector makes none, there is no room, or others wait.
        """
        if self.ledger.waiters or not self._has_place(None):
            return None
        conn = None
        try:
            conn = self.connector.open_at_once()
        finally:
            if conn is None and self.leases is not None:
                self.ledger.unreturned += 1
                self.leases.settle()
        return None if conn is None else self._add(conn)

    def admit(self, conn: C) -> Entry[C] | None:
        """Return an entry, in use, of a connection that is already open.

        Never switches.

        :return: None: there is no room for it.
        """
        if self.ledger.closed or not self._has_place(conn):
            return None
        return self._add(conn)

    def _has_place(self, conn: C | None) -> bool:
        """Lease a place, if there is room for it.

        :param conn: the connection that may still have one; None: a new one.
        """
        if not self.ledger.has_room:
            return False
        if self.leases is None:
            return True
        if conn is None:
            return self.leases.lease(wish=False)
        return self.leases.lease_for(conn)

    def _add(self, conn: C) -> Entry[C]:
        """Add a connection that is open, as an entry in use.

        It is no longer in use if a listener has closed the pool.
        """
        entry: Entry[C] = Entry()
        try:
            self.housekeeping.ensure_reaper()
            self.ledger.reserve(entry)
            self.ledger.opened(entry, conn)
            now = self.ledger.clock()
            entry.expires = self.expiry.expires(now)
            entry.used = entry.alive = entry.since = now
            self.ledger.move(entry, IN_USE)
        except BaseException:
            # As in _conclude().
            self.ledger.is_torn = True
            get_hub().loop.run_callback(self._abandon_added, entry, conn)
            raise
        if not self.listeners.is_deaf:
            # Without a holder it would be taken for lost if the listener switches.
            entry.holder = anyone
            try:
                self.listeners.notify("opened", conn, 0.0)
            except BaseException:
                # A listener was interrupted: the borrower will never know of it.
                self.terminate(entry, CloseReason.DROPPED)
                raise
            entry.holder = None
        return entry

    def _abandon_added(self, entry: Entry[C], conn: C) -> None:
        if hasattr(entry, "conn"):
            self._abandon(entry, conn)
            return
        self.ledger.opening.pop(entry, None)
        log_failure(self.connector.terminate, conn)
        if self.leases is not None:
            # The ledger gives back only the lease of a connection that it has.
            self.ledger.unreturned += 1
            self.leases.settle()
        self.recover()

    # All connections

    def drain(self) -> None:
        """Renew all connections, because the server may have moved. Never switches."""
        self.teardown.evict_all(CloseReason.DRAINED)
        self.opener.resume()

    def resize(self, max_connections: int) -> None:
        """Change the number of places. Never switches."""
        ledger = self.ledger
        ledger.max_connections = max_connections
        with self.listeners.held():
            for entry in ledger.all_in(IDLE):
                if not ledger.has_surplus:
                    break
                self.closer.close(entry, CloseReason.SURPLUS)
            if ledger.has_surplus:
                # Those that come back first are closed; see close_reason_of().
                for entry in (*ledger.entries.values(), *ledger.opening):
                    if entry.close_reason is None:
                        entry.close_reason = CloseReason.SURPLUS
            self.serve()

    def forget_all(self) -> None:
        """Close the idle connections, and forget those on loan. May switch.

        Waiters are served. No minimum is kept any more.
        """
        self.ledger.min_connections = 0
        try:
            self.teardown.close_idle()
            self.teardown.forget_lent()
            self.serve()
        except BaseException:
            # As in _conclude().
            self.ledger.is_torn = True
            get_hub().loop.run_callback(self.recover)
            raise
