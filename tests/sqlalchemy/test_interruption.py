"""Kill, Timeout and errors at every switch point: no place is lost, none leaks."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from sqlalchemy import event, text

from geventpool.sqlalchemy import GreenletPool, reset_server_session
from geventpool.testing import interrupt_everywhere, pool_greenlets
from tests.event_loops import not_on_libuv
from tests.peers import run_script
from tests.sqlalchemy.conftest import Connection, Database, through
from tests.sqlalchemy.test_full_servers import FULL

#: How many callbacks after the switch the error is thrown; -1: before it.
LATER = range(-1, 3)

#: Real servers are slow: not everything with everything.
ENDS = [(gevent.GreenletExit, -1), (gevent.Timeout, 1)]


@pytest.fixture(autouse=True)
def quiet(caplog):
    """SQLAlchemy logs each interrupted reset with its traceback."""
    caplog.set_level("CRITICAL")


def made(database, **options):
    return GreenletPool(database, **{"max_overflow": 0, "timeout": 5, **options})


@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize("size", [1, 2])
def test_a_loan_may_be_interrupted_anywhere(later, size):
    """Waiting, connecting, resetting, closing the overflow; beside another greenlet."""

    def scenario():
        database = Database()
        pool = made(database, pool_size=1, max_overflow=size - 1)

        def other():
            with pool.connect():
                gevent.sleep(0)
                gevent.sleep(0)

        def work():
            first = gevent.spawn(other)
            try:
                with pool.connect() as conn:
                    gevent.sleep(0)
                    conn.invalidate()
                conn = pool.connect()
                try:
                    gevent.sleep(0)
                finally:
                    conn.close()
            finally:
                gevent.joinall([first], timeout=5)
            assert database.peak <= size

        return work, [pool.core]

    assert interrupt_everywhere(scenario, later=later) > 4


class Filling(Database):
    """A server that has no room for every second connection."""

    dials = 0

    def __call__(self) -> Connection:
        self.dials += 1
        self.failure = None if self.dials % 2 else FULL
        return super().__call__()


@pytest.mark.parametrize("later", LATER)
def test_a_renewal_at_a_full_server_may_be_interrupted_anywhere(later):
    """The old connection is closed, and its borrower is in line again."""

    def scenario():
        database = Filling()
        pool = made(database, pool_size=1, recycle=0)

        def work():
            for _ in range(2):
                conn = pool.connect()
                try:
                    gevent.sleep(0)
                finally:
                    conn.close()
            assert len(database.now_open) <= 1

        return work, [pool.core]

    assert interrupt_everywhere(scenario, later=later) > 4


@pytest.mark.parametrize("later", LATER)
def test_listeners_may_be_interrupted_anywhere(later):
    """Those of connect, checkout, reset and checkin switch."""

    def scenario():
        pool = made(Database(), pool_size=1)
        for name in ("connect", "checkout", "reset", "checkin", "close"):
            event.listen(pool, name, lambda *args: gevent.sleep(0))

        def work():
            pool.connect().close()
            conn = pool.connect()
            conn.invalidate()
            pool.connect().close()

        return work, [pool.core]

    assert interrupt_everywhere(scenario, later=later) > 10


@pytest.mark.parametrize("later", LATER)
def test_what_is_forgotten_comes_back_whatever_happens_to_its_helper(later):
    """The greenlets of the pool are interrupted, those of the program are not."""
    pools: list[Any] = []

    def scenario():
        pool = made(Database(), pool_size=1)
        pools[:] = [pool.core]

        def work():
            for _ in range(2):
                conn = pool.connect()
                del conn
                gevent.sleep(0)
            kept = []
            gevent.spawn(lambda: kept.append(pool.connect())).join()
            pool.connect().close()

        return work, [pool.core]

    def is_ours(greenlet):
        return any(greenlet in pool_greenlets(pool) for pool in pools)

    points = interrupt_everywhere(
        scenario, later=later, victims=is_ours, errors=[gevent.GreenletExit]
    )
    assert points > 2


@pytest.mark.parametrize(("error", "later"), ENDS)
@pytest.mark.parametrize("resets", [False, True], ids=["rollback", "session"])
def test_an_engine_may_be_interrupted_anywhere(
    make_engine, proxy, error, later, resets
):
    """On a real server; every reply is the borrower's own."""
    number = 0

    def scenario():
        # Each answer of a proxy in this very process makes the victim wait.
        reset = None if resets else "rollback"
        engine = make_engine(through(proxy), pool_reset_on_return=reset)
        if resets:
            reset_server_session(engine)

        def work():
            nonlocal number
            for _ in range(2):
                number += 1
                with engine.connect() as conn:
                    mine = conn.scalar(text(f"SELECT {number}"))
                assert mine == number
                with engine.raw_connection() as raw, raw.cursor() as cursor:
                    cursor.execute(f"SELECT {number}")
                    assert cursor.fetchone() == (number,)

        return work, [engine.pool.core]

    assert interrupt_everywhere(scenario, later=later, errors=[error]) > 8


def test_a_check_in_that_finds_the_stack_full_costs_no_place(monkeypatch, caplog):
    """Only code in C can still be called; the event loop frees the place."""
    database = Database()
    pool = made(database, pool_size=1)
    free_place, errors = pool.free_place, [RecursionError()]

    def fail_once(record):
        if errors:
            raise errors.pop()
        free_place(record)

    monkeypatch.setattr(pool, "free_place", fail_once)

    @event.listens_for(pool, "checkin")
    def fail(connection, record):
        raise ValueError

    conn = pool.connect()
    with pytest.raises(RecursionError):
        conn.close()
    event.remove(pool, "checkin", fail)
    with pool.connect():
        assert pool.checkedout() == 1


FULL_STACKS = """
from gevent import monkey; monkey.patch_all()
import gc, logging, sys
import gevent
from sqlalchemy.pool import QueuePool
from geventpool.sqlalchemy import GreenletPool
from tests.sqlalchemy.conftest import Database

logging.disable()
sys.unraisablehook = gevent.get_hub().print_exception = lambda *args: None

def dive(depth, work):
    return dive(depth - 1, work) if depth else work()

def is_lost(kind, depth):
    pool = kind(Database(), pool_size=1, max_overflow=0, timeout=0.05)
    pool.connect().close()
    conn = pool.connect()
    try:
        dive(depth, conn.close)
    except RecursionError:
        pass
    del conn
    gc.collect()
    for _ in range(10):
        gevent.sleep(0)
    try:
        pool.connect().close()
    except Exception:
        return True
    return False

limit = sys.getrecursionlimit()
for kind in QueuePool, GreenletPool:
    print(sum(is_lost(kind, depth) for depth in range(limit - 100, limit - 5)))
"""


@not_on_libuv("its run_callback() needs room on the stack as well")
def test_a_full_stack_at_a_check_in_costs_no_more_places_than_with_queuepool():
    """At each depth. An overflow ends the tracing, so in a process of its own."""
    stock, ours = map(int, run_script(FULL_STACKS).split())
    assert ours == 0 <= stock
