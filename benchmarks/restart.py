"""
How long is a pool out of order when its server is restarted?

A crowd asks a server for the echo of tags; each waits a twentieth of a second after an
error, as a sane client does. The server is ended, stays away for a while and comes
back. What is told is how long after its return the first reply comes, and how long
until there are nine tenths of the replies there were before; how many requests failed;
and how often this process dialled per second while there was nobody to answer.

Every turn has a process of its own; the server is this one's.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gevent

from benchmarks import peers
from benchmarks.children import Nursery, TurnFailed, in_turn
from benchmarks.demo.crowd import Crowd
from benchmarks.demo.stores import LIMIT
from benchmarks.demo.tally import Tally
from benchmarks.dials import Dials
from benchmarks.doors import DOORS
from benchmarks.figures import Figure
from benchmarks.report import Report, Section, Target, duration, number, plus_minus
from benchmarks.rounds import Scale, Series, Spread
from benchmarks.servers import Storm, kinds

#: Seconds that the counts of a turn are divided into.
SLOT = 0.02
#: The same for a picture.
TENTH = 0.1
#: Seconds a turn may take beyond its time before its pool counts as hung.
PATIENCE = 15.0
#: Of the replies before, so many must be there again.
RECOVERED = 0.9

Counts = dict[int, int]


@dataclass(frozen=True)
class Outage:
    """One restart as one pool lived through it."""

    #: Seconds the server was away.
    away: float
    #: Seconds from the server's return to the first reply, and to nearly all of them;
    #: as long as was watched if they did not come.
    first: float
    recovery: float
    failed: int
    #: Per second, while the server was away.
    dials: float
    peak: int
    #: Replies per second before.
    rate: float
    has_recovered: bool
    #: Replies per second in each tenth of a second, by the seconds since the server
    #: went.
    course: dict[float, float]


@dataclass(frozen=True)
class Times:
    """How long, in seconds: the calm before, the server away, and then."""

    calm: float
    away: float
    after: float

    @property
    def whole(self) -> float:
        """All three."""
        return self.calm + self.away + self.after


def run(scale: Scale) -> Report:
    """A restart before every pool, of each kind of server. **May switch.**"""
    report = Report("restart", "how long is a pool out of order after a restart?")
    times = Times(0.06, 0.06, 0.16) if scale.name == "tiny" else Times(0.5, 0.5, 1.5)
    rounds = 1 if scale.name == "tiny" else max(1, scale.rounds // 7)
    with Nursery("benchmarks.restart") as nursery:
        for kind in kinds(scale):
            with Storm(kind) as server:
                turns = {
                    name: partial(_turn, nursery, server, name, times, scale.crowd // 4)
                    for name in DOORS[kind]
                }
                series = in_turn(turns, rounds, f"restarts of {kind}")
            report.sections.append(_section(kind, series, times, scale.crowd // 4))
            report.figures.append(_figure(kind, series, scale.crowd // 4))
            entry = series[peers.OURS]
            if entry.error is None:
                spread = entry.spread(lambda outage: outage.first)
                name = f"seconds from the return of {kind} to the first reply"
                report.targets.append(Target(name, spread, 1.0))
    return report


def _turn(
    nursery: Nursery, server: Storm, name: str, times: Times, size: int
) -> Outage:
    with TemporaryDirectory() as folder:
        begun, end = Path(folder) / "begun", Path(folder) / "end"
        lived = gevent.spawn(
            nursery.turn,
            "life",
            times.whole + PATIENCE,
            kind=server.kind,
            name=name,
            address=server.address,
            begun=str(begun),
            end=str(end),
            size=size,
        )
        while not begun.exists() and not lived.ready():
            gevent.sleep(SLOT)
        down, up = _restarted(server, times)
        # However long the server took.
        gevent.sleep(times.after)
        end.touch()
        return outage(lived.get(), down, up)


def _restarted(server: Storm, times: Times) -> tuple[float, float]:
    """When the server went and when it was back. **May switch.**"""
    gevent.sleep(times.calm)
    down = time.monotonic()
    server.stop()
    gevent.sleep(max(0.0, down + times.away - time.monotonic()))
    server.start()
    return down, time.monotonic()


def life(
    kind: str, name: str, address: dict[str, Any], begun: str, end: str, size: int
) -> dict[str, Any]:
    """
    A crowd at one pool, and when what happened, as plain data. **May switch.**

    :param begun: the path of a file that is made when replies have come.
    :param end: the path of a file; when there is one, it is over.
    """
    gevent.get_hub().exception_stream = None
    dials = Dials().watch()
    door = DOORS[kind][name](address)
    watch = _Watch(door.tally)
    crowd = Crowd([door], size)
    while not os.path.exists(end):
        gevent.sleep(SLOT)
        if door.tally.answered >= size:
            Path(begun).touch()
    ended = time.monotonic()
    crowd.go_home()
    return {
        "end": ended,
        "answered": watch.counts(watch.answered),
        "failed": watch.counts(watch.failed),
        "dials": dials.times,
        "peak": dials.peak,
    }


class _Watch:
    """Notes when a tally grows."""

    def __init__(self, tally: Tally) -> None:
        self.answered: list[float] = []
        self.failed: list[float] = []
        self._tally = tally
        gevent.spawn(self._look)

    def _look(self) -> None:
        before = failed = 0
        tally = self._tally
        while True:
            gevent.sleep(SLOT / 4)
            now, answered, errors = (
                time.monotonic(),
                tally.answered,
                tally.errors.total(),
            )
            self.answered += [now] * (answered - before)
            self.failed += [now] * (errors - failed)
            before, failed = answered, errors

    def counts(self, times: list[float]) -> Counts:
        """How many in each slot that had any."""
        return Counter(int(when / SLOT) for when in times)


def outage(lived: dict[str, Any], down: float, up: float) -> Outage:
    """
    What a crowd lived through, by the time its server was away.

    :param lived: what :func:`life` returned, maybe through JSON.
    """
    answered = {int(slot): count for slot, count in lived["answered"].items()}
    end = lived["end"]
    # The first third of the calm is the pool's start.
    calm = [count for slot, count in answered.items() if (slot + 1) * SLOT < down]
    calm = calm[len(calm) // 3 :]
    usual = sum(calm) / max(1, len(calm))
    if not usual:
        raise TurnFailed("had no replies before the server went")
    since = int(up / SLOT)
    replies = [answered.get(slot, 0) for slot in range(since, int(end / SLOT))]
    first = next((n for n, count in enumerate(replies) if count), len(replies))
    back = _back(replies, usual * RECOVERED)
    return Outage(
        up - down,
        first * SLOT,
        back * SLOT,
        sum(lived["failed"].values()),
        sum(down < when < up for when in lived["dials"]) / (up - down),
        lived["peak"],
        usual / SLOT,
        back < len(replies),
        _course(answered, down, end),
    )


def _course(answered: Counts, down: float, end: float) -> dict[float, float]:
    # The last tenth may not be a whole one.
    tenths: dict[float, float] = {}
    first = min(answered, default=0)
    for slot in range(first, int((end - TENTH) / SLOT)):
        tenth = round(math.floor((slot * SLOT - down) / TENTH) * TENTH, 1)
        tenths[tenth] = tenths.get(tenth, 0.0) + answered.get(slot, 0) / TENTH
    return tenths


def _back(replies: list[int], wanted: float) -> int:
    """The first slot from which five in a row have as much as wanted on average."""
    for number_of in range(len(replies) - 4):
        if sum(replies[number_of : number_of + 5]) >= 5 * wanted:
            return number_of
    return len(replies)


def _section(
    kind: str, series: dict[str, Series[Outage]], times: Times, size: int
) -> Section:
    section = Section(
        f"{kind}: {size} greenlets on {LIMIT} connections, the server away for "
        f"{duration(times.away)} or as long as it needs",
        ["pool", "first reply", "recovery", "spread", "failed", "dials/s, away"]
        + ["sockets", "replies/s before"],
        key=f"restart of {kind}",
    )
    for name, entry in series.items():
        if entry.error is not None:
            section.fails(name, entry.error)
            continue
        recovery = entry.spread(lambda outage: outage.recovery)
        peak = max(outage.peak for outage in entry.samples)
        section.add(
            name,
            _since(entry.spread(lambda outage: outage.first).median),
            _since(recovery.median),
            _spread(recovery, entry.samples),
            number(entry.spread(lambda outage: outage.failed).median),
            number(entry.spread(lambda outage: outage.dials).median),
            str(peak),
            number(entry.spread(lambda outage: outage.rate).median),
        )
        faults = []
        if not all(outage.has_recovered for outage in entry.samples):
            faults.append(f"had not recovered after {duration(times.after)}")
        if peak > LIMIT:
            section.notes.append(f"{name} opened {peak} of {LIMIT}")
        if faults:
            section.starves(name, ", ".join(faults))
        section.data[name] = [vars(outage) for outage in entry.samples]
    section.measure(series, "recovery", lambda outage: outage.recovery)
    section.measure(series, "dials/s, away", lambda outage: outage.dials, "1/s")
    section.measure(series, "failed requests", lambda outage: outage.failed, "requests")
    section.notes.append(
        f"from the server's return, to {duration(SLOT)}: the first reply; recovery: "
        f"{RECOVERED:.0%} of the replies there were before; sockets: open at once"
    )
    return section


def _figure(kind: str, series: dict[str, Series[Outage]], size: int) -> Figure:
    ran = {name: entry for name, entry in series.items() if entry.error is None}
    lines: dict[str, dict[float, Spread]] = {}
    for name, entry in ran.items():
        courses = [outage.course for outage in entry.samples]
        lines[name] = {
            tenth: Spread.of([course[tenth] for course in courses if tenth in course])
            for tenth in set().union(*courses)
        }
    dials = {
        name: number(entry.spread(lambda outage: outage.dials).median)
        for name, entry in ran.items()
    }
    most = max(
        (name for name in ran if name != peers.OURS),
        key=lambda name: ran[name].spread(lambda outage: outage.dials).median,
        default=peers.OURS,
    )
    return Figure.of_lines(
        f"restart-{kind}",
        f"A restart of {kind}: {dials.get(peers.OURS, 'no')} dials/s at a server that "
        f"is away, {most} {dials.get(most, '')}",
        f"{size} greenlets on {LIMIT} connections; each waits after an error",
        "seconds since the server went",
        "replies per second",
        lines,
        log_x=False,
        log_y=False,
    )


def _since(seconds: float) -> str:
    return duration(seconds) if seconds else f"< {duration(SLOT)}"


def _spread(spread: Spread, samples: Sequence[object]) -> str:
    return plus_minus(spread) if len(samples) > 1 else "one round"
