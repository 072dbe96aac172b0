"""Looking after idle connections: sweeps at intervals, and watching for hang-ups."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import gevent

from geventpool._core.closing import Closer
from geventpool._core.hangups import HangupWatcher
from geventpool._core.ledger import Entry, Ledger
from geventpool._core.loops import timer_length
from geventpool._core.opener import Opener
from geventpool._core.readiness import Readiness
from geventpool._core.reaper import Reaper
from geventpool._core.states import CHECKING, IDLE
from geventpool._core.workers import WorkerGroup, WorkQueue
from geventpool.connector import Connector
from geventpool.listeners import Listeners
from geventpool.options import PoolOptions

__all__ = ["Housekeeping"]

C = TypeVar("C")

log = logging.getLogger("geventpool")

#: A sweep lets other greenlets run after so many seconds.
SLICE = 0.002


class Housekeeping(Generic[C]):
    """Looks after the idle connections of one pool.

    :param checks: takes entries that must be pinged before the next loan.
    :param on_sweep: called at each sweep, for other work.
    :param on_room: called when a place has become free.
    """

    def __init__(
        self,
        ledger: Ledger[C],
        connector: Connector[C],
        listeners: Listeners,
        workers: WorkerGroup,
        closer: Closer[C],
        readiness: Readiness[C],
        opener: Opener[C],
        options: PoolOptions,
        checks: WorkQueue[Entry[C]],
        on_sweep: Callable[[], object],
        on_room: Callable[[], object],
    ) -> None:
        self._ledger = ledger
        self._connector = connector
        self._listeners = listeners
        self._closer = closer
        self._readiness = readiness
        self._opener = opener
        self._ping_interval = options.ping_interval
        self._reaps = options.reap_expired_connections
        self._checks = checks
        self._on_sweep = on_sweep
        self._on_room = on_room
        self._hung_up: WorkQueue[Entry[C]] = WorkQueue(workers, 1, self._look_at_once)
        is_seen = type(connector).fileno is not Connector.fileno
        self._can_watch = readiness.probe is not None and is_seen
        #: seconds between two sweeps
        self.interval = options.sweep_interval
        #: the greenlet that sweeps; None: not started
        self.reaper: Reaper[Housekeeping[C]] | None = None

    # Sweeps

    def ensure_reaper(self) -> None:
        """Start the reaper if one is needed and none is running. Never switches."""
        if self._ledger.closed or (self.reaper is not None and self.reaper.is_alive):
            return
        pings = self._ping_interval is not None
        if self._reaps or self._ledger.min_connections or pings:
            self.reaper = Reaper(self, Housekeeping.sweep, self.interval)
            self._opener.serve(retry=True)

    def sweep(self) -> None:
        """Close and ping idle connections that are due. May switch."""
        self._on_sweep()
        ledger, interval = self._ledger, self._ping_interval
        began = ledger.clock()
        for entry in ledger.all_in(IDLE):
            now = ledger.clock()
            stays = not self._reaps or self.look_at(entry, now)
            if stays and interval is not None and now - entry.alive >= interval:
                ledger.withdraw(entry, CHECKING)
                self._checks.put(entry)
            if now - began > SLICE:
                # sleep(0) would run the callbacks, but would not look at sockets.
                gevent.sleep(timer_length(SLICE / 4), ref=False)
                began = ledger.clock()
        self._opener.serve(retry=True)

    def drop_expired(self) -> None:
        """Close the idle connections that have expired or died. Never switches."""
        now = self._ledger.clock()
        with self._listeners.held():
            for entry in self._ledger.all_in(IDLE):
                self.look_at(entry, now)

    def look_at(self, entry: Entry[C], now: float) -> bool:
        """Close an idle entry if it must be; return whether it stays."""
        reason = self._readiness.expiry_reason(entry, now)
        if reason is not None:
            self._closer.close(entry, reason)
        elif not self._readiness.passes(entry):
            self._on_room()
        return entry.state is IDLE

    # Hang-ups

    def ensure_watching(self) -> None:
        """Have hang-ups of idle connections detected, if possible. Never switches."""
        if self._can_watch and not self._ledger.closed:
            closer = self._closer
            if closer.watch is None:
                loop = gevent.get_hub().loop
                closer.watch = HangupWatcher(loop, self._watchable, self._hung_up.put)
            closer.watch.schedule()

    def _watchable(self) -> Iterator[tuple[Entry[C], int | None]]:
        """Yield the entries that are not watched, with their descriptors if idle."""
        watch = self._closer.watch
        for entry in [*self._ledger.entries.values()]:
            if watch is None or entry in watch.watchers:
                continue
            if entry.state is not IDLE:
                yield entry, None
            elif (descriptor := self._descriptor(entry.conn)) >= 0:
                yield entry, descriptor

    def _descriptor(self, conn: Any) -> int:
        try:
            return self._connector.fileno(conn)
        except Exception:
            log.exception("fileno failed: %r is not watched", conn)
            return -1

    def _look_at_once(self, entry: Entry[C]) -> None:
        """An idle connection has something to read. In a greenlet of the pool."""
        if entry.state is IDLE and not self._readiness.passes(entry):
            self._on_room()

    def stop(self) -> None:
        """Stop sweeping and watching. Never switches."""
        if self.reaper is not None:
            self.reaper.stop()
        if self._closer.watch is not None:
            self._closer.watch.stop()
