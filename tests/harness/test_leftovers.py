"""A test that leaves something behind in a pool fails, with the line that borrowed."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakSet

import gevent
import pytest
from gevent.event import Event
from gevent.threadpool import ThreadPool

from geventpool import Pool
from geventpool.testing import ScriptedConnector, wait_until
from geventpool.testing.leftovers import Leftovers
from tests import parts


@pytest.fixture
def pool() -> Iterator[Pool[Any]]:
    with Pool(ScriptedConnector(), max_connections=1, name="shop") as pool:
        pool.release(pool.acquire())
        yield pool


def borrow(pool: Pool[Any]) -> Any:
    return pool.acquire()


def test_a_loan_is_found_with_the_line_that_borrowed(pool: Pool[Any]) -> None:
    """Which is where the mistake is."""
    with Leftovers() as leftovers:
        conn = borrow(pool)
        (found,) = leftovers.found()
    assert "pool 'shop': a connection borrowed at" in found and "in borrow " in found
    pool.release(conn)
    assert leftovers.found() == [] and parts.is_unobserved(pool)


def test_a_loan_whose_line_is_not_known_is_found(pool: Pool[Any]) -> None:
    """It began before the pool was watched."""
    leftovers = Leftovers(with_greenlets=False)
    conn = borrow(pool)
    # Pools of earlier tests may have loans as well.
    (found,) = [each for each in leftovers.found() if repr(pool.name) in each]
    assert "a connection was not given back" in found
    pool.release(conn)


def test_what_was_there_before_is_not_the_fault_of_the_test(pool: Pool[Any]) -> None:
    """A fixture of a wider scope may hold a connection that a greenlet waits for."""
    conn = borrow(pool)
    waiter = gevent.spawn(pool.acquire)
    gevent.idle()
    with Leftovers() as leftovers:
        assert leftovers.found() == []
    waiter.kill()
    pool.release(conn)


def test_a_waiter_is_found(pool: Pool[Any]) -> None:
    """It will take a connection in another test."""
    conn = borrow(pool)
    with Leftovers() as leftovers:
        waiter = gevent.spawn(pool.acquire)
        gevent.idle()
        (found,) = leftovers.found()
    assert "waits for a connection" in found
    waiter.kill()
    pool.release(conn)


def test_a_killed_greenlet_gets_its_turn(pool: Pool[Any]) -> None:
    """A test may end with a kill that does not block."""
    with Leftovers() as leftovers:
        holder = gevent.spawn(with_loan, pool)
        gevent.idle()
        holder.kill(block=False)
        assert leftovers.found() == []


def with_loan(pool: Pool[Any]) -> None:
    with pool.connection():
        Event().wait()


def test_a_pool_that_was_left_open_is_found(pool: Pool[Any]) -> None:
    """Its greenlets work on in other tests."""
    with Leftovers() as leftovers:
        left = Pool(ScriptedConnector(), name="left")
        left.release(left.acquire())
        (found,) = leftovers.found()
        assert "pool 'left': was made in the test and left open" in found
    with Leftovers(with_greenlets=False) as loans_only:
        assert loans_only.found() == []
    left.close()
    assert leftovers.found() == []


def test_a_pool_in_a_circle_is_not_left_open() -> None:
    """Nobody can reach it any more."""
    with Leftovers() as leftovers:
        pool: Any = Pool(ScriptedConnector(), name="circle")
        pool.circle = pool
        pool.release(pool.acquire())
        del pool
        gc.disable()
        try:
            assert leftovers.found() == []
        finally:
            gc.enable()


def test_blocks_can_be_nested(pool: Pool[Any]) -> None:
    """The outer one still knows each line."""
    with Leftovers() as outer:
        with Leftovers():
            pass
        conn = borrow(pool)
        assert "in borrow" in outer.found()[0]
    pool.release(conn)


def test_a_pool_of_another_thread_is_left_alone() -> None:
    """What its loop knows, this thread must not touch."""

    def make() -> Pool[Any]:
        pool = Pool(ScriptedConnector(), name="elsewhere")
        pool.acquire()
        return pool

    # One native thread with a loop of its own.
    thread = ThreadPool(1)
    with Leftovers() as leftovers:
        pool = thread.apply(make)
        assert leftovers.found() == []
        thread.apply(pool.close, (0,))
    thread.kill()


# The plugin


def outcome(folder: Path, test: str, *settings: str) -> str:
    """What pytest says of a file with *test*, in a process of its own."""
    head = (
        "from geventpool import Pool\n"
        "from geventpool.testing import ScriptedConnector\n"
        "import pytest\n"
        "POOL = Pool(ScriptedConnector(), name='shop')\n"
    )
    (folder / "test_it.py").write_text(head + test)
    (folder / "pytest.ini").write_text("\n".join(["[pytest]", *settings]))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "geventpool_pytest"]
    command += ["-p", "no:cacheprovider", "-W", "error", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return result.stdout + result.stderr


LEAVES = "def test_it():\n    POOL.acquire()\n"
FIXTURE = "@pytest.mark.usefixtures('no_leftovers')\n"


@pytest.mark.parametrize(
    ("test", "settings", "words"),
    [
        (LEAVES, [], "1 passed"),
        (LEAVES, ["geventpool_leftovers = loans"], "test_it.py:6 in test_it was not"),
        (LEAVES, ["geventpool_leftovers = all"], "test_it.py:6 in test_it was not"),
        (FIXTURE + LEAVES, [], "test_it.py:7 in test_it was not given back"),
        (FIXTURE + LEAVES, ["geventpool_leftovers = all"], "1 passed, 1 error"),
        ("def test_it():\n    pass\n", ["geventpool_leftovers = all"], "1 passed"),
        (LEAVES, ["geventpool_leftovers = some"], "must be off, loans or all"),
    ],
)
def test_tests_fail_only_where_it_was_asked_for(
    test: str, settings: list[str], words: str, tmp_path: Path
) -> None:
    """A package that is installed must not change the tests of others."""
    assert words in outcome(tmp_path, test, *settings)


def test_the_plugin_imports_nothing_before_the_tests_do(tmp_path: Path) -> None:
    """A program patches the standard library first."""
    (tmp_path / "test_it.py").write_text(
        "import sys\n"
        "def test_first():\n"
        "    assert not {'gevent', 'geventpool'} & set(sys.modules)\n"
        "def test_second():\n"
        "    from geventpool import Pool\n"
        "    from geventpool.testing import ScriptedConnector\n"
        "    global pool\n"
        "    pool = Pool(ScriptedConnector())\n"
        "    pool.acquire()\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\ngeventpool_leftovers = loans\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "geventpool_pytest"]
    command += ["-p", "no:cacheprovider", str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    assert "2 passed, 1 error" in said and "was not given back" in said


def test_a_waiter_at_the_address_of_an_earlier_one_is_new(pool: Pool[Any]) -> None:
    """The next greenlet often gets the memory of one that was collected."""
    conn = borrow(pool)
    waiters: list[Any] = [gevent.spawn(pool.acquire) for _ in range(200)]
    gevent.idle()
    before = {id(waiter) for waiter in waiters}
    alive = WeakSet(waiters)
    with Leftovers() as leftovers:
        gevent.killall(waiters)
        waiters.clear()
        wait_until(lambda: not gc.collect() and not alive)
        # Other memory of this size may be free, and is used first.
        while not before & {id(waiter) for waiter in waiters}:
            assert len(waiters) < 20_000, "no address is used again"
            waiters += [gevent.spawn(pool.acquire) for _ in range(200)]
        gevent.idle()
        found = leftovers.found()
    assert len(found) == len(waiters)
    assert all("waits for a connection" in each for each in found)
    gevent.killall(waiters)
    pool.release(conn)
