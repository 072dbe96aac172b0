"""How the callers of commands that share a connection go on with their replies."""

from __future__ import annotations

from typing import Any

import gevent
import greenlet
import pytest

from geventpool.redis import multiplexer as multiplexer_module
from geventpool.testing import wait_until
from tests.redis.scripted import echo
from tests.redis.talking import in_flight, multiplexer, talking
from tests.redis.tools import outcome


def test_many_callers_let_the_event_loop_run_in_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise the replies of one read would hold up every other socket."""
    monkeypatch.setattr(multiplexer_module, "MOST", 2)
    seen = order_of("abcde", 5, monkeypatch)
    assert seen == ["loop", "a", "b", "loop", "c", "d", "loop", "e"]


def test_half_of_the_callers_go_on_while_an_idle_server_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It answers what they send while the other half goes on."""
    seen = order_of("abcd", 4, monkeypatch)
    assert seen == ["loop", "a", "b", "loop", "c", "loop", "d"]


def test_all_callers_go_on_while_the_server_has_other_commands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is not idle meanwhile."""
    assert order_of("abcde", 4, monkeypatch)[:5] == ["loop", "a", "b", "c", "d"]


def order_of(names: str, answered: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In which order callers go on, and when the event loop runs.

    The first reply of the server answers so many of them.
    """
    seen: list[str] = []
    with talking() as (client, server):
        queue = multiplexer(client)
        resume = queue.resume

        def noting() -> None:
            seen.append("loop")
            resume()

        def work(name: str) -> None:
            client.get(name)
            seen.append(name)

        monkeypatch.setattr(queue, "resume", noting)
        jobs = [gevent.spawn(work, name) for name in names]
        wait_until(lambda: len(server.received) == len(names))
        server.sockets[0].sendall(b"+1\r\n" * answered)
        gevent.joinall(jobs[:answered], timeout=5)
        server.sockets[0].sendall(b"+1\r\n" * (len(names) - answered))
        gevent.joinall(jobs, timeout=5)
    return seen


def test_a_caller_switches_to_the_next_one() -> None:
    """With half of the switches that a way by the hub would take."""
    with talking() as (client, server):
        jobs = [gevent.spawn(lambda: [client.get("a") for _ in "ab"]) for _ in "abcd"]
        wait_until(lambda: len(server.received) == 4)
        server.answer = echo
        switches: list[Any] = []
        before = greenlet.settrace(lambda event, ends: switches.append(ends))
        server.sockets[0].sendall(b"+1\r\n" * 4)
        gevent.joinall(jobs, timeout=5)
        greenlet.settrace(before)
        assert (jobs[0], jobs[1]) in switches


def test_a_switch_to_the_next_one_that_fails_is_made_up_for() -> None:
    """It was in the queue no more."""

    class Fails:
        def __init__(self, waiter: Any) -> None:
            self._waiter = waiter
            self._errors = [MemoryError()]

        def switch(self) -> None:
            if self._errors:
                raise self._errors.pop()
            self._waiter.switch()

    with talking() as (client, server):
        first = gevent.spawn(outcome, lambda: [client.get("a") for _ in "ab"])
        second = gevent.spawn(client.get, "b")
        # With these, the first two go on in the same turn of the loop.
        others = [gevent.spawn(client.get, name) for name in "cd"]
        wait_until(lambda: len(server.received) == 4)
        sent = multiplexer(client).shared.sent
        sent[1].waiter = Fails(sent[1].waiter)
        server.sockets[0].sendall(b"+a\r\n+b\r\n+c\r\n+d\r\n")
        assert isinstance(first.get(timeout=5), MemoryError)
        assert second.get(timeout=5) == b"b"
        assert [each.get(timeout=5) for each in others] == [b"c", b"d"]
        assert in_flight(client) == 0
