"""The pauses between redis-py's retries end when a lost server is back."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import gevent
import pytest
import redis
from gevent.event import Event
from redis.backoff import ConstantBackoff, NoBackoff
from redis.retry import Retry

from geventpool import Backoff, Outage
from geventpool.redis import ConnectionPool, RedisConnector
from geventpool.redis.dialling import forbid, forbid_while_watching
from geventpool.redis.errors import TakenBackError
from geventpool.redis.internals import backoff_of
from geventpool.redis.retry_pauses import RetryPauses
from geventpool.testing import wait_until
from tests.peers import PATIENCE
from tests.redis.conftest import MakePool
from tests.redis.tools import outcome
from tests.servers import RedisServer

#: Attempts without a pause between them.
AT_ONCE = Backoff(0, maximum=0)
HOUR = 3600.0
LOST = redis.ConnectionError("lost")


class Conn:
    """A connection whose attempts to connect follow a script.

    :param script: an error is raised, an event is waited for, None is a success.
    """

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.retry = Retry(ConstantBackoff(HOUR), 3)

    def disconnect(self) -> None:
        """It has no socket."""

    def connect(self) -> None:
        """Act by the script."""
        step = self.script.pop(0)
        if isinstance(step, Event):
            step.wait()
        elif step is not None:
            raise step


class Hooks:
    """Makes connections, and notes what it is told."""

    def __init__(self, make: Callable[[], Any], retries_by_default: bool) -> None:
        self.make_connection = make
        self.retries_by_default = lambda: retries_by_default
        self.told: list[Any] = []
        self.reconnected = self.failed = self.told.append
        self.is_probe = lambda: False
        #: how many may try the server at a time, and how many do
        self.most, self.trying, self.peak = 4, 0, 0

    def begin_reconnect(self) -> bool:
        """Whether there is room for one more."""
        if self.trying >= self.most:
            return False
        self.trying += 1
        self.peak = max(self.peak, self.trying)
        return True

    def end_reconnect(self) -> None:
        """It has ended."""
        self.trying -= 1

    def retry_pause(self) -> AbstractContextManager[None]:
        """A pause begins."""
        return nullcontext()

    def opening(self) -> None:
        """An attempt begins."""

    def opened(self, conn: Any, seconds: float) -> None:
        """A connection is open."""

    def terminated(self, conn: Any) -> None:
        """A connection is closed."""


def is_connection_error(error: Exception) -> bool:
    """Whether it is redis-py's."""
    return isinstance(error, redis.ConnectionError)


@pytest.fixture()
def hooks() -> Hooks:
    """A pool."""
    return Hooks(Conn, retries_by_default=True)


@pytest.fixture()
def told(hooks: Hooks) -> list[Any]:
    """What the pool is told."""
    return hooks.told


@pytest.fixture()
def pauses(hooks: Hooks) -> RetryPauses:
    """The pauses of a pool, without a pause between two attempts to reach it."""
    return RetryPauses(AT_ONCE, is_connection_error, lambda: hooks)


def repeated(conn: Any, *errors: Exception) -> str:
    """Have redis-py repeat what fails with *errors* first."""
    script = list(errors)

    def work() -> str:
        if script:
            raise script.pop(0)
        return "done"

    return str(conn.retry.call_with_retry(work, lambda error: None))


def test_a_command_goes_on_at_once_when_the_server_is_back(
    own_server: RedisServer,
) -> None:
    """It would else wait for the end of its pause, with its place taken."""
    pool = ConnectionPool(
        host=own_server.host,
        port=own_server.port,
        max_connections=3,
        retry=Retry(ConstantBackoff(HOUR), 1),
    )
    client = redis.Redis(connection_pool=pool)
    blocked = [gevent.spawn(outcome, client.blpop, "list", 0) for _ in range(3)]
    wait_until(lambda: own_server.connected_clients() == 3)
    waiter = gevent.spawn(outcome, client.ping)
    own_server.stop()
    wait_until(lambda: pool.stats().paused)
    own_server.start()
    with own_server.admin() as admin:
        admin.rpush("list", 1, 2, 3)
    assert sorted(job.get()[1] for job in blocked) == [b"1", b"2", b"3"]
    assert waiter.get() is True
    assert not pool.stats().paused
    pool.shutdown(5)


def test_a_server_that_starts_later_is_noticed_while_all_attempts_pause(
    own_server: RedisServer,
) -> None:
    """Those that pause must not keep each other from trying it."""
    own_server.stop()
    pool = ConnectionPool(
        host=own_server.host,
        port=own_server.port,
        max_connections=9,
        max_connecting=3,
        retry=Retry(ConstantBackoff(HOUR), 1),
    )
    client = redis.Redis(connection_pool=pool)
    early = [gevent.spawn(outcome, client.ping) for _ in range(3)]
    wait_until(lambda: pool.stats().paused)
    own_server.start()
    assert [job.get() for job in early] == [True] * 3
    pool.shutdown(5)


def test_the_pool_tries_a_server_without_the_retries_of_redis_py() -> None:
    """Nobody waits for these attempts, and it repeats them soon."""
    conn = Conn(LOST)
    conn.retry = Retry(NoBackoff(), 2)
    hooks = Hooks(lambda: conn, retries_by_default=False)
    hooks.is_probe = lambda: True
    connector = RedisConnector(hooks)  # type: ignore[arg-type]
    assert outcome(connector.open) is LOST
    assert conn.script == []


def test_retries_of_initial_connections_end_with_the_error_of_redis_py(
    own_server: RedisServer,
) -> None:
    """They begin before the pool is made."""
    own_server.stop()
    with pytest.raises(redis.ConnectionError, match="refused"):
        ConnectionPool(
            host=own_server.host,
            port=own_server.port,
            initial_connections=2,
            retry=Retry(ConstantBackoff(0.001), 1),
        )


def test_one_of_those_that_pause_tries_the_server(
    pauses: RetryPauses, told: list[Any]
) -> None:
    """And when it is back, all of them go on."""
    back = Event()
    first, second = Conn(LOST, redis.TimeoutError(), LOST, back), Conn(None)
    pauses.is_lost = lambda error: isinstance(error, redis.RedisError)
    jobs = []
    for conn in (first, second):
        pauses.cover(conn)
        jobs.append(gevent.spawn(repeated, conn, LOST))
    wait_until(lambda: not first.script)
    assert [type(each) for each in told] == [type(LOST), redis.TimeoutError, type(LOST)]
    assert not any(job.dead for job in jobs)
    back.set()
    assert [job.get() for job in jobs] == ["done", "done"]
    assert told[3:] == [None]


def test_the_return_of_the_server_is_no_stampede(
    pauses: RetryPauses, hooks: Hooks
) -> None:
    """They connect a few at a time, like new connections of the pool."""
    hooks.most, gates = 2, [Event() for _ in range(5)]
    conns = [Conn(gate) for gate in gates]
    jobs = []
    for conn in conns:
        pauses.cover(conn)
        jobs.append(gevent.spawn(repeated, conn, LOST))
    wait_until(lambda: hooks.trying == 1)
    pauses.failed()
    pauses.reached()
    wait_until(lambda: hooks.trying == 2)
    for gate in gates:
        gate.set()
    assert [job.get() for job in jobs] == ["done"] * 5
    assert hooks.peak == 2 and hooks.trying == 0


def test_the_end_of_an_attempt_wakes_who_waits_for_its_turn_to_connect(
    pauses: RetryPauses, hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not look at intervals only, while all clients wait for connections."""
    monkeypatch.setattr("geventpool.redis.retry_pauses.NEXT", HOUR)
    hooks.most, gate = 1, Event()
    jobs = []
    for conn in [Conn(gate) for _ in range(3)]:
        pauses.cover(conn)
        jobs.append(gevent.spawn(repeated, conn, LOST))
    wait_until(lambda: hooks.trying == 1)
    pauses.failed()
    pauses.reached()
    gevent.idle()
    gate.set()
    gevent.joinall(jobs, timeout=PATIENCE)
    assert [job.value for job in jobs] == ["done"] * 3
    assert hooks.peak == 1


def test_who_waits_for_its_turn_to_connect_does_so_no_longer_than_its_pause(
    pauses: RetryPauses, hooks: Hooks
) -> None:
    """Then redis-py tries by itself, as without the pool."""
    hooks.most = 0
    conn = Conn()
    conn.retry = Retry(ConstantBackoff(0.05), 3)
    pauses.cover(conn)
    job = gevent.spawn(repeated, conn, LOST)
    gevent.idle()
    pauses.failed()
    pauses.reached()
    assert job.get() == "done"


def test_another_tries_the_server_when_the_first_is_killed(
    pauses: RetryPauses,
) -> None:
    """Else nobody would notice the return."""
    conns = [Conn(Event()), Conn(LOST, None)]
    jobs = []
    for conn in conns:
        pauses.cover(conn)
        jobs.append(gevent.spawn(repeated, conn, LOST))
    wait_until(lambda: not conns[0].script)
    jobs[0].kill()
    assert jobs[1].get() == "done"
    assert conns[0].retry.get_retries() == 3, "its own retries are back"


def test_a_pause_at_a_server_that_can_be_reached_is_not_shortened(
    pauses: RetryPauses, told: list[Any]
) -> None:
    """A server that cuts connections is spared as the user has chosen."""
    conn = Conn(None)
    pauses.cover(conn)
    job = gevent.spawn(repeated, conn, LOST)
    wait_until(lambda: not conn.script)
    pauses.reached()
    gevent.idle()
    assert not job.dead and not told
    job.kill()


def test_a_pause_ends_by_itself(pauses: RetryPauses) -> None:
    """The retries are as many as without an outage of the server."""
    for answer in (None, ValueError("a refusal shows that it can be reached")):
        conn = Conn(answer)
        conn.retry = Retry(ConstantBackoff(0.001), 3)
        pauses.cover(conn)
        assert repeated(conn, LOST) == "done"
    conn = Conn(*[LOST] * 1000)
    conn.retry = Retry(ConstantBackoff(0.001), 1)
    pauses.cover(conn)
    assert outcome(repeated, conn, LOST, LOST) is LOST


@pytest.mark.parametrize("error", [redis.TimeoutError(), redis.BusyLoadingError()])
def test_a_pause_that_spares_the_server_is_left_to_redis_py(
    pauses: RetryPauses, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a slow server nor one that loads its data is away."""
    pauses.is_lost = lambda error: not isinstance(error, redis.BusyLoadingError)
    conn = Conn()
    slept: list[Any] = []
    monkeypatch.setattr("redis.retry.sleep", slept.append)
    pauses.cover(conn)
    assert repeated(conn, error) == "done"
    assert slept == [HOUR]


def test_a_pause_after_the_end_of_its_connection_is_left_to_redis_py(
    pauses: RetryPauses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to try the server with."""
    conn = Conn()
    slept: list[Any] = []
    monkeypatch.setattr("redis.retry.sleep", slept.append)
    pauses.cover(conn)
    retry = conn.retry
    del conn
    gc.collect()
    script = [LOST]

    def work() -> None:
        if script:
            raise script.pop()

    retry.call_with_retry(work, lambda error: None)
    assert slept == [HOUR]


def test_a_connection_that_may_not_reconnect_tries_nothing(
    pauses: RetryPauses,
) -> None:
    """A pipeline that watches keys must get its error, and not a new session."""

    class Pipe:
        watching = True

    conn, pipe = Conn(), Pipe()
    conn.__dict__["_sock"] = None
    forbid_while_watching(conn, pipe)
    pauses.cover(conn)
    job = gevent.spawn(repeated, conn, LOST)
    gevent.idle()
    assert not job.dead
    pauses.failed()
    pauses.reached()
    assert job.get() == "done"


def test_a_borrower_whose_loan_ends_meanwhile_is_told_so(pauses: RetryPauses) -> None:
    """It must open no socket that the pool does not count."""
    go_on = Event()
    conn = Conn(go_on)
    pauses.cover(conn)
    retry = conn.retry
    job = gevent.spawn(outcome, repeated, conn, LOST)
    wait_until(lambda: not conn.script)
    forbid(conn)
    go_on.set()
    assert isinstance(job.get(), TakenBackError)
    assert retry.get_retries() == 0


def test_only_pauses_are_replaced(pauses: RetryPauses) -> None:
    """A connection class of the user's own may have no retries at all."""
    plain = Conn()
    for retry in (None, Retry(NoBackoff(), 3), Retry(ConstantBackoff(1), 0)):
        plain.retry = before = copy.copy(retry)  # type: ignore[assignment]
        pauses.cover(plain)
        assert plain.retry is before
    conn = Conn()
    backoff = backoff_of(conn.retry)
    pauses.cover(conn)
    covered = backoff_of(conn.retry)
    pauses.cover(conn)
    assert backoff_of(conn.retry) is covered
    assert covered == backoff and hash(covered) == hash(backoff)
    other = Conn()
    pauses.cover(other)
    assert conn.retry == other.retry
    assert type(backoff_of(copy.deepcopy(conn.retry))) is ConstantBackoff


def test_the_core_tries_a_lost_server_again_and_redis_py_does_not() -> None:
    """Its pauses grow to a second, and the core would learn of the outage late."""
    steps: list[Any] = [LOST, None, LOST, LOST, LOST]
    hooks = Hooks(lambda: made[-1], retries_by_default=True)
    made = [Conn()]
    made[0].script = steps
    made[0].retry = Retry(NoBackoff(), 2)
    connector = RedisConnector(hooks, Outage())  # type: ignore[arg-type]
    connector.open()
    assert len(steps) == 3, "redis-py retries until the server is reached once"
    assert outcome(connector.open) is LOST
    assert len(steps) == 2


@pytest.mark.parametrize(
    "outage, by_default",
    [(Outage(grace=0), True), (Outage(failures=None), True), (Outage(), False)],
)
def test_without_a_grace_the_retries_are_those_of_redis_py(
    outage: Outage, by_default: bool
) -> None:
    """So are those that the user has chosen."""
    conn = Conn(None, LOST, LOST, None)
    conn.retry = Retry(NoBackoff(), 2)
    hooks = Hooks(lambda: conn, by_default)
    connector = RedisConnector(hooks, outage)  # type: ignore[arg-type]
    for _ in range(2):
        connector.open()
    assert not conn.script


def test_an_open_for_a_forgotten_pool_is_refused(make_pool: MakePool) -> None:
    """A connector outlives its pool only by the length of one opening."""
    from geventpool.redis import RedisConnector

    pool = ConnectionPool()
    connector = RedisConnector(pool)
    del pool
    gc.collect()
    with pytest.raises(ReferenceError):
        connector.open()
    connector.reset(object())
    assert connector.pauses._try(object()) is None
