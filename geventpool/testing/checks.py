"""Checks of a pool's state, and functions that run its background work now."""

from __future__ import annotations

from typing import Any

import gevent
import greenlet

from geventpool._core.ledger import Entry
from geventpool._core.states import CLOSING, IDLE, IN_USE, OPENING
from geventpool.pool import Pool

__all__ = ["check", "check_capacity", "pool_greenlets", "sweep", "watch_now"]


def check(pool: Pool[Any]) -> None:
    """Check that the state of *pool* is consistent. Never switches.

    :raises AssertionError: names what is inconsistent.
    """
    ledger = pool._ledger
    entries: list[Entry[Any]] = [*ledger.entries.values(), *ledger.opening]
    assert len(entries) == ledger.size == len(set(entries))
    # After a resize() to less there may be more for a while, but these must be about to
    # close.
    going = [entry for entry in entries if entry.close_reason or entry.state is CLOSING]
    assert ledger.size <= ledger.max_connections + len(going), f"too many: {pool!r}"
    for shelf, state in (
        *((shelf, state) for state, shelf in ledger._shelves.items()),
        (set(ledger.opening), OPENING),
    ):
        assert shelf == {entry for entry in entries if entry.state is state}
    idle = [entry for entry in entries if entry.state is IDLE]
    assert len(idle) == ledger.idle, f"{len(idle)} idle, not {ledger.idle}"
    in_use = [entry for entry in entries if entry.state is IN_USE]
    assert len(in_use) == ledger.in_use
    if idle:
        # Idle connections that need a check stay idle while others are checked.
        served = len(ledger.checking) >= len(ledger.waiters)
        assert served, f"somebody waits beside an idle one: {pool!r}"
    for key, entry in ledger.entries.items():
        assert key == id(entry.conn)
    for waiter in ledger.waiters.values():
        assert waiter.entry is None and waiter.error is None, (
            "served, and still in line"
        )
    for holder in pool._holders.by_id.values():
        assert holder.loan is None or holder.loan.state is IN_USE, "a loan too many"


def check_capacity(pool: Pool[Any], timeout: float = 5.0) -> None:
    """Check that every place of *pool* can be lent, all at the same time.

    May switch. There must be no other loans.

    :raises AssertionError: a place is lost.
    """
    lent = []
    try:
        for _ in range(pool.max_connections):
            lent.append(pool.acquire(timeout=timeout))
    except Exception as error:
        raise AssertionError(f"only {len(lent)} can be lent: {error}") from error
    finally:
        for conn in lent:
            pool.release(conn)
    check(pool)


def pool_greenlets(pool: Pool[Any]) -> set[greenlet.greenlet]:
    """Return the greenlets that work for *pool* now, the reaper included."""
    reaper = pool._lifecycle.housekeeping.reaper
    return {
        *pool._lifecycle.workers.running,
        *([] if reaper is None else [reaper.greenlet]),
    }


def sweep(pool: Pool[Any]) -> None:
    """Do what the reaper does at each interval, and wait for it.

    May switch. It returns when the pings and closings of the sweep have ended or wait
    for an event.
    """
    pool._lifecycle.housekeeping.sweep()
    gevent.idle()


def watch_now(pool: Pool[Any]) -> None:
    """Start watchers for the idle connections. Never switches.

    The pool itself does so within about a second.

    :raises AssertionError: the pool watches no connections.
    """
    watch = pool._lifecycle.closer.watch
    assert watch is not None, f"watches no connections: {pool!r}"
    watch.arm()
