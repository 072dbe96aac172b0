"""What storms have found, each in its smallest form."""

from __future__ import annotations

import time

import gevent
import pytest

from geventpool import Pool, PoolExhaustedError
from geventpool.testing import ScriptedConnector
from tests.pauses import real_time


def test_a_wait_is_not_shortened_by_the_waits_before_it() -> None:
    """A libev timer that is stopped keeps the rest of its time, and begins with it."""
    pool = Pool(ScriptedConnector(), max_connections=1, timeout=0.4)
    for _ in range(4):
        conn = pool.acquire()
        waiter = gevent.spawn(lambda: pool.release(pool.acquire()))
        real_time(0.09)
        pool.release(conn)
        waiter.get()
    pool.acquire()

    def wait_in_vain() -> float:
        started = time.monotonic()
        with pytest.raises(PoolExhaustedError):
            pool.acquire()
        return time.monotonic() - started

    assert gevent.spawn(wait_in_vain).get() >= 0.4
