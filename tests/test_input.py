"""Every argument is checked when it is passed: nothing is opened, nothing is lost."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import gevent
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from geventpool import (
    Backoff,
    ConnectionNotFoundError,
    Pool,
    PoolExhaustedError,
    TcpConnection,
    Timeouts,
)
from geventpool.testing import ScriptedConnector, check, check_capacity, switches
from tests.pauses import real_time

NAN = math.nan
INFINITE = math.inf

#: Not a number of seconds, and which error says so.
NO_SECONDS: list[tuple[Any, type[Exception]]] = [
    (NAN, ValueError),
    (-NAN, ValueError),
    (INFINITE, ValueError),
    (-INFINITE, ValueError),
    (-1, ValueError),
    (-1e-9, ValueError),
    (10**400, ValueError),
    (-(10**400), ValueError),
    ("1", TypeError),
    (b"1", TypeError),
    (True, TypeError),
    (False, TypeError),
    ([], TypeError),
    ((1,), TypeError),
    (1j, TypeError),
    (object, TypeError),
    (Decimal("NaN"), TypeError),
]
#: Not a whole number, not a truth value.
NO_WHOLE: list[tuple[Any, type[Exception]]] = [
    (1.0, TypeError),
    (NAN, TypeError),
    ("1", TypeError),
    (True, TypeError),
    ([], TypeError),
    (-1, ValueError),
]
NO_FLAG: list[tuple[Any, type[Exception]]] = [
    (None, TypeError),
    (1, TypeError),
    (0, TypeError),
    ("yes", TypeError),
]
NONE: list[tuple[Any, type[Exception]]] = [(None, TypeError)]
ZERO: list[tuple[Any, type[Exception]]] = [(0, ValueError)]

#: What each argument of Pool refuses.
REFUSED: dict[str, list[tuple[Any, type[Exception]]]] = {
    "initial_connections": [*NO_WHOLE, *NONE, (11, ValueError)],
    "min_connections": [*NO_WHOLE, *NONE, (11, ValueError)],
    "max_connections": [*NO_WHOLE, *NONE, *ZERO],
    "max_connecting": [*NO_WHOLE, *NONE, *ZERO],
    "max_waiting": NO_WHOLE,
    "reap_interval": [*NO_SECONDS, *NONE, *ZERO],
    "timeout": NO_SECONDS,
    "max_lifetime": NO_SECONDS,
    "max_idle": NO_SECONDS,
    "ping_after": NO_SECONDS,
    "ping_interval": NO_SECONDS,
    "reap_expired_connections": NO_FLAG,
    "lifo": NO_FLAG,
    "handoff": NO_FLAG,
    "reclaim": NO_FLAG,
    "name": [
        (1, TypeError),
        (b"redis", TypeError),
        (["redis"], TypeError),
        ("half a pair: \ud800", ValueError),
    ],
    "backoff": [*NONE, (1, TypeError), (Timeouts(), TypeError), (Backoff, TypeError)],
    "timeouts": [*NONE, (1, TypeError), (Backoff(), TypeError), (Timeouts, TypeError)],
    "listeners": [*NONE, (1, TypeError), ([1], TypeError), (object(), TypeError)],
}


def cases(
    table: dict[str, list[tuple[Any, type[Exception]]]],
) -> list[tuple[str, Any, type[Exception]]]:
    """One row for each argument and bad value."""
    return [(name, value, error) for name, bad in table.items() for value, error in bad]


def named(error: BaseException, name: str, value: Any) -> bool:
    """Does the message say which argument, and what it was?"""
    # Of several things the one that is wrong is named.
    shown = value[0] if name == "listeners" and isinstance(value, list) else value
    return name in str(error) and repr(shown) in str(error)


@pytest.mark.parametrize(("name", "value", "error"), cases(REFUSED))
def test_a_pool_is_not_made_with(name: str, value: Any, error: type[Exception]) -> None:
    """The error names the argument and its value, and nothing was opened."""
    connector = ScriptedConnector()
    arguments: dict[str, Any] = {"max_connections": 10, name: value}
    with switches() as seen, pytest.raises((TypeError, ValueError)) as caught:
        Pool(connector, **arguments)
    gevent.idle()
    assert type(caught.value) is error
    assert named(caught.value, name, value), caught.value
    assert seen == [] and connector.calls == []


@pytest.mark.parametrize(
    ("factory", "options", "words"),
    [
        (None, None, ["factory", "None"]),
        (3, None, ["factory", "3"]),
        ("TcpConnection", None, ["factory", "'TcpConnection'"]),
        (TcpConnection("127.0.0.1", 1), None, ["factory", "TcpConnection"]),
        (TcpConnection, 3, ["options", "3"]),
        (TcpConnection, [("host", "localhost")], ["options", "localhost"]),
        (TcpConnection, {1: 2}, ["options", "1"]),
        (ScriptedConnector(), {"host": "localhost"}, ["options", "host"]),
        (ScriptedConnector(), 3, ["options", "3"]),
    ],
)
def test_a_factory_that_is_none_is_refused(
    factory: Any, options: Any, words: list[str]
) -> None:
    """Now, and not when somebody wants the first connection."""
    with pytest.raises(TypeError) as caught:
        Pool(factory, options)
    assert all(word in str(caught.value) for word in words)


def test_more_than_the_maximum_is_told_with_the_maximum() -> None:
    """The rule that two arguments break together names both."""
    for name in "initial_connections", "min_connections":
        options: dict[str, Any] = {name: 3}
        with pytest.raises(ValueError, match=r"at most max_connections \(2\), not 3"):
            Pool(ScriptedConnector(), max_connections=2, **options)


def test_edges_are_inside() -> None:
    """What the rules allow is taken, to the last value."""
    pool = Pool(
        ScriptedConnector(),
        {},
        1,
        1,
        False,
        5e-324,
        name="",
        min_connections=1,
        timeout=0,
        max_waiting=0,
        max_lifetime=0,
        max_idle=0,
        ping_after=0,
        ping_interval=0,
        max_connecting=1,
        listeners=(),
    )
    assert pool.name == "" and pool.size == 1
    pool.close()
    forever = 1.7e308
    pool = Pool(
        ScriptedConnector(),
        reap_interval=forever,
        timeout=forever,
        max_lifetime=forever,
        max_idle=forever,
        ping_after=forever,
        ping_interval=forever,
    )
    check_capacity(Pool(ScriptedConnector(), max_connections=10**3))
    pool.release(pool.acquire())
    assert pool.stats().idle == 1
    pool.close(timeout=forever)


# The verbs.

Verb = Callable[[Pool[Any], Any], object]


def borrow(pool: Pool[Any], timeout: Any) -> None:
    with pool.connection(timeout):
        raise AssertionError("entered")


VERBS: dict[str, tuple[str, Verb, list[tuple[Any, type[Exception]]]]] = {
    "acquire(timeout)": (
        "timeout",
        lambda pool, value: pool.acquire(timeout=value),
        NO_SECONDS,
    ),
    "acquire(retry)": (
        "retry",
        lambda pool, value: pool.acquire(value),
        NO_WHOLE,
    ),
    "connection(timeout)": ("timeout", borrow, NO_SECONDS),
    "close(timeout)": (
        "timeout",
        lambda pool, value: pool.close(value),
        NO_SECONDS,
    ),
    "resize(max_connections)": (
        "max_connections",
        lambda pool, value: pool.resize(value),
        [*NO_WHOLE, *NONE, *ZERO],
    ),
}


@pytest.mark.parametrize("state", ["unused", "idle", "all lent"])
@pytest.mark.parametrize(
    ("verb", "value", "error"),
    [(verb, *bad) for verb, (_, _, values) in VERBS.items() for bad in values],
)
def test_a_verb_refuses(
    verb: str, value: Any, error: type[Exception], state: str
) -> None:
    """Whatever the pool's state: named, and nothing opened, lent or changed."""
    name, act, _ = VERBS[verb]
    connector = ScriptedConnector()
    pool = Pool(connector, max_connections=1)
    conn = None if state == "unused" else pool.acquire()
    if state == "idle":
        pool.release(conn)  # type: ignore[arg-type]
    before, calls = repr(pool), list(connector.calls)
    with switches() as seen, pytest.raises((TypeError, ValueError)) as caught:
        act(pool, value)
    assert type(caught.value) is error
    assert named(caught.value, name, value), caught.value
    assert seen == [] and repr(pool) == before and connector.calls == calls
    if state == "all lent":
        pool.release(conn)  # type: ignore[arg-type]
    check_capacity(pool)


@pytest.mark.parametrize("target", [3, "main", object(), gevent.spawn, True])
def test_only_a_greenlet_can_be_a_holder(target: Any) -> None:
    """A loan is not transferred into nowhere; it stays with its holder."""
    pool = Pool(ScriptedConnector(), max_connections=1)
    conn = pool.acquire()
    with pytest.raises(TypeError) as caught:
        pool.transfer(conn, target)
    assert named(caught.value, "greenlet", target)
    pool.release(conn)
    check_capacity(pool)


@pytest.mark.parametrize("verb", ["release", "drop", "transfer"])
@pytest.mark.parametrize("thing", [None, 3, "conn", object(), [], NAN])
def test_what_was_never_a_connection_is_not_on_loan(verb: str, thing: Any) -> None:
    """It is found by identity: whatever it is, it is neither hashed nor compared."""
    pool = Pool(ScriptedConnector(), max_connections=1)
    conn = pool.acquire()
    acts: dict[str, Callable[[], object]] = {
        "release": lambda: pool.release(thing),
        "drop": lambda: pool.drop(thing),
        "transfer": lambda: pool.transfer(thing, None),
    }
    with pytest.raises(ConnectionNotFoundError) as caught:
        acts[verb]()
    assert repr(thing) in str(caught.value)
    assert pool.lent_connections() == [conn]
    pool.release(conn)
    check(pool)


# Any duration whatever.

ANYTHING = st.one_of(
    st.none(),
    st.floats(),
    st.integers(),
    st.booleans(),
    st.text(max_size=3),
    st.decimals(),
    st.fractions(),
)


def is_seconds(value: Any) -> bool:
    """The rule in other words than the code's."""
    if type(value) is int:
        return 0 <= value <= Fraction(*(1.7976931348623157e308).as_integer_ratio())
    return type(value) is float and math.isfinite(value) and value >= 0


@settings(deadline=None)
@given(ANYTHING)
@example(-0.0)
@example(10**309)
def test_a_duration_is_taken_or_refused_by_its_rule(value: Any) -> None:
    """Finite and not negative, or None; everything else is a clear error."""
    takes = value is None or is_seconds(value)
    for name in "timeout", "max_lifetime", "max_idle", "ping_after", "ping_interval":
        options: dict[str, Any] = {name: value}
        try:
            Pool(ScriptedConnector(), **options)
        except (TypeError, ValueError) as error:
            assert not takes and named(error, name, value)
        else:
            assert takes


@settings(deadline=None)
@given(ANYTHING)
@example(-0.0)
@example(0.0)
@example(1e300)
def test_a_wait_is_bounded_or_refused_and_never_breaks_a_timer(value: Any) -> None:
    """No duration that comes through the door stops the timers of the process."""
    connector = ScriptedConnector()
    pool = Pool(connector, max_connections=1)
    conn = None
    try:
        conn = pool.acquire(timeout=value)
    except (TypeError, ValueError) as error:
        assert named(error, "timeout", value) and connector.calls == []
    except PoolExhaustedError:
        # Not even the time to open one.
        assert value < 0.001
    else:
        assert value is None or value > 0
    # The oracle: a timer that is due still strikes.
    real_time(0.0001)
    if conn is not None:
        pool.release(conn)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_pool_is_neither_copied_nor_pickled(copied):
    """A copy would close the sockets of the original when it goes."""
    pool = Pool(ScriptedConnector(), name="p", initial_connections=1)
    with pytest.raises(TypeError, match="Pool 'p' can be neither copied nor pickled"):
        copied(pool)
    assert [conn.end for conn in pool.idle_connections()] == [None]
