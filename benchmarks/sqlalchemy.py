"""What does a SQLAlchemy engine gain from GreenletPool, and what does it cost?

Engines that differ only in their ``poolclass``: the throughput of 10 greenlets on 10
connections to a MariaDB, beside 10 connections without a pool, and how long 200
greenlets wait.

An engine begins a transaction with the first statement and ends it by a ROLLBACK when
the connection is closed. That is a second round trip for every contestant.
"""

from __future__ import annotations

from importlib import import_module
from operator import methodcaller
from typing import Any

from benchmarks import crowd
from benchmarks.adapters import PoolAdapter, closing
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
        query = import_module("sqlalchemy").text("SELECT 1")

        def ask(conn: Any) -> None:
            conn.execute(query).scalar()

        def ask_and_end(conn: Any) -> None:
            ask(conn)
            conn.rollback()

        what = (report, scale, "SELECT 1")
        owner = engine(running.url, STOCK)
        own = crowd.without_pool(owner.connect, ask_and_end)
        with _pools(running.url) as pools:
            many = {name: crowd.lending(pool, ask) for name, pool in pools.items()}
            more: Any = {"ours": OURS, "rivals": [STOCK]}
            with own as alone:
                ten = {NO_POOL: alone, **many}
                targets = [(STOCK, 1.0)]
                crowd.compare(*what, ten, targets=targets, floor=NO_POOL, **more)
            targets = [(STOCK, 0.2)]
            crowd.compare(*what, many, scale.crowd, targets=targets, **more)
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
        pool_size=crowd.CONNECTIONS,
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
    end = methodcaller("close")
    pools = {
        name: PoolAdapter(name, one.connect, end, one.dispose, one.connect)
        for name, one in engines.items()
    }
    return closing(pools)
