"""The queue before a shared connection, and what opens it."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from geventpool.redis.calls import call_of
from geventpool.redis.multiplexer import Multiplexer
from geventpool.testing import wait_until
from tests import parts
from tests.redis.scripted import echo
from tests.redis.talking import (
    Interrupt,
    in_flight,
    multiplexer,
    talking,
    two_holders,
    waits,
    without_connection,
)
from tests.redis.tools import outcome, pool_of

pytestmark = pytest.mark.usefixtures("limited")


@pytest.mark.parametrize("error", [MemoryError, Interrupt])
def test_an_error_in_the_hub_leaves_no_command_in_the_queue(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch, hub_errors: list[Any]
) -> None:
    """An error fails those that wait; after an interruption the hub goes on."""
    errors = [error()]
    usual = Multiplexer._open_soon

    def fail(self: Any) -> None:
        if errors:
            raise errors.pop()
        usual(self)

    with talking(echo) as (client, _):
        without_connection(client)
        monkeypatch.setattr(Multiplexer, "_open_soon", fail)
        got = outcome(client.get, "key")
        if error is MemoryError:
            assert isinstance(got, MemoryError)
        else:
            assert got == b"key"
        assert isinstance(hub_errors.pop().error, error)
        assert in_flight(client) == 0
        assert client.get("key") == b"key"


def test_an_opener_whose_end_is_not_noticed_keeps_nobody_from_opening(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its link is a call, which can fail as well."""
    with talking(echo) as (client, _):
        without_connection(client)
        with monkeypatch.context() as patch:
            patch.setattr(Multiplexer, "_opener_ended", lambda self, opener: None)
            assert client.get("key") == b"key"
        without_connection(client)
        assert multiplexer(client)._opener.dead
        assert client.get("key") == b"key"


def test_in_a_child_no_copy_of_a_greenlet_is_woken() -> None:
    """It would go on with the parent's work."""
    with talking() as (client, server):
        job = gevent.spawn(outcome, client.get, "a")
        wait_until(lambda: server.received)
        queue = multiplexer(client)
        queue._pid = -1
        queue.shared.conn.disconnect()
        gevent.sleep(0)
        assert not job.dead
        parts.sharing(client.connection_pool).forked()
        assert in_flight(client) == 0
        server.answer = echo
        assert client.get("b") == b"b"
        job.kill()
        wait_until(lambda: job.dead)
        for conn in pool_of(client).core.lent_connections():
            if conn is not queue.shared.conn:
                pool_of(client).core.drop(conn, anyone=True)


def test_a_queue_that_all_have_left_needs_no_connection() -> None:
    """They were killed before the greenlet that opens has begun."""
    with talking(echo) as (client, server):
        queue = multiplexer(client)
        queue.renew()
        wait_until(lambda: queue.shared is None)
        call = call_of(b"never sent", 1, False)
        queue.queue(call, 1)
        queue._open_soon()
        queue.abandon(call)
        wait_until(lambda: queue._opener is None)
        assert queue.shared is None
        assert not server.received


@pytest.mark.parametrize("has_started", [False, True])
def test_the_greenlet_that_opens_may_be_killed(
    monkeypatch: pytest.MonkeyPatch, has_started: bool
) -> None:
    """Those in the queue get a connection all the same."""
    open_soon = Multiplexer._open_soon
    kills: list[Any] = []

    def killed(self: Multiplexer) -> None:
        open_soon(self)
        if not kills and not has_started:
            kills.append(self._opener)
            self._opener.kill(block=False)

    with talking(echo, max_connections=2) as (client, server):
        pool, queue = pool_of(client), multiplexer(client)
        parts.sharing(pool).renew()
        wait_until(lambda: queue.shared is None)
        lent = [pool.get_connection() for _ in range(2)]
        monkeypatch.setattr(Multiplexer, "_open_soon", killed)
        job = gevent.spawn(client.get, "key")
        wait_until(lambda: pool.stats().waiting)
        if has_started:
            queue._opener.kill()
        else:
            assert kills
        for conn in lent:
            pool.release(conn)
        assert job.get(timeout=5) == b"key"


def test_a_caller_that_has_failed_and_not_yet_run_is_no_deadlock() -> None:
    """It will give its connection back."""
    with two_holders() as (client, first, last):
        first.send()
        wait_until(waits(client))
        queue = multiplexer(client)
        call = queue.out[0]
        call.error = ConnectionError()
        last.send()
        wait_until(lambda: len(queue.out) == 2)
        gevent.sleep(0)
        queue.wake(call)
        assert isinstance(first.get(), ConnectionError)
        assert last.get() == b"key"
