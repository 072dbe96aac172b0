"""The parts of commands that share a connection, one at a time."""

from __future__ import annotations

import os
from typing import Any

import gevent
import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import InvalidResponse
from redis.retry import Retry

from geventpool.redis import AutoPipeline, ConnectionPool, RedisPoolExhaustedError
from geventpool.redis import multiplexer as multiplexer_module
from geventpool.redis import sharing as sharing_module
from geventpool.redis.standin import StandIn
from geventpool.redis.steps import is_foreign
from geventpool.testing import wait_until
from tests import parts
from tests.redis.conftest import MakePool
from tests.redis.scripted import ScriptedRedis, echo, scripted_redis
from tests.redis.talking import in_flight, multiplexer, talking
from tests.redis.tools import chain, outcome, pool_of

# Stand-ins.


def stand_in(client: redis.Redis) -> Any:
    """What redis-py would get for its next command, and takes for a connection."""
    it = parts.sharing(client.connection_pool).stand_in()
    assert isinstance(it, StandIn)
    return it


def test_a_stand_in_answers_for_a_connection_without_having_one() -> None:
    """redis-py asks before and after a command, and in its logs."""
    with talking(echo) as (client, server):
        it = stand_in(client)
        assert it.pid == os.getpid()
        if hasattr(redis.Connection, "extract_connection_details"):
            assert it.extract_connection_details()
        assert it.pack_command("GET", "a") == parts.sharing(
            client.connection_pool
        ).pack(("GET", "a")) or b"".join(it.pack_command("GET", "a")).endswith(b"a\r\n")
        assert not it.should_reconnect()
        it.connect()
        it.disconnect()
        assert pool_of(client).stats().size == 1
        assert it.retire() is None
        parts.sharing(client.connection_pool).renew()
        wait_until(lambda: multiplexer(client).shared is None)
        assert it.host == "localhost"
        assert it.port == server.port


def test_a_connection_with_attributes_of_a_stand_in_is_not_replaced(
    make_pool: MakePool,
) -> None:
    """Else a program would find something else in them."""

    class Mine(redis.Connection):
        data = "mine"

    pool = make_pool(connection_class=Mine, auto_pipeline=True)
    client = redis.Redis(connection_pool=pool)
    assert client.ping() and client.ping()
    assert parts.sharing(pool).in_flight() == 0
    assert pool.stats().idle == 1


def test_who_keeps_a_stand_in_gets_no_reply_of_another() -> None:
    """After its release: its own reply again, or an error."""
    with talking(echo) as (client, _):
        kept = stand_in(client)
        kept.send_command("GET", "a")
        assert kept.read_response() == b"a"
        client.connection_pool.release(kept)
        assert client.get("b") == b"b"
        assert kept.read_response() == b"a"
        kept.send_command("GET", "c")
        client.connection_pool.release(kept)
        with pytest.raises(redis.ConnectionError, match="nothing was sent"):
            kept.read_response()
        assert client.get("d") == b"d"
        kept.send_command("GET", "e")
        assert kept.read_response() == b"e"
        client.connection_pool.release(kept)


def test_a_reply_to_nothing_is_not_waited_for() -> None:
    """It would never come."""
    with talking(echo) as (client, _):
        with pytest.raises(redis.ConnectionError, match="nothing was sent"):
            stand_in(client).read_response()


def test_a_decoded_reply_cannot_be_had_raw() -> None:
    """Commands whose replies are never decoded are not on the list."""
    with talking(echo) as (client, _):
        it = stand_in(client)
        it.send_command("GET", "a")
        assert it.read_response(disable_decoding=True) == b"a"
        it = stand_in(client)
        parts.sharing(client.connection_pool).decodes = True
        it.send_command("GET", "a")
        with pytest.raises(redis.DataError, match="decoded already"):
            it.read_response(disable_decoding=True)


@pytest.mark.parametrize("deed", ["disconnect", "retire"])
def test_a_stand_in_that_is_left_abandons_its_command(deed: str) -> None:
    """The reply is read and dropped; the connection stays."""
    with talking() as (client, server):
        it = stand_in(client)
        it.send_command("GET", "a")
        wait_until(lambda: server.received)
        getattr(it, deed)()
        assert in_flight(client) == 1
        server.sockets[0].sendall(b"+a\r\n")
        wait_until(lambda: in_flight(client) == 0)
        assert len(server.sockets) == 1


def test_what_is_not_known_is_asked_of_a_connection_of_its_own() -> None:
    """A new version of redis-py may be slower, but not wrong; and it stays with it."""
    with talking(echo) as (client, server):
        it = stand_in(client)
        assert it.can_read() is False
        assert len(server.sockets) == 2
        it.send_packed_command(it.pack_commands([("GET", "a"), ("GET", "b")]))
        assert [it.read_response(), it.read_response()] == [b"a", b"b"]
        it.send_command("GET", "c")
        assert it.read_response() == b"c"
        assert (it.db, it.retry) == (0, it.own.retry)
        assert "with" in repr(it)
        if hasattr(redis.Connection, "should_reconnect"):
            # Versions without it do not ask.
            assert not it.should_reconnect()
        it.disconnect()
        it.connect()
        assert it.can_read() is False
        client.connection_pool.release(it)
        assert pool_of(client).stats().size == 2


def test_what_was_packed_elsewhere_is_sent_over_a_connection_of_its_own() -> None:
    """Nobody knows how many replies there will be."""
    with talking(echo) as (client, server):
        it = stand_in(client)
        it.send_packed_command([b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n"])
        assert it.read_response() == b"a"
        assert len(server.sockets) == 2
        client.connection_pool.release(it)


def test_a_refusal_is_not_tried_again() -> None:
    """As when a pool refuses a connection: redis-py retries commands, not that."""
    with talking(echo, max_connections=2, timeout=0.2) as (client, _):
        pool: Any = client.connection_pool
        pool.set_retry(Retry(NoBackoff(), 5))
        parts.sharing(pool).renew()
        wait_until(lambda: multiplexer(client).shared is None)
        lent = [pool.get_connection() for _ in range(2)]
        attempts: list[Any] = []
        own = pool.own_connection

        def counted() -> Any:
            attempts.append(1)
            return own()

        pool.own_connection = counted
        assert isinstance(outcome(client.config_get, "a"), RedisPoolExhaustedError)
        pipe = chain(client.pipeline()).config_get("a")
        assert isinstance(outcome(pipe.execute), RedisPoolExhaustedError)
        assert len(attempts) == 2
        for conn in lent:
            pool.release(conn)


# Queues.


def test_a_caller_waits_for_a_connection_as_long_as_the_pool_says() -> None:
    """Its time begins when it joins, not when the attempt begins that it joins."""
    with talking(echo, max_connections=2, timeout=0.5) as (client, _):
        pool, queue = pool_of(client), multiplexer(client)
        parts.sharing(pool).renew()
        wait_until(lambda: queue.shared is None)
        lent = [pool.get_connection() for _ in range(2)]
        # Both at once: the time of the first must not be over before the second joins.
        early = gevent.spawn(outcome, client.get, "early")
        late = gevent.spawn(client.get, "late")
        wait_until(lambda: len(queue.out) == 2 and pool.stats().waiting)
        queue.out[1].since += 1000
        assert isinstance(early.get(timeout=5), RedisPoolExhaustedError)
        assert not late.dead
        for conn in lent:
            pool.release(conn)
        assert late.get(timeout=5) == b"late"


@pytest.mark.parametrize("timeout", [None, 0])
def test_without_a_limit_or_patience_a_caller_does_as_the_pool(timeout: Any) -> None:
    """None: without end. 0: not at all, but one is opened for the next."""
    with scripted_redis(echo) as server:
        pool = ConnectionPool(port=server.port, auto_pipeline=True, timeout=timeout)
        client = redis.Redis(connection_pool=pool)
        if timeout == 0:
            assert isinstance(outcome(client.get, "a"), RedisPoolExhaustedError)
            wait_until(lambda: pool.stats().idle)
        assert client.get("a") == b"a"
        pool.shutdown(5)


def test_a_connection_that_cannot_be_shared_fails_its_callers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was closed between its opening and its use."""

    def fails(*args: Any) -> Any:
        raise redis.ConnectionError("closed meanwhile")

    with talking(echo) as (client, _):
        pool = pool_of(client)
        parts.sharing(pool).renew()
        wait_until(lambda: multiplexer(client).shared is None)
        with monkeypatch.context() as patch:
            patch.setattr(multiplexer_module, "SharedConnection", fails)
            error = outcome(client.get, "a")
        assert isinstance(error, redis.ConnectionError)
        assert pool.stats().in_use == 0
        assert client.get("a") == b"a"


def test_a_server_that_talks_before_it_is_asked_is_not_shared() -> None:
    """Whose reply that is nobody knows."""
    with scripted_redis(echo) as server:
        react = server._react

        class Chatty:
            def __init__(self, sock: Any) -> None:
                self.sock = sock

            def sendall(self, data: bytes) -> None:
                self.sock.sendall(data + b"+nobody\r\n")

        def chatty(sock: Any, command: list[bytes]) -> None:
            react(Chatty(sock) if b"LIB-VER" in command else sock, command)

        server._react = chatty  # type: ignore[method-assign]
        pool = ConnectionPool(
            port=server.port,
            protocol=2,
            auto_pipeline=True,
            timeout=5,
            retry=Retry(NoBackoff(), 0),
        )
        client = redis.Redis(connection_pool=pool)
        assert isinstance(outcome(client.get, "a"), (redis.RedisError, OSError))
        wait_until(lambda: pool.stats().in_use == 0)
        pool.shutdown(5)


def test_a_policy_holds_for_pipelines_as_well(make_pool: MakePool) -> None:
    """Each command is looked at."""
    policy = AutoPipeline(never_share=["GET"], share=["TIME"])
    client = redis.Redis(connection_pool=make_pool(auto_pipeline=policy))
    client.ping()
    fits = parts.sharing(client.connection_pool).fits
    assert fits([("SET", "a", "1"), ("TIME",)])
    assert fits([("MULTI",), ("TIME",), ("EXEC",)])
    assert not fits([("SET", "a", "1"), ("GET", "a")])
    assert not fits([("MULTI",), ("EXEC",)])
    assert not fits([])


def test_a_handler_of_pushes_that_fails_costs_no_later_push(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is told to the log."""
    seen: list[Any] = []

    def handle(conn: Any, reply: Any) -> None:
        seen.append(reply)
        raise ValueError("a handler that fails")

    monkeypatch.setattr(sharing_module, "handle_push", handle)
    sharing = parts.sharing(ConnectionPool(auto_pipeline=True))
    assert sharing is not None
    sharing.pushed(None, "one")
    sharing.pushed(None, "two")
    wait_until(lambda: len(seen) == 2)


def test_a_call_is_resolved_once() -> None:
    """Late, then lost; abandoned when its reply is there; woken when it is gone."""
    with talking(socket_timeout=None) as (client, server):
        job = gevent.spawn(outcome, client.get, "a")
        wait_until(lambda: server.received)
        queue = multiplexer(client)
        call = queue.shared.sent[0]
        call.error = redis.TimeoutError("late")
        queue.wake(call)
        assert isinstance(job.get(timeout=5), redis.TimeoutError)
        call.error = redis.TimeoutError("late")
        queue.abandon(call)
        queue.wake(call)
        assert in_flight(client) == 1
        client.connection_pool.disconnect()
        assert in_flight(client) == 0
        assert isinstance(call.error, redis.TimeoutError)


def test_who_waits_for_replicas_gets_the_connection_that_wrote() -> None:
    """WAIT means the writes of its own connection; others go on over the next."""

    def answer(command: list[bytes]) -> bytes | None:
        return None if command[0] == b"SET" else b":1\r\n"

    with talking(answer) as (client, server):
        job = gevent.spawn(client.set, "a", "1")
        wait_until(lambda: server.received)
        waits = [gevent.spawn(client.wait, 1, 0) for _ in range(2)]
        other = gevent.spawn(client.get, "other")
        wait_until(lambda: multiplexer(client).shared.parting.taker is not None)
        server.sockets[0].sendall(b"+OK\r\n")
        assert job.get(timeout=5)
        assert [wait.get(timeout=5) for wait in waits] == [1, 1]
        assert other.get(timeout=5) == 1
        names = [each[0] for each in server.received]
        # The second found the connection taken, and needs a write of its own.
        assert names.count(b"PUBLISH") == 2
        assert pool_of(client).stats().size <= 3


def test_a_connection_that_is_lost_is_taken_by_nobody() -> None:
    """Who wanted it takes another."""

    def answer(command: list[bytes]) -> bytes | None:
        return None if command[0] == b"GET" else b":1\r\n"

    with talking(answer) as (client, server):
        job = gevent.spawn(outcome, client.get, "a")
        wait_until(lambda: server.received)
        taking = gevent.spawn(client.wait, 1, 0)
        wait_until(lambda: multiplexer(client).shared.parting.taker is not None)
        server.sockets[0].close()
        assert isinstance(job.get(timeout=5), redis.ConnectionError)
        assert taking.get(timeout=5) == 1


def test_the_scripted_server_is_what_these_tests_talk_to() -> None:
    """Its handshake works with both protocols."""
    for protocol in (2, 3):
        with scripted_redis(echo) as server:
            assert isinstance(server, ScriptedRedis)
            client = redis.Redis(port=server.port, protocol=protocol)
            assert client.get("a") == b"a"
            client.close()


# Steps.


@pytest.mark.parametrize(
    ("text", "sent", "foreign"),
    [
        ("unknown command 'get', with args beginning with: 'a' ", ["GET a"], False),
        ("unknown command `$3`, with args beginning with: ", ["GET a"], True),
        ("unknown command 'a', with args beginning with: ", ["GET a"], True),
        ("wrong number of arguments for 'get' command", ["SET a b", "GET"], False),
        ("wrong number of arguments for 'get' command", ["SET a b"], True),
        ("wrong number of arguments for 'object|freq' command", ["OBJECT FREQ"], False),
        ("unknown command 'x', says the script", ["EVAL x 0"], False),
        ("Protocol error: invalid bulk length", ["GET a"], True),
        ("Protocol error: of the script's own", ["GET a", "EVAL a 0"], False),
        ("WRONGTYPE of key", ["GET a"], False),
        ("", ["GET a"], False),
    ],
)
def test_an_error_about_another_command_is_told(
    text: str, sent: list[str], foreign: bool
) -> None:
    """The server names the command of which it complains."""
    data = b"".join(
        b"*%d\r\n" % len(words)
        + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
        for words in (each.encode().split() for each in sent)
    )
    assert is_foreign(redis.ResponseError(text), data) is foreign


def test_a_stream_that_has_lost_bytes_is_given_up() -> None:
    """Else all later replies would go to the wrong callers."""
    with talking() as (client, server):
        jobs = [gevent.spawn(outcome, client.get, str(each)) for each in range(3)]
        wait_until(lambda: len(server.received) == 3)
        server.answer = echo
        error = b"-ERR unknown command '$3', with args beginning with: \r\n"
        server.sockets[0].sendall(b"+zero\r\n" + error + b"+one\r\n")
        assert jobs[0].get(timeout=5) == b"zero"
        for job in jobs[1:]:
            assert isinstance(job.get(timeout=5), InvalidResponse)
        assert client.get("later") == b"later"
        assert len(server.sockets) == 2


def test_a_negative_number_of_shared_connections_is_refused() -> None:
    """The error names the option, its value and the rule."""
    with pytest.raises(ValueError, match="auto_pipeline must be at least 0, not -1"):
        AutoPipeline.of(-1)
