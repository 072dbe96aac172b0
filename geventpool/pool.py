"""The pool: lends connections to greenlets, and takes them back.

This file has the public class, the fast paths of a loan, and the choice of the path.
The rest is in ``_core``: ``ledger.py`` holds the state, ``lifecycle.py`` opens, checks,
resets and closes, ``line.py`` waits, ``claims.py`` ends loans. Two rules:

* The wait of the borrower is the only switch point of :meth:`Pool.acquire`. Everything
  else that may switch is done by greenlets of the pool. So a kill or a
  ``gevent.Timeout`` cannot interrupt anything but the greenlet that it is meant for.
* A returned connection goes straight to the longest waiter. A gevent queue would only
  *schedule* that waiter, and any running greenlet could overtake it until it runs.

A method without *May switch* in its description is atomic under gevent. So there is no
lock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from queue import Empty
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import ref

from gevent import get_hub, getcurrent
from gevent._hub_local import get_hub_if_exists
from greenlet import greenlet

from geventpool._core import registry
from geventpool._core.as_connector import as_connector
from geventpool._core.claims import Claims
from geventpool._core.context import NO_HOLDER, ConnectionContext
from geventpool._core.deadlocks import waiting
from geventpool._core.holders import Holder, Holders
from geventpool._core.home import Home
from geventpool._core.ledger import IDLE, IN_USE, CloseReason, Entry, anyone
from geventpool._core.lifecycle import Lifecycle
from geventpool._core.line import Line
from geventpool._core.loan_watch import LoanWatch, weak_call
from geventpool._core.measures import Measures, is_default, keep
from geventpool._core.pool_state import PoolState, loans_under_way
from geventpool._core.reports import Loan
from geventpool._core.shutdown import shut_down
from geventpool.admission import Admission, AdmissionControl
from geventpool.connector import Connector, ErrorAction, judge
from geventpool.errors import PoolClosedError
from geventpool.extension import Extension
from geventpool.labels import LabelBlock, Labels, check_label, find_labels
from geventpool.listeners import Listeners
from geventpool.options import MoreKeywords, PoolOptions, described, documented
from geventpool.policies import check_int, check_optional_seconds, check_seconds

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ConnectionContext", "Pool", "pools"]

C = TypeVar("C")


def pools() -> list[Pool[Any]]:
    """The open pools of this process, sorted by name. Never switches."""
    return registry.open_pools()


@described(PoolOptions)
class Pool(PoolState[C]):
    """A pool of connections for the greenlets of one event loop.

    Each option below has the same name in every adapter; ``docs/reference/options.rst``
    has their rules and defaults.

    :param factory: a :class:`~geventpool.Connector`; or any callable:
        ``factory(**options)`` returns an object with ``open``, ``close``,
        ``is_connected`` and ``is_expired``, such as a :class:`~geventpool.Connection`.
    :param options: keyword arguments for *factory*; None: none.
    :raises TypeError: an argument is of the wrong type.
    :raises ValueError: an argument is out of its range.
    :raises Exception: raised while *initial_connections* were opened. With any of them
        the constructor waits for them, and then *may switch*.
    """

    # A loan finds these faster than among forty attributes.
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
        "_last_releaser",
        "_lifecycle",
        "_line",
    )

    #: what adapters may do with the pool; see :class:`~geventpool.extension.Extension`
    extension: Extension[C]

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
        #: what opens, checks, resets and closes the connections
        self.connector: Connector[C] = as_connector(factory, options)
        chosen = self._options = PoolOptions.of(
            f"{type(self).__name__}()",
            {
                "initial_connections": initial_connections,
                "max_connections": max_connections,
                "reap_expired_connections": reap_expired_connections,
                "reap_interval": reap_interval,
                **more,
            },
        )
        self.name = registry.new_name() if chosen.name is None else chosen.name
        self._listeners = Listeners(chosen.listeners)
        #: what is measured in this process; None: nothing
        self._measures: Measures | None = Measures() if is_default() else None
        self._begin(self._within_budget(chosen.max_connections))
        registry.add(self)
        if chosen.min_connections or chosen.initial_connections:
            self._check_thread()
        if chosen.min_connections:
            self._lifecycle.housekeeping.ensure_reaper()
        if chosen.initial_connections:
            self._prefill(chosen.initial_connections)

    def _begin(
        self,
        max_connections: int,
        clock: Callable[[], float] = time.monotonic,
        closed: bool = False,
    ) -> None:
        """Begin without connections: in the constructor, and in a forked child."""
        chosen = self._options
        self._home = Home()
        self._holders = Holders(self._holder_died, chosen.reclaim)
        lifecycle = self._lifecycle = Lifecycle(
            self.connector,
            self._listeners,
            chosen,
            max_connections=max_connections,
            on_sweep=self._holders.sweep,
            name=self.name,
        )
        ledger = self._ledger = lifecycle.ledger
        ledger.closed = closed
        ledger.owner_only = chosen.owner_only and chosen.reclaim
        #: refuses callers early; None: nothing does
        self._control: AdmissionControl | None = None
        if isinstance(chosen.admission, Admission):
            self._control = AdmissionControl(chosen.admission, self.name, ledger)
            ledger.on_return = self._control.on_return
        on_change = weak_call(self._choose_path)
        self._watch = LoanWatch(
            self.name, ledger, self._listeners, chosen.leak_after, on_change
        )
        self._line: Line[C] = Line(
            self.name,
            lifecycle,
            self._watch,
            self._control,
            timeout=chosen.timeout,
            max_waiting=chosen.max_waiting,
            backoff=chosen.backoff,
            handoff=chosen.handoff,
        )
        self._claims = Claims(lifecycle, self._holders, self._home, chosen.owner_only)
        self.extension = Extension(lifecycle, self._claims, self._home, chosen.timeout)
        self._bind(clock)

    def _bind(self, clock: Callable[[], float]) -> None:
        """Bind what a loan of the fast path touches."""
        lifecycle, ledger = self._lifecycle, self._ledger
        self._clock = ledger.clock = clock
        #: the holder that borrowed last: most often it is the next one too
        self._last_holder: Any = NO_HOLDER
        #: the last greenlet that gave back; not the same attribute, because a release
        #: takes the fast path even if a loan is to be noted where it begins
        self._last_releaser: Any = NO_HOLDER
        #: the greenlet that entered a block last
        self._last_block_owner: Callable[[], greenlet | None] = NO_HOLDER
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
        is_fast = self._lifecycle.is_unobserved and not self._watch.is_wanted
        self._is_unobserved = is_fast
        self._holders_by_id = self._holders.by_id if is_fast else {}
        self._last_holder = NO_HOLDER

    def _within_budget(self, max_connections: int) -> int:
        """Return the number of places that the pool may have at most."""
        budget = self._options.shared_budget
        return max_connections if budget is None else min(max_connections, budget.total)

    def _prefill(self, number: int) -> None:
        try:
            self._lifecycle.opener.prefill(number)
        except BaseException:
            # The caller gets no pool that it could close.
            self.close(timeout=0)
            raise

    def _rule(self, clock: Callable[[], float]) -> None:
        """Use *clock* from now on: it returns seconds, monotonic. For tests."""
        # The copy saves each loan a look at the ledger.
        self._clock = self._ledger.clock = clock
        if self._measures is not None:
            self._make_idle = self._measures.measured(self._put_back, clock)

    # Borrowing

    def connection(self, timeout: float | None = None) -> ConnectionContext[C]:
        """Lend a connection for a ``with`` block.

        ::

            with pool.connection() as conn:
                conn.send(b"PING")

        A block that ends normally gives the connection back. A block that is left by an
        exception closes it, unless the exception is an ordinary :exc:`Exception` and
        the connector says that the protocol is in step. After a kill or a
        :exc:`gevent.Timeout` it is always closed: the answer to the interrupted request
        may still come, and the next borrower would read it.

        Entering *may switch*; leaving never does. A block calls neither :meth:`acquire`
        nor :meth:`release`, which a derived class may override. To change what all
        loans do, use listeners or a :class:`~geventpool.Connector`.

        :param timeout: seconds to wait at most; None: the pool's *timeout*.
        :raises PoolError: as for :meth:`acquire`, on entering.
        """
        block: ConnectionContext[C] = ConnectionContext()
        block.pool = self
        block.timeout = timeout
        block.entry = None
        return block

    # No keyword-only arguments, because they cost CPython 3.11 a twentieth of a loan.
    def acquire(
        self,
        retry: int | None = None,
        timeout: float | None = None,
        reclaim: bool = True,
    ) -> C:
        """Lend a connection, to be given back by :meth:`release` or :meth:`drop`.

        Prefer :meth:`connection`: a block cannot forget its connection, and knows how
        it was left. Pass the arguments by name.

        *May switch*, at one point, and only if no idle connection can be lent.

        :param retry: wait no longer than so many pauses of the pool's *backoff* last
            together; 0: do not wait. None: as *backoff* says.
        :param timeout: seconds to wait at most, for everything together: the line,
            opening, checking. 0: do not wait, but have a connection opened for the next
            caller if there is room. None: the pool's *timeout*. The shorter one of
            *retry* and *timeout* counts.
        :param bool reclaim: False: the end of the calling greenlet does not end the
            loan.
        :raises PoolExhaustedError: no connection in time.
        :raises TooManyWaitingError: *max_waiting* greenlets wait already.
        :raises PoolDeadlockError: every connection is held by a greenlet that waits
            itself, for this pool or in a circle of pools. At once if no other greenlet
            can give one back, as with ``with`` blocks; otherwise when the time is up.
        :raises PoolClosedError: the pool was closed, before or meanwhile.
        :raises RuntimeError: called in a thread that is not the pool's.
        :raises Exception: raised by the driver when a connection was opened for this
            caller, unchanged.
        """
        current = getcurrent()
        # The fast path: an uncontended loan without calls, which would cost a tenth of
        # it each. A greenlet that is known belongs to this thread.
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
        """Return an entry that is in use. The caller notes its holder. May switch."""
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
            entry = self._line.wait(retry, timeout, started)
            if self._is_unobserved and self._measures is None:
                return entry
            waited = self._clock() - started
        if not self._is_unobserved:
            self._notify_acquired(entry, waited)
        if waited and self._measures is not None:
            self._measures.wait.observe(waited)
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
            raise PoolClosedError(f"Pool {self.name!r} was closed by a listener")
        entry.holder = None

    # Giving back

    def release(self, conn: C, anyone: bool = False) -> None:
        """Give back a connection whose protocol is in step.

        Never switches. Works in hub callbacks, finalizers and ``finally`` clauses, and
        in any thread. In a thread that is not the pool's, the event loop of the pool
        ends the loan a little later, if the loan is still the same then.

        The holder gives back. So may a greenlet that has never called :meth:`acquire`
        itself, unless the pool's *owner_only* is True. A greenlet that borrows gives
        back only what it holds, because a second release must not end the loan of the
        next borrower: :meth:`transfer` the loan to it first. A connection that was
        borrowed by a ``with`` block is given back by that block or by its holder. The
        hub gives back any bare loan, and any greenlet what a dead greenlet held.

        :param conn: what :meth:`acquire` returned.
        :param bool anyone: do not ask who releases; for adapters whose own interface
            has no such rule.
        :raises ConnectionNotFoundError: not on loan, or not the caller's to give back.
            Nothing is changed.
        """
        current = getcurrent()
        holder = self._last_releaser
        if holder() is not current:
            known = self._holders.by_id
            holder = self._last_releaser = known.get(id(current), NO_HOLDER)
        entry = holder.loan
        if entry is not None and entry.conn is conn:
            # The fast path: the holder gives back what it borrowed last.
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
        is_here = self._is_here()
        self._claims.release(conn, anyone, is_here)

    def drop(self, conn: C, anyone: bool = False) -> None:
        """Close a connection that is on loan to the caller, or idle.

        Never switches. Works wherever :meth:`release` does. A connection on loan is
        closed without a closing message, because its state is unknown. The caller's own
        is closed at once. That of another greenlet is closed in a turn of the event
        loop of its own, because the caller may be a finalizer; its place is taken until
        then.

        :param bool anyone: as for :meth:`release`.
        :raises ConnectionNotFoundError: neither idle nor the caller's to give back.
        """
        is_here = self._is_here()
        self._claims.drop(conn, anyone, is_here)

    def transfer(self, conn: C, greenlet: greenlet | None) -> None:
        """Make another greenlet the holder of a connection on loan to the caller.

        From then on *greenlet* gives it back, and the end of *greenlet* ends the loan.
        A ``with`` block that has borrowed the connection does not give it back any
        more. Never switches. In another thread it works as :meth:`release` does.

        :param greenlet: it may not have started yet. None: there is no holder, anybody
            may give the connection back, and no end of a greenlet ends the loan.
        :raises ConnectionNotFoundError: not on loan to the caller.
        :raises TypeError: *greenlet* is no greenlet.
        :raises ValueError: *greenlet* belongs to another thread.
        """
        if greenlet is not None and not isinstance(greenlet, _Greenlet):
            raise TypeError(f"greenlet must be a greenlet or None, not {greenlet!r}")
        is_here = self._is_here()
        self._claims.transfer(conn, greenlet, is_here)

    def _after_error(self, entry: Entry[C], error: BaseException) -> None:
        """A block was left by *error*: decide what becomes of its connection."""
        action = judge(self.connector, error)
        if action is ErrorAction.KEEP:
            self._lifecycle.end_loan_normally(entry)
            return
        if action is ErrorAction.DISCONNECT:
            self._lifecycle.checks.revalidate()
        self._lifecycle.terminate(entry, CloseReason.BORROWER_FAILED)
        if action is ErrorAction.DRAIN:
            self.drain()

    def _holder_died(self, holder: Holder) -> None:
        self._claims.holder_died(holder)

    # Thread, event loop, process

    def _check_thread(self) -> None:
        """Raise an error in a foreign thread; begin anew with another hub."""
        if not self._is_here():
            raise RuntimeError(
                f"Pool {self.name!r} belongs to the event loop of another thread; "
                "give each thread a pool of its own"
            )

    def _is_here(self) -> bool:
        """Whether this is the thread of the pool. Begin anew if it has another hub."""
        hub = get_hub_if_exists()
        if hub is None or self._home.hub() is not hub:
            if not self._home.is_this_thread:
                return False
            if self._home.enter():
                self._start_over()
        return True

    def _start_over(self) -> None:
        """Begin without connections, because the event loop was destroyed."""
        for waiter in self._waiters:
            waiting.pop(waiter, None)
        self._forked()
        self._home.enter()

    def _forked(self) -> None:
        """In a forked child: begin without connections; keep the parent's intact."""
        self._holders.by_id.clear()
        self._lifecycle.teardown.forget()
        ledger = self._ledger
        self._begin(ledger.max_connections, ledger.clock, ledger.closed)

    # The whole pool

    def drop_expired(self) -> None:
        """Close the idle connections that have expired or died. Never switches."""
        self._check_thread()
        self._lifecycle.housekeeping.drop_expired()

    def drain(self) -> None:
        """Renew all connections, and stay open. Never switches.

        Idle ones are closed now, those in use when they come back, those being opened
        as soon as they are open: they may have been opened with old credentials or to
        an old address. If the pool pauses because its server could not be reached, the
        next caller tries the server at once.
        """
        self._check_thread()
        self._lifecycle.drain()

    def revalidate(self) -> None:
        """Check each idle connection before it is lent next. Never switches.

        For code that knows, other than by an error in a ``with`` block, that the server
        or the way to it was lost for a while. Each idle connection is pinged before it
        is lent. One that cannot be pinged is closed now, and replaced when it is
        needed. So only the requests that the loss broke have an error.
        """
        self._check_thread()
        self._lifecycle.checks.revalidate()

    def report_error(self, error: BaseException | None) -> None:
        """Call :meth:`revalidate` if *error* means a lost connection. Never switches.

        For code that handles an error which would otherwise leave a ``with`` block of
        this pool: other connections may be lost as well. The connector decides, by
        :meth:`Connector.classify`.

        :param error: None: nothing is done.
        """
        # No check of the thread: an adapter calls this at the end of a loan, where
        # another error would hide the first one.
        self._lifecycle.checks.revalidate_after(error)

    def resize(self, max_connections: int) -> None:
        """Change how many connections there may be. Never switches.

        With more of them, waiters are served at once. With fewer, idle connections are
        closed first, then those that are given back.

        :raises TypeError: *max_connections* is no whole number.
        :raises ValueError: it is below 1 or below the pool's *min_connections*.
        """
        check_int(
            "max_connections", max_connections, max(1, self._ledger.min_connections)
        )
        self._check_thread()
        self._lifecycle.resize(self._within_budget(max_connections))

    def close(self, timeout: float | None = None) -> list[Loan]:
        """Close the pool for good: nothing can be borrowed and nothing is open then.

        The waiters get :exc:`~geventpool.PoolClosedError` at once; with *handoff* False
        when their pause is over. Then this waits until every connection is given back
        and closed, except those that the caller itself holds: they are closed when they
        are given back. When the time is up, the rest is closed under its holders.

        *May switch*, unless *timeout* is 0 or the hub calls. A second call is allowed.

        :param timeout: seconds to wait at most; None: without limit.
        :return: the loans that were ended under their holders.
        :raises TypeError: *timeout* is no number.
        :raises ValueError: *timeout* is negative, NaN or infinite.
        """
        timeout = check_optional_seconds("timeout", timeout)
        self._check_thread()
        return shut_down(self._lifecycle, self.name, timeout)

    def __enter__(self) -> Pool[C]:
        return self

    def __exit__(self, *error: object) -> None:
        self.close(self._options.timeout)

    def __reduce__(self) -> str:
        # A copy would share the sockets, and close them at its end.
        raise TypeError(
            f"{type(self).__name__} {self.name!r} can be neither copied nor pickled: "
            "make a pool where it is needed"
        )

    def __del__(self) -> None:
        """Terminate the idle connections of a pool that nothing refers to.

        A finalizer runs anywhere, so it does nothing that could switch. It is not a
        ``weakref.finalize``, which would keep the ledger and the connections alive, and
        connections of some drivers refer to their pool. Borrowers keep what they have.
        """
        lifecycle = getattr(self, "_lifecycle", None)
        if lifecycle is not None:
            if self._home.is_this_thread:
                _let_go(self._holders, lifecycle)
            else:
                # No other thread may touch what the event loop refers to.
                self._home.call(_let_go, self._holders, lifecycle)

    # Labels and measures

    def label(self, name: str | Callable[[], str | None]) -> LabelBlock:
        """Count the loans that begin in a ``with`` block by a label.

        ::

            with pool.label("checkout"):
                ...

        The counts are in ``stats().labels``, and in the metrics of a pool that is
        measured. As a decorator, it labels the loans of a function. The first call adds
        a :class:`~geventpool.Labels` to the listeners, unless there is one: from then
        on each loan takes longer, as with any listener. 64 labels are told apart; the
        others are counted together. Never switches.

        :param name: no secret; or a callable that names each loan.
        :raises TypeError: *name* is neither a string nor a callable.
        """
        check_label(name)
        labels = find_labels(self._listeners.listeners)
        if labels is None:
            labels = Labels()
            self._listeners.add(labels)
            if self._measures is not None:
                self._measures.count_labels(labels.counts)
            self._lifecycle.observe()
            self._release_is_trivial = False
            self._choose_path()
        return labels.label(name)

    def measure(self) -> None:
        """Keep times and counts from now on, for ``stats().measured``. Never switches.

        Each loan takes about a quarter of a microsecond longer then. Other pools are
        not affected. A second call changes nothing. ``geventpool.otel`` and
        ``geventpool.prometheus`` call it for all pools.
        """
        if self._measures is None:
            self._begin_measuring()

    def _begin_measuring(self) -> None:
        lifecycle = self._lifecycle
        measures = Measures(
            loans_under_way(self._ledger),
            self.connector.reset_counts(),
            has_connections=not self.connector.connects_later,
        )
        self._measures = self._line.measures = measures
        if (labels := find_labels(self._listeners.listeners)) is not None:
            measures.count_labels(labels.counts)
        keep(self, measures)
        self._listeners.set_recorder(measures)
        self._ledger.observe_use = measures.use.observe
        self._make_idle = measures.measured(self._put_back, self._clock)
        self._pass_on = lifecycle.end_loan_normally


def _let_go(holders: Holders, lifecycle: Lifecycle[Any]) -> None:
    """Give up what a pool kept that nothing refers to any more. Never switches."""
    # A greenlet that outlives many pools must not collect their links.
    holders.clear()
    lifecycle.teardown.terminate_idle()


#: The name is not hidden by a parameter called "greenlet".
_Greenlet = greenlet

# Here, because the hooks of all imported modules, such as those that forget what the
# parent has measured, must run first.
os.register_at_fork(after_in_child=registry.after_fork)
