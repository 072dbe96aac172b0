"""Commands that share a connection, when a call of the pool's own fails.

For want of memory, or because a signal handler raises. Each such call is tried in
tests/failures/test_failing_calls.py.
"""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from geventpool.redis import multiplexer as multiplexer_module
from geventpool.redis.errand import Errand
from geventpool.redis.multiplexer import Multiplexer
from geventpool.redis.shared import SharedConnection
from geventpool.testing import wait_until
from tests.redis.scripted import echo
from tests.redis.talking import (
    Interrupt,
    in_flight,
    multiplexer,
    once,
    talking,
    without_connection,
)
from tests.redis.tools import assert_all_places, outcome

pytestmark = pytest.mark.usefixtures("limited")


# What is left to the hub.


def test_an_errand_is_done_once_however_often_it_is_asked_for() -> None:
    """And again if it is asked for afterwards."""
    done: list[int] = []

    def work() -> None:
        errand.asked = None
        done.append(1)

    errand = Errand(gevent.get_hub().loop, work)
    for number in 1, 2:
        errand.ask()
        errand.ask()
        gevent.idle()
        assert len(done) == number


def test_an_errand_that_asks_for_itself_waits_for_the_next_turn() -> None:
    """Else the sockets would have to wait for all of the work."""
    order: list[str] = []

    def work() -> None:
        errand.asked = None
        order.append("work")
        if len(order) == 1:
            errand.ask()
            gevent.get_hub().loop.run_callback(order.append, "other")

    errand = Errand(gevent.get_hub().loop, work)
    errand.ask()
    gevent.idle()
    assert order == ["work", "work", "other"]
    assert errand.asked is None


def test_an_errand_whose_call_fails_is_called_again(hub_errors: list[Any]) -> None:
    """The hub only reports the error, while greenlets wait for the work."""
    errors: list[BaseException] = [MemoryError()]
    done: list[int] = []

    def work() -> None:
        if errors:
            raise errors.pop()
        errand.asked = None
        done.append(1)

    errand = Errand(gevent.get_hub().loop, work)
    errand.ask()
    gevent.idle()
    assert done == [1]
    assert isinstance(hub_errors.pop().error, MemoryError)


# Writing.


def test_a_command_that_cannot_be_queued_takes_no_room() -> None:
    """Neither if it had to wait for room."""

    class Full(list[Any]):
        def append(self, call: Any) -> None:
            raise MemoryError

    with talking(max_in_flight=1) as (client, server):
        other = gevent.spawn(client.get, "other")
        wait_until(lambda: server.received)
        waiting = gevent.spawn(outcome, client.get, "a")
        wait_until(lambda: multiplexer(client).room.waiters)
        queue, multiplexer(client).out = multiplexer(client).out, Full()
        server.sockets[0].sendall(b"+other\r\n")
        assert isinstance(waiting.get(timeout=5), MemoryError)
        assert isinstance(outcome(client.get, "b"), MemoryError)
        assert other.get(timeout=5) == b"other" and in_flight(client) == 0
        multiplexer(client).out = queue
        server.answer = echo
        assert client.get("c") == b"c"


def test_calls_that_cannot_be_noted_as_written_are_written_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The connection is given up: it is unknown how far its handling came."""

    class Full(list[Any]):
        def extend(self, calls: Any) -> None:
            raise MemoryError

    with talking(echo) as (client, server):
        multiplexer(client).shared.sent = Full()
        jobs = [gevent.spawn(client.get, name) for name in "ab"]
        gevent.joinall(jobs, timeout=5)
        assert [job.value for job in jobs] == [b"a", b"b"]
        assert len(server.sockets) == 2 and in_flight(client) == 0
        assert len(server.received) == 2


# Opening.


@pytest.mark.parametrize("step", ["SharedConnection", "_flush"])
def test_an_interruption_before_a_connection_is_shared_costs_no_place(
    step: str, monkeypatch: pytest.MonkeyPatch, hub_errors: list[Any]
) -> None:
    """The command goes over the next one, or over this one if that can be used."""
    interrupts = [Interrupt()]
    place = multiplexer_module if step == "SharedConnection" else Multiplexer
    usual = getattr(place, step)

    def interrupted(self: Any, *args: Any) -> Any:
        # Not when the hub calls it.
        if interrupts and gevent.getcurrent() is not gevent.get_hub():
            raise interrupts.pop()
        return usual(self, *args)

    with talking(echo) as (client, server):
        without_connection(client)
        monkeypatch.setattr(place, step, interrupted)
        assert client.get("key") == b"key"
        assert isinstance(hub_errors.pop().error, Interrupt)
        assert len(server.sockets) == (3 if step == "SharedConnection" else 2)
        assert_all_places(client.connection_pool)  # type: ignore[arg-type]


def test_a_connection_that_cannot_be_counted_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody else would ever give it back."""

    def fail() -> None:
        raise MemoryError

    with talking(echo) as (client, _):
        without_connection(client)
        with monkeypatch.context() as patch:
            patch.setattr(client.connection_pool, "counted", fail)
            assert isinstance(outcome(client.get, "key"), MemoryError)
        assert client.connection_pool.stats().in_use == 0  # type: ignore[attr-defined]
        assert client.get("key") == b"key"


# Signals that arrive in the event loop.


@pytest.mark.parametrize(
    "place",
    [
        (SharedConnection, "_read"),
        (Multiplexer, "resume"),
    ],
)
def test_a_signal_while_the_hub_reads_keeps_no_reply_from_its_caller(
    monkeypatch: pytest.MonkeyPatch, hub_errors: list[Any], place: tuple[Any, str]
) -> None:
    """gevent stops the watcher of a callback that raises."""
    with talking(echo) as (client, server):
        assert client.get("a") == b"a"
        once(monkeypatch, *place)
        job = gevent.spawn(client.get, "b")
        assert job.get(timeout=5) == b"b"
        assert isinstance(hub_errors.pop().error, Interrupt)
        assert client.get("c") == b"c"
        assert in_flight(client) == 0
        assert len(server.sockets) == 1
