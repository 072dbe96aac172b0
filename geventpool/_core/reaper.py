"""The background greenlet.

Is given a weak reference and a callable, and knows no pool: a pool that everybody has
forgotten must not live on because somebody sweeps it.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import gevent

from geventpool._core.deadline import FAR

__all__ = ["Reaper"]

T = TypeVar("T")

log = logging.getLogger("geventpool")


class Reaper(Generic[T]):
    """Calls *sweep* with *target* every *interval* seconds as long as *target* lives.

    It keeps neither the target nor the event loop alive, and outlives whatever *sweep*
    raises.

    :param target: held weakly.
    :param sweep: a plain function; a bound method would hold what it is bound to.
    :param float interval: seconds from the end of a sweep to the next.
    """

    def __init__(
        self, target: T, sweep: Callable[[T], object], interval: float
    ) -> None:
        self._target = weakref.ref(target, self._forgotten)
        self._sweep = sweep
        self.interval = min(interval, FAR)
        self._loop = gevent.get_hub().loop
        self._stopped = False
        self._greenlet = gevent.spawn(self._run)

    @property
    def is_alive(self) -> bool:
        """Is it at work? False after :meth:`stop`, and if somebody killed it."""
        return not (self._stopped or self._greenlet.dead)

    def stop(self) -> None:
        """End it, soon. Does not switch."""
        self._stopped = True
        self._greenlet.kill(block=False)

    def _forgotten(self, ref: Any) -> None:
        # A finaliser: it runs wherever the collector does, so it only schedules.
        try:
            self._loop.run_callback_threadsafe(self.stop)
        except Exception:
            # The loop is gone, and the greenlet with it. Not even a log may hear of
            # it: a finaliser takes no lock.
            pass

    def _run(self) -> None:
        while True:
            gevent.sleep(self.interval, ref=False)
            self._sweep_once()

    def _sweep_once(self) -> None:
        # A function of its own, so that the strong reference is gone before the sleep.
        target = self._target()
        if target is not None:
            try:
                self._sweep(target)
            except (Exception, gevent.Timeout):
                log.exception("a sweep of %r failed; the next one will come", target)
