"""No descriptor is left in the process: dials wait, nothing is lost, all comes back."""

from __future__ import annotations

import errno
from textwrap import dedent
from typing import Any

import pytest

from geventpool import ErrorAction, FactoryConnector, TcpConnection
from tests.peers import Echo, run_script
from tests.servers import MariaDBServer, RedisServer

#: In a process of its own, for the limit is the process's.
PREAMBLE = """
from gevent import monkey; monkey.patch_all()
import errno, os, resource, time
import gevent
from geventpool import *
from geventpool.testing import check, check_capacity, sweep, wait_until
from tests.pauses import turns

BACKOFF = Backoff(0.01, maximum=0.02)
COMMON = dict(max_connections=4, timeout={timeout}, backoff=BACKOFF)
hoard = []

def exhaust(left=0):
    # Nothing that is imported or looked up late may need one.
    while True:
        try:
            hoard.append(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            assert error.errno == errno.EMFILE
            break
    for _ in range(left):
        os.close(hoard.pop())

def relieve():
    while hoard:
        os.close(hoard.pop())

def limit():
    descriptors = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors + 20,) * 2)

def descriptors():
    return len(os.listdir("/proc/self/fd"))
"""

KINDS = {
    "core": """
pool = core = Pool(TcpConnection, {options}, **COMMON)
def use(turn):
    with pool.connection() as conn:
        question = b"%d." % turn
        conn.send(question)
        assert conn.recv() == question
        gevent.sleep(0)
REFUSALS = OSError,
""",
    "redis": """
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from geventpool.redis import ConnectionPool
pool = ConnectionPool(**{options}, retry=Retry(NoBackoff(), 0), **COMMON)
core = pool.core
client = redis.Redis(connection_pool=pool)
def use(turn):
    assert client.echo(f"{turn}") == b"%d" % turn
    gevent.sleep(0)
REFUSALS = redis.RedisError,
""",
    "mysql": """
from geventpool.mysql import ConnectionPool
from pymysql import err
pool = core = ConnectionPool(**{options}, ssl_disabled=True, **COMMON)
def use(turn):
    with pool.cursor() as cursor:
        cursor.execute("SELECT %s", [turn])
        assert cursor.fetchone() == (turn,)
    gevent.sleep(0)
REFUSALS = err.OperationalError,
""",
}

NONE_FROM_THE_START = """
use(0)
core.drain()
wait_until(lambda: core.size == 0)
limit()
before = descriptors()
exhaust()

# None is available: a waiter is told why at its timeout, and not before.
began = time.monotonic()
try:
    use(1)
except (PoolExhaustedError, *REFUSALS) as error:
    reasons, each = [], error
    while each is not None and each not in reasons:
        reasons.append(each)
        each = each.__cause__ or each.__context__
    assert any("Too many open files" in str(each) for each in reasons), reasons
else:
    raise AssertionError("from where?")
took = time.monotonic() - began
assert took > 0.29, took
wait_until(lambda: core.size == 0)
check(core)

# A waiter is served as soon as there is one.
waiting = gevent.spawn(use, 2)
wait_until(lambda: core.stats().waiting == 1)
relieve()
waiting.get(timeout=20)
turns()
check_capacity(core)
core.close(timeout=5)
wait_until(lambda: descriptors() == before, "all closed")
print("done")
"""

A_FEW = """
use(0)
limit()
# A place for one more, so two have to do for all.
exhaust(left=1)
users = [gevent.spawn(use, turn) for turn in range(60)]
gevent.joinall(users, timeout=30, raise_error=True)
assert all(user.ready() for user in users), core
assert 1 <= core.size <= 2 or core.stats().opening, core
check(core)
relieve()
gevent.joinall([gevent.spawn(use, turn) for turn in range(60)], raise_error=True)
check_capacity(core)
core.close(timeout=5)
print("done")
"""


@pytest.mark.parametrize("script", [NONE_FROM_THE_START, A_FEW], ids=["none", "few"])
@pytest.mark.parametrize("kind", KINDS)
def test_without_descriptors_dials_wait_as_at_a_full_server(
    kind: str, script: str, redis_server: RedisServer, mariadb_server: MariaDBServer
) -> None:
    """Returned connections serve the line; afterwards all places can be lent again."""
    with Echo() as echo:
        options: dict[str, Any] = {
            "core": echo.options,
            "redis": {"host": redis_server.host, "port": redis_server.port},
            "mysql": mariadb_server.client_options,
        }[kind]
        setup = KINDS[kind].replace("{options}", repr(options))
        limit = "5" if script is A_FEW else "0.3"
        source = PREAMBLE.replace("{timeout}", limit) + setup + dedent(script)
        assert run_script(source) == "done\n"


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_the_lack_of_descriptors_is_no_fault_of_the_server(number: int) -> None:
    """Of this process's or of the whole system's."""
    connector = FactoryConnector(TcpConnection)
    errors = [
        OSError(number, "too many open files"),
        OSError(errno.ECONNREFUSED, "refused"),
        ValueError("too many open files"),
    ]
    full = [connector.classify(each) is ErrorAction.BACK_OFF for each in errors]
    assert full == [True, False, False]


def test_what_is_done_without_a_dial_needs_no_descriptor() -> None:
    """Looks at idle sockets, pings, sweeps, releases, drops, refusals and closing."""
    with Echo() as echo:
        script = """
        pings = []

        class Pinged(TcpConnection):
            def ping(self):
                pings.append(self)
                self.send(b"ping")
                assert self.recv() == b"ping"

        core = pool = Pool(
            Pinged, {options}, initial_connections=4, ping_interval=0,
            reap_interval=0.002, ping_after=0, max_lifetime=1000, **COMMON,
        )
        limit()
        exhaust()
        kept = pool.idle_connections()
        wait_until(lambda: len(pings) > 20)
        assert set(pool.idle_connections()) <= set(kept)
        for _ in range(20):
            with pool.connection() as conn:
                assert conn in kept
                conn.ping()
        sweep(pool)
        pool.drop_expired()
        turns()
        assert pool.size == 4, pool
        pool.drop(pool.acquire())
        assert pool.size == 3
        lent = [pool.acquire() for _ in range(3)]
        # The one that was dropped has left its descriptor: it can be opened again.
        lent.append(pool.acquire(timeout=2))
        exhaust()
        try:
            pool.acquire(timeout=0.05)
        except PoolExhaustedError as error:
            assert "4 in use" in str(error)
        for conn in lent:
            pool.release(conn)
        check(pool)
        pool.close(timeout=5)
        assert pool.size == 0
        print("done")
        """.replace("{options}", repr(echo.options))
        source = PREAMBLE.replace("{timeout}", "5") + dedent(script)
        assert run_script(source) == "done\n"
