"""What does a SQLAlchemy engine gain from GreenletPool, and what does it cost?

Engines that differ only in their ``poolclass``: the throughput of 10 greenlets on 10
connections to a MariaDB, beside 10 connections without a pool; how long the slowest of
200 greenlets wait; and what borrowing and returning costs without a server.

An engine begins a transaction with the first statement and ends it by a ROLLBACK when
the connection is closed. That is a second round trip for every contestant.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import gevent

from benchmarks.mysql import (
    CONNECTIONS,
    LOANS,
    NO_POOL,
    Crowd,
    crowd_columns,
    joined,
    rate,
)
from benchmarks.report import Column, Report, Section
from benchmarks.rounds import Sample, Scale, interleave, ratio_between, timed

OURS = "GreenletPool"
STOCK = "QueuePool"
RESET = "GreenletPool, session reset"

#: Loans without a server are so much cheaper.
BARE = 20

#: Loans of each of many greenlets, at full scale.
JOB = 15


def run(scale: Scale) -> Report:
    """Make all tables. May switch."""
    server = import_module("tests.servers").MariaDBServer
    report = Report("sqlalchemy", "what does an engine gain from the pool?")
    with server(max_connections=200) as running:
        account = "{user}:{password}@{host}:{port}/{database}".format(
            **running.client_options
        )
        url = f"mysql+pymysql://{account}"
        _add_throughput(report, url, scale)
        _add_waits(report, url, scale)
    _add_bare(report, scale)
    return report


# The contestants


def engine(url: str, pool: str = OURS, **options: Any) -> Any:
    """Return an engine with 10 connections, without TLS, and that pool class."""
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


def _contestants(url: str) -> dict[str, Any]:
    clean = engine(url, pool_reset_on_return=None)
    import_module("geventpool.sqlalchemy").reset_session_on_return(clean)
    return {
        OURS: engine(url),
        STOCK: engine(url, STOCK),
        f"{STOCK}, pre_ping": engine(url, STOCK, pool_pre_ping=True),
        RESET: clean,
    }


def _query() -> Callable[[Any], object]:
    statement = import_module("sqlalchemy").text("SELECT 1")
    return lambda conn: conn.execute(statement).scalar()


# 10 greenlets on 10 connections


def _add_throughput(report: Report, url: str, scale: Scale) -> None:
    engines = _contestants(url)
    ask = _query()
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

    turns = {NO_POOL: partial(joined, [partial(keep, conn) for conn in own], loans)}
    for name, one in engines.items():
        turns[name] = partial(joined, [partial(share, one)] * CONNECTIONS, loans)
    series = interleave(turns, scale.rounds, "SELECT 1")
    for conn in own:
        conn.close()
    for one in (owner, *engines.values()):
        one.dispose()
    section = Section(
        f"SELECT 1, {CONNECTIONS} greenlets on {CONNECTIONS} connections",
        floor=NO_POOL,
        best=STOCK,
    )
    ratios = {"to no pool": NO_POOL, f"to {STOCK}": STOCK}
    column = Column("loans/s", rate, "1/s", True, spread=True, ratios=ratios)
    report.sections.append(section.fill(series, [column]))
    over = ratio_between(series, OURS, STOCK, rate)
    report.target(f"throughput of {OURS} to {STOCK}", over, 1.0, at_least=True)


# 200 greenlets on 10 connections


def _add_waits(report: Report, url: str, scale: Scale) -> None:
    engines = _contestants(url)
    loans = max(10, int(JOB * scale.seconds))
    turns = {name: partial(_job, one, scale, loans) for name, one in engines.items()}
    series = interleave(turns, scale.long_rounds, "waits")
    for one in engines.values():
        one.dispose()
    section = Section(
        f"SELECT 1, {scale.crowd} greenlets on {CONNECTIONS} connections", best=STOCK
    )
    section.fill(series, crowd_columns({f"to {STOCK}": STOCK}))
    section.notes.append("a loan: from acquire to the end of release")
    section.notes.append(f"each greenlet has {loans} loans, one after another")
    report.sections.append(section)
    over = ratio_between(series, OURS, STOCK, lambda crowd: crowd.p99)
    report.target(f"p99 of {OURS} to {STOCK}", over, 0.2)


def _job(engine: Any, scale: Scale, loans: int) -> Crowd:
    """Let every greenlet have the same number of loans.

    Not for a fixed time: then the few greenlets that a pool prefers would have most of
    the loans, and the percentile would not show the others.
    """
    ask = _query()
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


# Borrowing and returning without a server


class _Silent:
    """A DB-API connection that costs nothing."""

    def rollback(self) -> None:
        """Do nothing."""

    close = rollback


def _add_bare(report: Report, scale: Scale) -> None:
    loans = max(10, int(LOANS * BARE * scale.seconds))
    engines = {
        name: engine("sqlite://", name, creator=_Silent, _initialize=False)
        for name in (OURS, STOCK)
    }
    turns = {
        name: partial(_loop, one.raw_connection, loans) for name, one in engines.items()
    }
    series = interleave(turns, scale.rounds, "a bare loan")
    for one in engines.values():
        one.dispose()
    section = Section(
        "raw_connection() and close() by one greenlet, connections that cost nothing",
        best=STOCK,
    )
    ratios = {f"to {STOCK}": STOCK}
    column = Column("a loan", lambda sample: sample.each, spread=True, ratios=ratios)
    report.sections.append(section.fill(series, [column]))


def _loop(borrow: Callable[[], Any], loans: int) -> Sample:
    def work() -> int:
        for _ in range(loans):
            borrow().close()
        return loans

    return timed(work)


if __name__ == "__main__":
    import sys

    from benchmarks.__main__ import main

    sys.exit(main(["sqlalchemy", *sys.argv[1:]]))
