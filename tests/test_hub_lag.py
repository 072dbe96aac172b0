"""Was the event loop blocked while somebody waited?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from gevent.event import Event

from geventpool._core import hub_lag as room
from geventpool._core.hub_lag import HubLag

INTERVAL = 0.001


def timer_of(ward):
    """The timer that measures; None: nobody wants to know."""
    return ward.pulse._timer


class Ward:
    """A hub_lag, its clock, and somebody who needs it."""

    def __init__(self):
        self.now = 100.0
        self.needed = True
        self.asked = 0
        self.beaten = Event()
        self.pulse = HubLag(self.is_needed, lambda: self.now)

    def is_needed(self):
        self.asked += 1
        self.beaten.set()
        return self.needed

    def beat(self, times=1):
        """Let the loop go on until it has beaten."""
        for _ in range(times):
            self.beaten.clear()
            assert self.beaten.wait(10)


@pytest.fixture
def ward(monkeypatch):
    monkeypatch.setattr(room, "INTERVAL", INTERVAL)
    ward = Ward()
    yield ward
    if timer_of(ward) is not None:
        timer_of(ward).stop()


def test_before_the_first_beat_nothing_is_lost(ward):
    """A pulse that was never started has no timer and has lost nothing."""
    ward.now += 10
    assert ward.pulse.measured() == 0
    assert timer_of(ward) is None


def test_a_beat_in_time_loses_nothing(ward):
    """What a beat takes is no delay."""
    ward.pulse.start()
    ward.now += INTERVAL / 2
    ward.beat()
    ward.now += INTERVAL
    ward.beat()
    assert ward.pulse.measured() == pytest.approx(0)


def test_a_late_beat_loses_what_it_is_late(ward):
    """Delays add up, each less the beat itself."""
    ward.pulse.start()
    ward.now += 3 + INTERVAL
    ward.beat()
    assert ward.pulse.total == pytest.approx(3)
    ward.now += 2 + INTERVAL
    ward.beat()
    assert ward.pulse.total == pytest.approx(5)
    assert ward.pulse.measured() == pytest.approx(5)


def test_an_overdue_beat_counts_before_it_comes(ward):
    """The very callback that follows the blocking gets an answer."""
    ward.pulse.start()
    ward.now += INTERVAL / 2
    assert ward.pulse.measured() == 0
    ward.now += 4 + INTERVAL / 2
    assert ward.pulse.measured() == pytest.approx(4)
    assert ward.pulse.total == 0
    ward.beat()
    assert ward.pulse.measured() == pytest.approx(4)


def test_it_stops_when_nobody_waits(ward):
    """Time that passes without anybody waiting is not lost."""
    ward.pulse.start()
    ward.needed = False
    ward.beat()
    ward.now += 1000
    assert ward.pulse.measured() == 0
    assert not ward.pulse.is_running


def test_it_can_be_started_again(ward):
    """The second time counts from its own start."""
    ward.pulse.start()
    ward.now += 2 + INTERVAL
    ward.needed = False
    ward.beat()
    ward.now += 1000
    ward.needed = True
    ward.pulse.start()
    assert ward.pulse.measured() == pytest.approx(2)
    ward.now += 1 + INTERVAL
    ward.beat()
    assert ward.pulse.measured() == pytest.approx(3)


def test_to_start_it_twice_changes_nothing(ward):
    """A second waiter does not hide what the first has lost."""
    ward.pulse.start()
    timer = timer_of(ward)
    ward.now += 3 + INTERVAL
    ward.pulse.start()
    assert timer_of(ward) is timer
    assert ward.pulse.measured() == pytest.approx(3)


def test_it_beats_as_long_as_somebody_waits(ward):
    """Each beat asks, and is followed by another."""
    ward.pulse.start()
    ward.beat(times=5)
    assert ward.asked >= 5


def test_it_does_not_keep_the_loop_alive():
    """A program that has nothing else to do ends, and a deadlock is still found."""
    program = """
import time, gevent
from gevent.event import Event
from geventpool._core.hub_lag import HubLag

HubLag(lambda: True, time.monotonic).start()
assert gevent.wait()
try:
    Event().wait()
except gevent.exceptions.LoopExit:
    print("ended")
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "ended\n", done.stderr
