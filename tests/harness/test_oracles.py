"""Each oracle can fail: a contestant that breaks its rule is found out."""

from __future__ import annotations

import builtins
import gc
import linecache
import os
import pkgutil
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import gevent
import pytest
from gevent.event import Event

from geventpool import Outage, Pool, PoolExhaustedError
from geventpool.testing import ScriptedConnector, wait_until
from tests import parts
from tests.failures import load, oracles, storms
from tests.failures.contestants import (
    OurMySQL,
    OurRedis,
    OurSockets,
    PatientSockets,
    kind_of,
)
from tests.failures.oracles import BLOCKS, Footprint, Outcome, broken
from tests.failures.proxy import CALM, Fault
from tests.failures.sites import LIMIT, Site
from tests.failures.storms import STORMS, Scene, Storm, rage
from tests.pauses import real_time

MakeSite = Callable[[str], Site[Any]]

#: What contestants below have taken and do not give back before the test is over.
kept: list[Any] = []


@pytest.fixture(autouse=True)
def given_back() -> Iterator[None]:
    """What they kept goes in the end."""
    yield
    for each in kept:
        if isinstance(each, int):
            os.close(each)
        elif isinstance(each, gevent.Greenlet):
            each.kill()
        elif hasattr(each, "close"):
            each.close()
    kept.clear()


class Good(OurSockets):
    """Breaks nothing."""


class Mixed(OurSockets):
    """Some replies are somebody else's."""

    count = 0

    def talk(self, conn: Any, tag: str) -> str:
        reply = super().talk(conn, tag)
        self.count += 1
        return "somebody else's" if self.count % 50 == 0 else reply


class Greedy(OurSockets):
    """Has more sockets than it says."""

    def __init__(self, site: Site[Any]) -> None:
        super().__init__(site)
        # Those of the warm-up are gone before the storm.
        self._more = [
            type(self.pool)(parts.connector(self.core)) for _ in range(LIMIT + 3)
        ]
        for pool in self._more:
            pool.release(pool.acquire())

    def close(self) -> None:
        super().close()
        for pool in self._more:
            pool.close(0)


class Sleepy(OurSockets):
    """One borrower waits forever, and is not served."""

    count = 0

    def take(self) -> Any:
        self.count += 1
        if self.count == 10:
            Event().wait()
        return super().take()


class Leaky(OurSockets):
    """Places are lost."""

    def __init__(self, site: Site[Any]) -> None:
        super().__init__(site)
        for _ in range(3):
            self.pool.transfer(self.pool.acquire(), None)

    def close(self) -> None:
        self.pool.close(0)


class Deadly(OurSockets):
    """Connections are dead when they are lent."""

    count = 0

    def take(self) -> Any:
        conn = super().take()
        self.count += 1
        if self.count % 5 == 0:
            conn.close()
        return conn

    documented = {**(OurSockets.documented or {}), "OSError": ""}


class Disorderly(OurSockets):
    """The books do not add up."""

    def take(self) -> Any:
        conn = super().take()
        if parts.ledger(self.core).idle == 0:
            # As if somebody had been forgotten beside what is free.
            parts.ledger(self.core).entries[id(self)] = parts.ledger(self.core).entries[
                id(conn)
            ]
        return conn

    def close(self) -> None:
        parts.ledger(self.core).entries.pop(id(self), None)
        super().close()


class Late(OurSockets):
    """Takes its time with an acquire."""

    def take(self) -> Any:
        real_time(0.2)
        return super().take()


class Curt(OurSockets):
    """Refuses before the time is over."""

    count = 0

    def ask(self, tag: str) -> str:
        self.count += 1
        if self.count == 10:
            raise PoolExhaustedError("no more")
        return super().ask(tag)


class Sulky(OurSockets):
    """Goes on failing when all is well again."""

    count = 0

    def ask(self, tag: str) -> str:
        self.count += 1
        if self.count > 1 and self.count % 10 == 0:
            raise ConnectionError("still sulking")
        return super().ask(tag)


class Wordy(OurSockets):
    """Raises what nobody was told of."""

    count = 0

    def ask(self, tag: str) -> str:
        self.count += 1
        if self.count == 10:
            raise LookupError("surprise")
        return super().ask(tag)


class Hasty(OurSockets):
    """Opens more at a time than it promises."""

    max_connecting = 1


class Impatient(OurSockets):
    """Says that it lets borrowers wait, and does not."""

    is_patient = True
    more: ClassVar[dict[str, Any]] = {"outage": Outage(grace=0)}


class KeepsThings(OurSockets):
    """Leaves behind whatever can be left."""

    def close(self) -> None:
        super().close()
        kept.append(os.open("/dev/null", os.O_RDONLY))
        kept.append(gevent.spawn(Event().wait))
        kept.append(gevent.Timeout.start_new(1000))
        kept.append([object() for _ in range(2 * BLOCKS)])
        kept.append([self.pool])
        gevent.sleep(0)


def no_weather(scene: Scene) -> None:
    """Nothing happens."""
    real_time(0.05)


def slow_dials(scene: Scene) -> None:
    """Connections are lost, and new ones take long."""
    scene.site.proxy.disturb(Fault(delay=0.01))
    scene.site.proxy.reset_all()
    real_time(0.1)
    scene.site.proxy.disturb(CALM)


QUIET = Storm("quiet", "nothing at all", no_weather)
SLOW = Storm("slow", "slow dials", slow_dials)


@pytest.mark.parametrize(
    ("make", "storm", "words"),
    [
        (Good, QUIET, None),
        (Mixed, QUIET, "wrong replies"),
        # Also one that closes while another takes its place may be seen.
        (Greedy, QUIET, f" sockets for {LIMIT}"),
        (Sleepy, QUIET, "1 asleep forever"),
        (Leaky, QUIET, f"3 of {LIMIT} places lost"),
        (Deadly, QUIET, "dead connections lent"),
        (Disorderly, QUIET, "assert"),
        (Late, QUIET, "waited 0."),
        (Curt, QUIET, "refused after 0.0 s"),
        (Sulky, QUIET, "s more"),
        (Wordy, QUIET, "undocumented: LookupError"),
        (Hasty, SLOW, "dials at a time"),
        (Impatient, STORMS["restart"], "requests failed"),
        (PatientSockets, STORMS["restart"], None),
    ],
)
def test_whoever_breaks_a_rule_is_found_out(
    make: Any,
    storm: Storm,
    words: str | None,
    make_site: MakeSite,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And who breaks none is not."""
    monkeypatch.setattr(storms, "CALM_AFTER", 0.05)
    monkeypatch.setattr(oracles, "LINGERING", 0.05)
    if make is not Good:
        monkeypatch.setattr(storms, "SETTLING", 0.1)
    # Not for contestants that are right to wait for a moment.
    if storm is QUIET:
        monkeypatch.setattr(load, "BEDTIME", 0.3)
    if make in (Deadly, Disorderly):
        monkeypatch.setattr(oracles, "PATIENCE", 0.5)
    if make in (Sleepy, Late, Sulky, Leaky):
        monkeypatch.setattr(oracles, "PATIENCE", 0.05)
        monkeypatch.setattr(oracles, "SLACK", 0.05)
        monkeypatch.setattr(oracles, "RECOVERY", 0.0)
    if make is Sulky:
        # It is never calm; on a busy machine the first error may take a while.
        monkeypatch.setattr(load, "BEDTIME", 2.0)
    outcome = rage(storm, make, make_site("redis"), 1, seconds=0.1)
    found = broken(outcome)
    if words is None:
        assert found == []
    else:
        assert any(words in each for each in found), found


def test_whatever_is_left_is_found(
    make_site: MakeSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A descriptor, a greenlet, a timer, memory, the pool itself."""
    monkeypatch.setattr(storms, "CALM_AFTER", 0.05)
    monkeypatch.setattr(storms, "SETTLING", 0.1)
    outcome = rage(QUIET, KeepsThings, make_site("redis"), 1)
    assert outcome.left.pop("blocks of memory") > 0
    assert outcome.left == {
        "descriptors": 1,
        "greenlets": 1,
        "timers": 1,
        "pool that nobody needs": 1,
    }
    # It may have the number of one that is closed meanwhile.
    assert outcome.descriptors
    (words,) = broken(outcome)
    assert words.startswith("left: 1 descriptors, 1 greenlets")


def test_what_was_given_up_is_told_first() -> None:
    """Whatever else there is to say."""
    outcome = Outcome("restart", "tcp", 1, given_up="hung")
    assert broken(outcome)[0] == "hung"


def test_a_timer_that_an_older_object_starts_anew_is_not_left_behind() -> None:
    """The reaper of an older pool takes one a pause, its watcher of hang-ups others."""
    awake = Event()
    pool = Pool(ScriptedConnector())
    timers: list[Any] = []

    def wait_twice() -> None:
        awake.wait()
        with gevent.Timeout(60):
            real_time(60)

    def call_later(method: Callable[[], object], *args: object) -> None:
        timers.append(gevent.get_hub().loop.timer(60))
        timers[-1].start(method, *args)

    greenlets = [gevent.spawn(wait_twice)]
    gevent.idle()
    gc.collect()
    gc.freeze()
    try:
        before = Footprint.take()
        awake.set()
        call_later(pool.stats)
        call_later(repr, weakref.ref(pool))  # type: ignore[arg-type]
        gevent.idle()
        assert "timers" not in Footprint.take().left_since(before)
        call_later(gevent.idle)
        greenlets.append(gevent.spawn(real_time, 60))  # type: ignore[call-overload]
        wait_until(
            lambda: Footprint.take().left_since(before).get("timers") == 2, "found"
        )
    finally:
        gc.unfreeze()
        gevent.killall(greenlets)
        for each in timers:
            each.stop()
            each.close()
        pool.close()


def test_the_sources_that_a_traceback_has_read_are_not_left_behind(
    tmp_path: Path,
) -> None:
    """The load formats one of each kind of error, and reads all files in it."""
    source = tmp_path / "source.py"
    source.write_text("pass\n" * 2 * BLOCKS)
    before = Footprint.take()
    assert len(linecache.getlines(str(source))) == 2 * BLOCKS
    assert "blocks of memory" not in Footprint.take().left_since(before)


@pytest.mark.parametrize("contestant", [OurSockets, OurRedis, OurMySQL])
def test_documented_errors_are_named_as_storms_name_them(contestant: Any) -> None:
    """A class that has moved would be reported as undocumented."""
    for name in contestant.documented:
        path, *code = name.split()
        kind = getattr(builtins, path, None) or pkgutil.resolve_name(path)
        assert kind_of(kind(*map(int, code))) == name
