"""What does a pool cost, and what does it save, where each loan is a query?

On a real MariaDB: the throughput of 10 greenlets on 10 connections with several kinds
of loans, beside 10 connections without a pool; then how long 200 greenlets wait.

Every pool has its defaults. Ours resets the whole session, the peers roll an open
transaction back, and PooledDB pings too. Further rows show the pools with less.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pymysql

from benchmarks import crowd
from benchmarks.adapters import OURS, at_server, closing, ours, peers
from benchmarks.adapters.base import MYSQL_POOL, POOLED_DB, QUEUE_POOL
from benchmarks.report import Report
from benchmarks.rounds import Scale
from tests.servers import MariaDBServer, certificates

NO_POOL = "no pool"
RIVALS = (QUEUE_POOL, POOLED_DB, MYSQL_POOL)

#: The rivals that keep their limit under load.
FIRM = RIVALS[:2]

Options = dict[str, Any]
Deed = Callable[[Any], object]


# What a loan does


def execute(conn: Any, statement: str, reads: bool = False) -> None:
    """Send one statement. May switch."""
    with conn.cursor() as cursor:
        cursor.execute(statement)
        if reads:
            cursor.fetchone()


ask: Deed = partial(execute, statement="SELECT 1", reads=True)
insert: Deed = partial(execute, statement="INSERT INTO benchmark (value) VALUES (1)")
#: It changes the session, which the pool must reset.
change: Deed = partial(execute, statement="SET @value = 1")


@dataclass(frozen=True)
class Kind:
    """One kind of loans, and the targets to others."""

    title: str
    deed: Deed
    autocommit: bool
    targets: tuple[tuple[str, float], ...]
    tls: bool = False


READS = ((NO_POOL, 0.92), (QUEUE_POOL, 1.9))
KINDS = (
    Kind("SELECT 1 in autocommit", ask, True, READS),
    Kind("SELECT 1 and COMMIT", ask, False, ((QUEUE_POOL, 1.4),)),
    Kind("INSERT in autocommit", insert, True, ((QUEUE_POOL, 1.3),)),
    Kind("SET of a variable in autocommit", change, True, ((QUEUE_POOL, 1.0),)),
    Kind("SELECT 1 in autocommit over TLS", ask, True, READS, tls=True),
)


def run(scale: Scale) -> Report:
    """Make all tables. May switch."""
    report = Report("mysql", "what does a pool cost where each loan is a query?")
    with (
        TemporaryDirectory() as folder,
        MariaDBServer(max_connections=600, **certificates(Path(folder))) as running,
    ):
        # PyMySQL encrypts where the server offers it, unless it is told otherwise.
        options = {**running.client_options, "ssl_disabled": True}
        running.ask(
            f"CREATE TABLE {options['database']}.benchmark "
            "(id INT AUTO_INCREMENT PRIMARY KEY, value INT) ENGINE=MEMORY"
        )
        for kind in KINDS:
            tls = {"ssl_disabled": False, "ssl_ca": f"{folder}/ca.pem"}
            _add_throughput(
                report, {**options, **tls} if kind.tls else options, scale, kind
            )
        _add_waits(report, {**options, "autocommit": True}, scale)
    return report


def pools_of(options: Options) -> Any:
    """Yield all pools, and close them at the end of the block."""
    pools = at_server("mysql", crowd.CONNECTIONS, **options)
    for reset in ("rollback", None):
        name = f"{OURS}, reset={reset!r}"
        pools[name] = ours.mysql(crowd.CONNECTIONS, reset=reset, **options)
    pools["QueuePool, no reset"] = peers.queue_pool(
        crowd.CONNECTIONS, pool_options={"reset_on_return": None}, **options
    )
    pools["PooledDB, no reset, no ping"] = peers.pooled_db(
        crowd.CONNECTIONS, pool_options={"reset": False, "ping": 0}, **options
    )
    return closing(pools)


def check_encryption(conn: Any, is_expected: bool) -> None:
    """Raise unless the connection is encrypted, or is not, as expected. May switch.

    :raises RuntimeError: the contestants could not be compared.
    """
    with conn.cursor() as cursor:
        cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
        cipher = cursor.fetchone()[1]
    if bool(cipher) != is_expected:
        raise RuntimeError(f"TLS is expected: {is_expected}, the cipher: {cipher!r}")


def committing(deed: Deed) -> Deed:
    """Return what does the same and commits."""

    def committed(conn: Any) -> None:
        deed(conn)
        conn.commit()

    return committed


def _add_throughput(report: Report, options: Options, scale: Scale, kind: Kind) -> None:
    options = {**options, "autocommit": kind.autocommit}
    whole = kind.deed if kind.autocommit else committing(kind.deed)
    own = partial(pymysql.connect, **options)
    with pools_of(options) as pools, crowd.without_pool(own, whole) as alone:
        contestants = {NO_POOL: alone}
        for name, pool in pools.items():
            with pool.loan() as conn:
                check_encryption(conn, kind.tls)
            # Our block commits at its end.
            contestants[name] = crowd.lending(
                pool, kind.deed if pool.commits else whole
            )
        more: Any = {"floor": NO_POOL, "rivals": RIVALS, "targets": kind.targets}
        crowd.compare(report, scale, kind.title, contestants, **more)


def _add_waits(report: Report, options: Options, scale: Scale) -> None:
    with pools_of(options) as pools:
        contestants = {name: crowd.lending(pool, ask) for name, pool in pools.items()}
        more: Any = {"rivals": FIRM, "targets": [("", 0.2)]}
        crowd.compare(report, scale, KINDS[0].title, contestants, scale.crowd, **more)
