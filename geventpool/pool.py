"""The pool: lends connections to greenlets, and takes them back.

This file has the public class and the fast paths of a loan. The rest is in ``_core``:
``bound_pool.py`` chooses the path and begins anew in a forked child, ``pool_parts.py``
makes the parts. Of these, ``ledger.py`` holds the state, ``lifecycle.py`` opens,
checks, resets and closes, ``lending.py`` lends where the fast path cannot, ``line.py``
waits, and ``claims.py`` ends loans. Two rules:

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
from collections.abc import Callable, Mapping
from queue import Empty
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import ref

from gevent import get_hub, getcurrent
from greenlet import greenlet

from geventpool._core import registry
from geventpool._core.as_connector import as_connector, refuse_arguments
from geventpool._core.bound_pool import BoundPool
from geventpool._core.context import NO_HOLDER, ConnectionContext
from geventpool._core.ledger import Entry
from geventpool._core.measures import Measures, is_default
from geventpool._core.reports import Loan
from geventpool._core.shutdown import shut_down
from geventpool._core.states import IDLE, IN_USE, CloseReason
from geventpool.connector import Connector, ErrorAction, judge
from geventpool.extension import Extension
from geventpool.labels import LabelBlock, Labels, check_label, find_labels
from geventpool.listeners import Listeners
from geventpool.options import MoreKeywords, PoolOptions
from geventpool.policies import check_int, check_optional_seconds
from geventpool.signatures import described, documented

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ConnectionContext", "Pool", "pools"]

C = TypeVar("C")


def pools() -> list[Pool[Any]]:
    """The open pools of this process, sorted by name. Never switches."""
    return registry.open_pools()


@described(PoolOptions)
class Pool(BoundPool[C]):
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

    # A loan finds these faster than other attributes, and those of a base class slower.
    # BoundPool says what they are.
    __slots__ = (
        "_clock",
        "_get_idle",
        "_holders",
        "_holders_by_id",
        "_is_unobserved",
        "_last_block_owner",
        "_last_holder",
        "_last_releaser",
        "_ledger",
        "_lifecycle",
        "_make_idle",
        "_pass_on",
        "_probe",
        "_put_back",
        "_release_is_trivial",
        "_waiters",
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
        owner = f"{type(self).__name__}()"
        refuse_arguments(owner, factory, more)
        chosen = self._options = PoolOptions.of(
            owner,
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

    def _prefill(self, number: int) -> None:
        try:
            self._lifecycle.opener.prefill(number)
        except BaseException:
            # The caller gets no pool that it could close.
            self.close(timeout=0)
            raise

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
        :raises TooManyWaitingError: *max_waiting* greenlets wait already for places
            that others have.
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
                except BaseException:
                    # A signal handler raised when the entry had left the queue.
                    self._ledger.is_torn = True
                    get_hub().loop.run_callback(self._lifecycle.recover)
                    raise
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
        return self._parts.lending.borrow(retry, timeout)

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
        self._parts.claims.release(conn, anyone, is_here)

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
        self._parts.claims.drop(conn, anyone, is_here)

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
        self._parts.claims.transfer(conn, greenlet, is_here)

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

    # The whole pool

    def drop_expired(self) -> None:
        """Close the idle connections that have expired or died. Never switches."""
        self._check_lends("drop_expired")
        self._lifecycle.housekeeping.drop_expired()

    def drain(self) -> None:
        """Renew all connections, and stay open. Never switches.

        Idle ones are closed now, those in use when they come back, those being opened
        as soon as they are open: they may have been opened with old credentials or to
        an old address. If the pool pauses because its server could not be reached, the
        next caller tries the server at once.
        """
        self._check_lends("drain")
        self._lifecycle.drain()

    def revalidate(self) -> None:
        """Check each idle connection before it is lent next. Never switches.

        For code that knows, other than by an error in a ``with`` block, that the server
        or the way to it was lost for a while. Each idle connection is pinged before it
        is lent. One that cannot be pinged is closed now, and replaced when it is
        needed. So only the requests that the loss broke have an error.
        """
        self._check_lends("revalidate")
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
        self._check_lends("resize")
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
        # A pool without connections may be closed in any thread.
        if not self._is_replaced:
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


#: The name is not hidden by a parameter called "greenlet".
_Greenlet = greenlet

# Here, because the hooks of all imported modules, such as those that forget what the
# parent has measured, must run first.
os.register_at_fork(after_in_child=registry.after_fork)
