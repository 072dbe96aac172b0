"""Who has which connection, and who waits: all of a pool's mutable state.

It knows no sockets and no gevent. Callers pass the time to the methods that need it,
and each waiter knows how to wake its greenlet. So tests can drive it without gevent.

Two rules hold between any two switches:

1. every place taken is in exactly one state, and the states are the ones below;
2. the idle connections and the line are never both non-empty.

A place is taken before a connection is opened and given up after it is closed, so that
``size`` bounds what a server can see. Counts are the lengths of the containers; none
is kept beside them.
"""

from __future__ import annotations

import enum
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator
from queue import Empty
from typing import Any, Generic, Protocol, TypeVar

from geventpool.errors import ConnectionNotFoundError
from geventpool.policies import safe_repr

__all__ = ["Entry", "IdleQueue", "Ledger", "CloseReason", "Waiter", "State", "anyone"]

C = TypeVar("C")
S = TypeVar("S", bound="Waiter[Any]")

FOREVER = float("inf")


class State(enum.Enum):
    """Where the connection of a place is; all but GONE count against the limit."""

    OPENING = "opening"
    IDLE = "idle"
    IN_USE = "in use"
    CHECKING = "checking"
    RESETTING = "resetting"
    CLOSING = "closing"
    GONE = "gone"

    # Enum's own is written in Python, and a hand-over hashes four of them.
    __hash__ = object.__hash__


OPENING = State.OPENING
IDLE = State.IDLE
IN_USE = State.IN_USE
CHECKING = State.CHECKING
RESETTING = State.RESETTING
CLOSING = State.CLOSING
GONE = State.GONE

#: The legal moves. IN_USE to IN_USE is a hand-over to the first in line.
MOVES: dict[State, frozenset[State]] = {
    OPENING: frozenset({IDLE, IN_USE, CLOSING, GONE}),
    IDLE: frozenset({IN_USE, CHECKING, CLOSING, GONE}),
    IN_USE: frozenset({IDLE, IN_USE, RESETTING, CLOSING, GONE}),
    CHECKING: frozenset({IDLE, IN_USE, CLOSING, GONE}),
    RESETTING: frozenset({IDLE, IN_USE, CLOSING, GONE}),
    # To RESETTING: its request was ended at the server, and it is kept.
    CLOSING: frozenset({RESETTING, GONE}),
    GONE: frozenset(),
}


class CloseReason(enum.Enum):
    """Why a connection was closed."""

    EXPIRED = "expired"
    IDLE = "idle too long"
    UNUSABLE = "unusable"
    PING_FAILED = "ping failed"
    RESET_FAILED = "reset failed"
    BORROWER_FAILED = "borrower failed"
    HOLDER_DIED = "holder died"
    DROPPED = "dropped"
    DRAINED = "drained"
    SUSPECT = "suspect"
    SURPLUS = "surplus"
    INTERRUPTED = "interrupted"
    POOL_CLOSED = "pool closed"


def anyone() -> None:
    """The holder of a loan that anyone may give back."""


class Entry(Generic[C]):
    """A place with its book-keeping. Times are seconds of the pool's clock."""

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
        #: until when it may be lent without a further look
        self.ready_until = FOREVER
        #: when it was last used
        self.used = 0.0
        #: when it was last known to be alive
        self.alive = 0.0
        #: when it was lent
        self.since = 0.0
        #: gives the greenlet that holds it, or None; never keeps that greenlet alive.
        #: None while nobody has borrowed it.
        self.holder: Callable[[], Any] | None = None
        #: the ``with`` block it is lent to; None: to a bare ``acquire``
        self.block: object | None = None
        #: set while it may not be lent again: why it will be closed
        self.close_reason: CloseReason | None = None
        #: whether it must be pinged because other connections were lost
        self.suspect = False
        #: for whom it is being opened; or whom it was handed to, until that one runs
        self.waiter = waiter

    def __repr__(self) -> str:
        return f"<Entry {self.state.value} {safe_repr(getattr(self, 'conn', None))}>"


class Waiter(Generic[C]):
    """A place in the line: to be filled with an entry, or failed with an error.

    Either is done once, and at once takes the slot out of the line. So an entry in a
    slot whose owner died meanwhile is visible to whoever cleans up after him.

    Whoever waits brings a slot of his own kind, which knows how to wake him: so a
    waiter is one object, and not one and a callable.
    """

    __slots__ = (
        "greenlet",
        "entry",
        "error",
        "has_attempt",
        "interrupted",
        "ledger",
        "ends",
    )

    def __init__(self, greenlet: Hashable) -> None:
        self.greenlet = greenlet
        self.entry: Entry[C] | None = None
        self.error: BaseException | None = None
        #: whose line it joined
        self.ledger: Ledger[C] | None = None
        #: when its owner leaves by a time limit of its own call; FOREVER: it has none
        self.ends = FOREVER
        #: is a connection being opened for this slot?
        self.has_attempt = False
        #: how many attempts to open a connection for this slot were killed
        self.interrupted = 0

    def wake(self) -> object:
        """The slot was filled or failed: see to it that its owner looks. No switch."""
        raise NotImplementedError


class IdleQueue(Protocol):
    """What the ledger asks of the queue of idle entries: gevent's, never blocking."""

    def get_nowait(self) -> Any: ...
    def put_nowait(self, item: Any) -> None: ...
    def qsize(self) -> int: ...
    @property
    def queue(self) -> Collection[Any]: ...


class ReturnListener(Protocol):
    """What is told of a connection that is about to go to the first in line."""

    def on_return(self, now: float) -> None: ...


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
        #: so many connections are kept open while nobody needs them
        self.min_connections = 0
        #: whether the pool was closed
        self.closed = False
        #: seconds, monotonic; a test may replace it
        self.clock: Callable[[], float] = time.monotonic
        #: whether nobody but its holder can give back a bare loan that is reclaimed
        self.owner_only = False
        self.lifo = lifo
        self.idle_queue = idle
        #: idle_queue still has them but they are no longer idle: taking an entry out
        #: of the middle of a queue would cost its length
        self.absent: set[Entry[C]] = set()
        #: likewise, but these are only being checked, and keep their place
        self.away: set[Entry[C]] = set()
        #: OPENING: these have no connection yet
        self.opening: dict[Entry[C], None] = {}
        #: every entry that has a connection, by the identity of the connection:
        #: a driver's object is never hashed or compared
        self.entries: dict[int, Entry[C]] = {}
        #: a greenlet of the pool has these
        self.checking: set[Entry[C]] = set()
        self.resetting: set[Entry[C]] = set()
        #: likewise, and for so long that nobody should wait for them
        self.lagging: set[Entry[C]] = set()
        self.closing: set[Entry[C]] = set()
        self._shelves = {
            CHECKING: self.checking,
            RESETTING: self.resetting,
            CLOSING: self.closing,
        }
        #: who waits, first come first; a greenlet can stand in it only once
        self.waiters: OrderedDict[Hashable, Waiter[C]] = OrderedDict()
        #: whether an exception, such as a RecursionError, interrupted the handling of
        #: an entry: then there may be one that nothing has. To note it takes no call,
        #: so it works at any depth of the stack.
        self.is_torn = False
        #: is told of each connection that goes to the line; None: nothing is
        self.admission: ReturnListener | None = None
        #: called when a connection was closed and its place is free; None: nothing is
        self.on_closed: Callable[[], object] | None = None
        #: with more connections than this, those that come back are closed, because
        #: other processes of the budget need their places
        self.most = sys.maxsize
        #: counts the seconds of a loan that has ended; None: nothing is measured
        self.observe_use: Callable[[float], None] | None = None
        #: places whose leases are not given back yet, though their connections are
        #: closed; to note it takes no call, so it works at any depth of the stack
        self.unreturned = 0

    # Counting.

    @property
    def size(self) -> int:
        """Places taken."""
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
        """The entries that are in *state* when their turn comes; a copy."""
        for entry in [*self.entries.values(), *self.opening]:
            if entry.state is state:
                yield entry

    # Moving an entry.

    def move(self, entry: Entry[C], state: State) -> None:
        """Change the state of *entry*: here and nowhere else.

        Only ``IDLE`` to ``IN_USE`` and back, the whole of an uncontended loan, is
        written out where it happens, in ``pool.py``, for a call costs a tenth of it.
        """
        before = entry.state
        assert state in MOVES[before], f"{before} -> {state}: {entry!r}"
        if before in self._shelves:
            self._shelves[before].remove(entry)
            if entry in self.away and state in (CLOSING, GONE):
                self.away.remove(entry)
                self.absent.add(entry)
        if state in self._shelves:
            self._shelves[state].add(entry)
        elif state is GONE and self.opening.pop(entry, entry) is entry:
            del self.entries[id(entry.conn)]
            if self.on_closed is not None:
                entry.state = state
                self.unreturned += 1
                # A full stack or memory must not keep the caller from what comes next.
                # The place is counted, so it is given back at the next occasion.
                try:
                    self.on_closed()
                except (RecursionError, MemoryError):
                    pass
        entry.state = state

    def reserve(self, entry: Entry[C] | None = None) -> Entry[C]:
        """Take a place for *entry*, before anything is opened, so that the limit holds.

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
        """The attempt to open for a certain waiter has ended, one way or the other."""
        if entry.waiter is not None:
            entry.waiter.has_attempt = False
            entry.waiter = None

    def opened(self, entry: Entry[C], conn: C) -> None:
        """The connection of a place that was being opened is there.

        :raises AssertionError: another entry has this very object.
        """
        assert id(conn) not in self.entries, f"opened twice: {conn!r}"
        del self.opening[entry]
        entry.conn = conn
        self.entries[id(conn)] = entry

    def assign(self, entry: Entry[C], now: float) -> None:
        """Give a fit connection to the first in line, or else to the idle ones."""
        if self.waiters:
            if entry in self.away:
                # It was checked at its place in the queue, which it leaves now. With
                # a line there is nothing in the queue but such places.
                self.absent |= self.away
                self.away.clear()
                self._compact()
            self.move(entry, IN_USE)
            self.assign_to_waiter(entry, now)
        else:
            self.move(entry, IDLE)
            self.make_idle(entry)

    def assign_to_waiter(self, entry: Entry[C], now: float) -> None:
        """An entry in use becomes the first waiter's, who is woken for it."""
        if self.admission is not None:
            self.admission.on_return(now)
        waiters = self.waiters
        while waiters:
            waiter = next(iter(waiters.values()))
            greenlet = waiter.greenlet
            # The wake-up comes first, because it can fail: then nothing is changed.
            # It may also run a finaliser that serves this waiter. From the next line
            # on there is no call, so nothing can come between.
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

    # The idle ones.

    def make_idle(self, entry: Entry[C]) -> None:
        """Back into the queue; at its old place if it still stands there."""
        if entry in self.away:
            self.away.remove(entry)
        else:
            self.idle_queue.put_nowait(entry)

    def take_idle(self) -> Entry[C] | None:
        """The next idle entry, out of the queue to be looked at; or None."""
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
        """Take an idle entry, wherever it stands in the queue, for something else."""
        (self.away if state is CHECKING else self.absent).add(entry)
        # Whoever meets it in the queue and looks no further than this must not lend it.
        entry.ready_until = -FOREVER
        self.move(entry, state)
        if 2 * len(self.absent) > self.idle_queue.qsize():
            self._compact()

    def _compact(self) -> None:
        # Amortised: as many entries have been withdrawn as are moved here.
        queue = self.idle_queue
        kept = [queue.get_nowait() for _ in range(queue.qsize())]
        for entry in reversed(kept) if self.lifo else kept:
            if entry not in self.absent:
                queue.put_nowait(entry)
        self.absent.clear()

    def queued(self) -> set[Entry[C]]:
        """The entries that stand in the queue and may be taken out of it."""
        return {*self.idle_queue.queue} - self.absent - self.away

    # The lent ones.

    def lent(self, conn: C) -> Entry[C]:
        """The entry of a connection that is on loan.

        :raises ConnectionNotFoundError: it is not.
        """
        entry = self.entries.get(id(conn))
        if entry is None or entry.conn is not conn or entry.state is not IN_USE:
            raise ConnectionNotFoundError(
                f"not on loan from this pool: {safe_repr(conn)}"
            )
        return entry

    # The line.

    def add_waiter(self, waiter: S) -> S:
        """Put *waiter* at the end of the line; it is returned."""
        greenlet = waiter.greenlet
        assert greenlet not in self.waiters, f"waits already: {greenlet!r}"
        self.waiters[greenlet] = waiter
        waiter.ledger = self
        return waiter

    def remove_waiter(self, waiter: Waiter[C]) -> None:
        """Out of the line, if still in it."""
        if self.waiters.get(waiter.greenlet) is waiter:
            del self.waiters[waiter.greenlet]

    def fail(self, waiter: Waiter[C], error: BaseException) -> None:
        """Let the owner of a slot that is still in the line have *error*."""
        if self.waiters.get(waiter.greenlet) is waiter:
            # In this order for the reasons given in assign_to_waiter().
            waiter.wake()
            if (
                waiter.greenlet in self.waiters
                and self.waiters[waiter.greenlet] is waiter
            ):
                del self.waiters[waiter.greenlet]
                waiter.error = error

    def next_unattempted(self) -> Waiter[C] | None:
        """The first in line for whom no connection is being opened."""
        for waiter in self.waiters.values():
            if not waiter.has_attempt:
                return waiter
        return None
