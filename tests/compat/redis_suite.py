"""redis-py's own tests, with redis-py's pools and with ours: ``make compat``.

Downloads the source distribution of the redis-py that is installed, which ships its
tests, and runs the synchronous ones under gevent twice at a time, each run with a
server of its own. Prints test by test what passes with the stock pool and not with
ours, and ends with 1 if there is a line without a reason.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from tests.compat.environment import environment
from tests.compat.outcomes import Run, compare, source
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

BY_OPENER = (
    "looks for the timeout that the calling thread has set on a socket; here a "
    "greenlet of the pool opens the connection"
)

_PROXIES = (
    "tests/maint_notifications/test_maint_notifications_handling.py::"
    "TestMaintenanceNotificationsHandlingMultipleProxies::"
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
    _HANDLING + "test_migrating_notification_with_disabled_relaxed": BY_OPENER,
    _PROXIES + "test_migrating_after_moving_multiple_proxies": NOT_KEPT,
    _COUNT + "test_get_connection_count_with_connections_in_use": BY_HAND,
    _COUNT + "test_get_connection_count_with_available_connections": BY_HAND,
    _COUNT + "test_get_connection_count_mixed_connections": BY_HAND,
    _POOL + "test_on_connect_error": NOT_KEPT,
    _POOL + "test_busy_loading_from_pipeline": NOT_KEPT,
}


def main() -> int:
    """Run it all; 0 if every difference has its reason."""
    version = metadata.version("redis")
    python = environment("compat-redis", f"redis[hiredis]=={version}", *REQUIREMENTS)
    with tempfile.TemporaryDirectory() as name:
        suite = _suite(version, Path(name))
        runs = [_run(pools, suite, python) for pools in ("stock", "ours", "shared")]
        stock, ours, shared = (run.outcomes() for run in runs)
    print(f"redis-py {version}")
    status = compare(stock, ours, REASONS)
    print("\nwith auto_pipeline=True:")
    return compare(stock, shared, REASONS) or status


def _suite(version: str, folder: Path) -> Path:
    """The folder of redis-py's tests, without those that can't be run here."""
    suite = source("redis", version, folder)
    for name in LEFT_OUT:
        path = suite / "tests" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    # The installed redis-py is the one that is tested.
    shutil.rmtree(suite / "redis", ignore_errors=True)
    return suite


def _run(pools: str, suite: Path, python: Path) -> Run:
    server = RedisServer("--enable-debug-command", "yes").start()
    arguments = (
        *("-q", "--tb=native", "-p", "no:cacheprovider", "-m", MARKS),
        *("--continue-on-collection-errors", "--redis-url", server.url, "tests"),
    )
    return Run(pools, suite, (python,), "swap_pools.py", arguments, server.close)


if __name__ == "__main__":
    sys.exit(main())
