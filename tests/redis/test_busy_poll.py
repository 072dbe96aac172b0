"""The event loop does not sleep while a reply is due at once."""

from __future__ import annotations

from collections import deque
from time import monotonic

import gevent
import pytest
from gevent import get_hub

from geventpool.redis import busy_poll
from geventpool.redis.busy_poll import LONGEST, NEAR, BusyPoll
from geventpool.redis.calls import Call, call_of
from geventpool.testing import wait_until
from tests.redis.scripted import echo
from tests.redis.talking import multiplexer, silent, talking
from tests.redis.tools import outcome

pytestmark = pytest.mark.usefixtures("limited")

#: Seconds from now, so that a call that was written then stays new.
LATER = 3600.0


def sent_at(since: float) -> Call:
    """A call that was written at a time."""
    call = call_of(b"", 1, False)
    call.since = since
    return call


def polling(*calls: Call, seconds: float = NEAR / 2) -> BusyPoll:
    """What polls for *calls*, after the server has answered within *seconds*."""
    sent = deque([sent_at(0.0)])
    poll = BusyPoll(get_hub().loop, sent)
    poll.note(seconds)
    sent.clear()
    sent.extend(calls)
    poll.begin()
    return poll


def test_the_loop_is_kept_awake_while_the_only_call_is_new() -> None:
    """It goes on to run others."""
    poll = polling(sent_at(monotonic() + LATER))
    ran: list[int] = []
    gevent.spawn(ran.append, 1).join()
    gevent.sleep(0)
    assert ran == [1]
    assert poll.is_active
    poll.close()


@pytest.mark.parametrize(
    "calls",
    [
        pytest.param([], id="answered"),
        pytest.param([0.0 - 2 * LONGEST], id="old"),
        pytest.param([LATER, LATER], id="two calls"),
    ],
)
def test_the_loop_sleeps_again_when_there_is_no_new_call_alone(
    calls: list[float],
) -> None:
    poll = polling(*(sent_at(monotonic() + each) for each in calls))
    assert poll.is_active
    wait_until(lambda: not poll.is_active)
    poll.close()


def test_a_distant_server_is_not_polled_for() -> None:
    poll = polling(sent_at(monotonic() + LATER), seconds=NEAR * 2)
    assert not poll.is_active
    poll.close()


def test_an_end_can_be_repeated() -> None:
    """A signal may interrupt the end of a connection, which is then repeated."""
    poll = polling(sent_at(monotonic() + LATER))
    poll.close()
    poll.close()
    assert not poll.is_active


def test_a_lone_command_is_polled_for_until_its_reply_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another command meanwhile ends that."""
    monkeypatch.setattr(busy_poll, "NEAR", LATER)
    monkeypatch.setattr(busy_poll, "LONGEST", LATER)
    with talking(echo) as (client, server):
        assert client.get("a") == b"a"
        poll = multiplexer(client).shared.busy_poll
        server.answer = silent
        job = gevent.spawn(client.get, "b")
        wait_until(lambda: server.received[-1:] == [[b"GET", b"b"]])
        assert poll.is_active
        other = gevent.spawn(client.get, "c")
        wait_until(lambda: not poll.is_active)
        server.sockets[-1].sendall(b"$1\r\nb\r\n$1\r\nc\r\n")
        assert job.get() == b"b"
        assert other.get() == b"c"


def test_a_lost_connection_is_polled_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the event loop would never sleep again."""
    monkeypatch.setattr(busy_poll, "NEAR", LATER)
    monkeypatch.setattr(busy_poll, "LONGEST", LATER)
    with talking(echo) as (client, server):
        client.get("a")
        poll = multiplexer(client).shared.busy_poll
        server.answer = silent
        job = gevent.spawn(outcome, client.get, "b")
        wait_until(lambda: poll.is_active)
        server.sockets[-1].close()
        job.join()
        assert not poll.is_active
        server.answer = echo
