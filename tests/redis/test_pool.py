"""The pool as redis-py, and code written against it, sees it."""

from __future__ import annotations

import gc
import pickle
import queue
import threading
import weakref
from typing import Any

import gevent
import pytest
import redis
from redis.backoff import NoBackoff
from redis.connection import Connection, ConnectionInterface
from redis.retry import Retry

import geventpool
from geventpool.redis import (
    ConnectionPool,
    RedisPoolClosedError,
    RedisPoolDeadlockError,
    RedisPoolExhaustedError,
    RedisTooManyWaitingError,
    internals,
    turns,
)
from geventpool.redis.errors import translate_error
from geventpool.redis.internals import default_retry, is_connected
from geventpool.testing import no_switch, wait_until
from tests import parts
from tests.pauses import hang
from tests.redis.conftest import TLS, MakePool
from tests.redis.tools import (
    assert_all_places,
    chain,
    outcome,
    outcome_elsewhere,
    pool_of,
)
from tests.servers import RedisServer

# Being constructed.


def test_keywords_make_a_pool(redis_server: RedisServer) -> None:
    """The one-line change."""
    pool = ConnectionPool(host=redis_server.host, port=redis_server.port, db=3)
    client = redis.Redis(connection_pool=pool)
    assert client.connection_pool is pool
    assert client.client_info()["db"] == 3
    pool.close()


def test_a_client_may_own_the_pool(redis_server: RedisServer) -> None:
    """``from_pool``: the client closes the pool; which can be used again even so."""
    pool = ConnectionPool(host=redis_server.host, port=redis_server.port)
    with redis.Redis.from_pool(pool) as client:
        assert client.ping()
        assert pool.core.size == 1
    wait_until(lambda: pool.core.size == 0)
    again = redis.Redis(connection_pool=pool)
    assert again.ping()
    pool.close()


def test_a_url_makes_a_pool(redis_server: RedisServer) -> None:
    """redis://, with options of both sides in the query, which wins."""
    pool = ConnectionPool.from_url(
        f"redis://{redis_server.host}:{redis_server.port}/2"
        "?max_connections=4&timeout=1.5&max_idle=60&min_connections=1&lifo=no"
        "&name=mine&client_name=me",
        max_connections=9,
        max_waiting=7,
    )
    client = redis.Redis(connection_pool=pool)
    info = client.client_info()
    assert (info["db"], info["name"]) == (2, "me")
    assert pool.max_connections == 4
    assert pool.core.name == "mine"
    pool.shutdown()


def test_a_url_for_a_unix_socket(redis_server: RedisServer) -> None:
    """unix://; with hiredis or without, a Unix socket is looked at as any other."""
    pool = ConnectionPool.from_url(f"unix://{redis_server.unix_socket}")
    client = redis.Redis(connection_pool=pool)
    for _ in range(3):
        assert client.ping()
    assert pool.core.size == 1
    assert redis_server.unix_socket in pool.core.name
    pool.close()


def test_a_url_for_tls(tls_server: RedisServer) -> None:
    """rediss://; a connection is used again although its tickets look like data."""
    pool = ConnectionPool.from_url(
        f"rediss://127.0.0.1:{tls_server.port}", ssl_ca_certs=str(TLS / "cert.pem")
    )
    client = redis.Redis(connection_pool=pool)
    ids = {client.client_id() for _ in range(5)}
    assert len(ids) == 1
    client.set("large", b"x" * 300_000)
    assert client.get("large") == b"x" * 300_000
    assert client.client_id() in ids
    pool.close()


def test_a_url_may_leave_the_connection_class_to_the_caller() -> None:
    """As with redis-py, the keyword wins there."""

    class Mine(Connection):
        pass

    pool = ConnectionPool.from_url("redis://localhost", connection_class=Mine)
    assert pool.connection_class is Mine


def test_a_url_that_is_not_understood_is_refused() -> None:
    """Naming the option and the value."""
    with pytest.raises(
        ValueError, match="max_idle must be a number or none, not 'soon'"
    ):
        ConnectionPool.from_url("redis://localhost?max_idle=soon")
    with pytest.raises(ValueError, match="backoff can't be given in a URL: '1'"):
        ConnectionPool.from_url("redis://localhost?backoff=1")
    with pytest.raises(ValueError, match="schemes"):
        ConnectionPool.from_url("http://localhost")


def test_a_subclass_may_take_part(redis_server: RedisServer) -> None:
    """Overriding ``make_connection`` and ``get_connection``, as people do."""
    made = []

    class Mine(ConnectionPool):
        def make_connection(self) -> Any:
            made.append(super().make_connection())
            return made[-1]

        def get_connection(self, *args: Any, **kwargs: Any) -> Any:
            return super().get_connection(*args, **kwargs)

    pool = Mine(host=redis_server.host, port=redis_server.port)
    assert redis.Redis(connection_pool=pool).ping()
    assert [is_connected(each) for each in made] == [True]
    pool.close()


def test_a_bare_pool_takes_redis_py_s_number_of_connections() -> None:
    """100, also for None and 0."""
    for number in (None, 0):
        assert ConnectionPool(max_connections=number).max_connections == 100
    assert ConnectionPool().max_connections == 100


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"max_connections": -1}, ValueError, "max_connections"),
        ({"max_connections": "9"}, ValueError, "max_connections"),
        ({"max_connections": 1, "min_connections": 2}, ValueError, "min_connections"),
        ({"timeout": -1}, ValueError, "timeout"),
        ({"timeout": "1"}, TypeError, "timeout"),
        ({"max_idle": float("nan")}, ValueError, "max_idle"),
        ({"listeners": [1]}, TypeError, "listeners"),
    ],
)
def test_bad_options_are_refused_at_the_door(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    """Naming the argument; nothing is opened."""
    with pytest.raises(error, match=words):
        ConnectionPool(**options)


def test_initial_connections_are_there_from_the_start(make_pool: MakePool) -> None:
    """An option of the core, as all others."""
    pool = make_pool(initial_connections=2, max_connections=3)
    assert pool.stats().idle == 2


def test_it_is_true(make_pool: MakePool) -> None:
    """Or ``redis.Redis`` would make itself another pool."""
    assert make_pool()


def test_a_pool_is_a_pool_of_redis_py(make_pool: MakePool) -> None:
    """For callers that ask with isinstance()."""
    assert isinstance(make_pool(), redis.ConnectionPool)


def test_its_repr_hides_secrets() -> None:
    """Addresses are shown, credentials and plumbing are not."""
    pool = ConnectionPool(
        host="there", db=1, username="me", password="hush", ssl_password="quiet"
    )
    text = repr(pool)
    assert "host=there,db=1,username=<REDACTED>,password=<REDACTED>" in text
    for secret in ("hush", "quiet", "=me", "himport"):
        assert secret not in text
    assert "hush" not in repr(pool.core)


def test_retries_are_those_of_a_client_of_its_own(make_pool: MakePool) -> None:
    """redis-py silently drops them for a pool that the user made."""
    own = redis.Redis().connection_pool.connection_kwargs["retry"]
    pool = make_pool()
    assert pool.connection_kwargs["retry"].get_retries() == own.get_retries() > 0
    with_pool = redis.Redis(connection_pool=pool)
    retry = with_pool.get_retry()
    assert retry is not None and retry.get_retries() == own.get_retries()
    chosen = make_pool(retry=Retry(NoBackoff(), 1))
    assert chosen.connection_kwargs["retry"].get_retries() == 1
    assert make_pool(retry=None).make_connection().retry.get_retries() == 0


def test_a_client_without_retries_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should redis-py's default ever be nothing, so is ours."""

    def __init__(self: object, retry: Retry | None = None) -> None:
        pass

    monkeypatch.setattr(redis.Redis, "__init__", __init__)
    assert default_retry().get_retries() == 0


# Borrowing.


def test_a_connection_is_used_again(client: redis.Redis) -> None:
    """One socket for command after command."""
    assert len({client.client_id() for _ in range(10)}) == 1


def test_the_limit_holds_and_all_are_served(
    client: redis.Redis, redis_server: RedisServer
) -> None:
    """A hundred greenlets on three connections: nobody is refused."""
    before = redis_server.connected_clients()
    client.set("key", "value")
    jobs = [gevent.spawn(client.get, "key") for _ in range(100)]
    seen = 0
    while not all(job.dead for job in jobs):
        seen = max(seen, redis_server.connected_clients())
    assert [job.get() for job in jobs] == [b"value"] * 100
    assert seen <= before + 3


def test_an_uncontended_loan_does_not_switch(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither borrowing nor giving back goes through the hub."""
    # A slow machine would let others run between the two loans.
    monkeypatch.setattr(turns, "SLICE", float("inf"))
    pool = make_pool()
    pool.release(pool.get_connection())
    with no_switch():
        conn = pool.get_connection()
        pool.release(conn)


def test_old_arguments_are_ignored(make_pool: MakePool) -> None:
    """kombu still passes the name of a command."""
    pool = make_pool()
    conn = pool.get_connection("_", "key", option=1)
    pool.release(conn)


def test_a_time_out_is_both_libraries_error(make_pool: MakePool) -> None:
    """Either base class catches it."""
    pool = make_pool(max_connections=1, timeout=0.01, initial_connections=1)
    client = redis.Redis(connection_pool=pool)
    conn = pool.get_connection()
    error = outcome_elsewhere(client.ping)
    assert isinstance(error, RedisPoolExhaustedError)
    assert "No connection available" in str(error) and "1/1" in str(error)
    pool.release(conn)
    assert issubclass(RedisPoolExhaustedError, redis.MaxConnectionsError)
    assert issubclass(RedisPoolExhaustedError, geventpool.PoolExhaustedError)


def test_too_long_a_line_is_both_libraries_error(make_pool: MakePool) -> None:
    """max_waiting, seen through redis-py."""
    pool = make_pool(max_connections=1, max_waiting=1)
    client = redis.Redis(connection_pool=pool)
    conn = pool.get_connection()
    waiter = gevent.spawn(client.ping)
    gevent.idle()
    error = outcome_elsewhere(client.ping)
    assert isinstance(error, RedisTooManyWaitingError)
    assert isinstance(error, redis.MaxConnectionsError)
    assert isinstance(error, geventpool.TooManyWaitingError)
    pool.release(conn)
    assert waiter.get()


def test_waiting_for_oneself_is_told_when_the_time_is_up(make_pool: MakePool) -> None:
    """Not before, because any greenlet may give back what was taken by hand."""
    pool = make_pool(max_connections=1, timeout=0.01, initial_connections=1)
    client = redis.Redis(connection_pool=pool)
    conn = pool.get_connection()
    with pytest.raises(RedisPoolDeadlockError) as caught:
        client.ping()
    assert isinstance(caught.value, redis.MaxConnectionsError)
    assert isinstance(caught.value, geventpool.PoolDeadlockError)
    pool.release(conn)


def test_a_subscription_is_no_deadlock(make_pool: MakePool) -> None:
    """Another greenlet may be about to close it."""
    pool = make_pool(max_connections=1)
    client = redis.Redis(connection_pool=pool)
    subscription = client.pubsub()
    subscription.subscribe("channel")
    closer = gevent.spawn(subscription.close)
    assert client.ping()
    closer.get()


def test_a_refusal_carries_its_cause(make_pool: MakePool) -> None:
    """The last failure to connect; and it can be pickled, as errors of jobs are."""
    with RedisServer() as server:
        port = server.port
    pool = make_pool(port=port, retry=Retry(NoBackoff(), 0), timeout=5)
    with pytest.raises(redis.ConnectionError, match="refused"):
        pool.get_connection()
    error = RedisPoolExhaustedError("words")
    assert str(pickle.loads(pickle.dumps(error))) == "words"


def test_after_shutdown_nothing_is_lent(make_pool: MakePool) -> None:
    """``shutdown`` is final, ``close`` is not."""
    pool = make_pool()
    client = redis.Redis(connection_pool=pool)
    assert client.ping()
    assert pool.shutdown(timeout=5) == []
    with pytest.raises(RedisPoolClosedError) as caught:
        client.ping()
    assert isinstance(caught.value, redis.ConnectionError)
    assert isinstance(caught.value, geventpool.PoolClosedError)


# Giving back.


def test_what_is_not_on_loan_is_ignored(make_pool: MakePool) -> None:
    """As redis-py ignores it: other pools' connections, and a second release."""
    pool, other = make_pool(max_connections=2), make_pool()
    foreign = other.get_connection()
    mine = pool.get_connection()
    pool.release(foreign)
    pool.release(mine)
    pool.release(mine)
    assert pool.stats().idle == pool.stats().size == 1
    other.release(foreign)
    assert_all_places(pool)


def test_a_second_release_does_not_end_another_s_loan(make_pool: MakePool) -> None:
    """redis-py would then lend the connection twice."""
    pool = make_pool(max_connections=1)
    client = redis.Redis(connection_pool=pool)
    conn = pool.get_connection()
    pool.release(conn)
    job = gevent.spawn(client.blpop, "nothing", 0.2)
    wait_until(lambda: pool.stats().in_use)
    pool.release(conn)
    assert pool.stats().in_use == 1
    assert job.get() is None


def test_another_greenlet_may_release_what_a_stranger_took(
    make_pool: MakePool,
) -> None:
    """Code that passes raw connections around goes on working."""
    pool = make_pool(max_connections=1)
    conn = pool.get_connection()
    gevent.spawn(pool.release, conn).get()
    assert pool.stats().idle == 1
    conn = pool.get_connection()
    conn.disconnect()
    gevent.spawn(pool.release, conn).get()
    assert pool.stats().size == 0
    gevent.spawn(pool.release, conn).get()
    assert_all_places(pool)


def test_a_stranger_s_loan_may_have_gone_on(make_pool: MakePool) -> None:
    """Dropped behind its back, or lent to the next already: then nothing happens."""
    pool = make_pool(max_connections=1)
    conn = pool.get_connection()
    pool.core.drop(conn)
    pool.release(conn)
    conn = pool.get_connection()
    conn.disconnect()

    def release_and_wait() -> None:
        pool.release(conn)

    waiter = gevent.spawn(pool.get_connection)
    wait_until(lambda: pool.stats().waiting)
    gevent.spawn(release_and_wait).get()
    pool.release(waiter.get())
    assert_all_places(pool)


def test_a_stranger_s_loan_ends_with_its_greenlet(make_pool: MakePool) -> None:
    """What nobody gives back is not lost."""
    pool = make_pool(max_connections=1)
    gevent.spawn(pool.get_connection).get()
    assert_all_places(pool)
    wait_until(lambda: not pool._loans.special)


def test_a_subscription_outlives_the_greenlet_that_made_it(
    client: redis.Redis,
) -> None:
    """One subscribes, another listens; so it is with all that redis-py keeps."""

    def subscribe() -> Any:
        subscription = client.pubsub()
        subscription.subscribe("channel")
        return subscription

    def watch() -> Any:
        pipe = client.pipeline()
        pipe.watch("key")
        return pipe

    subscription = gevent.spawn(subscribe).get()
    pipe = gevent.spawn(watch).get()
    gevent.idle()
    assert subscription.get_message(timeout=5)["type"] == "subscribe"
    client.publish("channel", "hello")
    assert subscription.get_message(timeout=5)["data"] == b"hello"
    client.set("key", "changed meanwhile")
    pipe.multi()
    pipe.get("key")
    with pytest.raises(redis.WatchError):
        pipe.execute()
    subscription.close()
    assert pool_of(client).stats().in_use == 0


def test_what_redis_py_forgot_comes_back_by_its_finaliser(
    client: redis.Redis,
) -> None:
    """A subscription or a pipeline that nobody remembers gives its connection back."""
    pool = pool_of(client)
    pipe = client.pipeline()
    pipe.watch("key")
    subscription = client.pubsub()
    subscription.subscribe("channel")
    assert pool.stats().in_use == 2
    del pipe, subscription
    gc.collect()
    assert pool.stats().in_use == 0


def test_release_works_in_the_hub(make_pool: MakePool) -> None:
    """Finalisers run wherever the collector does."""
    pool = make_pool(max_connections=1)
    conn = pool.get_connection()
    gevent.get_hub().loop.run_callback(pool.release, conn)
    wait_until(lambda: pool.stats().idle == 1)


def test_a_closed_connection_is_not_kept(make_pool: MakePool) -> None:
    """Its place is free at once, and a waiter gets a new one."""
    pool = make_pool(max_connections=1)
    conn = pool.get_connection()
    waiter = gevent.spawn(pool.get_connection)
    wait_until(lambda: pool.stats().waiting)
    conn.disconnect()
    with no_switch():
        pool.release(conn)
    new = waiter.get()
    assert new is not conn
    gevent.spawn(pool.release, new).get()


@pytest.mark.skipif(
    not hasattr(Connection, "mark_for_reconnect"), reason="since redis-py 7.0"
)
def test_a_connection_marked_for_reconnection_is_not_kept(
    make_pool: MakePool,
) -> None:
    """Maintenance and clusters mark what leads to the wrong place."""
    pool = make_pool()
    conn = pool.get_connection()
    conn.mark_for_reconnect()
    pool.release(conn)
    assert pool.stats().size == 0


def test_an_answered_error_costs_no_connection(client: redis.Redis) -> None:
    """The reply was read, whatever it said."""
    before = client.client_id()
    client.set("key", "text")
    with pytest.raises(redis.ResponseError):
        client.incr("key")
    with pytest.raises(redis.ResponseError):
        with client.pipeline() as pipe:
            chain(pipe).incr("key").get("key").execute()
    assert client.client_id() == before


def test_replies_left_unread_by_an_error_go_to_nobody(client: redis.Redis) -> None:
    """A callback that fails in the middle of a pipeline leaves replies behind."""

    def fail(reply: object, **options: object) -> None:
        raise ZeroDivisionError

    client.mset({"a": "A", "b": "B"})
    for transaction in (False, True):
        pipe = client.pipeline(transaction=transaction)
        pipe.response_callbacks = {"GET": fail}  # type: ignore[assignment]
        with pytest.raises(ZeroDivisionError):
            chain(pipe).get("a").get("b").execute()
        assert client.get("a") == b"A"
        assert client.get("b") == b"B"


def test_an_error_that_somebody_else_handles_costs_no_connection(
    client: redis.Redis,
) -> None:
    """Commands are sent in ``except`` blocks too."""
    before = client.client_id()
    try:
        raise KeyError("elsewhere")
    except KeyError:
        assert client.client_id() == before
        with client.pipeline() as pipe:
            chain(pipe).ping().execute()
    assert client.client_id() == before


def test_a_raw_loan_left_by_an_error_is_not_kept(make_pool: MakePool) -> None:
    """The reply to what was sent may be under way, where no look can find it."""
    pool = make_pool(max_connections=1)
    with pytest.raises(gevent.Timeout):
        conn = pool.get_connection()
        try:
            conn.send_command("BLPOP", "nothing", "0.05")
            with gevent.Timeout(0.01):
                hang()
        finally:
            pool.release(conn)
    assert pool.stats().size == 0


# All at once.


def test_disconnect_closes_idle_connections(
    client: redis.Redis, redis_server: RedisServer
) -> None:
    """Nothing is left on the server, and the pool goes on."""
    pool = pool_of(client)
    client.ping()
    conn = parts.idle_of(pool)[0]
    pool.disconnect(inuse_connections=False)
    assert not is_connected(conn)
    wait_until(lambda: pool.core.size == 0)
    assert client.ping()


def test_disconnect_leaves_the_place_to_its_holder(make_pool: MakePool) -> None:
    """Who connects again is still counted."""
    pool = make_pool(max_connections=1)
    conn = pool.get_connection()
    pool.disconnect()
    assert not is_connected(conn) and pool.core.size == 1
    conn.connect()
    pool.disconnect(inuse_connections=False)
    assert is_connected(conn)
    pool.release(conn)
    assert pool.stats().idle == 1


def test_disconnect_wakes_a_holder_with_an_error(
    make_pool: MakePool, redis_server: RedisServer
) -> None:
    """Not with another's reply."""
    pool = make_pool(retry=Retry(NoBackoff(), 0))
    client = redis.Redis(connection_pool=pool)
    job = gevent.spawn(outcome, client.blpop, "nothing", 10)
    wait_until(lambda: redis_server.ask("INFO", "clients")["blocked_clients"])
    pool.disconnect()
    assert isinstance(job.get(), redis.ConnectionError)
    assert pool.core.size == 0


def test_disconnect_and_close_do_not_switch(client: redis.Redis) -> None:
    """They are called by finalisers."""
    client.ping()
    with no_switch():
        client.connection_pool.disconnect()
        client.connection_pool.close()


def test_a_pool_is_a_context(make_pool: MakePool) -> None:
    """Leaving it closes the connections."""
    with make_pool() as pool:
        conn = pool.get_connection()
        pool.release(conn)
    assert not is_connected(conn)


def test_reset_renews_from_the_present_arguments(make_pool: MakePool) -> None:
    """django-redis changes the password and resets."""
    pool = make_pool(max_connections=2)
    client = redis.Redis(connection_pool=pool)
    lent = pool.get_connection()
    assert client.client_info()["db"] == 0
    pool.connection_kwargs["db"] = 5
    pool.reset()
    assert client.client_info()["db"] == 5
    pool.release(lent)
    wait_until(lambda: pool.core.size == 1)
    assert client.client_info()["db"] == 5


def test_set_retry_reaches_every_connection(make_pool: MakePool) -> None:
    """Idle ones, those in use, and those to come."""
    pool = make_pool()
    lent, idle = pool.get_connection(), pool.get_connection()
    pool.release(idle)
    retry = Retry(NoBackoff(), 7)
    redis.Redis(connection_pool=pool).set_retry(retry)
    assert lent.retry == idle.retry == retry
    assert pool.make_connection().retry.get_retries() == 7
    pool.release(lent)


def test_the_limit_can_be_changed(make_pool: MakePool) -> None:
    """By the attribute, as people do it."""
    pool = make_pool(max_connections=1, timeout=0)
    conn = pool.get_connection() if pool.core.size else None
    assert conn is None
    pool.max_connections = 2
    assert pool.core.max_connections == pool.max_connections == 2


def test_the_books_are_the_core_s(make_pool: MakePool) -> None:
    """What monitoring code reads is true."""
    pool = make_pool(max_connections=3)
    one, two = pool.get_connection(), pool.get_connection()
    pool.release(one)
    assert parts.idle_of(pool) == [one]
    assert parts.lent_of(pool) == {two}
    assert pool._created_connections == 2
    if hasattr(redis.ConnectionPool, "get_connection_count"):
        # Since redis-py 7.2.
        assert pool._get_free_connections() == [one]
        assert pool._get_in_use_connections() == {two}
        assert [count for count, _ in pool.get_connection_count()] == [1, 1]
    pool.release(two)


def test_the_encoder_and_the_protocol_are_the_arguments(make_pool: MakePool) -> None:
    """Inherited, and still true."""
    pool = make_pool(decode_responses=True, protocol=2)
    assert pool.get_encoder().decode_responses
    assert pool.get_protocol() == 2
    assert pool.owns_connection(pool.make_connection())


def test_nothing_keeps_a_forgotten_pool(
    redis_server: RedisServer,
) -> None:
    """Its idle connections refer to it, through redis-py's maintenance handler."""
    pool = ConnectionPool(host=redis_server.host, port=redis_server.port)
    assert redis.Redis(connection_pool=pool).ping()
    conn = parts.idle_of(pool)[0]
    sock = parts.socket_of(conn)
    gone = weakref.ref(pool)
    del pool, conn
    # A timer of the core may hold on to it for a moment.
    wait_until(lambda: gc.collect() >= 0 and gone() is None)
    wait_until(lambda: sock.fileno() == -1)


def test_the_lock_is_re_entrant(make_pool: MakePool) -> None:
    """redis-py's maintenance and cluster code takes it, and calls what takes it."""
    pool = make_pool()
    with pool._lock:
        with pool._lock:
            pool.disconnect()
    pool._lock = lock = threading.RLock()
    assert pool._lock is lock


class Dummy(ConnectionInterface):
    """A connection class of somebody's own making, without a socket."""

    def __init__(self, **kwargs: Any) -> None:
        self.open = False

    def connect(self) -> None:
        self.open = True

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        self.open = False

    def can_read(self, timeout: float = 0) -> bool:
        return False


Dummy.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]


def test_a_connection_class_of_one_s_own_will_do() -> None:
    """As long as it has the methods."""
    pool = ConnectionPool(connection_class=Dummy, max_connections=1)
    conn = pool.get_connection()
    pool.release(conn)
    assert pool.get_connection() is conn
    pool.release(conn)
    pool.disconnect()
    assert not conn.open


def test_a_constructor_that_fails_costs_no_place() -> None:
    """redis-py's pools lose one each time."""

    class Failing(Dummy):
        def __init__(self, **kwargs: Any) -> None:
            raise ZeroDivisionError

    pool = ConnectionPool(connection_class=Failing, max_connections=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            pool.get_connection()
    assert pool.core.size == 0


def test_a_limit_of_the_core_is_redis_py_s_time_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An opening that takes too long."""

    class Slow(Dummy):
        def connect(self) -> None:
            hang()

    pool = ConnectionPool(
        connection_class=Slow, timeouts=geventpool.Timeouts(open=0.01), timeout=5
    )
    with pytest.raises(redis.TimeoutError, match="opening"):
        pool.get_connection()
    assert pool.core.size == 0


def test_a_monitor_that_is_forgotten_costs_no_place(client: redis.Redis) -> None:
    """It has no finaliser; redis-py's pools lose a connection by it."""
    pool = pool_of(client)
    monitor = client.monitor()
    monitor.connection.send_command("MONITOR")
    assert pool.stats().in_use == 1
    del monitor
    gc.collect()
    assert pool.stats().in_use == 0
    assert client.ping()


def test_an_owner_may_outlive_its_loan(client: redis.Redis) -> None:
    """Dropped behind its back: then its end changes nothing."""
    pool = pool_of(client)
    subscription = client.pubsub()
    subscription.subscribe("channel")
    pool.core.drop(subscription.connection)
    subscription.connection.disconnect()
    subscription.connection = None
    del subscription
    gc.collect()
    gevent.idle()
    assert pool.core.size == 0


def test_a_block_of_the_core_keeps_what_was_answered(make_pool: MakePool) -> None:
    """The core pool itself may be used, with the connector's knowledge."""
    pool = make_pool()
    with pytest.raises(redis.ResponseError):
        with pool.core.connection() as conn:
            conn.send_command("NONSENSE")
            conn.read_response()
    assert pool.stats().idle == 1
    with pytest.raises(ZeroDivisionError):
        with pool.core.connection() as conn:
            raise ZeroDivisionError
    assert pool.stats().size == 0


@pytest.mark.skipif(
    not hasattr(redis.ConnectionPool, "disconnect_free_connections"),
    reason="since redis-py 7.0",
)
def test_only_idle_connections_to_a_moving_address_are_closed(
    make_pool: MakePool,
) -> None:
    """What redis-py's maintenance asks for."""
    pool = make_pool(max_connections=3)
    lent = pool.get_connection()
    other = pool.get_connection()
    pool.release(other)
    pool.disconnect_free_connections("1.2.3.4")
    assert pool.stats().idle == 1
    pool.disconnect_free_connections("127.0.0.1")
    wait_until(lambda: pool.core.size == 1)
    pool.release(lent)


def test_a_new_process_has_a_new_lock(make_pool: MakePool) -> None:
    """As after a fork, which is tried elsewhere."""
    pool = make_pool()
    before = pool._lock
    pool._lock_pid = 0
    assert pool._lock is not before
    assert pool._lock is pool._lock
    pool._checkpid()


def test_what_is_no_refusal_is_not_translated() -> None:
    """It has its own meaning."""
    error = ValueError()
    assert translate_error(error) is error


def test_the_queue_of_a_blocking_pool_may_be_named(make_pool: MakePool) -> None:
    """Programs do so, to make redis-py's pool wait in greenlets; here it does."""
    pool = make_pool(queue_class=queue.LifoQueue)
    assert redis.Redis(connection_pool=pool).ping()


def test_members_of_redis_py_that_are_relied_on_are_there() -> None:
    """A version without one of them must not be used in silence."""
    internals.check_members()


def test_a_member_that_is_missing_is_an_error_at_import(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its absence would show by replies that go astray."""
    monkeypatch.delattr(redis.client.PubSub, "execute_command")
    conn = redis.Connection()
    del conn._sock
    monkeypatch.setattr(redis.connection, "Connection", lambda: conn)
    with pytest.raises(
        ImportError, match=r"Connection\._sock, PubSub\.execute_command"
    ):
        internals.check_members()


def test_what_a_version_lacks_is_none() -> None:
    """Such as a module."""
    assert internals.module_of("redis.nothing") is None


def test_a_reply_proves_a_connection_well_for_a_moment(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And only what a command has returned; then the socket is asked again."""
    pool = make_pool()
    client = redis.Redis(connection_pool=pool)
    asked: list[object] = []

    def look(conn: object) -> bool:
        asked.append(conn)
        return True

    monkeypatch.setattr("geventpool.redis.connector.is_quiet", look)
    monkeypatch.setattr("geventpool.redis.returns.FRESH_SECONDS", 1000.0)
    assert client.ping()
    assert client.ping()
    assert not asked
    conn = pool.get_connection()
    assert not asked
    pool.release(conn)
    pool.release(pool.get_connection())
    assert asked == [conn]
    assert client.ping()
    monkeypatch.setattr("geventpool.redis.returns.FRESH_SECONDS", 0.0)
    assert client.ping()
    before = len(asked)
    assert client.ping()
    assert len(asked) == before + 1


def test_a_connection_closed_at_that_moment_is_not_lent(make_pool: MakePool) -> None:
    """Whatever its last reply proved."""
    pool = make_pool()
    client = redis.Redis(connection_pool=pool)
    assert client.ping()
    conn = parts.idle_of(pool)[0]
    parts.connector(pool).used, parts.connector(pool).until = conn, float("inf")
    conn.disconnect()
    assert pool.get_connection() is not conn
    pool.release(*parts.lent_of(pool))
