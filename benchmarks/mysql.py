"""What does a pool cost, and what does it save, where each loan is a query?

On a real MariaDB: the throughput of 10 greenlets on 10 connections with several kinds
of loans, beside 10 connections without a pool; how long the slowest of 200 greenlets
wait; how long opening 20 connections at once blocks everybody else; and what each way
to reset a connection costs.

Every pool has its defaults. Ours resets the whole session, the peers roll an open
transaction back, and PooledDB pings too. Further rows show the pools with less.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from itertools import count
from typing import Any

import gevent

from benchmarks import adapters
from benchmarks.adapters import OURS, PoolAdapter
from benchmarks.adapters.base import MYSQL_POOL, POLL, POOLED_DB, QUEUE_POOL
from benchmarks.report import Column, Report, Section
from benchmarks.rounds import (
    Sample,
    Scale,
    Series,
    best_of,
    interleave,
    ratio_between,
    timed,
)

NO_POOL = "no pool"
ROLLBACK = "geventpool, reset='rollback'"
RIVALS = (QUEUE_POOL, POOLED_DB, MYSQL_POOL)

#: The rivals that keep their limit under load.
FIRM = RIVALS[:2]

CONNECTIONS = 10
BURST = 20

#: Loans of each greenlet in one turn, at full scale.
LOANS = 400

Options = dict[str, Any]
Deed = Callable[[Any], object]


# What a loan does


def ask(conn: Any) -> None:
    """Send one small query. May switch."""
    with conn.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.fetchone()


def insert(conn: Any) -> None:
    """Insert a row with a generated key. May switch."""
    with conn.cursor() as cursor:
        cursor.execute("INSERT INTO benchmark (value) VALUES (1)")


def change(conn: Any) -> None:
    """Change the session, which the pool must reset. May switch."""
    with conn.cursor() as cursor:
        cursor.execute("SET @value = 1")


@dataclass(frozen=True)
class Kind:
    """One kind of loans, and the targets: to no pool, and to QueuePool."""

    title: str
    deed: Deed
    autocommit: bool
    to_no_pool: float | None
    to_queue_pool: float


KINDS = (
    Kind("SELECT 1 in autocommit", ask, True, 0.92, 1.9),
    Kind("SELECT 1 and COMMIT", ask, False, None, 1.4),
    Kind("INSERT in autocommit", insert, True, None, 1.3),
    Kind("SET of a variable in autocommit", change, True, None, 1.0),
)


def run(scale: Scale) -> Report:
    """Make all tables. May switch."""
    server = import_module("tests.servers").MariaDBServer
    report = Report("mysql", "what does a pool cost where each loan is a query?")
    with server(max_connections=600) as running:
        options = running.client_options
        running.ask(
            f"CREATE TABLE {options['database']}.benchmark "
            "(id INT AUTO_INCREMENT PRIMARY KEY, value INT) ENGINE=MEMORY"
        )
        for kind in KINDS:
            _add_throughput(report, options, scale, kind)
        _add_waits(report, {**options, "autocommit": True}, scale)
        _add_burst(report, options, scale)
        _add_modes(report, options, scale)
    return report


# The contestants


def _contestants(options: Options) -> dict[str, PoolAdapter]:
    return {
        OURS: adapters.ours.mysql(CONNECTIONS, **options),
        QUEUE_POOL: adapters.peers.queue_pool(CONNECTIONS, **options),
        POOLED_DB: adapters.peers.pooled_db(CONNECTIONS, **options),
        MYSQL_POOL: patient(adapters.peers.pymysql_pool(CONNECTIONS, **options)),
        ROLLBACK: adapters.ours.mysql(CONNECTIONS, reset="rollback", **options),
        "QueuePool, no reset": adapters.peers.queue_pool(
            CONNECTIONS, pool_options={"reset_on_return": None}, **options
        ),
        "PooledDB, no reset, no ping": adapters.peers.pooled_db(
            CONNECTIONS, pool_options={"reset": False, "ping": 0}, **options
        ),
    }


def patient(pool: PoolAdapter) -> PoolAdapter:
    """Return an adapter that tries again after a refusal."""

    def acquire() -> Any:
        while True:
            try:
                return pool.acquire()
            except pool.refusals:
                gevent.sleep(POLL)

    return replace(pool, acquire=acquire)


def _looped(pool: PoolAdapter, deed: Deed, times: int) -> None:
    loan = pool.block or pool.loan
    for _ in range(times):
        with loan() as conn:
            deed(conn)


def repeat(deed: Deed, conn: Any, times: int) -> None:
    """Do the same again and again over one connection. May switch."""
    for _ in range(times):
        deed(conn)


def _committing(deed: Deed) -> Deed:
    def committed(conn: Any) -> None:
        deed(conn)
        conn.commit()

    return committed


def joined(works: list[Callable[[], object]], loans: int) -> Sample:
    """Run these at the same time, each with so many loans. May switch."""

    def work() -> int:
        gevent.joinall([gevent.spawn(each) for each in works], raise_error=True)
        return loans * len(works)

    return timed(work)


@contextmanager
def _own_connections(options: Options) -> Iterator[list[Any]]:
    connect = import_module("pymysql").connect
    own = [connect(**options, ssl_disabled=True) for _ in range(CONNECTIONS)]
    yield own
    for conn in own:
        conn.close()


# 10 greenlets on 10 connections


def rate(sample: Sample) -> float:
    """Return the loans per second."""
    return 1 / sample.each


def _add_throughput(report: Report, options: Options, scale: Scale, kind: Kind) -> None:
    options = {**options, "autocommit": kind.autocommit}
    loans = max(3, int(LOANS * scale.seconds / 5))
    whole = kind.deed if kind.autocommit else _committing(kind.deed)
    pools = _contestants(options)
    with _own_connections(options) as own:
        alone = [partial(repeat, whole, conn, loans) for conn in own]
        turns = {NO_POOL: partial(joined, alone, loans)}
        for name, pool in pools.items():
            # Our block commits at its end.
            deed = kind.deed if pool.commits else whole
            turns[name] = sharing(pool, deed, loans)
        series = interleave(turns, scale.rounds, kind.title)
    adapters.close(*pools.values())
    best = best_of(series, RIVALS, rate)
    section = throughput_section(series, kind.title, best)
    section.notes.append("to the best peer: of " + ", ".join(RIVALS))
    report.sections.append(section)
    for other, limit in ((NO_POOL, kind.to_no_pool), (QUEUE_POOL, kind.to_queue_pool)):
        if limit is not None:
            over = ratio_between(series, OURS, other, rate)
            report.target(f"{kind.title}, to {other}", over, limit, at_least=True)


def sharing(
    pool: PoolAdapter, deed: Deed, loans: int, greenlets: int = CONNECTIONS
) -> Callable[[], Sample]:
    """Return a turn of greenlets, each of which has so many loans."""
    return partial(joined, [partial(_looped, pool, deed, loans)] * greenlets, loans)


def throughput_section(
    series: dict[str, Series[Sample]], what: str, best: str | None
) -> Section:
    """Return the table of a throughput."""
    section = Section(
        f"{what}, {CONNECTIONS} greenlets on {CONNECTIONS} connections",
        floor=NO_POOL,
        best=best,
    )
    ratios = {"to no pool": NO_POOL, "to the best peer": best}
    columns = [
        Column("loans/s", rate, "1/s", True, spread=True, ratios=ratios),
        Column("CPU of a loan", lambda sample: sample.cpu_each),
    ]
    return section.fill(series, columns)


# 200 greenlets on 10 connections


@dataclass(frozen=True)
class Crowd:
    """One turn of many greenlets: loans per second, and the p99 of the waits."""

    throughput: float
    p99: float


def _add_waits(report: Report, options: Options, scale: Scale) -> None:
    pools = _contestants(options)
    turns = {name: partial(crowd, pool, ask, scale) for name, pool in pools.items()}
    series = interleave(turns, scale.rounds, "waits")
    adapters.close(*pools.values())
    best = best_of(series, FIRM, lambda crowd: -crowd.p99)
    add_waits(report, series, "SELECT 1 in autocommit", scale, OURS, best)


def add_waits(
    report: Report,
    series: dict[str, Series[Crowd]],
    what: str,
    scale: Scale,
    ours: str,
    best: str | None,
) -> None:
    """Add the table of many greenlets, and the target of ours."""
    section = Section(
        f"{what}, {scale.crowd} greenlets on {CONNECTIONS} connections", best=best
    )
    ratios = {f"to {best}": best}
    columns = [
        Column("p99 of a loan", lambda crowd: crowd.p99, spread=True, ratios=ratios),
        Column("loans/s", lambda crowd: crowd.throughput, "1/s", is_measured=False),
    ]
    section.fill(series, columns)
    section.notes.append("a loan: from acquire to the end of release")
    report.sections.append(section)
    if best is not None:
        over = ratio_between(series, ours, best, lambda crowd: crowd.p99)
        report.target(f"p99 of {ours} to {best}", over, 0.2)


def crowd(
    pool: PoolAdapter, deed: Deed, scale: Scale, loans: int | None = None
) -> Crowd:
    """Let many greenlets have loans, for some time or so many each. May switch."""
    loan = pool.block or pool.loan
    waits: list[float] = []
    began = time.perf_counter()
    until = began + scale.seconds / 2

    def work() -> None:
        for _ in count() if loans is None else range(loans):
            asked = time.perf_counter()
            if loans is None and asked > until:
                return
            with loan() as conn:
                deed(conn)
            waits.append(time.perf_counter() - asked)

    greenlets = [gevent.spawn(work) for _ in range(scale.crowd)]
    gevent.joinall(greenlets, timeout=60, raise_error=True)
    gevent.killall(greenlets)
    waits.sort()
    took = time.perf_counter() - began
    return Crowd(len(waits) / took, waits[int(len(waits) * 0.99)])


# 20 connections at once


def _add_burst(report: Report, options: Options, scale: Scale) -> None:
    connect = import_module("pymysql").connect
    turns = {
        OURS: lambda: _blocked(partial(_open_pool, options)),
        "pymysql.connect": lambda: _blocked(lambda: connect(**options).close(), BURST),
    }
    series = interleave(turns, scale.rounds, "a burst")
    section = Section(f"{BURST} connections opened at once: the event loop is blocked")
    columns = [
        Column("blocked", float, spread=True),
        Column("worst", float, pick=max, is_measured=False),
    ]
    report.sections.append(section.fill(series, columns, first="by"))
    if series[OURS].samples:
        blocked = series[OURS].spread(lambda seconds: seconds * 1000)
        title = f"ms for which {BURST} connections of {OURS} block the event loop"
        report.target(title, blocked, 30.0)


def _open_pool(options: Options) -> None:
    pool = adapters.ours.mysql(BURST, max_connecting=BURST, **options)

    def borrow() -> None:
        with pool.loan():
            gevent.sleep(0.01)

    gevent.joinall([gevent.spawn(borrow) for _ in range(BURST)], raise_error=True)
    pool.close()


def _blocked(work: Callable[[], object], times: int = 1) -> float:
    """Return the longest time that a greenlet could not run which wants to each ms."""
    longest = 0.0

    def tick() -> None:
        nonlocal longest
        while True:
            before = time.perf_counter()
            gevent.sleep(0.001)
            longest = max(longest, time.perf_counter() - before - 0.001)

    ticker = gevent.spawn(tick)
    gevent.sleep(0.005)
    longest = 0.0
    gevent.joinall([gevent.spawn(work) for _ in range(times)], raise_error=True)
    gevent.sleep(0)
    ticker.kill()
    return longest


# What a reset costs


def _add_modes(report: Report, options: Options, scale: Scale) -> None:
    modes = {
        f"reset={reset!r}, {'autocommit' if autocommit else 'commit'}": (
            adapters.ours.mysql(1, reset=reset, autocommit=autocommit, **options)
        )
        for autocommit in (True, False)
        for reset in ("session", "rollback", None)
    }
    loans = max(3, int(LOANS * scale.seconds))
    turns = {name: sharing(pool, ask, loans, 1) for name, pool in modes.items()}
    series: dict[str, Series[Sample]] = interleave(turns, scale.rounds, "resets")
    adapters.close(*modes.values())
    section = Section("what a reset costs: SELECT 1 by one greenlet on one connection")
    none = "reset=None, autocommit"
    column = Column(
        "a loan", lambda sample: sample.each, spread=True, ratios={"to no reset": none}
    )
    section.fill(series, [column], first="mode")
    section.notes.append("'session' is the default: no state of a session is passed on")
    report.sections.append(section)
