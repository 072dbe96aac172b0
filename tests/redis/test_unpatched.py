"""Processes that gevent has not patched, or not wholly, or too late."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
import redis
import redis.lock
import redis.retry
from gevent import get_hub, monkey

from geventpool import NotPatchedError, NotPatchedWarning, patching
from geventpool.redis import (
    ConnectionPool,
    RedisPoolClosedError,
    RedisPoolExhaustedError,
    cooperation,
)
from geventpool.redis.dialling import Parting
from geventpool.redis.threaded import ThreadedPool
from tests import parts
from tests.redis.conftest import MakePool
from tests.redis.tools import assert_all_places
from tests.servers import RedisServer
from tests.test_patching import warn_again

REPOSITORY = Path(__file__).parent.parent.parent

#: Whether the parser of this redis-py, if it is imported, polls by the module select.
KEEPS_SELECT = any(
    each.part == "select" and hasattr(sys.modules.get(each.module, object), each.name)
    for each in cooperation.NAMES
)


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A program in a Python of its own, which is not patched to begin with."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture()
def unpatched(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """As in a process that gevent has not patched; to be undone in the test."""
    with monkeypatch.context() as patch:
        patch.setattr(monkey, "is_object_patched", lambda *name: False)
        warn_again(patch)
        patch.setattr(patching, "warn_once", lambda *text: None)
        yield patch


THREADS = """
    import sys, threading, redis, geventpool.redis
    pool = geventpool.redis.ConnectionPool(
        port=int(sys.argv[1]), max_connections=2, timeout=1e300
    )
    client = redis.Redis(connection_pool=pool)
    client.delete("unpatched")
    def work():
        for _ in range(50):
            client.incr("unpatched")
    threads = [threading.Thread(target=work) for _ in range(10)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print(client.get("unpatched"), len(client.client_list()) <= 3)
    pool.close()
"""


def test_without_patching_the_threads_share_redis_py_s_own_pool(
    own_server: RedisServer,
) -> None:
    """A command line or a development server imports what production uses."""
    result = run(THREADS, str(own_server.port))
    assert result.stdout == "b'500' True\n", result.stderr
    assert result.stderr.count("NotPatchedWarning") == 1
    assert "monkey.patch_all()" in result.stderr


TOO_LATE = """
    import sys, time, redis
    from gevent import monkey; monkey.patch_all()
    import gevent, geventpool.redis
    pool = geventpool.redis.ConnectionPool(port=int(sys.argv[1]))
    client = redis.Redis(connection_pool=pool)
    jobs = [gevent.spawn(client.ping) for _ in range(20)]
    gevent.joinall(jobs, raise_error=True)
    print(redis.retry.sleep is time.sleep is gevent.sleep)
"""


def test_redis_imported_before_patching_is_made_cooperative_with_a_warning(
    redis_server: RedisServer,
) -> None:
    """Servers import the program, and with it redis, before they patch."""
    result = run(TOO_LATE, str(redis_server.port))
    assert result.stdout == "True\n", result.stderr
    assert result.stderr.count("NotPatchedWarning") == 1
    assert "redis was imported before" in result.stderr
    assert "redis.retry.sleep" in result.stderr


PARTLY = """
    import sys, threading, warnings
    from gevent import monkey; monkey.patch_all(**{sys.argv[2]: False})
    import gevent, redis, geventpool.redis
    # A thread that resolves a name would wait for a loop that never sleeps.
    pool = geventpool.redis.ConnectionPool(host="127.0.0.1", port=int(sys.argv[1]))
    client = redis.Redis(connection_pool=pool)
    turns = []
    def beat():
        while True:
            turns.append(1)
            gevent.sleep(0)
    def during(work):
        del turns[:]
        work()
        return len(turns) > 2
    beater = gevent.spawn(beat)
    client.delete("list", "held")
    assert during(lambda: client.blpop("list", 0.1))
    subscription = client.pubsub()
    subscription.subscribe("channel")
    subscription.get_message(timeout=5)
    assert during(lambda: subscription.get_message(timeout=0.1))
    assert client.lock("held", timeout=30).acquire()
    second = client.lock("held", sleep=0.05)
    assert during(lambda: second.acquire(blocking_timeout=0.1))
    print("cooperative")
"""


@pytest.mark.parametrize("part", ["time", "select", "thread", "dns", "queue"])
def test_a_process_that_is_patched_in_part_stays_cooperative(
    redis_server: RedisServer, part: str
) -> None:
    """While one waits for Redis, a subscription or a lock, the event loop turns."""
    result = run(PARTLY, str(redis_server.port), part)
    assert result.stdout == "cooperative\n", result.stderr
    if part == "time" or (part == "select" and KEEPS_SELECT):
        assert result.stderr.count("NotPatchedWarning") == 1
        assert f"gevent has not patched {part}" in result.stderr
    else:
        assert "NotPatchedWarning" not in result.stderr


def test_the_switch_refuses_at_first_use(
    make_pool: MakePool, unpatched: pytest.MonkeyPatch
) -> None:
    """Not at construction: a server may import the program, fork, and then patch."""
    pool = make_pool(unpatched="error")
    with pytest.raises(NotPatchedError, match=r"geventpool\.redis .* socket"):
        pool.get_connection()
    with pytest.raises(NotPatchedError):
        make_pool(unpatched="error", initial_connections=1)
    unpatched.undo()
    assert redis.Redis(connection_pool=pool).ping()


def test_a_pool_for_tls_names_ssl_where_only_that_is_not_patched(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-py's own error there speaks of the type of an argument."""
    pool = make_pool(connection_class=redis.SSLConnection)
    with monkeypatch.context() as patch:
        patch.setattr(
            "geventpool.redis.unpatched.is_patched", lambda part: part != "ssl"
        )
        with pytest.raises(NotPatchedError, match="not patched ssl"):
            pool.get_connection()


def test_the_switch_is_checked_at_construction() -> None:
    """A typing error must not wait for the first request."""
    with pytest.raises(ValueError, match="unpatched must be 'stock' or 'error'"):
        ConnectionPool(unpatched="ignore")
    with pytest.raises(TypeError, match="initial_connections"):
        ConnectionPool(initial_connections="many")  # type: ignore[arg-type]


def test_the_stock_pool_does_what_is_asked_of_ours(
    make_pool: MakePool, unpatched: pytest.MonkeyPatch
) -> None:
    """Views, limits, retries, closing and renewing hold for it as well."""
    pool = make_pool(max_connections=2, timeout=0, initial_connections=1)
    first, second = pool.get_connection(), pool.get_connection()
    assert parts.lent_of(pool) == {first, second}
    assert pool._created_connections == pool.stats().in_use == 2
    with pytest.raises(RedisPoolExhaustedError):
        pool.get_connection()
    pool.release(first)
    assert parts.idle_of(pool) == [first]
    # What metrics and status pages read.
    stats = pool.core.stats()
    assert (stats.size, stats.idle, stats.in_use) == (2, 1, 1)
    retry = redis.retry.Retry(redis.backoff.NoBackoff(), 7)
    pool.set_retry(retry)
    assert first.retry == second.retry == retry
    if hasattr(redis.ConnectionPool, "disconnect_free_connections"):
        pool.disconnect_free_connections()
    pool.disconnect(inuse_connections=False)
    assert parts.socket_of(first) is None
    assert parts.socket_of(second) is not None
    pool.release(second)
    pool.reset()
    assert pool.stats().size == 0
    assert redis.Redis(connection_pool=pool).ping()
    assert pool.core.size == 0
    pool.shutdown()
    with pytest.raises(RedisPoolClosedError):
        pool.get_connection()


def test_the_core_pool_tells_that_it_has_no_connections_there(
    make_pool: MakePool, unpatched: pytest.MonkeyPatch
) -> None:
    """In each thread. It may be closed in each, and its pool renewed."""
    pool = make_pool(max_connections=2)
    assert redis.Redis(connection_pool=pool).ping()

    def refused() -> None:
        for method in (pool.core.drain, pool.core.revalidate, pool.core.drop_expired):
            with pytest.raises(NotPatchedError, match="driver's own pool"):
                method()

    refused()
    get_hub().threadpool.apply(refused)
    with pytest.raises(NotPatchedError, match=r"resize\(\)"):
        pool.max_connections = 3
    get_hub().threadpool.apply(pool.reset)
    assert pool.stats().size == 0
    get_hub().threadpool.apply(pool.shutdown)
    with pytest.raises(RedisPoolClosedError):
        pool.get_connection()


def test_an_error_of_connecting_is_not_taken_for_an_exhausted_pool(
    make_pool: MakePool, unpatched: pytest.MonkeyPatch
) -> None:
    """Only the queue of redis-py's pool tells that there is no connection."""
    pool = make_pool(port=1, retry=None)
    with pytest.raises(redis.ConnectionError) as caught:
        pool.get_connection()
    assert not isinstance(caught.value, RedisPoolExhaustedError)


class Token:
    """As a provider of credentials gives it."""

    def try_get(self, name: str) -> str:
        return "renewed"

    def get_value(self) -> str:
        return "secret"


def test_a_new_token_reaches_the_stock_pool(
    make_pool: MakePool, unpatched: pytest.MonkeyPatch
) -> None:
    """Connections in use are marked, as in redis-py's pool."""
    pool = make_pool()
    client = redis.Redis(connection_pool=pool)
    client.acl_setuser(
        "renewed", enabled=True, passwords=["+secret"], commands=["+@all"]
    )
    conn, idle = pool.get_connection(), pool.get_connection()
    pool.release(idle)
    token = Token()
    pool.re_auth_callback(token)
    assert conn._re_auth_token is token
    idle.send_command("ACL", "WHOAMI")
    assert idle.read_response() == b"renewed"
    conn.set_re_auth_token(None)
    pool.release(conn)
    client.acl_deluser("renewed")


def test_a_process_that_is_patched_later_pools_from_then_on(
    make_pool: MakePool, unpatched: pytest.MonkeyPatch
) -> None:
    """What the stock pool lent before goes back to it."""
    pool = make_pool(max_connections=2)
    early = pool.get_connection()
    unpatched.undo()
    late = pool.get_connection()
    assert pool.core.lent_connections() == [late]
    assert parts.lent_of(pool) == {early, late}
    pool.release(early)
    pool.release(late)
    stock = parts.thread_pool(pool)
    assert parts.idle_of(stock) == [early]
    assert pool.core.idle_connections() == [late]
    pool.reset()
    assert parts.socket_of(early) is None
    assert parts.idle_of(stock) == []
    assert_all_places(pool)


def test_threads_that_use_the_pool_first_share_one_stock_pool(
    make_pool: MakePool,
    unpatched: pytest.MonkeyPatch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each would have the whole limit otherwise, and lose connections of others."""
    pool = make_pool(max_connections=2)
    first: list[Any] = []

    class Slow(ThreadedPool):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            if not first:
                # Another thread is faster.
                first.append(None)
                first.append(pool._decide())

    monkeypatch.setattr("geventpool.redis.unpatched.ThreadedPool", Slow)
    assert pool._decide() is first[1] is parts.thread_pool(pool)


def test_names_that_block_are_set_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And those that are cooperative are left alone."""
    warn_again(monkeypatch)
    blocking = monkey.get_original("time", "sleep")
    monkeypatch.setattr("redis.retry.sleep", blocking)
    with pytest.warns(NotPatchedWarning, match="replaced redis.retry.sleep by"):
        cooperation.make_cooperative()
    assert vars(redis.retry)["sleep"] is gevent.sleep
    cooperation.make_cooperative()


def test_modules_that_block_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where the part of the standard library is not patched."""
    warn_again(monkeypatch)
    before = redis.lock.mod_time  # type: ignore[attr-defined]
    cooperation.make_cooperative()
    assert redis.lock.mod_time is before  # type: ignore[attr-defined]
    for each in cooperation.NAMES:
        if each.module in sys.modules and hasattr(sys.modules[each.module], each.name):
            monkeypatch.setattr(
                sys.modules[each.module],
                each.name,
                getattr(sys.modules[each.module], each.name),
            )
    monkeypatch.setattr(cooperation, "is_patched", lambda part: False)
    found = "select, time" if KEEPS_SELECT else "time"
    with pytest.warns(NotPatchedWarning, match=f"gevent has not patched {found}"):
        cooperation.make_cooperative()
    assert vars(redis.lock)["mod_time"] is gevent.time
    cooperation.make_cooperative()


def test_a_loop_that_is_gone_is_no_error(make_pool: MakePool) -> None:
    """A finaliser runs after everything else."""
    pool = make_pool()
    conn = pool.get_connection()

    class Gone:
        def run_callback_threadsafe(self, *args: object) -> None:
            raise ValueError("the loop is destroyed")

    closed: list[bool] = []

    class Sock:
        def close(self) -> None:
            closed.append(True)

    Parting(Sock(), Gone()).close()
    assert closed == [True]
    pool.release(conn)
    home, loop = pool._thread_id, pool._loop
    pool._thread_id, pool._loop = 1, Gone()
    pool.disconnect()
    pool._thread_id, pool._loop = home, loop
    assert pool.stats().idle == 1


def test_a_full_stack_at_a_release_is_told_of_where_gevent_has_not_patched(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no event loop that could end the loan."""

    def overflow(*args: Any) -> None:
        raise RecursionError

    pool = make_pool(max_connections=1)
    conn = pool.get_connection()
    with monkeypatch.context() as patch:
        patch.setattr(pool, "_loop", None)
        patch.setattr("geventpool.redis.returns.is_fit", overflow)
        with pytest.raises(RecursionError):
            pool.release(conn)
    assert pool.stats().in_use == 1
    pool.release(conn)
