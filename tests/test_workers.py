"""The greenlets a pool owns, and their time limits."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from gevent.event import Event

from geventpool._core.workers import WorkerGroup, WorkQueue, within


def running(workers):
    """The greenlets of the group."""
    return workers.running


class Work:
    """Notes who began and who finished; each item waits until it is let through."""

    def __init__(self):
        self.began = []
        self.done = []
        self.gates = {}

    def __call__(self, item):
        self.began.append(item)
        self.gates.setdefault(item, Event()).wait()
        self.done.append(item)

    def let(self, *items):
        for item in items:
            self.gates.setdefault(item, Event()).set()
        gevent.idle()


@pytest.fixture
def workers():
    workers = WorkerGroup()
    yield workers
    workers.kill_all()
    gevent.idle()
    assert not running(workers)


def never():
    Event().wait()


# Time limits.


def test_work_in_time_is_left_alone():
    """What it returns and what it raises passes, and no timer is left behind."""
    loop = gevent.get_hub().loop
    active = loop.activecnt
    assert within(60, "adding", lambda a, b: a + b, 1, 2) == 3
    with pytest.raises(KeyError):
        within(60, "looking", {}.__getitem__, 1)
    assert loop.activecnt == active


def test_work_that_takes_too_long_is_cut_off():
    """It ends with the built-in TimeoutError, which tells what took how long."""
    with pytest.raises(TimeoutError) as caught:
        within(0.01, "a ping", never)
    assert str(caught.value) == "a ping took longer than 0.01 s"
    # The time-out of gevent is no part of what the driver's user gets to see.
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_no_time_is_some_time_for_what_does_not_switch():
    """A limit of 0 cuts off only at a switch."""
    assert within(0, "counting", lambda: 1) == 1
    with pytest.raises(TimeoutError):
        within(0, "waiting", never)


def test_a_foreign_timeout_passes():
    """The time limit of a caller is not mistaken for our own."""
    with gevent.Timeout(0.01) as foreign:
        with pytest.raises(gevent.Timeout) as caught:
            within(60, "opening", never)
    assert caught.value is foreign


def test_a_timeout_of_the_work_itself_passes():
    """A driver that sets a time limit of its own raises it unchanged."""
    inner = gevent.Timeout(0.01)

    def impatient():
        with inner:
            never()

    with pytest.raises(gevent.Timeout) as caught:
        within(60, "opening", impatient)
    assert caught.value is inner


def test_the_inner_of_two_limits_speaks_for_itself():
    """Nested limits are told apart, whichever is the shorter."""
    with pytest.raises(TimeoutError, match="^inner took"):
        within(60, "outer", within, 0.01, "inner", never)
    with pytest.raises(TimeoutError, match="^outer took"):
        within(0.01, "outer", within, 60, "inner", never)


# One greenlet each.


def test_to_spawn_does_not_switch(workers):
    """The work is begun when the caller next waits."""
    began: list[Any] = []
    worker = workers.spawn(began.append, 1)
    assert not began
    worker.join()
    assert began == [1]


def test_staff_is_forgotten_after_work(workers, hub_errors):
    """No reference is kept to a worker that has ended, failed, or never started."""
    workers.spawn(int)
    workers.spawn(int, "x")
    workers.spawn(int).kill(block=False)
    gevent.idle()
    assert not running(workers)
    assert [type(each.error) for each in hub_errors] == [ValueError]
    hub_errors.clear()


def test_dismissal_ends_everybody(workers):
    """At work or not yet begun: all are ended, without the caller switching."""
    work = Work()
    first = workers.spawn(work, 1)
    gevent.idle()
    second = workers.spawn(work, 2)
    workers.kill_all()
    assert not first.dead
    gevent.joinall([first, second])
    assert work.began == [1] and not work.done


def test_dismissal_does_not_concern_the_next(workers):
    """Who is hired after a dismissal, even in the same turn, works."""
    work = Work()
    crew: WorkQueue[Any] = WorkQueue(workers, 1, work)
    crew.put("old")
    gevent.idle()
    crew.put("queued")
    workers.kill_all()
    crew.put("new")
    work.let("new")
    assert work.done == ["new"]
    assert work.began == ["old", "new"]


def test_the_queue_of_a_crew_is_dismissed_too(workers):
    """Nobody goes on with what was queued, for its connection is gone."""
    work = Work()
    crew: WorkQueue[Any] = WorkQueue(workers, 2, work)
    for item in range(5):
        crew.put(item)
    gevent.idle()
    workers.kill_all()
    gevent.idle()
    assert work.began == [0, 1] and not work.done
    assert not running(workers)


# Crews.


def test_a_crew_works_in_order(workers):
    """One after another, first come first served."""
    work = Work()
    crew: WorkQueue[Any] = WorkQueue(workers, 1, work)
    for item in "abc":
        crew.put(item)
    work.let("a", "b", "c")
    assert work.began == work.done == ["a", "b", "c"]


def test_a_member_goes_on_to_the_next_item(workers):
    """A burst of items does not cost a greenlet each."""
    members = []
    crew: WorkQueue[Any] = WorkQueue(
        workers, 1, lambda item: members.append(gevent.getcurrent())
    )
    for item in range(5):
        crew.put(item)
    gevent.idle()
    assert len(members) == 5 and len(set(members)) == 1


def test_items_that_never_switch_do_not_hold_up_everybody_else(workers):
    """Now and then a member lets the others run."""
    done: list[Any] = []
    crew: WorkQueue[Any] = WorkQueue(workers, 1, done.append)
    for item in range(100):
        crew.put(item)
    seen = []
    gevent.spawn(lambda: seen.append(len(done)))
    other = gevent.spawn(lambda: (gevent.sleep(0), seen.append(len(done))))  # type: ignore[call-overload, func-returns-value]
    other.join()
    assert seen[-1] < 100
    gevent.idle()
    assert done == list(range(100))


def test_a_crew_is_never_larger_than_its_size(workers):
    """More items than members wait until one is free."""
    work = Work()
    crew: WorkQueue[Any] = WorkQueue(workers, 3, work)
    for item in range(9):
        crew.put(item)
    gevent.idle()
    assert work.began == [0, 1, 2]
    work.let(1)
    assert work.began == [0, 1, 2, 3]
    assert len(running(workers)) == 3
    work.let(*range(9))
    assert sorted(work.done) == list(range(9))


def test_a_crew_has_no_more_members_than_it_needs(workers):
    """Idle members go home, and come back for the next item."""
    work = Work()
    crew: WorkQueue[Any] = WorkQueue(workers, 8, work)
    crew.put("a")
    gevent.idle()
    assert len(running(workers)) == 1
    work.let("a")
    assert not running(workers)
    crew.put("b")
    work.let("b")
    assert work.done == ["a", "b"]


def test_to_put_does_not_switch(workers):
    """The work is begun when the caller next waits."""
    work = Work()
    WorkQueue(workers, 1, work).put("a")
    assert not work.began
    gevent.idle()
    assert work.began == ["a"]


def test_what_the_work_raises_ends_only_that_turn(workers, hub_errors):
    """The error reaches the hub; the next item is worked at all the same."""
    results = []
    crew: WorkQueue[Any] = WorkQueue(workers, 1, lambda item: results.append(1 / item))
    for item in (1, 0, 0, 2):
        crew.put(item)
    gevent.idle()
    assert results == [1, 0.5]
    assert [type(each.error) for each in hub_errors] == [ZeroDivisionError] * 2
    hub_errors.clear()


def test_a_killed_member_has_a_successor(workers):
    """What it had not yet begun is worked at by somebody else."""
    work = Work()
    crew: WorkQueue[Any] = WorkQueue(workers, 1, work)
    crew.put("a")
    crew.put("b")
    gevent.idle()
    (member,) = running(workers)
    member.kill()
    work.let("b")
    assert work.began == ["a", "b"] and work.done == ["b"]


def test_a_member_killed_before_it_started_has_a_successor(workers):
    """No line of it was run, so no ``finally`` could have told."""
    work = Work()
    crew: WorkQueue[Any] = WorkQueue(workers, 1, work)
    crew.put("a")
    (member,) = running(workers)
    member.kill(block=False)
    work.let("a")
    assert work.done == ["a"]
    crew.put("b")
    work.let("b")
    assert work.done == ["a", "b"]


def test_a_crew_is_complete_again_after_a_death(workers):
    """While others are at work too: their number is made up, if there is work left."""
    work = Work()
    crew: WorkQueue[Any] = WorkQueue(workers, 2, work)
    for item in "abcd":
        crew.put(item)
    gevent.idle()
    next(iter(running(workers))).kill()
    gevent.idle()
    assert work.began == ["a", "b", "c"]
    assert len(running(workers)) == 2


def test_what_is_put_while_a_member_leaves_is_not_forgotten(workers):
    """Between a member's last look at the queue and its end an item may come."""
    done: list[Any] = []
    crew: WorkQueue[Any] = WorkQueue(workers, 1, done.append)
    crew.put("a")
    (member,) = running(workers)
    while not member.dead:
        gevent.sleep(0)
    assert member in crew._greenlets
    crew.put("b")
    gevent.idle()
    assert done == ["a", "b"]


def test_as_many_are_hired_as_there_is_work():
    """Workers that start too late are not replaced, which would go on without limit."""
    workers = WorkerGroup()
    hired = []
    spawn = workers.spawn
    workers.spawn = lambda *work: hired.append(work) or spawn(*work)  # type: ignore[func-returns-value, method-assign]
    crew: WorkQueue[Any] = WorkQueue(workers, 64, lambda item: gevent.sleep(0))
    for number in range(50):
        crew.put(number)
        gevent.sleep(0)
    gevent.idle()
    assert len(hired) <= 50
