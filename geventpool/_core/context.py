"""The ``with`` block that borrows a connection and gives it back.

Both of its ends have the fast path of a loan written out, as ``Pool.acquire`` and
``Pool.release`` have: a call more for each would cost a tenth of an uncontended loan.
"""

from __future__ import annotations

from queue import Empty
from types import TracebackType
from typing import Any, Generic, TypeVar
from weakref import ref

from gevent import get_hub, getcurrent
from greenlet import greenlet

from geventpool._core.ledger import Entry
from geventpool._core.states import IDLE, IN_USE, CloseReason

__all__ = ["NO_HOLDER", "ConnectionContext"]

C = TypeVar("C")
B = TypeVar("B", bound="ConnectionContext[Any]")


class NoHolder:
    """Null object for a holder: its loan is never None, so no fast path is taken."""

    class loan:
        """An entry whose connection is no borrower's."""

        conn = object()

    def __call__(self) -> None:
        return None


NO_HOLDER = NoHolder()
#: stands for the entry of a block while its greenlet waits for one
_PENDING: Entry[Any] = Entry()


class ConnectionContext(Generic[C]):
    """A loan for the length of a ``with`` block; see ``Pool.connection``.

    It works on the attributes of its pool that ``Pool`` binds for the fast path.
    """

    __slots__ = ("pool", "timeout", "entry")

    pool: Any
    #: seconds to wait at most; None: the pool's
    timeout: float | None
    #: None outside of the block
    entry: Entry[C] | None

    # Without __init__, because calling it costs a tenth of a loan.
    def of(self: B, pool: Any, timeout: float | None) -> B:
        """Return this block, made to borrow from *pool*."""
        self.pool = pool
        self.timeout = timeout
        self.entry = None
        return self

    def held(self) -> C | None:
        """Return the connection of the block; None: its loan has ended.

        It ends early if the connection is released, dropped or transferred in the
        block. Never switches.
        """
        entry = self.entry
        return entry.conn if entry is not None and entry.block is self else None

    def __enter__(self) -> C:
        pool = self.pool
        if self.entry is not None:
            raise RuntimeError("this block is in use: ask connection() for another")
        # The fast path, as in Pool.acquire(). The other one looks at the thread itself.
        current = getcurrent()
        if self.timeout is None and pool._is_unobserved and not pool._waiters:
            holder = pool._last_block_owner
            if holder() is not current:
                pool._check_thread()
                holder = pool._last_block_owner = ref(current)
            try:
                entry: Entry[C] = pool._get_idle()
            except Empty:
                pass
            except BaseException:
                # A signal handler raised when the entry had left the queue.
                pool._ledger.is_torn = True
                get_hub().loop.run_callback(pool._lifecycle.recover)
                raise
            else:
                try:
                    now = pool._clock()
                    probe = pool._probe
                    if now < entry.ready_until and (probe is None or probe(entry.conn)):
                        entry.state = IN_USE
                        entry.since = now
                        entry.holder = holder
                        entry.block = self
                        self.entry = entry
                        return entry.conn
                    pool._put_back(entry)
                except BaseException:
                    pool._ledger.is_torn = True
                    get_hub().loop.run_callback(pool._lifecycle.recover)
                    raise
        try:
            return self._wait(current)
        except BaseException:
            borrowed = self.entry
            if borrowed is not None:
                # A signal handler raised when the entry was borrowed.
                self.entry = borrowed.block = borrowed.holder = None
                pool._ledger.is_torn = True
                get_hub().loop.run_callback(pool._lifecycle.recover)
            raise

    def _wait(self, current: greenlet) -> C:
        pool = self.pool
        # Another greenlet that enters this block meanwhile must be refused.
        self.entry = _PENDING
        try:
            # Made first, because nothing may fail once an entry is borrowed.
            holder = ref(current)
            entry: Entry[C] = pool._borrow(None, self.timeout)
        except BaseException:
            self.entry = None
            raise
        entry.holder = holder
        entry.block = self
        self.entry = entry
        return entry.conn

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        entry, self.entry = self.entry, None
        # If it was released, dropped or transferred in the block, it is another's.
        if entry is not None and entry.block is self:
            entry.block = None
            pool = self.pool
            try:
                if error is not None:
                    entry.holder = None
                    pool._after_error(entry, error)
                elif not pool._release_is_trivial or entry.close_reason is not None:
                    entry.holder = None
                    pool._lifecycle.end_loan_normally(entry)
                elif not pool._waiters:
                    entry.state = IDLE
                    pool._make_idle(entry)
                else:
                    entry.holder = None
                    pool._pass_on(entry)
            except BaseException:
                # It may be a RecursionError, so no method of the pool is called.
                pool._ledger.is_torn = True
                get_hub().loop.run_callback(pool._lifecycle.recover)
                raise
        elif error is not None and entry is not None:
            if entry.close_reason is CloseReason.POOL_CLOSED:
                _tell_of_close(error, self.pool.name)


def _tell_of_close(error: BaseException, name: str) -> None:
    """Add to a driver's error that the pool has closed the connection."""
    add_note = getattr(error, "add_note", None)
    if add_note is not None:  # pragma: no branch (Python 3.10 has no notes)
        add_note(f"Pool {name!r} was closed, and its close() has ended this loan")
