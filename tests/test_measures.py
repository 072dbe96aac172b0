"""Times and counts that a pool keeps of itself."""

from __future__ import annotations

import copy
import json
import os
import pickle
import random

import gevent
import pytest

from geventpool import (
    CloseReason,
    Connector,
    Counters,
    Outage,
    Pool,
    PoolDeadlockError,
    PoolExhaustedError,
    TooManyWaitingError,
)
from geventpool._core import measures
from geventpool._core.histograms import BOUNDS, MANY, Distribution, Histogram
from geventpool._core.measured import FrozenCounts, Measured, as_plain
from geventpool.testing import Clock, ScriptedConnector, wait_until
from tests.pauses import give_up_after, hang, turns


@pytest.fixture()
def clock():
    return Clock()


@pytest.fixture()
def pool(clock):
    with measured_pool(clock) as pool:
        yield pool


def measure_nothing(monkeypatch):
    """As in a process that has just begun, until the end of the test."""
    monkeypatch.setattr(measures, "_default", [False])
    monkeypatch.setattr(measures, "_first_event", [])
    monkeypatch.setattr(measures, "_kept", [])
    monkeypatch.setattr(measures, "_retired", {})


def measured_pool(clock=None, connector=None, **options):
    pool = Pool(connector or ScriptedConnector(), **{"max_connections": 2, **options})
    if clock is not None:
        clock.rule(pool)
    pool.measure()
    return pool


def measured(pool):
    return pool.stats().measured


# Histograms.


def test_a_duration_is_counted_in_the_first_bucket_that_holds_it():
    """A bound belongs to its bucket; the last bucket has what exceeds all bounds."""
    histogram = Histogram()
    for seconds in (0.0, 0.001, 0.0011, 1000.0):
        histogram.observe(seconds)
    counts = histogram.snapshot().counts
    expected = {0: 1, BOUNDS.index(0.001): 1, BOUNDS.index(0.002): 1, len(BOUNDS): 1}
    assert {place: number for place, number in enumerate(counts) if number} == expected
    assert histogram.snapshot().total == pytest.approx(1000.0021)


def test_quantiles_are_within_the_bucket_of_their_duration():
    """They tell the order of magnitude, from fixed buckets."""
    histogram = Histogram()
    for milliseconds in range(1, 101):
        histogram.observe(milliseconds / 1000)
    snapshot = histogram.snapshot()
    assert snapshot.p50 == pytest.approx(0.05, abs=0.001)
    assert snapshot.p95 is not None and snapshot.p99 is not None
    assert 0.05 < snapshot.p95 <= 0.1 and 0.05 < snapshot.p99 <= 0.1


def test_nothing_has_no_quantile_and_the_longest_are_the_last_bound():
    """An unknown time is not 0."""
    assert Distribution().p50 is Distribution().p99 is None
    histogram = Histogram()
    histogram.observe(1e6)
    assert histogram.snapshot().p50 == BOUNDS[-1]


# What is measured.


def test_without_measuring_there_is_nothing():
    """It is off unless somebody asks for it."""
    with Pool(ScriptedConnector()) as pool:
        assert measured(pool) is None


def test_waits_and_uses_are_measured(pool, clock):
    """A loan that did not wait counts with 0."""
    first, _second = pool.acquire(), pool.acquire()
    assert measured(pool).wait.count == 2
    waiter = gevent.spawn(lambda: pool.release(pool.acquire()))
    wait_until(lambda: pool.stats().waiting == 1)
    clock.advance(3)
    pool.release(first)
    # Handed over, and not yet borrowed: its wait has not ended.
    assert measured(pool).wait.count == 2
    waiter.join()
    waits = measured(pool).wait
    assert (waits.counts[0], waits.count, waits.total) == (2, 3, 3.0)
    assert measured(pool).use.count == 2 and measured(pool).use.total == 3.0


def test_opening_is_measured(clock):
    """With its failures."""
    connector = ScriptedConnector(open=[lambda: clock.advance(0.3), ValueError("bad")])
    with measured_pool(clock, connector) as pool:
        first = pool.acquire()
        with pytest.raises(ValueError, match="bad"):
            pool.acquire()
        pool.release(first)
        assert measured(pool).create.count == 1
        assert measured(pool).create.total == pytest.approx(0.3)
        assert measured(pool).open_failed == 1


def end_by_release(pool):
    pool.release(pool.acquire())


def end_by_block(pool):
    with pool.connection():
        pass


def end_by_drop(pool):
    pool.drop(pool.acquire())


def end_by_error(pool):
    with pytest.raises(KeyError), pool.connection():
        raise KeyError


def end_by_kill(pool):
    def hold():
        with pool.connection():
            hang()

    holder = gevent.spawn(hold)
    wait_until(lambda: pool.stats().in_use)
    holder.kill()


def end_by_death(pool):
    gevent.spawn(pool.acquire).join()


def end_for_another(pool):
    conn = gevent.spawn(pool.acquire, reclaim=False).get()
    pool.release(conn, anyone=True)


def end_by_dropping_another_s(pool):
    conn = pool.acquire()
    gevent.spawn(pool.drop, conn, anyone=True).join()


def end_when_drained(pool):
    conn = pool.acquire()
    pool.drain()
    pool.release(conn)


def end_with_a_reset(pool):
    conn = pool.acquire()
    conn.needs_reset = True
    pool.release(conn)


def end_unusable_with_a_waiter(pool):
    pool.resize(1)
    conn = pool.acquire()
    waiter = gevent.spawn(pool.acquire, timeout=5)
    wait_until(lambda: pool.stats().waiting)
    conn.is_usable = False
    pool.release(conn)
    waiter.join()


ENDS = [value for name, value in sorted(globals().items()) if name.startswith("end_")]


@pytest.mark.parametrize("listeners", [(), (Counters(),)], ids=["plain", "heard"])
@pytest.mark.parametrize("ages", [{}, {"max_lifetime": 60}], ids=["plain", "ages"])
@pytest.mark.parametrize("end", ENDS)
def test_each_loan_is_counted_once_however_it_ends(end, ages, listeners):
    """The number of loans that did not wait follows from it, so it must be exact."""
    with measured_pool(listeners=listeners, **ages) as pool:
        for _ in range(3):
            pool.resize(2)
            end(pool)
            wait_until(lambda: not pool.stats().in_use)
        expected = 6 if end is end_unusable_with_a_waiter else 3
        assert measured(pool).use.count == expected
        assert measured(pool).wait.count == expected


def test_a_loan_that_is_cut_off_is_counted():
    """The end of the pool is the end of its loans; and each connection is closed."""
    heard = []

    class Closings(Counters):
        def closed(self, conn, reason):
            heard.append(reason)

    pool = measured_pool(listeners=[Closings()])
    gevent.spawn(pool.acquire, reclaim=False).join()
    assert pool.close(timeout=0)
    assert measured(pool).use.count == measured(pool).wait.count == 1
    assert measured(pool).closed == {CloseReason.POOL_CLOSED: 1}
    assert heard == [CloseReason.POOL_CLOSED]


def test_what_was_lent_before_is_not_counted_as_a_new_loan():
    """Measuring can begin at any time, and only once."""
    with Pool(ScriptedConnector()) as pool:
        early = pool.acquire()
        pool.measure()
        late = pool.acquire()
        pool.measure()
        assert measured(pool).wait.count == 1
        pool.release(early)
        pool.release(late)
        assert measured(pool).wait.count == 1 and measured(pool).use.count == 2


def test_an_unfit_connection_that_is_put_back_is_no_loan():
    """It is looked at more closely, and lent or closed then."""
    with measured_pool() as pool:
        conn = pool.acquire()
        pool.release(conn)
        conn.is_usable = False
        pool.release(pool.acquire())
        with pool.connection() as conn:
            conn.is_usable = True
        pool.idle_connections()[0].is_usable = False
        with pool.connection():
            pass
        assert measured(pool).use.count == measured(pool).wait.count == 4
        assert measured(pool).closed == {CloseReason.UNUSABLE: 2}


def test_refusals_are_counted_by_kind():
    """A deadlock and a full line are other things than a slow server."""
    with measured_pool(max_connections=1, max_waiting=0, initial_connections=1) as pool:
        conn = pool.acquire()
        with pytest.raises(TooManyWaitingError):
            pool.acquire()
        pool.release(conn)
    with measured_pool(max_connections=1) as pool:
        with pool.connection():
            with pytest.raises(PoolDeadlockError):
                pool.acquire()
        conn = gevent.spawn(pool.acquire, reclaim=False).get()
        with pytest.raises(PoolExhaustedError):
            pool.acquire(timeout=0)
        pool.release(conn, anyone=True)
        assert measured(pool).refused == {
            "PoolDeadlockError": 1,
            "PoolExhaustedError": 1,
        }


def test_outages_are_measured(clock):
    """How often, and for how long together."""
    measures_of = measures.Measures()
    measures_of.paused(OSError())
    measures_of.resumed(4.0)
    counts = measures_of.snapshot(0, 0.5)
    assert (counts.outages, counts.outage_seconds, counts.loop_lag) == (1, 4.0, 0.5)


# What becomes of it.


def test_stats_can_be_copied_pickled_and_written_as_json(pool):
    """To another process, to a file, to a page of figures."""
    pool.release(pool.acquire())
    pool.drop(pool.acquire())
    stats = pool.stats()
    assert copy.deepcopy(stats) == pickle.loads(pickle.dumps(stats)) == stats
    plain = json.loads(json.dumps(stats.as_dict()))
    assert plain["measured"]["use"]["count"] == 2
    assert plain["measured"]["use"]["p99"] > 0
    assert plain["measured"]["closed"] == {"dropped": 1}
    assert plain["name"] == pool.name and plain["totals"] is None
    assert as_plain((1, 2)) == [1, 2]


def test_counts_of_two_pools_can_be_added():
    """For an exporter that has one series for both."""
    one, other = measures.Measures(), measures.Measures()
    for each in (one, other):
        each.refused(PoolExhaustedError)
        each.closed(None, CloseReason.EXPIRED)
        each.use.observe(1.0)
    both = one.snapshot(1, 0.25).plus(other.snapshot(0, 0.5))
    assert both.use.count == 2 and both.wait.count == 3 and both.loop_lag == 0.75
    assert both.refused == {"PoolExhaustedError": 2}
    assert both.closed == {CloseReason.EXPIRED: 2}
    assert Measured().plus(Measured()) == Measured()
    with pytest.raises(TypeError, match="do not change"):
        FrozenCounts()["a"] = 1


def test_new_pools_are_measured_if_that_is_the_default(monkeypatch):
    """An exporter is started before or after the pools are made."""
    measure_nothing(monkeypatch)
    measures.measure_by_default()
    with Pool(ScriptedConnector()) as pool:
        assert measured(pool) == Measured()
        assert pool.measures is not None


def test_the_first_event_in_a_process_is_told_once(monkeypatch):
    """An exporter that has to do something in each worker begins there."""
    measure_nothing(monkeypatch)
    events = []

    def action():
        events.append(1)

    measures.on_first_event(action)
    measures.on_first_event(action)
    with measured_pool() as pool:
        assert not events
        one = pool.acquire()
        pool.release(pool.acquire())
        pool.release(one)
        assert events == [1]


def test_a_child_begins_with_zeros():
    """Its parent reports what happened before; both together would count it twice."""
    with measured_pool() as pool:
        pool.release(pool.acquire())
        read, write = os.pipe()
        child = gevent.os.fork()
        if not child:  # pragma: no cover (the child)
            first = measured(pool).use.count
            pool.release(pool.acquire())
            os.write(write, b"%d %d" % (first, measured(pool).use.count))
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(read, 99) == b"0 1"
        os.close(read)
        os.close(write)
        assert measured(pool).use.count == 1


def test_counts_do_not_drift_in_a_storm():
    """After kills, time-outs and errors all counts and gauges are right."""
    rng = random.Random(1)
    begun = []

    def borrow():
        with give_up_after(rng.choice((0.0005, 0.002, 1))):
            with pool.connection(timeout=rng.choice((0, 0.001, 1))):  # type: ignore[attr-defined]
                begun.append(1)
                gevent.sleep(rng.choice((0, 0.001)))
                if rng.random() < 0.1:
                    raise KeyError

    def attempt():
        try:
            borrow()
        except (KeyError, PoolExhaustedError):
            pass

    with measured_pool(max_connections=3) as pool:
        for _ in range(40):
            crowd = [gevent.spawn(attempt) for _ in range(25)]
            turns(rng.randrange(4))
            gevent.killall(rng.sample(crowd, 10))
            gevent.joinall(crowd)
        wait_until(lambda: not pool.stats().in_use)
        stats = pool.stats()
        counts = stats.measured
        # A kill between the loan and the first line of the block is a loan as well.
        assert counts.use.count == counts.wait.count >= len(begun) > 100
        assert counts.create.count - sum(counts.closed.values()) == stats.size
        assert stats.size == stats.idle and not stats.waiting


class Silent(Connector):
    """Opens objects that nobody can look at."""

    def open(self):
        return object()

    def close(self, conn):
        pass


def test_the_path_of_a_loan_is_measured_where_it_is_shortest():
    """A connection that needs neither a look nor a reset is only noted when back."""
    with measured_pool(connector=Silent(), outage=Outage()) as pool:
        pool.release(pool.acquire())
        with pool.connection():
            pass
        pool.release(pool.acquire())
        assert measured(pool).use.count == measured(pool).wait.count == 3
        assert measured(pool).use.total > 0


def test_a_clock_that_is_set_later_measures_too():
    """What is measured goes by the clock of the pool at any time."""
    with measured_pool() as pool:
        clock = Clock()
        clock.rule(pool)
        conn = pool.acquire()
        clock.advance(5)
        pool.release(conn)
        assert pool.stats().measured.use.total == pytest.approx(5)


def test_durations_that_are_counted_together_count_as_each_of_them() -> None:
    """Also those on a bound, and those beyond the last one."""
    durations = [*BOUNDS, 0.0, 1e-9, 3e-5, 0.7, 0.7, 51.0, 1e9]
    one_by_one, together = Histogram(), Histogram()
    for seconds in durations:
        one_by_one.observe(seconds)
    together.new += reversed(durations)
    together.count()
    assert not together.new
    assert together.snapshot().counts == one_by_one.snapshot().counts
    assert together.snapshot().total == pytest.approx(sum(durations))


def test_loans_that_nobody_looks_at_do_not_pile_up() -> None:
    """They are counted many at a time, and each of them once."""
    with measured_pool(connector=Silent(), outage=Outage()) as pool:
        kept = pool.measures
        assert kept is not None
        for _ in range(2 * MANY + 3):
            pool.release(pool.acquire())
            assert len(kept.use.new) < MANY
        measured = pool.stats().measured
        assert measured is not None and measured.use.count == 2 * MANY + 3
