"""All mutable state of a pool: its places, their connections, and the waiters.

It knows neither sockets nor gevent. Callers pass the time to the methods that need it,
and each waiter can wake its greenlet. So tests can use it without gevent.

Two rules hold whenever a switch is possible:

1. each place that is taken is in exactly one of the states of ``states.py``;
2. there are no waiters while a connection is idle and can be lent.

A place is taken before a connection is opened and freed after it is closed. So ``size``
bounds what a server can see. The counts are the lengths of the containers.
"""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator
from queue import Empty
from typing import Any, Generic, Protocol, TypeVar

from geventpool._core.states import (
    CHECKING,
    CLOSING,
    GONE,
    IDLE,
    IN_USE,
    MOVES,
    OPENING,
    RESETTING,
    CloseReason,
    State,
)
from geventpool.errors import ConnectionNotFoundError
from geventpool.policies import safe_repr

__all__ = ["Entry", "IdleQueue", "Ledger", "Waiter", "anyone"]

C = TypeVar("C")
S = TypeVar("S", bound="Waiter[Any]")

FOREVER = float("inf")


def anyone() -> None:
    """The holder of a loan that any greenlet may give back."""


class Entry(Generic[C]):
    """A place and what is known of it. Times are seconds of the pool's clock."""

    __slots__ = (
        "state",
        "conn",
        "expires",
        "ready_until",
        "used",
        "alive",
        "since",
        "holder",
        "block",
        "close_reason",
        "suspect",
        "waiter",
        "__weakref__",
    )

    conn: C

    def __init__(self, waiter: Waiter[C] | None = None) -> None:
        self.state = OPENING
        #: when its lifetime ends
        self.expires = FOREVER
        #: until when it can be lent without a check
        self.ready_until = FOREVER
        #: when it was last used
        self.used = 0.0
        #: when it was last known to be alive
        self.alive = 0.0
        #: when it was lent
        self.since = 0.0
        #: returns the greenlet that holds it, or None; does not keep it alive. None
        #: while it is not on loan.
        self.holder: Callable[[], Any] | None = None
        #: the ``with`` block that has borrowed it; None: a bare ``acquire``
        self.block: object | None = None
        #: why it will be closed and not lent again; None: it may be lent
        self.close_reason: CloseReason | None = None
        #: whether it must be pinged because other connections were lost
        self.suspect = False
        #: the waiter that it is opened for; or that it was assigned to, until the
        #: greenlet of the waiter runs
        self.waiter = waiter

    def __repr__(self) -> str:
        return f"<Entry {self.state.value} {safe_repr(getattr(self, 'conn', None))}>"


class Waiter(Generic[C]):
    """A greenlet in line. It gets an entry or an error, once, and leaves the line.

    If the greenlet ends before it runs, its entry can still be found here. A derived
    class knows how to wake the greenlet.
    """

    __slots__ = (
        "greenlet", "entry", "error", "has_attempt", "interrupted", "ledger", "ends"
    )  # fmt: skip

    #: since when it has waited, if it was served before; FOREVER: it was not, and came
    #: later than those that were
    came: float = FOREVER

    def __init__(self, greenlet: Hashable) -> None:
        self.greenlet = greenlet
        self.entry: Entry[C] | None = None
        self.error: BaseException | None = None
        #: the ledger in whose line it is
        self.ledger: Ledger[C] | None = None
        #: when the time limit of its own call ends; FOREVER: it has none
        self.ends = FOREVER
        #: whether a connection is being opened for it
        self.has_attempt = False
        #: how many attempts to open a connection for it were killed
        self.interrupted = 0

    def wake(self) -> object:
        """Have the greenlet run soon: it has an entry or an error. Never switches."""
        raise NotImplementedError


class IdleQueue(Protocol):
    """The part of gevent's queues that is used for idle entries. It never blocks."""

    def get_nowait(self) -> Any: ...
    def put_nowait(self, item: Any) -> None: ...
    def qsize(self) -> int: ...
    @property
    def queue(self) -> Collection[Any]: ...


class Ledger(Generic[C]):
    """The places of one pool.

    :param idle: an empty queue for the idle entries; its order is the order of reuse.
    :param int max_connections: how many places there are.
    :param bool lifo: is that queue a stack?
    """

    def __init__(
        self, idle: IdleQueue, max_connections: int, lifo: bool = True
    ) -> None:
        self.max_connections = max_connections
        #: so many connections are kept open even if they are not needed
        self.min_connections = 0
        #: whether the pool was closed
        self.closed = False
        #: returns seconds, monotonic; a test may replace it
        self.clock: Callable[[], float] = time.monotonic
        #: whether only the holder can give back a bare loan, if loans are reclaimed
        self.owner_only = False
        self.lifo = lifo
        self.idle_queue = idle
        #: in idle_queue, but not idle any more: taking an entry out of the middle of a
        #: queue takes time in proportion to its length
        self.absent: set[Entry[C]] = set()
        #: the same, but these are only checked, and keep their place in the queue
        self.away: set[Entry[C]] = set()
        #: the OPENING entries, which have no connection yet
        self.opening: dict[Entry[C], None] = {}
        #: the entries that have a connection, by the id of the connection, because the
        #: objects of a driver may not be hashable
        self.entries: dict[int, Entry[C]] = {}
        #: the entries that a greenlet of the pool has
        self.checking: set[Entry[C]] = set()
        self.resetting: set[Entry[C]] = set()
        #: the RESETTING entries whose resets take so long that no waiter should wait
        self.lagging: set[Entry[C]] = set()
        self.closing: set[Entry[C]] = set()
        self._shelves = {
            CHECKING: self.checking,
            RESETTING: self.resetting,
            CLOSING: self.closing,
        }
        #: the waiters by greenlet, in order of arrival
        self.waiters: OrderedDict[Hashable, Waiter[C]] = OrderedDict()
        #: greenlets that will wait in line again, and since when they have waited
        self.returning: dict[Hashable, float] = {}
        #: whether an exception, such as a RecursionError, interrupted the handling of
        #: an entry, so that there may be one that nothing has. An attribute can be set
        #: without a call, so at any depth of the stack.
        self.is_torn = False
        #: called with the time when a connection is about to be assigned to a waiter;
        #: None: no callable
        self.on_return: Callable[[float], object] | None = None
        #: called when a connection was closed and its place is free; None: no callable
        self.on_closed: Callable[[], object] | None = None
        #: with more connections than this, those that come back are closed, because
        #: other processes of the budget need their places
        self.most = sys.maxsize
        #: counts the seconds of a loan that has ended; None: nothing is measured
        self.observe_use: Callable[[float], None] | None = None
        #: places whose leases are not given back yet, though their connections are
        #: closed; to note it takes no call, so it works at any depth of the stack
        self.unreturned = 0

    # Counts

    @property
    def size(self) -> int:
        """The number of places taken."""
        return len(self.entries) + len(self.opening)

    @property
    def idle(self) -> int:
        return self.idle_queue.qsize() - len(self.absent) - len(self.away)

    @property
    def in_use(self) -> int:
        busy = len(self.checking) + len(self.resetting) + len(self.closing)
        return len(self.entries) - self.idle - busy

    @property
    def is_exhausted(self) -> bool:
        """Whether there is neither an idle connection nor a place for another one."""
        if len(self.entries) + len(self.opening) < self.max_connections:
            return False
        return self.idle_queue.qsize() == len(self.absent) + len(self.away)

    @property
    def has_room(self) -> bool:
        return len(self.entries) + len(self.opening) < self.max_connections

    @property
    def has_surplus(self) -> bool:
        """Whether there are more connections than the limit allows at present."""
        most = min(self.max_connections, self.most)
        return self.size - len(self.closing) > most

    def close_reason_of(self, entry: Entry[C]) -> CloseReason | None:
        """Return why an entry must be closed when nobody uses it; None: it stays."""
        reason = entry.close_reason
        if reason is CloseReason.SURPLUS and not self.has_surplus:
            return None
        return reason

    def observe_early_end(self, entry: Entry[C]) -> None:
        """Measure a loan that does not end normally. Never switches."""
        if entry.state is IN_USE and entry.waiter is None:
            if self.observe_use is not None:
                self.observe_use(self.clock() - entry.since)

    def all_in(self, state: State) -> Iterator[Entry[C]]:
        """Yield the entries that are in *state* when it is their turn."""
        for entry in [*self.entries.values(), *self.opening]:
            if entry.state is state:
                yield entry

    # Moving an entry

    def move(self, entry: Entry[C], state: State) -> None:
        """Change the state of *entry*.

        Only ``IDLE`` to ``IN_USE`` and back, the whole of an uncontended loan, is
        written out where it happens, in ``pool.py``, for a call costs a tenth of it.
        """
        before = entry.state
        assert state in MOVES[before], f"{before} -> {state}: {entry!r}"
        if before in self._shelves:
            # Not remove(): an error may have come at add() below.
            self._shelves[before].discard(entry)
            if entry in self.away and state in (CLOSING, GONE):
                self.away.remove(entry)
                self.absent.add(entry)
        if state in self._shelves:
            # First, because this is how an interrupted entry is found.
            entry.state = state
            self._shelves[state].add(entry)
        elif state is GONE and self.opening.pop(entry, entry) is entry:
            del self.entries[id(entry.conn)]
            if self.on_closed is not None:
                entry.state = state
                self.unreturned += 1
                # A full stack or memory must not keep the caller from its next steps.
                # The lease is counted, so it is given back later.
                try:
                    self.on_closed()
                except (RecursionError, MemoryError):
                    pass
        entry.state = state

    def reserve(self, entry: Entry[C] | None = None) -> Entry[C]:
        """Take a place for *entry*, before its connection is opened.

        :param entry: None: a new one, for nobody in particular.
        :return: the entry.
        """
        assert self.has_room, "no room"
        if entry is None:
            entry = Entry()
        self.opening[entry] = None
        if entry.waiter is not None:
            entry.waiter.has_attempt = True
        return entry

    def settle(self, entry: Entry[C]) -> None:
        """Note that the attempt to open for a certain waiter has ended."""
        if entry.waiter is not None:
            entry.waiter.has_attempt = False
            entry.waiter = None

    def opened(self, entry: Entry[C], conn: C) -> None:
        """Note the connection of a place that was OPENING.

        :raises AssertionError: another entry has this very object.
        """
        # The only call comes first, because a call can fail for want of memory.
        key = id(conn)
        assert key not in self.entries, f"opened twice: {conn!r}"
        del self.opening[entry]
        entry.conn = conn
        self.entries[key] = entry

    def assign(self, entry: Entry[C], now: float) -> None:
        """Lend a connection to the first waiter, or make it idle."""
        if self.waiters:
            if entry in self.away:
                # It was checked at its place in the queue, which it leaves now. While
                # there are waiters, the queue has nothing but such entries.
                self.absent |= self.away
                self.away.clear()
                self._compact()
            self.move(entry, IN_USE)
            self.assign_to_waiter(entry, now)
        else:
            self.move(entry, IDLE)
            self.make_idle(entry)

    def assign_to_waiter(self, entry: Entry[C], now: float) -> None:
        """Assign an entry that is IN_USE to the first waiter, and wake it."""
        if self.on_return is not None:
            self.on_return(now)
        waiters = self.waiters
        while waiters:
            waiter = next(iter(waiters.values()))
            greenlet = waiter.greenlet
            # wake() is first, because it can fail, and nothing is changed then. It may
            # also run a finalizer that serves this waiter. The next lines have no call,
            # so nothing can come between them.
            waiter.wake()
            if greenlet in waiters and waiters[greenlet] is waiter:
                del waiters[greenlet]
                entry.since = now
                entry.holder = None
                entry.block = None
                entry.waiter = waiter
                waiter.entry = entry
                return
        self.move(entry, IDLE)
        self.make_idle(entry)

    # Idle entries

    def make_idle(self, entry: Entry[C]) -> None:
        """Put it back into the queue, at its old place if it is still there."""
        if entry in self.away:
            self.away.remove(entry)
        else:
            self.idle_queue.put_nowait(entry)

    def take_idle(self) -> Entry[C] | None:
        """Take the next idle entry out of the queue, to be checked; None: none."""
        while True:
            try:
                entry: Entry[C] = self.idle_queue.get_nowait()
            except Empty:
                return None
            if entry in self.absent:
                self.absent.remove(entry)
            elif entry in self.away:
                self.away.remove(entry)
            else:
                self.move(entry, CHECKING)
                return entry

    def withdraw(self, entry: Entry[C], state: State) -> None:
        """Take an idle entry from any place in the queue, and change its state."""
        (self.away if state is CHECKING else self.absent).add(entry)
        # The fast path finds it in the queue, and looks at nothing else.
        entry.ready_until = -FOREVER
        self.move(entry, state)
        if 2 * len(self.absent) > self.idle_queue.qsize():
            self._compact()

    def _compact(self) -> None:
        # The cost is amortised: as many entries were withdrawn as are moved here.
        queue = self.idle_queue
        kept = [queue.get_nowait() for _ in range(queue.qsize())]
        for entry in reversed(kept) if self.lifo else kept:
            if entry not in self.absent:
                queue.put_nowait(entry)
        self.absent.clear()

    def queued(self) -> set[Entry[C]]:
        """Return the entries in the queue that may be taken out of it."""
        return {*self.idle_queue.queue} - self.absent - self.away

    # Entries in use

    def lent(self, conn: C) -> Entry[C]:
        """Return the entry of a connection that is on loan.

        :raises ConnectionNotFoundError: it is not on loan.
        """
        entry = self.entries.get(id(conn))
        if entry is None or entry.conn is not conn or entry.state is not IN_USE:
            message = f"not on loan from this pool: {safe_repr(conn)}"
            if self.closed:
                message += (
                    "; the pool was closed, and has ended the loans that were left"
                )
            raise ConnectionNotFoundError(message)
        return entry

    # Waiters

    def add_waiter(self, waiter: S) -> S:
        """Put *waiter* at the end of the line, and return it."""
        greenlet = waiter.greenlet
        assert greenlet not in self.waiters, f"waits already: {greenlet!r}"
        self.waiters[greenlet] = waiter
        waiter.ledger = self
        return waiter

    def add_returning(self, waiter: Waiter[C]) -> None:
        """Put a waiter that was served before in front of all that came later."""
        self.add_waiter(waiter)
        for greenlet, other in list(self.waiters.items()):
            if other is not waiter and other.came > waiter.came:
                self.waiters.move_to_end(greenlet)

    def remove_waiter(self, waiter: Waiter[C]) -> None:
        """Take *waiter* out of the line, if it is in it."""
        if self.waiters.get(waiter.greenlet) is waiter:
            del self.waiters[waiter.greenlet]

    def fail(self, waiter: Waiter[C], error: BaseException) -> None:
        """Fail *waiter* with *error*, if it is in the line, and wake it."""
        if self.waiters.get(waiter.greenlet) is waiter:
            # In this order for the reasons in assign_to_waiter().
            waiter.wake()
            greenlet = waiter.greenlet
            if greenlet in self.waiters and self.waiters[greenlet] is waiter:
                del self.waiters[greenlet]
                waiter.error = error

    def next_unattempted(self) -> Waiter[C] | None:
        """Return the first waiter for which no connection is being opened."""
        for waiter in self.waiters.values():
            if not waiter.has_attempt:
                return waiter
        return None
