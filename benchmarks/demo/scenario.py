"""One run of the demo: clients at both servers, and what happens to them.

Five phases: calm; rough (greenlets are killed, requests given up); calm again; the
first server is down; and the recovery. The length of each phase is a fraction of the
whole, but the outage has a length of its own. All of it is the same for every pool.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import gevent

import geventpool
from benchmarks.adapters import OURS, PoolAdapter
from benchmarks.adapters.base import BLOCKING, GSOCKETPOOL, QUEUE_POOL
from benchmarks.clients import Account, Clients
from benchmarks.servers import LIMIT, Outage, Server

#: The pool in use today, by the kind of server.
STOCK = {"redis": BLOCKING, "mysql": QUEUE_POOL, "echo": GSOCKETPOOL}

#: The pools of a run: ours, those in use today, and ours with one connection to Redis
#: for the commands of all greenlets.
OURS_ALONE, STOCK_POOLS, SHARED = "ours", "stock", "ours, auto_pipeline"

#: When each of the first three phases ends, as a fraction of the whole; and until when
#: the pools may fill before the first phase is measured.
CALM, ROUGH, CALM_AGAIN, WARM_UP = 0.35, 0.55, 0.65, 0.1

#: Seconds between two kills, between two counts of sockets, between two displays.
KILL_EVERY, COUNT_EVERY, DRAW_EVERY = 0.01, 0.1, 0.25


@dataclass
class Record:
    """What is seen of one server and its pool.

    :ivar sockets, peak: what the server counts now (None: it is down), and at most.
    :ivar outage: how its outage ended; None: there was none.
    :ivar places: connections that could be borrowed at once at the end.
    """

    server: Server
    pool: PoolAdapter
    account: Account = field(default_factory=Account)
    sockets: int | None = 0
    peak: int = 0
    outage: Outage | None = None
    places: int = 0


class Scenario:
    """A run of the demo; :meth:`run` it once.

    :param title: which pools these are: :data:`OURS_ALONE`, :data:`STOCK_POOLS` or
        :data:`SHARED`.
    :param outage: seconds for which the first server is down.
    :param size: how many greenlets send requests.
    :param draw: is called with the scenario every now and then.
    """

    def __init__(
        self,
        title: str,
        servers: Sequence[Server],
        seconds: float,
        outage: float,
        size: int,
        draw: Callable[[Scenario], object],
    ) -> None:
        self.title = title
        self.seconds, self.outage, self.size = seconds, outage, size
        self.records = [Record(server, _pool(server, title)) for server in servers]
        self.phase = "calm"
        #: passes per second, and the seconds of each, in the first phase
        self.rate, self.calm = 0.0, [0.0]
        #: the seconds of all passes, those without an end included
        self.whole = [0.0]
        self.killed = 0
        #: the lines that our pools name, though the clients hold nothing for nothing
        self.alarms: list[str] = []
        self._draw = draw
        self._began = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    def run(self) -> None:
        """Play all phases, then count. May switch."""
        pools = [record.pool for record in self.records]
        accounts = [record.account for record in self.records]
        clients = Clients(pools, accounts, self.size)
        watchers = [gevent.spawn(self._count), gevent.spawn(self._redraw)]
        try:
            self._run_phases(clients)
        finally:
            self.whole = clients.passes.latencies_since()
            clients.stop()
            gevent.killall(watchers)
        # Before the count, which does hold connections while they are idle.
        self.alarms = [
            f"{pool.name}: {hold}"
            for pool in geventpool.pools()
            for hold in pool.stats().idle_holds
        ]
        self._enter("counting the places")
        for record in self.records:
            record.places = record.pool.available(LIMIT)
            record.pool.close()

    def _run_phases(self, clients: Clients) -> None:
        self._began = time.monotonic()
        self._until(WARM_UP)
        began, before = self.elapsed, len(clients.passes.latencies)
        self._until(CALM)
        self.calm = clients.passes.latencies_since(before)
        passes = len(clients.passes.latencies) - before
        self.rate = passes / (self.elapsed - began)
        self._enter("greenlets are killed")
        clients.is_rough = True
        while self.elapsed < ROUGH * self.seconds:
            clients.kill_one()
            self.killed = clients.killed
            gevent.sleep(KILL_EVERY)
        clients.is_rough = False
        self._enter("calm again")
        self._until(CALM_AGAIN)
        self._restart(self.records[0])
        self._until(1.0)

    def _restart(self, record: Record) -> None:
        self._enter(f"{record.server.name} is down")
        # Nothing is drawn at its return: that would hold up the clients.
        record.outage = record.server.outage(self.outage, record.account)
        self._enter(f"{record.server.name} is back")

    def _enter(self, phase: str) -> None:
        self.phase = phase
        self._draw(self)

    def _until(self, part: float) -> None:
        gevent.sleep(max(0.0, part * self.seconds - self.elapsed))

    def _count(self) -> None:
        while True:
            for record in self.records:
                record.sockets = record.server.sockets()
                record.peak = max(record.peak, record.sockets or 0)
            gevent.sleep(COUNT_EVERY)

    def _redraw(self) -> None:
        while True:
            gevent.sleep(DRAW_EVERY)
            self._draw(self)


def _pool(server: Server, title: str) -> PoolAdapter:
    if title == STOCK_POOLS:
        return server.pool(STOCK[server.kind])
    if title == SHARED and server.kind == "redis":
        return server.pool(OURS, auto_pipeline=True)
    return server.pool(OURS)
