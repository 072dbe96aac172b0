"""The greenlet that sweeps at intervals."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.monkey import get_original

from geventpool._core.reaper import Reaper

start_thread = get_original("_thread", "start_new_thread")
Lock = get_original("_thread", "allocate_lock")

SOON = 0.001
NEVER = 3600


def has_ended(reaper):
    """Whether its greenlet has."""
    return reaper.greenlet.dead


class Pond:
    """What is swept; counts, and does at each sweep what it is told."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.sweeps = 0
        self.enough = Event()

    def sweep(self):
        self.sweeps += 1
        if self.errors:
            raise self.errors.pop(0)
        self.enough.set()


@pytest.fixture
def reap():
    """Makes reapers, and ends them after the test."""
    reapers = []

    def make(target, sweep=Pond.sweep, interval=NEVER):
        reapers.append(Reaper(target, sweep, interval))
        return reapers[-1]

    yield make
    for reaper in reapers:
        reaper.stop()
    gevent.idle()
    assert not any(reaper.is_alive for reaper in reapers)


def in_a_thread(work):
    """Run *work* in a thread without event loop, and wait for it."""
    done = Lock()
    done.acquire()

    def run():
        try:
            work()
        finally:
            done.release()

    start_thread(run, ())
    done.acquire()


def run_python(program):
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_sweeps_again_and_again(reap):
    """Each interval, with the target as argument."""
    pond, swept, twice = Pond(), [], Event()

    def sweep(target):
        swept.append(target)
        if len(swept) == 2:
            twice.set()

    reap(pond, sweep, SOON)
    assert not swept
    assert twice.wait(10)
    assert swept[:2] == [pond, pond]


@pytest.mark.parametrize(
    "error", [ValueError("no"), OSError(104, "reset"), gevent.Timeout()], ids=repr
)
def test_it_outlives_errors(reap, caplog, error):
    """What a sweep raises is logged, and the next sweep comes."""
    pond = Pond(error, error)
    reaper = reap(pond, interval=SOON)
    with caplog.at_level(logging.ERROR, "geventpool"):
        assert pond.enough.wait(10)
    assert pond.sweeps >= 3
    assert reaper.is_alive
    assert [record.exc_info[1] for record in caplog.records] == [error, error]
    assert "a sweep of <" in caplog.text and "the next one will come" in caplog.text


def test_it_does_not_sweep_before_the_interval(reap):
    """The first sweep is as far off as any other."""
    pond = Pond()
    reap(pond)
    gevent.idle()
    assert not pond.sweeps


def test_it_does_not_keep_its_target_alive(reap):
    """A pool that everybody has forgotten goes, at once, and its reaper with it."""
    pond = Pond()
    gone = weakref.ref(pond)
    reaper = reap(pond)
    gevent.idle()
    assert reaper.is_alive
    del pond
    assert gone() is None
    gevent.idle()
    assert not reaper.is_alive and has_ended(reaper)


def test_it_does_not_keep_its_target_alive_between_sweeps(reap):
    """A sweep leaves no strong reference in the frame that sleeps."""
    swept = Event()
    pond = Pond()
    gone = weakref.ref(pond)
    # The next sweep is far away, so that what is seen is the sleep between two.
    reaper = reap(pond, lambda target: swept.set(), SOON)
    gevent.sleep(0)
    reaper.interval = NEVER
    assert swept.wait(10)
    gevent.idle()
    del pond
    assert gone() is None


def test_it_does_not_keep_its_target_alive_after_an_error(reap):
    """Neither does the traceback of a sweep that failed."""
    swept = Event()
    pond = Pond()
    gone = weakref.ref(pond)

    def sweep(target):
        swept.set()
        raise ValueError

    logging.disable()
    try:
        reaper = reap(pond, sweep, SOON)
        gevent.sleep(0)
        reaper.interval = NEVER
        assert swept.wait(10)
        gevent.idle()
    finally:
        logging.disable(logging.NOTSET)
    del pond
    assert gone() is None


def test_it_ends_with_a_target_that_was_garbage(reap):
    """A target in a circle of references is found by the collector."""
    pond = Pond()
    pond.itself = pond  # type: ignore[attr-defined]
    reaper = reap(pond)
    gevent.idle()
    del pond
    gc.collect()
    gevent.idle()
    assert has_ended(reaper)


def test_a_target_collected_by_another_thread_ends_it_too(reap):
    """The collector runs in any thread; the loop is woken to end the greenlet."""
    box = [Pond()]
    reaper = reap(box[0])
    gevent.idle()
    in_a_thread(box.clear)
    assert not has_ended(reaper)
    gevent.idle()
    assert has_ended(reaper)


def test_a_finaliser_only_schedules(reap):
    """In a foreign thread even that must be done so as to wake the loop."""
    scheduled = []

    class Loop:
        def run_callback_threadsafe(self, callback):
            scheduled.append(callback)

    pond = Pond()
    reaper = reap(pond)
    reaper._loop = Loop()
    del pond
    assert reaper.is_alive
    assert scheduled == [reaper.stop]


def test_a_finaliser_after_the_end_of_the_loop_is_silent():
    """A pool may be collected later than the event loop of its thread."""
    left = []

    def work():
        # No variable here may hold the pond: something keeps this frame.
        left.append(Pond())
        left.append(Reaper(left[0], Pond.sweep, NEVER))  # type: ignore[arg-type]
        gevent.sleep(0)
        gevent.get_hub().destroy(destroy_loop=True)

    in_a_thread(work)
    gone = weakref.ref(left[0])
    # What goes wrong in a finaliser is a warning, and warnings are errors.
    del left[0]
    assert gone() is None


def test_a_target_that_went_meanwhile_is_not_swept():
    """The collector may come between the end of the sleep and the sweep."""
    swept: list[Any] = []
    pond = Pond()
    reaper = Reaper(pond, swept.append, NEVER)
    del pond
    reaper._sweep_once()
    assert not swept
    gevent.idle()


def test_to_stop_it_does_not_switch(reap):
    """It is dead to the world at once, and its greenlet ends soon."""
    pond = Pond()
    reaper = reap(pond)
    gevent.idle()
    reaper.stop()
    assert not reaper.is_alive
    assert not has_ended(reaper)
    gevent.idle()
    assert has_ended(reaper)


def test_stopped_before_it_started_it_never_sweeps(reap):
    """Stopping is final, however early, and may be repeated."""
    pond = Pond()
    reaper = reap(pond, interval=0)
    reaper.stop()
    reaper.stop()
    gevent.idle()
    assert not reaper.is_alive and not pond.sweeps


def test_a_sweep_may_stop_it(reap):
    """A pool closed by what its own sweep calls is not swept again."""
    sweeps, stopped = [], Event()

    def sweep(target):
        sweeps.append(target)
        reaper.stop()
        stopped.set()

    pond = Pond()
    reaper = reap(pond, sweep, SOON)
    assert stopped.wait(10)
    gevent.idle()
    assert has_ended(reaper) and sweeps == [pond]


def test_a_killed_reaper_says_so(reap):
    """The one that looks can put another in its place."""
    pond = Pond()
    reaper = reap(pond)
    gevent.idle()
    reaper.greenlet.kill()
    assert not reaper.is_alive


def test_it_does_not_keep_the_loop_alive():
    """A program that has nothing else to do ends, and a deadlock is still found."""
    program = """
import gevent
from gevent.event import Event
from geventpool._core.reaper import Reaper

class Target:
    pass

target = Target()
reaper = Reaper(target, print, 3600)
assert gevent.wait()
assert gevent.get_hub().join()
try:
    Event().wait()
except gevent.exceptions.LoopExit:
    print("ended", reaper.is_alive)
"""
    assert run_python(program) == "ended True\n"
