"""Requests that an interrupted loan leaves running: ended before the place is free."""

from __future__ import annotations

import logging

import gevent
import pytest
from gevent.event import Event

from geventpool import CloseReason, Counters, Pool, PoolListener, Timeouts
from geventpool._core.states import CLOSING
from geventpool.testing import ScriptedConnector, check, check_capacity, wait_until
from tests import parts


class Ends(PoolListener):
    """Notes which connections were closed, and why."""

    def __init__(self):
        self.seen = []

    def closed(self, conn, reason):
        self.seen.append((conn.number, reason))


@pytest.fixture
def answer():
    """What a cancellation waits for."""
    answer = Event()
    yield answer
    answer.set()


@pytest.fixture
def ends():
    return Ends()


@pytest.fixture
def pool(answer, ends):
    """A pool of one connection whose first cancellation waits for the answer."""
    connector = ScriptedConnector(cancel=[answer])
    pool = Pool(connector, max_connections=1, timeout=5, listeners=[ends, Counters()])
    pool.connector = connector
    yield pool
    check(pool)
    pool.close(timeout=0)
    assert connector.now_open == []


def interrupt(pool, saved=False):
    """End a loan that leaves a request running."""
    with pytest.raises(gevent.GreenletExit), pool.connection() as conn:
        conn.is_running, conn.is_saved = True, saved
        raise gevent.GreenletExit
    gevent.idle()
    return conn


def test_the_place_stays_taken_until_the_server_has_let_go(pool, answer, ends):
    """Otherwise the limit would not bound what the server works at."""
    conn = interrupt(pool)
    assert pool.stats().closing == pool.size == 1 and conn.end is None
    waiter = gevent.spawn(pool.acquire)
    gevent.idle()
    assert not waiter.ready() and ends.seen == []
    answer.set()
    assert waiter.get(timeout=5) is not conn
    assert conn.end == "discarded" and pool.connector.peak == 1
    assert ends.seen == [(1, CloseReason.BORROWER_FAILED)]
    assert (pool.stats().cancelled, pool.stats().saved) == (1, 0)


def test_a_saved_connection_is_reset_and_lent_again(pool, answer, ends):
    """It spares a dial, and the listeners are not told of an end that did not come."""
    conn = interrupt(pool, saved=True)
    gevent.spawn(answer.set)
    assert pool.acquire() is conn
    verbs = [verb for verb, _ in pool.connector.calls]
    assert verbs == ["open", "cancel", "reset"] and ends.seen == []
    assert (pool.stats().cancelled, pool.stats().saved) == (1, 1)
    pool.release(conn)


def test_a_drained_pool_keeps_no_cancelled_connection(pool, answer):
    """It may lead to an old server, whatever it was saved from."""
    conn = interrupt(pool, saved=True)
    pool.drain()
    answer.set()
    wait_until(lambda: pool.size == 0, "closed")
    assert conn.end == "discarded" and pool.stats().saved == 0


def test_what_the_server_does_not_end_in_time_is_abandoned(answer, caplog):
    """The time limit of closing holds here too; the log says what may go on."""
    connector = ScriptedConnector(cancel=[answer])
    pool = Pool(connector, max_connections=1, timeouts=Timeouts(close=0.01))
    with caplog.at_level(logging.WARNING, "geventpool"):
        conn = interrupt(pool)
        wait_until(lambda: pool.size == 0, "abandoned")
    assert conn.end == "discarded"
    assert (pool.stats().cancelled, pool.stats().abandoned) == (0, 1)
    assert "the server may still be working for <connection 1>" in caplog.text
    check_capacity(pool)


def test_a_connector_that_fails_to_begin_has_its_connection_closed(
    pool, monkeypatch, caplog
):
    """A mistake in a verb costs a connection, never a place."""

    def fail(conn):
        raise ValueError("not now")

    monkeypatch.setattr(pool.connector, "begin_cancel", fail)
    conn = interrupt(pool)
    assert pool.size == 0 and conn.end == "discarded"
    assert "begin_cancel failed" in caplog.text


def test_closing_the_pool_waits_for_the_server_and_then_cuts(pool):
    """A victim counts as not yet closed; when the time is over it is let go of."""
    conn = interrupt(pool)
    assert pool.close(timeout=0.01) == []
    assert conn.end == "discarded" and pool.size == 0
    gevent.idle()
    assert pool.size == 0


def test_closing_the_pool_ends_when_the_server_has_let_go(pool, answer):
    """Nobody waits longer than needed."""
    interrupt(pool, saved=True)
    closing = gevent.spawn(pool.close, 5)
    gevent.idle()
    assert not closing.ready()
    answer.set()
    assert closing.get(timeout=5) == [] and pool.size == 0


def test_a_connection_that_another_greenlet_drops_is_cancelled_and_closed(
    pool, answer, ends
):
    """Its end was told at the drop: so it is not kept."""
    conn = gevent.spawn(pool.acquire, reclaim=False).get(timeout=5)
    conn.is_running = conn.is_saved = True
    pool.drop(conn)
    wait_until(lambda: ("cancel", conn) in pool.connector.calls, "begun")
    assert pool.stats().closing == 1 and conn.end is None
    answer.set()
    wait_until(lambda: pool.size == 0, "closed")
    assert conn.end == "discarded" and ends.seen == [(1, CloseReason.DROPPED)]


def test_a_killed_cancellation_closes_the_connection(pool):
    """Whatever ends the pool's greenlet, the place comes back."""
    conn = interrupt(pool, saved=True)
    for worker in list(parts.running(pool)):
        worker.kill()
    assert conn.end == "discarded" and pool.size == 0


def test_recovery_leaves_cancellations_alone(pool, answer):
    """They have an owner, as closing connections have."""
    conn = interrupt(pool)
    parts.ledger(pool).is_torn = True
    parts.lifecycle(pool).recover()
    assert [entry.state for entry in parts.ledger(pool).entries.values()] == [CLOSING]
    assert conn.end is None


def test_a_cancellation_whose_greenlet_could_not_be_started_is_done_later(
    pool, answer, monkeypatch
):
    """The stack was full, so the recovery starts it."""
    pool.release(pool.acquire())
    spawn = parts.workers(pool).spawn
    errors = [RecursionError()]

    def fail_once(*args):
        if errors:
            raise errors.pop()
        return spawn(*args)

    monkeypatch.setattr(parts.workers(pool), "spawn", fail_once)
    answer.set()
    with pytest.raises(RecursionError), pool.connection() as conn:
        conn.is_running = True
        raise gevent.GreenletExit
    with pool.connection() as other:
        assert other is not conn
    assert pool.stats().cancelled == 1
