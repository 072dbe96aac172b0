"""
One run: a crowd before the doors of all stores, and what happens to it meanwhile.

Five acts, as parts of the time there is: calm; rough (greenlets are killed, requests
given up); calm again; the first store is down; and the recovery.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import gevent

from benchmarks.demo.crowd import Crowd
from benchmarks.demo.doors import Door
from benchmarks.demo.stores import LIMIT, Store
from benchmarks.demo.tally import Waits

#: When each act ends, as a part of the whole.
CALM, ROUGH, CALM_AGAIN, DOWN = 0.35, 0.55, 0.65, 0.7
#: How long the pools may fill before the calm act counts.
WARM = 0.1
#: Seconds between two kills, between two counts of sockets, between two tables.
KILL_EVERY, COUNT_EVERY, DRAW_EVERY = 0.01, 0.05, 0.25
#: Seconds a pool is given to come back after its server has.
RECOVERY = 10.0


@dataclass
class Sight:
    """What is to be seen of one store and its door."""

    store: Store
    door: Door
    #: Sockets the server counts now (None: it is down), and the most it counted.
    seen: int | None = 0
    peak: int = 0
    #: Requests per second and waits since the last look.
    rate: float = 0.0
    recent: Waits = field(default_factory=lambda: Waits.of(()))
    #: The same in the first, calm act.
    calm_rate: float = 0.0
    calm: Waits = field(default_factory=lambda: Waits.of(()))
    #: All waits of the whole run, those that never ended included.
    whole: Waits = field(default_factory=lambda: Waits.of(()))
    #: Seconds from the server's return to the first reply; None: not restarted.
    recovered: float | None = None
    #: Connections that could be had at once in the end.
    usable: int = 0

    _answered: int = 0
    _waits: int = 0
    _looked: float = field(default_factory=time.monotonic)

    def look(self) -> None:
        """Take rate and waits since the last look."""
        now, tally = time.monotonic(), self.door.tally
        self.rate = (tally.answered - self._answered) / max(1e-9, now - self._looked)
        self.recent = Waits.of(tally.all_waits(self._waits))
        self._answered, self._waits = tally.mark()
        self._looked = now

    @property
    def held_its_limit(self) -> bool:
        """Never more sockets than allowed, and none of the places lost."""
        return self.peak <= LIMIT and self.usable == LIMIT


@dataclass
class Show:
    """
    A run of so many seconds; :meth:`run` it once.

    :param title: what the doors have in common.
    :param draw: called with the show every now and then, to have it shown.
    """

    title: str
    sights: list[Sight]
    seconds: float
    size: int
    draw: Callable[[Show], object]
    act: str = "calm"
    killed: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    def run(self) -> None:
        """All five acts, then the reckoning. **May switch.**"""
        crowd = Crowd([sight.door for sight in self.sights], self.size)
        watchers = [gevent.spawn(self._count), gevent.spawn(self._draw)]
        try:
            self._play(crowd)
        finally:
            for sight in self.sights:
                sight.whole = Waits.of(sight.door.tally.all_waits())
            crowd.go_home()
            gevent.killall(watchers)
        self._reckon()

    def _play(self, crowd: Crowd) -> None:
        self.began = time.monotonic()
        self._until(WARM)
        before = [(self.elapsed, sight.door.tally.mark()) for sight in self.sights]
        self._until(CALM)
        for sight, (then, (answered, waits)) in zip(self.sights, before, strict=True):
            tally = sight.door.tally
            sight.calm = Waits.of(tally.all_waits(waits))
            sight.calm_rate = (tally.answered - answered) / (self.elapsed - then)
        self._enter("greenlets are killed")
        crowd.is_rough = True
        while self.elapsed < ROUGH * self.seconds:
            crowd.kill_one()
            self.killed = crowd.killed
            gevent.sleep(KILL_EVERY)
        crowd.is_rough = False
        self._enter("calm again")
        self._until(CALM_AGAIN)
        self._restart(self.sights[0])
        self._until(1.0)

    def _restart(self, sight: Sight) -> None:
        self._enter(f"{sight.store.name} is down")
        sight.store.stop()
        self._until(DOWN)
        sight.store.start()
        back, answered = time.monotonic(), sight.door.tally.answered
        self._enter(f"{sight.store.name} is back")
        while sight.door.tally.answered == answered:
            if time.monotonic() > back + RECOVERY:
                return
            gevent.sleep(0.002)
        sight.recovered = time.monotonic() - back

    def _reckon(self) -> None:
        self._enter("counting the places left")
        for sight in self.sights:
            sight.look()
            sight.usable = sight.door.usable()
            sight.door.close()

    def _enter(self, act: str) -> None:
        self.act = act
        self.draw(self)

    def _until(self, part: float) -> None:
        gevent.sleep(max(0.0, part * self.seconds - self.elapsed))

    def _count(self) -> None:
        while True:
            for sight in self.sights:
                sight.seen = sight.store.seen()
                sight.peak = max(sight.peak, sight.seen or 0)
            gevent.sleep(COUNT_EVERY)

    def _draw(self) -> None:
        while True:
            gevent.sleep(DRAW_EVERY)
            for sight in self.sights:
                sight.look()
            self.draw(self)


def sights(stores: Sequence[Store], stock: bool) -> list[Sight]:
    """A sight of every store, with our door or the stock one."""
    return [Sight(store, store.stock() if stock else store.ours()) for store in stores]
