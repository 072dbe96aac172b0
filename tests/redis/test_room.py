"""The bound on what is under way: first come, first served, and nothing is lost."""

from __future__ import annotations

import gevent
import pytest
from gevent import get_hub, socket

from geventpool.errors import PoolExhaustedError, TooManyWaitingError
from geventpool.redis.room import Room
from geventpool.testing import wait_until
from tests.redis.tools import outcome
from tests.test_deadline import LIMIT, block


def make_room(size: int = 2) -> Room:
    return Room(size, get_hub(), "name")


def test_room_is_given_in_the_order_of_asking() -> None:
    """A large request is not overtaken forever by small ones."""
    room = make_room()
    room.take(2, None, None)
    got: list[int] = []

    def ask(units: int) -> None:
        room.take(units, None, None)
        got.append(units)

    jobs = [gevent.spawn(ask, units) for units in (2, 1)]
    wait_until(lambda: len(room.waiters) == 2)
    room.give_back(1)
    gevent.sleep(0)
    assert got == []
    room.give_back(1)
    jobs[0].join()
    assert got == [2]
    room.give_back(2)
    gevent.joinall(jobs)
    assert got == [2, 1]
    assert room.free == 1


def test_who_waits_too_long_is_refused_and_keeps_nobody_waiting() -> None:
    """Behind it may be one that needs less."""
    room = make_room()
    room.take(1, None, None)
    large = gevent.spawn(outcome, room.take, 2, 0.01, None)
    wait_until(lambda: room.waiters)
    small = gevent.spawn(room.take, 1, None, None)
    error = large.get()
    assert type(error) is PoolExhaustedError
    assert "no room within" in str(error)
    small.join()
    assert room.free == 0


def test_nobody_is_refused_because_the_loop_was_blocked() -> None:
    """What gives the room back comes due together with the time limit."""
    room = make_room(1)
    room.take(1, None, None)
    near, far = socket.socketpair()

    def give_back() -> None:
        far.recv(1)
        room.give_back(1)

    gevent.spawn(give_back)
    get_hub().loop.run_callback(near.sendall, b"?")
    get_hub().loop.run_callback(block)
    room.take(1, LIMIT, None)
    near.close()
    far.close()


def test_without_patience_or_place_in_line_the_refusal_comes_at_once() -> None:
    """``timeout=0`` and ``max_waiting`` mean the same as for connections."""
    room = make_room(1)
    room.take(1, None, None)
    with pytest.raises(PoolExhaustedError, match="no room"):
        room.take(1, 0, None)
    with pytest.raises(TooManyWaitingError):
        room.take(1, None, 0)
    assert not room.waiters


@pytest.mark.parametrize("granted", [False, True])
def test_a_kill_in_line_loses_no_room(granted: bool) -> None:
    """Before the room is granted and after, when it has not run yet."""
    room = make_room(1)
    room.take(1, None, None)
    victim = gevent.spawn(room.take, 1, 1000, None)
    wait_until(lambda: room.waiters)
    if granted:
        # In one turn of the loop: the kill comes first.
        victim.kill(block=False)
        room.give_back(1)
    else:
        victim.kill(block=False)
        gevent.sleep(0)
        room.give_back(1)
    victim.join()
    assert room.free == 1
    assert not room.waiters


def test_a_foreign_switch_does_not_end_the_wait() -> None:
    """Another may switch to a greenlet for reasons of its own."""
    room = make_room(1)
    room.take(1, None, None)
    waiter = gevent.spawn(room.take, 1, None, None)
    wait_until(lambda: room.waiters)
    get_hub().loop.run_callback(waiter.switch)
    gevent.sleep(0)
    assert not waiter.dead
    room.give_back(1)
    waiter.get(timeout=5)


def test_all_in_line_can_be_refused() -> None:
    """The pool is closed."""
    room = make_room(1)
    room.take(1, None, None)
    waiter = gevent.spawn(outcome, room.take, 1, None, None)
    wait_until(lambda: room.waiters)
    room.refuse(KeyError("closed"))
    assert isinstance(waiter.get(), KeyError)
    assert room.free == 0


def test_a_kill_of_a_greenlet_that_is_refused_is_no_loss() -> None:
    """It is in no line any more, and has no room."""
    room = make_room(1)
    room.take(1, None, None)
    victim = gevent.spawn(room.take, 1, None, None)
    wait_until(lambda: room.waiters)
    victim.kill(block=False)
    room.refuse(KeyError("closed"))
    victim.join()
    assert room.free == 0
