"""The right to end a loan, and what is done with a loan that ends.

The loans of one pool: who may give one back, drop it or hand it over, in the thread of
the pool and in others. The fast path of a release is in ``pool.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

from gevent import get_hub, getcurrent
from gevent._hub_local import get_hub_if_exists
from greenlet import greenlet

from geventpool._core.holders import Holder, Holders, end_loan
from geventpool._core.home import Home, thread_of
from geventpool._core.ledger import Entry, anyone
from geventpool._core.lifecycle import Lifecycle
from geventpool._core.reports import name_of
from geventpool._core.states import IDLE, IN_USE, CloseReason, State
from geventpool.errors import ConnectionNotFoundError
from geventpool.policies import safe_repr

__all__ = ["Claims"]

C = TypeVar("C")

log = logging.getLogger("geventpool")


class Claims(Generic[C]):
    """Ends the loans of one pool, if the caller may end them.

    The argument *is_here* tells whether the calling thread is the pool's. In another
    thread the event loop of the pool ends the loan later.

    :param bool owner_only: whether no greenlet but the holder gives a bare loan back.
    """

    def __init__(
        self,
        lifecycle: Lifecycle[C],
        holders: Holders,
        home: Home,
        owner_only: bool,
    ) -> None:
        self._lifecycle = lifecycle
        self._ledger = lifecycle.ledger
        self._holders = holders
        self._home = home
        self._owner_only = owner_only

    # Ending a loan

    def release(self, conn: C, anyone: bool, is_here: bool) -> None:
        """End a loan whose connection is in order. Never switches.

        :param anyone: whether the caller need not be the holder.
        :raises ConnectionNotFoundError: it is not on loan, or not the caller's.
        """
        entry = self._permitted(conn, anyone)
        work = self._lifecycle.end_loan_normally
        if is_here:
            self.finish(entry, work)
        else:
            self._send_home(entry, work)

    def drop(self, conn: C, anyone: bool, is_here: bool) -> None:
        """Close a connection that is on loan or idle. Never switches.

        :param anyone: whether the caller need not be the holder.
        :raises ConnectionNotFoundError: it is neither idle nor the caller's.
        """
        lifecycle = self._lifecycle
        entry = self._ledger.entries.get(id(conn))
        is_idle = entry is not None and entry.conn is conn and entry.state is IDLE
        if not is_here:
            if entry is None or not is_idle:
                entry = self._permitted(conn, anyone)
            self._send_home(entry, self._close)
        elif entry is not None and is_idle:
            self.finish(entry, lifecycle.closer.close, CloseReason.DROPPED)
        elif self._is_own(conn):
            self.finish(self.claim(conn), lifecycle.terminate, CloseReason.DROPPED)
        else:
            entry = self.claim(conn, anyone)
            self.finish(entry, lifecycle.closer.discard_soon, CloseReason.DROPPED)

    def transfer(self, conn: C, target: greenlet | None, is_here: bool) -> None:
        """Make *target* the holder of a loan of the caller. Never switches.

        :param target: None: no greenlet is the holder.
        :raises ConnectionNotFoundError: it is not on loan to the caller.
        :raises ValueError: *target* is a greenlet of another thread.
        """
        if not is_here:
            self._send_home(self._permitted(conn), partial(self._hand_to, target))
            return
        if target is not None:
            if thread_of(target) is not thread_of(getcurrent()):
                raise ValueError(
                    f"greenlet must be one of the pool's thread, not {target!r}"
                )
            self.on_loan(conn)
            # This may fail, so it is done before the loan is changed.
            self._holders.register(target)
        self._hand_to(target, self.claim(conn))

    def _hand_to(self, target: greenlet | None, entry: Entry[C]) -> None:
        if target is None:
            entry.holder = anyone
        else:
            entry.holder = holder = self._holders.register(target)
            holder.set_loan(entry)

    def _close(self, entry: Entry[C]) -> None:
        if entry.state is IDLE:
            self._lifecycle.closer.close(entry, CloseReason.DROPPED)
        else:
            self._lifecycle.terminate(entry, CloseReason.DROPPED)

    def finish(self, entry: Entry[C], work: Callable[..., object], *args: Any) -> None:
        """End the loan of an entry, and call *work* for it.

        If that is interrupted, the entry is recovered in the hub.
        """
        try:
            end_loan(entry)
            work(entry, *args)
        except BaseException:
            self._ledger.is_torn = True
            get_hub().loop.run_callback(self._lifecycle.recover)
            raise

    def holder_died(self, holder: Holder) -> None:
        """End the loans of a greenlet that has ended. Runs in the hub."""
        try:
            for entry in holder.loans:
                if entry.state is IN_USE and entry.holder is holder:
                    if not self._is_handled(entry.conn):
                        terminate = self._lifecycle.terminate
                        self.finish(entry, terminate, CloseReason.HOLDER_DIED)
        except BaseException:
            # A signal handler: the other loans end in another turn of the loop.
            get_hub().loop.run_callback(self.holder_died, holder)
            raise

    def _is_handled(self, conn: C) -> bool:
        """Whether the connector ends the loan of a holder that has ended."""
        try:
            return self._lifecycle.connector.holder_died(conn)
        except Exception:
            log.exception("holder_died failed: %r is closed", conn)
            return False

    # Whose it is

    def claim(self, conn: C, anyone: bool = False) -> Entry[C]:
        """Take a loan from its holder; return its entry. Never switches.

        :param anyone: whether the caller need not be the holder.
        :raises ConnectionNotFoundError: it is not on loan, or not the caller's.
        """
        entry = self._permitted(conn, anyone)
        end_loan(entry)
        return entry

    def on_loan(self, conn: C) -> Entry[C]:
        """Return the entry of a connection that a greenlet has borrowed.

        :raises ConnectionNotFoundError: it is not on loan.
        """
        entry = self._ledger.lent(conn)
        if entry.waiter is not None:
            # Its loan has ended. It is assigned to a waiter that has not run yet.
            raise ConnectionNotFoundError(f"given back before: {safe_repr(conn)}")
        return entry

    def _is_own(self, conn: C) -> bool:
        """Whether *conn* is on loan to the caller."""
        holder = self.on_loan(conn).holder
        return holder is not None and holder() is getcurrent()

    def _permitted(self, conn: C, anyone: bool = False) -> Entry[C]:
        """Return the entry of a loan that the caller may end."""
        entry = self.on_loan(conn)
        if not anyone:
            self._check_right(entry)
        return entry

    def _check_right(self, entry: Entry[C]) -> None:
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
        # A greenlet that borrows itself may be releasing for the second time.
        return not self._owner_only and id(current) not in self._holders.by_id

    # From another thread

    def _send_home(self, entry: Entry[C], work: Callable[..., object]) -> None:
        """Call *work* in the thread of the pool, unless the loan changes first."""
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
            self.finish(entry, work)
