"""How the callers of commands that share a connection go on with their replies."""

from __future__ import annotations

from typing import Any

import gevent
import greenlet
import pytest

from geventpool.redis import multiplexer as multiplexer_module
from geventpool.redis import shared as shared_module
from geventpool.testing import wait_until
from tests.redis.scripted import echo
from tests.redis.test_autopipe_trouble import in_flight, multiplexer, talking
from tests.redis.tools import outcome


class Reader:
    """A reader that is interrupted after its first reply."""

    class Interrupt(BaseException):
        pass

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self._is_done = False

    def feed(self, *data: Any) -> None:
        self._reader.feed(*data)

    def gets(self) -> Any:
        if self._is_done:
            raise self.Interrupt
        self._is_done = True
        return self._reader.gets()


def test_a_reply_that_was_parsed_before_an_interruption_is_delivered(
    hub_errors: list[Any],
) -> None:
    """Its caller is in no queue any more, so nothing else would wake it."""
    with talking() as (client, server):
        job = gevent.spawn(outcome, client.get, "a")
        wait_until(lambda: server.received)
        shared = multiplexer(client).shared
        shared._reader = Reader(shared._reader)
        server.sockets[0].sendall(b"+value\r\n")
        assert job.get(timeout=5) == b"value"
        assert isinstance(hub_errors.pop().error, Reader.Interrupt)
        assert in_flight(client) == 0


def test_the_error_of_a_plain_greenlet_stops_nobody_else(hub_errors: list[Any]) -> None:
    """The hub is its parent, so it is raised where its caller was switched to."""
    with talking() as (client, server):

        def fails() -> None:
            client.get("a")
            raise ValueError("a greenlet without error handling")

        plain = greenlet.greenlet(fails, gevent.get_hub())
        gevent.get_hub().loop.run_callback(plain.switch)
        wait_until(lambda: server.received)
        other = gevent.spawn(client.get, "b")
        wait_until(lambda: len(server.received) == 2)
        # It would wake the other one a little later.
        multiplexer(client).shared._timer.stop()
        server.sockets[0].sendall(b"+a\r\n+b\r\n")
        assert other.get(timeout=5) == b"b"
        assert isinstance(hub_errors.pop().error, ValueError)
        server.answer = echo
        assert client.get("c") == b"c"
        assert len(server.sockets) == 1


def test_many_callers_let_the_event_loop_run_in_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise the replies of one read would hold up every other socket."""
    monkeypatch.setattr(multiplexer_module, "MOST", 2)
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
        jobs = [gevent.spawn(work, name) for name in "abcde"]
        wait_until(lambda: len(server.received) == 5)
        server.sockets[0].sendall(b"+1\r\n" * 5)
        gevent.joinall(jobs, timeout=5)
    assert seen == ["loop", "a", "b", "loop", "c", "d", "loop", "e"]


def test_a_caller_switches_to_the_next_one() -> None:
    """With half of the switches that a way by the hub would take."""
    with talking() as (client, server):
        jobs = [gevent.spawn(lambda: [client.get("a") for _ in "ab"]) for _ in "ab"]
        wait_until(lambda: len(server.received) == 2)
        server.answer = echo
        switches: list[Any] = []
        before = greenlet.settrace(lambda event, ends: switches.append(ends))
        server.sockets[0].sendall(b"+1\r\n" * 2)
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
        wait_until(lambda: len(server.received) == 2)
        sent = multiplexer(client).shared.sent
        sent[1].waiter = Fails(sent[1].waiter)
        server.sockets[0].sendall(b"+a\r\n+b\r\n")
        assert isinstance(first.get(timeout=5), MemoryError)
        assert second.get(timeout=5) == b"b"
        assert in_flight(client) == 0


def test_the_bytes_of_one_turn_of_the_loop_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A queue that never ends must not keep the loop from reading."""
    monkeypatch.setattr(shared_module, "TURN", 1)
    sizes: list[int] = []
    with talking(echo) as (client, _):
        transport = multiplexer(client).shared._transport
        send = transport.send

        def noting(data: Any) -> int:
            sizes.append(len(data))
            return int(send(data))

        transport.send = noting
        jobs = [gevent.spawn(client.get, name) for name in "abc"]
        gevent.joinall(jobs, timeout=5)
        assert [job.value for job in jobs] == [b"a", b"b", b"c"]
    assert len(sizes) == 3
