"""
What does a SQLAlchemy engine gain from GreenletPool, and what does it cost?

Three questions, all of one engine against another that differs in its ``poolclass``
alone. The throughput of ten greenlets with ten connections to a MariaDB, beside ten
connections that are nobody's to share; how long the slowest of two hundred greenlets
waits, which borrow again and again; and what borrowing and returning alone costs,
without a server.

An engine begins a transaction with the first statement, and ends it by a ROLLBACK when
the connection is closed: that is a second round trip for every contestant alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import gevent

from benchmarks import mysql
from benchmarks.mysql import CONNECTIONS, LOANS, NO_POOL, Crowd
from benchmarks.report import Report, Section, Target, duration, number
from benchmarks.rounds import Sample, Scale, Series, interleave, timed

OURS = "GreenletPool"
STOCK = "QueuePool"
RESET = "GreenletPool, session reset"

#: Loans without a server are so much cheaper.
BARE = 20
#: Loans of each greenlet in a crowd, at full scale.
JOB = 15


def run(scale: Scale) -> Report:
    """All three tables. **May switch.**"""
    server = import_module("tests.servers").MariaDBServer
    report = Report("sqlalchemy", "what does an engine gain from the pool?")
    with server(max_connections=200) as running:
        account = "{user}:{password}@{host}:{port}/{database}".format(
            **running.client_options
        )
        url = f"mysql+pymysql://{account}"
        _throughput(report, url, scale)
        _waits(report, url, scale)
    _alone(report, scale)
    return report


# The contestants


def engine(url: str, pool: str = OURS, **options: Any) -> Any:
    """An engine on ten connections, without TLS, lent by that kind of pool."""
    kinds = {
        OURS: import_module("geventpool.sqlalchemy").GreenletPool,
        STOCK: import_module("sqlalchemy.pool").QueuePool,
    }
    return import_module("sqlalchemy").create_engine(
        url,
        poolclass=kinds[pool],
        pool_size=CONNECTIONS,
        max_overflow=0,
        connect_args={"ssl_disabled": True} if "mysql" in url else {},
        **options,
    )


def _field(url: str) -> dict[str, Any]:
    clean = engine(url, pool_reset_on_return=None)
    import_module("geventpool.sqlalchemy").reset_session_on_return(clean)
    return {
        OURS: engine(url),
        STOCK: engine(url, STOCK),
        f"{STOCK}, pre_ping": engine(url, STOCK, pool_pre_ping=True),
        RESET: clean,
    }


def _asker() -> Callable[[Any], object]:
    statement = import_module("sqlalchemy").text("SELECT 1")
    return lambda conn: conn.execute(statement).scalar()


def _end(engines: dict[str, Any]) -> None:
    for one in engines.values():
        one.dispose()


# Ten greenlets on ten connections


def _throughput(report: Report, url: str, scale: Scale) -> None:
    engines = _field(url)
    ask = _asker()
    loans = max(3, int(LOANS * scale.seconds / 8))
    owner = engine(url, STOCK)
    own = [owner.connect() for _ in range(CONNECTIONS)]

    def keep(conn: Any) -> None:
        for _ in range(loans):
            ask(conn)
            conn.rollback()

    def share(engine: Any) -> None:
        for _ in range(loans):
            with engine.connect() as conn:
                ask(conn)

    turns = {NO_POOL: _crowd([lambda conn=conn: keep(conn) for conn in own], loans)}
    for name, one in engines.items():
        turns[name] = _crowd([lambda one=one: share(one)] * CONNECTIONS, loans)
    series = interleave(turns, scale.rounds, "SELECT 1")
    for conn in own:
        conn.close()
    _end({**engines, NO_POOL: owner})
    section = Section(
        f"SELECT 1, {CONNECTIONS} greenlets on {CONNECTIONS} connections",
        ["pool", "loans/s", "spread", "to no pool", f"to {STOCK}"],
        floor=NO_POOL,
        best=STOCK,
    )
    mysql._rows(section, series, mysql._rate, series[NO_POOL], series[STOCK])
    section.measure(series, "loans/s", mysql._rate, "1/s", more_is_better=True)
    report.sections.append(section)
    _promise(report, series, 1.0, lambda sample: 1 / sample.each, at_least=True)


def _crowd(works: list[Callable[[], None]], loans: int) -> Callable[[], Sample]:
    return lambda: mysql._crowded(works, loans)


def _promise(
    report: Report,
    series: dict[str, Series[Any]],
    limit: float,
    value: Callable[[Any], float],
    at_least: bool = False,
) -> None:
    if series[OURS].error is None and series[STOCK].error is None:
        over = series[OURS].over(series[STOCK], value)
        what = "throughput" if at_least else "p99"
        name = f"{what} of {OURS} to {STOCK}"
        report.targets.append(Target(name, over, limit, at_least=at_least))


# Two hundred greenlets on ten connections


def _waits(report: Report, url: str, scale: Scale) -> None:
    engines = _field(url)
    loans = max(10, int(JOB * scale.seconds))
    turns = {name: _jobs(one, scale, loans) for name, one in engines.items()}
    series = interleave(turns, scale.long_rounds, "a crowd")
    _end(engines)
    section = Section(
        f"SELECT 1, {scale.crowd} greenlets on {CONNECTIONS} connections",
        ["pool", "p99 of a loan", "spread", f"to {STOCK}", "loans/s"],
        best=STOCK,
    )
    mysql._rows(
        section, series, lambda crowd: crowd.p99, series[STOCK], written=duration
    )
    section.measure(series, "p99 of a loan", lambda crowd: crowd.p99)
    for row in section.rows:
        if row[1] != "failed":
            rate = series[row[0]].spread(lambda crowd: crowd.throughput)
            row[4] = number(rate.median)
    section.notes.append("a loan: from asking for a connection to having returned it")
    section.notes.append(f"each greenlet has {loans} loans to do, one after another")
    report.sections.append(section)
    _promise(report, series, 0.2, lambda crowd: crowd.p99)


def _jobs(engine: Any, scale: Scale, loans: int) -> Callable[[], Crowd]:
    """
    As many loans for each greenlet as for any other.

    Not for a certain time: then the few that a pool prefers would be most of what is
    counted, and the hundredth that waits the longest would be lost among them.
    """
    ask = _asker()

    def turn() -> Crowd:
        waits: list[float] = []

        def work() -> None:
            for _ in range(loans):
                asked = time.perf_counter()
                with engine.connect() as conn:
                    ask(conn)
                waits.append(time.perf_counter() - asked)

        began = time.perf_counter()
        crowd = [gevent.spawn(work) for _ in range(scale.crowd)]
        gevent.joinall(crowd, raise_error=True)
        took = time.perf_counter() - began
        waits.sort()
        return Crowd(len(waits) / took, waits[int(len(waits) * 0.99)])

    return turn


# Borrowing and returning alone


class _Silent:
    """A DB-API connection that costs nothing."""

    def rollback(self) -> None:
        """Do nothing."""

    close = rollback


def _alone(report: Report, scale: Scale) -> None:
    loans = max(10, int(LOANS * BARE * scale.seconds))
    engines = {
        name: engine("sqlite://", name, creator=_Silent, _initialize=False)
        for name in (OURS, STOCK)
    }
    turns = {name: _loop(one.raw_connection, loans) for name, one in engines.items()}
    series = interleave(turns, scale.rounds, "a bare loan")
    _end(engines)
    section = Section(
        "raw_connection() and close() by one greenlet, connections that cost nothing",
        ["pool", "a loan", "spread", f"to {STOCK}"],
        best=STOCK,
    )
    mysql._rows(
        section, series, lambda sample: sample.each, series[STOCK], written=duration
    )
    section.measure(series, "a loan", lambda sample: sample.each)
    report.sections.append(section)


def _loop(borrow: Callable[[], Any], loans: int) -> Callable[[], Sample]:
    def work() -> int:
        for _ in range(loans):
            borrow().close()
        return loans

    return lambda: timed(work)


if __name__ == "__main__":
    import sys

    from benchmarks.__main__ import main

    sys.exit(main(["sqlalchemy", *sys.argv[1:]]))
