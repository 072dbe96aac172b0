"""The connection that ends statements: when it closes, and what it costs to lose it."""

from __future__ import annotations

import logging
import weakref
from typing import Any

import gevent
import gevent.os
import pytest
from gevent.event import Event

from geventpool import Timeouts
from geventpool.mysql import cancel, side_connection
from geventpool.mysql.side_connection import SideConnection
from geventpool.testing import wait_until
from tests import parts
from tests.mysql.test_cancel import canceller, interrupt, let_go, side_connection_of

pytestmark = pytest.mark.usefixtures("at_rest")


def test_a_side_connection_in_use_is_not_closed_by_its_timer(pooled, monkeypatch):
    """It closes after a time without use."""
    pool = pooled(max_connections=1)
    interrupt(pool)
    let_go(pool)
    side = side_connection_of(pool)
    with side._turn:
        side._expire()
        assert side.is_open
    expire = side_connection._expire
    # That of another time, and that of a pool that is gone, mean nothing.
    nobody: Any = lambda: None  # noqa: E731
    for gone in weakref.ref(side), nobody:
        timer = gevent.get_hub().loop.timer(1)
        expire(gone, timer)
        assert side.is_open
    expire(weakref.ref(side), side._timer)
    assert not side.is_open


def test_a_side_connection_made_anew_does_not_kill_what_the_old_one_saw(
    pooled, monkeypatch
):
    """The server may have been restarted in between."""
    kill = SideConnection.kill_query

    def late(side, victim):
        side._drop()
        kill(side, victim)

    monkeypatch.setattr(SideConnection, "kill_query", late)
    pool = pooled(max_connections=1)
    conn = interrupt(pool, "SELECT SLEEP(0.3)")
    let_go(pool)
    assert not conn.open and pool.stats().saved == 0


@pytest.fixture
def aside(pooled, proxy, monkeypatch):
    """Makes a pool whose side connection leads through the proxy."""
    monkeypatch.setattr(SideConnection, "_check_itself", lambda side, conn: None)

    def make(**options):
        pool = pooled(max_connections=1, **options)
        dial = canceller(pool)._dial
        monkeypatch.setattr(
            canceller(pool),
            "_dial",
            lambda peer, host, port: dial((proxy.host, proxy.port), host, port),
        )
        return pool

    return make


def test_a_kill_without_a_reply_costs_both_connections(aside, proxy, caplog):
    """It may take effect late: on neither of them anything is sent any more."""
    pool = aside(timeouts=Timeouts(close=0.3))
    proxy.question = lambda data: b"" if b"KILL" in data else data
    with caplog.at_level(logging.WARNING, "geventpool"):
        conn = interrupt(pool)
        wait_until(lambda: pool.size == 0, "abandoned")
    assert not conn.open and pool.side_connections == 0
    assert pool.stats().abandoned == 1
    assert "the server may still be working" in caplog.text


def test_a_canceller_killed_before_its_reply_costs_both_connections(aside, proxy):
    """Whatever ends it, nobody knows whether the KILL is still under way."""
    pool = aside()
    proxy.question = lambda data: b"" if b"KILL" in data else data
    conn = interrupt(pool)
    wait_until(lambda: b"KILL" in b"".join(proxy.asked), "sent")
    for worker in list(parts.running(pool)):
        worker.kill()
    assert not conn.open and pool.size == 0 and pool.side_connections == 0


def test_a_side_connection_that_is_cut_costs_both_connections(aside, proxy):
    """The place is kept until the server has replied, and no KILL comes late."""
    pool = aside()
    proxy.question = lambda data: None if b"KILL" in data else data
    conn = interrupt(pool, "SELECT SLEEP(0.3)")
    let_go(pool)
    assert not conn.open and pool.size == 0 and pool.side_connections == 0


def test_a_refused_kill_leaves_the_statement_alone(aside, proxy, caplog):
    """Another account's statement, or a proxy that forbids it."""
    pool = aside()
    proxy.question = lambda data: data.replace(b"KILL", b"KALL")
    with caplog.at_level(logging.WARNING, "geventpool"):
        interrupt(pool, "SELECT SLEEP(0.3)")
        let_go(pool)
    assert "the server refuses what is asked of it" in caplog.text
    assert pool.size == 0 and pool.side_connections == 1


def test_closing_the_pool_ends_a_side_connection_that_is_being_opened(aside, proxy):
    """What comes too late is not kept."""
    pool = aside()
    held = Event()
    proxy.answer = lambda data: held.wait() and data
    interrupt(pool)
    wait_until(lambda: proxy.open == 1, "dialled")
    side = side_connection_of(pool)
    side.close()
    held.set()
    wait_until(lambda: proxy.open == 0, "let go of")
    assert not side.is_open
    pool.close(timeout=0)


def test_a_mute_server_does_not_hold_the_side_connection_long(
    aside, proxy, monkeypatch
):
    """Its dial has a limit of its own, and is not repeated at once."""
    monkeypatch.setattr(cancel, "CONNECT", 0.05)
    pool = aside()
    proxy.question = lambda data: b""
    proxy.answer = lambda data: b""
    conn = interrupt(pool, "SELECT SLEEP(0.3)")
    let_go(pool)
    assert not conn.open and proxy.accepted == 1
    interrupt(pool, "SELECT SLEEP(0.3) + 1")
    let_go(pool)
    assert proxy.accepted == 1
