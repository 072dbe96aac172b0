"""What does a SQLAlchemy engine gain from GreenletPool, and what does it cost?

Engines that differ only in their ``poolclass``: the throughput of 10 greenlets on 10
connections to a MariaDB, beside 10 connections without a pool, and how long 200
greenlets wait.

An engine begins a transaction with the first statement and ends it by a ROLLBACK when
the connection is closed. That is a second round trip for every contestant.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

from benchmarks.adapters import PoolAdapter
from benchmarks.crowd import (
    CONNECTIONS,
    Contestant,
    closing,
    compare,
    lending,
    p99,
    throughput,
)
from benchmarks.report import Report
from benchmarks.rounds import Scale

OURS = "GreenletPool"
STOCK = "QueuePool"
NO_POOL = "no pool"


def run(scale: Scale) -> Report:
    """Make all tables. May switch."""
    server = import_module("tests.servers").MariaDBServer
    report = Report("sqlalchemy", "what does an engine gain from the pool?")
    with server(max_connections=200) as running:
        account = "{user}:{password}@{host}:{port}/{database}".format(
            **running.client_options
        )
        url = f"mysql+pymysql://{account}"
        query = import_module("sqlalchemy").text("SELECT 1")

        def ask(conn: Any) -> None:
            conn.execute(query).scalar()

        def ask_and_end(conn: Any) -> None:
            ask(conn)
            conn.rollback()

        owner = engine(url, STOCK)
        own = [owner.connect() for _ in range(CONNECTIONS)]
        with _pools(url) as pools:
            contestants = {name: lending(pool, ask) for name, pool in pools.items()}
            alone = Contestant([partial(ask_and_end, conn) for conn in own])
            all_of_them = {NO_POOL: alone, **contestants}
            more: Any = {"floor": NO_POOL, "rivals": [STOCK]}
            table = compare(report, scale, "SELECT 1", all_of_them, **more)
            over = table.over(OURS, STOCK, throughput)
            report.target(f"throughput of {OURS} to {STOCK}", over, 1.0, at_least=True)
            for conn in own:
                conn.close()
            crowd = (contestants, scale.crowd)
            table = compare(report, scale, "SELECT 1", *crowd, rivals=[STOCK])
            over = table.over(OURS, STOCK, p99)
            report.target(f"p99 of {OURS} to {STOCK}", over, 0.2)
        owner.dispose()
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


def _pools(url: str) -> Any:
    clean = engine(url, pool_reset_on_return=None)
    import_module("geventpool.sqlalchemy").reset_server_session(clean)
    engines = {
        OURS: engine(url),
        STOCK: engine(url, STOCK),
        f"{STOCK}, pre_ping": engine(url, STOCK, pool_pre_ping=True),
        f"{OURS}, session reset": clean,
    }
    pools = {
        name: PoolAdapter(
            name, one.connect, lambda conn: conn.close(), one.dispose, one.connect
        )
        for name, one in engines.items()
    }
    return closing(pools)
