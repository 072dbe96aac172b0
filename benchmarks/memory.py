"""
What an idle connection and a waiter take of memory, beyond themselves.

A connection is taken away from the number, and so is a greenlet that sleeps: both are
there without any pool.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator

import gevent
from gevent.event import Event

from benchmarks import peers
from benchmarks.lines import Line
from benchmarks.peers import Contestant
from benchmarks.progress import step
from benchmarks.report import Measure, Section, Target, number
from benchmarks.rounds import Spread

IDLE, WAITER = "idle connection", "waiter"
BUILDERS = (peers.lifo_queue, *peers.POOLS)


def memory(many: int) -> Section:
    """The bytes of every contestant, of as many of each. **May switch.**"""
    section = Section(
        f"bytes beyond the connection or the greenlet itself, of {many:,}",
        ["pool", f"per {IDLE}", f"per {WAITER}"],
        key="bytes",
        floor=peers.FLOOR,
    )
    bare = _traced(lambda: [peers.Dummy() for _ in range(many)]) / many
    asleep = _traced(lambda: _Sleepers(many)) / many
    with step("memory", len(BUILDERS)) as tick:
        for build in BUILDERS:
            tick(build.__name__)
            contestants, missing = peers.built((build,), many)
            peers.close_all(contestants)
            for name, reason in missing.items():
                section.fails(name, reason)
            for name in contestants:
                each = _traced(lambda: _filled(build(many), many)) / many - bare
                _note(section, name, IDLE, each)
                waiting = ""
                if name in (peers.OURS, peers.FLOOR):
                    more = _traced(lambda: Line(build(1), many)) / many - asleep
                    _note(section, name, WAITER, more)
                    waiting = number(more)
                section.add(name, number(each), waiting)
    section.notes.append(f"per {WAITER}: beyond a greenlet that sleeps")
    return section


def memory_targets(section: Section) -> Iterator[Target]:
    """What is promised of our pool's memory."""
    for measure in section.measures:
        if (measure.contestant, measure.quantity) == (peers.OURS, IDLE):
            yield Target(f"bytes per {IDLE}", Spread.of(measure.samples), 1024)


def _note(section: Section, name: str, quantity: str, value: float) -> None:
    section.measures.append(Measure(name, quantity, "B", [value]))


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
