"""Times and back-off: their arithmetic, and the refusal of bad numbers."""

from __future__ import annotations

import dataclasses
import math
import random
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geventpool.policies import (
    Backoff,
    Expiry,
    Outage,
    Timeouts,
    check_bool,
    check_int,
    check_optional_callable,
    check_optional_int,
    check_optional_seconds,
    check_seconds,
)

HUGE = 10**400
NOT_NUMBERS = [True, False, "1", b"1", None, [], 1j, object()]
NOT_DURATIONS = [-1, -0.001, -HUGE, math.nan, math.inf, -math.inf, HUGE]

durations = st.floats(0, 1e9)

#: A rule of numbers holds on a busy machine too.
untimed = settings(deadline=None)


# At the door.


@untimed
@given(st.floats(0, allow_infinity=False) | st.integers(0, 10**300))
def test_a_duration_becomes_a_float(value):
    """What is finite and not negative is accepted, whole numbers too."""
    accepted = check_seconds("timeout", value)
    assert accepted == float(value)
    assert type(accepted) is float


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_a_duration_must_be_a_number(value):
    """No bool, string or other thing passes for seconds; the error names all three."""
    with pytest.raises(TypeError) as caught:
        check_seconds("reap_interval", value)
    assert str(caught.value) == (
        "reap_interval must be a number of seconds, finite and not negative, "
        f"not {value!r}"
    )


@pytest.mark.parametrize("value", NOT_DURATIONS)
def test_a_duration_must_be_finite_and_not_negative(value):
    """NaN would stop every timer of the process; it and its like are refused."""
    with pytest.raises(ValueError) as caught:
        check_seconds("timeout", value)
    assert str(caught.value) == (
        f"timeout must be a number of seconds, finite and not negative, not {value!r}"
    )


def test_the_longest_duration_is_the_largest_float():
    """The bound is that of floats, to the last one."""
    assert check_seconds("timeout", sys.float_info.max) == sys.float_info.max


@pytest.mark.parametrize("check", [check_optional_seconds, check_optional_int])
def test_none_means_no_limit(check):
    """Where a limit is optional None stays None, and all else is checked."""
    assert check("limit", None) is None
    assert check("limit", 3) == 3
    with pytest.raises(ValueError, match=r"^limit must be .*, not -1$"):
        check("limit", -1)
    with pytest.raises(TypeError, match=r"^limit must be .*, not True$"):
        check("limit", True)


@untimed
@given(st.integers(max_value=sys.maxsize), st.integers(max_value=sys.maxsize))
def test_a_whole_number_has_a_minimum(value, minimum):
    """It is refused below its minimum, and only there."""
    if value >= minimum:
        assert check_int("max_connections", value, minimum) == value
    else:
        with pytest.raises(ValueError) as caught:
            check_int("max_connections", value, minimum)
        assert str(caught.value) == (
            "max_connections must be a whole number of at least "
            f"{minimum}, not {value!r}"
        )


@pytest.mark.parametrize(
    "value", [sys.maxsize + 1, HUGE, 10**5000], ids=["one more", "huge", "unshowable"]
)
def test_a_whole_number_is_one_that_can_be_counted(value):
    """Beyond that it is refused, and shown if it can be."""
    assert check_int("max_waiting", sys.maxsize) == sys.maxsize
    with pytest.raises(ValueError, match=f"^max_waiting .* at most {sys.maxsize}, not"):
        check_int("max_waiting", value)


def test_an_optional_whole_number_has_a_minimum_too():
    """None is the only way round it."""
    assert check_optional_int("max_waiting", 2, 2) == 2
    with pytest.raises(ValueError, match="^max_waiting must be .* at least 2, not 1$"):
        check_optional_int("max_waiting", 1, 2)


@pytest.mark.parametrize("value", [*NOT_NUMBERS, 1.0, math.nan])
def test_a_whole_number_must_be_an_int(value):
    """A bool is not one, nor a float that happens to be whole."""
    with pytest.raises(TypeError, match="^max_waiting must be a whole number"):
        check_int("max_waiting", value)


@pytest.mark.parametrize("value", [True, False])
def test_a_flag_is_true_or_false(value):
    """The two truth values pass."""
    assert check_bool("lifo", value) is value


@pytest.mark.parametrize("value", [0, 1, None, "", "yes", []])
def test_a_flag_is_nothing_that_resembles_one(value):
    """What only counts as true or false is refused."""
    with pytest.raises(TypeError) as caught:
        check_bool("lifo", value)
    assert str(caught.value) == f"lifo must be True or False, not {value!r}"


@pytest.mark.parametrize("value", [None, print, dict])
def test_a_callable_may_be_missing(value):
    """What can be called passes, and None for none."""
    assert check_optional_callable("check", value) is value


@pytest.mark.parametrize("value", [0, False, "", "print", []])
def test_what_cannot_be_called_is_refused(value):
    """Also if it is false, and so could be taken for none."""
    with pytest.raises(TypeError) as caught:
        check_optional_callable("check", value)
    assert str(caught.value) == f"check must be a callable or None, not {value!r}"


# Values that configure.


@pytest.mark.parametrize("kind", [Backoff, Timeouts, Expiry])
def test_a_policy_never_changes(kind):
    """It can be shared between pools, because nobody can alter it."""
    policy = kind()
    for field in dataclasses.fields(kind):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(policy, field.name, 1)
    assert policy == kind() and hash(policy) == hash(kind())


REFUSED = [
    *((Backoff, name, ()) for name in ("initial", "factor", "maximum", "jitter")),
    *((Timeouts, name, ()) for name in ("open", "ping", "reset", "close")),
    (Expiry, "max_lifetime", (None,)),
    (Expiry, "max_idle", (None,)),
    (Expiry, "ping_after", (None,)),
    (Expiry, "ping_interval", (None,)),
    (Expiry, "jitter", ()),
]


@pytest.mark.parametrize("kind, name, allowed", REFUSED)
def test_a_policy_refuses_what_is_no_duration(kind, name, allowed):
    """Each number of each policy is checked, and named in the error."""
    for value in NOT_NUMBERS:
        if value not in allowed:
            with pytest.raises(TypeError, match=rf"\b{name} must be .*, not "):
                kind(**{name: value})
    for value in NOT_DURATIONS:
        with pytest.raises(ValueError, match=rf"\b{name} must be .*, not "):
            kind(**{name: value})


@pytest.mark.parametrize("kind, name, allowed", REFUSED)
def test_a_policy_accepts_what_is_a_duration(kind, name, allowed):
    """0 and None are numbers too, where they mean something."""
    for value in (1, 1.0, *allowed, *((0,) if name != "factor" else ())):
        settings = {name: value}
        if name == "maximum":
            settings["initial"] = 0
        assert getattr(kind(**settings), name) == value


@pytest.mark.parametrize("name", ["factor", "jitter"])
def test_what_is_no_duration_is_not_called_one(name):
    """A factor and a share are not refused as seconds."""
    with pytest.raises(TypeError) as caught:
        Backoff(**{name: "x"})  # type: ignore[arg-type]
    assert "check_seconds" not in str(caught.value)


def test_limits_are_named_as_they_are_given():
    """The error speaks of timeouts.open, for there are other things called open."""
    with pytest.raises(ValueError, match=r"^timeouts\.open must be .*, not -1$"):
        Timeouts(open=-1)


@pytest.mark.parametrize("kind", [Backoff, Expiry])
def test_jitter_is_a_share(kind):
    """More than the whole of a pause or of a lifetime can't be random."""
    assert kind(jitter=1).jitter == 1
    with pytest.raises(
        ValueError, match="^jitter must be a number from 0 to 1, not 1.01"
    ):
        kind(jitter=1.01)


def test_pauses_do_not_shrink():
    """A factor below 1 is refused."""
    with pytest.raises(ValueError, match="^factor must be .* at least 1, not 0.9"):
        Backoff(factor=0.9)


def test_the_first_pause_is_not_above_the_maximum():
    """Which of the two was meant can't be guessed."""
    assert Backoff(initial=2, maximum=2).delay(0, lambda: 0.5) == 2
    with pytest.raises(ValueError) as caught:
        Backoff(initial=3, maximum=2)
    assert str(caught.value) == "maximum must be at least initial (3.0), not 2"


@pytest.mark.parametrize("value, error", [(-1, ValueError), (1.0, TypeError)])
def test_retries_are_counted(value, error):
    """They are a whole number, 0 for none, or None for any."""
    assert Backoff(retries=0).retries == 0
    with pytest.raises(error, match="^retries must be a whole number of at least 0"):
        Backoff(retries=value)


# Backing off.


def test_pauses_grow_up_to_a_maximum():
    """Each pause is *factor* times the one before, until the maximum."""
    backoff = Backoff(initial=1, factor=3, maximum=20, jitter=0)
    assert [backoff.delay(attempt) for attempt in range(5)] == [1, 3, 9, 20, 20]


def test_gsocketpools_pauses_can_be_had():
    """Ten pauses of a tenth of a second each, a second altogether."""
    backoff = Backoff(0.1, factor=1, jitter=0, retries=10)
    assert {backoff.delay(attempt) for attempt in range(10)} == {0.1}
    assert backoff.total(backoff.retries) == pytest.approx(1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("factor", [2, 2.0, 1.0001, 1e300])
@pytest.mark.parametrize("attempt", [10**6, 10**18, HUGE])
def test_no_attempt_is_too_late(factor, attempt):
    """Whatever the attempt's number, its pause is known at once."""
    assert Backoff(factor=factor, maximum=7.0, jitter=0).delay(attempt) == 7.0


@pytest.mark.parametrize("attempt", [0, 3, 400, HUGE])
def test_nothing_grows_from_nothing(attempt):
    """After a first pause of 0 all others are 0 too, however large the factor."""
    assert Backoff(initial=0, factor=10).delay(attempt) == 0


@pytest.mark.parametrize(
    "chance, share", [(0.0, 0.75), (0.25, 0.875), (0.5, 1), (1.0, 1.25)]
)
def test_jitter_spreads_to_both_sides(chance, share):
    """A pause is as often too long as too short, by at most its share."""
    backoff = Backoff(initial=4, factor=1, jitter=0.25)
    assert backoff.delay(0, lambda: chance) == 4 * share


@untimed
@given(
    st.randoms(use_true_random=False), durations, st.floats(0, 1), st.integers(0, 99)
)
def test_jitter_has_bounds(chance, initial, jitter, attempt):
    """No pause is negative, nor longer than the maximum and its jitter."""
    backoff = Backoff(initial, maximum=1e9, jitter=jitter)
    middle = backoff.delay(attempt, lambda: 0.5)
    pause = backoff.delay(attempt, chance.random)
    assert 0 <= middle * (1 - jitter) <= pause * (1 + 1e-9)
    assert (
        pause <= middle * (1 + jitter) * (1 + 1e-9) <= 1e9 * (1 + jitter) * (1 + 1e-8)
    )


def test_two_pools_do_not_pause_alike():
    """Unless told otherwise, chance is random: a crowd that failed together parts."""
    state = random.getstate()
    try:
        random.seed(7)
        pauses = {Backoff().delay(0) for _ in range(10)}
    finally:
        random.setstate(state)
    assert len(pauses) == 10


@untimed
@given(
    st.sampled_from([0, 0.1, 1, 3]),
    st.sampled_from([1, 1.01, 2, 10]),
    st.sampled_from([3, 5.5, 1e6]),
    st.floats(0, 1),
    st.integers(0, 400),
)
def test_the_total_is_the_sum_of_the_pauses(initial, factor, maximum, jitter, retries):
    """It is reckoned without jitter, also where the pauses have ceased to grow."""
    backoff = Backoff(initial, factor, maximum, jitter)
    pauses = [backoff.delay(attempt, lambda: 0.5) for attempt in range(retries)]
    assert backoff.total(retries) == pytest.approx(math.fsum(pauses))


@pytest.mark.parametrize("initial", [0, 5e-324, 0.1])
@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("retries", [10**9, sys.maxsize, HUGE])
def test_any_number_of_retries_is_summed_at_once(initial, factor, retries):
    """So many are not counted one by one, and their total fits every timer."""
    assert 0 <= Backoff(initial, factor).total(retries) < 1e14


# Expiring.


def test_a_lifetime_is_up_to_a_share_shorter():
    """Connections opened together do not all expire together."""
    expiry = Expiry(max_lifetime=100, jitter=0.2)
    assert expiry.expires(1000, lambda: 0.0) == 1100
    assert expiry.expires(1000, lambda: 0.5) == 1090
    assert expiry.expires(1000, lambda: 1.0) == 1080


def test_the_lifetime_is_drawn_anew_each_time():
    """Unless told otherwise, chance is random, and within the share."""
    expiry = Expiry(max_lifetime=100)
    ends = {expiry.expires(0) for _ in range(10)}
    assert len(ends) > 1
    assert all(95 <= end <= 100 for end in ends)


def test_without_a_lifetime_nothing_expires():
    """None means no limit."""
    assert Expiry().expires(1000) == math.inf
    assert Expiry().ready_until(math.inf, 0, 0) == math.inf


def test_the_nearest_limit_counts():
    """An idle connection is fit until the first of its limits."""
    expiry = Expiry(max_idle=20, ping_after=10)
    assert expiry.ready_until(expires=115, used=100, alive=107) == 115
    assert expiry.ready_until(expires=999, used=100, alive=111) == 120
    assert expiry.ready_until(expires=999, used=100, alive=107) == 117


def test_a_ping_does_not_make_it_less_idle():
    """Only use starts the idle time anew; a ping, the time to the next check."""
    assert Expiry(max_idle=20).ready_until(999, used=100, alive=110) == 120
    assert Expiry(ping_after=20).ready_until(999, used=100, alive=110) == 130


@untimed
@given(
    st.none() | durations,
    st.none() | durations,
    durations,
    durations,
    durations,
)
def test_fit_until_is_the_least_of_the_limits(
    max_idle, ping_after, expires, used, more
):
    """What is not limited does not count."""
    alive = used + more
    limits = [expires]
    limits += [used + max_idle] if max_idle is not None else []
    limits += [alive + ping_after] if ping_after is not None else []
    expiry = Expiry(max_idle=max_idle, ping_after=ping_after)
    assert expiry.ready_until(expires, used, alive) == min(limits)


@pytest.mark.parametrize(
    "name", ["max_lifetime", "max_idle", "ping_after", "ping_interval"]
)
def test_any_limit_needs_the_time_of_a_use(name):
    """With one limit set, 0 included, the time of each use must be noted."""
    assert Expiry(**{name: 0}).has_age_limits
    assert not Expiry().has_age_limits


@pytest.mark.parametrize(
    ("policy", "defaults"),
    [
        (Timeouts(), {"open": 30.0, "ping": 5.0, "reset": 5.0, "close": 5.0}),
        (Outage(), {"failures": 3, "grace": 3.0, "wait": False}),
        (
            Outage().backoff,
            {"initial": 0.005, "factor": 1.007, "maximum": 0.25, "jitter": 0.2},
        ),
        (
            Expiry(),
            {
                "max_lifetime": None,
                "max_idle": None,
                "ping_after": None,
                "ping_interval": None,
                "jitter": 0.05,
            },
        ),
    ],
)
def test_the_defaults_are_those_of_the_manual(policy, defaults):
    """A default is part of the product: none changes unnoticed."""
    assert {name: getattr(policy, name) for name in defaults} == defaults
