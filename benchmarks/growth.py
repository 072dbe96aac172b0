"""
Does a loan cost more when the pool is large or the line is long?

The following are made large, one after the other: the number of connections (half of
them lent, half idle), the length of the line while it is served, the length of the
line while it is killed, and the memory each of them takes.

A long line has a price no pool can avoid: fifty thousand greenlets do not fit into the
processor's caches. "A bare line" is that price: a deque of greenlets, switched to in
turn, and nothing else. A gevent queue is left out: it walks its whole line for every
waiter that leaves it, which at fifty thousand takes minutes.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable

import gevent
from gevent.event import Event

from benchmarks import peers
from benchmarks.cycle import borrowing, repeated
from benchmarks.lines import BARE, Builder, Line, bare_line
from benchmarks.peers import Contestant
from benchmarks.report import Report, Section, Target, duration, number, plus_minus
from benchmarks.rounds import Sample, Scale, Series, Spread, interleave

FEW = 10
MANY_CONNECTIONS = 10_000
MANY_WAITERS = 50_000


def run(scale: Scale) -> Report:
    """Every kind of growth in turn. **May switch.**"""
    report = Report("growth", "does a loan cost more when pool or line grow?")
    _connections(report, scale)
    _waiters(report, scale)
    _memory(report, scale)
    return report


# Many connections.


def _connections(report: Report, scale: Scale) -> None:
    many = scale.part(MANY_CONNECTIONS)
    turns, filled, failed = {}, {}, {}
    # A peer takes a lent connection that nobody refers to any more back.
    lent = []
    for size in (FEW, many):
        for build in (peers.lifo_queue_nowait, *peers.POOLS):
            contestants, missing = peers.built((build,), size)
            failed.update(missing)
            for name, contestant in contestants.items():
                filled[_named(name, size)] = contestant
                lent.append(half_lent(contestant, size))
                cycles = borrowing(contestant)
                turns[_named(name, size)] = repeated(cycles, scale.slice)
    series = interleave(turns, scale.rounds)
    lent.clear()
    peers.close_all(filled)
    title = (
        f"acquire + release with {FEW} and with {many} connections, half of them lent"
    )
    section = _compared(title, series, many)
    for name, reason in failed.items():
        section.fails(name, reason)
    report.sections.append(section)
    _promise(report, series, many, "connections")


def half_lent(contestant: Contestant, size: int) -> list[object]:
    """Have the pool open ``size`` connections; the half still lent. **May switch.**"""
    lent = [contestant.acquire() for _ in range(size)]
    for conn in lent[: size // 2]:
        contestant.release(conn)
    del lent[: size // 2]
    return lent


# Many waiters.


def _waiters(report: Report, scale: Scale) -> None:
    many = scale.part(MANY_WAITERS)
    rounds = max(2, scale.rounds // 3)
    kinds = {"served": Line.served_turn, "killed": Line.killed_turn}
    for kind, turn_of in kinds.items():
        turns = {
            _named(name, size): turn_of(build, size, 2 * many)
            for size in (FEW, many)
            for name, build in CONTENDERS
        }
        series = interleave(turns, rounds)
        title = f"one waiter {kind}, in a line of {FEW} and of {many}"
        report.sections.append(_compared(title, series, many))
        if kind == "served":
            _promise(report, series, many, "waiters")
            _promise_beyond(report, series, many)


CONTENDERS: tuple[tuple[str, Builder], ...] = (
    (BARE, bare_line),
    (peers.OURS, peers.ours),
)


# Memory.


def _memory(report: Report, scale: Scale) -> None:
    many = scale.part(MANY_CONNECTIONS)
    section = Section(
        f"bytes beyond the connection or the greenlet itself, of {many}",
        ["pool", "per idle connection", "per waiter"],
    )
    bare = _traced(lambda: [peers.Dummy() for _ in range(many)]) / many
    asleep = _traced(lambda: _sleepers(many)) / many
    for build in (peers.lifo_queue, *peers.POOLS):
        contestants, missing = peers.built((build,), many)
        for name, reason in missing.items():
            section.fails(name, reason)
        for name, contestant in contestants.items():
            contestant.close()
            each = _traced(lambda: _filled(build(many), many)) / many - bare
            waiting = None
            if name in (peers.OURS, peers.FLOOR):
                waiting = _traced(lambda: Line(build(1), many)) / many - asleep
            shown = "" if waiting is None else number(waiting)
            section.add(name, number(each), shown)
            section.data[name] = {"idle": each, "waiter": waiting}
            if name == peers.OURS:
                memory = Spread.of([each])
                report.targets.append(Target("bytes per idle connection", memory, 1024))
    section.notes.append("per waiter: beyond a greenlet that sleeps")
    report.sections.append(section)


def _traced(make: Callable[[], object]) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        made = make()
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    close = getattr(made, "close", None)
    if close is not None:
        close()
    return after - before


def _filled(contestant: Contestant, size: int) -> Contestant:
    lent = [contestant.acquire() for _ in range(size)]
    while lent:
        contestant.release(lent.pop())
    gevent.idle()
    return contestant


class _Sleepers:
    def __init__(self, size: int) -> None:
        self.event = Event()
        self.greenlets = [gevent.spawn(self.event.wait) for _ in range(size)]
        gevent.idle()

    def close(self) -> None:
        gevent.killall(self.greenlets)


def _sleepers(size: int) -> _Sleepers:
    return _Sleepers(size)


# What all of them share.


def _named(name: str, size: int) -> str:
    return f"{name}, {size}"


def _each(sample: Sample) -> float:
    return sample.each


def _compared(title: str, series: dict[str, Series[Sample]], many: int) -> Section:
    section = Section(title, ["pool", f"with {FEW}", "spread", f"with {many}"])
    section.columns += ["spread", "growth"]
    for name in dict.fromkeys(key.rpartition(", ")[0] for key in series):
        few, large = series[_named(name, FEW)], series[_named(name, many)]
        error = few.error or large.error
        if error is not None:
            section.fails(name, error)
            continue
        small, big = few.spread(_each), large.spread(_each)
        section.add(
            name,
            duration(small.median),
            plus_minus(small),
            duration(big.median),
            plus_minus(big),
            f"{large.over(few, _each).median:.2f}×",
        )
        section.data[name] = {
            str(FEW): [sample.each for sample in few.samples],
            str(many): [sample.each for sample in large.samples],
        }
    return section


def _promise(
    report: Report, series: dict[str, Series[Sample]], many: int, what: str
) -> None:
    few = series.get(_named(peers.OURS, FEW))
    large = series.get(_named(peers.OURS, many))
    if few and large and not few.error and not large.error:
        growth = large.over(few, _each)
        report.targets.append(Target(f"growth with {many} {what}", growth, 1.5))


def _promise_beyond(
    report: Report, series: dict[str, Series[Sample]], many: int
) -> None:
    if any(entry.error is not None for entry in series.values()):
        return
    # Round by round: what the pool adds to the bare line, long over short.
    columns = [
        [sample.each for sample in series[_named(name, size)].samples]
        for size in (many, FEW)
        for name in (peers.OURS, BARE)
    ]
    added = [
        (ours_many - bare_many) / (ours_few - bare_few)
        for ours_many, bare_many, ours_few, bare_few in zip(*columns, strict=True)
    ]
    name = f"growth with {many} waiters of what the pool adds to a bare line"
    report.targets.append(Target(name, Spread.of(added), 1.5))
