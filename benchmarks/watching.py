"""
What does it cost to hear at once that the peer of an idle connection hangs up?

The same uncontended cycle on real socket pairs: with a pool that watches nothing, with
the watch as it is (put on now and then, for nothing is done at a loan), and with what a
watcher started and stopped at every loan would add to the first. And what a loan costs
after a rest, when a watcher was put on meanwhile and has to be taken off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from gevent import socket

from benchmarks.cycle import repeated
from benchmarks.report import Report, Section, Target, duration, plus_minus, ratio
from benchmarks.rounds import Sample, Scale, Series, interleave, timed
from geventpool import Connector, Pool
from geventpool.sockets import is_quiet

BLIND = "nothing watched"
WATCHED = "watched as it is"
EAGER = "a watcher for each loan"
RESTED = "after a rest, watched"
RESTED_BLIND = "after a rest, not watched"

#: Seconds that watching may add to a cycle; else it would be the reaper's work.
ALLOWED = 0.3e-6


class Blind(Connector[Any]):
    """Lends one end of a socket pair; says nothing of its descriptor."""

    def __init__(self) -> None:
        self.others: list[Any] = []

    def open(self) -> Any:
        """One end; the other is kept. **May switch.**"""
        mine, other = socket.socketpair()
        self.others.append(other)
        return mine

    def close(self, conn: Any) -> None:
        """Both ends are closed. **May switch.**"""
        conn.close()

    def is_usable(self, conn: Any) -> bool:
        """Whether there is nothing to read."""
        return is_quiet(conn)


class Seeing(Blind):
    """Says where the event loop has to look."""

    def fileno(self, conn: Any) -> int:
        """The descriptor of this end."""
        return int(conn.fileno())


def run(scale: Scale) -> Report:
    """One cycle without, with and with a costly watch. **May switch.**"""
    with _pool(Blind()) as blind, _pool(Seeing()) as seeing:
        turns = {
            BLIND: repeated(_cycles(blind), scale.slice),
            WATCHED: repeated(_cycles(seeing), scale.slice),
            EAGER: repeated(_eager(blind), scale.slice),
            RESTED_BLIND: _rested(blind),
            RESTED: _rested(seeing),
        }
        series = interleave(turns, scale.rounds, "loans")
    report = Report("watching", "what does it cost to hear at once who hangs up?")
    report.sections.append(_section(series))
    report.targets.append(_target(series))
    return report


@contextmanager
def _pool(connector: Blind) -> Iterator[Pool[Any]]:
    pool: Pool[Any] = Pool(connector, initial_connections=1, max_connections=1)
    try:
        yield pool
    finally:
        pool.close()
        for other in connector.others:
            other.close()


def _cycles(pool: Pool[Any]) -> Callable[[int], None]:
    def cycles(count: int) -> None:
        for _ in range(count):
            conn = pool.acquire()
            pool.release(conn)

    return cycles


def _eager(pool: Pool[Any]) -> Callable[[int], None]:
    (conn,) = pool.idle_connections()
    watcher = gevent.get_hub().loop.io(conn.fileno(), 1, ref=False)

    def cycles(count: int) -> None:
        for _ in range(count):
            conn = pool.acquire()
            watcher.stop()
            pool.release(conn)
            watcher.start(print)
        watcher.stop()

    return cycles


def _rested(pool: Pool[Any]) -> Callable[[], Sample]:
    """One loan with an answer, by a connection that was put under watch before."""
    other = pool._connector.others[0]  # type: ignore[attr-defined]

    def loan() -> int:
        with pool.connection() as conn:
            conn.send(b"?")
            other.recv(1)
            other.send(b"!")
            conn.recv(1)
        # The loop turns, so that the watcher is heard.
        gevent.sleep(0)
        return 1

    def turn() -> Sample:
        samples = []
        for _ in range(50):
            watch = pool._stock.watch
            if watch is not None:
                watch.look()
            samples.append(timed(loan))
        return Sample(
            sum(sample.wall for sample in samples),
            sum(sample.cpu for sample in samples),
            len(samples),
        )

    return turn


def _each(sample: Sample) -> float:
    return sample.each


def _section(series: dict[str, Series[Sample]]) -> Section:
    columns = ["cycle", "each", "spread", "to nothing watched"]
    section = Section("one loan", columns, key="watching", floor=BLIND)
    section.measure(series, "each", _each)
    for name, entry in series.items():
        if entry.error is not None:
            section.fails(name, entry.error)
            continue
        floor = series[RESTED_BLIND if name in (RESTED, RESTED_BLIND) else BLIND]
        wall = entry.spread(_each)
        section.add(
            name,
            duration(wall.median),
            plus_minus(wall),
            "1" if entry is floor else ratio(entry.over(floor, _each)),
        )
    return section


def _target(series: dict[str, Series[Sample]]) -> Target:
    blind = series[BLIND].spread(_each).median
    allowed = 1 + ALLOWED / blind
    return Target(
        "watched, to not watched", series[WATCHED].over(series[BLIND], _each), allowed
    )
