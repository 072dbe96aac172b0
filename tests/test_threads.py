"""A pool belongs to one event loop: other threads are refused, and do no harm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from textwrap import dedent
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.threadpool import ThreadPool

from geventpool import ConnectionNotFoundError, Pool, TcpConnection
from geventpool._core.home import Home
from geventpool.testing import (
    ScriptedConnection,
    ScriptedConnector,
    check,
    check_capacity,
)
from tests import parts
from tests.peers import Echo, run_script


@pytest.fixture
def thread() -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """Does something in a native thread, and returns or raises what came of it."""
    threads = ThreadPool(1)

    def tried(work: Callable[[], Any]) -> tuple[Any, Exception | None]:
        # Out of a thread an error would reach the hub too.
        try:
            return work(), None
        except Exception as error:
            return None, error

    def apply(work: Callable[[], Any]) -> Any:
        result, error = threads.apply(tried, (work,))
        if error is not None:
            raise error
        return result

    yield apply
    threads.kill()


def enter(pool: Pool[Any]) -> None:
    with pool.connection():
        raise AssertionError("entered")


#: What one can do to a pool with a connection on loan and an idle one.
DEEDS: dict[str, Callable[[Pool[Any], Any, Any], object]] = {
    "acquire": lambda pool, lent, idle: pool.acquire(),
    "acquire unwatched": lambda pool, lent, idle: pool.acquire(reclaim=False),
    "acquire at once": lambda pool, lent, idle: pool.acquire(timeout=0),
    "a block": lambda pool, lent, idle: enter(pool),
    "drop_expired": lambda pool, lent, idle: pool.drop_expired(),
    "drain": lambda pool, lent, idle: pool.drain(),
    "resize": lambda pool, lent, idle: pool.resize(1),
    "close": lambda pool, lent, idle: pool.close(),
    "the end of a with": lambda pool, lent, idle: pool.__exit__(None, None, None),
}


@pytest.mark.parametrize("deed", DEEDS)
def test_another_thread_is_refused(
    thread: Callable[[Callable[[], Any]], Any], deed: str
) -> None:
    """It is told what is wrong and what to do instead, and nothing is changed."""
    connector = ScriptedConnector()
    pool = Pool(connector, max_connections=2, name="home")
    lent, idle = pool.acquire(), pool.acquire()
    pool.release(idle)
    before = repr(pool)
    with pytest.raises(
        RuntimeError,
        match="'home' belongs to the event loop of another thread; give each thread",
    ):
        thread(lambda: DEEDS[deed](pool, lent, idle))
    assert repr(pool) == before and not pool.closed
    assert (lent.end, idle.end) == (None, None)
    assert pool.max_connections == 2
    pool.release(lent)
    check_capacity(pool)


def test_another_thread_is_refused_where_there_is_nothing_to_lend(
    thread: Callable[[Callable[[], Any]], Any],
) -> None:
    """It neither waits in the line nor has anything opened."""
    connector = ScriptedConnector()
    pool = Pool(connector, max_connections=1)
    for deed in "acquire", "a block":
        with pytest.raises(RuntimeError, match="another thread"):
            thread(lambda deed=deed: DEEDS[deed](pool, None, None))  # type: ignore[misc]
    assert connector.calls == [] and pool.size == 0
    lent = pool.acquire()
    with pytest.raises(RuntimeError, match="another thread"):
        thread(pool.acquire)
    assert pool.stats().waiting == 0
    pool.release(lent)


#: What ends or changes a loan, how it is left then, and whether it may be used again.
ENDS: dict[str, tuple[Callable[[Pool[Any], Any], object], str | None]] = {
    "release": (lambda pool, conn: pool.release(conn), None),
    "release for anyone": (lambda pool, conn: pool.release(conn, anyone=True), None),
    "drop": (lambda pool, conn: pool.drop(conn), "discarded"),
    "drop for anyone": (lambda pool, conn: pool.drop(conn, anyone=True), "discarded"),
}


@pytest.mark.parametrize("end", ENDS)
def test_another_thread_may_give_back(
    thread: Callable[[Callable[[], Any]], Any], end: str
) -> None:
    """A finaliser runs wherever the collector does, and must not lose the place."""
    pool = Pool(ScriptedConnector(), max_connections=1)
    conn = pool.acquire()
    waiter = gevent.spawn(pool.acquire, reclaim=False)
    gevent.idle()
    work, mark = ENDS[end]
    thread(lambda: work(pool, conn))
    got = waiter.get()
    assert conn.end == mark and (got is conn) is (mark is None)
    pool.release(got)
    check_capacity(pool)


@pytest.mark.parametrize("end", ENDS)
def test_what_another_thread_ends_is_the_loan_that_it_saw(
    thread: Callable[[Callable[[], Any]], Any],
    end: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not that of the next borrower, if the connection came back meanwhile."""
    pool = Pool(ScriptedConnector(), max_connections=1)
    conn = pool.acquire()
    late: list[Any] = []

    def call_late(home: Home, *call: Any) -> None:
        late.append(call)

    with monkeypatch.context() as patch:
        patch.setattr(Home, "call", call_late)
        thread(lambda: ENDS[end][0](pool, conn))
    pool.release(conn)
    assert pool.acquire() is conn
    (call,) = late
    parts.home(pool).call(*call)
    gevent.idle()
    assert conn.end is None and pool.lent_connections() == [conn]
    pool.release(conn)


def test_another_thread_may_drop_an_idle_connection(
    thread: Callable[[Callable[[], Any]], Any],
) -> None:
    """As its own would."""
    pool = Pool(ScriptedConnector(), initial_connections=1)
    (conn,) = pool.idle_connections()
    thread(lambda: pool.drop(conn))
    gevent.idle()
    gevent.idle()
    assert conn.end == "closed" and pool.size == 0


def test_another_thread_may_hand_a_loan_over(
    thread: Callable[[Callable[[], Any]], Any],
) -> None:
    """To nobody, or to a greenlet of the pool's thread."""
    pool = Pool(ScriptedConnector(), max_connections=1)
    conn = pool.acquire()
    keeper = gevent.spawn(gevent.get_hub().switch)
    thread(lambda: pool.transfer(conn, keeper))
    gevent.idle()
    with pytest.raises(ConnectionNotFoundError):
        pool.release(conn)
    keeper.kill()
    gevent.idle()
    assert conn.end == "discarded"
    conn = pool.acquire()
    thread(lambda: pool.transfer(conn, None))
    gevent.idle()
    gevent.spawn(pool.release, conn).get()
    assert pool.idle_connections() == [conn]


def test_another_thread_may_not_end_what_is_not_its_own(
    thread: Callable[[Callable[[], Any]], Any],
) -> None:
    """The loan of a block, an ended one, a stranger's; with owner_only none at all."""
    pool = Pool(ScriptedConnector())
    strict = Pool(ScriptedConnector(), owner_only=True)
    stale = pool.acquire()
    pool.release(stale)
    held = strict.acquire()
    with pool.connection() as conn:
        for owner, each in ((pool, conn), (pool, object()), (strict, held)):
            with pytest.raises(ConnectionNotFoundError):
                thread(lambda owner=owner, each=each: owner.release(each))  # type: ignore[misc]
        assert pool.lent_connections() == [conn]
    with pytest.raises(ConnectionNotFoundError):
        thread(lambda: pool.release(stale))
    strict.release(held)


def test_a_greenlet_of_another_thread_cannot_be_a_holder(
    thread: Callable[[Callable[[], Any]], Any],
) -> None:
    """It could never give back, and its end is never heard of."""
    pool = Pool(ScriptedConnector())
    conn = pool.acquire()
    stranger = thread(gevent.getcurrent)
    with pytest.raises(ValueError, match="greenlet must be one of the pool's thread"):
        pool.transfer(conn, stranger)
    pool.release(conn)


def test_a_pool_that_is_forgotten_in_another_thread_lets_go_in_its_own(
    thread: Callable[[Callable[[], Any]], Any],
) -> None:
    """The watchers of its sockets are the loop's, which no other thread may touch."""
    pool = Pool(ScriptedConnector(), initial_connections=1)
    (conn,) = pool.idle_connections()
    thread(pool.__del__)
    gevent.idle()
    assert conn.end == "discarded"


def test_another_thread_may_look(thread: Callable[[Callable[[], Any]], Any]) -> None:
    """Reports are made for any thread that asks."""
    pool = Pool(ScriptedConnector(), name="home")
    conn = pool.acquire()
    assert thread(lambda: repr(pool)) == repr(pool)
    assert thread(pool.stats) == pool.stats()
    assert thread(pool.lent_connections) == [conn]
    assert len(thread(pool.loans)) == 1


def test_a_thread_may_have_a_pool_of_its_own(
    thread: Callable[[Callable[[], Any]], Any],
) -> None:
    """A pool belongs to the thread that made it, and refuses the main one."""

    def work() -> Pool[ScriptedConnection]:
        pool = Pool(ScriptedConnector(), max_connections=2)
        done = Event()

        def borrow() -> None:
            with pool.connection():
                done.wait()

        borrowers = [gevent.spawn(borrow) for _ in range(6)]
        gevent.idle()
        assert pool.stats().waiting == 4
        done.set()
        gevent.joinall(borrowers, raise_error=True)
        check_capacity(pool)
        return pool

    pool = thread(work)
    with pytest.raises(RuntimeError, match="another thread"):
        pool.acquire()
    thread(pool.close)
    check(pool)


def test_what_a_thread_tried_costs_the_loan_nothing(
    thread: Callable[[Callable[[], Any]], Any],
) -> None:
    """The borrower goes on with a real socket as if nothing had been."""
    with Echo() as echo:
        pool = Pool(TcpConnection, echo.options, max_connections=1)
        with pool.connection() as conn:
            conn.send(b"before")
            assert conn.recv() == b"before"
            with pytest.raises(ConnectionNotFoundError):
                thread(lambda: pool.release(conn))
            conn.send(b"after")
            assert conn.recv() == b"after"
        assert echo.accepted == 1
        pool.close()


@pytest.mark.parametrize("patching", ["", "before", "after"])
def test_it_works_in_any_process(patching: str) -> None:
    """Unpatched, and patched before or after geventpool was imported."""
    patch = "from gevent import monkey; monkey.patch_all()\n"
    imports = "from geventpool import *\n"
    with Echo() as echo:
        script = dedent(f"""
            import gevent
            from gevent.threadpool import ThreadPool

            pool = Pool(TcpConnection, {echo.options!r}, max_connections=2)

            def client(number):
                for _ in range(3):
                    with pool.connection() as conn:
                        conn.send(b"%d" % number)
                        assert conn.recv() == b"%d" % number

            gevent.joinall([gevent.spawn(client, n) for n in range(9)],
                           raise_error=True)
            conn = pool.acquire()
            try:
                ThreadPool(1).apply(pool.acquire)
            except RuntimeError as error:
                assert "another thread" in str(error)
            else:
                raise AssertionError
            pool.release(conn)
            pool.close()
            print("done")
            """)
        head = {"": imports, "before": patch + imports, "after": imports + patch}
        assert run_script(head[patching] + script) == "done\n"
        assert echo.peak == 2
        echo.wait_open(0)
