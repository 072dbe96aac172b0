"""Runs pytest under gevent, with the pools of redis-py as they are or with ours.

Executed by path, in redis-py's source folder, by ``redis_suite.py``. The environment
variable ``POOLS`` says which pools, ``OUTCOMES`` names the file to write: one line of
JSON for each test.
"""

from gevent import monkey

monkey.patch_all()

import gc  # noqa: E402
import inspect  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402

import pytest  # noqa: E402

# Not by its full name: the driver may have a package "tests" of its own.
from recording import Plugin  # noqa: E402


def put_ours_in_place(shares):
    """Let everybody who asks redis-py for a pool get one of ours.

    :param shares: with commands that share a connection, if the pool may have two.
    """
    import geventpool.redis

    def choose(kwargs):
        kwargs.setdefault("timeout", 2)
        if shares and kwargs.get("max_connections") != 1:
            kwargs.setdefault("auto_pipeline", True)

    class ConnectionPool(geventpool.redis.ConnectionPool):
        def __init__(self, *args, **kwargs):
            # Their tests expect a refusal at once; ours may take a moment.
            choose(kwargs)
            super().__init__(*args, **kwargs)

    class SentinelConnectionPool(geventpool.redis.SentinelConnectionPool):
        def __init__(self, *args, **kwargs):
            choose(kwargs)
            super().__init__(*args, **kwargs)

    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "redis" and "asyncio" not in name:
            for ours in (ConnectionPool, SentinelConnectionPool):
                if inspect.isclass(getattr(module, ours.__name__, None)):
                    setattr(module, ours.__name__, ours)


if __name__ == "__main__":
    if os.environ["POOLS"] != "stock":
        put_ours_in_place(shares=os.environ["POOLS"] == "shared")
    gc.collect()
    # The folder of this file must not hide anything from the tests.
    sys.path[0] = os.getcwd()
    sys.exit(pytest.main(sys.argv[1:], plugins=[Plugin(os.environ["OUTCOMES"])]))
