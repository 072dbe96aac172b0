"""What the event loops of gevent, libev and libuv, do not have in common."""

from __future__ import annotations

from typing import Any

__all__ = ["is_libuv", "timer_length"]

#: The shortest and the longest time of a timer in seconds; this is about thirty years.
#: libuv's timers count milliseconds in 64 bits: of less than one, gevent warns, and too
#: many are an ``OverflowError``.
SHORTEST = 0.001
FAR = 1e9


def timer_length(seconds: float) -> float:
    """Return *seconds*, or the nearest duration that timers of each loop take.

    0, and what is less, is 0: the next turn of the loop.
    """
    return min(max(seconds, SHORTEST), FAR) if seconds > 0 else 0.0


def is_libuv(loop: Any) -> bool:
    """Whether it is libuv.

    There each watcher, a timer included, must be closed. If one is collected that was
    only stopped, or never started, gevent frees its memory; libuv continues to use it.
    """
    return "libuv" in type(loop).__module__
