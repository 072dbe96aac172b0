"""Counts do not drift: after any number of accidents they say what is there."""

from __future__ import annotations

import contextlib
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
import redis
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

import geventpool.mysql
import geventpool.redis
from geventpool import Pool, PoolError
from geventpool.series import VALUES, Reading, read
from geventpool.sqlalchemy import GreenletPool
from geventpool.testing import check, wait_until
from tests.event_loops import not_on_libuv
from tests.servers import MariaDBServer, RedisServer
from tests.telemetry import isolated

MOST = 4


class Storm:
    """Borrowers that are killed, that time out, and whose server hangs up.

    :param core: the pool.
    :param borrow: a context manager for one loan, which waits so long at most.
    :param ask: a round trip on what was borrowed.
    """

    def __init__(
        self,
        core: Pool[Any],
        borrow: Callable[[float | None], Any],
        ask: Callable[[Any], object],
    ) -> None:
        self.core = core
        self.borrow = borrow
        self.ask = ask
        #: what borrowers saw
        self.seen: Counter[str] = Counter()
        self._random = random.Random(1)

    def rage(self, accidents: int, hang_up: Callable[[], object]) -> None:
        """Let so many borrowers run, most of which meet with an accident."""
        while accidents > 0:
            users = [gevent.spawn(self._use) for _ in range(50)]
            for user in self._random.sample(users, 35):
                gevent.sleep(0)
                user.kill(block=False)
            gevent.joinall(users)
            accidents -= 50
            if accidents % 1000 == 0:
                hang_up()

    def _use(self) -> None:
        timeout = self._random.choice([None, None, 0.0, 0.001])
        limit = self._random.choice([None, 0.001, 10])
        try:
            with gevent.Timeout(limit, TimeoutError()):
                with self.borrow(timeout) as lent:
                    self.seen["lent"] += 1
                    self.ask(lent)
        except PoolError:
            self.seen["refused"] += 1
        except Exception:
            # The server hung up, or the driver wraps the refusal.
            self.seen["failed"] += 1


def gauges(reading: Reading) -> dict[str, float]:
    """The values of what may rise and fall, by the end of their names."""
    return {
        ".".join([value.name.rpartition(".")[2], *attributes.values()]): number
        for value in VALUES
        if not value.grows
        for attributes, number in value.points(reading)
    }


def agree(storm: Storm, connections: Callable[[], int]) -> None:
    """The gauges say what the ledger and the server say; the counts add up."""
    pool = storm.core
    wait_until(lambda: pool.size == connections())
    (reading,) = read([pool])
    found = gauges(reading)
    assert found["count.idle"] == len(pool.idle_connections()) == connections()
    assert found["count.used"] == len(pool.lent_connections()) == 0
    assert found["pending_requests"] == 0
    assert found["max"] == MOST
    measured = reading.measured
    opened, closed = measured.create.count, sum(measured.closed.values())
    assert opened - closed == pool.size
    assert measured.use.count == measured.wait.count
    check(pool)


@contextlib.contextmanager
def forked(storm: Storm) -> Iterator[None]:
    """A child that starts with nothing, and lives while the block runs."""
    done, tell = os.pipe()
    child = gevent.fork()
    if not child:  # pragma: no cover (in the child, where nobody counts)
        code = 1
        try:
            (reading,) = read([storm.core])
            is_empty = not gauges(reading)["count.idle"] and not storm.core.size
            with storm.borrow(None) as lent:
                storm.ask(lent)
            (reading,) = read([storm.core])
            counts = reading.measured.use.count, reading.measured.create.count
            code = 0 if is_empty and counts == (1, 1) else 2
            os.read(done, 1)
        finally:
            os._exit(code)
    try:
        yield
    finally:
        os.write(tell, b"x")
        assert os.waitstatus_to_exitcode(gevent.os.waitpid(child, 0)[1]) == 0


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with isolated(monkeypatch):
        yield


@not_on_libuv("redis-py's own pool finds data in silent sockets")
def test_gauges_of_a_pool_for_redis_do_not_drift() -> None:
    """After 10,000 accidents, restarts and forks."""
    with RedisServer() as server:
        pool = geventpool.redis.ConnectionPool(
            host=server.host, port=server.port, max_connections=MOST, name="redis"
        )
        pool.core.measure()

        @contextlib.contextmanager
        def borrow(timeout: float | None) -> Iterator[Any]:
            with pool.core.connection(timeout) as conn:
                yield conn

        def ask(conn: Any) -> None:
            conn.send_command("PING")
            conn.read_response()

        storm = Storm(pool.core, borrow, ask)
        for _ in range(2):
            storm.rage(5000, server.hang_up)
            agree(storm, server.connected_clients)
            with forked(storm):
                wait_until(lambda: server.connected_clients() == pool.core.size + 1)
                agree(storm, lambda: server.connected_clients() - 1)
            server.restart()
            with redis.Redis(connection_pool=pool) as client:
                assert client.ping()
            agree(storm, server.connected_clients)
        assert storm.seen["lent"] > 1000 and storm.seen["refused"] > 100
        pool.shutdown(timeout=5)
        assert server.connected_clients() == 0


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDBServer]:
    with MariaDBServer() as server:
        yield server


@not_on_libuv("no idle connection is watched")
def test_gauges_of_a_pool_for_mysql_do_not_drift(mariadb: MariaDBServer) -> None:
    """Its connections are reset after each loan."""
    options: dict[str, Any] = {**mariadb.client_options, "max_connections": MOST}
    with geventpool.mysql.ConnectionPool(**options, name="mysql") as pool:
        pool.measure()

        def ask(conn: Any) -> None:
            with conn.cursor() as cursor:
                cursor.execute("SELECT 1")

        storm = Storm(pool, pool.connection, ask)
        storm.rage(1000, mariadb.hang_up)
        agree(storm, mariadb.connections)
        with forked(storm):
            wait_until(lambda: mariadb.connections() == pool.size + 1)
            agree(storm, lambda: mariadb.connections() - 1)
        assert storm.seen["lent"] > 100
        (reading,) = read([pool])
        # Each loan that came back in order was reset in one way or another.
        assert sum(reading.measured.resets.values()) > 100
    wait_until(lambda: mariadb.connections() == 0)


def test_gauges_of_an_engine_do_not_drift(mariadb: MariaDBServer) -> None:
    """SQLAlchemy opens and closes the connections itself."""
    engine = create_engine(
        "mysql+pymysql://",
        connect_args=mariadb.client_options,
        poolclass=GreenletPool,
        pool_size=MOST,
        max_overflow=0,
        pool_logging_name="engine",
    )
    core = engine.pool.core  # type: ignore[attr-defined]
    core.measure()

    def ask(conn: Any) -> None:
        conn.execute(text("SELECT 1"))

    storm = Storm(core, lambda timeout: engine.connect(), ask)
    storm.rage(1000, mariadb.hang_up)
    # As with SQLAlchemy's own pool, a lost connection is found when it is used; the
    # first error renews all.
    with contextlib.suppress(OperationalError), engine.connect() as conn:
        ask(conn)
    with contextlib.ExitStack() as stack:
        for _ in range(MOST):
            ask(stack.enter_context(engine.connect()))
    agree(storm, mariadb.connections)
    with forked(storm):
        wait_until(lambda: mariadb.connections() == core.size + 1)
        agree(storm, lambda: mariadb.connections() - 1)
    assert storm.seen["lent"] > 100
    engine.dispose()
    wait_until(lambda: mariadb.connections() == 0)
