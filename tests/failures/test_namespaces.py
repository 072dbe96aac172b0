"""Half-open connections with real packet loss: a router that stops forwarding."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from geventpool.testing import wait_until
from tests.failures.namespaces import (
    PATHS,
    Failed,
    FarMariaDB,
    FarRedis,
    Network,
    why_not,
)

REPOSITORY = Path(__file__).resolve().parents[2]

PREAMBLE = """
from gevent import monkey; monkey.patch_all()
import sys, time
from contextlib import ExitStack
import gevent
from gevent.event import Event
from geventpool import *
from geventpool.dialing import KeepAlive
from geventpool.testing import check, check_capacity, wait_until

#: Seconds in which everything ends on the busiest machine. Without its limits of one
#: and two seconds it would last for minutes, or forever.
MOST = 30

host, port = sys.argv[1], int(sys.argv[2])

def tell(word):
    print(word, flush=True)
    assert sys.stdin.readline() == "done\\n"

def timed(work, least):
    began = time.monotonic()
    try:
        outcome = work()
    except Exception as error:
        outcome = error
    took = time.monotonic() - began
    assert least <= took <= MOST, f"{took:.2f} s, {outcome!r}"
    return outcome

def cut_off(begin, is_waiting, fault):
    # A busy machine may need longer for the fault than the server for the answer.
    while True:
        greenlet = gevent.spawn(begin)
        wait_until(is_waiting, "the question is on its way")
        tell(fault)
        # An answer that has arrived before is read now.
        for _ in range(10):
            gevent.idle()
        if not greenlet.ready():
            return greenlet
        tell("mend")

def succeeds(work):
    # An early request may still get the error that was noted last.
    try:
        work()
    except Exception:
        return False
    return True

def recovers(work):
    wait_until(lambda: succeeds(work), "it works again", timeout=MOST)
"""

#: Requests on their way, answers to be waited for, and connections at rest.
CORE = """
keepalive = KeepAlive(idle=1, interval=1, count=1)
options = dict(host=host, port=port, connect_timeout=0.5, keepalive=keepalive)

asked = []

class Inline(TcpConnection):
    def ask(self, *words):
        self.send(" ".join(words).encode() + b"\\r\\n")
        asked.append(words[0])
        answer = b""
        while not answer.endswith(b"\\r\\n"):
            more = self.recv()
            assert more, "hung up"
            answer += more
        return answer.strip()

    def ping(self):
        assert self.ask("PING") == b"+PONG"

pool = Pool(
    Inline, options, max_connections=4, timeout=1.0, ping_after=0,
    timeouts=Timeouts(open=0.5, ping=0.3, close=0.2),
)

def fill():
    with ExitStack() as stack:
        for number in range(4):
            conn = stack.enter_context(pool.connection(timeout=20))
            assert conn.ask("ECHO", f"{number}").endswith(b"%d" % number)
        assert pool.size == 4, pool

fill()

def waits():
    # The question has arrived: nothing of ours is unanswered, only keepalive finds out.
    with pool.connection() as conn:
        conn.ask("BLPOP", "nothing", "60")

def asks():
    # The question itself is lost: TCP_USER_TIMEOUT finds out.
    with pool.connection() as conn:
        holds.set()
        is_away.wait()
        conn.ask("PING")

holds, is_away = Event(), Event()
lost = [gevent.spawn(timed, work, 0.5) for work in (waits, asks)]
holds.wait()
wait_until(lambda: "BLPOP" in asked)
tell("{fault}")
is_away.set()

# The idle ones are found out by their pings, new ones can't be had: the deadline holds.
refusals = [
    gevent.spawn(timed, lambda: pool.acquire(timeout=0.7), 0) for _ in range(3)
]
for greenlet in refusals:
    assert isinstance(greenlet.get(), (PoolExhaustedError, OSError)), greenlet.value
for greenlet in lost:
    assert isinstance(greenlet.get(), OSError), greenlet.value
check(pool)
assert not pool.lent_connections(), pool

tell("mend")
recovers(fill)
check_capacity(pool, 20)
pool.close(timeout=5)
print("fine", flush=True)
"""

REDIS = """
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from geventpool.redis import ConnectionPool

pool = ConnectionPool(
    host=host, port=port, max_connections=3, timeout=1.0, ping_after=0,
    retry=Retry(NoBackoff(), 0), socket_timeout=1, socket_connect_timeout=0.5,
    timeouts=Timeouts(open=0.5, ping=0.3, close=0.2),
)
client = redis.Redis(connection_pool=pool)

def use(number):
    client.set(f"key{number}", number)
    assert client.get(f"key{number}") == b"%d" % number
    client.blpop("nothing", 0.02)

def fill():
    gevent.joinall([gevent.spawn(use, n) for n in range(3)], raise_error=True)

fill()
busy = cut_off(
    lambda: timed(lambda: client.blpop("nothing", 0.9), 0.5),
    lambda: pool.core.lent_connections(),
    "{fault}",
)
others = [gevent.spawn(timed, client.ping, 0) for _ in range(5)]
for greenlet in (busy, *others):
    assert isinstance(greenlet.get(), redis.RedisError), greenlet.value
check(pool.core)
assert not pool.core.lent_connections()
tell("mend")
recovers(fill)
check_capacity(pool.core, 20)
pool.shutdown(5)
print("fine", flush=True)
"""

MYSQL = """
from pymysql import err
from geventpool.mysql import ConnectionPool

pool = ConnectionPool(
    host=host, port=port, user="geventpool", password="geventpool", ssl_disabled=True,
    max_connections=3, timeout=1.0, ping_after=0, read_timeout=1, connect_timeout=0.4,
    timeouts=Timeouts(open=0.8, ping=0.3, reset=0.3, close=0.2),
)

def ask(conn, number):
    with conn.cursor() as cursor:
        cursor.execute("SELECT %s", [number])
        assert cursor.fetchone() == (number,)

def sleep():
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("SELECT SLEEP(0.9)")

def fill():
    with ExitStack() as stack:
        for number in range(3):
            ask(stack.enter_context(pool.connection(timeout=20)), number)

fill()
# One that comes back from its reset is lent to a waiter as it is.
wait_until(lambda: len(pool.idle_connections()) == 3, "idle")
busy = cut_off(lambda: timed(sleep, 0.5), lambda: pool.lent_connections(), "{fault}")
others = [gevent.spawn(timed, pool.acquire, 0) for _ in range(5)]
for greenlet in (busy, *others):
    known = err.OperationalError, PoolExhaustedError
    assert isinstance(greenlet.get(), known), greenlet.value
check(pool)
assert not pool.lent_connections()
tell("mend")
recovers(fill)
# What served them may have slept through it all, while the pool is still paused.
recovers(lambda: check_capacity(pool, 20))
pool.close(5)
print("fine", flush=True)
"""

#: Some packets get through: slowly, but all of them.
LOSSY = """
import redis
from geventpool.redis import ConnectionPool

pool = ConnectionPool(host=host, port=port, max_connections=5, timeout=30)
client = redis.Redis(connection_pool=pool)
tell("lose 10")

def work(number):
    for turn in range(10):
        client.set(f"key{number}", f"{number} {turn}")
        assert client.get(f"key{number}") == b"%d %d" % (number, turn)

gevent.joinall([gevent.spawn(work, n) for n in range(20)], raise_error=True)
check_capacity(pool.core, 20)
pool.shutdown(20)
print("fine", flush=True)
"""


@pytest.fixture(scope="module", params=["root", "user namespace"])
def network(request: pytest.FixtureRequest) -> Iterator[Network]:
    """Three namespaces, by either of the two ways to be permitted to."""
    as_root = request.param == "root"
    reason = why_not(as_root)
    if reason is not None:
        pytest.skip(reason)
    if not as_root and why_not(True) is None:
        # To have made it, just now, is enough.
        pytest.skip("it can be made, but the tests have run in root's, which is alike")
    with Network(as_root) as network:
        yield network


@pytest.fixture(scope="module")
def redis_far(network: Network) -> Iterator[FarRedis]:
    with FarRedis(network) as server:
        yield server


@pytest.fixture(scope="module")
def mariadb_far(network: Network) -> Iterator[FarMariaDB]:
    with FarMariaDB(network) as server:
        yield server


def play(network: Network, server: Any, script: str) -> None:
    """Run a script in the client's namespace, and do to the network what it says."""
    command = [sys.executable, "-W", "error", "-c", PREAMBLE + script]
    program = subprocess.Popen(
        [*network.inside("client"), *command, server.host, str(server.port)],
        cwd=REPOSITORY,
        env={**os.environ, "PATH": PATHS},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdin is not None and program.stdout is not None
    assert program.stderr is not None
    errors = gevent.spawn(program.stderr.read)
    said = ""
    try:
        with gevent.Timeout(150, AssertionError("the script does not end")):
            for line in program.stdout:
                said = line.strip()
                if said == "fine":
                    break
                verb, *numbers = said.split()
                getattr(network, verb)(*map(int, numbers))
                program.stdin.write("done\n")
                program.stdin.flush()
            program.wait()
    finally:
        network.mend()
        if program.poll() is None:
            program.kill()
            program.wait()
        text = errors.get()
        for pipe in program.stdin, program.stdout, program.stderr:
            pipe.close()
    assert said == "fine" and not program.returncode, text


@pytest.mark.parametrize("fault", ["silence", "unplug"])
def test_a_network_that_swallows_everything_holds_nobody(
    network: Network, redis_far: FarRedis, fault: str
) -> None:
    """Deadlines are kept, dead connections found, and afterwards all places are there.

    On the way: requests, an answer, and pings of idle connections. Keep-alive and the
    limit for unacknowledged bytes find what no reading or writing could.
    """
    play(network, redis_far, CORE.replace("{fault}", fault))
    # What the server could not be told of it finds out by itself.
    wait_until(lambda: redis_far.connected_clients() == 0)


@pytest.mark.parametrize("fault", ["silence"])
def test_redis_clients_get_over_a_network_that_was_away(
    network: Network, redis_far: FarRedis, fault: str
) -> None:
    """With redis-py's errors, within their time limits."""
    play(network, redis_far, REDIS.replace("{fault}", fault))
    wait_until(lambda: redis_far.connected_clients() == 0)


@pytest.mark.parametrize("fault", ["unplug"])
def test_mysql_clients_get_over_a_network_that_was_away(
    network: Network, mariadb_far: FarMariaDB, fault: str
) -> None:
    """With PyMySQL's errors, within their time limits."""
    play(network, mariadb_far, MYSQL.replace("{fault}", fault))


def test_a_network_that_loses_some_packets_loses_no_reply(
    network: Network, redis_far: FarRedis
) -> None:
    """What is lost is sent again; every request gets its own reply, if late."""
    try:
        network.lose(0)
    except Failed as failure:
        pytest.skip(f"no loss by shares here: {failure}")
    play(network, redis_far, LOSSY)
    network.lose(0)


def test_a_network_leaves_nothing_behind(network: Network) -> None:
    """Its namespaces end with their holders."""
    with Network(network._as_root) as another:
        pids = [holder.pid for holder in another.holders.values()]
        for pid in pids:
            assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink(
                "/proc/self/ns/net"
            )
    for pid in pids:
        assert not os.path.exists(f"/proc/{pid}")
