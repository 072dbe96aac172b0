"""A greenlet whose server answers at once does not keep the event loop for itself."""

from __future__ import annotations

import gevent
import pytest

from geventpool.redis import ConnectionPool, turns
from geventpool.redis.turns import SLICE, Turns
from tests.servers import RedisServer


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def let_the_loop_run() -> None:
    """Return in another turn of the event loop, also if its clock is a coarse one."""
    loop = gevent.get_hub().loop
    turn = loop.now()
    while loop.now() == turn:
        gevent.sleep(0)


@pytest.fixture
def others() -> list[str]:
    """What the other greenlets did, in order."""
    return []


def test_a_greenlet_that_keeps_the_loop_too_long_lets_others_run(
    others: list[str],
) -> None:
    clock = Clock()
    turns = Turns(clock)
    gevent.spawn(others.append, "ran")
    turns.let_others_run()
    clock.now += SLICE
    turns.let_others_run()
    assert others == []
    clock.now += SLICE
    turns.let_others_run()
    assert others == ["ran"]


def test_the_time_begins_anew_when_the_loop_has_run(others: list[str]) -> None:
    clock = Clock()
    turns = Turns(clock)
    turns.let_others_run()
    let_the_loop_run()
    clock.now += 2 * SLICE
    gevent.spawn(others.append, "ran")
    turns.let_others_run()
    assert others == []
    gevent.sleep(0)


def test_the_time_is_counted_for_each_greenlet_alone(others: list[str]) -> None:
    clock = Clock()
    turns = Turns(clock)

    def command(name: str) -> None:
        turns.let_others_run()
        clock.now += 2 * SLICE
        others.append(name)

    gevent.joinall([gevent.spawn(command, "first"), gevent.spawn(command, "second")])
    assert others == ["first", "second"]


def test_loans_without_waiting_let_others_run(
    redis_server: RedisServer, others: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With redis-py's own pools a loan always lets others run."""
    monkeypatch.setattr(turns, "SLICE", -1)
    pool = ConnectionPool(port=redis_server.port, initial_connections=1)
    with pool:
        pool.release(pool.get_connection())
        gevent.spawn(others.append, "ran")
        for _ in range(turns.UNSEEN):
            pool.release(pool.get_connection())
            assert others == []
        pool.release(pool.get_connection())
        assert others == ["ran"]
