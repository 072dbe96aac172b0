"""The states of connections and the waiters, without gevent.

Nothing here imports gevent but for the two machines at the end, and that they need
not is shown by running the first in a process that has none.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from geventpool._core.ledger import Entry, Ledger, Waiter
from geventpool._core.states import (
    CHECKING,
    CLOSING,
    GONE,
    IDLE,
    IN_USE,
    OPENING,
    RESETTING,
    State,
)
from geventpool.errors import ConnectionNotFoundError

FOREVER = float("inf")


class Row:
    """A queue of which the oldest item is taken first."""

    def __init__(self):
        self.items: deque[Any] = deque()

    def put_nowait(self, item):
        self.items.append(item)

    def get_nowait(self):
        if not self.items:
            raise Empty
        return self.items.popleft()

    def qsize(self):
        return len(self.items)

    @property
    def queue(self):
        return self.items


class Stack(Row):
    """A queue of which the newest item is taken first."""

    def get_nowait(self):
        if not self.items:
            raise Empty
        return self.items.pop()


class Conn:
    """As hostile as a driver's object may be: it can't be hashed or compared."""

    def __eq__(self, other):
        raise AssertionError("compared")

    __hash__ = None  # type: ignore[assignment]


def make(max_connections=10, lifo=True):
    return Ledger(Stack() if lifo else Row(), max_connections, lifo)


def lent(ledger):
    """An entry that is in use."""
    entry = ledger.reserve()
    ledger.opened(entry, Conn())
    ledger.move(entry, IN_USE)
    return entry


def idle(ledger, number):
    """So many entries that are idle, in the order they became so."""
    entries = [lent(ledger) for _ in range(number)]
    for entry in entries:
        ledger.assign(entry, 0)
    return entries


def entry_in(ledger, state):
    """An entry that came into *state* as a pool would bring it there."""
    if state is OPENING:
        return ledger.reserve()
    if state in (IDLE, CHECKING):
        (entry,) = idle(ledger, 1)
        if state is CHECKING:
            assert ledger.take_idle() is entry
        return entry
    entry = lent(ledger)
    if state is not IN_USE:
        ledger.move(entry, state)
    return entry


def taken(ledger):
    """The idle entries in the order in which they are taken; none is left."""
    return list(iter(ledger.take_idle, None))


# The table of moves.

LEGAL = {
    OPENING: {IDLE, IN_USE, CLOSING, GONE},
    IDLE: {IN_USE, CHECKING, CLOSING, GONE},
    IN_USE: {IDLE, IN_USE, RESETTING, CLOSING, GONE},
    CHECKING: {IDLE, IN_USE, CLOSING, GONE},
    RESETTING: {IDLE, IN_USE, CLOSING, GONE},
    CLOSING: {RESETTING, GONE},
    GONE: set(),
}

MOVES = [(before, after) for before in State for after in State]


def named(value):
    return value.name


def shelves_with(ledger, entry):
    """In which containers an entry is."""
    return [
        state
        for state, shelf in (
            (OPENING, ledger.opening),
            (CHECKING, ledger.checking),
            (RESETTING, ledger.resetting),
            (CLOSING, ledger.closing),
        )
        if entry in shelf
    ]


@pytest.mark.parametrize("before, after", MOVES, ids=named)
def test_an_entry_moves_as_the_table_allows(before, after):
    """A legal move changes the state and the shelf; any other is a bug of ours."""
    ledger = make()
    entry = entry_in(ledger, before)
    if after in LEGAL[before]:
        if before is OPENING and after is not GONE:
            ledger.opened(entry, Conn())
        ledger.move(entry, after)
        assert entry.state is after
        shelved = after in (CHECKING, RESETTING, CLOSING)
        assert shelves_with(ledger, entry) == ([after] if shelved else [])
        assert ledger.size == (after is not GONE)
    else:
        was = shelves_with(ledger, entry), ledger.size
        with pytest.raises(AssertionError, match=f"^{before} -> {after}: <Entry"):
            ledger.move(entry, after)
        assert entry.state is before
        assert (shelves_with(ledger, entry), ledger.size) == was


def test_a_state_can_be_looked_up():
    """Each is a key of its own, however it was come by."""
    assert {state: state.value for state in State}[State("in use")] == "in use"
    assert len(set(map(hash, State))) == len(State)


def test_an_entry_shows_what_it_is():
    """For messages: its state, and its connection when there is one."""
    ledger = make()
    entry = ledger.reserve()
    assert repr(entry) == "<Entry opening None>"
    ledger.opened(entry, "conn")
    ledger.move(entry, IN_USE)
    assert repr(entry) == "<Entry in use 'conn'>"


# Places.


def test_a_place_is_taken_before_anything_is_opened():
    """So the server never sees more than the limit."""
    ledger = make(max_connections=2)
    ledger.reserve()
    assert (ledger.size, ledger.has_room) == (1, True)
    ledger.reserve()
    assert (ledger.size, ledger.has_room) == (2, False)
    with pytest.raises(AssertionError, match="^no room"):
        ledger.reserve()


@pytest.mark.parametrize("state", [state for state in State if state is not GONE])
def test_every_state_takes_a_place(state):
    """A connection being opened, checked, cleaned or closed counts like any other."""
    ledger = make(max_connections=1)
    entry_in(ledger, state)
    assert ledger.size == 1 and not ledger.has_room


@pytest.mark.parametrize("state", [state for state in State if state is not GONE])
def test_a_place_is_free_once_its_connection_is_gone(state):
    """From every state an entry can go, and is counted nowhere then."""
    ledger = make(max_connections=1)
    entry = entry_in(ledger, state)
    if state is IDLE:
        ledger.withdraw(entry, GONE)
    else:
        ledger.move(entry, GONE)
    assert ledger.size == ledger.idle == ledger.in_use == 0
    assert ledger.has_room
    assert not shelves_with(ledger, entry)


def test_one_object_is_not_opened_twice():
    """Two entries with one connection would lend it twice; nothing is changed."""
    ledger = make()
    conn = Conn()
    ledger.opened(ledger.reserve(), conn)
    second = ledger.reserve()
    with pytest.raises(AssertionError, match="^opened twice: "):
        ledger.opened(second, conn)
    assert second in ledger.opening and ledger.size == 2


def test_all_in_a_state_may_change_while_they_are_gone_through():
    """Each is looked at when its turn comes: who has left the state is passed over."""
    ledger = make()
    first, second, third = idle(ledger, 3)
    opening = ledger.reserve()
    seen = []
    for entry in ledger.all_in(IDLE):
        seen.append(entry)
        if entry is first:
            ledger.withdraw(second, GONE)
    assert seen == [first, third]
    assert list(ledger.all_in(OPENING)) == [opening]


# Idle ones.


@pytest.mark.parametrize("lifo", [True, False])
def test_idle_entries_are_taken_in_the_order_of_the_queue(lifo):
    """The last first, or the first first; each is out of the queue, to be looked at."""
    ledger = make(lifo=lifo)
    entries = idle(ledger, 4)
    assert ledger.idle == 4
    assert taken(ledger) == (entries[::-1] if lifo else entries)
    assert ledger.idle == 0 and ledger.checking == set(entries)


def test_without_idle_entries_none_is_taken():
    """None, and no waiting."""
    assert make().take_idle() is None


@pytest.mark.parametrize("lifo", [True, False])
@pytest.mark.parametrize("state", [CHECKING, CLOSING, GONE], ids=named)
@pytest.mark.parametrize("place", range(5))
def test_one_withdrawn_is_not_taken(lifo, state, place):
    """Wherever it stood; and the others keep their order."""
    ledger = make(lifo=lifo)
    entries = idle(ledger, 5)
    gone = entries.pop(place)
    ledger.withdraw(gone, state)
    assert gone.state is state
    assert (ledger.idle, ledger.in_use) == (4, 0)
    assert taken(ledger) == (entries[::-1] if lifo else entries)
    assert not ledger.absent and not ledger.away


@pytest.mark.parametrize("lifo", [True, False])
@pytest.mark.parametrize("place", range(5))
def test_one_that_was_checked_keeps_its_place(lifo, place):
    """A ping is no use: the order of reuse is that of before."""
    ledger = make(lifo=lifo)
    entries = idle(ledger, 5)
    ledger.withdraw(entries[place], CHECKING)
    ledger.assign(entries[place], 0)
    assert ledger.idle == 5 and not ledger.away
    assert taken(ledger) == (entries[::-1] if lifo else entries)


@pytest.mark.parametrize("lifo", [True, False])
def test_all_may_be_checked_at_once_and_keep_their_order(lifo):
    """In whatever order they come back."""
    ledger = make(lifo=lifo)
    entries = idle(ledger, 5)
    for entry in entries:
        ledger.withdraw(entry, CHECKING)
    assert ledger.idle == 0
    for place in (2, 0, 4, 1, 3):
        ledger.assign(entries[place], 0)
    assert taken(ledger) == (entries[::-1] if lifo else entries)


@pytest.mark.parametrize("state", [CLOSING, GONE], ids=named)
def test_one_that_failed_its_check_loses_its_place(state):
    """It is neither idle nor counted as such, and never taken."""
    ledger = make()
    entries = idle(ledger, 3)
    ledger.withdraw(entries[1], CHECKING)
    ledger.move(entries[1], state)
    assert (ledger.idle, ledger.in_use) == (2, 0)
    assert ledger.absent == {entries[1]} and not ledger.away
    assert taken(ledger) == [entries[2], entries[0]]
    assert not ledger.absent and not ledger.away


def test_the_short_way_does_not_lend_what_was_withdrawn():
    """It looks at nothing but *ready_until* of what it finds in the queue."""
    ledger = make()
    entries = idle(ledger, 5)
    for entry in entries:
        assert entry.ready_until == FOREVER
    for entry, state in zip(entries, (CHECKING, CLOSING, GONE)):
        ledger.withdraw(entry, state)
        assert entry.ready_until == -FOREVER


@pytest.mark.parametrize("lifo", [True, False])
def test_the_queue_does_not_fill_with_the_withdrawn(lifo):
    """At most half of it, and the work to clear it is bounded by their number."""
    ledger = make(1000, lifo)
    entries = idle(ledger, 1000)
    queue, moved = ledger.idle_queue, []
    put = queue.put_nowait

    def note(entry):
        moved.append(entry)
        put(entry)

    queue.put_nowait = note
    kept = []
    for number, entry in enumerate(entries):
        if number % 10:
            ledger.withdraw(entry, GONE)
            assert 2 * len(ledger.absent) <= queue.qsize()
        else:
            kept.append(entry)
    assert len(moved) <= 1000
    assert taken(ledger) == (kept[::-1] if lifo else kept)


# Lent ones.


def test_a_loan_is_found_by_identity():
    """The driver's object is neither hashed nor compared."""
    ledger = make()
    entry = lent(ledger)
    assert ledger.lent(entry.conn) is entry


@pytest.mark.parametrize("state", [IDLE, CHECKING, RESETTING, CLOSING, GONE], ids=named)
def test_what_is_not_on_loan_is_not_found(state):
    """Given back, or being seen to: it is nobody's to give back."""
    ledger = make()
    entry = entry_in(ledger, state)
    with pytest.raises(ConnectionNotFoundError, match="^not on loan from this pool: "):
        ledger.lent(entry.conn)


def test_a_foreign_connection_is_not_found():
    """Not even if it has the address of one that is on loan."""
    ledger = make()
    entry = lent(ledger)
    with pytest.raises(ConnectionNotFoundError):
        ledger.lent(Conn())
    stranger = Conn()
    ledger.entries[id(stranger)] = entry
    with pytest.raises(ConnectionNotFoundError):
        ledger.lent(stranger)


# The line.


class NamedWaiter(Waiter):
    """Joins the line and counts how often it is woken."""

    def __init__(self, ledger, name):
        super().__init__(name)
        self.name = name
        self.woken = 0
        self.waiter = ledger.add_waiter(self)

    def wake(self):
        self.woken += 1


class Noted(Waiter):
    """Its name is put down when it is woken."""

    def __init__(self, name, woken):
        super().__init__(name)
        self.woken = woken

    def wake(self):
        self.woken.append(self.greenlet)


def test_first_come_first_served():
    """A connection goes to the first in line, who is woken for it, and to no other."""
    ledger = make()
    entries = [lent(ledger) for _ in range(3)]
    waiters = [NamedWaiter(ledger, name) for name in "abc"]
    for number, entry in enumerate(entries):
        ledger.assign(entry, 7.0)
        assert [waiter.woken for waiter in waiters] == [1] * (number + 1) + [0] * (
            2 - number
        )
        assert waiters[number].waiter.entry is entry
        assert (entry.state, entry.since) == (IN_USE, 7.0)
    assert not ledger.waiters and ledger.idle == 0


def test_a_connection_handed_over_is_nobodys_yet():
    """The former holder and its block are not involved any more."""
    ledger = make()
    entry = lent(ledger)
    entry.holder, entry.block = (lambda: "somebody"), object()
    waiter = NamedWaiter(ledger, "a")
    ledger.assign_to_waiter(entry, 7.0)
    assert waiter.waiter.entry is entry and waiter.woken == 1
    assert (entry.holder, entry.block, entry.since) == (None, None, 7.0)
    assert entry.state is IN_USE and not ledger.waiters


class Served(NamedWaiter):
    """A finaliser that runs in its wake-up takes it out of the line."""

    def wake(self):
        super().wake()
        assert self.ledger is not None
        self.ledger.remove_waiter(self)


def test_who_leaves_the_line_while_woken_gets_nothing_and_the_next_one_is_served():
    """Any call may run a finaliser, and that may give something back itself."""
    ledger = make()
    entry = lent(ledger)
    gone = Served(ledger, "a")
    gone.ledger = ledger
    waiter = NamedWaiter(ledger, "b")
    ledger.assign_to_waiter(entry, 7.0)
    assert gone.waiter.entry is None and waiter.waiter.entry is entry
    gone = Served(ledger, "c")
    gone.ledger = ledger
    again = lent(ledger)
    ledger.assign_to_waiter(again, 7.0)
    assert gone.waiter.entry is None and again.state is IDLE and ledger.idle == 1
    gone = Served(ledger, "d")
    gone.ledger = ledger
    ledger.fail(gone, KeyError())
    assert gone.error is None


@pytest.mark.parametrize("state", [OPENING, IN_USE, CHECKING, RESETTING], ids=named)
@pytest.mark.parametrize("waits", [True, False])
def test_wherever_it_comes_from_it_goes_to_who_waits(state, waits):
    """Opened, returned, checked or cleaned: to the line, or else to the idle ones."""
    ledger = make()
    entry = entry_in(ledger, state)
    if state is OPENING:
        ledger.opened(entry, Conn())
    if waits:
        waiter = NamedWaiter(ledger, "a")
    ledger.assign(entry, 1.0)
    assert entry.state is (IN_USE if waits else IDLE)
    assert (ledger.in_use, ledger.idle) == ((1, 0) if waits else (0, 1))
    assert not waits or waiter.waiter.entry is entry
    assert not shelves_with(ledger, entry)


@pytest.mark.parametrize("lifo", [True, False])
def test_one_that_was_checked_at_its_place_leaves_it_for_who_waits(lifo):
    """It is not taken again when its place in the queue has its turn."""
    ledger = make(lifo=lifo)
    first, second, third = idle(ledger, 3)
    for entry in (first, second, third):
        ledger.withdraw(entry, CHECKING)
    waiter = NamedWaiter(ledger, "a")
    ledger.assign(second, 1.0)
    assert waiter.waiter.entry is second
    assert (ledger.in_use, ledger.idle) == (1, 0)
    ledger.assign(third, 1.0)
    ledger.assign(first, 1.0)
    assert ledger.idle == 2
    # The others lost their places with it: they stand in the order of their return.
    assert taken(ledger) == ([first, third] if lifo else [third, first])


def test_nobody_stands_in_the_line_twice():
    """A greenlet can wait for one thing at a time."""
    ledger = make()
    ledger.add_waiter(Waiter("a"))
    with pytest.raises(AssertionError, match="^waits already: 'a'"):
        ledger.add_waiter(Waiter("a"))


def test_a_slot_that_cannot_wake_its_owner_says_so():
    """A waiter that is served and never woken would wait without limit."""
    ledger = make()
    ledger.add_waiter(Waiter("a"))
    with pytest.raises(NotImplementedError):
        ledger.assign(lent(ledger), 0)


def test_who_leaves_the_line_is_not_served():
    """Leaving is quiet, and may be done again."""
    ledger = make()
    entry = lent(ledger)
    first, second = NamedWaiter(ledger, "a"), NamedWaiter(ledger, "b")
    ledger.remove_waiter(first.waiter)
    ledger.remove_waiter(first.waiter)
    assert list(ledger.waiters) == ["b"]
    ledger.assign(entry, 0)
    assert (first.woken, second.woken) == (0, 1)


def test_a_slot_of_before_does_not_end_the_present_wait():
    """A greenlet that was served, and waits again, is not removed by its old waiter."""
    ledger = make()
    former = NamedWaiter(ledger, "a")
    ledger.assign(lent(ledger), 0)
    present = NamedWaiter(ledger, "a")
    ledger.remove_waiter(former.waiter)
    ledger.fail(former.waiter, OSError())
    assert ledger.waiters == {"a": present.waiter}
    assert former.waiter.error is None and (former.woken, present.woken) == (1, 0)


def test_who_is_failed_is_woken_once_and_out_of_the_line():
    """The error is for one waiter alone; later events do not change it."""
    ledger = make()
    first, second = NamedWaiter(ledger, "a"), NamedWaiter(ledger, "b")
    error = OSError("refused")
    ledger.fail(first.waiter, error)
    ledger.fail(first.waiter, OSError("again"))
    assert first.waiter.error is error and first.waiter.entry is None
    assert (first.woken, second.woken) == (1, 0)
    assert list(ledger.waiters) == ["b"]


def test_a_slot_that_was_filled_is_not_failed():
    """Whichever comes first counts."""
    ledger = make()
    waiter = NamedWaiter(ledger, "a")
    ledger.assign(lent(ledger), 0)
    ledger.fail(waiter.waiter, OSError())
    assert waiter.waiter.error is None and waiter.woken == 1


def test_connections_are_opened_for_those_who_wait_in_turn():
    """The first without an attempt; when its attempt has ended, the same again."""
    ledger = make()
    assert ledger.next_unattempted() is None
    first, second = (NamedWaiter(ledger, name).waiter for name in "ab")
    entry = ledger.reserve(Entry(first))
    assert ledger.next_unattempted() is second
    ledger.reserve(Entry(second))
    assert ledger.next_unattempted() is None
    ledger.settle(entry)
    assert ledger.next_unattempted() is first
    # Of an entry for the stock there is nothing to settle.
    ledger.settle(entry)
    ledger.settle(ledger.reserve())
    assert ledger.next_unattempted() is first


# Everything at once: as the pool uses it, beside a model too simple to be wrong.


def if_any(*states):
    """Only while there is an entry in one of *states*: else the step would be idle."""
    return precondition(lambda self: self.all(*states))


if_any_loan = precondition(lambda self: self.loans())


class LedgerMachine(RuleBasedStateMachine):
    """Steps of a pool in any order, on a ledger and on its model.

    The model keeps the state of each entry in a dictionary, the queue as a list in
    which entries that are being checked keep their places, and the line as a list of
    names.
    """

    def make_queue(self, lifo):
        return Stack() if lifo else Row()

    @initialize(limit=st.integers(1, 12), stock=st.integers(0, 12), lifo=st.booleans())
    def begin(self, limit, stock, lifo):
        self.ledger: Ledger[Any] = Ledger(self.make_queue(lifo), limit, lifo)
        self.limit = limit
        self.lifo = lifo
        self.states = {}
        #: idle or checked at their place, the oldest first
        self.row = []
        self.waiters = []
        #: the waiters, and those that were woken but have not run yet
        self.slots = {}
        self.woken = []
        self.now = 0.0
        for entry in idle(self.ledger, min(stock, limit)):
            self.states[entry] = IDLE
            self.row.append(entry)

    def all(self, *states):
        return [entry for entry, state in self.states.items() if state in states]

    def some(self, pick, *states):
        found = self.all(*states)
        return found[pick % len(found)]

    def shelve(self, entry, state):
        """The model's move."""
        if state is GONE:
            del self.states[entry]
        else:
            self.states[entry] = state
        if state in (CLOSING, GONE) and entry in self.row:
            self.row.remove(entry)

    def next_idle(self):
        """The model's next idle entry; those away that are met lose their place."""
        while self.row:
            entry = self.row.pop(-1 if self.lifo else 0)
            if self.states[entry] is IDLE:
                return entry
        return None

    # Borrowing.

    @precondition(lambda self: len(self.slots) < 6)
    @rule(short=st.booleans())
    def acquire(self, short):
        self.now += 1
        if self.ledger.waiters:
            entry = None
        elif short and self.lend_the_short_way():
            return
        else:
            entry = self.ledger.take_idle()
            assert entry is self.next_idle()
        if entry is not None:
            self.ledger.move(entry, IN_USE)
            self.shelve(entry, IN_USE)
        else:
            name = min(set(range(6)) - self.slots.keys())
            self.slots[name] = self.ledger.add_waiter(Noted(name, self.woken))
            self.waiters.append(name)
            self.serve()

    def lend_the_short_way(self):
        """Written out in the pool: it knows the queue, and of an entry when it fits."""
        queue = self.ledger.idle_queue
        try:
            entry = queue.get_nowait()
        except Empty:
            return False
        if entry.ready_until < self.now:
            queue.put_nowait(entry)
            if entry in self.row and not self.lifo:
                self.row.append(self.row.pop(0))
            return False
        assert entry is self.next_idle()
        entry.state = IN_USE
        self.shelve(entry, IN_USE)
        return True

    @precondition(lambda self: self.woken)
    @rule(pick=st.integers(0, 99), killed=st.booleans())
    def run_one_who_was_woken(self, pick, killed):
        """It takes its connection; or it was killed, and the next one gets it."""
        name = self.woken.pop(pick % len(self.woken))
        slot = self.slots.pop(name)
        assert (slot.entry is None) != (slot.error is None)
        if killed:
            self.ledger.remove_waiter(slot)
            if slot.entry is not None:
                self.supply(slot.entry)

    @precondition(lambda self: self.waiters)
    @rule(pick=st.integers(0, 99))
    def lose_patience(self, pick):
        name = self.waiters.pop(pick % len(self.waiters))
        self.ledger.remove_waiter(self.slots.pop(name))

    # Giving back.

    @if_any_loan
    @rule(pick=st.integers(0, 99), short=st.booleans())
    def give_back(self, pick, short):
        entry = self.a_loan(pick)
        if not self.waiters:
            if short:
                entry.state = IDLE
                self.ledger.idle_queue.put_nowait(entry)
            else:
                self.ledger.assign(entry, self.now)
            self.shelve(entry, IDLE)
            self.row.append(entry)
        elif short:
            self.expect_served(entry, self.ledger.assign_to_waiter)
        else:
            self.supply(entry)

    def loans(self):
        """What somebody has: not what was handed to a waiter who has not run yet."""
        under_way = {self.slots[name].entry for name in self.woken}
        return [entry for entry in self.all(IN_USE) if entry not in under_way]

    def a_loan(self, pick):
        found = self.loans()
        return found[pick % len(found)]

    def supply(self, entry):
        """Fit to be lent: to the first in line, or else to the idle ones."""
        entry.ready_until = FOREVER
        if self.waiters:
            self.expect_served(entry, self.ledger.assign)
        else:
            self.ledger.assign(entry, self.now)
            self.shelve(entry, IDLE)
            if entry not in self.row:
                self.row.append(entry)

    def expect_served(self, entry, serve):
        name = self.waiters.pop(0)
        slot, woken = self.slots[name], list(self.woken)
        assert slot.entry is None
        entry.holder, entry.block = (lambda: "former"), object()
        serve(entry, self.now)
        served: Any = slot.entry
        assert served is entry and self.woken == [*woken, name]
        assert (entry.since, entry.holder, entry.block) == (self.now, None, None)
        self.shelve(entry, IN_USE)

    @if_any_loan
    @rule(pick=st.integers(0, 99))
    def clean(self, pick):
        entry = self.a_loan(pick)
        self.ledger.move(entry, RESETTING)
        self.shelve(entry, RESETTING)

    @if_any_loan
    @rule(pick=st.integers(0, 99), state=st.sampled_from([CLOSING, GONE]))
    def drop(self, pick, state):
        self.leave_for(self.a_loan(pick), state)

    # Looking after them.

    @if_any(IDLE)
    @rule(
        fates=st.lists(
            st.sampled_from([IDLE, CHECKING, CLOSING, GONE]), min_size=12, max_size=12
        )
        | st.sampled_from([CHECKING, GONE]).map(lambda fate: [fate] * 12)
    )
    def sweep(self, fates):
        """One after another is withdrawn for something, or left alone."""
        for entry, fate in zip(self.all(IDLE), fates):
            if fate is not IDLE:
                self.ledger.withdraw(entry, fate)
                self.shelve(entry, fate)
                self.the_queue_is_as_in_the_model()
        self.serve()

    @if_any(IDLE)
    @rule(state=st.sampled_from([CHECKING, CLOSING, GONE]))
    def take_and_send_away(self, state):
        """An acquirer meets one that is not fit, and looks further."""
        entry = self.ledger.take_idle()
        assert entry is self.next_idle()
        self.shelve(entry, CHECKING)
        if state is not CHECKING:
            self.leave_for(entry, state)

    @if_any(CHECKING, RESETTING)
    @rule(pick=st.integers(0, 99))
    def assign_or_close(self, pick):
        """A check or a clean-up went well."""
        self.supply(self.some(pick, CHECKING, RESETTING))

    @if_any(CHECKING, RESETTING)
    @rule(pick=st.integers(0, 99), state=st.sampled_from([CLOSING, GONE]))
    def reject(self, pick, state):
        """A check or a reset failed, or there is a reason to close the connection."""
        self.leave_for(self.some(pick, CHECKING, RESETTING), state)

    @if_any(CLOSING)
    @rule(pick=st.integers(0, 99))
    def closed(self, pick):
        self.leave_for(self.some(pick, CLOSING), GONE)

    def leave_for(self, entry, state):
        self.ledger.move(entry, state)
        self.shelve(entry, state)
        self.serve()

    # Opening.

    def serve(self):
        """As many are opened as wait, if there is room."""
        ledger = self.ledger
        while ledger.waiters and ledger.has_room:
            slot = ledger.next_unattempted()
            next_unattempted = [
                name for name in self.waiters if not self.slots[name].has_attempt
            ]
            assert (slot is None) == (not next_unattempted)
            if slot is None:
                return
            assert slot is self.slots[next_unattempted[0]]
            self.states[ledger.reserve(Entry(slot))] = OPENING
            assert slot.has_attempt

    @precondition(lambda self: self.ledger.has_room)
    @rule()
    def fill_to_minimum(self):
        self.states[self.ledger.reserve()] = OPENING

    @if_any(OPENING)
    @rule(pick=st.integers(0, 99))
    def opened(self, pick):
        entry = self.some(pick, OPENING)
        slot = entry.waiter
        self.ledger.settle(entry)
        assert entry.waiter is None and (slot is None or not slot.has_attempt)
        self.ledger.opened(entry, Conn())
        self.supply(entry)
        self.serve()

    @if_any(OPENING)
    @rule(pick=st.integers(0, 99))
    def not_opened(self, pick):
        entry = self.some(pick, OPENING)
        slot, error = entry.waiter, OSError("refused")
        self.ledger.settle(entry)
        self.ledger.move(entry, GONE)
        self.shelve(entry, GONE)
        if slot is not None:
            waits = [name for name in self.waiters if self.slots[name] is slot]
            woken = list(self.woken)
            self.ledger.fail(slot, error)
            assert self.woken == woken + waits
            assert (slot.error is error) == bool(waits)
            for name in waits:
                self.waiters.remove(name)
        self.serve()

    @rule(limit=st.integers(1, 12))
    def resize(self, limit):
        self.limit = self.ledger.max_connections = limit
        self.serve()

    # What always holds.

    @invariant()
    def each_entry_is_in_one_state_and_on_its_shelf(self):
        ledger = self.ledger
        entries = [*ledger.entries.values(), *ledger.opening]
        assert len(entries) == len(set(entries))
        assert {entry: entry.state for entry in entries} == self.states
        for state, shelf in (
            (OPENING, set(ledger.opening)),
            (CHECKING, ledger.checking),
            (RESETTING, ledger.resetting),
            (CLOSING, ledger.closing),
        ):
            assert shelf == set(ledger.all_in(state)) == set(self.all(state))
        for key, entry in ledger.entries.items():
            assert key == id(entry.conn)
            if entry.state is IN_USE:
                assert ledger.lent(entry.conn) is entry

    @invariant()
    def the_counts_add_up(self):
        ledger = self.ledger
        assert ledger.idle == len(self.all(IDLE))
        assert ledger.in_use == len(self.all(IN_USE))
        assert ledger.size == sum(
            (
                ledger.idle,
                ledger.in_use,
                len(ledger.opening),
                len(ledger.checking),
                len(ledger.resetting),
                len(ledger.closing),
            )
        )

    @invariant()
    def nothing_is_opened_beyond_the_limit(self):
        assert self.ledger.has_room == (len(self.states) < self.limit)
        # After a resize to less there may be more, but no more than there were.
        self.most = max(self.limit, min(getattr(self, "most", 12), len(self.states)))
        assert self.ledger.size <= self.most

    @invariant()
    def nobody_waits_beside_an_idle_one(self):
        assert not (self.ledger.waiters and self.ledger.idle)
        # Nor one that is checked at its place: a new waiter has looked
        # through the whole queue before.
        assert not (self.waiters and self.row)

    @invariant()
    def somebody_works_for_those_who_wait(self):
        assert (
            not self.ledger.waiters or self.ledger.opening or not self.ledger.has_room
        )

    @invariant()
    def the_line_is_in_the_order_of_arrival(self):
        assert list(self.ledger.waiters) == self.waiters
        assert list(self.ledger.waiters.values()) == [
            self.slots[n] for n in self.waiters
        ]
        for slot in self.ledger.waiters.values():
            assert slot.entry is None and slot.error is None

    @invariant()
    def nothing_is_given_to_two(self):
        given = [self.slots[name].entry for name in self.woken]
        given = [entry for entry in given if entry is not None]
        assert len(given) == len(set(given))
        assert set(given) <= set(self.all(IN_USE))
        assert sorted(self.slots) == sorted(self.waiters + self.woken)

    @invariant()
    def the_queue_is_as_in_the_model(self):
        ledger = self.ledger
        queued = list(getattr(ledger.idle_queue, "items", None) or self.emptied())
        assert len(queued) == len(set(queued)) == ledger.idle_queue.qsize()
        assert ledger.absent | ledger.away <= set(queued)
        assert not ledger.absent & ledger.away
        assert [entry for entry in queued if entry not in ledger.absent] == self.row
        assert ledger.away == {e for e in self.row if self.states[e] is CHECKING}
        for entry in queued:
            withdrawn = entry in ledger.absent or entry in ledger.away
            assert (entry.ready_until == -FOREVER) == withdrawn

    def emptied(self):
        """What stands in a queue that can't be looked into, the oldest first."""
        queue = self.ledger.idle_queue
        items = [queue.get_nowait() for _ in range(queue.qsize())]
        if self.lifo:
            items.reverse()
        for item in items:
            queue.put_nowait(item)
        return items

    def teardown(self):
        """At the end all can be brought home, and everything is counted out."""
        if not hasattr(self, "ledger"):
            return
        for name in list(self.waiters):
            self.ledger.remove_waiter(self.slots[name])
        for entry in [*self.ledger.entries.values(), *self.ledger.opening]:
            if entry.state is IDLE:
                self.ledger.withdraw(entry, GONE)
            else:
                self.ledger.move(entry, GONE)
        assert self.ledger.size == self.ledger.idle == self.ledger.in_use == 0
        assert self.ledger.take_idle() is None
        assert not self.ledger.absent and not self.ledger.away


class GeventMachine(LedgerMachine):
    """The same with the queues that the pool uses."""

    def make_queue(self, lifo):
        from gevent.queue import LifoQueue, Queue

        return LifoQueue() if lifo else Queue()


#: A few seconds each, for there are three machines.
thorough = settings(deadline=None, max_examples=100, stateful_step_count=100)


def test_the_ledger_agrees_with_its_model():
    """Whatever a pool does, and in whatever order, the invariants hold."""
    run_state_machine_as_test(LedgerMachine, settings=thorough)


def test_the_ledger_agrees_with_its_model_on_the_queues_of_gevent():
    """They are taken from and put to without ever blocking."""
    run_state_machine_as_test(GeventMachine, settings=thorough)


WITHOUT_GEVENT = """
import sys, types

class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("gevent", "greenlet"):
            raise ImportError(f"{name} must not be imported")

sys.meta_path.insert(0, Nowhere())
# The package itself imports gevent; its rooms are found without it.
package = types.ModuleType("geventpool")
package.__path__ = ["geventpool"]
sys.modules["geventpool"] = package

from tests import test_ledger

test_ledger.run_state_machine_as_test(
    test_ledger.LedgerMachine, settings=test_ledger.thorough
)
assert not {"gevent", "greenlet"} & sys.modules.keys()
print("agreed")
"""


def test_the_ledger_needs_no_gevent():
    """The same machine runs where gevent can't be imported."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_GEVENT],
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "agreed\n", done.stderr
