"""The greenlet that sweeps at intervals.

It has only a weak reference to what it sweeps. Otherwise a pool that nothing refers to
any more would never be collected.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import gevent

from geventpool._core.loops import timer_length

__all__ = ["Reaper"]

T = TypeVar("T")

log = logging.getLogger("geventpool")


class Reaper(Generic[T]):
    """Calls *sweep* with *target* every *interval* seconds as long as *target* exists.

    It keeps neither the target nor the event loop alive. An error in *sweep* does not
    end it.

    :param target: held weakly.
    :param sweep: a plain function, because a bound method would hold its object.
    :param float interval: seconds from the end of a sweep to the next one.
    """

    def __init__(
        self, target: T, sweep: Callable[[T], object], interval: float
    ) -> None:
        self._target = weakref.ref(target, self._forgotten)
        self._sweep = sweep
        self.interval = timer_length(interval)
        self._loop = gevent.get_hub().loop
        self._stopped = False
        self.greenlet = gevent.spawn(self._run)

    @property
    def is_alive(self) -> bool:
        """Whether it is running. False after :meth:`stop`, and if it was killed."""
        return not (self._stopped or self.greenlet.dead)

    def stop(self) -> None:
        """End it soon. Never switches."""
        self._stopped = True
        self.greenlet.kill(block=False)

    def _forgotten(self, ref: Any) -> None:
        # A finalizer runs anywhere, so it only schedules.
        try:
            self._loop.run_callback_threadsafe(self.stop)
        except Exception:
            # The event loop has ended, and the greenlet with it. It is not logged,
            # because a finalizer must not take the lock of a logger.
            pass

    def _run(self) -> None:
        while True:
            gevent.sleep(self.interval, ref=False)
            self._sweep_once()

    def _sweep_once(self) -> None:
        # A method of its own, so that the strong reference is gone before the sleep.
        target = self._target()
        if target is not None:
            try:
                self._sweep(target)
            except (Exception, gevent.Timeout):
                log.exception("a sweep of %r failed; the next one will come", target)
