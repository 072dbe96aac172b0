"""Waits and uses are counted by label, and labels cannot fill the memory."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any

import gevent
import pytest

from geventpool import Labels, Pool, PoolExhaustedError, PoolListener, label
from geventpool._core.reports import LabelCounts
from geventpool.testing import Clock, ScriptedConnector
from tests import parts


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pool(clock: Clock) -> Iterator[Pool[Any]]:
    with Pool(ScriptedConnector(), max_connections=1, listeners=[Labels()]) as pool:
        clock.rule(pool)
        yield pool


def counts(pool: Pool[Any]) -> dict[str, LabelCounts]:
    return {each.label: each for each in pool.stats().labels}


def test_loans_and_their_times_are_counted_by_label(
    pool: Pool[Any], clock: Clock
) -> None:
    """So the endpoint that exhausts a pool can be found."""
    with label("checkout"):
        with pool.connection():
            clock.advance(3)
    with pool.connection():
        clock.advance(1)
    assert counts(pool) == {
        "checkout": LabelCounts("checkout", loans=1, used=3.0),
        "(none)": LabelCounts("(none)", loans=1, used=1.0),
    }
    assert [each.label for each in pool.stats().labels] == ["checkout", "(none)"]


def test_refusals_are_counted_by_label(pool: Pool[Any]) -> None:
    """They are what the users of an endpoint see."""
    with pool.connection(), label("search"):
        with pytest.raises(PoolExhaustedError):
            pool.acquire(timeout=0)
    assert counts(pool)["search"].refused == 1


def test_a_use_counts_for_the_label_at_its_begin(pool: Pool[Any], clock: Clock) -> None:
    """It may be given back elsewhere."""
    with label("checkout"):
        conn = pool.acquire()
    with label("other"):
        clock.advance(2)
        pool.release(conn)
    assert counts(pool)["checkout"].used == 2.0 and "other" not in counts(pool)


def test_a_loan_that_is_cut_off_is_forgotten(pool: Pool[Any]) -> None:
    """The next connection may have the same identity."""
    conn = pool.acquire()
    labels = parts.listeners(pool).listeners[0]
    assert isinstance(labels, Labels)
    lent = labels._lent
    assert lent
    pool.drop(conn)
    assert not lent
    labels.released(conn, 1.0)
    assert counts(pool)["(none)"].used == 0.0


def test_a_greenlet_has_a_label_of_its_own(pool: Pool[Any]) -> None:
    """Requests that run at the same time must not be mixed up."""

    def work() -> None:
        with label("inner"):
            gevent.sleep(0)
            pool.release(pool.acquire())

    with label("outer"):
        worker = gevent.spawn(work)
        gevent.sleep(0)
        pool.release(pool.acquire())
        worker.join()
    assert counts(pool)["outer"].loans == 1 and counts(pool)["inner"].loans == 1


def test_a_callable_names_the_label() -> None:
    """A web framework knows its endpoint already."""
    names: list[Any] = ["a" * 100, None, b"bytes"]
    listener = Labels(lambda: names.pop(0))
    with Pool(ScriptedConnector(), listeners=[listener]) as pool:
        for _ in range(3):
            pool.release(pool.acquire())
        assert set(counts(pool)) == {"a" * 60, "(none)"}


def test_a_label_can_be_of_a_subclass_of_strings(pool: Pool[Any]) -> None:
    """An enumeration, or a string that a framework has marked as safe."""

    class Endpoint(str, Enum):
        CHECKOUT = "checkout"

    with pool.label(Endpoint.CHECKOUT):
        pool.release(pool.acquire())
    assert set(counts(pool)) == {"checkout"}
    assert type(next(iter(counts(pool)))) is str


def test_a_label_can_always_be_published(pool: Pool[Any]) -> None:
    """A path that is no UTF-8 has half pairs, which cannot be encoded."""
    with pool.label("shop\udce9 \xe9"):
        pool.release(pool.acquire())
    assert set(counts(pool)) == {"shop? \xe9"}


@pytest.mark.parametrize("of_pool", [True, False])
def test_a_block_can_be_left_in_another_greenlet(
    pool: Pool[Any], of_pool: bool
) -> None:
    """The server closes the generator of a response where it likes.

    Then the block has ended for the greenlet that opened it, too.
    """

    def stream() -> Iterator[None]:
        with pool.label("stream") if of_pool else label("stream"):
            yield

    response = stream()
    next(response)
    gevent.spawn(response.close).get()  # type: ignore[attr-defined, call-overload]
    pool.release(pool.acquire())
    with pool.label("later") if of_pool else label("later"):
        pool.release(pool.acquire())
    assert set(counts(pool)) == {"(none)", "later"}


def test_the_number_of_labels_is_bounded() -> None:
    """A label may be an address, of which there is no end."""
    listener = Labels(most=2)
    with Pool(ScriptedConnector(), listeners=[listener]) as pool:
        for name in ("a", "b", "c", "d", "a"):
            with label(name):
                pool.release(pool.acquire())
        assert {name: each.loans for name, each in counts(pool).items()} == {
            "a": 2,
            "b": 1,
            "(others)": 2,
        }


@pytest.fixture
def plain(clock: Clock) -> Iterator[Pool[Any]]:
    """A pool without listeners."""
    with Pool(ScriptedConnector(), max_connections=1) as pool:
        clock.rule(pool)
        yield pool


def test_a_pool_labels_its_own_loans(plain: Pool[Any], clock: Clock) -> None:
    """Without a listener being given: the first label adds it."""
    early = plain.acquire()
    with plain.label("checkout"):
        plain.release(early)
        with plain.connection():
            clock.advance(3)
        conn = plain.acquire()
        clock.advance(2)
        plain.release(conn)
        conn = plain.acquire()
    with plain.label("search"):
        with pytest.raises(PoolExhaustedError):
            plain.acquire(timeout=0)
    plain.release(conn)
    assert counts(plain) == {
        "checkout": LabelCounts("checkout", loans=3, used=5.0),
        "search": LabelCounts("search", refused=1),
    }


def test_a_label_of_a_pool_is_not_one_of_others(pool: Pool[Any]) -> None:
    """And it precedes that of all pools; blocks may be nested."""
    with Pool(ScriptedConnector()) as other:
        with label("all"), pool.label("outer"), other.label("other"):
            with pool.label("inner"):
                pool.release(pool.acquire())
            pool.release(pool.acquire())
            other.release(other.acquire())
        assert set(counts(pool)) == {"inner", "outer"}
        assert set(counts(other)) == {"other"}


def test_a_callable_may_name_the_loans_of_a_block(plain: Pool[Any]) -> None:
    """It is called at each loan, in the greenlet that borrows."""
    names = ["a", "b"]
    with plain.label(lambda: names.pop(0)):
        plain.release(plain.acquire())
        plain.release(plain.acquire())
    assert set(counts(plain)) == {"a", "b"}


def test_a_label_can_be_a_decorator(plain: Pool[Any]) -> None:
    """A view is a function."""

    @plain.label("view")
    def view(number: int) -> int:
        with plain.connection():
            return number

    assert view(1) + view(2) == 3
    assert counts(plain)["view"].loans == 2


def test_a_label_of_all_pools_can_be_a_decorator(pool: Pool[Any]) -> None:
    """A view may use several."""

    @label("view")
    def view() -> None:
        with pool.connection():
            pass

    view(), view()
    assert counts(pool)["view"].loans == 2


def test_a_decorated_function_may_run_in_several_greenlets(plain: Pool[Any]) -> None:
    """A server runs one for each request."""

    @plain.label("view")
    def view() -> None:
        gevent.sleep(0)
        with plain.connection():
            gevent.sleep(0)

    gevent.joinall([gevent.spawn(view) for _ in range(3)], raise_error=True)
    assert counts(plain)["view"].loans == 3 and "(none)" not in counts(plain)


def test_a_label_that_is_no_name_is_refused(plain: Pool[Any]) -> None:
    """And nothing listens because of it."""
    with pytest.raises(TypeError, match="must be a string or a callable, not 3"):
        plain.label(3)  # type: ignore[arg-type]
    assert plain.stats().labels == () and not parts.listeners(plain)


def test_a_labelled_pool_still_measures(plain: Pool[Any]) -> None:
    """Its recorder hears of events as before."""
    plain.measure()
    with plain.label("a"):
        plain.release(plain.acquire())
    plain.drop(plain.acquire())
    measured = plain.stats().measured
    assert measured is not None
    assert measured.use.count == 2 and sum(measured.closed.values()) == 1


def test_a_pool_without_labels_has_no_counts() -> None:
    """It is an option."""
    with Pool(ScriptedConnector()) as pool:
        assert pool.stats().labels == ()
    with Pool(ScriptedConnector(), listeners=[PoolListener()]) as pool:
        assert pool.stats().labels == ()


def test_wrong_arguments_are_named() -> None:
    """At once."""
    with pytest.raises(TypeError, match="a label must be a string, not 3"):
        with label(3):  # type: ignore[arg-type]
            pass
    with pytest.raises(TypeError, match="must be a string or a callable, not 3"):
        Labels().label(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="of must be callable or None, not 3"):
        Labels(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="most must be"):
        Labels(most=0)
