"""Admission: who is refused early, and that nobody else is."""

from __future__ import annotations

import pickle
from collections import OrderedDict

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geventpool import (
    Admission,
    Backoff,
    Counters,
    Pool,
    PoolExhaustedError,
    PoolListener,
    PoolOverloadedError,
)
from geventpool.admission import AT_A_TIME, ENOUGH, STALE, AdmissionControl, ReturnRate
from geventpool.testing import Clock, ScriptedConnector, check
from tests import parts

FOREVER = float("inf")


class Waiter:
    """One in the line of :class:`Line`."""

    def __init__(self, began, ends=FOREVER):
        self.began = began
        self.ends = ends


class Line:
    """What an AdmissionControl sees of a ledger."""

    def __init__(self, size):
        self.entries = dict.fromkeys(range(size))
        self.waiters = OrderedDict()
        self.refused = []

    def join(self, waiter):
        self.waiters[waiter] = waiter

    def fail(self, waiter, error):
        del self.waiters[waiter]
        self.refused.append((waiter, error))


class Scene:
    """A line before connections, each of which comes back at a fixed pace."""

    def __init__(self, size=10, **policy):
        self.now = 0.0
        self.line = Line(size)
        self.control = AdmissionControl(Admission(**policy), "test", self.line)

    def arrive(self, limit=None, is_own=False):
        error = self.control.arrive(self.now, limit, is_own)
        if error is None:
            ends = self.now + limit if is_own and limit is not None else FOREVER
            self.line.join(Waiter(self.now, ends))
        return error

    def serve(self, pause=0.0):
        """One connection comes back after *pause*; the waiter that gets it."""
        self.now += pause
        self.control.on_return(self.now)
        if self.line.waiters:
            return self.line.waiters.popitem(last=False)[0]

    def run(self, rounds, arrivals, pause=0.001):
        """So many connections come back, and so many arrive for each."""
        for _ in range(rounds):
            for _ in range(arrivals):
                self.arrive()
            self.serve(pause)


def test_who_cannot_be_served_in_time_is_refused_at_once():
    """Its wait is its place times the time between two returns."""
    scene = Scene()
    scene.run(50, 2)
    place = len(scene.line.waiters) + 1
    assert place == 51
    error = scene.arrive(limit=0.050)
    assert isinstance(error, PoolOverloadedError)
    assert str(error) == (
        "Pool 'test' is overloaded: expected wait 0.051 s, place 51 in line; "
        "admitted up to 0.050 s"
    )
    assert scene.arrive(limit=0.052) is None
    assert scene.arrive() is None, "it waits without limit, in a line that moves"


def test_nobody_is_refused_before_a_rate_is_known():
    """The first connections tell it."""
    scene = Scene(size=1)
    for _ in range(100):
        assert scene.arrive(limit=0.0001) is None
    for _ in range(ENOUGH - 1):
        scene.serve(1.0)
        assert scene.arrive(limit=0.0001) is None
    scene.serve(1.0)
    assert scene.arrive(limit=0.0001) is not None


def test_the_first_in_line_is_always_admitted():
    """Else nobody would measure that the connections have become faster."""
    scene = Scene()
    scene.run(50, 2, pause=1.0)
    scene.line.waiters.clear()
    assert scene.arrive(limit=0.001) is None


def test_a_standstill_is_noticed_without_a_return():
    """Nothing comes back, so the expected wait grows."""
    scene = Scene()
    scene.run(50, 2)
    assert scene.arrive(limit=1.0) is None
    scene.now += 10
    assert scene.arrive(limit=1.0) is not None


def test_a_standstill_that_is_over_is_forgotten():
    """It tells nothing of the rate from then on."""
    scene = Scene()
    scene.run(50, 2)
    scene.serve(3600.0)
    assert scene.control.rate.seconds_each(scene.now, 10) < 0.004


def test_a_blocked_event_loop_is_no_standstill():
    """Many arrive in the turn after it, before any connection can come back."""
    scene = Scene()
    scene.run(50, 2)
    scene.now += 0.09
    assert scene.control.rate.seconds_each(scene.now, 10) == pytest.approx(0.001)


def test_the_time_without_a_line_is_not_counted():
    """A pool with little to do is not slow."""
    rate = ReturnRate(0.1)
    for turn in range(20):
        now = turn * 0.9
        rate.line_began(now)
        rate.returned(now + 0.01, 1)
    assert rate.seconds_each(now + 0.01, 1) == pytest.approx(0.01)


def test_an_old_rate_is_forgotten():
    """After a time without a line the loads may be different."""
    rate = ReturnRate(0.1)
    rate.line_began(0.0)
    for turn in range(20):
        rate.returned(turn * 0.01, 1)
    rate.line_began(0.2 + STALE)
    assert rate.seconds_each(0.2 + STALE, 1) == 0.0


def test_connections_that_come_back_together_have_their_mean_rate():
    """All are lent at once and come back at once; a window has two rounds."""
    rate = ReturnRate(0.1)
    rate.line_began(0.0)
    for turn in range(1, 30):
        for _ in range(100):
            rate.returned(turn * 1.0, 100)
        assert 0.005 <= rate.seconds_each(turn + 0.001, 100) <= 0.02


def test_a_line_that_stands_loses_those_that_have_waited_too_long():
    """Those that come after them may still be served in time."""
    scene = Scene()
    scene.run(400, 4)
    assert scene.control.is_standing
    waits = []
    for _ in range(500):
        for _ in range(4):
            scene.arrive()
        waiter = scene.serve(0.001)
        waits.append(scene.now - waiter.began)
    assert max(waits[100:]) <= 0.042, "twice the target, and one return"
    assert scene.control.is_standing
    assert "with 604 in line" in str(scene.line.refused[0][1])
    assert len(scene.line.waiters) <= 40


def test_a_standing_line_refuses_no_more_than_some_for_each_return():
    """The event loop goes on."""
    scene = Scene()
    scene.run(50, 2)
    for _ in range(1000):
        scene.line.join(Waiter(scene.now))
    scene.control.is_standing = True
    scene.serve(0.001)
    assert len(scene.line.refused) == AT_A_TIME


def test_a_waiter_with_a_limit_of_its_own_stays_in_a_standing_line():
    """It was admitted because it can be served in time."""
    scene = Scene()
    scene.run(50, 2)
    scene.control.is_standing = True
    scene.line.waiters.clear()
    for _ in range(300):
        scene.line.join(Waiter(scene.now, ends=scene.now + 5))
    scene.serve(0.001)
    assert not scene.line.refused
    assert scene.arrive(limit=5.0, is_own=True) is None


def test_the_last_in_line_is_served_however_long_it_has_waited():
    """A connection is never idle because of a refusal."""
    scene = Scene()
    scene.run(50, 2)
    scene.control.is_standing = True
    while scene.line.waiters:
        last = scene.serve()
    assert last not in [waiter for waiter, _ in scene.line.refused]


def test_a_standing_line_admits_by_the_target_and_by_the_pools_limit():
    """Whichever is shorter."""
    scene = Scene()
    scene.run(50, 2)
    scene.control.is_standing = True
    assert scene.arrive() is not None
    assert scene.arrive(limit=0.001) is not None
    assert scene.arrive(limit=0.1, is_own=True) is None


def test_a_wait_as_long_as_a_loan_is_no_overload():
    """With slow loans a short line means a wait above the target."""
    scene = Scene(size=10)
    scene.run(10, 2, pause=0.1)
    scene.run(400, 1, pause=0.1)
    assert len(scene.line.waiters) == 10
    assert not scene.control.is_standing


def test_one_who_is_served_sooner_ends_the_refusals():
    """As soon as an interval has passed."""
    scene = Scene()
    scene.run(400, 4)
    assert scene.control.is_standing
    while len(scene.line.waiters) > 5:
        scene.serve(0.001)
    scene.run(250, 1)
    assert not scene.control.is_standing


def test_an_empty_line_ends_the_refusals_at_once():
    """Who joins it next is the first one."""
    scene = Scene()
    scene.run(400, 4)
    scene.line.waiters.clear()
    assert scene.arrive() is None
    assert not scene.control.is_standing
    scene.line.waiters.clear()
    scene.control.on_return(scene.now)
    assert scene.arrive() is None


@given(
    st.lists(st.integers(0, 12), min_size=50, max_size=300),
    st.integers(1, 20),
    st.floats(0.0001, 1.0),
)
def test_whatever_arrives_every_connection_finds_a_waiter(arrivals, size, pause):
    """And nobody is both refused and served."""
    scene = Scene(size)
    served = []
    for number in arrivals:
        for _ in range(number):
            scene.arrive(limit=1.0 if number % 3 else None, is_own=number % 2 == 0)
        some = bool(scene.line.waiters)
        waiter = scene.serve(pause)
        assert (waiter is not None) == some
        served.append(waiter)
    refused = {waiter for waiter, _ in scene.line.refused}
    assert refused.isdisjoint(served)
    assert all(waiter.ends == FOREVER for waiter in refused)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=200), st.integers(1, 30))
def test_the_rate_is_a_number_whatever_the_gaps(gaps, size):
    """It is 0 or above, and never more than the longest gap or the interval."""
    rate = ReturnRate(0.1)
    now = 0.0
    rate.line_began(now)
    for gap in gaps:
        now += gap
        rate.returned(now, size)
    assert 0 <= rate.seconds_each(now, size) <= max(gaps) + 1e-9


# In a pool.


class Full(Exception):
    """The server is at its own limit."""


def overloaded(**options):
    """A pool whose only connection is lent, and that knows a rate of one a second."""
    connector = ScriptedConnector()
    pool = Pool(connector, max_connections=1, admission=True, name="test", **options)
    clock = Clock()
    clock.rule(pool)
    conn = pool.acquire()
    for _ in range(ENOUGH):
        waiter = gevent.spawn(pool.acquire, None, None, False)
        gevent.idle()
        clock.advance(1)
        pool.release(conn, anyone=True)
        conn = waiter.get()
    return pool, clock, conn


def outcome(pool, timeout=None):
    """A loan that is over, or the error there was instead."""
    try:
        with pool.connection(timeout) as conn:
            return conn
    except PoolExhaustedError as error:
        return error


def test_a_pool_refuses_who_cannot_be_served_in_time():
    """Before it joins the line, and listeners hear of it."""
    counters = Counters()
    pool, clock, conn = overloaded(listeners=[counters])
    first = gevent.spawn(outcome, pool, 3600)
    gevent.idle()
    error = outcome(pool, 1.5)
    assert isinstance(error, PoolOverloadedError)
    assert str(error).startswith("Pool 'test' is overloaded: expected wait 1.818 s")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert pool.stats().waiting == 1
    assert pool.stats().totals.exhausted == 1
    pool.release(conn, anyone=True)
    assert first.get() is conn
    check(pool)


def test_a_pool_refuses_the_oldest_waiters_of_a_standing_line():
    """They get the error of the policy, and the last one the connection."""
    told = []

    class Listener(PoolListener):
        def exhausted(self, waited):
            told.append(waited)

    pool, clock, conn = overloaded(listeners=[Listener()])
    waiters = [gevent.spawn(outcome, pool) for _ in range(3)]
    gevent.idle()
    parts.admission(pool).is_standing = True
    clock.advance(0.5)
    pool.release(conn, anyone=True)
    gevent.joinall(waiters)
    assert [type(each.value) for each in waiters] == [
        PoolOverloadedError,
        *[type(conn)] * 2,
    ]
    assert told == [0.5]
    check(pool)


def test_a_pool_that_can_open_a_connection_refuses_nobody():
    """The rate says nothing of the connections to come."""
    pool, clock, conn = overloaded()
    first = gevent.spawn(outcome, pool, 3600)
    gevent.idle()
    pool.resize(3)
    assert not isinstance(outcome(pool, 1.5), PoolExhaustedError)
    pool.release(conn, anyone=True)
    first.get()
    check(pool)


def test_a_pool_whose_server_is_full_refuses_too():
    """The room that it has does not help."""
    pool, clock, conn = overloaded(backoff=Backoff(3600, maximum=3600))
    connector = parts.connector(pool)
    connector.exhausting = (Full,)
    connector.script("open", Full(), Full())
    pool.resize(3)
    first = gevent.spawn(outcome, pool, 3600)
    gevent.idle()
    assert isinstance(outcome(pool, 1.5), PoolOverloadedError)
    pool.release(conn, anyone=True)
    assert first.get() is conn
    pool.close(timeout=0)


@pytest.mark.parametrize("value", [None, False])
def test_admission_is_off_by_default(value):
    """None and False are the same."""
    assert parts.admission(Pool(ScriptedConnector())) is None
    assert parts.admission(Pool(ScriptedConnector(), admission=value)) is None


def test_a_policy_of_ones_own_is_used():
    """And nothing is made of it for each pool."""
    policy = Admission(target=1)
    assert parts.admission(Pool(ScriptedConnector(), admission=policy)).policy is policy


@pytest.mark.parametrize(
    "error, words, options",
    [
        (TypeError, "admission must be an Admission, True", {"admission": 1}),
        (ValueError, "with handoff=False", {"admission": True, "handoff": False}),
    ],
)
def test_a_bad_policy_is_refused(error, words, options):
    """By the pool, with the rule."""
    with pytest.raises(error, match=words):
        Pool(ScriptedConnector(), **options)


@pytest.mark.parametrize(
    "error, words, options",
    [
        (TypeError, "admission.target must be a number", {"target": "1"}),
        (ValueError, "admission.target must be a number", {"target": -1}),
        (ValueError, "admission.interval must be above 0", {"interval": 0}),
    ],
)
def test_bad_numbers_of_a_policy_are_refused(error, words, options):
    """With name, value and rule."""
    with pytest.raises(error, match=words):
        Admission(**options)


def test_an_error_with_words_of_its_own_says_them():
    """An adapter makes errors of its own kind from the text."""
    assert str(PoolOverloadedError("words")) == "words"
