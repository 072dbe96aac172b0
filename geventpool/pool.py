"""The pool: who gets a connection, and when one is opened, checked, cleaned and closed.

The only module that waits. ``ledger.py`` says what is; ``lifecycle.py`` opens, checks,
cleans and closes; this lends and takes back. Two thoughts carry it:

* The borrower's wait is the single switch point of :meth:`Pool.acquire`; whatever else
  may switch is done by greenlets that the stock owns. So a kill or a
  ``gevent.Timeout`` can only hit what it was aimed at.
* A connection that comes back goes straight to whoever has waited longest. A gevent
  queue only *schedules* the wake-up of a waiter, and lets every running greenlet
  overtake him until then.

A method without *May switch* in its description is atomic under gevent; so there is no
lock.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from operator import attrgetter
from queue import Empty
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import ref

import gevent
from gevent import get_hub, getcurrent
from gevent._hub_local import get_hub_if_exists
from greenlet import greenlet

from geventpool import sockets
from geventpool._core.as_connector import as_connector
from geventpool._core.context import NO_HOLDER, ConnectionContext
from geventpool._core.deadlocks import waiting
from geventpool._core.failures import Failure, describe
from geventpool._core.holders import Holder, Holders
from geventpool._core.home import Home, thread_of
from geventpool._core.ledger import (
    IDLE,
    IN_USE,
    CloseReason,
    Entry,
    State,
    anyone,
)
from geventpool._core.lifecycle import Lifecycle
from geventpool._core.line import Line
from geventpool._core.loan_watch import LoanWatch, weak_call
from geventpool._core.measures import Measures, is_default, keep
from geventpool._core.reports import Loan, loans, name_of, summary
from geventpool.admission import Admission, AdmissionControl
from geventpool.connector import Connector, ErrorAction, judge
from geventpool.errors import (
    ConnectionNotFoundError,
    PoolClosedError,
)
from geventpool.labels import Labels, check_label, find_labels, labels_of
from geventpool.listeners import Listeners, PoolStats
from geventpool.options import MoreKeywords, PoolOptions, documented
from geventpool.policies import (
    check_int,
    check_optional_seconds,
    check_seconds,
    safe_repr,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ConnectionContext", "Pool", "pools"]

C = TypeVar("C")

log = logging.getLogger("geventpool")

_numbers = itertools.count(1)
_pools: weakref.WeakSet[Pool[Any]] = weakref.WeakSet()
_name = attrgetter("name")


class Pool(Generic[C]):
    """A pool of connections for the greenlets of one event loop.

    :param factory: a :class:`~geventpool.Connector`; or any callable:
        ``factory(**options)`` gives an object with ``open``, ``close``,
        ``is_connected`` and ``is_expired``, such as a :class:`~geventpool.Connection`.
    :param options: keyword arguments for *factory*; None: none.
    :param int initial_connections: opened before the constructor returns, which then
        *may switch* and raises what opening raised. Default 0.
    :param int max_connections: the server never sees more sockets of this pool, those
        being opened and closed included. At least 1; default 200.
    :param bool reap_expired_connections: close expired, too long idle and dead idle
        connections in the background. They are never lent in either case.
    :param float reap_interval: seconds between two looks at the idle connections.
    :param str name: for messages; default ``pool-1``, ``pool-2``...
    :param int min_connections: kept open in the background; 0: none.
    :param timeout: seconds an acquirer waits at most, for everything together; None:
        without end. 0: do not wait. Default 30.
    :param max_waiting: so many may wait; one more gets
        :exc:`~geventpool.TooManyWaitingError`. None: any number.
    :param max_lifetime: seconds from a connection's opening to its replacement, less
        up to 5 % at random; None: no limit. It is never closed while in use.
        Set it below the server's or the network's own limit.
    :param max_idle: seconds unused after which a connection is closed, unless
        *min_connections* would be left; None: no limit.
    :param ping_after: a connection unused for so many seconds is sent a round trip
        before it is lent; None: never; 0: always.
    :param ping_interval: idle connections are sent a round trip every so many seconds;
        this does not make them less idle; None: never.
    :param int max_connecting: so many connections are opened at a time. More than a
        few only help a server that is far away; returned connections serve the line
        meanwhile. Default 4.
    :param bool lifo: lend the most recently used connection first, so that the surplus
        ages. False: the least recently used.
    :param Backoff backoff: the pauses while the *server* refuses because it is full,
        and with *handoff* False while the pool is.
    :param bool handoff: a returned connection goes to the longest waiter. False: they
        poll, as gsocketpool's do.
    :param bool owner_only: a connection taken by :meth:`acquire` is given back by the
        greenlet that holds it and by no other. False: also by a greenlet that has never
        taken one by :meth:`acquire` itself, such as a worker that it was handed to.
    :param bool reclaim: a greenlet that dies with a connection it took by
        :meth:`acquire` loses it: the connection is closed and its place is free.
    :param leak_after: seconds after which a loan is reported once, to the log and to
        listeners, with the line that borrowed and the line of its holder; None: never.
    :param listeners: :class:`~geventpool.PoolListener` objects.
    :param Timeouts timeouts: seconds that opening, pinging, resetting and closing may
        take.
    :param Outage outage: what is done while the server cannot be reached.
    :param budget: a :class:`~geventpool.Budget` that all processes of the host share,
        or ``"NAME:TOTAL"``; then *max_connections* is at most its *total*. None: no
        such limit.
    :param admission: an :class:`~geventpool.Admission`, or True for its defaults:
        callers that cannot be served in time are refused at once, and so are some of
        those that wait without a time limit of their own when too many wait. None,
        False: everybody may wait.
    :raises TypeError: an argument is of the wrong kind.
    :raises ValueError: an argument is out of its range.
    """

    # What each loan touches is found faster here than among forty attributes.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_clock",
        "_closed",
        "_get_idle",
        "_holders",
        "_home",
        "_is_unobserved",
        "_release_is_trivial",
        "_holders_by_id",
        "_last_block_owner",
        "_ledger",
        "_waiters",
        "_probe",
        "_make_idle",
        "_pass_on",
        "_put_back",
        "_last_holder",
        "_lifecycle",
        "_line",
    )

    #: what opens is a connection; False: a place for one
    _lends_connections = True

    @documented(PoolOptions)
    def __init__(
        self,
        factory: Connector[C] | Callable[..., C],
        options: Mapping[str, Any] | None = None,
        initial_connections: int = 0,
        max_connections: int = 200,
        reap_expired_connections: bool = True,
        reap_interval: float = 180,
        **more: Unpack[MoreKeywords],
    ) -> None:
        self._connector = as_connector(factory, options)
        chosen = PoolOptions.of(
            f"{type(self).__name__}()",
            {
                "initial_connections": initial_connections,
                "max_connections": max_connections,
                "reap_expired_connections": reap_expired_connections,
                "reap_interval": reap_interval,
                **more,
            },
        )
        name = chosen.name
        self.name = name if name is not None else f"pool-{next(_numbers)}"
        self._timeout = chosen.timeout
        self._timeouts = chosen.timeouts
        self._reclaim = chosen.reclaim
        self._owner_only = chosen.owner_only
        self._leak_after = chosen.leak_after
        self._listeners = Listeners(chosen.listeners)
        self._make_lifecycle: Callable[..., Lifecycle[C]] = partial(
            Lifecycle,
            self._connector,
            self._listeners,
            chosen.expiry,
            chosen.backoff,
            chosen.timeouts,
            chosen.outage,
            min_connections=chosen.min_connections,
            max_connecting=chosen.max_connecting,
            lifo=chosen.lifo,
            reaps=chosen.reap_expired_connections,
            reap_interval=chosen.sweep_interval,
            budget=chosen.shared_budget,
            name=self.name,
        )

        self._make_line: Callable[..., Line[C]] = partial(
            Line,
            self.name,
            timeout=chosen.timeout,
            max_waiting=chosen.max_waiting,
            backoff=chosen.backoff,
            handoff=chosen.handoff,
        )

        self._budget = chosen.shared_budget
        #: what is measured in this process; None: nothing
        self._measures: Measures | None = Measures() if is_default() else None
        self._admission = chosen.admission
        self._begin(self._within_budget(chosen.max_connections))
        _pools.add(self)
        if chosen.min_connections or chosen.initial_connections:
            self._check_thread()
        if chosen.min_connections:
            self._lifecycle.ensure_reaper()
        if chosen.initial_connections:
            self._prefill(chosen.initial_connections)

    def _begin(
        self,
        max_connections: int,
        clock: Callable[[], float] = time.monotonic,
        closed: bool = False,
    ) -> None:
        """Start with nothing: at construction, and in the child after a fork."""
        self._home = Home()
        self._holders = Holders(self._holder_died, self._reclaim)
        lifecycle = self._lifecycle = self._make_lifecycle(
            max_connections=max_connections, on_sweep=self._holders.sweep
        )
        ledger = self._ledger = lifecycle.ledger
        ledger.closed = closed
        ledger.owner_only = self._owner_only and self._reclaim
        #: refuses callers early; None: nothing does
        self._control: AdmissionControl | None = None
        if isinstance(self._admission, Admission):
            self._control = AdmissionControl(self._admission, self.name, ledger)
            ledger.admission = self._control
        on_change = weak_call(self._choose_path)
        self._watch = LoanWatch(
            self.name, ledger, self._listeners, self._leak_after, on_change
        )
        self._line = self._make_line(lifecycle, self._watch, self._control)

        # What the uncontended loan touches, bound once.
        self._clock = ledger.clock = clock
        self._holders_by_id = self._holders.by_id if lifecycle.is_unobserved else {}
        #: who borrowed or gave back last: most often the one who does next
        self._last_holder: Any = NO_HOLDER
        #: who entered a block last
        self._last_block_owner: Callable[[], greenlet | None] = NO_HOLDER
        self._waiters = ledger.waiters
        self._get_idle: Callable[[], Entry[C]] = ledger.idle_queue.get_nowait
        self._put_back: Callable[[Entry[C]], object] = ledger.idle_queue.put_nowait
        #: the same at the end of a loan, which may be measured
        self._make_idle: Callable[[Entry[C]], object] = self._put_back
        self._pass_on: Callable[[Entry[C]], object] = lifecycle.assign
        self._probe = lifecycle.probe
        self._is_unobserved = lifecycle.is_unobserved
        #: a connection that comes back is only to be noted
        self._release_is_trivial = (
            lifecycle.return_is_trivial and lifecycle.on_loan_end is None
        )
        if self._measures is not None:
            self._begin_measuring()
        self._choose_path()

    def _choose_path(self) -> None:
        """Take the fast path, unless it is to be noted where the next loan begins."""
        is_fast = self._lifecycle.is_unobserved and not self._watch.is_wanted
        self._is_unobserved = is_fast
        self._holders_by_id = self._holders.by_id if is_fast else {}
        self._last_holder = NO_HOLDER

    def _within_budget(self, max_connections: int) -> int:
        """How many places the pool may have at most."""
        if self._budget is None:
            return max_connections
        return min(max_connections, self._budget.total)

    def _prefill(self, number: int) -> None:
        try:
            self._lifecycle.opener.prefill(number)
        except BaseException:
            # Whoever is interrupted while constructing has no pool to close.
            self.close(timeout=0)
            raise

    def _rule(self, clock: Callable[[], float]) -> None:
        """Tell the time by *clock* from now on: seconds, monotonic. For tests."""
        # The copy saves each loan a look at the ledger.
        self._clock = self._ledger.clock = clock
        if self._measures is not None:
            self._make_idle = self._measures.measured(self._put_back, clock)

    # Borrowing.

    def connection(self, timeout: float | None = None) -> ConnectionContext[C]:
        """A connection for the length of a ``with`` block.

        ::

            with pool.connection() as conn:
                conn.send(b"PING")

        Left normally, the block gives the connection back. Left by an exception, the
        connection is closed, unless it is an ordinary :exc:`Exception` of which the
        connector can tell that the protocol is in step. Never is it given back after
        a kill or a :exc:`gevent.Timeout`: the answer to an interrupted request is
        still under way, and would go to the next borrower.

        Entering *may switch*; leaving does not. A block calls neither :meth:`acquire`
        nor :meth:`release`, which a derived class may override: to change what all
        loans do, use listeners or a :class:`~geventpool.Connector`.

        :param timeout: seconds to wait at most; None: the pool's *timeout*.
        :raises PoolError: as :meth:`acquire`, on entering.
        """
        block: ConnectionContext[C] = ConnectionContext()
        block._pool = self
        block._timeout = timeout
        block._entry = None
        return block

    # Without a star, for a call with keyword-only arguments costs CPython 3.11 a
    # twentieth of a loan more; name them all the same.
    def acquire(
        self,
        retry: int | None = None,
        timeout: float | None = None,
        reclaim: bool = True,
    ) -> C:
        """A connection, to be given back by :meth:`release` or :meth:`drop`.

        Prefer :meth:`connection`: a block cannot forget, and knows how it was left.

        *May switch*, at one single point, and only if no idle connection is fit.

        :param retry: wait no longer than so many pauses of the pool's *backoff* last
            together; 0: do not wait. None: as *backoff* says.
        :param timeout: seconds to wait at most, for everything together: the line,
            opening, checking; 0: do not wait, but have a connection opened for the
            next one who asks, if there is room. None: the pool's *timeout*. Whichever
            of *retry* and *timeout* ends first counts.
        :raises PoolExhaustedError: no connection in time.
        :raises TooManyWaitingError: *max_waiting* wait already.
        :raises PoolDeadlockError: every connection is held by a greenlet that waits
            itself, for this pool or in a circle of pools. At once if nobody else can
            give one back, as with ``with`` blocks; else when the time is up.
        :raises PoolClosedError: the pool was closed, before or meanwhile.
        :raises RuntimeError: called from a thread that is not the pool's.
        :raises Exception: whatever the driver raised when a connection was opened for
            this caller, unchanged.
        """
        current = getcurrent()
        # The short way: a whole uncontended loan, written out, for each call would cost
        # a tenth of it. A greenlet that is known is one of this thread.
        holder = self._last_holder
        if holder() is not current:
            holder = self._last_holder = self._holders_by_id.get(id(current), NO_HOLDER)
        if retry is None and timeout is None and reclaim:
            if holder.loan is None and not self._waiters:
                try:
                    entry = self._get_idle()
                except Empty:
                    pass
                else:
                    try:
                        now = self._clock()
                        probe = self._probe
                        if now < entry.ready_until and (
                            probe is None or probe(entry.conn)
                        ):
                            entry.state = IN_USE
                            entry.since = now
                            entry.holder = holder
                            holder.loan = entry
                            return entry.conn
                        self._put_back(entry)
                    except BaseException:
                        self._ledger.is_torn = True
                        get_hub().loop.run_callback(self._lifecycle.recover)
                        raise
        entry = self._borrow(retry, timeout)
        try:
            if holder is NO_HOLDER:
                holder = self._holders.register(current)
            if reclaim:
                entry.holder = holder
                if holder.loan is None:
                    holder.loan = entry
                else:
                    holder.set_loan(entry)
            else:
                entry.holder = ref(current)
        except BaseException:
            entry.holder = None
            self._ledger.is_torn = True
            get_hub().loop.run_callback(self._lifecycle.recover)
            raise
        return entry.conn

    def _borrow(self, retry: int | None, timeout: float | None) -> Entry[C]:
        """An entry that is in use; its holder is still to be noted. *May switch.*"""
        self._check_thread()
        if timeout is not None:
            timeout = check_seconds("timeout", timeout)
        if retry is not None:
            check_int("retry", retry)
        if self._ledger.closed:
            raise PoolClosedError(f"Pool {self.name!r} is closed")
        if self._ledger.is_torn:
            self._lifecycle.recover()
        started = self._clock()
        entry = None if self._waiters else self._line.take_idle(started)
        waited = 0.0
        if entry is None:
            entry = self._wait_for_one(retry, timeout, started)
            if self._is_unobserved and self._measures is None:
                return entry
            waited = self._clock() - started
        if not self._is_unobserved:
            self._tell_acquired(entry, waited)
        if waited and self._measures is not None:
            self._measures.wait.observe(waited)
        return entry

    def _wait_for_one(
        self, retry: int | None, timeout: float | None, started: float
    ) -> Entry[C]:
        """Return an entry when there is one; see :meth:`Line.wait`. May switch."""
        return self._line.wait(retry, timeout, started)

    def _tell_acquired(self, entry: Entry[C], waited: float) -> None:
        # Without a holder the entry would be taken for lost if a listener switches and
        # another greenlet is interrupted meanwhile.
        entry.holder = anyone
        try:
            self._watch.note(entry)
            self._listeners.notify("acquired", entry.conn, waited)
        except BaseException:
            # A listener was interrupted: the borrower will never know of the entry.
            self._ledger.is_torn = True
            get_hub().loop.run_callback(self._lifecycle.recover)
            if entry.state is IN_USE:
                self._lifecycle.assign(entry)
            raise
        if entry.state is not IN_USE:
            raise PoolClosedError(f"Pool {self.name!r} was closed by a listener")
        entry.holder = None

    def _foreign_thread(self) -> RuntimeError:
        return RuntimeError(
            f"Pool {self.name!r} belongs to the event loop of another thread; "
            "give each thread a pool of its own"
        )

    # Giving back.

    def release(self, conn: C, anyone: bool = False) -> None:
        """Give back a connection that is in step and clean.

        Never switches; works in hub callbacks, finalisers and ``finally`` clauses, and
        in any thread. In a thread that is not the pool's the loan ends a little later:
        the event loop of the pool does it, if the loan is still the same then.

        The holder gives back, and for it any greenlet that has never called
        :meth:`acquire` itself, unless the pool's *owner_only* is True. A greenlet that
        borrows gives back only what it holds, because a second release must not end
        the loan of the next borrower; :meth:`transfer` the loan to it first. What was
        borrowed by a ``with`` block is given back by its block or its holder. The hub
        gives back every bare loan, and any greenlet what a dead greenlet held.

        :param conn: what :meth:`acquire` returned.
        :param bool anyone: do not ask who releases; for adapters whose own interface
            has no such rule.
        :raises ConnectionNotFoundError: not on loan, or not the caller's to give back.
            Nothing is changed.
        """
        current = getcurrent()
        holder = self._last_holder
        if holder() is not current:
            holder = self._last_holder = self._holders_by_id.get(id(current), NO_HOLDER)
        entry = holder.loan
        if entry is not None and entry.conn is conn:
            # The short way: what it borrowed last.
            holder.loan = None
            try:
                if not self._release_is_trivial or entry.close_reason is not None:
                    entry.holder = None
                    self._lifecycle.end_loan_normally(entry)
                elif not self._waiters:
                    entry.state = IDLE
                    self._make_idle(entry)
                else:
                    entry.holder = None
                    self._pass_on(entry)
            except BaseException:
                self._ledger.is_torn = True
                get_hub().loop.run_callback(self._lifecycle.recover)
                raise
            return
        if self._home.is_this_thread:
            self._finish_loan(
                self._claim(conn, anyone), self._lifecycle.end_loan_normally
            )
        else:
            self._send_home(
                self._lent_to_other(conn, anyone), self._lifecycle.end_loan_normally
            )

    def drop(self, conn: C, anyone: bool = False) -> None:
        """Part with a connection that is lent to the caller, or idle.

        Never switches; works wherever :meth:`release` does. A lent one is closed
        without a goodbye, because nobody knows what state it is in. The caller's own is
        closed at once. Another greenlet's is closed in a turn of the event loop of its
        own, because the caller may be a finaliser; until then its place is taken.

        :param bool anyone: as for :meth:`release`.
        :raises ConnectionNotFoundError: neither idle nor the caller's to give back.
        """
        entry = self._ledger.entries.get(id(conn))
        if not self._home.is_this_thread:
            if entry is None or entry.conn is not conn or entry.state is not IDLE:
                entry = self._lent_to_other(conn, anyone)
            self._send_home(entry, self._part_with)
            return
        self._check_thread()
        if entry is not None and entry.conn is conn and entry.state is IDLE:
            self._finish_loan(entry, self._lifecycle.close_entry, CloseReason.DROPPED)
        elif self._is_own(conn):
            self._finish_loan(
                self._claim(conn), self._lifecycle.terminate, CloseReason.DROPPED
            )
        else:
            entry = self._claim(conn, anyone)
            self._finish_loan(entry, self._lifecycle.discard_soon, CloseReason.DROPPED)

    def _is_own(self, conn: C) -> bool:
        """Whether *conn* is on loan to the caller."""
        holder = self._on_loan(conn).holder
        return holder is not None and holder() is getcurrent()

    def _finish_loan(
        self, entry: Entry[C], work: Callable[..., object], *args: Any
    ) -> None:
        """Have *work* deal with an entry whose loan has ended, or recover it."""
        try:
            work(entry, *args)
        except BaseException:
            self._ledger.is_torn = True
            get_hub().loop.run_callback(self._lifecycle.recover)
            raise

    def transfer(self, conn: C, greenlet: greenlet | None) -> None:
        """Make another greenlet the holder of a connection lent to the caller.

        From then on it is for *greenlet* to give it back, and its death that ends the
        loan; a ``with`` block that the connection was borrowed in leaves it alone.
        Never switches. In another thread as :meth:`release`.

        :param greenlet: may be one that has not yet started; None: nobody is the
            holder, anybody may give it back, and no death ends the loan.
        :raises ConnectionNotFoundError: not on loan to the caller.
        :raises TypeError: *greenlet* is no greenlet.
        """
        if greenlet is not None and not isinstance(greenlet, _Greenlet):
            raise TypeError(f"greenlet must be a greenlet or None, not {greenlet!r}")
        if not self._home.is_this_thread:
            entry = self._lent_to_other(conn)
            self._send_home(entry, partial(self._hand_to, greenlet))
            return
        if greenlet is not None and thread_of(greenlet) is not thread_of(getcurrent()):
            raise ValueError(
                f"greenlet must be one of the pool's thread, not {greenlet!r}"
            )
        self._check_thread()
        self._on_loan(conn)
        if greenlet is not None:
            # Before the loan is changed, for it may fail.
            self._holders.register(greenlet)
        self._hand_to(greenlet, self._claim(conn))

    def _hand_to(self, greenlet: greenlet | None, entry: Entry[C]) -> None:
        if greenlet is None:
            entry.holder = anyone
        else:
            entry.holder = holder = self._holders.register(greenlet)
            holder.set_loan(entry)

    def _lent_to_other(self, conn: C, anyone: bool = False) -> Entry[C]:
        """The entry of a loan that the caller, no greenlet of this thread, may end."""
        entry = self._on_loan(conn)
        if not anyone:
            self._check_right(entry)
        return entry

    def _send_home(self, entry: Entry[C], work: Callable[..., object]) -> None:
        """Have *work* deal with *entry* in the pool's thread, unless it changes."""
        self._home.call(
            self._arrive, entry, entry.state, entry.holder, entry.since, work
        )

    def _arrive(
        self,
        entry: Entry[C],
        state: State,
        holder: object,
        since: float,
        work: Callable[..., object],
    ) -> None:
        if (entry.state, entry.holder, entry.since) == (state, holder, since):
            if state is IN_USE:
                self._lifecycle.end_loan(entry)
            self._finish_loan(entry, work)

    def _part_with(self, entry: Entry[C]) -> None:
        if entry.state is IDLE:
            self._lifecycle.close_entry(entry, CloseReason.DROPPED)
        else:
            self._lifecycle.terminate(entry, CloseReason.DROPPED)

    def _on_loan(self, conn: C) -> Entry[C]:
        """The entry of a connection that somebody has borrowed."""
        entry = self._ledger.lent(conn)
        if entry.waiter is not None:
            # Its loan has ended: a waiter will have it that has not run yet.
            raise ConnectionNotFoundError(f"given back before: {safe_repr(conn)}")
        return entry

    def _claim(self, conn: C, anyone: bool = False) -> Entry[C]:
        """The entry of a connection on loan, which is no longer its holder's."""
        self._check_thread()
        entry = self._on_loan(conn)
        if not anyone:
            self._check_right(entry)
        self._lifecycle.end_loan(entry)
        return entry

    def _check_right(self, entry: Entry[C]) -> None:
        """See to it that the caller may end the loan of *entry*."""
        holder = None if entry.holder is None else entry.holder()
        current = getcurrent()
        if holder is None or holder is current or holder.dead:
            return
        if not self._may_help(entry, current):
            raise ConnectionNotFoundError(
                f"lent to {name_of(holder)}, not to the caller {name_of(current)}: "
                f"{safe_repr(entry.conn)}; "
                "transfer() hands a loan over"
            )

    def _may_help(self, entry: Entry[C], current: greenlet) -> bool:
        """Whether *current* may give back what another greenlet holds."""
        if entry.block is not None:
            return False
        if current is get_hub_if_exists():
            return True
        # One that borrows itself may be releasing for the second time.
        return not self._owner_only and id(current) not in self._holders.by_id

    def _check_thread(self) -> None:
        """See to it that the calling thread is the pool's, and its hub the same."""
        hub = get_hub_if_exists()
        if hub is None or self._home.hub() is not hub:
            if not self._home.is_this_thread:
                raise self._foreign_thread()
            if self._home.enter():
                self._start_over()

    def _start_over(self) -> None:
        """Begin with nothing: the event loop was destroyed, and all that it served."""
        for waiter in self._waiters:
            waiting.pop(waiter, None)
        self._forked()
        self._home.enter()

    def _after_error(self, entry: Entry[C], error: BaseException) -> None:
        """A block was left by *error*: keep its connection only if it is in step."""
        action = judge(self._connector, error)
        if action is ErrorAction.KEEP:
            self._lifecycle.end_loan_normally(entry)
            return
        if action is ErrorAction.DISCONNECT:
            self._lifecycle.revalidate()
        self._lifecycle.terminate(entry, CloseReason.BORROWER_FAILED)
        if action is ErrorAction.DRAIN:
            self.drain()

    def _holder_died(self, holder: Holder) -> None:
        """In the hub: a greenlet has ended with connections it never gave back."""
        for entry in holder.loans:
            if entry.state is IN_USE and entry.holder is holder:
                self._lifecycle.terminate(entry, CloseReason.HOLDER_DIED)

    # Changing the whole pool.

    def drop_expired(self) -> None:
        """Close the idle connections that have expired or died. Never switches."""
        self._check_thread()
        self._lifecycle.drop_expired()

    def drain(self) -> None:
        """Renew all connections and stay open. Never switches.

        The idle ones are closed now, those in use when they come back, those being
        opened as soon as they are open: they may have been opened with old credentials
        or to an old address. If the pool pauses because its server could not be
        reached, the next who asks tries it at once.
        """
        self._check_thread()
        self._lifecycle.drain()

    def revalidate(self) -> None:
        """Lend no idle connection before it was seen to be alive. Never switches.

        For those who learn otherwise than by an error in a ``with`` block that the
        server, or the way to it, was lost for a while: each idle connection is sent a
        round trip before it is lent next; one that no ping can tell anything about is
        closed now, to be replaced when needed. So a loss costs those an error whose
        requests it broke, and nobody else.
        """
        self._check_thread()
        self._lifecycle.revalidate()

    def report_error(self, error: BaseException | None) -> None:
        """Call :meth:`revalidate` if *error* came of a lost connection. Never switches.

        For code that handles an error which would otherwise leave a ``with`` block of
        this pool: other connections may be lost as well. The connector decides.

        :param error: None: nothing is done.
        """
        # Without _check_thread(): an adapter calls this at the end of a loan, where
        # an error more would hide the first one.
        self._lifecycle.revalidate_after(error)

    def report_unreachable(self, error: Exception) -> None:
        """Note that a borrower could not connect its own connection again.

        For drivers that reconnect by themselves. It counts as a failed attempt to open;
        see :class:`Outage`. Never switches.
        """
        self._lifecycle.opener.report_failure(error)

    def report_reachable(self) -> None:
        """Note that a borrower could connect its own connection again. Never switches.

        It ends an outage as an opened connection does.
        """
        self._lifecycle.opener.report_success()

    def resize(self, max_connections: int) -> None:
        """Change how many connections there may be. Never switches.

        More: those who wait are served at once. Fewer: idle connections are closed
        first, then such as come back.

        :raises TypeError: *max_connections* is no whole number.
        :raises ValueError: it is below 1 or below the pool's *min_connections*.
        """
        check_int(
            "max_connections", max_connections, max(1, self._ledger.min_connections)
        )
        self._check_thread()
        self._lifecycle.resize(self._within_budget(max_connections))

    def close(self, timeout: float | None = None) -> list[Loan]:
        """Close for good: afterwards nothing can be borrowed, and nothing is open.

        The waiters get :exc:`~geventpool.PoolClosedError` at once, with *handoff* False
        when their pause is over. Then it waits
        until every connection is back and closed, but for those that the caller
        itself holds: they are closed when given back. What is left when the time is
        over is closed under its holder.

        *May switch*, unless *timeout* is 0 or the hub calls. Calling it again is fine.

        :param timeout: seconds to wait at most; None: without end.
        :return: the loans that were cut off.
        :raises TypeError: *timeout* is no number.
        :raises ValueError: *timeout* is negative, NaN or infinite.
        """
        timeout = check_optional_seconds("timeout", timeout)
        self._check_thread()
        if not self._ledger.closed:
            self._ledger.closed = True
            for waiter in list(self._waiters.values()):
                error = PoolClosedError(
                    f"Pool {self.name!r} was closed while you waited"
                )
                self._ledger.fail(waiter, error)
            self._lifecycle.close()
        if getcurrent() is not gevent.get_hub():
            self._wait_for_all(timeout)
        return self._cut_off()

    def _wait_for_all(self, timeout: float | None) -> None:
        deadline = None if timeout is None else self._clock() + timeout
        while self._others():
            left = None if deadline is None else deadline - self._clock()
            if left is not None and left <= 0:
                return
            self._lifecycle.changed.clear()
            self._lifecycle.changed.wait(left)

    def _others(self) -> list[Entry[C]]:
        """What is not yet closed and not held by the caller."""
        current = getcurrent()
        ledger = self._ledger
        return [
            entry
            for entry in (*ledger.entries.values(), *ledger.opening)
            if entry.state is not IN_USE
            or entry.holder is None
            or entry.holder() is not current
        ]

    def _cut_off(self) -> list[Loan]:
        left = self._others()
        if not left:
            return []
        lent = [entry for entry in left if entry.state is IN_USE]
        report = loans(lent, self._clock())
        self._lifecycle.cut_off(left)
        return report

    def __enter__(self) -> Pool[C]:
        return self

    def __exit__(self, *error: object) -> None:
        self.close(self._timeout)

    def __reduce__(self) -> str:
        # A copy would have the same sockets, and close them at its end.
        raise TypeError(
            f"{type(self).__name__} {self.name!r} can be neither copied nor pickled: "
            "make a pool where it is needed"
        )

    def __del__(self) -> None:
        """Forgotten by everybody: the idle connections go, without a word.

        A finaliser runs anywhere, so it does nothing that could switch. It is not a
        ``weakref.finalize``, which would keep the ledger and so the connections alive,
        and some drivers' connections know their pool. What is lent stays with its
        borrower.
        """
        lifecycle = getattr(self, "_lifecycle", None)
        if lifecycle is not None:
            if self._home.is_this_thread:
                _let_go(self._holders, lifecycle)
            else:
                # What the loop knows of, no other thread may touch.
                self._home.call(_let_go, self._holders, lifecycle)

    def _forked(self) -> None:
        """In the child: begin with nothing, and leave the parent's sockets alone."""
        self._holders.by_id.clear()
        self._lifecycle.forget()
        ledger = self._ledger
        self._begin(ledger.max_connections, ledger.clock, ledger.closed)

    # Being looked at.

    @property
    def size(self) -> int:
        """How many places are taken: connections, and those being opened."""
        return self._ledger.size

    @property
    def max_connections(self) -> int:
        """How many places there are."""
        return self._ledger.max_connections

    @property
    def closed(self) -> bool:
        """Was :meth:`close` called?"""
        return self._ledger.closed

    def idle_connections(self) -> list[C]:
        """The connections that nobody uses; a copy."""
        return [entry.conn for entry in self._ledger.all_in(IDLE)]

    def lent_connections(self) -> list[C]:
        """The connections on loan; a copy."""
        return [entry.conn for entry in self._ledger.all_in(IN_USE)]

    def loans(self, most: int | None = None) -> list[Loan]:
        """Who holds a connection, since when and doing what; the oldest loan first.

        :param most: describe only so many loans, the oldest; None: all.
        """
        return loans(self._ledger.all_in(IN_USE), self._clock(), most)

    def failure(self) -> Failure | None:
        """The last failure to open a connection; None after a success.

        Never switches.
        """
        failure = self._lifecycle.opener.failure
        if failure is None:
            return None
        now = self._clock()
        since = self._lifecycle.opener.breaker.since
        lasting = None if since is None else now - since
        return Failure(describe(failure[1]), now - failure[0], lasting)

    def label(
        self, name: str | Callable[[], str | None]
    ) -> AbstractContextManager[None]:
        """Count the loans that begin in a ``with`` block by a label.

        ::

            with pool.label("checkout"):
                ...

        The counts are in ``stats().labels``. As a decorator, it labels the loans of a
        function. The first call adds a :class:`~geventpool.Labels` to the listeners,
        unless there is one: from then on each loan takes longer, as with any listener.
        64 labels are told apart; the others are counted together. Never switches.

        :param name: no secret; or a callable that names each loan.
        :raises TypeError: *name* is neither a string nor a callable.
        """
        check_label(name)
        labels = find_labels(self._listeners.listeners)
        if labels is None:
            labels = Labels()
            self._listeners.add(labels)
            self._lifecycle.observe()
            self._release_is_trivial = False
            self._choose_path()
        return labels.label(name)

    def measure(self) -> None:
        """Keep times and counts from now on, for ``stats().measured``. Never switches.

        Each loan takes about a quarter of a microsecond longer then; other pools are
        the same as before. Calling it again changes nothing.
        ``geventpool.otel`` and ``geventpool.prometheus`` call it for all pools.
        """
        if self._measures is None:
            self._begin_measuring()

    @property
    def measures(self) -> Measures | None:
        """The counts kept in this process; None: :meth:`measure` was not called."""
        return self._measures

    def _begin_measuring(self) -> None:
        lifecycle = self._lifecycle
        measures = Measures(
            self._loans_under_way(),
            self._connector.reset_counts(),
            has_connections=self._lends_connections,
        )
        self._measures = self._line.measures = measures
        keep(self, measures)
        self._listeners.set_recorder(measures)
        lifecycle.observe_use = measures.use.observe
        self._make_idle = measures.measured(self._put_back, self._clock)
        self._pass_on = lifecycle.end_loan_normally

    def _loans_under_way(self) -> int:
        """How many connections borrowers have; not those that are handed over."""
        return sum(entry.waiter is None for entry in self._ledger.all_in(IN_USE))

    def stats(self) -> PoolStats:
        """How the pool stands at this moment; does not change any more."""
        ledger, measures = self._ledger, self._measures
        leases = self._lifecycle.leases
        leaks = self._watch.leaks
        measured = None
        if measures is not None:
            lag = self._line.hub_lag.measured()
            resets = self._connector.reset_counts()
            moves = None if leases is None else leases.moves()
            measured = measures.snapshot(self._loans_under_way(), lag, resets, moves)
        return PoolStats(
            name=self.name,
            max_connections=ledger.max_connections,
            size=ledger.size,
            idle=ledger.idle,
            in_use=ledger.in_use,
            opening=len(ledger.opening),
            checking=len(ledger.checking),
            resetting=len(ledger.resetting),
            closing=len(ledger.closing),
            waiting=len(self._line),
            paused=self._lifecycle.opener.breaker.paused,
            budget=None if leases is None else leases.stats(),
            cancelled=self._lifecycle.cancellations.cancelled,
            saved=self._lifecycle.cancellations.saved,
            abandoned=self._lifecycle.cancellations.abandoned,
            totals=self._listeners.totals(),
            min_connections=ledger.min_connections,
            max_idle_connections=ledger.max_connections,
            measured=measured,
            leaks=() if leaks is None else tuple(leaks.report()),
            idle_holds=tuple(self._watch.idle_holds.report()),
            labels=labels_of(self._listeners.listeners),
            in_flight=self._connector.in_flight(),
        )

    def __repr__(self) -> str:
        state = " closed" if self._ledger.closed else ""
        if self._lifecycle.opener.breaker.paused and not state:
            state = " paused"
        return f"<{type(self).__name__} {self.name!r}{state} {summary(self._ledger)}>"


def pools() -> list[Pool[Any]]:
    """The open pools of this process, sorted by name. Never switches."""
    return sorted((pool for pool in _pools if not pool.closed), key=_name)


def _let_go(holders: Holders, lifecycle: Lifecycle[Any]) -> None:
    """Let go of what a pool kept that nobody knows any more. Never switches."""
    # A greenlet that outlives many pools must not collect their links.
    holders.clear()
    lifecycle.terminate_all()


#: A name that a parameter called "greenlet" does not hide.
_Greenlet = greenlet


def _after_fork() -> None:  # pragma: no cover (in the child, where nobody counts)
    # The copies of the parent's greenlets must not be woken by what is closed here.
    with sockets.after_fork():
        waiting.clear()
        for pool in list(_pools):
            pool._forked()


os.register_at_fork(after_in_child=_after_fork)
