"""What becomes of a shared connection that is not shared any more."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from geventpool.redis.parting import Parting
from tests import parts
from tests.redis.conftest import MakePool


class Interrupt(BaseException):
    """What a signal handler raises."""


class Lender:
    """Notes what becomes of loans.

    :param exists: whether the connection is still on loan.
    :param error: raised by the first hand-over or release, when it has begun.
    """

    def __init__(self, exists: bool = True, error: BaseException | None = None) -> None:
        self.done: list[Any] = []
        self._exists = exists
        self._errors = [] if error is None else [error]

    def _note(self, what: str, whose: object = None) -> None:
        self.done.append((what, whose))
        if self._errors:
            raise self._errors.pop()

    def give_back(self, conn: Any) -> None:
        self._note("given back")

    def drop(self, conn: Any, error: BaseException | None) -> None:
        self._note("closed")

    def hand_over(self, conn: Any, greenlet: Any) -> bool:
        self._note("handed over", greenlet)
        return self._exists

    def end_torn(self, conn: Any, holder: object) -> None:
        self._note("closed if held by", holder)


def never() -> None:
    """There is nothing to renew."""


def taken(parting: Parting) -> Any:
    """A greenlet that takes the connection."""
    taker = gevent.spawn(parting.take, never)
    gevent.idle()
    return taker


def test_a_taker_is_told_that_the_connection_was_closed() -> None:
    """It takes one of its own."""
    lender = Lender(exists=False)
    parting = Parting(lender, object())
    taker = taken(parting)
    parting.part(None)
    assert taker.get(timeout=5) is None
    assert lender.done == [("handed over", taker)]


def test_a_release_that_was_interrupted_ends_this_loan_and_no_later_one() -> None:
    """It may have ended already, and another greenlet may have the connection."""
    lender = Lender(error=Interrupt())
    parting = Parting(lender, object())
    with pytest.raises(Interrupt):
        parting.part(None)
    parting.part(None)
    me = gevent.getcurrent()
    assert lender.done == [("given back", None), ("closed if held by", me)]


def test_a_hand_over_that_was_interrupted_leaves_no_taker_waiting() -> None:
    """It does not know of the connection, so that is closed."""
    lender = Lender(error=Interrupt())
    parting = Parting(lender, object())
    taker = taken(parting)
    with pytest.raises(Interrupt):
        parting.part(None)
    parting.part(None)
    assert taker.get(timeout=5) is None
    assert lender.done[1:] == [
        ("closed if held by", gevent.getcurrent()),
        ("closed if held by", taker),
    ]


def test_a_connection_that_is_not_on_loan_is_handed_to_nobody(
    make_pool: MakePool,
) -> None:
    """The pool has closed it."""
    sharing = parts.sharing(make_pool(auto_pipeline=True))
    assert not sharing.hand_over(object(), gevent.getcurrent())
    assert not sharing.has(object())
