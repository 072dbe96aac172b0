"""A fork in mid-reply: parent and child each get their own, and the session lives."""

from __future__ import annotations

from textwrap import dedent
from typing import Any

import pytest

from tests.peers import Unruly, run_script
from tests.servers import MariaDBServer, RedisServer

PREAMBLE = """
from gevent import monkey; monkey.patch_all()
import os, sys, traceback
import gevent
from gevent.event import Event
from gevent.monkey import get_original
from gevent.os import fork_gevent as fork
from geventpool import *
from geventpool.testing import check, check_capacity, wait_until
from tests.pauses import turns

# The patched fork() and waitpid() now and then miss a child that ends at once.
waitpid = get_original("os", "waitpid")
# Before there are two who could print it.
sys.stdout.flush()

def in_child(work):
    pid = fork()
    if pid == 0:
        status = 1
        try:
            with gevent.Timeout(20):
                work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            # With the interpreter's own end, as a worker that is done: finalizers run.
            if status:
                os._exit(status)
            sys.exit(0)
    return pid

def end_of(pid):
    assert waitpid(pid, 0)[1] == 0, "the child failed"
"""

KINDS = {
    "redis": """
import redis
from geventpool.redis import ConnectionPool
pool = ConnectionPool(**{options}, max_connections=3, timeout=5)
core = pool.core
client = redis.Redis(connection_pool=pool)

def slow(tag):
    client.delete(tag)
    client.rpush(tag + ":later", tag)
    # Its answer comes when somebody pushes.
    return client.blpop(tag, 20)[1].decode()

def answer(tag):
    client.rpush(tag, tag)

def quick(tag):
    with client.pipeline() as pipe:
        assert pipe.echo(tag).client_id().execute()[0] == tag.encode()
    return client.client_id()
""",
    "mysql": """
from geventpool.mysql import ConnectionPool
pool = core = ConnectionPool(**{options}, max_connections=3, timeout=5)
lock = Event()

def slow(tag):
    # The transaction and its temporary table die with the session: they must not.
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE mine (tag VARCHAR(20))")
        cursor.execute("INSERT INTO mine VALUES (%s)", [tag])
        # Its answer comes when somebody lets go of the lock.
        cursor.execute("SELECT GET_LOCK(%s, 20)", [tag])
        assert cursor.fetchone() == (1,)
        cursor.execute("SELECT tag FROM mine")
        return cursor.fetchone()[0]

holding = []

def bar(tag):
    conn = pool.acquire(reclaim=False)
    holding.append(conn)
    with conn.cursor() as cursor:
        cursor.execute("SELECT GET_LOCK(%s, 0)", [tag])
        assert cursor.fetchone() == (1,)

def answer(tag):
    holding.pop().close()

def quick(tag):
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("SELECT %s, CONNECTION_ID()", [tag])
        said, session = cursor.fetchone()
        assert said == tag
        return session
""",
}

MID_REPLY = """
mine = {quick("warm")}
if "holding" in globals():
    bar("parent")
busy = core.stats().in_use
waiting = gevent.spawn(slow, "parent")
wait_until(lambda: core.stats().in_use > busy)
# Until the question is on its way.
turns(30)
assert not waiting.ready(), waiting

def child():
    assert core.size == 0, core
    # Their answers meet nothing of the parent's, nor do many at once.
    users = [gevent.spawn(quick, f"child{n}") for n in range(20)]
    gevent.joinall(users, raise_error=True)
    theirs = {user.value for user in users}
    assert not theirs & mine, (theirs, mine)
    assert 1 <= core.size <= 3
    # The copy of the waiter is not woken by anything here.
    assert not waiting.ready()
    check(core)
    check_capacity(core)

children = [in_child(child) for _ in range(2)]
for pid in children:
    end_of(pid)

users = [gevent.spawn(quick, f"parent{n}") for n in range(20)]
gevent.joinall(users, raise_error=True)
assert not waiting.ready(), "the children took the answer, or the session"
answer("parent")
assert waiting.get(timeout=10) == "parent"
wait_until(lambda: not core.stats().in_use)
turns()
check(core)
check_capacity(core)
core.close(timeout=5)
print("done", flush=True)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_under_way_is_the_parents(
    kind: str, redis_server: RedisServer, mariadb_server: MariaDBServer
) -> None:
    """While two children use the pool and end, its session and its answer stay."""
    options: dict[str, Any] = {
        "redis": {"host": redis_server.host, "port": redis_server.port},
        "mysql": {**mariadb_server.client_options, "ssl_disabled": True},
    }[kind]
    setup = KINDS[kind].replace("{options}", repr(options))
    assert run_script(PREAMBLE + setup + dedent(MID_REPLY)) == "done\n"


def test_half_an_answer_is_completed_in_the_parent() -> None:
    """What was read before the fork and what comes after it are one."""
    with Unruly("half") as peer:
        setup = f"pool = Pool(TcpConnection, {peer.options!r}, max_connections=2)"
        script = """
        def hear(conn, expected):
            answer = b""
            while len(answer) < len(expected):
                more = conn.recv(3)
                assert more, "the server hung up"
                answer += more
            assert answer == expected, answer

        with pool.connection() as conn:
            conn.send(b"12345678abcdefgh")
            hear(conn, b"123")

            def child():
                assert not conn.is_connected()
                with pool.connection() as another:
                    another.send(b"child..-")
                    hear(another, b"chil")

            end_of(in_child(child))
            hear(conn, b"45678")
            # The stream is in step: a second question gets its own half.
            conn.send(b"MORE....")
            hear(conn, b"MORE")
        check_capacity(pool)
        pool.close(timeout=1)
        print("done", flush=True)
        """
        assert run_script(PREAMBLE + setup + "\n" + dedent(script)) == "done\n"
        peer.wait_open(0)
        assert peer.accepted <= 3
