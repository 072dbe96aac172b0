"""Commands that share a connection, when a signal handler raises somewhere in the pool.

The interpreter runs handlers between two instructions: at the beginning of a function
and after a call. Each of these places is tried. (test_autopipe_errors.py has errors
before a call.)
"""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import gevent
import pytest
import redis

import geventpool.redis
from geventpool.redis import shared as shared_module
from geventpool.testing import wait_until
from tests.event_loops import not_on_libuv
from tests.redis.scripted import echo
from tests.redis.talking import in_flight, multiplexer, talking
from tests.redis.tools import assert_all_places, outcome

pytestmark = not_on_libuv("gevent raises errors of callbacks in the main greenlet")

PACKAGE = str(Path(geventpool.redis.__file__).parent)


class Interrupt(BaseException):
    """What a signal handler raises."""


class Alarm(TimeoutError):
    """What another one raises, as if the operating system had raised it."""


@pytest.fixture(autouse=True)
def collect_sockets() -> Iterator[None]:
    """A socket that a function was about to return is left to the collector."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


class Signal:
    """Raises an error at the n-th such place of the adapter.

    :param int number: n, from 1.
    """

    def __init__(self, number: int, error: type[BaseException]) -> None:
        self.left = number
        self._error = error

    # Profiling is not traced by coverage.
    def profile(self, frame: FrameType, event: str, arg: Any) -> None:
        """Count the beginning of a function, and the end of a call."""
        if event in ("call", "return", "c_return"):
            if frame.f_code.co_filename.startswith(PACKAGE):
                self.left -= 1
                if not self.left:
                    raise self._error


def struck_everywhere(
    deed: Callable[[str], object], error: type[BaseException]
) -> Iterator[Signal]:
    """Do *deed* in a greenlet again and again, each time struck at the next place.

    It is given another name each time.
    """
    for number in range(1, 3000):
        signal = Signal(number, error)

        def work(signal: Signal = signal) -> None:
            sys.setprofile(signal.profile)
            try:
                deed(f"mine{signal.left}")
            except (error, redis.RedisError):
                pass
            finally:
                sys.setprofile(None)

        gevent.spawn(work).get(timeout=10)
        yield signal
        if signal.left > 0:
            return
    raise AssertionError("the deed does not come to an end")


def get(client: redis.Redis, name: str) -> None:
    assert client.get(name) == name.encode()


def pipeline(client: redis.Redis, name: str) -> None:
    pipe: Any = client.pipeline(transaction=False)
    pipe.get(name).get("b")
    assert pipe.execute() == [name.encode(), b"b"]


def behind_another(client: redis.Redis, name: str) -> None:
    """Wait for room."""
    other = gevent.spawn(client.get, "other")
    gevent.idle()
    get(client, name)
    assert other.get(timeout=5) == b"other"


@pytest.mark.parametrize("error", [Interrupt, Alarm])
@pytest.mark.parametrize("deed", [get, pipeline, behind_another])
def test_a_signal_anywhere_in_a_command_loses_no_room_and_sends_nothing_twice(
    deed: Callable[[redis.Redis, str], None],
    error: type[BaseException],
    hub_errors: list[Any],
) -> None:
    """Not even between taking it and queueing the call; the hub is struck as well."""
    most = 1 if deed is behind_another else 2
    with talking(echo, max_in_flight=most) as (client, server):
        room = multiplexer(client).room
        count = 0
        for _ in struck_everywhere(partial(deed, client), error):
            # Two in one turn of the loop, so that the queue is written in any case.
            after = [gevent.spawn(client.get, str(each)) for each in range(2)]
            assert [job.get(timeout=5) for job in after] == [b"0", b"1"]
            wait_until(lambda: in_flight(client) == 0)
            assert room.limit == room.size == most
            count += 1
        assert count > 20
        mine = [each[1] for each in server.received if each[1].startswith(b"mine")]
        assert len(set(mine)) == len(mine)
        errors = {type(each.error) for each in hub_errors}
        assert error in errors and errors <= {error, redis.ConnectionError}
        hub_errors.clear()


def renewed(client: redis.Redis, name: str) -> None:
    """Give the connection back when it is quiet."""
    multiplexer(client).renew()
    get(client, name)


def spoiled(client: redis.Redis, name: str) -> None:
    multiplexer(client).renew(spoiled=True)
    get(client, name)


def hung_up_on(client: redis.Redis, name: str) -> None:
    """The server ends the connection."""
    client.get("bye")


def taken(client: redis.Redis, name: str) -> None:
    """Use the connection alone."""
    client.wait(1, 0)


def at_rest(client: redis.Redis, name: str) -> None:
    get(client, name)
    wait_until(lambda: multiplexer(client).shared is None)


@pytest.mark.parametrize("deed", [renewed, spoiled, hung_up_on, taken, at_rest])
def test_a_signal_anywhere_in_the_end_of_a_connection_leaves_nobody_waiting(
    deed: Callable[[redis.Redis, str], None],
    hub_errors: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next turn of the event loop does the rest; no place is lost."""

    def answer(command: list[bytes]) -> bytes:
        if command[-1] == b"bye":
            server.sockets[-1].shutdown(2)
        return b":1\r\n" if command[0] in (b"WAIT", b"PUBLISH") else echo(command)

    if deed is at_rest:
        monkeypatch.setattr(shared_module, "REST", 0.002)
    with talking(answer, max_connections=2) as (client, server):
        pool: Any = client.connection_pool
        for _ in struck_everywhere(partial(deed, client), Interrupt):
            after = [gevent.spawn(outcome, client.get, str(each)) for each in range(2)]
            for job in after:
                reply = job.get(timeout=5)
                # What was written to a server that hangs up is not written again.
                assert deed is hung_up_on or isinstance(reply, bytes), reply
            wait_until(lambda: in_flight(client) == 0)
            wait_until(
                lambda: pool.stats().in_use == (multiplexer(client).shared is not None)
            )
        multiplexer(client).renew()
        wait_until(lambda: multiplexer(client).shared is None)
        assert_all_places(pool)
        hub_errors.clear()
