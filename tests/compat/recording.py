"""A plugin of pytest that writes down what became of each of a driver's own tests."""

from __future__ import annotations

import inspect
import json

import gevent
import pytest

__all__ = ["Plugin"]

#: Seconds one test may take.
PATIENCE = 30


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
