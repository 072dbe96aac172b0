"""When a server that cannot be reached is tried again, and by how many."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geventpool import Backoff, Outage
from geventpool._core.breaker import Breaker


def failing(breaker, times):
    """So many failures; which of them began a pause."""
    return [breaker.failed(float(moment)) for moment in range(times)]


def test_so_many_failures_in_a_row_begin_a_pause():
    """Not one fewer; and it begins once."""
    breaker = Breaker(Outage(failures=3), 4)
    assert failing(breaker, 5) == [False, False, True, False, False]
    assert breaker.paused and breaker.limit == 0


def test_a_success_between_them_breaks_the_row():
    """Failures now and then are no outage."""
    breaker = Breaker(Outage(failures=2), 4)
    for moment in range(5):
        assert not breaker.failed(moment)
        assert breaker.succeeded(moment) is None
    assert breaker.limit == 4


def test_without_a_number_there_is_no_pause():
    """failures=None: a failure concerns its own caller alone."""
    breaker = Breaker(Outage(failures=None), 4)
    assert not any(failing(breaker, 1000))
    assert breaker.limit == 4
    assert breaker.succeeded(1000) is None and breaker.limit == 4


@pytest.mark.parametrize(
    "first, limits",
    [
        (None, [6, 6, 6, 6, 6]),
        (1, [1, 2, 4, 6, 6]),
        (3, [3, 3, 4, 6, 6]),
    ],
)
def test_after_a_pause_as_many_are_opened_as_usual_or_twice_as_many_each_time(
    first, limits
):
    """Waiters wait for them; borrowers that connect by themselves may be many more."""
    breaker = Breaker(Outage(failures=1), 6, first)
    breaker.failed(0)
    seen, recovering = [], []
    for moment in range(5):
        breaker.succeeded(moment)
        seen.append(breaker.limit)
        recovering.append(breaker.is_recovering)
    assert seen == limits
    assert recovering == [True, True, True, False, False]


def test_until_all_is_well_one_failure_is_enough():
    """And then it takes as many as at first."""
    breaker = Breaker(Outage(failures=3), 2)
    failing(breaker, 3)
    breaker.succeeded(3)
    assert breaker.failed(4) and breaker.limit == 0
    breaker.succeeded(5)
    breaker.succeeded(6)
    assert failing(breaker, 3) == [False, False, True]


def test_the_success_that_ends_an_outage_tells_how_long_it_was():
    """From the first failure on; only that success does."""
    breaker = Breaker(Outage(failures=2), 4)
    breaker.failed(10)
    breaker.failed(12)
    assert breaker.succeeded(25) == 15
    assert breaker.succeeded(26) is None


def test_one_who_may_try_first_and_succeeds_ends_the_outage():
    """Also if the pause had been given up meanwhile."""
    breaker = Breaker(Outage(failures=1), 4)
    breaker.failed(10)
    breaker.half_open()
    assert breaker.limit == 1 and not breaker.paused and breaker.is_recovering
    assert breaker.succeeded(30) == 20
    assert breaker.limit == 4


def test_one_who_may_try_first_and_fails_begins_the_next_pause():
    """One failure, not as many as at first."""
    breaker = Breaker(Outage(failures=3), 4)
    failing(breaker, 3)
    breaker.half_open()
    assert breaker.failed(30)


def test_the_pauses_grow_until_a_success():
    """As the backoff says; after a success they begin anew."""
    backoff = Backoff(1, factor=2, maximum=8, jitter=0)
    breaker = Breaker(Outage(failures=1, grace=0, backoff=backoff), 4)
    breaker.failed(0)
    assert [breaker.next_pause(0) for _ in range(5)] == [1, 2, 4, 8, 8]
    breaker.succeeded(1)
    assert breaker.next_pause(1) == 1


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(("failed", "succeeded", "half_open")), max_size=40),
    st.integers(1, 8),
    st.none() | st.integers(1, 4),
)
def test_it_is_either_paused_or_lets_somebody_try(events, most, failures):
    """Whatever happens, in whatever order."""
    breaker = Breaker(Outage(failures=failures), most)
    for moment, event in enumerate(events):
        if event == "half_open":
            breaker.half_open()
        else:
            getattr(breaker, event)(moment)
        assert (breaker.limit == 0) == breaker.paused
        assert breaker.limit <= most


# What is refused.


@pytest.mark.parametrize(
    "arguments, error, told",
    [
        ({"failures": 0}, ValueError, "outage.failures must be a whole number"),
        ({"failures": 1.5}, TypeError, "outage.failures must be a whole number"),
        ({"grace": -1}, ValueError, "outage.grace must be a number of seconds"),
        ({"grace": "3"}, TypeError, "outage.grace must be a number of seconds"),
        ({"wait": 1}, TypeError, "outage.wait must be True or False, not 1"),
        ({"backoff": 3}, TypeError, "outage.backoff must be a Backoff, not 3"),
        ({"failures": None, "wait": True}, ValueError, "outage.failures must be"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(arguments, error, told):
    """The argument, its value, the rule."""
    with pytest.raises(error, match=told):
        Outage(**arguments)
