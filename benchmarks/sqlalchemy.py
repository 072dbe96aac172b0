"""What does a SQLAlchemy engine gain from GreenletPool, and what does it cost?

Engines that differ only in their ``poolclass``: the throughput of 10 greenlets on 10
connections to a MariaDB, beside 10 connections without a pool; how long the slowest of
200 greenlets wait; and what borrowing and returning costs without a server.

An engine begins a transaction with the first statement and ends it by a ROLLBACK when
the connection is closed. That is a second round trip for every contestant.
"""

from __future__ import annotations

from functools import cache, partial
from importlib import import_module
from typing import Any

from benchmarks.adapters import PoolAdapter
from benchmarks.mysql import (
    CONNECTIONS,
    LOANS,
    NO_POOL,
    add_waits,
    crowd,
    joined,
    rate,
    repeat,
    sharing,
    throughput_section,
)
from benchmarks.report import Column, Report, Section
from benchmarks.rounds import Scale, interleave, ratio_between

OURS = "GreenletPool"
STOCK = "QueuePool"
RESET = "GreenletPool, session reset"

#: Loans without a server are so much cheaper.
BARE = 20

#: Loans of each of many greenlets, at full scale. Not for a fixed time: then the few
#: greenlets that a pool prefers would have most of the loans.
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
        pools = _contestants(url)
        loans = max(10, int(JOB * scale.seconds))
        turns = {
            name: partial(crowd, pool, ask, scale, loans)
            for name, pool in pools.items()
        }
        series = interleave(turns, scale.long_rounds, "waits")
        _close(pools)
        add_waits(report, series, f"SELECT 1, {loans} times each", scale, OURS, STOCK)
    _add_bare(report, scale)
    return report


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


def _adapter(name: str, one: Any) -> PoolAdapter:
    return PoolAdapter(
        name, one.connect, lambda conn: conn.close(), one.dispose, one.connect
    )


def _contestants(url: str) -> dict[str, PoolAdapter]:
    clean = engine(url, pool_reset_on_return=None)
    import_module("geventpool.sqlalchemy").reset_server_session(clean)
    engines = {
        OURS: engine(url),
        STOCK: engine(url, STOCK),
        f"{STOCK}, pre_ping": engine(url, STOCK, pool_pre_ping=True),
        RESET: clean,
    }
    return {name: _adapter(name, one) for name, one in engines.items()}


def _close(pools: dict[str, PoolAdapter]) -> None:
    for pool in pools.values():
        pool.close()


@cache
def _query() -> Any:
    return import_module("sqlalchemy").text("SELECT 1")


def ask(conn: Any) -> None:
    """Send one small query. May switch."""
    conn.execute(_query()).scalar()


def _ask_and_end(conn: Any) -> None:
    ask(conn)
    conn.rollback()


def _add_throughput(report: Report, url: str, scale: Scale) -> None:
    pools = _contestants(url)
    loans = max(3, int(LOANS * scale.seconds / 8))
    owner = engine(url, STOCK)
    own = [owner.connect() for _ in range(CONNECTIONS)]
    alone = [partial(repeat, _ask_and_end, conn, loans) for conn in own]
    turns = {NO_POOL: partial(joined, alone, loans)}
    turns.update({name: sharing(pool, ask, loans) for name, pool in pools.items()})
    series = interleave(turns, scale.rounds, "SELECT 1")
    for conn in own:
        conn.close()
    owner.dispose()
    _close(pools)
    report.sections.append(throughput_section(series, "SELECT 1", STOCK))
    over = ratio_between(series, OURS, STOCK, rate)
    report.target(f"throughput of {OURS} to {STOCK}", over, 1.0, at_least=True)


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
        name: partial(joined, [partial(_loop, one.raw_connection, loans)], loans)
        for name, one in engines.items()
    }
    series = interleave(turns, scale.rounds, "a bare loan")
    for one in engines.values():
        one.dispose()
    title = (
        "raw_connection() and close() by one greenlet, connections that cost nothing"
    )
    ratios = {f"to {STOCK}": STOCK}
    column = Column("a loan", lambda sample: sample.each, spread=True, ratios=ratios)
    report.sections.append(Section(title, best=STOCK).fill(series, [column]))


def _loop(borrow: Any, loans: int) -> None:
    for _ in range(loans):
        borrow().close()
