"""
Runs pytest under gevent, with the pools of redis-py as they are or with ours.

Executed by path, in redis-py's source folder, by ``redis_suite.py``. The environment
variable ``POOLS`` says which pools, ``OUTCOMES`` names the file to write: one line of
JSON for each test.
"""

from gevent import monkey

monkey.patch_all()

import gc  # noqa: E402
import inspect  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402

import gevent  # noqa: E402
import pytest  # noqa: E402

#: Seconds one test may take.
PATIENCE = 30


def put_ours_in_place():
    """Let everybody who asks redis-py for a pool get one of ours."""
    import geventpool.redis

    class ConnectionPool(geventpool.redis.ConnectionPool):
        def __init__(self, *args, **kwargs):
            # Their tests expect a refusal at once; ours may take a moment.
            kwargs.setdefault("timeout", 0.5)
            super().__init__(*args, **kwargs)

        def _retry_by_default(self):
            # Many of their tests fail on purpose, and would be retried for seconds.
            return None

    class SentinelConnectionPool(geventpool.redis.SentinelConnectionPool):
        def __init__(self, *args, **kwargs):
            kwargs.setdefault("timeout", 0.5)
            super().__init__(*args, **kwargs)

    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "redis" and "asyncio" not in name:
            for ours in (ConnectionPool, SentinelConnectionPool):
                if inspect.isclass(getattr(module, ours.__name__, None)):
                    setattr(module, ours.__name__, ours)


class Plugin:
    """Leaves out what is asynchronous, limits the time, writes down the outcomes."""

    def __init__(self, path):
        self.file = open(path, "w", buffering=1)

    def pytest_collection_modifyitems(self, items):
        items[:] = [item for item in items if not is_async(item)]

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item):
        timeout = gevent.Timeout.start_new(PATIENCE)
        try:
            yield
        finally:
            timeout.close()

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            words = str(report.longrepr)[-3000:] if report.failed else ""
            line = [report.nodeid, report.outcome, words]
            self.file.write(json.dumps(line) + "\n")

    def pytest_collectreport(self, report):
        if report.failed:
            line = [report.nodeid, "not collected", str(report.longrepr)[-2000:]]
            self.file.write(json.dumps(line) + "\n")


def is_async(item):
    function = getattr(item, "function", None)
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


if __name__ == "__main__":
    if os.environ["POOLS"] == "ours":
        put_ours_in_place()
    gc.collect()
    # The folder of this file must not hide anything from the tests.
    sys.path[0] = os.getcwd()
    sys.exit(pytest.main(sys.argv[1:], plugins=[Plugin(os.environ["OUTCOMES"])]))
