"""
What is left of a pool whose borrowers are killed wherever they stand?

A crowd asks a server for the echo of tags. Every few milliseconds one of them is
killed, wherever it is, and another takes its place; every tenth request is given up by
a ``gevent.Timeout`` after at most 20 ms. Then it is calm, and after that it is counted:
how many connections can still be had at once, how many replies went to somebody else,
and how many of the crowd have been waiting ever since the storm.

Every turn has a process of its own: a pool that hangs is ended and shown.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import gevent

from benchmarks import peers
from benchmarks.children import Nursery, in_turn
from benchmarks.demo.crowd import Crowd
from benchmarks.demo.stores import LIMIT
from benchmarks.dials import Dials
from benchmarks.doors import DOORS, usable
from benchmarks.report import Report, Section, Target, duration, number
from benchmarks.rounds import Scale, Series, Spread
from benchmarks.servers import Storm, kinds

#: Seconds between two kills.
KILL_EVERY = 0.003
#: Seconds a turn may take beyond its storm before its pool counts as hung.
PATIENCE = 15.0


@dataclass(frozen=True)
class Wreck:
    """What one storm left behind."""

    killed: int
    given_up: int
    answered: int
    astray: int
    #: Requests that failed, by error.
    errors: dict[str, int]
    #: Places that could be had at once in the end.
    usable: int
    #: Greenlets that have waited in vain since before the calm.
    stranded: int
    #: Answers per second in the calm.
    calm_rate: float
    #: Seconds of the longest wait, those that go on included.
    longest: float
    #: Sockets open at once.
    peak: int
    dials: int


def run(scale: Scale) -> Report:
    """A storm over every pool, at each kind of server. **May switch.**"""
    report = Report("killstorm", "what is left of a pool whose borrowers are killed?")
    seconds = 0.05 if scale.name == "tiny" else scale.seconds
    rounds = 1 if scale.name == "tiny" else max(2, scale.rounds // 5)
    with Nursery("benchmarks.killstorm") as nursery:
        for kind in kinds(scale):
            with Storm(kind) as server:
                turns = {
                    name: _turn(nursery, server, name, seconds, scale.crowd // 2)
                    for name in DOORS[kind]
                }
                series = in_turn(turns, rounds, f"kills at {kind}")
            report.sections.append(_section(kind, series, scale.crowd // 2, seconds))
            report.targets += _targets(kind, series[peers.OURS])
    return report


def _turn(nursery: Nursery, server: Storm, name: str, seconds: float, size: int) -> Any:
    def turn() -> Wreck:
        wreck = nursery.turn(
            "storm",
            seconds * 2 + PATIENCE,
            kind=server.kind,
            name=name,
            address=server.address,
            seconds=seconds,
            size=size,
        )
        return Wreck(**wreck)

    return turn


def storm(
    kind: str, name: str, address: dict[str, Any], seconds: float, size: int
) -> dict[str, Any]:
    """A storm over one pool and the calm after it, as plain data. **May switch.**"""
    # What a killed greenlet's pool writes about it is not the matter here.
    gevent.get_hub().exception_stream = None
    dials = Dials().watch()
    door = DOORS[kind][name](address)
    crowd = Crowd([door], size)
    gevent.sleep(seconds / 5)
    crowd.is_rough = True
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        crowd.kill_one()
        gevent.sleep(KILL_EVERY)
    crowd.is_rough = False
    tally, calm = door.tally, time.monotonic()
    answered = tally.answered
    gevent.sleep(seconds)
    rate = (tally.answered - answered) / (time.monotonic() - calm)
    stranded = sum(began < calm for began in tally.waiting.values())
    longest = max(tally.all_waits(), default=0.0)
    try:
        crowd.go_home()
    except gevent.Timeout as late:
        # Waiting for a lock, say, whose holder was killed.
        raise RuntimeError("hung: killed greenlets do not end") from late
    return {
        "killed": crowd.killed,
        "given_up": tally.given_up,
        "answered": tally.answered,
        "astray": tally.astray,
        "errors": dict(tally.errors),
        "usable": usable(door, min(2.0, 3 * seconds)),
        "stranded": stranded,
        "calm_rate": rate,
        "longest": longest,
        "peak": dials.peak,
        "dials": len(dials.times),
    }


def _section(
    kind: str, series: dict[str, Series[Wreck]], size: int, seconds: float
) -> Section:
    section = Section(
        f"{kind}: {size} greenlets on {LIMIT} connections, killed for "
        f"{duration(seconds)}, then calm as long",
        ["pool", "places left", "sockets", "astray", "stranded", "replies/s after"]
        + ["longest wait", "dials", "killed", "given up", "errors"],
        key=f"kills at {kind}",
    )
    for name, entry in series.items():
        if entry.error is not None:
            section.fails(name, entry.error)
            continue
        worst = entry.samples
        least = min(wreck.usable for wreck in worst)
        stranded = max(wreck.stranded for wreck in worst)
        errors = _errors(worst)
        peak = max(wreck.peak for wreck in worst)
        section.add(
            name,
            f"{least} of {LIMIT}",
            str(peak),
            str(sum(wreck.astray for wreck in worst)),
            str(stranded),
            number(entry.spread(lambda wreck: wreck.calm_rate).median),
            duration(max(wreck.longest for wreck in worst)),
            str(sum(wreck.dials for wreck in worst)),
            str(sum(wreck.killed for wreck in worst)),
            str(sum(wreck.given_up for wreck in worst)),
            str(sum(errors.values())),
        )
        faults = []
        if least < LIMIT:
            faults.append(f"lost {LIMIT - least} of {LIMIT} places")
        if stranded:
            faults.append(f"left {stranded} of {size} greenlets unserved")
        if peak > LIMIT:
            section.notes.append(f"{name} opened {peak} of {LIMIT}")
        if faults:
            section.starves(name, ", ".join(faults))
        if errors:
            told = ", ".join(f"{count} {each}" for each, count in errors.items())
            section.notes.append(f"{name}, errors: {told}")
        section.data[name] = [vars(wreck) for wreck in worst]
    section.measure(series, "places lost", lambda wreck: LIMIT - wreck.usable, "places")
    section.measure(series, "replies astray", lambda wreck: wreck.astray, "replies")
    section.notes.append(
        "places left: the fewest of all rounds that could be had at once in the end; "
        "sockets: open at once; "
        "astray: replies that carried another's tag; stranded: waiting since the storm"
    )
    return section


def _errors(wrecks: list[Wreck]) -> dict[str, int]:
    total: dict[str, int] = {}
    for wreck in wrecks:
        for name, count in wreck.errors.items():
            total[name] = total.get(name, 0) + count
    return total


def _targets(kind: str, entry: Series[Wreck]) -> list[Target]:
    if entry.error is not None:
        return []
    lost = Spread.of([float(LIMIT - wreck.usable) for wreck in entry.samples])
    astray = Spread.of([float(wreck.astray) for wreck in entry.samples])
    return [
        Target(f"places lost, {kind}", lost, 0),
        Target(f"replies astray, {kind}", astray, 0),
    ]
