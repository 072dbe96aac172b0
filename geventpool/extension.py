"""What adapters need of a pool beside its public methods.

An adapter is a pool for a certain driver, such as ``geventpool.redis``. It uses
:class:`~geventpool.Pool`, its own :class:`~geventpool.Connector`, and what is here, but
no private member of the core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Generic, TypeVar

import gevent
from gevent import getcurrent

from geventpool._core.breaker import Breaker
from geventpool._core.claims import Claims
from geventpool._core.deadline import Deadline
from geventpool._core.deadlocks import indirect, is_deadlocked, waiting
from geventpool._core.dial_errors import copy_error
from geventpool._core.exhaustion import MYSQL_FULL, chain, lacks_descriptor
from geventpool._core.failures import describe
from geventpool._core.histograms import BOUNDS, Distribution
from geventpool._core.holders import end_loan
from geventpool._core.home import Home
from geventpool._core.ledger import anyone
from geventpool._core.lifecycle import Lifecycle
from geventpool._core.loops import timer_length
from geventpool._core.measured import Measured
from geventpool._core.measures import (
    kept,
    measure_by_default,
    on_first_event,
    retired,
)
from geventpool._core.opener import PROMPT, SLOW
from geventpool._core.reports import Loan
from geventpool._core.states import IN_USE, CloseReason
from geventpool._core.workers import within

__all__ = [
    "BOUNDS",
    "MYSQL_FULL",
    "PROMPT",
    "SLOW",
    "Breaker",
    "Deadline",
    "Distribution",
    "Extension",
    "Loan",
    "Measured",
    "chain",
    "copy_error",
    "describe",
    "kept",
    "lacks_descriptor",
    "measure_by_default",
    "on_first_event",
    "retired",
    "timer_length",
    "within",
]

C = TypeVar("C")


class Extension(Generic[C]):
    """The operations of one pool for its adapter; see ``Pool.extension``.

    A forked child gets a new object, because its pool begins without connections.
    """

    def __init__(
        self,
        lifecycle: Lifecycle[C],
        claims: Claims[C],
        home: Home,
        timeout: float | None,
    ) -> None:
        #: seconds that a borrower of the pool waits at most; None: without limit
        self.timeout = timeout
        #: the time limits of the greenlets of the pool
        self.timeouts = lifecycle.timeouts
        self._lifecycle = lifecycle
        self._ledger = lifecycle.ledger
        self._claims = claims
        self._home = home

    # Questions

    def now(self) -> float:
        """Return the time by the clock of the pool, in seconds. Never switches."""
        return self._ledger.clock()

    @property
    def idle(self) -> int:
        """The number of idle connections."""
        return self._ledger.idle

    @property
    def in_use(self) -> int:
        """The number of connections on loan."""
        return self._ledger.in_use

    @property
    def waiting(self) -> int:
        """The number of greenlets that wait in line."""
        return len(self._ledger.waiters)

    def waits_in_vain(self, greenlet: Any) -> bool:
        """Whether it is certain that *greenlet*, which waits, gets no connection.

        All are held by greenlets that wait as well. Never switches.
        """
        waiter = waiting.get(greenlet)
        return waiter is not None and is_deadlocked(self._ledger, waiter.ends)

    def has(self, conn: C) -> bool:
        """Whether *conn* is one of the pool's connections. Never switches."""
        entry = self._ledger.entries.get(id(conn))
        return entry is not None and entry.conn is conn

    def is_lent(self, conn: C) -> bool:
        """Whether a borrower has *conn*. Never switches."""
        entry = self._ledger.entries.get(id(conn))
        if entry is None or entry.conn is not conn:
            return False
        return entry.state is IN_USE and entry.waiter is None

    # Loans

    def adopt(self, conn: C) -> bool:
        """Take in a connection that the adapter has made or kept. Never switches.

        It is lent to the first waiter, or becomes idle, as at the end of a loan.

        :return: whether the pool has it now; False: there is no room.
        """
        if self.has(conn):
            return True
        entry = self._lifecycle.admit(conn)
        if entry is None:
            return False
        if entry.state is IN_USE:
            self._claims.finish(entry, self._lifecycle.end_loan_normally)
        return True

    def disown(self, conn: C) -> Any:
        """Take a loan from its holder. Anybody may end it then. Never switches.

        :return: the greenlet that held it; None: there was none, or it is collected.
        :raises ConnectionNotFoundError: it is not on loan.
        """
        entry = self._claims.on_loan(conn)
        holder = None if entry.holder is None else entry.holder()
        end_loan(entry)
        entry.holder = anyone
        return holder

    def vacate(self, conn: C) -> None:
        """Free the place of a connection on loan that is already closed.

        Anybody may call this. Never switches. In a thread that is not the pool's, the
        event loop of the pool does it a little later.

        :raises ConnectionNotFoundError: it is not on loan.
        """
        if self._home.is_this_thread:
            entry = self._claims.claim(conn, anyone=True)
            self._claims.finish(entry, self._lifecycle.terminate, CloseReason.DROPPED)
        else:
            holder = self._claims.on_loan(conn).holder
            current = None if holder is None else holder()
            self._home.call(self.drop_of, conn, current)

    def drop_of(self, conn: C, holder: object) -> None:
        """Close a connection, if *holder* or no greenlet in particular has it on loan.

        For a release that was interrupted, so that it is unknown how far it came. Never
        switches.

        :param holder: the greenlet that wanted to give it back.
        """
        if self.is_lent(conn):
            lent_to = self._claims.on_loan(conn).holder
            if lent_to is anyone or (lent_to is not None and lent_to() is holder):
                self.vacate(conn)

    def forget_all(self) -> None:
        """Close the idle connections, and forget those on loan. May switch.

        All places are free then, and the waiters get them. *min_connections* are not
        kept any more. A connection that was on loan stays open; :meth:`adopt` takes it
        in again.
        """
        self._lifecycle.forget_all()

    def reject(self, error: BaseException) -> None:
        """Note that *error* kept the adapter from lending a connection.

        If the caller is refused in the end, the refusal counts these and has the last
        one as its cause. The adapter then borrows again within :meth:`in_line_since`.
        Never switches.
        """
        self._lifecycle.checks.reject(error)

    # Drivers that connect what they have borrowed

    @contextmanager
    def in_line_since(self, came: float) -> Iterator[None]:
        """Have the caller wait where it would be, had it waited since *came*.

        For a block in which it borrows again, because it could not connect what it was
        lent. It is lent nothing that is made at once. Times are those of :meth:`now`.
        """
        current = getcurrent()
        self._ledger.returning[current] = came
        try:
            yield
        finally:
            self._ledger.returning.pop(current, None)

    @contextmanager
    def waiting_for(self, other: Callable[[], Any]) -> Iterator[None]:
        """Note that the caller waits until another greenlet has a connection.

        For a block in which it waits. The search for deadlocks follows such a wait: it
        may hold what the other greenlet waits for.

        :param other: returns that greenlet; None: there is none yet.
        """
        current = getcurrent()
        indirect[current] = other
        try:
            yield
        finally:
            indirect.pop(current, None)

    def begin_reconnect(self) -> bool:
        """Count an attempt of a borrower to connect its own connection again.

        It counts as one of *max_connecting*
        until :meth:`end_reconnect`. Never switches.

        :return: False: as many are under way, so the borrower must try later.
        """
        return self._lifecycle.opener.begin_reconnect()

    def end_reconnect(self) -> None:
        """Count one attempt of :meth:`begin_reconnect` no more. Never switches."""
        self._lifecycle.opener.end_reconnect()

    def report_unreachable(self, error: Exception) -> None:
        """Note that a borrower could not connect its own connection again.

        It counts as a failed attempt to open;
        see :class:`~geventpool.Outage`. Never switches.
        """
        self._lifecycle.opener.report_failure(error)

    def report_reachable(self) -> None:
        """Note that a borrower could connect its own connection again. Never switches.

        It ends an outage as an opened connection does.
        """
        self._lifecycle.opener.report_success()

    # Servers that another one may replace

    @property
    def is_in_grace(self) -> bool:
        """Whether waiters stay in line although the server cannot be reached."""
        return self._lifecycle.opener.is_in_grace

    def end_grace(self) -> None:
        """Let nobody wait any longer for a server that cannot be reached.

        For an adapter that knows that another server does its work. It ends the grace
        of this outage, as if its time were over. Never switches.
        """
        self._lifecycle.opener.end_grace()

    # Drivers that repeat an attempt to open a connection

    def retry_pause(self) -> AbstractContextManager[None]:
        """For a block in which a driver pauses before it tries to connect again.

        If this greenlet opens a connection of the pool, the attempt delays no others
        meanwhile, and its waiter stays in line.
        """
        return self._lifecycle.opener.attempts.pausing()

    def is_probe(self) -> bool:
        """Whether this greenlet only finds out whether the server is back.

        Nobody waits for the connection that it opens, and the pool repeats the attempt
        soon, so the driver should not repeat it. Never switches.
        """
        return self._lifecycle.opener.attempts.is_probe()

    # Work

    def spawn(
        self, work: Callable[..., object], *args: Any
    ) -> gevent.Greenlet[..., Any]:
        """Start *work* in a greenlet of the pool and return it. Never switches.

        It is killed when ``Pool.close`` has waited long enough.
        """
        return self._lifecycle.workers.spawn(work, *args)

    def call_soon(self, work: Callable[..., object], *args: Any) -> None:
        """Have the hub call *work*. Never switches or raises.

        Can be called in any thread, and in a finalizer. Nothing is called if the event
        loop has ended.
        """
        self._home.call(work, *args)

    def notify(self, event: str, *args: Any) -> None:
        """Tell the listeners of the pool of *event*, such as "paused"."""
        self._lifecycle.listeners.notify(event, *args)
