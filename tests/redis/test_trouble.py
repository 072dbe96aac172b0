"""Servers that are full, loading, restarting, frozen, hanging up, or refusing."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
import redis
from redis.backoff import ConstantBackoff, NoBackoff
from redis.retry import Retry

import geventpool
from geventpool import ErrorAction, Outage, PoolExhaustedError
from geventpool.redis import ConnectionPool, RedisPoolExhaustedError
from geventpool.testing import Clock, sweep, wait_until
from tests import parts
from tests.redis.conftest import TLS
from tests.redis.tools import assert_all_places, outcome
from tests.servers import RedisServer

NO_RETRY = Retry(NoBackoff(), 0)


def make_pool(server: RedisServer, **options: Any) -> ConnectionPool:
    usual: dict[str, Any] = {"retry": NO_RETRY, "timeout": 5, "max_connections": 4}
    return ConnectionPool(host=server.host, port=server.port, **(usual | options))


def test_a_full_server_serves_as_many_as_it_can() -> None:
    """maxclients below our limit: those refused wait for connections to come back."""
    # One of these is the administrator's.
    with RedisServer("--maxclients", "4") as server:
        pool = make_pool(server, max_connections=10)
        client = redis.Redis(connection_pool=pool)

        def work() -> bool:
            for _ in range(20):
                client.get("key")
                gevent.sleep(0)
            return True

        jobs = [gevent.spawn(outcome, work) for _ in range(10)]
        assert [job.get() for job in jobs] == [True] * 10
        pool.shutdown(5)


def test_a_server_that_stays_full_is_told_of() -> None:
    """The borrower gets redis-py's own words, and no place is lost."""
    with RedisServer("--maxclients", "2") as server:
        others = [redis.Connection(port=server.port) for _ in range(2)]
        for each in others:
            each.connect()
        pool = make_pool(server, timeout=0.3)
        client = redis.Redis(connection_pool=pool)
        error = outcome(client.ping)
        assert isinstance(error, redis.ConnectionError)
        assert "max number of clients reached" in str(error)
        assert isinstance(error.__cause__, geventpool.PoolExhaustedError)
        for each in others:
            each.disconnect()
        # The pool goes on trying by itself only while somebody waits.
        wait_until(lambda: outcome(client.ping) is True)
        pool.shutdown(5)


def test_a_failed_try_before_a_success_is_no_answer_later(
    redis_server: RedisServer,
) -> None:
    """What redis-py said of an attempt is forgotten when a connection was opened."""
    tries: list[int] = []

    class Shy(redis.Connection):
        def _connect(self) -> Any:
            tries.append(1)
            if len(tries) == 1:
                raise redis.ConnectionError("of long ago")
            return super()._connect()

    pool = make_pool(
        redis_server, connection_class=Shy, retry=Retry(ConstantBackoff(0), 3)
    )
    pool.release(pool.get_connection())
    assert len(tries) == 2
    assert isinstance(pool.explained(PoolExhaustedError()), PoolExhaustedError)
    pool.shutdown(5)


def test_a_full_server_is_not_retried_by_redis_py() -> None:
    """The pool knows better when there may be room: not in half a minute only."""
    with RedisServer("--maxclients", "2") as server:
        others = [redis.Connection(port=server.port) for _ in range(2)]
        for each in others:
            each.connect()
        pool = make_pool(server, retry=Retry(ConstantBackoff(30), 3), timeout=10)
        job = gevent.spawn(redis.Redis(connection_pool=pool).ping)
        full = "max number of clients"
        wait_until(lambda: full in str(pool.explained(PoolExhaustedError())))
        for each in others:
            each.disconnect()
        assert job.get(timeout=8)
        pool.shutdown(5)


def test_descriptors_of_this_process_may_run_out() -> None:
    """That is fullness too, and passes."""
    error = redis.ConnectionError("Error 24 connecting")
    error.__context__ = OSError(24, "Too many open files")
    connector = parts.connector(ConnectionPool().core)
    others = redis.ConnectionError("Error 111"), ValueError("max number of clients")
    actions = [connector.classify(each) for each in (error, *others)]
    assert actions == [
        ErrorAction.BACK_OFF,
        ErrorAction.DISCONNECT,
        ErrorAction.DISCARD,
    ]


@pytest.mark.parametrize(
    "error", [redis.ResponseError("no such command"), redis.WatchError("changed")]
)
def test_an_error_after_the_last_reply_keeps_the_connection(
    error: redis.RedisError,
) -> None:
    """Every reply was read: nothing is wrong with the connection."""
    connector = parts.connector(ConnectionPool().core)
    assert connector.classify(error) is ErrorAction.KEEP


def test_a_server_that_loads_is_redis_py_s_own_affair(own_server: RedisServer) -> None:
    """BUSYLOADING: retried by redis-py, if it has retries; the place is free."""
    own_server.ask("DEBUG", "POPULATE", 1000, "key", 100)
    own_server.ask("SAVE")
    args = own_server.args
    own_server.args += (
        *("--key-load-delay", "1000"),
        *("--loading-process-events-interval-bytes", "1024"),
    )
    own_server.stop()
    starting = gevent.spawn(own_server.start)
    patient = make_pool(own_server, retry=Retry(ConstantBackoff(0.02), 500))
    hasty = make_pool(own_server)
    answer = gevent.spawn(redis.Redis(connection_pool=patient).dbsize)
    errors = set()

    def ask() -> bool:
        errors.add(type(outcome(redis.Redis(connection_pool=hasty).dbsize)))
        return redis.BusyLoadingError in errors

    wait_until(ask)
    assert hasty.core.size == 0
    assert answer.get() == 1000
    starting.get()
    own_server.args = args
    assert_all_places(patient)
    assert_all_places(hasty)
    patient.shutdown(5)
    hasty.shutdown(5)


def test_a_restart_costs_no_place_and_no_stale_socket(own_server: RedisServer) -> None:
    """Idle connections of the old process are never lent."""
    pool = make_pool(own_server)
    client = redis.Redis(connection_pool=pool)
    assert_all_places(pool)
    own_server.restart()
    assert [outcome(client.ping) for _ in range(8)] == [True] * 8
    assert_all_places(pool)
    pool.shutdown(5)


def test_a_restart_under_load_is_survived_with_retries(
    own_server: RedisServer,
) -> None:
    """With redis-py's retries nobody even notices."""
    pool = make_pool(own_server, retry=Retry(ConstantBackoff(0.02), 500), timeout=20)
    client = redis.Redis(connection_pool=pool)
    stop = False
    answered: list[int] = []

    def work() -> bool:
        while not stop:
            client.get("key")
            answered.append(1)
            gevent.sleep(0)
        return True

    jobs = [gevent.spawn(outcome, work) for _ in range(10)]
    wait_until(lambda: len(answered) > 50)
    own_server.restart()
    wait_until(lambda: own_server.connected_clients() == 4)
    stop = True
    assert [job.get() for job in jobs] == [True] * 10
    assert_all_places(pool)
    pool.shutdown(5)


def test_a_restart_costs_no_more_errors_than_connections_were_in_use(
    own_server: RedisServer,
) -> None:
    """A waiter waits on, if the pool was told so."""
    pool = make_pool(
        own_server,
        max_connections=10,
        retry=Retry(NoBackoff(), 0),
        outage=Outage(wait=True),
    )
    client = redis.Redis(connection_pool=pool)
    stop = False

    def work() -> list[Exception]:
        errors: list[Exception] = []
        while not stop:
            try:
                client.get("key")
            except redis.RedisError as error:
                errors.append(error)
            gevent.sleep(0)
        return errors

    jobs = [gevent.spawn(work) for _ in range(200)]
    wait_until(lambda: pool.core.stats().in_use == 10)
    own_server.restart()
    wait_until(lambda: own_server.connected_clients() == 10)
    stop = True
    errors = [error for job in jobs for error in job.get()]
    assert len(errors) <= 10, errors
    assert_all_places(pool)
    pool.shutdown(5)


def test_after_a_loss_idle_connections_are_pinged_first(
    own_server: RedisServer,
) -> None:
    """Connections that cannot be seen to be dead cost nobody an error."""
    pool = make_pool(own_server, max_connections=2, retry=Retry(NoBackoff(), 0))
    client = redis.Redis(connection_pool=pool)
    assert_all_places(pool)
    reported: list[BaseException | None] = []
    pool.core.report_error = reported.append  # type: ignore[assignment, method-assign]
    assert isinstance(outcome(client.get, "a", "b"), TypeError)
    assert isinstance(outcome(client.incr, "key", "x"), redis.ResponseError)
    assert not reported
    conn = pool.get_connection()
    own_server.stop()
    outcome(conn.send_command, "PING")
    try:
        conn.read_response()
    except redis.ConnectionError:
        pool.release(conn)
    (error,) = reported
    assert isinstance(error, redis.ConnectionError)
    own_server.start()
    pool.shutdown(5)


def test_a_server_that_is_down_is_told_of_in_redis_py_s_words() -> None:
    """Also to a caller whose patience ends before the last retry."""
    with RedisServer() as server:
        pass
    for options in ({}, {"retry": Retry(ConstantBackoff(1), 100), "timeout": 0.5}):
        pool = make_pool(server, **options)
        error = outcome(redis.Redis(connection_pool=pool).ping)
        assert type(error) is redis.ConnectionError
        assert "111" in str(error)
        pool.shutdown(0)


def test_a_probe_that_begins_does_not_hide_why_the_server_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may hang until the timeout of a caller is over."""
    pool = ConnectionPool()
    for is_probe in True, False:
        pool.failed(redis.ConnectionError("refused"))
        monkeypatch.setattr(pool, "is_probe", lambda is_probe=is_probe: is_probe)
        pool.opening()
        error = pool.explained(geventpool.PoolExhaustedError("late"))
        assert ("refused" in str(error)) is is_probe


class OddError(redis.ConnectionError):
    """An error that cannot be copied, because its constructor wants two arguments."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"no way to {host}")


class LostConnection(redis.Connection):
    """A connection that raises an error of its own."""

    def _connect(self) -> Any:
        raise OddError(self.host, self.port)


def test_an_error_of_connecting_that_cannot_be_copied_is_told_of() -> None:
    """And not the failure to copy it."""
    retry = Retry(ConstantBackoff(1), 100)
    pool = ConnectionPool(connection_class=LostConnection, timeout=0.1, retry=retry)
    client = redis.Redis(connection_pool=pool)
    error = outcome(client.ping)
    assert isinstance(error, OddError) and error.__cause__ is None
    pool.shutdown(0)


def test_a_full_pool_is_told_of_even_if_the_server_is_down(
    own_server: RedisServer,
) -> None:
    """What is exhausted is the pool."""
    pool = make_pool(own_server, max_connections=1, timeout=0.01, initial_connections=1)
    conn = pool.get_connection()
    pool.failed(redis.ConnectionError("some time ago"))
    assert isinstance(
        outcome(redis.Redis(connection_pool=pool).ping), RedisPoolExhaustedError
    )
    pool.release(conn)
    pool.shutdown(5)


def test_a_frozen_server_costs_time_but_no_place(own_server: RedisServer) -> None:
    """SIGSTOP: redis-py's own time-out; afterwards all is as before."""
    pool = make_pool(own_server, socket_timeout=0.1, socket_connect_timeout=0.1)
    client = redis.Redis(connection_pool=pool)
    client.set("key", "value")
    own_server.pause()
    try:
        jobs = [gevent.spawn(outcome, client.get, "key") for _ in range(8)]
        errors = [job.get() for job in jobs]
    finally:
        own_server.resume()
    assert {type(error) for error in errors} == {redis.TimeoutError}
    wait_until(lambda: outcome(client.get, "key") == b"value")
    wait_until(lambda: pool.stats().opening == 0)
    assert_all_places(pool)
    pool.shutdown(5)


def test_killed_connections_are_replaced(own_server: RedisServer) -> None:
    """CLIENT KILL: idle ones are found out, one in use fails with redis-py's error."""
    pool = make_pool(own_server)
    client = redis.Redis(connection_pool=pool)
    assert_all_places(pool)
    job = gevent.spawn(outcome, client.blpop, "nothing", 30)
    wait_until(lambda: own_server.ask("INFO", "clients")["blocked_clients"])
    own_server.hang_up()
    assert isinstance(job.get(), redis.ConnectionError)
    assert [outcome(client.ping) for _ in range(8)] == [True] * 8
    assert_all_places(pool)
    pool.shutdown(5)


def test_connections_killed_while_idle_are_found_at_once(
    redis_server: RedisServer, tls_server: RedisServer
) -> None:
    """The event loop hears it, with TLS as well; nobody has to ask first."""
    plain = make_pool(redis_server, max_connections=3)
    secret = ConnectionPool.from_url(
        f"rediss://127.0.0.1:{tls_server.port}?max_connections=3",
        ssl_ca_certs=str(TLS / "cert.pem"),
    )
    for pool in (plain, secret):
        assert_all_places(pool)
        watch = parts.hangups(pool.core)
        watch.arm()
        # Tickets of TLS are no reason to hang up.
        gevent.idle()
        watch.arm()
        assert pool.core.stats().idle == 3 == len(watch.watchers)
        client = redis.Redis(connection_pool=pool)
        with pool.core.connection() as conn:
            conn.send_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            assert conn.read_response() == 2
        # The one that killed them is not lent again, and may be closed too.
        wait_until(lambda: pool.core.size <= 1)
        assert client.ping()
        pool.shutdown(5)


def test_a_wrong_password_costs_no_place() -> None:
    """redis-py's own exception, again and again, and service once it is right."""
    with RedisServer("--requirepass", "secret") as server:
        for protocol in (2, 3):
            pool = make_pool(server, password="wrong", protocol=protocol)
            client = redis.Redis(connection_pool=pool)
            for _ in range(6):
                error = outcome(client.ping)
                assert isinstance(error, redis.AuthenticationError)
            assert pool.core.size == 0
            pool.connection_kwargs["password"] = "secret"
            pool.reset()
            assert client.ping()
            assert_all_places(pool)
            pool.shutdown(5)


def test_a_password_that_is_changed_takes_effect(own_server: RedisServer) -> None:
    """Connections that are authenticated stay so; new ones need the new password."""
    pool = make_pool(own_server)
    client = redis.Redis(connection_pool=pool)
    assert client.ping()
    own_server.args += ("--requirepass", "secret")
    client.config_set("requirepass", "secret")
    assert client.ping()
    pool.disconnect()
    error = outcome(client.ping)
    assert isinstance(error, redis.AuthenticationError)
    pool.connection_kwargs["password"] = "secret"
    assert client.ping()
    pool.shutdown(5)


@pytest.mark.parametrize("option", ["ping_after", "ping_interval"])
def test_pings_are_answered_or_cost_the_connection(
    own_server: RedisServer, option: str
) -> None:
    """A refused PING is an answer too; silence is not."""
    pool = make_pool(own_server, **{option: 60})
    clock = Clock()
    clock.rule(pool.core)
    client = redis.Redis(connection_pool=pool)
    first = client.client_id()
    calls = own_server.ask("INFO", "commandstats")["cmdstat_ping"]["calls"]
    clock.advance(60)
    sweep(pool.core)
    wait_until(lambda: pool.stats().checking == 0)
    assert client.client_id() == first
    after = own_server.ask("INFO", "commandstats")["cmdstat_ping"]["calls"]
    assert after > calls
    connector = parts.connector(pool.core)
    conn = pool.get_connection()
    client.execute_command("ACL", "SETUSER", "default", "-ping")
    connector.ping(conn)
    conn.disconnect()
    pool.release(conn)
    pool.shutdown(5)
