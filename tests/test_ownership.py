"""Who holds a loan: reclaiming from the dead, and handing over to the living."""

from __future__ import annotations

import gevent
import pytest

from geventpool import CloseReason, ConnectionNotFoundError, Counters, Pool
from geventpool.testing import (
    ScriptedConnector,
    check,
    check_capacity,
    sweep,
    wait_until,
)
from tests import parts


@pytest.fixture
def counters():
    return Counters()


@pytest.fixture
def pool(counters):
    pool = Pool(ScriptedConnector(), max_connections=2, listeners=[counters])
    yield pool
    check(pool)
    pool.close(timeout=0)


def forever():
    gevent.get_hub().switch()


def ends(greenlet):
    greenlet.join()


def killed(greenlet):
    gevent.idle()
    greenlet.kill()


def unstarted(greenlet):
    greenlet.kill()


@pytest.mark.parametrize("calm", [True, False])
def test_a_dead_holder_gives_its_place_back(calm, counters):
    """The connection is closed, never reused, and the first in line is served."""
    connector = ScriptedConnector()
    pool = Pool(connector, max_connections=1, listeners=[] if calm else [counters])
    for end in (ends, killed):
        holder = gevent.spawn(lambda: (pool.acquire(), end is ends or forever()))
        waiter = gevent.spawn(pool.acquire, reclaim=False)
        end(holder)
        conn = waiter.get()
        assert conn.number == len(connector.opened)
        assert connector.opened[-2].end == "discarded"
        pool.drop(conn)
    if not calm:
        assert counters.snapshot().closed[CloseReason.HOLDER_DIED] == 2
    check_capacity(pool)


def test_a_failed_holder_gives_its_place_back_although_its_frames_live(
    pool, hub_errors
):
    """Capacity does not hang on the garbage collector."""

    def fail():
        conn = pool.acquire()
        raise ValueError(conn)

    holder = gevent.spawn(fail)
    holder.join()
    gevent.idle()
    hub_errors.clear()
    assert pool.size == 0 and holder.exception is not None


def test_all_loans_of_a_dead_holder_come_back(pool):
    """However many it held, and whichever it gave back."""

    def hold():
        first, second = pool.acquire(), pool.acquire()
        pool.release(first)
        return first, pool.acquire(), second

    gevent.spawn(hold).join()
    gevent.idle()
    assert pool.size == 0


def test_nested_loans_end_in_any_order(pool):
    """Each release ends the loan it names."""
    for order in ((0, 1), (1, 0)):
        conns = pool.acquire(), pool.acquire()
        for index in order:
            pool.release(conns[index])
        assert pool.stats().idle == 2
        check(pool)


def test_without_reclaim_a_dead_holder_keeps_its_loan():
    """Somebody's finaliser will give it back; anybody may."""
    pool = Pool(ScriptedConnector(), max_connections=1, reclaim=False)
    conn = gevent.spawn(pool.acquire).get()
    gevent.idle()
    assert pool.lent_connections() == [conn]
    pool.release(conn)
    assert pool.idle_connections() == [conn]


def test_reclaiming_can_be_declined_for_one_loan(pool):
    """A loan that outlives its greenlet on purpose."""
    conn = gevent.spawn(pool.acquire, reclaim=False).get()
    gevent.idle()
    assert pool.lent_connections() == [conn]
    pool.release(conn)


def test_a_loan_that_no_death_ends_is_still_its_takers(pool):
    """The reports name the taker, and no stale release by another ends the loan."""
    conn = pool.acquire(reclaim=False)
    (loan,) = pool.loans()
    assert loan.holder != "nobody"

    def end_it():
        others = pool.acquire()
        with pytest.raises(ConnectionNotFoundError):
            pool.release(conn)
        pool.release(others)

    gevent.spawn(end_it).get()
    pool.release(conn)


def test_a_loan_is_handed_over_to_another_greenlet(pool):
    """From then on it is the other's to give back."""
    conn = pool.acquire()
    worker = gevent.Greenlet(pool.release, conn)
    pool.transfer(conn, worker)
    with pytest.raises(ConnectionNotFoundError):
        pool.release(conn)
    worker.start()
    worker.join()
    assert pool.idle_connections() == [conn]


@pytest.mark.parametrize("end", [unstarted, killed])
def test_the_death_of_the_new_holder_ends_the_loan(pool, end):
    """Also if it is killed before it ever ran, when it runs no code at all."""
    conn = pool.acquire()
    worker = gevent.spawn(forever)
    pool.transfer(conn, worker)
    end(worker)
    gevent.idle()
    assert conn.end == "discarded" and pool.size == 0


def test_a_loan_handed_to_the_dead_comes_back(pool):
    """Too late is as good as just now."""
    conn = pool.acquire()
    dead = gevent.spawn(int)
    dead.join()
    pool.transfer(conn, dead)
    gevent.idle()
    assert conn.end == "discarded"


def test_the_death_of_the_former_holder_means_nothing(pool):
    """A loan has one holder."""
    keeper = gevent.spawn(forever)

    def give():
        conn = pool.acquire()
        pool.transfer(conn, keeper)
        return conn

    conn = gevent.spawn(give).get()
    gevent.idle()
    assert pool.lent_connections() == [conn] and conn.end is None
    keeper.kill()


def test_a_block_leaves_what_was_transferred_alone(pool):
    """Its end is not the end of the other's loan."""
    worker = gevent.spawn(forever)
    with pool.connection() as conn:
        pool.transfer(conn, worker)
    assert pool.lent_connections() == [conn]
    worker.kill()


def test_a_loan_may_belong_to_nobody(pool):
    """Then anybody gives it back, and nobody's death ends it."""
    conn = pool.acquire()
    pool.transfer(conn, None)
    (loan,) = pool.loans()
    assert loan.holder == "no single greenlet"
    gevent.spawn(pool.release, conn).join()
    assert pool.idle_connections() == [conn]


def test_only_a_greenlet_can_be_a_holder(pool):
    """Anything else is refused, and the loan stays as it is."""
    conn = pool.acquire()
    with pytest.raises(TypeError, match="greenlet must be a greenlet or None"):
        pool.transfer(conn, "me")
    with pytest.raises(ConnectionNotFoundError):
        pool.transfer(object(), gevent.getcurrent())
    pool.release(conn)


def test_a_raw_greenlet_that_ended_is_found_by_the_sweep(pool):
    """It has no links that could tell, so somebody looks."""
    raw = gevent.spawn_raw(pool.acquire)
    while not raw.dead:
        gevent.sleep(0)
    assert pool.stats().in_use == 1
    sweep(pool)
    assert pool.size == 0


def test_a_greenlet_in_a_block_is_not_linked(pool):
    """A block cannot forget, so its greenlet pays nothing for being watched."""

    def borrow():
        with pool.connection():
            pass
        return (
            len(gevent.getcurrent()._links)  # type: ignore[attr-defined]
            if hasattr(gevent.getcurrent(), "_links")
            else 0
        )

    gevent.spawn(borrow).get()
    assert not parts.holders(pool).by_id


def test_a_signal_at_the_end_of_a_holder_leaves_it_no_loan(hub_errors, monkeypatch):
    """Its other loans end in another turn of the event loop."""

    class Interrupt(BaseException):
        pass

    strikes = [Interrupt()]
    terminated = []

    class Struck(ScriptedConnector):
        def terminate(self, conn):
            terminated.append(conn)
            if strikes:
                raise strikes.pop()

    with Pool(Struck(), max_connections=2) as pool:

        def borrow():
            pool.acquire()
            pool.acquire()

        gevent.spawn(borrow).join()
        wait_until(lambda: pool.stats().size == 0)
        assert len(set(terminated)) == 2
    [error] = hub_errors
    assert isinstance(error.error, Interrupt)
    hub_errors.clear()


def test_a_signal_while_a_connection_of_another_is_closed_costs_no_place(hub_errors):
    """It is closed in a turn of the event loop of its own, which is repeated."""

    class Interrupt(BaseException):
        pass

    strikes = [Interrupt()]

    class Struck(ScriptedConnector):
        def terminate(self, conn):
            if strikes:
                raise strikes.pop()

    with Pool(Struck(), max_connections=1) as pool:
        conn = pool.acquire()
        gevent.spawn(pool.drop, conn, anyone=True).join()
        assert pool.acquire(timeout=5) is not conn
    assert [type(each.error) for each in hub_errors] == [Interrupt]
    hub_errors.clear()
