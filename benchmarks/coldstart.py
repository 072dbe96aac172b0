"""How does a pool without connections handle a burst?

All at once many greenlets ask an empty pool for a connection, and a dial takes as long
as over a long distance. Each holds its connection for a moment and is done. The fewer
dials the better, as long as nobody waits because of that: a connection that is given
back may be ready sooner than one that is still being opened.

"The possible" opens all connections at the same time and serves everybody in turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import gevent
import gevent.queue

from benchmarks import adapters
from benchmarks.adapters import OURS, Builder, PoolAdapter
from benchmarks.fakes import slow_fake
from benchmarks.load import POSSIBLE
from benchmarks.report import Column, Report, Section, duration, number
from benchmarks.rounds import Scale, Series, interleave

LIMIT = 20

#: Seconds that a loan lasts.
HOLD = 0.005

#: Seconds that a dial takes: within a building, and to another continent.
DIALS = (0.005, 0.05)

#: Seconds that a turn may take before its pool counts as failed.
PATIENCE = 8.0

HURRIED = "geventpool, 20 dials at a time"


@dataclass(frozen=True)
class Burst:
    """One burst: seconds until each reply, sorted, and what was opened for it."""

    replies: list[float]
    dials: int
    peak: int
    unserved: int

    @property
    def first(self) -> float:
        """Seconds until the first reply."""
        return self.replies[0] if self.replies else PATIENCE

    @property
    def last(self) -> float:
        """Seconds until the last reply."""
        return PATIENCE if self.unserved else self.replies[-1]

    @property
    def median(self) -> float:
        """Seconds within which half were served."""
        return self.replies[len(self.replies) // 2] if self.replies else PATIENCE


def run(scale: Scale) -> Report:
    """Send the burst to every pool, with short and with long dials. May switch."""
    report = Report("coldstart", "how does a pool without connections handle a burst?")
    builders, missing = adapters.installed()
    builders = {
        POSSIBLE: possible,
        OURS: builders.pop(OURS),
        HURRIED: partial(adapters.ours.fake, max_connecting=LIMIT),
        **builders,
    }
    for dial in DIALS[:1] if scale.name == "tiny" else DIALS:
        turns: dict[str, Callable[[], Burst]] = {
            name: partial(burst, build, dial, scale.crowd)
            for name, build in builders.items()
        }
        series = interleave(turns, max(1, scale.rounds // 3), f"dials of {dial} s")
        report.sections.append(_section(series, missing, dial, scale.crowd))
        for name in (OURS, HURRIED):
            if series[name].samples:
                peak = series[name].spread(lambda each: each.peak / LIMIT)
                title = f"open at once to the limit, {name}, {duration(dial)}"
                report.target(title, peak, 1)
    return report


def possible(limit: int, kind: type) -> PoolAdapter:
    """Build what dials for all connections at the first call; then it is a queue."""
    queue: gevent.queue.Queue[object] = gevent.queue.Queue()
    dialling: list[gevent.Greenlet[..., None]] = []

    def acquire() -> object:
        if not dialling:
            dialling.extend(
                gevent.spawn(lambda: queue.put_nowait(kind.dial()))  # type: ignore
                for _ in range(limit)
            )
        return queue.get()

    return PoolAdapter(
        POSSIBLE, acquire, queue.put_nowait, lambda: gevent.killall(dialling)
    )


def burst(build: Builder, dial: float, greenlets: int) -> Burst:
    """Send one burst to a new pool. May switch."""
    kind = slow_fake(dial)
    replies: list[float] = []
    began = time.perf_counter()
    pool = build(LIMIT, kind)

    def ask() -> None:
        while True:
            try:
                conn = pool.acquire()
                break
            except pool.refusals:
                gevent.sleep(HOLD)
        gevent.sleep(HOLD)
        replies.append(time.perf_counter() - began)
        pool.release(conn)

    asking = [gevent.spawn(ask) for _ in range(greenlets)]
    try:
        gevent.joinall(asking, timeout=PATIENCE)
        unserved = sum(not each.successful() for each in asking)
        return Burst(sorted(replies), kind.server.dials, kind.server.peak, unserved)
    finally:
        gevent.killall(asking)
        pool.close()


def _last(sample: Burst) -> float:
    return sample.last


def _section(
    series: dict[str, Series[Burst]], missing: dict[str, str], dial: float, size: int
) -> Section:
    section = Section(
        f"{size} greenlets at once at an empty pool of {LIMIT}, each dial "
        f"{duration(dial)}, each loan {duration(HOLD)}",
        key=f"dials of {duration(dial)}",
        floor=POSSIBLE,
    )
    columns = [
        Column("last reply", _last, spread=True, ratios={"to poss.": POSSIBLE}),
        Column("first", lambda each: each.first, is_measured=False),
        Column("p50", lambda each: each.median, is_measured=False),
        Column("dials", lambda each: each.dials, "", text="{:.0f}".format),
        Column("open", lambda each: each.peak, "", text="{:.0f}".format, pick=max),
    ]
    section.fill(series, columns, missing)
    for name, entry in series.items():
        peak = max((each.peak for each in entry.samples), default=0)
        if peak > LIMIT:
            section.notes.append(f"{name} opened {number(peak)} of {LIMIT}")
        unserved = max((each.unserved for each in entry.samples), default=0)
        section.starves(name, unserved, size)
    section.notes.append("dials: in all; open: at once, with those being opened")
    return section
