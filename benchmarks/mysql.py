"""
What does a pool cost, and what does it save, where each loan asks a MariaDB something?

Four questions on a real server: the throughput of ten greenlets with ten connections,
in autocommit and in transactions, beside ten connections that are nobody's to share;
how long the slowest of two hundred
greenlets waits; how long opening twenty connections at once holds everybody else; and
what each way to clean a connection costs.

Every pool is set up as its documentation has it, which for all of them means that a
transaction left open is rolled back before the next loan. Two rows show the peers with
that and their pings taken away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import gevent

from benchmarks.peers import MYSQL_POOL, POLL
from benchmarks.report import (
    Report,
    Section,
    Target,
    duration,
    number,
    plus_minus,
    ratio,
)
from benchmarks.rounds import Sample, Scale, Series, interleave, timed

OURS = "geventpool"
NO_POOL = "no pool"
RIVALS = ("QueuePool", "PooledDB", MYSQL_POOL)
#: Those of them that keep to their limit when a crowd comes.
FIRM = RIVALS[:2]
CONNECTIONS = 10
BURST = 20
#: Loans of each greenlet in one turn, at full scale.
LOANS = 400

Options = dict[str, Any]


@dataclass(frozen=True)
class Contestant:
    """A pool of MySQL connections: how to borrow one, and how to end it."""

    loan: Callable[[], AbstractContextManager[Any]]
    close: Callable[[], object]
    #: Whether its block commits at a clean end; else the program has to.
    commits: bool = False
    #: How many connections it has, where it is known to open more than it may.
    opened: Callable[[], int] = lambda: CONNECTIONS


@dataclass(frozen=True)
class Crowd:
    """One turn of a crowd: loans in a second, and the wait of the slowest hundredth."""

    throughput: float
    p99: float


def run(scale: Scale) -> Report:
    """All four tables. **May switch.**"""
    server = import_module("tests.servers").MariaDBServer
    report = Report("mysql", "what does a pool cost where each loan is a query?")
    with server(max_connections=600) as running:
        options = {**running.client_options, "autocommit": True}
        _throughput(report, options, scale)
        _throughput(report, running.client_options, scale)
        _waits(report, options, scale)
        _burst(report, running.client_options, scale)
        _modes(report, running.client_options, scale)
    return report


def ask(conn: Any) -> None:
    """What a program does with a connection: one small question."""
    with conn.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.fetchone()


def ask_and_commit(conn: Any) -> None:
    """The same in a transaction of its own."""
    ask(conn)
    conn.commit()


# The contestants


def ours(options: Options, **more: Any) -> Contestant:
    """Our pool, which rolls back where there can be something to roll back."""
    kind = import_module("geventpool.mysql").ConnectionPool
    pool = kind(**{"reset": "rollback", **options, **more})
    return Contestant(pool.connection, pool.close, commits=True)


def queue_pool(options: Options, **more: Any) -> Contestant:
    """SQLAlchemy's QueuePool, which sends a ROLLBACK at each return."""
    pymysql = import_module("pymysql")
    pool = import_module("sqlalchemy.pool").QueuePool(
        lambda: pymysql.connect(**options, ssl_disabled=True),
        pool_size=CONNECTIONS,
        max_overflow=0,
        **more,
    )
    return Contestant(_closing(pool.connect), pool.dispose)


def pooled_db(options: Options, **more: Any) -> Contestant:
    """DBUtils' PooledDB, which pings at each loan and rolls back at each return."""
    pool = import_module("dbutils.pooled_db").PooledDB(
        import_module("pymysql"),
        maxconnections=CONNECTIONS,
        blocking=True,
        ssl_disabled=True,
        **options,
        **more,
    )
    return Contestant(_closing(pool.connection), pool.close)


def pymysql_pool(options: Options) -> Contestant:
    """
    pymysql-pool, which commits or rolls back at each return.

    Who is refused after the ten times it may look asks again.
    """
    package = import_module("pymysqlpool")
    options = dict(options)
    autocommit = options.pop("autocommit", False)
    pool = package.ConnectionPool(
        size=CONNECTIONS,
        maxsize=CONNECTIONS,
        autocommit=autocommit,
        ssl_disabled=True,
        **options,
    )

    def loan() -> Any:
        while True:
            try:
                return pool.get_connection(10, POLL)
            except package.GetConnectionFromPoolError:
                gevent.sleep(POLL)

    def close() -> None:
        while pool.available_num:
            conn = pool.get_connection(0)
            conn._pool = None
            conn.close()

    return Contestant(loan, close, opened=lambda: pool.total_num)


def _closing(borrow: Callable[[], Any]) -> Callable[[], AbstractContextManager[Any]]:
    @contextmanager
    def loan() -> Iterator[Any]:
        conn = borrow()
        try:
            yield conn
        finally:
            conn.close()

    return loan


def _field(options: Options) -> dict[str, Contestant]:
    return {
        OURS: ours(options),
        "QueuePool": queue_pool(options),
        "PooledDB": pooled_db(options),
        MYSQL_POOL: pymysql_pool(options),
        "QueuePool, no reset": queue_pool(options, reset_on_return=None),
        "PooledDB, no reset, no ping": pooled_db(options, reset=False, ping=0),
    }


def _end(contestants: dict[str, Contestant]) -> None:
    for contestant in contestants.values():
        with suppress(Exception):
            contestant.close()


# Ten greenlets on ten connections


def _throughput(report: Report, options: Options, scale: Scale) -> None:
    is_auto = options.get("autocommit", False)
    how = "in autocommit" if is_auto else "in a transaction"
    deed = ask if is_auto else ask_and_commit
    contestants = _field(options)
    loans = max(3, int(LOANS * scale.seconds / 5))
    pymysql = import_module("pymysql")
    own = [pymysql.connect(**options, ssl_disabled=True) for _ in range(CONNECTIONS)]
    alone = [_asking(conn, loans, deed) for conn in own]
    turns = {NO_POOL: lambda: _crowded(alone, loans)}
    for name, contestant in contestants.items():
        turns[name] = _turn(contestant, loans, ask if contestant.commits else deed)
    series = interleave(turns, scale.rounds, f"SELECT 1 {how}")
    _end(contestants)
    for conn in own:
        conn.close()
    section = Section(
        f"SELECT 1 {how}, {CONNECTIONS} greenlets on {CONNECTIONS} connections",
        ["pool", "loans/s", "spread", "to no pool", "to the best peer"],
        floor=NO_POOL,
    )
    best = _best(series, RIVALS, _rate)
    section.best = best.name if best is not None else None
    _rows(section, series, _rate, series[NO_POOL], best)
    section.measure(series, "loans/s", _rate, "1/s", more_is_better=True)
    section.notes.append("to the best peer: of " + ", ".join(RIVALS))
    report.sections.append(section)
    _promise(report, series, NO_POOL, 0.92, how)
    if best is not None:
        _promise(report, series, best.name, 1.5, how)


def _rate(sample: Sample) -> float:
    return 1 / sample.each


def _turn(
    contestant: Contestant, loans: int, deed: Callable[[Any], object]
) -> Callable[[], Sample]:
    def work() -> None:
        loan = contestant.loan
        for _ in range(loans):
            with loan() as conn:
                deed(conn)

    return lambda: _crowded([work] * CONNECTIONS, loans)


def _asking(conn: Any, times: int, deed: Callable[[Any], object]) -> Callable[[], None]:
    def work() -> None:
        for _ in range(times):
            deed(conn)

    return work


def _crowded(works: list[Callable[[], None]], loans: int) -> Sample:
    def work() -> int:
        gevent.joinall([gevent.spawn(each) for each in works], raise_error=True)
        return loans * len(works)

    return timed(work)


def _promise(
    report: Report,
    series: dict[str, Series[Sample]],
    other: str,
    limit: float,
    how: str,
) -> None:
    if series[OURS].error is None and series[other].error is None:
        over = series[other].over(series[OURS], lambda sample: sample.each)
        name = f"throughput of {OURS} to {other}, {how}"
        report.targets.append(Target(name, over, limit, at_least=True))


def _best(
    series: dict[str, Series[Any]],
    names: tuple[str, ...],
    value: Callable[[Any], float],
) -> Series[Any] | None:
    ran = [series[name] for name in names if series[name].error is None]
    return max(ran, key=lambda entry: entry.spread(value).median, default=None)


def _rows(
    section: Section,
    series: dict[str, Series[Any]],
    value: Callable[[Any], float],
    *others: Series[Any] | None,
    written: Callable[[float], str] = number,
) -> None:
    for name, entry in series.items():
        if entry.error is not None:
            section.fails(name, entry.error)
            continue
        spread = entry.spread(value)
        ratios = [
            "" if other is None or other.error is not None
            else "1" if other is entry
            else ratio(entry.over(other, value))
            for other in others
        ]  # fmt: skip
        section.add(name, written(spread.median), plus_minus(spread), *ratios)
        section.data[name] = [value(sample) for sample in entry.samples]


# Two hundred greenlets on ten connections


def _waits(report: Report, options: Options, scale: Scale) -> None:
    contestants = _field(options)
    turns = {
        name: _crowd(contestant, scale) for name, contestant in contestants.items()
    }
    series = interleave(turns, scale.rounds)
    opened = {name: contestant.opened() for name, contestant in contestants.items()}
    _end(contestants)
    section = Section(
        f"SELECT 1 in autocommit, {scale.crowd} greenlets on {CONNECTIONS} connections",
        ["pool", "p99 of a loan", "spread", "to the best peer", "loans/s"],
    )
    best = _best(series, FIRM, lambda sample: -sample.p99)
    _rows(section, series, lambda sample: sample.p99, best, written=duration)
    section.measure(series, "p99 of a loan", lambda sample: sample.p99)
    for row in section.rows:
        if row[1] != "failed":
            rate = series[row[0]].spread(lambda sample: sample.throughput)
            row[4] = number(rate.median)
    for name, count in opened.items():
        if count > CONNECTIONS:
            section.notes.append(f"{name} opened {count} of {CONNECTIONS}")
    section.notes.append("to the best peer: of " + ", ".join(FIRM))
    section.notes.append("a loan: from asking for a connection to having returned it")
    report.sections.append(section)
    if best is not None and series[OURS].error is None:
        over = series[OURS].over(best, lambda sample: sample.p99)
        report.targets.append(Target(f"p99 of {OURS} to {best.name}", over, 0.2))


def _crowd(contestant: Contestant, scale: Scale) -> Callable[[], Crowd]:
    def turn() -> Crowd:
        waits: list[float] = []
        began = time.perf_counter()
        until = began + scale.seconds / 2

        def work() -> None:
            while (asked := time.perf_counter()) < until:
                with contestant.loan() as conn:
                    ask(conn)
                waits.append(time.perf_counter() - asked)

        crowd = [gevent.spawn(work) for _ in range(scale.crowd)]
        gevent.joinall(crowd, timeout=60, raise_error=True)
        gevent.killall(crowd)
        waits.sort()
        took = time.perf_counter() - began
        return Crowd(len(waits) / took, waits[int(len(waits) * 0.99)])

    return turn


# Twenty connections at once


def _burst(report: Report, options: Options, scale: Scale) -> None:
    pymysql = import_module("pymysql")
    turns = {
        OURS: lambda: _held(_opening(ours(options, **_BURST_OPTIONS))),
        "pymysql.connect": lambda: _held(_connecting(pymysql, options)),
    }
    series = interleave(turns, scale.rounds)
    section = Section(
        f"{BURST} connections opened at once: the longest time nobody else ran",
        ["by", "held", "spread", "worst"],
    )
    _rows(section, series, lambda held: held, written=duration)
    for row in section.rows:
        if row[1] != "failed":
            row[3] = duration(max(series[row[0]].samples))
    report.sections.append(section)
    if series[OURS].error is None:
        held = series[OURS].spread(lambda held: held * 1000)
        name = f"ms for which {BURST} connections of {OURS} hold the hub"
        report.targets.append(Target(name, held, 30.0))


_BURST_OPTIONS = {"max_connections": BURST, "max_connecting": BURST}


def _opening(contestant: Contestant) -> Callable[[], None]:
    def work() -> None:
        def borrow() -> None:
            with contestant.loan():
                gevent.sleep(0.01)

        gevent.joinall([gevent.spawn(borrow) for _ in range(BURST)], raise_error=True)
        contestant.close()

    return work


def _connecting(pymysql: Any, options: Options) -> Callable[[], None]:
    def work() -> None:
        def connect() -> None:
            pymysql.connect(**options).close()

        gevent.joinall([gevent.spawn(connect) for _ in range(BURST)], raise_error=True)

    return work


def _held(work: Callable[[], None]) -> float:
    """The longest time in which a greenlet that wants to run each ms could not."""
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
    work()
    gevent.sleep(0)
    ticker.kill()
    return longest


# What cleaning costs


def _modes(report: Report, options: Options, scale: Scale) -> None:
    modes = {
        f"reset={reset!r}, {'autocommit' if autocommit else 'commit'}": ours(
            options, reset=reset, autocommit=autocommit, max_connections=1
        )
        for autocommit in (True, False)
        for reset in (None, "rollback", "session")
    }
    loans = max(3, int(LOANS * scale.seconds))
    turns = {name: _alone(contestant, loans) for name, contestant in modes.items()}
    series = interleave(turns, scale.rounds)
    _end(modes)
    section = Section(
        "what cleaning costs: SELECT 1 by one greenlet with one connection",
        ["mode", "a loan", "spread", "to no reset"],
    )
    first = next(iter(series.values()))
    _rows(section, series, lambda sample: sample.each, first, written=duration)
    section.notes.append("'session' is the default: nothing of a session is passed on")
    report.sections.append(section)


def _alone(contestant: Contestant, loans: int) -> Callable[[], Sample]:
    def work() -> int:
        for _ in range(loans):
            with contestant.loan() as conn:
                ask(conn)
        return loans

    return lambda: timed(work)


if __name__ == "__main__":
    import sys

    from benchmarks.__main__ import main

    sys.exit(main(["mysql", *sys.argv[1:]]))
