"""Giving back, and how a loan may end."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event

from geventpool import (
    CloseReason,
    ConnectionNotFoundError,
    Counters,
    Pool,
    PoolListener,
    Timeouts,
)
from geventpool.testing import (
    ScriptedConnector,
    check,
    check_capacity,
    pool_greenlets,
    switches,
)


class Survivable(Exception):
    pass


@pytest.fixture
def connector():
    connector = ScriptedConnector()
    connector.survivable = (Survivable,)
    return connector


@pytest.fixture
def counters():
    return Counters()


@pytest.fixture
def pool(connector, counters):
    pool = Pool(connector, max_connections=2, listeners=[counters])
    yield pool
    check(pool)
    pool.close(timeout=0)


def test_a_block_left_normally_gives_its_connection_back(pool):
    """The connection is idle again."""
    with pool.connection() as conn:
        pass
    assert pool.idle_connections() == [conn] and conn.end is None


@pytest.mark.parametrize(
    "error",
    [gevent.GreenletExit, gevent.Timeout, KeyboardInterrupt, SystemExit, ValueError],
)
def test_a_block_left_by_an_error_closes_its_connection(pool, counters, error):
    """Nobody knows what is still under way on it."""
    with pytest.raises(error):
        with pool.connection() as conn:
            raise error()
    assert conn.end == "discarded" and pool.size == 0
    assert counters.snapshot().closed == {CloseReason.BORROWER_FAILED: 1}


def test_a_block_left_by_an_error_in_step_keeps_its_connection(pool):
    """The connector can tell that an answer has been read to its end."""
    with pytest.raises(Survivable):
        with pool.connection() as conn:
            raise Survivable
    assert pool.idle_connections() == [conn]


def test_a_kill_is_never_survived(pool, connector):
    """The connector is not even asked about what is no Exception."""
    connector.survivable = (BaseException,)
    with pytest.raises(gevent.Timeout):
        with pool.connection() as conn:
            raise gevent.Timeout
    assert conn.end == "discarded"


def test_a_connector_that_fails_to_judge_an_error_costs_the_connection(
    pool, connector, caplog
):
    """In doubt the connection is closed, and the borrower's own error goes on."""
    connector.classify = lambda error: 1 / 0
    with pytest.raises(ValueError):
        with pool.connection() as conn:
            raise ValueError
    assert conn.end == "discarded" and "asked about" in caplog.text


def test_an_action_that_is_none_costs_the_connection(pool, connector, caplog):
    """A connector that returns something else is told so in the log."""
    connector.classify = lambda error: None
    with pytest.raises(ValueError):
        with pool.connection() as conn:
            raise ValueError
    assert conn.end == "discarded"
    assert "None is not a valid ErrorAction" in caplog.text


def test_an_error_may_condemn_all_present_connections(pool, connector):
    """A demoted primary is healthy, and yet of no use any more."""
    connector.condemning = (LookupError,)
    other = pool.acquire()
    with pytest.raises(LookupError):
        with pool.connection() as conn:
            raise LookupError
    assert conn.end == "discarded" and other.end is None
    pool.release(other)
    gevent.idle()
    assert other.end == "closed" and pool.size == 0


@pytest.mark.parametrize("end", ["release", "drop"])
def test_a_loan_ends_once(pool, end):
    """A second release or drop is refused and changes nothing."""
    conn = pool.acquire()
    getattr(pool, end)(conn)
    before = repr(pool)
    with pytest.raises(ConnectionNotFoundError):
        pool.release(conn)
    assert repr(pool) == before


def test_a_foreign_connection_is_refused(pool):
    """What the pool did not lend it does not take."""
    conn = pool.acquire()
    for stranger in (object(), None, [], conn.number):
        with pytest.raises(ConnectionNotFoundError):
            pool.release(stranger)
        with pytest.raises(ConnectionNotFoundError):
            pool.drop(stranger)
    assert pool.lent_connections() == [conn]


def test_a_stale_release_does_not_end_the_loan_of_the_next_borrower(pool):
    """A borrower that has released cannot release for somebody else."""
    stale = pool.acquire()
    pool.release(stale)

    def borrow():
        with pool.connection() as conn:
            assert conn is stale
            gevent.get_hub().switch()

    borrower = gevent.spawn(borrow)
    gevent.idle()
    with pytest.raises(ConnectionNotFoundError, match="lent to .*borrow"):
        pool.release(stale)
    with pytest.raises(ConnectionNotFoundError):
        pool.drop(stale)
    assert pool.lent_connections() == [stale] and stale.end is None
    borrower.kill()


@pytest.mark.parametrize("end", ["release", "drop"])
def test_a_greenlet_that_does_not_borrow_may_give_back_for_another(pool, end):
    """A worker that a connection was handed to: so it was with gsocketpool."""
    conn = pool.acquire()
    gevent.spawn(getattr(pool, end), conn).get()
    gevent.idle()
    assert pool.lent_connections() == []
    assert (conn.end is None) is (end == "release")
    with pytest.raises(ConnectionNotFoundError):
        pool.release(conn)


@pytest.mark.parametrize("reclaim", [True, False])
@pytest.mark.parametrize("end", ["release", "drop"])
def test_a_greenlet_that_borrows_gives_back_only_what_it_holds(pool, end, reclaim):
    """It may have given it back before, and another greenlet has it now."""
    stale = pool.acquire(reclaim=reclaim)
    pool.release(stale)
    keeper = gevent.spawn(lambda: (pool.acquire(), gevent.get_hub().switch()))
    gevent.idle()
    with pytest.raises(ConnectionNotFoundError, match="lent to"):
        getattr(pool, end)(stale)
    assert pool.lent_connections() == [stale]
    keeper.kill()


def test_with_owner_only_no_other_greenlet_gives_back():
    """The strict rule, for programs that never hand a connection to another."""
    pool = Pool(ScriptedConnector(), owner_only=True)
    conn = pool.acquire()
    helper = gevent.spawn(
        lambda: pytest.raises(ConnectionNotFoundError, pool.drop, conn)
    )
    helper.get()
    pool.release(conn)


def test_what_a_block_borrowed_is_given_back_by_no_other_greenlet(pool):
    """Its block does that; neither a worker nor the hub knows how it was left."""
    with pool.connection() as conn:
        refused = []

        def try_it():
            with pytest.raises(ConnectionNotFoundError) as caught:
                pool.release(conn)
            refused.append(caught)

        gevent.spawn(try_it)
        gevent.get_hub().loop.run_callback(try_it)
        gevent.idle()
        assert len(refused) == 2 and pool.lent_connections() == [conn]


def test_an_adapter_may_release_for_anyone(pool):
    """Interfaces that know no owner can be served."""
    conn = gevent.spawn(pool.acquire, reclaim=False).get()
    other = pool.acquire()
    keeper = gevent.spawn(gevent.get_hub().switch)
    pool.transfer(other, keeper)
    pool.release(conn, anyone=True)
    with pytest.raises(ConnectionNotFoundError):
        pool.release(other)
    pool.drop(other, anyone=True)
    gevent.idle()
    assert other.end == "discarded"
    keeper.kill()


def test_a_block_whose_connection_was_released_inside_leaves_it_alone(pool):
    """The end of a block does not end somebody else's loan."""
    with pool.connection() as conn:
        pool.release(conn)
        again = pool.acquire()
        assert again is conn
    assert pool.lent_connections() == [conn]
    with pool.connection() as other:
        pool.drop(other)
    assert other.end == "discarded"
    pool.release(conn)


def test_a_block_is_entered_once_at_a_time(pool):
    """It may be used again, but not inside itself, where a loan would be lost."""
    block = pool.connection()
    for _ in range(2):
        with block as conn:
            with pytest.raises(RuntimeError, match="in use"):
                block.__enter__()
        assert pool.idle_connections() == [conn]


def test_an_idle_connection_can_be_dropped(pool):
    """It is closed politely."""
    with pool.connection() as conn:
        pass
    with switches() as seen:
        pool.drop(conn)
    assert not seen and pool.size == 1
    gevent.idle()
    assert conn.end == "closed" and pool.size == 0


def test_release_and_drop_never_switch(pool):
    """Not even when somebody waits, or a greenlet of the pool must be called."""
    one, two = pool.acquire(), pool.acquire()
    waiters = [gevent.spawn(pool.acquire) for _ in range(2)]
    gevent.idle()
    one.needs_reset = True
    with switches() as seen:
        pool.release(one)
        pool.drop(two)
    assert not seen
    gevent.joinall(waiters)
    assert all(waiter.successful() for waiter in waiters)
    gevent.idle()


def test_release_works_in_the_hub(pool):
    """Hub callbacks and finalisers give back like anybody."""
    keeper = gevent.spawn(gevent.get_hub().switch)
    conn, other = pool.acquire(), pool.acquire()
    pool.transfer(conn, keeper)
    pool.transfer(other, keeper)
    gevent.get_hub().loop.run_callback(pool.release, conn)
    gevent.get_hub().loop.run_callback(pool.drop, other)
    gevent.idle()
    assert pool.idle_connections() == [conn] and other.end == "discarded"
    keeper.kill()


def test_a_used_connection_is_reset_before_the_next_loan(pool, connector):
    """The clean-up is done by a greenlet of the pool, not by the borrower."""
    with pool.connection() as conn:
        conn.needs_reset = True
    assert pool.stats().resetting == 1 and not pool.idle_connections()
    assert repr(pool).endswith("0 waiting, 1 resetting>")
    gevent.idle()
    assert ("reset", conn) in connector.calls
    assert pool.idle_connections() == [conn]


def test_a_connection_that_cannot_be_reset_is_closed(pool, connector, counters):
    """It goes, and its place serves a waiter."""
    connector.script("reset", OSError("broken"), OSError("broken"))
    lent = [pool.acquire(), pool.acquire()]
    waiter = gevent.spawn(pool.acquire)
    gevent.idle()
    for conn in lent:
        conn.needs_reset = True
        pool.release(conn)
    assert waiter.get().number == 3
    assert [conn.end for conn in lent] == ["discarded", "discarded"]
    assert counters.snapshot().closed == {CloseReason.RESET_FAILED: 2}


def test_a_reset_that_is_killed_costs_no_place(pool, connector, hub_errors):
    """The connection is closed, and its place is free."""
    connector.script("reset", Event())
    with pool.connection() as conn:
        conn.needs_reset = True
    gevent.idle()
    gevent.killall(list(pool_greenlets(pool)))
    gevent.idle()
    assert conn.end == "discarded"
    check_capacity(pool)


def test_a_listener_finds_the_place_free_and_the_socket_closed():
    """It is told when the change is complete, so it may look at the pool."""
    seen = []

    class Ear(PoolListener):
        def closed(self, conn, reason):
            seen.append((conn.end, pool.size, pool.stats().in_use))  # type: ignore[attr-defined]

    pool = Pool(ScriptedConnector(), listeners=[Ear()])
    pool.drop(pool.acquire())
    assert seen == [("discarded", 0, 0)]


def test_a_connector_that_fails_to_say_whether_to_reset_has_to_reset(
    pool, connector, caplog
):
    """In doubt it is cleaned."""
    connector.needs_reset = None
    with pool.connection() as conn:
        pass
    gevent.idle()
    assert ("reset", conn) in connector.calls and "needs_reset failed" in caplog.text


def test_a_connector_that_fails_to_end_a_loan_has_to_reset(caplog):
    """Likewise, whatever it had begun."""
    connector = LoanEnds(work=lambda: 1 / 0)
    pool = Pool(connector)
    with pool.connection() as conn:
        pass
    gevent.idle()
    assert ("reset", conn) in connector.calls and "end_loan failed" in caplog.text
    check_capacity(pool)


def test_a_kill_of_the_borrower_cannot_hit_the_reset(connector):
    """A second kill during the clean-up finds nobody to interrupt."""
    from gevent.event import Event

    gate = Event()
    connector.script("reset", gate)
    pool = Pool(connector, max_connections=1)

    def borrow():
        with pool.connection() as conn:
            conn.needs_reset = True

    borrower = gevent.spawn(borrow)
    gevent.idle()
    borrower.kill()
    assert pool.stats().resetting == 1
    gate.set()
    check_capacity(pool)
    assert len(connector.opened) == 1


def test_the_released_one_is_looked_at_before_it_is_handed_over(pool, counters):
    """An unread answer does not reach the first in line."""
    one, two = pool.acquire(), pool.acquire()
    waiter = gevent.spawn(pool.acquire)
    gevent.idle()
    one.is_usable = False
    pool.release(one)
    assert waiter.get().number == 3
    assert counters.snapshot().closed == {CloseReason.UNUSABLE: 1}
    pool.release(two)


def test_a_pool_that_nobody_watches_looks_too(connector):
    """The shortest way to the first in line is no way round the last look."""
    pool = Pool(connector, max_connections=1)
    conn = pool.acquire()
    waiter = gevent.spawn(pool.acquire, reclaim=False)
    gevent.idle()
    conn.is_usable = False
    pool.release(conn)
    assert waiter.get().number == 2 and conn.end == "discarded"


def test_a_reset_without_end_is_cut_off(connector):
    """The connection is closed, and its place is free."""
    connector.script("reset", Event())
    pool = Pool(connector, max_connections=1, timeouts=Timeouts(reset=0.001))
    with pool.connection() as conn:
        conn.needs_reset = True
    with pool.connection(timeout=5) as other:
        assert other is not conn
    assert conn.end == "discarded"


class LoanEnds(ScriptedConnector):
    """Notes each end of a loan, calls *work*, and gives *answer*."""

    def __init__(self, answer=False, work=lambda: None):
        super().__init__()
        self.answer, self.work, self.ended = answer, work, []

    def end_loan(self, conn):
        self.ended.append(conn)
        self.work()
        return self.answer


@pytest.mark.parametrize("answer", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"max_idle": 60}, {"listeners": [PoolListener()]}], ids=str
)
def test_a_connector_is_told_once_that_a_loan_has_ended(options, answer):
    """It may send something then, which must not be sent twice."""
    connector = LoanEnds(answer)
    pool = Pool(connector, **options)
    for number in range(1, 3):
        with pool.connection() as conn:
            pass
        gevent.idle()
        assert connector.ended == [conn] * number
    assert connector.calls.count(("reset", conn)) == (2 if answer else 0)
    check_capacity(pool)


@pytest.mark.parametrize("answer", [False, True])
def test_a_connector_may_drain_the_pool_when_a_loan_ends(answer):
    """It may learn then that the server has changed its role."""
    connector = LoanEnds(answer, lambda: pool.drain())  # type: ignore[attr-defined]
    pool = Pool(connector)
    conn = pool.acquire()
    pool.release(conn)
    gevent.idle()
    assert conn.end == "closed" and ("reset", conn) not in connector.calls
    check_capacity(pool)


def test_the_end_of_a_loan_is_not_told_of_a_connection_that_is_closed():
    """Nothing is sent over a connection that is about to be closed."""
    connector = LoanEnds()
    pool = Pool(connector)
    conn = pool.acquire()
    pool.drain()
    pool.release(conn)
    gevent.idle()
    assert conn.end == "closed" and connector.ended == []
