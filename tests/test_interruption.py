"""Kill, time-out and error at every switch point of every operation."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from geventpool import Pool
from geventpool.testing import ScriptedConnector, check, interrupt_everywhere, sweep
from tests import parts

LATER = range(-1, 4)


def with_pool(work, prepare=None, **options):
    """A scenario: a pool of one place, and what the victim does with it."""

    def scenario():
        connector = ScriptedConnector(switching=True)
        options.setdefault("max_connections", 1)
        if prepare is stale:
            options["ping_after"] = 0
        pool = Pool(connector, **options)
        if prepare is not None:
            prepare(pool)
        return lambda: work(pool), [pool]

    return scenario


def use_in_block(pool):
    with pool.connection() as conn:
        gevent.sleep(0)
        conn.needs_reset = True
        gevent.sleep(0)


def use_bare(pool):
    conn = pool.acquire()
    try:
        gevent.sleep(0)
    except BaseException:
        pool.drop(conn)
        raise
    pool.release(conn)


def use_and_forget(pool):
    pool.acquire()
    gevent.sleep(0)


def busy(pool):
    """Somebody else has the connection, and gives it back a little later."""

    def hold():
        with pool.connection():
            gevent.sleep(0)
            gevent.sleep(0)

    gevent.spawn(hold)
    gevent.sleep(0)


def crowded(pool):
    """Others wait before and behind the victim."""
    busy(pool)
    for _ in range(3):
        gevent.spawn(use_in_block, pool)


def stale(pool):
    """The idle connection has to be pinged first."""
    with pool.connection():
        pass


def dead(pool):
    """The idle connection is found to be dead."""
    with pool.connection() as conn:
        pass
    conn.is_usable = False


@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize("prepare", [None, busy, crowded, stale, dead])
@pytest.mark.parametrize("work", [use_in_block, use_bare, use_and_forget])
def test_a_borrower_may_be_interrupted_anywhere(work, prepare, later):
    """Neither a connection nor a place is lost, and the others are served."""
    points = interrupt_everywhere(with_pool(work, prepare), later=later)
    assert points >= 1


@pytest.mark.parametrize("prepare", [None, busy, stale, dead])
@pytest.mark.parametrize("work", [use_in_block, use_and_forget])
def test_the_greenlets_of_the_pool_may_be_killed_anywhere(work, prepare, hub_errors):
    """To kill all greenlets that can be found loses no place of the pool."""
    pools: list[Any] = []

    def scenario():
        target, made = with_pool(work, prepare)()
        pools[:] = made
        return target, made

    def is_ours(victim):
        return bool(pools) and victim in parts.running(pools[0])

    points = interrupt_everywhere(
        scenario, victims=is_ours, errors=[gevent.GreenletExit]
    )
    assert points >= 1
    hub_errors.clear()


@pytest.mark.parametrize("later", LATER)
def test_a_constructor_that_is_interrupted_leaves_nothing_open(later):
    """A caller that is hit while pre-filling has no pool to close."""
    made, finished = [], []

    def scenario():
        connector = ScriptedConnector(switching=True)
        made.append(connector)

        def construct():
            Pool(connector, initial_connections=3)
            finished.append(connector)

        return construct, []

    interrupt_everywhere(scenario, later=later)
    gevent.idle()
    interrupted = [connector for connector in made if connector not in finished]
    assert interrupted or later
    for connector in interrupted:
        assert not connector.now_open and not connector.opening


@pytest.mark.parametrize("later", LATER)
def test_a_close_that_is_interrupted_can_be_repeated(later):
    """The pool is closed all the same."""
    pools = []

    def scenario():
        pool = Pool(ScriptedConnector(switching=True), max_connections=2)
        with pool.connection():
            pass
        pools.append(pool)
        return pool.close, []

    interrupt_everywhere(scenario, later=later)
    for pool in pools:
        pool.close(timeout=0)
        check(pool)
        assert pool.size == 0 and not parts.connector(pool).now_open


def test_a_sweep_may_be_interrupted_anywhere():
    """The reaper can be killed in the middle, and the books are in order."""

    def fill(pool):
        lent = [pool.acquire() for _ in range(3)]
        for conn in lent:
            pool.release(conn)
        lent[1].is_usable = False

    interrupt_everywhere(
        with_pool(
            sweep,
            fill,
            max_connections=3,
            ping_interval=0,
            reap_interval=99,
        ),
        errors=[gevent.GreenletExit],
    )
