"""Commands that share a connection, when callers or connections come to harm."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import gevent
import pytest
import redis
from gevent.exceptions import ConcurrentObjectUseError
from redis.backoff import NoBackoff
from redis.exceptions import InvalidResponse
from redis.retry import Retry

from geventpool.redis import ConnectionPool, RedisPoolClosedError
from geventpool.redis import shared as shared_module
from geventpool.redis.transports import PlainTransport
from geventpool.testing import interrupt_everywhere, wait_until
from tests import parts
from tests.redis.conftest import MakePool
from tests.redis.scripted import echo, scripted_redis
from tests.redis.talking import in_flight, multiplexer, talking
from tests.redis.test_interruption import Stop, fail, kill, time_out
from tests.redis.test_shared import late_look
from tests.redis.tools import (
    assert_all_places,
    chain,
    interrupted_everywhere,
    outcome,
    pool_of,
    waitpid,
)
from tests.servers import RedisServer

NO_RETRY = Retry(NoBackoff(), 0)


# Kills.


def test_a_kill_before_the_command_is_written_takes_it_back() -> None:
    """Not a byte was sent, so the server never hears of it."""
    with talking(echo) as (client, server):
        jobs: list[Any] = []
        queued: list[int] = []
        loop = gevent.get_hub().loop

        def kill_one() -> None:
            # In the turn of the loop in which they were queued.
            queued.append(len(multiplexer(client).out))
            jobs[3].throw(gevent.GreenletExit)

        # Before the first of them runs, so the kill comes before the write.
        killer = gevent.spawn(loop.run_callback, kill_one)
        jobs += [gevent.spawn(client.get, str(number)) for number in range(5)]
        gevent.joinall([*jobs, killer])
        assert queued == [4]
        assert [job.value for job in jobs[:3]] == [b"0", b"1", b"2"]
        assert jobs[4].value == b"4"
        assert in_flight(client) == 0
        assert [each[1] for each in server.received] == [b"0", b"1", b"2", b"4"]


def test_a_kill_after_the_command_is_written_drops_its_reply() -> None:
    """It is read and thrown away; everybody else goes on undisturbed."""
    with talking() as (client, server):
        victim = gevent.spawn(client.get, "victim")
        other = gevent.spawn(client.get, "other")
        wait_until(lambda: len(server.received) == 2)
        victim.kill()
        assert in_flight(client) == 2
        server.sockets[0].sendall(b"+victim\r\n+other\r\n")
        assert other.get(timeout=5) == b"other"
        assert in_flight(client) == 0
        assert len(server.sockets) == 1


def test_a_greenlet_that_waits_elsewhere_is_not_struck() -> None:
    """Killed with its wake-up scheduled, it waits in a ``finally`` for something."""
    with talking() as (client, server):
        done = gevent.event.Event()

        def work() -> str:
            try:
                client.get("key")
            finally:
                done.wait(5)
            return "reached"

        victim = gevent.spawn(work)
        owner_of = gevent.spawn(client.get, "other")
        wait_until(lambda: len(server.received) == 2)
        call = multiplexer(client).shared.sent[0]
        # The reply and the kill in one turn of the loop.
        victim.kill(block=False)
        multiplexer(client).wake(call)
        gevent.sleep(0)
        gevent.sleep(0)
        assert not victim.dead
        done.set()
        victim.join(timeout=5)
        assert victim.dead
        assert isinstance(victim.value, gevent.GreenletExit)
        server.sockets[0].sendall(b"+one\r\n+two\r\n")
        assert owner_of.get(timeout=5) == b"two"


def test_a_foreign_switch_does_not_end_the_wait() -> None:
    """Another may switch to a greenlet for reasons of its own."""
    with talking() as (client, server):
        job = gevent.spawn(client.get, "key")
        wait_until(lambda: server.received)
        gevent.get_hub().loop.run_callback(job.switch)
        gevent.sleep(0)
        assert not job.dead
        server.sockets[0].sendall(b"+value\r\n")
        assert job.get(timeout=5) == b"value"


def test_two_greenlets_with_one_pipeline_do_not_hang() -> None:
    """The second one is told; the first one gets its reply, although both gave up."""
    with talking() as (client, server):
        shared = parts.sharing(client.connection_pool).stand_in()
        shared.send_command("PING")
        first = gevent.spawn(shared.read_response)
        wait_until(lambda: server.received)
        with pytest.raises(ConcurrentObjectUseError, match="another greenlet"):
            shared.read_response()
        multiplexer(client).abandon(shared)
        server.sockets[0].sendall(b"+PONG\r\n")
        assert first.get(timeout=5) == b"PONG"


def test_a_queued_call_for_which_a_greenlet_waits_stays_queued() -> None:
    """The other greenlet that uses its pipeline may have ended it."""
    with talking(echo) as (client, server):
        queue = multiplexer(client)
        queue.shared.is_blocked = True
        shared = parts.sharing(client.connection_pool).stand_in()
        shared.send_command("PING")
        first = gevent.spawn(shared.read_response)
        gevent.sleep(0)
        queue.abandon(shared)
        queue.shared.is_blocked = False
        queue.schedule()
        assert first.get(timeout=5) == b"PING"


def get_mine(client: redis.Redis) -> None:
    client.get("mine")


def pipeline(client: redis.Redis) -> None:
    chain(client.pipeline(transaction=False)).get("mine").get("mine").execute()


def transaction(client: redis.Redis) -> None:
    chain(client.pipeline()).get("mine").get("mine").execute()


def blocks(client: redis.Redis) -> None:
    client.blpop("nothing", 0.05)


@pytest.mark.parametrize("interrupt", [kill, time_out, fail])
@pytest.mark.parametrize(
    "scenario", [get_mine, pipeline, transaction, blocks], ids=lambda f: f.__name__
)
def test_an_interruption_anywhere_costs_nothing(
    make_pool: MakePool,
    scenario: Callable[[redis.Redis], None],
    interrupt: Callable[[gevent.Greenlet], None],
) -> None:
    """No place, no room, no reply; with others before and behind it in the stream."""
    pool = make_pool(
        auto_pipeline=True, max_connections=2, max_in_flight=3, retry=NO_RETRY
    )
    client = redis.Redis(connection_pool=pool)
    client.mset({"mine": "M", "yours": "Y"})

    others: list[Any] = []

    def run() -> None:
        others[:] = [gevent.spawn(client.get, "yours") for _ in range(3)]
        try:
            scenario(client)
            gevent.joinall(others)
        except (gevent.Timeout, Stop):
            pass

    for number in interrupted_everywhere(run, interrupt):
        assert [job.get(timeout=5) for job in others] == [b"Y"] * 3
        assert client.get("yours") == b"Y"
        assert client.get("mine") == b"M"
        assert in_flight(client) == 0
        if number % 2:
            # So that opening is interrupted too.
            parts.sharing(pool).renew()
    parts.sharing(pool).renew()
    wait_until(lambda: multiplexer(client).shared is None)
    assert_all_places(pool)


@pytest.mark.parametrize("later", [-1, 0, 1, 2])
def test_the_books_of_the_pool_are_in_order_after_every_interruption(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, later: int
) -> None:
    """A command, a pipeline, room that is scarce, and a connection that is opened."""
    # So that the shared connection is soon in its place.
    monkeypatch.setattr(shared_module, "REST", 0.01)
    pools: list[ConnectionPool] = []

    def scenario() -> Any:
        pool = ConnectionPool(
            port=redis_server.port,
            auto_pipeline=True,
            max_connections=2,
            max_in_flight=2,
            timeout=5,
            retry=NO_RETRY,
        )
        pools.append(pool)
        client = redis.Redis(connection_pool=pool)

        def work() -> None:
            others = [gevent.spawn(client.echo, str(each)) for each in range(3)]
            client.echo("mine")
            chain(client.pipeline(transaction=False)).echo("a").echo("b").execute()
            client.config_get("maxmemory")
            gevent.joinall(others)

        return work, [pool.core]

    def afterwards() -> None:
        pool = pools.pop()
        assert redis.Redis(connection_pool=pool).echo("after") == b"after"
        wait_until(lambda: parts.sharing(pool).in_flight() == 0)

    errors = (gevent.GreenletExit, Stop)
    assert interrupt_everywhere(
        scenario, errors=errors, later=later, afterwards=afterwards
    )


# The end of a connection.


def test_a_lost_connection_fails_what_was_written_and_nothing_is_sent_twice() -> None:
    """Nobody knows whether the server has executed it; redis-py's retries decide."""
    with talking() as (client, server):
        jobs = [gevent.spawn(outcome, client.incr, str(each)) for each in range(3)]
        wait_until(lambda: len(server.received) == 3)
        server.answer = echo
        server.sockets[0].close()
        errors = [job.get(timeout=5) for job in jobs]
        assert all(type(each) is redis.ConnectionError for each in errors)
        assert len({id(each) for each in errors}) == 3
        assert client.get("later") == b"later"
        assert len(server.received) == 4
        assert in_flight(client) == 0


def test_the_retries_of_redis_py_send_again() -> None:
    """As over a connection of one's own."""
    with talking(retry=Retry(NoBackoff(), 1)) as (client, server):
        job = gevent.spawn(client.get, "key")
        wait_until(lambda: server.received)
        server.answer = echo
        server.sockets[0].close()
        assert job.get(timeout=5) == b"key"
        assert len(server.received) == 2


def test_what_was_not_written_goes_over_the_next_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The write that fails has sent nothing of it."""
    with talking(echo) as (client, server):
        failed: list[bytes] = []
        send = PlainTransport.send

        def refuse(self: PlainTransport, data: Any) -> int:
            if failed:
                return send(self, data)
            failed.append(bytes(data))
            raise BrokenPipeError(32, "Broken pipe")

        monkeypatch.setattr(PlainTransport, "send", refuse)
        assert client.get("key") == b"key"
        assert len(failed) == 1
        assert len(server.sockets) == 2
        assert in_flight(client) == 0


def test_what_no_connection_takes_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would have connections opened without end."""

    def refuse(self: PlainTransport, data: Any) -> int:
        raise OSError("broken")

    with talking(echo) as (client, server):
        monkeypatch.setattr(PlainTransport, "send", refuse)
        error = outcome(client.get, "key")
        assert type(error) is redis.ConnectionError
        assert "UNKNOWN" in str(error)
        assert len(server.sockets) == shared_module.TRIES


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"?nonsense\r\n", InvalidResponse),
        (b"+one\r\n+two\r\n+too many\r\n", None),
    ],
)
def test_a_connection_that_is_out_of_step_is_closed(data: bytes, kind: Any) -> None:
    """All that is under way fails, and the next command goes over a new one."""
    with talking() as (client, server):
        jobs = [gevent.spawn(outcome, client.get, str(each)) for each in range(2)]
        wait_until(lambda: len(server.received) == 2)
        server.answer = echo
        server.sockets[0].sendall(data)
        for job in jobs:
            assert kind is None or isinstance(job.get(timeout=5), kind)
        wait_until(lambda: multiplexer(client).shared is None)
        assert client.get("later") == b"later"
        assert len(server.sockets) == 2


def test_a_reply_to_nothing_closes_an_idle_connection() -> None:
    """It would be taken for the answer to the next command."""
    with talking(echo) as (client, server):
        server.sockets[0].sendall(b"+nothing\r\n")
        wait_until(lambda: multiplexer(client).shared is None)
        assert client.get("key") == b"key"


# Replies that are errors of the connection.


def test_a_server_that_loads_keeps_the_connection() -> None:
    """redis-py takes it for an error of the connection, and tries again."""
    answers = iter([b"-LOADING please wait\r\n", b"+value\r\n"])
    with talking(
        lambda command: next(answers), retry=Retry(NoBackoff(), 1)
    ) as (client, server):  # fmt: skip
        assert client.get("key") == b"value"
        assert len(server.sockets) == 1


@pytest.mark.parametrize("reply", [b"-NOAUTH no\r\n", b"*1\r\n-NOAUTH no\r\n"])
def test_a_connection_that_must_authenticate_is_replaced(reply: bytes) -> None:
    """Every later command would fail as well."""
    with talking(lambda command: reply) as (client, server):
        assert isinstance(outcome(client.get, "key"), redis.AuthenticationError)
        server.answer = echo
        assert client.get("key") == b"key"
        assert len(server.sockets) == 2 or pool_of(client).stats().size == 1


# Time.


def test_a_late_command_is_given_up_alone() -> None:
    """While others are answered the connection is alive."""
    with talking(socket_timeout=2) as (client, server):
        pipe = chain(client.pipeline(transaction=False)).get("a").get("b")
        late = gevent.spawn(outcome, pipe.execute)
        wait_until(lambda: len(server.received) == 2)
        call = multiplexer(client).shared.sent[0]
        # Part of the replies comes in, again and again, and is not what is awaited.
        server.sockets[0].sendall(b"+a\r\n")
        wait_until(lambda: call.left == 1)
        other = gevent.spawn(client.get, "other")
        wait_until(lambda: len(server.received) == 3)
        call.since = 0.0
        error = late.get(timeout=5)
        assert isinstance(error, redis.TimeoutError)
        server.sockets[0].sendall(b"+b\r\n+other\r\n")
        assert other.get(timeout=5) == b"other"
        assert in_flight(client) == 0
        assert len(server.sockets) == 1


def test_a_silent_connection_is_taken_for_dead() -> None:
    """A frozen server, or one that is out of reach: all fail at once."""
    with talking(socket_timeout=0.05) as (client, server):
        jobs = [gevent.spawn(outcome, client.get, str(each)) for each in range(3)]
        errors = [job.get(timeout=5) for job in jobs]
        assert all(isinstance(each, redis.TimeoutError) for each in errors)
        server.answer = echo
        assert client.get("key") == b"key"
        assert len(server.sockets) == 2


def test_a_reply_that_arrived_while_the_program_was_busy_is_not_late() -> None:
    """The event loop comes to its timers before its sockets."""
    with talking(socket_timeout=0.1) as (client, server):
        job = gevent.spawn(outcome, client.get, "key")
        wait_until(lambda: server.received)
        shared = multiplexer(client).shared
        server.sockets[0].sendall(b"+value\r\n")
        # In this turn of the loop, before it looks at the socket.
        assert late_look(shared) > 0
        assert job.get(timeout=5) == b"value"


def test_without_a_limit_nothing_is_late() -> None:
    """``socket_timeout=None`` means what it says."""
    with talking(socket_timeout=None) as (client, server):
        job = gevent.spawn(client.get, "key")
        wait_until(lambda: server.received)
        shared = multiplexer(client).shared
        assert late_look(shared) == shared_module.REST
        server.sockets[0].sendall(b"+value\r\n")
        assert job.get(timeout=5) == b"value"


# Rest, renewal, and all at once.


def test_a_connection_at_rest_goes_back_to_the_pool(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool knows how to look after idle connections."""
    monkeypatch.setattr(shared_module, "REST", 0.01)
    pool = make_pool(auto_pipeline=True, health_check_interval=10)
    client = redis.Redis(connection_pool=pool)
    client.ping()
    wait_until(lambda: pool.stats().idle == 1)
    assert client.ping()
    assert pool.stats().size == 1


def test_a_new_connection_is_used_after_a_reset(make_pool: MakePool) -> None:
    """What is under way is answered first."""
    pool = make_pool(auto_pipeline=True)
    client = redis.Redis(connection_pool=pool)
    client.ping()
    first = multiplexer(client).shared.conn
    pool.reset()
    assert client.ping()
    assert multiplexer(client).shared.conn is not first
    assert pool.stats().size == 1


def test_a_lifetime_ends_under_load_as_well(make_pool: MakePool) -> None:
    """A connection that is never at rest is given back now and then."""
    pool = make_pool(auto_pipeline=True, max_lifetime=0.05)
    client = redis.Redis(connection_pool=pool)
    client.ping()
    first = multiplexer(client).shared.conn

    def used() -> bool:
        client.ping()
        shared = multiplexer(client).shared
        return shared is not None and shared.conn is not first

    wait_until(used)


def test_disconnect_fails_what_is_under_way() -> None:
    """As it does for connections that are lent."""
    with talking() as (client, server):
        job = gevent.spawn(outcome, client.get, "key")
        wait_until(lambda: server.received)
        client.connection_pool.disconnect()
        assert isinstance(job.get(timeout=5), redis.ConnectionError)
        server.answer = echo
        assert client.get("key") == b"key"
        assert pool_of(client).stats().size == 1


def test_shutdown_waits_for_what_is_under_way_and_refuses_the_rest() -> None:
    """Then nothing is open."""
    with talking(max_in_flight=1) as (client, server):
        written = gevent.spawn(client.get, "key")
        wait_until(lambda: server.received)
        waiting = gevent.spawn(outcome, client.get, "other")
        wait_until(lambda: multiplexer(client).room.waiters)
        closing = gevent.spawn(pool_of(client).shutdown, 5)
        ended = waiting.get(timeout=5)
        assert isinstance(ended, RedisPoolClosedError)
        assert "was closed while you waited" in str(ended)
        server.sockets[0].sendall(b"+value\r\n")
        assert written.get(timeout=5) == b"value"
        assert closing.get(timeout=5) == []
        refused = outcome(client.get, "key")
        assert isinstance(refused, RedisPoolClosedError) and "is closed" in str(refused)
        assert pool_of(client).stats().size == 0


def test_shutdown_ends_what_takes_too_long() -> None:
    """And says what it cut off."""
    with talking() as (client, server):
        written = gevent.spawn(outcome, client.get, "key")
        wait_until(lambda: server.received)
        assert len(pool_of(client).shutdown(0.01)) == 1
        assert isinstance(written.get(timeout=5), redis.ConnectionError)


def test_a_server_that_is_away_is_told_of_once_for_all() -> None:
    """One attempt for all waiters, and no more retries than for a connection."""
    with scripted_redis() as server:
        port = server.port
    attempts: list[Any] = []

    class Counting(redis.Connection):
        def _connect(self) -> Any:
            attempts.append(self)
            return super()._connect()

    pool = ConnectionPool(
        connection_class=Counting,
        port=port,
        auto_pipeline=True,
        retry=Retry(NoBackoff(), 3),
        timeout=5,
    )
    client = redis.Redis(connection_pool=pool)
    jobs = [gevent.spawn(outcome, client.get, str(each)) for each in range(10)]
    jobs += [gevent.spawn(outcome, chain(client.pipeline()).get("a").execute)]
    errors = [job.get(timeout=5) for job in jobs]
    assert all(type(each) is redis.ConnectionError for each in errors)
    # The connection's own, and the pool has one more opened at most.
    assert len(attempts) <= 8
    assert parts.sharing(pool).in_flight() == 0
    pool.shutdown(5)


def test_a_restarted_server_is_found_again(own_server: RedisServer) -> None:
    """With redis-py's retries nobody has an error; without, those under way."""
    pool = ConnectionPool(
        port=own_server.port, auto_pipeline=True, retry=NO_RETRY, timeout=5
    )
    client = redis.Redis(connection_pool=pool)
    client.ping()
    own_server.restart()
    wait_until(lambda: outcome(client.ping) is True)
    assert pool.stats().size == 1
    pool.shutdown(5)


def test_a_child_begins_with_connections_of_its_own(make_pool: MakePool) -> None:
    """The parent's queue, room and connection are the parent's."""
    pool = make_pool(auto_pipeline=True, max_in_flight=100)
    client = redis.Redis(connection_pool=pool)
    client.set("key", "value")
    jobs = [gevent.spawn(client.echo, str(each)) for each in range(5)]
    gevent.sleep(0)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover (in the child, where nobody counts)
        try:
            with gevent.Timeout(10):
                good = client.get("key") == b"value" and in_flight(client) == 0
            os.write(writing, b"good" if good else b"bad")
        finally:
            os._exit(0)
    os.close(writing)
    assert [job.get(timeout=5) for job in jobs] == [b"%d" % each for each in range(5)]
    waitpid(child, 0)
    assert os.read(reading, 10) == b"good"
    os.close(reading)
    assert client.get("key") == b"value"
