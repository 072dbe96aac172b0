"""The storms: what goes wrong beside the load, for how long, and its row's name.

A storm's weather runs while the load does; when it is over everything is put right, the
load goes on for a moment, and the oracles are asked.
"""

from __future__ import annotations

import gc
import random
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.failures.contestants import ANSWER, Contestant
from tests.failures.load import Load
from tests.failures.oracles import Footprint, Outcome, Watch, described, lend_all
from tests.failures.proxy import DOWN, UP, Fault
from tests.failures.sites import Site
from tests.pauses import real_time, sample

#: Seconds that a driver may need for a connection: to connect, and for each of the
#: packets of a handshake.
CONNECTING = 4 * ANSWER

#: Seconds until everybody has heard that the server has hung up.
ON_THE_WAY = 0.05

#: Seconds of calm before the trouble, and without any error after it.
CALM_BEFORE, CALM_AFTER = 0.1, 0.2


#: Seconds in which everything must be back where it was.
SETTLING = 1.0


@dataclass
class Scene:
    """What the weather acts on.

    :param float seconds: how long it is to last, about.
    """

    site: Site[Any]
    load: Load
    chance: random.Random
    seconds: float

    def while_it_lasts(self, pause: float) -> Iterator[None]:
        """Once every *pause* seconds, about, until the time is over."""
        deadline = time.monotonic() + self.seconds
        while time.monotonic() < deadline:
            yield
            real_time(pause * (0.5 + self.chance.random()))

    def some_links(self, part: float) -> list[Any]:
        """About *part* of the connections that go through the proxy now."""
        return [
            link
            for link in sorted(self.site.proxy.links, key=id)
            if self.chance.random() < part
        ]

    def way(self) -> str:
        """One of the two."""
        return self.chance.choice([UP, DOWN])


# What the wire does


def delay(scene: Scene) -> None:
    """Everything takes longer, and for each piece differently."""
    for _ in scene.while_it_lasts(0.1):
        scene.site.proxy.disturb(Fault(delay=0.01 * scene.chance.random(), jitter=0.02))


def cut(scene: Scene) -> None:
    """Connections end in mid-packet, also while they are being made."""
    for _ in scene.while_it_lasts(0.03):
        for link in scene.some_links(0.2):
            after = scene.chance.randrange(1, 60)
            link.disturb(Fault(cut_after=after, way=scene.way()))
        after = scene.chance.randrange(1, 200)
        fault = Fault(cut_after=after, way=scene.way())
        scene.site.proxy.disturb(
            fault if scene.chance.random() < 0.3 else Fault(), present=False
        )


def reset(scene: Scene) -> None:
    """Connections are reset, idle or not."""
    for _ in scene.while_it_lasts(0.03):
        for link in scene.some_links(0.3):
            link.disturb(Fault(reset_after=scene.chance.choice([0, 0, 5, 20])))


def silence(scene: Scene) -> None:
    """The other side vanishes silently, for longer than anybody waits."""
    deadline = time.monotonic() + scene.seconds
    while time.monotonic() < deadline:
        for link in scene.some_links(0.5):
            link.disturb(Fault(silent=True))
        scene.site.proxy.disturb(
            Fault(silent=scene.chance.random() < 0.5), present=False
        )
        real_time(1.5 * ANSWER)
        scene.site.proxy.calm()
        real_time(0.05)


def trickle(scene: Scene) -> None:
    """A few bytes at a time get through."""
    for _ in scene.while_it_lasts(0.1):
        scene.site.proxy.disturb(Fault(trickle=scene.chance.randrange(1, 9)))


def refuse(scene: Scene) -> None:
    """Nobody listens, and what was open is reset."""
    for _ in scene.while_it_lasts(0.1):
        scene.site.proxy.refuse()
        scene.site.proxy.reset_all()
        real_time(0.1 + 0.2 * scene.chance.random())
        scene.site.proxy.calm()


def mute(scene: Scene) -> None:
    """Connections are accepted and never answered; those there were are reset."""
    scene.site.proxy.disturb(Fault(mute=True), present=False)
    scene.site.proxy.reset_all()
    real_time(max(scene.seconds, 1.5 * ANSWER))


def drop(scene: Scene) -> None:
    """Bytes are lost on the way."""
    for _ in scene.while_it_lasts(0.03):
        for link in scene.some_links(0.2):
            lost = scene.chance.randrange(1, 12)
            link.disturb(Fault(drop=lost, way=scene.way()))


# What the server does


def restart(scene: Scene) -> None:
    """The server is stopped, is away for a moment, and starts again."""
    real_time(scene.seconds / 4)
    # Nobody listens where there is no server.
    scene.site.proxy.refuse()
    scene.site.server.stop()
    real_time(scene.seconds / 4)
    scene.site.server.start()
    scene.site.proxy.calm()
    real_time(scene.seconds / 2)


def freeze(scene: Scene) -> None:
    """The server is stopped with its sockets open, and continues."""
    scene.site.server.pause()
    real_time(max(scene.seconds / 2, 1.5 * ANSWER))
    scene.site.server.resume()
    real_time(scene.seconds / 2)


def kill_all(scene: Scene) -> None:
    """An administrator kills every connection, several times."""
    for _ in scene.while_it_lasts(0.15):
        scene.site.hang_up()


def kill_some(scene: Scene) -> None:
    """An administrator kills connections at random."""
    for _ in scene.while_it_lasts(0.02):
        scene.site.hang_up(0.2)


def idle(scene: Scene) -> None:
    """The server closes what is idle for a second, and nobody asks for two."""
    scene.load.pause()
    scene.site.hang_up_idle()
    real_time(ON_THE_WAY)
    scene.load.go_on()
    real_time(0.2)
    scene.load.pause()
    deadline = time.monotonic() + 4
    while scene.site.connections() != 0 and time.monotonic() < deadline:
        sample(0.05)
    real_time(ON_THE_WAY)
    scene.load.go_on()
    real_time(scene.seconds / 2)


def full(scene: Scene) -> None:
    """The server takes fewer clients than the pool would like to be."""
    scene.load.pause()
    scene.site.serve_few()
    scene.site.hang_up()
    real_time(ON_THE_WAY)
    scene.load.go_on()
    real_time(scene.seconds)


# What happens to borrowers


def kills(scene: Scene) -> None:
    """Nothing is wrong but the borrowers, who are interrupted wherever they are."""
    real_time(scene.seconds)


@dataclass(frozen=True)
class Storm:
    """One row of the table.

    :param title: of the row.
    :param weather: what happens beside the load.
    :param int clients: how many borrowers there are.
    :param float kills: how many of them are interrupted each second.
    """

    name: str
    title: str
    weather: Callable[[Scene], None]
    clients: int = 40
    kills: float = 0.0


#: Interruptions per second in a storm that is called harsh.
HARSH = 60.0

STORMS: dict[str, Storm] = {
    storm.name: storm
    for storm in (
        Storm("kills", "borrowers killed, timed out, interrupted", kills, kills=HARSH),
        Storm("restart", "server restarted under 200 greenlets", restart, clients=200),
        Storm("freeze", "server stopped (SIGSTOP), continued", freeze),
        Storm("kill-all", "all connections killed by the server", kill_all),
        Storm("kill-some", "random connections killed by the server", kill_some),
        Storm("idle", "idle connections closed by the server", idle),
        Storm("full", "server takes 10 clients, pool wants 16", full),
        Storm("refuse", "connections reset, new ones refused", refuse),
        Storm("mute", "connections accepted, never answered", mute),
        Storm("reset", "connections reset", reset),
        Storm("cut", "connections cut in mid-packet", cut),
        Storm("silence", "half-open: silence, nothing closed", silence),
        Storm("drop", "bytes lost on the way", drop),
        Storm("trickle", "a few bytes at a time", trickle),
        Storm("delay", "delay and jitter", delay),
    )
}


def rage(
    storm: Storm,
    make: Callable[[Site[Any]], Contestant],
    site: Site[Any],
    seed: int,
    seconds: float = 1.0,
    harsh: bool = False,
) -> Outcome:
    """What *storm* does to a contestant. May switch.

    :param make: makes the contestant on its site.
    :param seed: of all that is random; only the scheduling of processes is not ours.
    :param seconds: how long the trouble lasts, about.
    :param harsh: interrupt borrowers meanwhile, whatever the storm is.
    """
    outcome = Outcome(storm.name, getattr(make, "name", str(make)), seed)
    warm_up(make, site)
    # What is there already need not be looked at, again and again.
    gc.collect()
    gc.freeze()
    try:
        before = Footprint.settled()
        contestant = make(site)
        _through(storm, contestant, site, outcome, seconds, harsh)
        pool = weakref.ref(contestant.pool)
        contestant.close()
        del contestant
        _wait_for_what_is_left(before, outcome)
        if pool() is not None:
            outcome.left["pool that nobody needs"] = 1
    finally:
        gc.unfreeze()
    return outcome


def warm_up(make: Callable[[Site[Any]], Contestant], site: Site[Any]) -> None:
    """Let modules be loaded, and threads of the resolver be started."""
    contestant = make(site)
    contestant.ask("hello")
    contestant.close()
    del contestant
    gc.collect()
    site.proxy.wait_open(0)
    # The side connection must be there before and after; this may find it dead.
    while site.connections() is None:
        sample()


def _through(
    storm: Storm,
    contestant: Contestant,
    site: Site[Any],
    outcome: Outcome,
    seconds: float,
    harsh: bool,
) -> None:
    chance = random.Random(outcome.seed)
    site.chance = site.proxy.chance = random.Random(outcome.seed + 1)
    site.proxy.accepted = site.proxy.most_dialling = 0
    interruptions = max(storm.kills, HARSH if harsh else 0.0)
    load = Load(contestant, chance, storm.clients, interruptions)
    outcome.account = load.account
    watch = Watch(site, contestant, outcome)
    try:
        real_time(CALM_BEFORE)
        storm.weather(Scene(site, load, site.chance, seconds))
    finally:
        site.put_right()
    load.recover(CALM_AFTER)
    load.stop()
    lend_all(contestant, outcome)
    watch.stop()
    outcome.books = outcome.books or contestant.books()
    outcome.dials = site.proxy.dials
    outcome.most_dialling = site.proxy.most_dialling
    outcome.max_connecting = contestant.max_connecting
    outcome.aside = contestant.aside
    outcome.waits = contestant.waits
    outcome.is_patient = contestant.is_patient
    if contestant.connects_in_borrower:
        outcome.connecting = CONNECTING
    if contestant.documented is not None:
        outcome.undocumented = sorted(
            set(load.account.errors) - contestant.documented.keys()
        )


def _wait_for_what_is_left(before: Footprint, outcome: Outcome) -> None:
    """Note what still is not back where it was, after some time to get there."""
    deadline = time.monotonic() + SETTLING
    while True:
        sample()
        now = Footprint.take()
        outcome.left = now.left_since(before)
        if not outcome.left:
            return
        if time.monotonic() > deadline:
            outcome.descriptors = described(now.descriptors - before.descriptors)
            return
