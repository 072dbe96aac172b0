"""What does a pool cost, and what does it save, where each loan is a query?

On a real MariaDB: the throughput of 10 greenlets on 10 connections with several kinds
of loans, beside 10 connections without a pool; then how long 200 greenlets wait.

Every pool has its defaults. Ours resets the whole session, the peers roll an open
transaction back, and PooledDB pings too. Further rows show the pools with less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import crowd
from benchmarks.adapters import OURS, at_server, closing, ours, peers
from benchmarks.adapters.base import MYSQL_POOL, POOLED_DB, QUEUE_POOL
from benchmarks.report import Report
from benchmarks.rounds import Scale

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
    """One kind of loans, and the targets: to no pool, and to QueuePool."""

    title: str
    deed: Deed
    autocommit: bool
    to_no_pool: float | None
    to_queue_pool: float
    tls: bool = False


KINDS = (
    Kind("SELECT 1 in autocommit", ask, True, 0.92, 1.9),
    Kind("SELECT 1 and COMMIT", ask, False, None, 1.4),
    Kind("INSERT in autocommit", insert, True, None, 1.3),
    Kind("SET of a variable in autocommit", change, True, None, 1.0),
    Kind("SELECT 1 in autocommit over TLS", ask, True, 0.92, 1.9, tls=True),
)


def run(scale: Scale) -> Report:
    """Make all tables. May switch."""
    server = import_module("tests.servers").MariaDBServer
    report = Report("mysql", "what does a pool cost where each loan is a query?")
    with certificates() as files, server(max_connections=600, **files) as running:
        # PyMySQL encrypts where the server offers it, unless it is told otherwise.
        options = {**running.client_options, "ssl_disabled": True}
        running.ask(
            f"CREATE TABLE {options['database']}.benchmark "
            "(id INT AUTO_INCREMENT PRIMARY KEY, value INT) ENGINE=MEMORY"
        )
        for kind in KINDS:
            tls = {"ssl_disabled": False, "ssl_ca": files["ssl_ca"]}
            _add_throughput(
                report, {**options, **tls} if kind.tls else options, scale, kind
            )
        _add_waits(report, {**options, "autocommit": True}, scale)
    return report


@contextmanager
def certificates() -> Iterator[dict[str, str]]:
    """Yield the server's options for TLS, with files for its address."""
    trustme = import_module("trustme")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    with TemporaryDirectory() as folder:
        files = {
            f"ssl_{kind}": f"{folder}/{kind}.pem" for kind in ("ca", "cert", "key")
        }
        authority.cert_pem.write_to_path(files["ssl_ca"])
        issued.cert_chain_pems[0].write_to_path(files["ssl_cert"])
        issued.private_key_pem.write_to_path(files["ssl_key"])
        yield files


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
    connect = import_module("pymysql").connect
    own = partial(connect, **options)
    with pools_of(options) as pools, crowd.without_pool(own, whole) as alone:
        contestants = {NO_POOL: alone}
        for name, pool in pools.items():
            with pool.loan() as conn:
                check_encryption(conn, kind.tls)
            # Our block commits at its end.
            contestants[name] = crowd.lending(
                pool, kind.deed if pool.commits else whole
            )
        floor = {"floor": NO_POOL, "rivals": RIVALS}
        table = crowd.compare(report, scale, kind.title, contestants, **floor)
    for other, limit in ((NO_POOL, kind.to_no_pool), (QUEUE_POOL, kind.to_queue_pool)):
        if limit is not None:
            over = table.over(OURS, other, crowd.throughput)
            report.target(f"{kind.title}, to {other}", over, limit, at_least=True)


def _add_waits(report: Report, options: Options, scale: Scale) -> None:
    with pools_of(options) as pools:
        contestants = {name: crowd.lending(pool, ask) for name, pool in pools.items()}
        what = (KINDS[0].title, contestants, scale.crowd)
        table = crowd.compare(report, scale, *what, rivals=FIRM)
    over = table.over(OURS, table.peer, crowd.p99)
    report.target(f"p99 of {OURS} to {table.peer}", over, 0.2)
