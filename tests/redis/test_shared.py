"""A connection that is shared: its socket, its parser, and its timer."""

from __future__ import annotations

from typing import Any

import gevent
import greenlet
import pytest
import redis

from geventpool.redis import shared as shared_module
from geventpool.redis.replies import reader_of
from geventpool.redis.shared import QUIET, SharedConnection
from geventpool.redis.transports import PlainTransport
from geventpool.testing import wait_until
from tests.redis.scripted import echo
from tests.redis.talking import (
    Interrupt,
    in_flight,
    multiplexer,
    once,
    silent,
    talking,
    without_connection,
)
from tests.redis.tools import outcome, pool_of

pytestmark = pytest.mark.usefixtures("limited")


def late_look(shared: Any) -> float:
    """Look for a reply that is late; return the seconds until the next look."""
    shared._arrived = shared.sent[0].since = 0.0
    return shared._look_at_time()


def test_a_reply_that_cannot_be_decoded_is_its_callers_alone() -> None:
    """The connection is in step."""
    with talking() as (client, server):
        shared = multiplexer(client).shared
        shared._reader, shared._push = reader_of(
            redis.Connection(decode_responses=True)
        )
        jobs = [gevent.spawn(outcome, client.get, str(each)) for each in range(2)]
        wait_until(lambda: len(server.received) == 2)
        server.sockets[0].sendall(b"$1\r\n\xff\r\n+fine\r\n")
        assert isinstance(jobs[0].get(timeout=5), UnicodeDecodeError)
        assert jobs[1].get(timeout=5) == "fine"
        assert len(server.sockets) == 1


def test_an_interrupt_of_the_program_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch, hub_errors: list[Any]
) -> None:
    """It may have come between the taking of a reply and its delivery."""

    class Interrupt(BaseException):
        pass

    def interrupted(*args: Any) -> Any:
        raise Interrupt

    with talking(echo) as (client, server):
        with monkeypatch.context() as patch:
            patch.setattr(shared_module.SharedConnection, "_parse", interrupted)
            assert isinstance(outcome(client.get, "key"), redis.ConnectionError)
        assert isinstance(hub_errors.pop().error, Interrupt)
        assert client.get("key") == b"key"
        with monkeypatch.context() as patch:
            patch.setattr(PlainTransport, "send", interrupted)
            with pytest.raises(Interrupt):
                client.get("key")
        assert in_flight(client) == 0
        assert client.get("key") == b"key"


def test_a_reply_that_is_arriving_is_not_late() -> None:
    """A large one may take longer than the limit of a single read."""
    with talking(socket_timeout=0.1) as (client, server):
        job = gevent.spawn(client.get, "key")
        wait_until(lambda: server.received)
        shared = multiplexer(client).shared
        server.sockets[0].sendall(b"$5\r\nva")
        wait_until(lambda: shared._reader.has_data())
        shared.sent[0].since = 0.0
        shared._look_at_time()
        assert not job.dead
        server.sockets[0].sendall(b"lue\r\n")
        assert job.get(timeout=5) == b"value"


def test_a_connection_that_takes_nothing_is_taken_for_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What can't be written waits for the same time as what is not answered."""
    with talking(echo, socket_timeout=0.05) as (client, server):
        queue = multiplexer(client)
        shared = queue.shared
        with monkeypatch.context() as patch:
            patch.setattr(PlainTransport, "send", lambda self, data: 0)
            job = gevent.spawn(outcome, client.get, "key")
            wait_until(lambda: shared.is_blocked)
            shared._writable.close()
            # A watcher that never calls.
            shared._writable = gevent.get_hub().loop.async_()
            wait_until(lambda: shared.end is not None)
        assert job.get(timeout=5) == b"key"
        assert len(server.sockets) == 2


def two_commands(client: redis.Redis) -> list[Any]:
    """The replies to two commands of which the second waits for a turn."""
    jobs = [gevent.spawn(client.get, name * 10) for name in "abc"]
    return [job.get(timeout=5) for job in jobs]


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("cut", [1, 29, 30, 31, 59])
def test_a_write_may_be_cut_anywhere(
    monkeypatch: pytest.MonkeyPatch, repeats: bool, cut: int
) -> None:
    """Within a command and between two; with TLS the same bytes come again."""
    send = PlainTransport.send
    offered: list[bytes] = []

    def cutting(self: PlainTransport, data: Any) -> int:
        offered.append(bytes(data))
        if 2 <= len(offered) <= 3 and len(data) > cut:
            return send(self, bytes(data)[:cut])
        return send(self, data)

    with talking(echo) as (client, server):
        monkeypatch.setattr(PlainTransport, "repeats", repeats)
        monkeypatch.setattr(PlainTransport, "send", cutting)
        assert two_commands(client) == [name * 10 for name in (b"a", b"b", b"c")]
        assert [each[1][:1] for each in server.received] == [b"a", b"b", b"c"]
        assert len(offered[1]) > cut
        assert offered[2].startswith(offered[1][cut : cut + 1])


def test_a_read_that_fails_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is the system's error or ours."""
    for error in (ConnectionResetError(104, "reset"), ValueError("a mistake")):

        def fails(self: Any, error: Exception = error) -> Any:
            raise error

        with talking(echo) as (client, server):
            with monkeypatch.context() as patch:
                patch.setattr(SharedConnection, "_parse", fails)
                got = outcome(client.get, "a")
            assert isinstance(got, redis.RedisError)
            assert client.get("a") == b"a"
            assert len(server.sockets) == 2


def test_a_connection_ends_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed while its replies are being read, and told of it again."""
    with talking(protocol=3) as (client, server):
        shared = multiplexer(client).shared
        job = gevent.spawn(outcome, client.get, "a")
        wait_until(lambda: server.received)

        def closing(conn: Any, reply: Any) -> None:
            conn.disconnect()

        monkeypatch.setattr(multiplexer(client), "pushed", closing)
        server.sockets[0].sendall(b">1\r\n+push\r\n+late\r\n")
        assert isinstance(job.get(timeout=5), redis.ConnectionError)
        shared.lose(ValueError("again"))
        shared._on_readable()
        shared.write()
        assert in_flight(client) == 0


def test_a_program_that_is_behind_reads_no_longer_than_it_must(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stream of replies must not hold up the loop when the timer looks at it."""
    with talking(socket_timeout=0.2) as (client, server):
        job = gevent.spawn(client.get, "a")
        wait_until(lambda: server.received)
        shared = multiplexer(client).shared
        shared.sent[0].since = 0.0
        reads: list[int] = []

        def endless(shared: SharedConnection) -> bool:
            reads.append(1)
            return True

        with monkeypatch.context() as patch:
            patch.setattr(SharedConnection, "_read", endless)
            shared._reader.feed(b"$1\r\n", 0, 4)
            assert shared._look_at_time() > 0
        assert len(reads) > 1
        server.sockets[0].sendall(b"a\r\n")
        assert job.get(timeout=5) == b"a"


def test_a_socket_that_is_not_ready_is_no_error() -> None:
    """There is nothing to read, or no room to write."""
    with talking(silent) as (client, _):
        transport = multiplexer(client).shared._transport
        assert transport.receive() is None
        data = b"x" * 10_000_000
        while transport.send(data):
            pass
        assert transport.send(data) == 0


def test_who_is_killed_while_it_takes_the_connection_loses_nothing() -> None:
    """Before it is quiet, and after, when the greenlet has not run yet."""
    for is_ready in (False, True):
        with talking() as (client, server):
            pool = pool_of(client)
            job = gevent.spawn(client.get, "a")
            wait_until(lambda: server.received)
            taking = gevent.spawn(client.wait, 1, 0)
            wait_until(lambda: multiplexer(client).shared.parting.taker is not None)
            shared = multiplexer(client).shared
            server.answer = echo
            if is_ready:
                taking.kill(block=False)
                shared.end = QUIET
                shared.complete()
                gevent.sleep(0)
                job.kill()
            else:
                taking.kill()
                server.sockets[0].sendall(b"+a\r\n")
                assert job.get(timeout=5) == b"a"
            assert client.get("b") == b"b"
            assert pool.stats().size <= 2


def test_a_signal_while_the_time_is_looked_at_ends_no_timer(
    monkeypatch: pytest.MonkeyPatch, hub_errors: list[Any]
) -> None:
    """The connection is still given back when it is not used."""
    with talking(echo) as (client, _):
        once(monkeypatch, SharedConnection, "_look_at_time")
        assert client.get("a") == b"a"
        wait_until(lambda: multiplexer(client).shared is None)
        assert isinstance(hub_errors.pop().error, Interrupt)


def test_a_connection_that_cannot_be_watched_is_closed_unwatched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """libev bears no watcher of a closed descriptor."""
    halves: list[Any] = []

    def fail(self: Any, seconds: float) -> None:
        halves.append(self)
        raise MemoryError

    with talking(echo) as (client, _):
        without_connection(client)
        with monkeypatch.context() as patch:
            patch.setattr(SharedConnection, "_start_timer", fail)
            assert isinstance(outcome(client.get, "key"), MemoryError)
        [half] = halves
        assert half.end is None and not half._readable.active
        assert "disconnect" not in vars(half.conn)
        assert client.get("key") == b"key"


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
