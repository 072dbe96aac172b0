"""SQLAlchemy's own tests, with its QueuePool and with ours: ``make compat``.

Downloads the source distribution of the SQLAlchemy that is installed, which ships its
tests, and runs those that live on the pool under gevent, twice at a time: on SQLite
in files, and on a MariaDB of their own. Prints test by test what passes with QueuePool
and not with ours, and ends with 1 if there is a line without a reason. Another version
can be named on the command line.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from tests.compat.environment import environment
from tests.compat.outcomes import Run, compare, source
from tests.servers import MariaDBServer

#: What SQLAlchemy's tests import.
REQUIREMENTS = ("gevent", "greenlet", "pytest", "PyMySQL")

#: The pool, what is built on it, and what can tell when it misbehaves.
ON_SQLITE = (
    "test/engine",
    "test/base/test_events.py",
    "test/base/test_concurrency.py",
    "test/ext/test_horizontal_shard.py",
    "test/orm/test_session.py",
    "test/orm/test_transaction.py",
)
ON_MARIADB = (
    "test/engine/test_execute.py",
    "test/engine/test_reconnect.py",
    "test/engine/test_transaction.py",
    "test/orm/test_transaction.py",
)

#: Differences that are right, by the beginning of the test's name.
REASONS: dict[str, str] = {
    "test/engine/test_reconnect.py::PrePingMockTest::test_raise_db_is_stopped": (
        "gives the borrower one attempt to connect to a server that is away; here it "
        "tries again within the grace of an outage, and the list of replies runs out"
    )
}


def main() -> int:
    """Run it all; 0 if every difference has its reason."""
    version = (sys.argv[1:] or [metadata.version("SQLAlchemy")])[0]
    python = environment(
        f"compat-sqlalchemy-{version}", f"SQLAlchemy=={version}", *REQUIREMENTS
    )
    unexplained = 0
    for where, begin in (("SQLite", _on_sqlite), ("MariaDB", _on_mariadb)):
        with tempfile.TemporaryDirectory() as name:
            original = source("SQLAlchemy", version, Path(name))
            runs = []
            for pools in ("stock", "ours"):
                # Each run leaves files in the folder that it runs in.
                suite = shutil.copytree(original, Path(name) / pools)
                runs.append(begin(pools, suite, python))
            stock, ours = (run.outcomes() for run in runs)
        print(f"\nSQLAlchemy {version} on {where}")
        unexplained |= compare(stock, ours, REASONS)
    return unexplained


def _on_sqlite(pools: str, suite: Path, python: Path) -> Run:
    # A database in memory would be lent by a pool of another kind.
    return _run(pools, suite, python, "sqlite:///querytest.db", ON_SQLITE)


def _on_mariadb(pools: str, suite: Path, python: Path) -> Run:
    server = MariaDBServer(max_connections=200).start()
    # The schemas that SQLAlchemy's tests expect beside their own.
    server.ask("CREATE DATABASE test_schema CHARACTER SET utf8mb4")
    server.ask(f"GRANT ALL ON *.* TO '{server.user}'@'%'")
    url = (
        f"mysql+pymysql://{server.user}:{server.password}@{server.host}:{server.port}"
        f"/{server.database}?charset=utf8mb4"
    )
    return _run(pools, suite, python, url, ON_MARIADB, server.close)


def _run(
    pools: str,
    suite: Path,
    python: Path,
    url: str,
    tests: tuple[str, ...],
    over: Callable[[], object] = lambda: None,
) -> Run:
    arguments = ("-q", "--tb=native", "-p", "no:cacheprovider", "--maxfail=10000")
    # -s: else the tests would import the unpacked sources, and not the installed.
    return Run(
        pools,
        suite,
        (python, "-s"),
        "swap_queuepool.py",
        # Not every version has all of them.
        (*arguments, "--dburi", url, *(one for one in tests if (suite / one).exists())),
        over,
    )


if __name__ == "__main__":
    sys.exit(main())
