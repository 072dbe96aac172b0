"""Idle connections under the eye of the event loop: a dead peer is found at once."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from geventpool import CloseReason, Connector, Counters, Pool, PoolListener
from geventpool._core.hangups import HangupWatcher, _arm_alive, _fired
from geventpool.sockets import is_quiet
from geventpool.testing import check, wait_until, watch_now
from tests import parts
from tests.event_loops import not_on_libuv


def is_due(watch):
    """Whether there will be another look."""
    return watch._timer is not None


class Pairs(Connector):
    """Sockets whose other ends stay in the test's hands."""

    made: list[Any] = []

    def __init__(self):
        self.others = []

    def open(self):
        mine, other = socket.socketpair()
        self.others.append(other)
        self.made += [mine, other]
        return mine

    def close(self, conn):
        conn.close()

    def is_usable(self, conn):
        return is_quiet(conn)

    def fileno(self, conn):
        return conn.fileno()


@pytest.fixture(autouse=True)
def _leave_no_socket():
    yield
    while Pairs.made:
        Pairs.made.pop().close()


class Mourner(PoolListener):
    """Notes why connections go; one may wait for it."""

    def __init__(self):
        self.heard = Event()
        self.reasons = []

    def closed(self, conn, reason):
        self.reasons.append(reason)
        self.heard.set()


def make(connector, number=1, **options):
    """A pool with so many idle connections, all under watch."""
    options.setdefault("max_connections", number)
    pool = Pool(connector, initial_connections=number, **options)
    watch_now(pool)
    return pool


def watched(pool):
    """How many of its connections are under watch."""
    return len(parts.hangups(pool).watchers)


def test_an_idle_connection_is_found_dead_the_moment_its_peer_hangs_up():
    """Nobody borrows, nobody sweeps."""
    connector, mourner = Pairs(), Mourner()
    pool = make(connector, 3, listeners=[mourner])
    connector.others[1].close()
    assert mourner.heard.wait(5)
    assert mourner.reasons == [CloseReason.UNUSABLE]
    assert pool.stats().idle == 2 == watched(pool)
    check(pool)


def test_what_was_found_dead_is_replaced_if_there_is_a_minimum():
    """At once, too."""
    connector, mourner = Pairs(), Mourner()
    pool = make(connector, 2, min_connections=2, listeners=[mourner])
    connector.others[0].close()
    assert mourner.heard.wait(5)
    gevent.idle()
    assert pool.stats().idle == 2 and len(connector.others) == 3


def test_a_watcher_costs_a_loan_nothing_and_is_gone_at_its_first_answer():
    """What is in use is its borrower's; its watcher fires once, for nothing."""
    connector = Pairs()
    pool = make(connector)
    with pool.connection() as conn:
        assert watched(pool) == 1
        gevent.spawn(connector.others[0].send, b"answer")
        assert conn.recv(10) == b"answer"
        gevent.idle()
        assert watched(pool) == 0
    assert pool.stats().idle == 1
    watch_now(pool)
    assert watched(pool) == 1


@not_on_libuv("no idle connection is watched")
def test_what_is_in_use_is_watched_when_it_is_idle_again():
    """There is another look, as long as there is somebody to wait for."""
    pool = make(Pairs())
    watch = parts.hangups(pool)
    conn = pool.acquire()
    watch.forget(parts.ledger(pool).entries[id(conn)])
    watch.arm()
    assert watched(pool) == 0 and is_due(watch)
    pool.release(conn)
    watch.arm()
    assert watched(pool) == 1 and not is_due(watch)


@not_on_libuv("no idle connection is watched")
def test_the_loop_looks_by_itself():
    """A second after the last one was opened."""
    pool = Pool(Pairs(), initial_connections=2)
    watch = parts.hangups(pool)
    assert is_due(watch) and watched(pool) == 0
    watch._end_timer()
    watch.schedule(0)
    wait_until(lambda: watched(pool) == 2)


@not_on_libuv("no idle connection is watched")
def test_many_are_put_under_watch_by_portions(monkeypatch):
    """The hub is not held up by thousands."""
    monkeypatch.setattr("geventpool._core.hangups.BATCH", 2)
    pool = make(Pairs(), 5)
    watch = parts.hangups(pool)
    seen = [watched(pool)]
    while is_due(watch):
        watch.arm()
        seen.append(watched(pool))
    assert seen == [2, 4, 5]


def test_a_connection_is_not_watched_after_it_has_left():
    """Its descriptor will soon be somebody else's."""
    pool = make(Pairs(), 2)
    pool.drop(pool.idle_connections()[0])
    assert watched(pool) == 1
    with pool.connection() as conn:
        pool.drop(conn)
    assert watched(pool) == 0


@not_on_libuv("no idle connection is watched")
def test_something_to_read_that_means_nothing_costs_no_connection():
    """The connector says what it means; it is watched again later."""
    connector = Pairs()
    connector.is_usable = lambda conn: True  # type: ignore[method-assign]
    Pairs.is_usable, original = (lambda self, conn: True), Pairs.is_usable  # type: ignore[method-assign]
    try:
        pool = make(connector)
        connector.others[0].send(b"ticket")
        gevent.idle()
        gevent.idle()
        assert pool.stats().idle == 1 and watched(pool) == 0
        assert is_due(parts.hangups(pool))
    finally:
        Pairs.is_usable = original  # type: ignore[method-assign]


@pytest.mark.parametrize("answer", [-1, ValueError("no socket")])
def test_who_has_no_descriptor_is_not_watched(answer, caplog):
    """And nothing looks for it again; a failure to say so is logged."""

    class Blind(Pairs):
        def fileno(self, conn):
            if isinstance(answer, Exception):
                raise answer
            return answer

    pool = make(Blind())
    assert watched(pool) == 0 and not is_due(parts.hangups(pool))
    assert ("is not watched" in caplog.text) == isinstance(answer, Exception)


def test_without_a_verb_for_it_nothing_is_watched():
    """Connectors of old have none."""

    class Silent(Pairs):
        fileno = Connector.fileno

    pool = Pool(Silent(), initial_connections=1)
    assert parts.hangups(pool) is None


def test_a_closed_pool_watches_nobody():
    """Nor does it begin to."""
    pool = make(Pairs(), 2)
    watch = parts.hangups(pool)
    pool.close()
    watch.schedule()
    assert not watch.watchers and not is_due(watch)


def test_a_forgotten_pool_watches_nobody():
    """Its watchers do not keep it alive."""
    pool = make(Pairs(), 2)
    watch, lifecycle = parts.hangups(pool), weakref.ref(parts.lifecycle(pool))
    del pool
    gc.collect()
    assert not watch.watchers
    del watch  # it knows how to find the idle ones
    gc.collect()
    assert lifecycle() is None


def test_what_fires_for_nobody_is_not_minded():
    """A callback of the loop may come after the end of those it was for."""
    pool = make(Pairs())
    watch = weakref.ref(parts.hangups(pool))
    (entry,) = parts.ledger(pool).entries.values()
    entry = weakref.ref(entry)  # type: ignore[assignment]
    pool.drop(pool.idle_connections()[0])
    gevent.idle()
    _fired(watch, entry)  # type: ignore[arg-type]
    del pool
    gc.collect()
    _fired(watch, entry)  # type: ignore[arg-type]
    _arm_alive(watch)


def test_in_a_forked_child_nobody_is_watched():
    """All descriptors are the parent's."""
    pool = make(Pairs(), 2)
    watch = parts.hangups(pool)
    parts.forked(pool)
    assert not watch.watchers and parts.hangups(pool) is None


def test_another_thread_may_end_the_watch():
    """A finaliser runs anywhere; the loop is told."""
    pool = make(Pairs(), 2)
    watch = parts.hangups(pool)
    watch._home = -1
    watch.stop()
    assert len(watch.watchers) == 2
    gevent.idle()
    assert not watch.watchers


def test_a_watch_whose_loop_is_gone_ends_in_silence():
    """There is nothing left to stop."""

    class Gone:
        def run_callback_threadsafe(self, work):
            raise ValueError("loop destroyed")

    watch = HangupWatcher(Gone(), lambda: iter(()), print)
    watch._home = -1
    watch.stop()
    assert watch._stopped


def test_on_libuv_nothing_is_watched():
    """There a descriptor closed under its watcher ends the process."""
    loop = type("loop", (), {"__module__": "gevent.libuv.loop"})()
    watch = HangupWatcher(loop, lambda: iter(()), print)
    watch.schedule()
    assert not is_due(watch)


def test_a_descriptor_closed_under_its_watcher_does_no_harm():
    """A borrower may close what it holds; the number is soon another's."""
    connector = Pairs()
    pool = make(connector)
    with pool.connection() as conn:
        conn.close()
        mine, other = socket.socketpair()
        other.send(b"for somebody else")
        assert mine.recv(99) == b"for somebody else"
        gevent.idle()
        pool.drop(conn)
    assert pool.size == 0
    with pool.connection() as conn:
        connector.others[-1].send(b"x")
        assert conn.recv(1) == b"x"
    mine.close()
    other.close()


def test_counting_a_death_that_was_heard(hub_errors):
    """It is a connection that became unusable, like any other."""
    connector, counters, mourner = Pairs(), Counters(), Mourner()
    pool = make(connector, 50, listeners=[counters, mourner])
    for other in connector.others:
        other.close()
    while pool.size:
        mourner.heard.clear()
        assert mourner.heard.wait(5)
    assert counters.snapshot().closed[CloseReason.UNUSABLE] == 50
    assert hub_errors == []


@not_on_libuv("no idle connection is watched")
def test_a_watch_does_not_keep_the_loop_running():
    """Neither its timer nor its watchers: a program with nothing else to do ends."""
    pool = make(Pairs())
    watch = parts.hangups(pool)
    (watcher,) = watch.watchers.values()
    pool.acquire()
    watch.schedule()
    assert not watch._timer.ref and not watcher.ref
