"""
redis-py's own tests, with redis-py's pools and with ours: ``make compat``.

Downloads the source distribution of the redis-py that is installed, which ships its
tests, and runs the synchronous ones under gevent twice at a time, each run with a
server of its own. Prints test by test what passes with the stock pool and not with
ours, and ends with 1 if there is a line without a reason.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from importlib import metadata
from pathlib import Path

from tests.compat.environment import REPOSITORY, environment, pip
from tests.servers import RedisServer

#: What redis-py's tests import. Its exporters of metrics are tried as well.
REQUIREMENTS = (
    "gevent",
    "pytest",
    "packaging",
    "numpy",
    "pyjwt",
    "redis-entraid",
    "opentelemetry-api",
    "opentelemetry-sdk",
    "opentelemetry-exporter-otlp-proto-http",
)

#: Asynchronous, in need of somebody's cloud, or of event loops in threads, which
#: gevent turns into greenlets that wait for each other.
LEFT_OUT = ("test_asyncio", "test_scenario", "test_multidb", "test_background.py")

#: Those marked so need modules, certificates or a cluster at a fixed place.
MARKS = "not onlycluster and not redismod and not ssl"

BY_HAND = (
    "puts connections into redis-py's private containers by hand; here these are "
    "views of the core pool's book, which nobody else writes to"
)
NOT_KEPT = (
    "expects that a connection which failed stays in the pool without a socket, to be "
    "connected again; here its place is free at once and the next one is new"
)

_HANDLING = (
    "tests/maint_notifications/test_maint_notifications_handling.py::"
    "TestMaintenanceNotificationsHandlingSingleProxy::"
)
_COUNT = "tests/test_connection.py::TestConnectionPoolGetConnectionCount::"
_POOL = "tests/test_connection_pool.py::TestConnection::"

#: Differences that are right, by the beginning of the test's name.
REASONS = {
    _HANDLING + "test_update_oss_handler_wires_existing_connections": BY_HAND,
    _HANDLING + "test_update_config_on_oss_pool_updates_oss_handler": BY_HAND,
    _HANDLING + "test_pool_get_connection_handles_pending_push_after_rec": BY_HAND,
    _COUNT + "test_get_connection_count_with_connections_in_use": BY_HAND,
    _COUNT + "test_get_connection_count_with_available_connections": BY_HAND,
    _COUNT + "test_get_connection_count_mixed_connections": BY_HAND,
    _POOL + "test_on_connect_error": NOT_KEPT,
    _POOL + "test_busy_loading_from_pipeline": NOT_KEPT,
}

Outcomes = dict[str, tuple[str, str]]


def main() -> int:
    """Run it all; 0 if every difference has its reason."""
    version = metadata.version("redis")
    python = environment("compat-redis", f"redis[hiredis]=={version}", *REQUIREMENTS)
    with tempfile.TemporaryDirectory() as name:
        suite = _suite(version, Path(name))
        runs = {pools: _Run(pools, suite, python) for pools in ("stock", "ours")}
        stock, ours = (run.outcomes() for run in runs.values())
    print(f"redis-py {version}")
    for pools, outcomes in (("stock", stock), ("ours", ours)):
        counted = Counter(outcome for outcome, _ in outcomes.values())
        print(f"{pools:>6}: " + ", ".join(f"{n} {o}" for o, n in counted.most_common()))
    return _compare(stock, ours)


def _suite(version: str, folder: Path) -> Path:
    """The folder of redis-py's tests, without those that can't be run here."""
    archives = folder / "archives"
    options = ("--no-deps", "--no-binary", "redis", "--dest", archives)
    pip(sys.executable, "download", *options, f"redis=={version}")
    with tarfile.open(next(archives.glob("redis-*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    source = next(folder.glob("redis-*/tests")).parent
    for name in LEFT_OUT:
        path = source / "tests" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    # The installed redis-py is the one that is tested.
    shutil.rmtree(source / "redis", ignore_errors=True)
    return source


class _Run:
    """One run of the suite, in a process of its own, begun at once."""

    def __init__(self, pools: str, suite: Path, python: Path) -> None:
        self._pools = pools
        self._server = RedisServer("--enable-debug-command", "yes").start()
        self._file = suite / f"{pools}.json"
        self._log = suite / f"{pools}.log"
        arguments = (
            *("-q", "--tb=native", "-p", "no:cacheprovider", "-m", MARKS),
            *("--continue-on-collection-errors", "--redis-url", self._server.url),
        )
        settings = {
            "POOLS": pools,
            "OUTCOMES": str(self._file),
            "PYTHONPATH": str(REPOSITORY),
        }
        with open(self._log, "w") as log:
            self._process = subprocess.Popen(
                [
                    python,
                    Path(__file__).with_name("swap_pools.py"),
                    *arguments,
                    "tests",
                ],
                cwd=suite,
                env={**os.environ, **settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def outcomes(self) -> Outcomes:
        """What became of each test, when all are over."""
        status = self._process.wait()
        self._server.close()
        # 1: some tests failed.
        if status not in (0, 1):
            sys.exit(
                f"the run with {self._pools} failed:\n{self._log.read_text()[-5000:]}"
            )
        outcomes: Outcomes = {}
        for line in self._file.read_text().splitlines():
            name, outcome, words = json.loads(line)
            if outcomes.get(name, ("passed",))[0] == "passed":
                outcomes[name] = outcome, words
        return outcomes


def _compare(stock: Outcomes, ours: Outcomes) -> int:
    unexplained = 0
    for name, (outcome, _) in sorted(stock.items()):
        here, words = ours.get(name, ("missing", ""))
        if outcome == "passed" and here != "passed":
            reasons = [why for test, why in REASONS.items() if name.startswith(test)]
            unexplained += not reasons
            print(f"\n{name}: {here}")
            print("  " + (reasons or [f"NO REASON\n{words}"])[0])
    gained = sorted(
        name
        for name, (outcome, _) in ours.items()
        if outcome == "passed" and stock.get(name, ("missing",))[0] != "passed"
    )
    print(f"\npassed with ours alone: {', '.join(gained) or 'none'}")
    print(f"differences without a reason: {unexplained}")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
