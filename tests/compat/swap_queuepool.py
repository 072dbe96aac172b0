"""Runs pytest under gevent, with SQLAlchemy's QueuePool as it is or with ours for it.

Executed by path, in SQLAlchemy's source folder, by ``sqlalchemy_suite.py``. The
environment variable ``POOLS`` says which pool, ``OUTCOMES`` names the file to write:
one line of JSON for each test.
"""

from gevent import monkey

monkey.patch_all()

import gc  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402

import gevent  # noqa: E402
import pytest  # noqa: E402

# Not by its full name: the driver may have a package "tests" of its own.
from recording import Plugin  # noqa: E402


def put_ours_in_place():
    """Let everybody who asks SQLAlchemy for a QueuePool get ours."""
    import sqlalchemy.dialects.sqlite
    import sqlalchemy.pool

    import geventpool.sqlalchemy

    stock = sqlalchemy.pool.QueuePool

    class QueuePool(geventpool.sqlalchemy.GreenletPool):
        # Some look for the name in messages, and for the logger of that name.
        _sqla_logger_namespace = "sqlalchemy.pool.impl.QueuePool"

    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "sqlalchemy":
            if getattr(module, "QueuePool", None) is stock:
                module.QueuePool = QueuePool  # type: ignore[attr-defined]


class Turning:
    """Lets the event loop turn after each collection, with either pool.

    A forgotten connection comes back to ours in the next turns of the loop, and their
    tests look for it in the next line.
    """

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self):
        for name, module in list(sys.modules.items()):
            if name.startswith("sqlalchemy.testing"):
                for collect in ("gc_collect", "lazy_gc"):
                    if callable(getattr(module, collect, None)):
                        setattr(module, collect, turning(getattr(module, collect)))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, item):
        if "reconnect" in item.nodeid:
            # One of these leaves an open cursor to the collector, and so locks the file
            # of an SQLite database until that happens to run.
            gc.collect()
        # Before theirs looks through all connections, which must not change meanwhile.
        let_forgotten_ones_return()


def turning(collect):
    def collect_and_turn(*args):
        result = collect(*args)
        let_forgotten_ones_return()
        return result

    return collect_and_turn


def let_forgotten_ones_return():
    gevent.idle()
    if "geventpool.pool" in sys.modules:
        # Closed pools as well: their last connections may be on the way back.
        for pool in list(sys.modules["geventpool._core.registry"]._pools):
            gevent.joinall(list(pool._lifecycle.workers.running), timeout=5)


if __name__ == "__main__":
    if os.environ["POOLS"] == "ours":
        put_ours_in_place()
    # The folder of this file must not hide anything from the tests.
    sys.path[0] = os.getcwd()
    sys.exit(
        pytest.main(sys.argv[1:], plugins=[Plugin(os.environ["OUTCOMES"]), Turning()])
    )
