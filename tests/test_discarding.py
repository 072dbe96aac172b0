"""Connections without a descriptor: who closes what must not be used again."""

from __future__ import annotations

import gc

import gevent
import pytest
from gevent.event import Event

from geventpool import Pool, Timeouts
from geventpool.testing import check, check_capacity


class Hidden:
    """A driver's connection: its socket is not to be found, its close() waits.

    :param answer: what the server answers to the goodbye.
    """

    def __init__(self, answer, closed):
        self.answer = answer
        self.closed = closed

    def close(self):
        self.closed.append(self)
        self.answer.wait()


@pytest.fixture
def hidden():
    """A pool of one such connection."""
    answer = Event()
    closed: list[Hidden] = []
    pool = Pool(lambda: Hidden(answer, closed), max_connections=1)
    pool.answer, pool.said = answer, closed  # type: ignore[attr-defined]
    yield pool
    answer.set()
    pool.close(timeout=0)


def by_kill(pool):
    """The borrower is killed in its block."""

    def borrow():
        with pool.connection():
            Event().wait()

    borrower = gevent.spawn(borrow)
    gevent.idle()
    borrower.kill(timeout=5)
    assert borrower.dead


def by_drop(pool):
    """The borrower drops it."""
    pool.drop(pool.acquire())


def by_death(pool):
    """The holder ends without giving it back: told in the hub."""
    gevent.spawn(pool.acquire).join()
    gevent.idle()


def by_error(pool):
    """The block is left by an error."""
    try:
        with pool.connection():
            raise OSError("out of step")
    except OSError:
        pass


@pytest.mark.parametrize("end", [by_kill, by_drop, by_death, by_error])
def test_a_close_that_waits_does_so_in_a_greenlet_of_the_pool(end, hidden):
    """The borrower goes on at once; the place stays taken until it is closed."""
    end(hidden)
    assert hidden.stats().closing == 1 and hidden.size == 1
    gevent.idle()
    assert len(hidden.said) == 1
    assert hidden.stats().closing == 1
    check(hidden)
    hidden.answer.set()
    check_capacity(hidden)


def test_a_close_that_never_ends_is_given_up():
    """timeouts.close bounds it, and then the place is free."""
    pool = Pool(
        lambda: Hidden(Event(), []), max_connections=1, timeouts=Timeouts(close=0.001)
    )
    pool.drop(pool.acquire())
    check_capacity(pool)


def test_what_is_cut_off_is_closed_by_a_greenlet_of_the_pool(hidden):
    """close(timeout=0) does not wait for it, and a second one gives it up."""
    hidden.acquire()
    done = gevent.spawn(hidden.close, timeout=0)
    assert len(done.get()) == 1
    gevent.idle()
    assert len(hidden.said) == 1 and hidden.stats().closing == 1
    hidden.close(timeout=0)
    assert hidden.size == 0
    check(hidden)


def test_a_finaliser_only_forgets_what_it_cannot_close():
    """It may run anywhere, so it can neither wait nor start a greenlet."""
    closed: list[Hidden] = []
    pool = Pool(lambda: Hidden(Event(), closed))
    pool.release(pool.acquire())
    del pool
    gc.collect()
    gevent.idle()
    assert not closed
