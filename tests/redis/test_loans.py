"""Loans that are not simply commands: who keeps them, how they end, what follows."""

from __future__ import annotations

import contextlib
import functools
import gc
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from geventpool.redis import ConnectionPool, TakenBackError, callers
from geventpool.redis.dialling import (
    allow,
    forbid,
    forbid_while_watching,
    redirect_to_null,
)
from geventpool.redis.loans import Loans, OwnedLoan, Special
from geventpool.testing import wait_until
from tests import parts
from tests.pauses import give_up_after, hang
from tests.redis.conftest import MakePool
from tests.redis.tools import assert_all_places, chain, outcome, present
from tests.servers import RedisServer

REPOSITORY = Path(__file__).parent.parent.parent


def in_native_thread(work: Callable[[], Any]) -> Any:
    """What *work* returns in a thread of the system; the event loop turns meanwhile."""
    return gevent.get_hub().threadpool.spawn(work).get()


class Owner:
    """Something that knows itself, and so ends only by the garbage collector."""

    def __init__(self, **what: Any) -> None:
        self.me = self
        self.what = what


@pytest.fixture()
def no_collector() -> Iterator[None]:
    """Cycles live until a test collects them."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


# A connection that the pool took back does not connect again.


def test_a_loan_that_ended_with_its_greenlet_opens_no_socket(
    make_pool: MakePool, own_server: RedisServer
) -> None:
    """The pool counts what it opens, and would not count that socket."""
    pool = make_pool(port=own_server.port, max_connections=2, client_name="kept")
    conn = gevent.spawn(pool.get_connection).get()
    wait_until(lambda: pool.core.size == 0)
    with pytest.raises(TakenBackError, match="get_connection"):
        conn.send_command("PING")
    with pytest.raises(redis.ConnectionError):
        conn.connect()
    pool.release(conn)
    assert_all_places(pool)


@pytest.mark.parametrize("kind", ["pubsub", "single", "raw"])
def test_a_pool_that_was_shut_down_stays_shut(
    own_server: RedisServer, kind: str
) -> None:
    """Each holder of a connection is told so, without retries and their pauses."""
    pool = ConnectionPool(port=own_server.port, client_name="shut")
    client = redis.Redis(connection_pool=pool)
    work: Callable[[], Any]
    if kind == "pubsub":
        subscription = client.pubsub()
        subscription.subscribe("channel")
        work = functools.partial(subscription.get_message, timeout=1)
    elif kind == "single":
        single = redis.Redis(connection_pool=pool, single_connection_client=True)
        work = single.ping
    else:
        conn = pool.get_connection()
        work = functools.partial(conn.send_command, "PING")
    held = gevent.spawn(pool.shutdown, 0).get()
    assert len(held) == 1
    with pytest.raises(redis.ConnectionError):
        for _ in range(3):
            work()
    assert "name=shut " not in own_server.ask("CLIENT", "LIST")


def test_a_retry_under_way_ends_with_the_loan(make_pool: MakePool) -> None:
    """It would try the connection again after each pause."""
    pool = make_pool(retry=Retry(NoBackoff(), 1000))
    conn = pool.get_connection()
    retry = conn.retry
    gevent.spawn(pool.core.drop, conn, True).get()
    tries = []

    def work() -> None:
        tries.append(1)
        conn.send_command("PING")

    wait_until(lambda: pool.core.size == 0)
    with pytest.raises(TakenBackError):
        retry.call_with_retry(work, lambda error: None)
    assert len(tries) == 1


def test_connections_of_other_kinds_can_be_forbidden_to_connect() -> None:
    """Of a class that has but one of the ways to connect, and no retries."""

    class Own:
        def connect(self) -> str:
            return "connected"

    conn = Own()
    forbid(conn)
    with pytest.raises(TakenBackError):
        conn.connect()
    allow(conn)
    assert conn.connect() == "connected"
    redirect_to_null(conn, None)


# A WATCH is not lost.


@pytest.mark.parametrize("end", ["disconnect", "client", "drop", "timeout"])
def test_a_watch_is_not_lost_with_its_connection(make_pool: MakePool, end: str) -> None:
    """A new session would not know that the key has changed since."""
    pool = make_pool(max_connections=3)
    client = redis.Redis(connection_pool=pool)
    client.set("balance", 100)
    with client.pipeline() as pipe:
        pipe.watch("balance")
        balance = int(present(pipe.get("balance")))
        if end == "disconnect":
            pool.disconnect()
        elif end == "client":
            redis.Redis.from_pool(pool).close()
        elif end == "drop":
            pool.core.drop(pipe.connection, anyone=True)
            wait_until(lambda: pool.core.size == 0)
        else:
            with give_up_after(0.01):
                pipe.blpop("nothing", 1)
        client.set("balance", 500)
        pipe.multi()
        pipe.set("balance", balance - 10)
        with pytest.raises(redis.WatchError):
            pipe.execute()
    assert client.get("balance") == b"500"


def test_a_pipeline_connects_again_before_and_after_its_watch(
    make_pool: MakePool,
) -> None:
    """Nothing is lost then."""
    pool = make_pool(max_connections=3)
    client = redis.Redis(connection_pool=pool)
    with client.pipeline() as pipe:
        pipe.watch("balance")
        pipe.unwatch()
        pipe.watch("balance")
        pipe.immediate_execute_command("UNWATCH")
        pool.disconnect()
        assert pipe.immediate_execute_command("PING")
        pipe.watch("balance")
        pipe.multi()
        pipe.set("balance", 1)
        assert pipe.execute() == [True]
    assert_all_places(pool)


def test_a_pipeline_of_a_cluster_does_not_go_on_without_its_watch(
    make_pool: MakePool,
) -> None:
    """It would retry what it read, and forget that it watched."""

    class Transaction:
        _watching = False

    pool = make_pool()
    conn = pool.get_connection()
    owner = Transaction()
    forbid_while_watching(conn, owner)
    conn.disconnect()
    conn.connect()
    owner._watching = True
    conn.connect()
    conn.disconnect()
    with pytest.raises(redis.WatchError, match="lost"):
        conn.connect()
    assert not owner._watching
    conn.connect()
    conn.disconnect()
    del owner
    conn.connect()
    pool.release(conn)
    assert "connect" not in vars(conn)


def test_a_forgotten_pipeline_sends_no_unwatch_over_a_new_socket(
    make_pool: MakePool, own_server: RedisServer, no_collector: None
) -> None:
    """Its finaliser runs after the pool has taken the connection back."""
    pool = make_pool(port=own_server.port, max_connections=2)
    client = redis.Redis(connection_pool=pool)

    def forget() -> None:
        pipe = client.pipeline()
        Owner(pipe=pipe)
        pipe.watch("key")

    forget()
    gc.collect()
    wait_until(lambda: pool.core.size == 0)
    assert_all_places(pool)
    assert own_server.ask("INFO", "clients")["connected_clients"] <= 3


# Finalisers and other threads.


@pytest.mark.parametrize("where", ["here", "in a native thread"])
@pytest.mark.parametrize("kind", ["pubsub", "pipeline", "single", "monitor"])
def test_what_is_forgotten_comes_back_wherever_the_collector_runs(
    make_pool: MakePool, no_collector: None, kind: str, where: str
) -> None:
    """It may run in a thread of gevent's pool, where no place may be lost."""
    pool = make_pool(max_connections=2)
    client = redis.Redis(connection_pool=pool)

    def forget() -> None:
        if kind == "pubsub":
            subscription = client.pubsub()
            Owner(it=subscription)
            subscription.subscribe("channel")
        elif kind == "pipeline":
            pipe = client.pipeline()
            Owner(it=pipe)
            pipe.watch("key")
        elif kind == "single":
            single = redis.Redis(connection_pool=pool, single_connection_client=True)
            Owner(it=single)
        else:
            monitor = client.monitor()
            Owner(it=monitor)
            monitor.__enter__()

    for _ in range(2):
        forget()
        if where == "here":
            gc.collect()
        else:
            in_native_thread(gc.collect)
    wait_until(lambda: pool.stats().in_use == 0)
    assert_all_places(pool)


def test_a_native_thread_may_give_back_and_close(make_pool: MakePool) -> None:
    """The event loop does it; the call returns at once."""
    pool = make_pool(max_connections=2)
    conn = pool.get_connection()
    in_native_thread(lambda: pool.release(conn))
    wait_until(lambda: pool.stats().idle == 1)
    lent = pool.get_connection()
    in_native_thread(pool.disconnect)
    wait_until(lambda: parts.socket_of(lent) is None)
    pool.release(lent)
    assert_all_places(pool)


def test_a_socket_of_another_kind_is_closed_at_once(make_pool: MakePool) -> None:
    """No event loop watches it."""

    class Sock:
        closed = False

        def shutdown(self, how: int) -> None:
            pass

        def close(self) -> None:
            self.closed = True

    pool = make_pool()
    conn = pool.get_connection()
    conn.disconnect()
    conn._sock = sock = Sock()
    redirect_to_null(conn, None)
    assert sock.closed
    pool.release(conn)


def test_a_connection_in_use_is_closed_in_a_turn_of_its_own(
    make_pool: MakePool,
) -> None:
    """A finaliser may close it while its greenlet begins to watch the descriptor."""
    pool = make_pool()
    conn = pool.get_connection()
    native = parts.native(conn)
    pool.disconnect()
    assert parts.socket_of(conn) is None
    assert native.fileno() >= 0
    wait_until(lambda: native.fileno() < 0)
    conn.connect()
    pool.release(conn)
    assert pool.stats().idle == 1


CYCLES = """
    from gevent import monkey; monkey.patch_all()
    import sys, gevent, redis, geventpool.redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry
    pool = geventpool.redis.ConnectionPool(
        port=int(sys.argv[1]), max_connections=2, retry=Retry(NoBackoff(), 3))
    client = redis.Redis(connection_pool=pool)
    class Request:
        def __init__(self):
            self.me, self.redis = self, redis.Redis.from_pool(pool)
    def load():
        for _ in range(200):
            try:
                client.ping()
            except redis.ConnectionError:
                pass
    def requests():
        for _ in range(400):
            Request()
            gevent.sleep(0)
    gevent.joinall([gevent.spawn(each) for each in (load, load, load, requests)])
    print("alive")
"""


def test_clients_in_cycles_that_close_the_pool_do_not_end_the_process(
    redis_server: RedisServer,
) -> None:
    """Each closes every connection of the pool, wherever it is collected."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CYCLES), str(redis_server.port)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stdout == "alive\n", result.stderr


AT_EXIT = """
    from gevent import monkey; monkey.patch_all()
    import sys, redis, geventpool.redis
    pool = geventpool.redis.ConnectionPool(port=int(sys.argv[1]))
    monitor = redis.Redis(connection_pool=pool).monitor()
    monitor.__enter__()
    class Owner:
        pass
    owner = Owner()
    owner.me = owner
    owner.subscription = redis.Redis(connection_pool=pool).pubsub()
    owner.subscription.subscribe("channel")
    del owner
    print("end")
"""


def test_a_program_ends_silently_with_loans_open(redis_server: RedisServer) -> None:
    """Owners are collected when greenlets can't be asked for any more."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(AT_EXIT), str(redis_server.port)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stdout == "end\n"
    assert result.stderr == ""


def test_an_owner_s_end_may_come_too_late() -> None:
    """After the loan has been given back, or after the pool itself."""

    class Pool:
        def forgotten(self, conn: object) -> None:
            raise AssertionError

    pool = Pool()
    loans = Loans(pool.forgotten)
    owner, conn = Owner(), object()
    kept = OwnedLoan(owner, conn, loans._owner_gone)
    loans._owner_gone(kept)
    loans = Loans(Pool().forgotten)
    loans.special[id(conn)] = Special(kept)
    loans._owner_gone(kept)
    assert loans.forget_loan(conn) is None


# Errors in flight.


def ways(pool: ConnectionPool) -> dict[str, Callable[[Callable[[Any], Any]], Any]]:
    """Ways to give a connection back when an error leaves the block it is used in."""

    def by_finally(use: Callable[[Any], Any]) -> None:
        conn = pool.get_connection()
        try:
            use(conn)
        finally:
            pool.release(conn)

    def by_helpers(use: Callable[[Any], Any]) -> None:
        conn = pool.get_connection()

        def give_back() -> None:
            pool.release(conn)

        def tidy() -> None:
            give_back()

        try:
            use(conn)
        finally:
            tidy()

    def by_exit_stack(use: Callable[[Any], Any]) -> None:
        with contextlib.ExitStack() as stack:
            conn = pool.get_connection()
            stack.callback(pool.release, conn)
            use(conn)

    class Session:
        def __init__(self) -> None:
            self.conn = pool.get_connection()

        def close(self) -> None:
            pool.release(self.conn)

    def by_closing(use: Callable[[Any], Any]) -> None:
        with contextlib.closing(Session()) as session:
            use(session.conn)

    def in_a_handler(use: Callable[[Any], Any]) -> None:
        try:
            raise KeyError("before the loan")
        except KeyError:
            by_helpers(use)

    return {
        each.__name__: each
        for each in (by_finally, by_helpers, by_exit_stack, by_closing, in_a_handler)
    }


@pytest.mark.parametrize(
    "way", ["by_finally", "by_helpers", "by_exit_stack", "by_closing", "in_a_handler"]
)
def test_an_error_since_the_loan_began_ends_the_connection_at_any_depth(
    make_pool: MakePool, way: str
) -> None:
    """The reply to what was sent is under way, and would be the next one's."""
    pool = make_pool(max_connections=1)
    client = redis.Redis(connection_pool=pool)
    client.set("key", "right")

    def late(conn: Any) -> None:
        conn.send_command("BLPOP", "nothing", "0.05")
        hang()

    with give_up_after(0.01):
        ways(pool)[way](late)
    assert [client.get("key") for _ in range(3)] == [b"right"] * 3


@pytest.mark.parametrize("way", ["by_helpers", "by_exit_stack", "by_closing"])
def test_an_error_from_before_the_loan_is_no_reason_to_part(
    make_pool: MakePool, way: str
) -> None:
    """Connections are taken in ``except`` blocks as well."""
    pool = make_pool(max_connections=1)
    used: list[Any] = []
    for _ in range(3):
        try:
            raise KeyError("before the loan")
        except KeyError:
            ways(pool)[way](used.append)
    assert len(set(used)) == 1


def test_an_exception_is_known_again_without_being_kept() -> None:
    """A later one may have its address."""
    try:
        raise KeyError
    except KeyError as error:
        first = Special(None)
        assert not first.began_before(error)
        assert not Special(None).began_before(error)
        kept = vars(error)
    assert Special(None).began_before(KeyError())
    assert first.began_before(KeyError())
    assert len(kept) == 1


def test_a_command_that_fails_in_the_program_s_own_code_costs_no_connection(
    make_pool: MakePool,
) -> None:
    """An argument that can't be packed, a callback that fails: nothing is lost."""
    pool = make_pool(max_connections=1)
    client = redis.Redis(connection_pool=pool)
    before = client.client_id()

    def fail(reply: object, **options: object) -> None:
        raise ZeroDivisionError

    for _ in range(5):
        with pytest.raises(redis.DataError):
            client.set("key", object())  # type: ignore[arg-type]
    client.set("key", "right")
    client.response_callbacks["GETEX"] = fail
    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            client.getex("key")
        pipe = client.pipeline(transaction=False)
        with pytest.raises(ZeroDivisionError):
            # What follows the failing one is unread, one of them an error.
            chain(pipe).getex("key").get("key").lpush("key", 1).get("key").execute()
        assert client.get("key") == b"right"
    assert client.client_id() == before


def test_a_connection_that_does_not_come_into_step_is_replaced(
    make_pool: MakePool,
) -> None:
    """In a transaction that was left open every command is only queued."""
    pool = make_pool(max_connections=1)
    client = redis.Redis(connection_pool=pool)
    before = client.client_id()
    client.execute_command("MULTI")
    with pytest.raises(redis.DataError):
        client.set("key", object())  # type: ignore[arg-type]
    assert client.client_id() != before


# Who keeps.


def test_a_subscription_is_its_object_s_also_behind_a_tracer(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The object is recognised, not the method that a tracer may have replaced."""
    for kind, name in (
        (redis.client.PubSub, "execute_command"),
        (redis.Redis, "_execute_command"),
        (ConnectionPool, "get_connection"),
        (ConnectionPool, "release"),
    ):

        def trace(kind: Any, name: str) -> None:
            original = getattr(kind, name)

            def traced(self: Any, *args: Any, **kwargs: Any) -> Any:
                return original(self, *args, **kwargs)

            monkeypatch.setattr(kind, name, traced)

        trace(kind, name)
    pool = make_pool(max_connections=2)
    client = redis.Redis(connection_pool=pool)

    def subscribe() -> Any:
        subscription = client.pubsub()
        subscription.subscribe("channel")
        return subscription

    subscription = gevent.spawn(subscribe).get()
    assert subscription.get_message(timeout=5)["type"] == "subscribe"
    client.publish("channel", "message")
    assert subscription.get_message(timeout=5)["data"] == b"message"
    conn = gevent.spawn(pool.get_connection).get()
    wait_until(lambda: pool.stats().in_use == 1)
    assert parts.socket_of(conn) is None
    with give_up_after(0.01):
        client.blpop("nothing", 1)
    client.set("key", "right")
    assert client.get("key") == b"right"
    subscription.close()
    assert_all_places(pool)


def test_a_wrapper_is_told_from_a_function_that_takes_any_arguments() -> None:
    """The one has the pool as its first argument, the other does not."""
    pool = object()

    def tracer(*args: Any) -> Any:
        return callers.borrowing_frame(sys._getframe(), pool)

    def named(it: Any, *args: Any) -> Any:
        return callers.borrowing_frame(sys._getframe(), pool)

    def decorator(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        return callers.borrowing_frame(sys._getframe(), pool)

    here = sys._getframe()
    assert decorator(None, pool, (), {}) is here
    assert decorator(None, None, (), {}) is not here
    assert tracer(pool) is here
    assert named(pool) is here
    assert named(None) is not here
    assert tracer(None) is not here
    assert callers.borrowing_frame(None, pool) is None


def test_nothing_is_told_of_an_error_without_a_traceback() -> None:
    """Somebody has taken it away."""
    assert not callers.was_interrupted(KeyError(), sys._getframe(), None)


# Retries.


def test_code_that_takes_a_connection_itself_is_told_of_a_lost_one(
    make_pool: MakePool, own_server: RedisServer
) -> None:
    """It expects what redis-py's pools do by default; commands are retried."""
    pool = make_pool(port=own_server.port, max_connections=5)
    client = redis.Redis(connection_pool=pool)
    subscription = client.pubsub()
    subscription.subscribe("channel")
    assert subscription.get_message(timeout=5)["type"] == "subscribe"
    raw = pool.get_connection()
    assert raw.retry.get_retries() == 0
    own_server.ask("CLIENT", "KILL", "TYPE", "pubsub")
    with pytest.raises(redis.ConnectionError):
        subscription.get_message(timeout=5)
    pool.release(raw)
    assert raw.retry.get_retries() > 0
    with client.pipeline() as pipe:
        pipe.watch("key")
        assert pipe.connection is not None
        assert pipe.connection.retry.get_retries() > 0
    subscription.close()


def test_retries_that_are_given_are_everybody_s(make_pool: MakePool) -> None:
    """Also those that are given later."""
    retry = Retry(NoBackoff(), 7)
    given = make_pool(retry=retry)
    conn = given.get_connection()
    assert conn.retry.get_retries() == 7
    given.release(conn)
    pool = make_pool()
    conn = pool.get_connection()
    assert conn.retry.get_retries() == 0
    pool.set_retry(retry)
    assert conn.retry.get_retries() == 7
    pool.release(conn)
    assert conn.retry.get_retries() == 7
    conn = pool.get_connection()
    assert conn.retry.get_retries() == 7
    pool.release(conn)


def test_retries_for_named_errors_are_those_of_redis_py(make_pool: MakePool) -> None:
    """With ``retry_on_timeout`` its pools retry once."""
    pool = make_pool(retry_on_timeout=True)
    conn = pool.get_connection()
    assert conn.retry.get_retries() == 1
    pool.release(conn)


def test_a_pool_does_not_keep_a_loan_s_owner(make_pool: MakePool) -> None:
    """Else a forgotten subscription would never come back."""
    pool = make_pool()
    subscription = redis.Redis(connection_pool=pool).pubsub()
    subscription.subscribe("channel")
    owner = weakref.ref(subscription)
    del subscription
    gc.collect()
    assert owner() is None
    wait_until(lambda: pool.stats().in_use == 0)


@pytest.mark.parametrize("end", ["shutdown", "drop"])
def test_a_subscriber_whose_connection_is_closed_gets_a_connection_error(
    make_pool: MakePool, end: str
) -> None:
    """Also while it waits for data: subscribers handle this error, and no other."""
    pool = make_pool(max_connections=2)
    channel = redis.Redis(connection_pool=pool).pubsub()
    channel.subscribe("news")
    channel.get_message(timeout=1)
    subscriber = gevent.spawn(outcome, lambda: channel.get_message(timeout=20))
    gevent.idle()
    [conn] = pool.core.lent_connections()
    if end == "shutdown":
        pool.shutdown(timeout=0)
    else:
        pool.core.drop(conn, anyone=True)
    assert isinstance(subscriber.get(timeout=5), redis.ConnectionError)
    channel.close()


def test_a_torn_release_ends_the_loan_of_its_greenlet_alone(
    make_pool: MakePool,
) -> None:
    """Another one may have got the connection meanwhile."""
    pool = make_pool(max_connections=2)
    conn = pool.get_connection()
    pool.end_torn_loan(conn, gevent.spawn(gevent.idle))
    assert pool.stats().in_use == 1
    for _ in range(2):
        pool.end_torn_loan(conn, gevent.getcurrent())
        assert pool.stats().in_use == 0


def test_a_torn_release_of_a_shared_connection_ends_what_it_has_of_its_own(
    make_pool: MakePool,
) -> None:
    """The shared connection itself stays."""
    pool = make_pool(max_connections=2, auto_pipeline=True)
    client = redis.Redis(connection_pool=pool)
    client.ping()
    stand_in = parts.sharing(pool).stand_in()
    pool.end_torn_loan(stand_in, gevent.getcurrent())
    assert pool.stats().in_use == 1


def test_a_release_that_a_signal_interrupts_costs_no_place(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that handles Ctrl-C goes on with the same greenlet."""

    def interrupt(conn: Any) -> bool:
        raise KeyboardInterrupt

    pool = make_pool(max_connections=1)
    conn = pool.get_connection()
    with monkeypatch.context() as patch:
        patch.setattr("geventpool.redis.returns.is_fit", interrupt)
        with pytest.raises(KeyboardInterrupt):
            pool.release(conn)
    wait_until(lambda: pool.stats().in_use == 0)


def test_a_new_connection_has_nothing_of_an_earlier_one_at_its_address(
    make_pool: MakePool,
) -> None:
    """Such as replies to be read; it may get the memory of one that was collected."""
    pool: Any = make_pool()
    conn = pool.make_connection()
    unsure = pool.core.connector.unsure
    unsure.add(id(conn))
    pool.make_connection = lambda: conn
    assert pool.get_connection() is conn
    assert not unsure
    pool.release(conn)
