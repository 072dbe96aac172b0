"""The greenlets that hold loans: the pool hears of their end."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.monkey import get_original
from greenlet import greenlet

from geventpool._core.holders import Holder, Holders

start_thread = get_original("_thread", "start_new_thread")
Lock = get_original("_thread", "allocate_lock")


class Office:
    """Hears of deaths, and where it was told of them."""

    def __init__(self, watch=True):
        self.deaths = []
        self.told_in = []
        self.holders = Holders(self.died, watch)

    def died(self, holder):
        self.deaths.append(holder)
        self.told_in.append(gevent.getcurrent())

    @property
    def lost(self):
        return [holder.loan for holder in self.deaths]


@pytest.fixture
def office():
    return Office()


def in_a_thread(work, *args):
    """Run *work* in a thread without event loop, and wait for it."""
    done = Lock()
    done.acquire()

    def run():
        try:
            work(*args)
        finally:
            done.release()

    start_thread(run, ())
    done.acquire()


class Counting(gevent.Greenlet):
    """A greenlet that counts its links."""

    def __init__(self, *args):
        super().__init__(*args)
        self.linked = 0

    def rawlink(self, callback):
        self.linked += 1
        super().rawlink(callback)

    def unlink(self, callback):
        self.linked -= 1
        super().unlink(callback)


def never():
    Event().wait()


def raw(work, *args):
    """A raw greenlet, run until *work* switches back or ends."""
    made = greenlet(work)
    made.switch(*args)
    return made


# What one greenlet holds.


def test_a_holder_knows_what_it_holds():
    """However many, and in whatever order they end."""
    holder = Holder(gevent.getcurrent(), print)
    assert not holder.has_loans
    holder.set_loan("a")
    assert holder.has_loans and holder.loans == ["a"]
    holder.loan = None
    assert not holder.has_loans
    holder.set_loan("b")
    holder.set_loan("c")
    assert sorted(holder.loans) == ["b", "c"]
    holder.ended("b")
    assert holder.loans == ["c"]
    holder.ended("c")
    assert not holder.has_loans


def test_a_holder_does_not_keep_its_greenlet_alive(office):
    """Calling it gives the greenlet as long as there is one."""
    target = gevent.Greenlet(never)
    holder = office.holders.register(target)
    assert holder() is target
    del target
    assert holder() is None


# Who is known.


def test_a_greenlet_is_linked_once(office):
    """Enlisting it again gives the same holder, and no second link."""
    target = Counting.spawn(never)
    holder = office.holders.register(target)
    assert office.holders.register(target) is holder
    assert target.linked == 1
    holder.set_loan("loan")
    target.kill()
    gevent.idle()
    assert office.lost == ["loan"]


@pytest.mark.parametrize(
    "die",
    [
        lambda target, gate: gate.set(),
        lambda target, gate: target.kill(),
        lambda target, gate: target.kill(ValueError),
    ],
    ids=["return", "kill", "error"],
)
def test_a_death_is_told_once_and_in_the_hub(office, hub_errors, die):
    """However the greenlet ends, the pool that lent to it hears of it."""
    gate = Event()
    target = gevent.spawn(gate.wait)
    holder = office.holders.register(target)
    holder.set_loan("loan")
    gevent.idle()
    die(target, gate)
    gevent.idle()
    office.holders.sweep()
    del target
    gc.collect()
    gevent.idle()
    assert office.deaths == [holder] and office.lost == ["loan"]
    assert office.told_in == [gevent.get_hub()]
    assert not office.holders.by_id
    hub_errors.clear()


def test_a_death_before_the_start_is_told(office):
    """A loan may be given to a greenlet that never gets to run."""
    target = gevent.spawn(never)
    office.holders.register(target).set_loan("loan")
    target.kill(block=False)
    gevent.idle()
    assert office.lost == ["loan"]


def test_a_loan_to_the_dead_is_told(office):
    """A greenlet that had ended when it was enlisted is no exception."""
    target = gevent.spawn(int)
    target.join()
    office.holders.register(target).set_loan("loan")
    gevent.idle()
    assert office.lost == ["loan"]


def test_a_death_without_loans_is_not_told(office):
    """Who gave everything back leaves nothing but is forgotten."""
    target = gevent.spawn(int)
    holder = office.holders.register(target)
    holder.set_loan("loan")
    holder.loan = None
    gevent.idle()
    assert not office.deaths and not office.holders.by_id


@pytest.mark.parametrize("end", ["death", "collection", "sweep"])
def test_nobody_is_told_who_does_not_watch(end):
    """Without watching the dead are forgotten all the same."""
    office = Office(watch=False)
    if end == "death":
        target = Counting.spawn(int)
        office.holders.register(target).set_loan("loan")
        assert not target.linked
        target.join()
        del target
    elif end == "collection":
        office.holders.register(gevent.Greenlet(never)).set_loan("loan")
    else:
        target = raw(int)
        office.holders.register(target).set_loan("loan")
        office.holders.sweep()
    gevent.idle()
    assert not office.deaths and not office.holders.by_id


def test_a_watcher_is_not_kept_alive():
    """A pool that everybody has forgotten does not live on in its borrowers' links."""
    office = Office()
    target = gevent.spawn(never)
    office.holders.register(target).set_loan("loan")
    gone = weakref.ref(office)
    del office
    gc.collect()
    assert gone() is None
    target.kill()
    gevent.idle()


@pytest.mark.parametrize("watch", [True, False])
def test_after_disbanding_nobody_is_known(watch):
    """A greenlet that outlives many pools does not collect their links."""
    office = Office(watch)
    main = gevent.getcurrent()
    target = Counting.spawn(never)
    others = [raw(main.switch), raw(int)]
    for each in (target, *others, raw(main.switch)):
        office.holders.register(each).set_loan("loan")
    office.holders.clear()
    assert not office.holders.by_id
    assert not target.has_links()
    target.kill()
    others.clear()
    gevent.idle()
    assert not office.deaths


# Greenlets without links.


def test_a_raw_greenlet_that_ended_is_found_by_a_sweep(office):
    """It has no links; somebody has to look, and leaves the others alone."""
    main = gevent.getcurrent()
    dead, alive = raw(int), raw(main.switch)
    office.holders.register(dead).set_loan("lost")
    office.holders.register(alive).set_loan("kept")
    office.holders.sweep()
    assert office.lost == ["lost"]
    assert [holder() for holder in office.holders.by_id.values()] == [alive]


def test_a_sweep_finds_nothing_twice(office):
    """A holder that was told of once is forgotten."""
    dead = raw(int)
    office.holders.register(dead).set_loan("lost")
    office.holders.sweep()
    office.holders.sweep()
    assert office.lost == ["lost"]


def test_a_forgotten_greenlet_is_told_of_in_the_hub(office):
    """Collecting it ends it; that may happen anywhere, so it is only scheduled."""
    main = gevent.getcurrent()
    target = raw(main.switch)
    office.holders.register(target).set_loan("loan")
    del target
    assert not office.deaths
    # Not even a sweep in between comes first.
    office.holders.sweep()
    gevent.idle()
    assert office.lost == ["loan"] and office.told_in == [gevent.get_hub()]
    assert not office.holders.by_id


def test_a_greenlet_collected_by_another_thread_is_told_of(office):
    """The garbage collector runs in any thread; the telling is for the hub."""
    box = [gevent.Greenlet(never)]
    office.holders.register(box[0]).set_loan("loan")
    in_a_thread(box.clear)
    assert not office.deaths
    gevent.idle()
    assert office.lost == ["loan"] and office.told_in == [gevent.get_hub()]


def test_the_next_at_the_same_address_is_somebody_else(office):
    """A new greenlet does not inherit the record of a collected one."""
    main = gevent.getcurrent()
    seen: dict[Any, Any] = {}
    shared = 0
    for _ in range(50):
        target = raw(main.switch)
        before = seen.get(id(target))
        shared += before is not None
        holder = office.holders.register(target)
        assert holder is not before and holder() is target
        seen[id(target)] = holder
        del target
    # Else this has proved nothing: the addresses were all different.
    assert shared
    gevent.idle()
    assert not office.deaths


def test_the_loan_of_a_collected_greenlet_is_not_the_next_ones(office):
    """What is told of is the loan that was lost, and the living are left alone."""
    main = gevent.getcurrent()
    living = []
    for number in range(50):
        target = raw(main.switch)
        office.holders.register(target).set_loan(("lost", number))
        del target
        living.append(raw(main.switch))
        office.holders.register(living[-1]).set_loan(("kept", number))
    gevent.idle()
    assert sorted(office.lost) == [("lost", number) for number in range(50)]
    assert {holder() for holder in office.holders.by_id.values()} == set(living)


def test_a_finaliser_after_the_end_of_the_loop_is_silent():
    """A greenlet may be collected later than the event loop of its thread."""
    left: list[Any] = []

    def work():
        office = Office()
        target = gevent.Greenlet(never)
        office.holders.register(target).set_loan("loan")
        gevent.get_hub().destroy(destroy_loop=True)
        left.extend((office, target))

    in_a_thread(work)
    office = left[0]
    # What goes wrong in a finaliser is a warning, and warnings are errors.
    left.clear()
    gc.collect()
    assert not office.deaths and not office.holders.by_id
