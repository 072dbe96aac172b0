"""Either event loop gets what it can take: libev, and libuv, which can take less."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gevent
import pytest

from geventpool._core.loops import is_libuv, timer_length

HAS_LIBUV = True
try:
    import gevent.libuv.loop
except ImportError:  # pragma: no cover (where gevent was built without it)
    HAS_LIBUV = False


@pytest.mark.parametrize(
    ("seconds", "taken"),
    [(-1, 0), (0, 0), (1e-9, 0.001), (0.5, 0.5), (1e300, 1e9), (float("inf"), 1e9)],
)
def test_a_timer_gets_a_length_that_each_loop_takes(
    seconds: float, taken: float
) -> None:
    """Of less than a millisecond gevent warns; too many are an OverflowError."""
    assert timer_length(seconds) == taken
    gevent.get_hub().loop.timer(timer_length(seconds)).close()


def test_the_loop_is_known() -> None:
    assert is_libuv(gevent.get_hub().loop) == (
        gevent.get_hub().loop.__class__.__module__ == "gevent.libuv.loop"
    )


#: For a process of its own: the loop is chosen when gevent is imported.
SETTINGS = {
    "GEVENT_LOOP": "libuv",
    "GEVENT_DEBUG": "debug",
    "PYTHONPATH": str(Path(__file__).parents[1]),
}
#: gevent's debug mode says which watchers were collected without having been closed.
PROGRAM = """
import gc, gevent
from geventpool import Pool, PoolExhaustedError
from geventpool.testing import ScriptedConnector, wait_until
from tests import parts
from tests.pauses import real_time, turns

def waits(timeout):
    pool = Pool(ScriptedConnector(), max_connections=1, timeout=timeout)
    def hold():
        with pool.connection():
            turns()
    holder = gevent.spawn(hold)
    gevent.sleep(0)
    try:
        with pool.connection():
            pass
    except PoolExhaustedError:
        pass
    try:
        pool.acquire(timeout=0.0003)
    except PoolExhaustedError:
        pass
    holder.join()
    wait_until(lambda: not parts.line(pool).hub_lag.is_running)

for timeout in (0.0001, 1.0, 1.7e308):
    waits(timeout)
    gc.collect()
# And without an end: the sweep, and the wait for a loan.
with Pool(ScriptedConnector(), reap_interval=1e-9) as pool:
    pool.release(pool.acquire())
    real_time(0.01)
conn = pool = None
pool = Pool(ScriptedConnector())
conn = pool.acquire()
pool.close(timeout=0.0001)
gc.collect()
gevent.sleep(0)
print(type(gevent.get_hub().loop).__module__)
"""


@pytest.mark.skipif(not HAS_LIBUV, reason="gevent was built without libuv")
def test_under_libuv_no_timer_is_refused_or_left_unclosed(tmp_path: Path) -> None:
    """gevent would free the memory of an unclosed one, which libuv continues to use."""
    program = tmp_path / "waits.py"
    program.write_text(PROGRAM)
    ended = subprocess.run(
        [sys.executable, "-W", "error", program],
        env={**os.environ, **SETTINGS},
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.split() == ["gevent.libuv.loop"]
