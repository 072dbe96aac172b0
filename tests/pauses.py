"""Waiting in tests: by events and by turns of the event loop, seldom by time.

Where only time helps it is here, once, with the reason.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any, NoReturn

import gevent
from gevent.event import Event

__all__ = [
    "block_loop",
    "give_up_after",
    "hang",
    "real_time",
    "sample",
    "time_for_mistakes",
    "turns",
]


def hang(*args: object) -> NoReturn:
    """Wait until interrupted. May switch.

    :param args: ignored, so that it can stand for a function that takes some.
    """
    while True:
        Event().wait()


def block_loop(until: float) -> None:
    """Hold up the event loop. Never switches.

    :param float until: a time of ``time.monotonic``.
    """
    while time.monotonic() < until:
        pass


def give_up_after(seconds: float) -> AbstractContextManager[Any]:
    """Interrupt a block, which then ends without an error.

    :return: gevent's timeout. Its type knows no ``False``, which makes it silent.
    """
    silent: Any = False
    return gevent.Timeout(seconds, silent)


def turns(number: int = 5) -> None:
    """Let the event loop run so many times, and all that is ready with it. May switch.

    For what must not happen, if it would happen without a timer.
    """
    for _ in range(number):
        gevent.idle()


def time_for_mistakes() -> None:
    """Wait for a moment. May switch.

    For what must not happen, if only a timer would make it happen. A busy machine may
    let a mistake pass, and fails no test.
    """
    gevent.sleep(0.02)


def sample(seconds: float = 0.01) -> None:
    """Wait until the next look at something that tells nobody of its changes.

    May switch. A busy machine looks less often, and fails no test.
    """
    gevent.sleep(seconds)


def real_time(seconds: float) -> None:
    """Let so much time pass. May switch.

    For what counts by the system's time alone: timers of the event loop, limits of
    servers, and measurements of durations, where these are what is tested.
    """
    gevent.sleep(seconds)
