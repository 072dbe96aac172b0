"""The bound on what is under way: first come, first served, and nothing is lost."""

from __future__ import annotations

from collections import deque
from typing import Any

import gevent
import pytest
from gevent import get_hub, socket

from geventpool.errors import PoolExhaustedError, TooManyWaitingError
from geventpool.redis.calls import Call, call_of
from geventpool.redis.room import Room
from geventpool.testing import wait_until
from tests.redis.tools import outcome
from tests.test_deadline import LIMIT, block


class Calls:
    """The unanswered calls."""

    def __init__(self) -> None:
        self.out: deque[Call] = deque()
        self.sent: deque[Call] = deque()

    def abandon(self, call: Call) -> None:
        self.out.remove(call)
        call.left = 0


class Place:
    """Room, and the calls that take it."""

    def __init__(self, size: int = 2) -> None:
        self.calls = Calls()
        self.room = Room(self.calls, size, get_hub(), "name")

    def take(self, units: int, timeout: Any = None, most: Any = None) -> None:
        self.room.take(call_of(b"", units, units > 1), units, timeout, most)

    def answer(self) -> None:
        """Answer the oldest call."""
        self.calls.out.popleft().left = 0
        self.room.serve()


def test_room_is_given_in_the_order_of_asking() -> None:
    """A large request is not overtaken forever by small ones."""
    place = Place()
    place.take(1)
    place.take(1)
    got: list[int] = []

    def ask(units: int) -> None:
        place.take(units)
        got.append(units)

    jobs = [gevent.spawn(ask, units) for units in (2, 1)]
    wait_until(lambda: len(place.room.waiters) == 2)
    place.answer()
    gevent.sleep(0)
    assert got == [] and place.room.limit == 0
    place.answer()
    jobs[0].join()
    assert got == [2]
    place.answer()
    gevent.joinall(jobs)
    assert got == [2, 1]
    assert place.room.free == 1
    assert place.room.limit == 2


def test_a_large_call_leaves_less_room_for_small_ones() -> None:
    """As long as it is not answered."""
    place = Place(5)
    place.take(3)
    assert (place.room.free, place.room.limit) == (2, 3)
    place.take(1)
    place.room.serve()
    assert (place.room.free, place.room.limit) == (1, 3)
    place.answer()
    assert (place.room.free, place.room.limit) == (4, 5)


def test_who_waits_too_long_is_refused_and_keeps_nobody_waiting() -> None:
    """Behind it may be one that needs less."""
    place = Place()
    place.take(1)
    large = gevent.spawn(outcome, place.take, 2, 0.01)
    wait_until(lambda: place.room.waiters)
    small = gevent.spawn(place.take, 1)
    error = large.get()
    assert type(error) is PoolExhaustedError
    assert "no room within" in str(error)
    small.join()
    assert place.room.free == 0


def test_nobody_is_refused_because_the_loop_was_blocked() -> None:
    """What gives the room back comes due together with the time limit."""
    place = Place(1)
    place.take(1)
    near, far = socket.socketpair()

    def answer() -> None:
        far.recv(1)
        place.answer()

    gevent.spawn(answer)
    get_hub().loop.run_callback(near.sendall, b"?")
    get_hub().loop.run_callback(block)
    place.take(1, LIMIT)
    near.close()
    far.close()


def test_without_patience_or_place_in_line_the_refusal_comes_at_once() -> None:
    """``timeout=0`` and ``max_waiting`` mean the same as for connections."""
    place = Place(1)
    place.take(1)
    with pytest.raises(PoolExhaustedError, match="no room"):
        place.take(1, 0)
    with pytest.raises(TooManyWaitingError):
        place.take(1, None, 0)
    assert not place.room.waiters


@pytest.mark.parametrize("granted", [False, True])
def test_a_kill_in_line_loses_no_room(granted: bool) -> None:
    """Before the room is granted and after, when it has not run yet."""
    place = Place(1)
    place.take(1)
    victim = gevent.spawn(place.take, 1, 1000)
    wait_until(lambda: place.room.waiters)
    if granted:
        # In one turn of the loop: the kill comes first.
        victim.kill(block=False)
        place.answer()
    else:
        victim.kill(block=False)
        gevent.sleep(0)
        place.answer()
    victim.join()
    assert place.room.free == 1
    assert not place.room.waiters


def test_who_is_refused_at_the_moment_of_its_turn_leaves_it_to_the_next() -> None:
    """It is still in line when room becomes free, but has not run since."""
    place = Place(1)
    place.take(1)
    late = gevent.spawn(outcome, place.take, 1, 1000)
    wait_until(lambda: place.room.waiters)
    place.room.waiters[0].is_expired = True
    place.answer()
    assert not place.room.waiters and place.room.free == 1
    late.kill()


def test_a_foreign_switch_does_not_end_the_wait() -> None:
    """Another may switch to a greenlet for reasons of its own."""
    place = Place(1)
    place.take(1)
    waiter = gevent.spawn(place.take, 1)
    wait_until(lambda: place.room.waiters)
    get_hub().loop.run_callback(waiter.switch)
    gevent.sleep(0)
    assert not waiter.dead
    place.answer()
    waiter.get(timeout=5)


def test_all_in_line_can_be_refused() -> None:
    """The pool is closed."""
    place = Place(1)
    place.take(1)
    waiter = gevent.spawn(outcome, place.take, 1)
    wait_until(lambda: place.room.waiters)
    place.room.refuse(KeyError("closed"))
    assert isinstance(waiter.get(), KeyError)
    assert place.room.free == 0
    place.answer()
    assert place.room.free == 1
    # Nobody is let in without being told so.
    assert place.room.limit == 0


def test_a_kill_of_a_greenlet_that_is_refused_is_no_loss() -> None:
    """It is in no line any more, and has no room."""
    place = Place(1)
    place.take(1)
    victim = gevent.spawn(place.take, 1)
    wait_until(lambda: place.room.waiters)
    victim.kill(block=False)
    place.room.refuse(KeyError("closed"))
    victim.join()
    assert place.room.free == 0
