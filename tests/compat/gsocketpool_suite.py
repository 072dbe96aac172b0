"""gsocketpool's own tests, with it and with geventpool in its place: ``make compat``.

Downloads the source distribution, which ships the tests, and runs them twice. Prints
test by test what passes with gsocketpool and not with ours, and ends with 1 if there is
a line without a reason. ``docs/guides/migrating.rst`` has the reasons that are
behaviour.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.compat.outcomes import Run, compare, source

VERSION = "0.1.6"

NO_SOCKET = "a connection has a socket from open() to close() only"
WAITS = "a greenlet of the pool calls close(), because it may wait"
NO_REAPER = "there is no class ConnectionReaper"

_TCP = "tests/test_connection.py::TestTcpConnection::"
_POOL = "tests/test_pool.py::TestPool::"

#: Differences that are right, by the beginning of the test's name.
REASONS = {
    _TCP + "test_socket_creation": NO_SOCKET,
    _TCP + "test_close": NO_SOCKET,
    _TCP
    + "test_open": "names are resolved by the connection, which tries each address;"
    " its timeout limits that too",
    _TCP + "test_send": "bytes are sent, and no text",
    _POOL + "test_acquire_and_release": "is_expired() is asked at each loan",
    _POOL + "test_create_initial_connections": "the factory returns the same object",
    _POOL + "test_drop_using_connection": "a lent connection can be dropped",
    _POOL + "test_drop": WAITS,
    _POOL + "test_start_connection_reaper": NO_REAPER,
    "tests/test_pool.py::test_connection_reaper": NO_REAPER,
}


def main() -> int:
    """Run both; 0 if every difference has its reason."""
    with tempfile.TemporaryDirectory() as name:
        suite = source("gsocketpool", VERSION, Path(name))
        stock, ours = (
            Run(
                pools,
                suite,
                (sys.executable,),
                "swap_gsocketpool.py",
                ("-q", "--tb=line", "-p", "no:cacheprovider", "tests"),
            ).outcomes()
            for pools in ("stock", "ours")
        )
    print(f"gsocketpool {VERSION}")
    return compare(stock, ours, REASONS)


if __name__ == "__main__":
    sys.exit(main())
