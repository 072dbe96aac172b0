"""Idle sockets under the eye of the event loop: who hangs up is heard at once.

Knows a loop, descriptors, and whose they are; what an event means is for others to say.

A watcher of its own for each loan would cost 0.1 µs a cycle, a fourth of the whole. So
nothing is done when a connection is lent or comes back. Now and then all that stand
idle are put under watch; and a watcher that fires, which the first answer after a
longer rest makes it do too, is taken away until the next time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any
from weakref import ref

from gevent.monkey import get_original

__all__ = ["HangupWatcher"]

#: Seconds until those are watched that are idle then.
INTERVAL = 1.0
#: So many are put under watch at a time: making a watcher takes half a microsecond.
BATCH = 1000
#: Seconds until the next portion.
PAUSE = 0.01

READ = 1

get_ident: Callable[[], int] = get_original("_thread", "get_ident")


class HangupWatcher:
    """Watchers for the idle connections of one pool. Nothing here switches.

    The loop keeps its watchers, but by them neither this nor those who are watched: a
    connection may know its pool, which nothing must keep. Nor do they keep the loop
    running. On libuv it watches nothing: there a descriptor that is
    closed under its watcher ends the process.

    :param loop: the pool's.
    :param idle: gives whom to watch, with the descriptor; None for one who is busy now
        and may be watched later.
    :param tell: called with him whose descriptor became readable, or was closed.
    """

    def __init__(
        self,
        loop: Any,
        idle: Callable[[], Iterator[tuple[Hashable, int | None]]],
        notify: Callable[[Any], object],
    ) -> None:
        self._loop = loop
        self._idle = idle
        self._notify = notify
        self._home = get_ident()
        #: the watchers, by whom they watch
        self.watchers: dict[Hashable, Any] = {}
        self._timer: Any = None
        self._stopped = "libuv" in type(loop).__module__

    def schedule(self, seconds: float = INTERVAL) -> None:
        """Look in so many seconds for such as can be watched; once is enough."""
        if self._timer is None and not self._stopped:
            self._timer = self._loop.timer(seconds, ref=False)
            # update: else it would count from when this turn of the loop began.
            self._timer.start(_arm_alive, ref(self), update=True)

    def arm(self) -> None:
        """Put under watch who is idle now; in the hub."""
        self._end_timer()
        batch, later = BATCH, False
        for who, descriptor in self._idle():
            if descriptor is None:
                later = True
            elif not batch:
                self.schedule(PAUSE)
                return
            else:
                batch -= 1
                watcher = self._loop.io(descriptor, READ, ref=False)
                watcher.start(_fired, ref(self), ref(who))
                self.watchers[who] = watcher
        if later:
            self.schedule()

    def on_readable(self, who: Hashable) -> None:
        """There is something to be read from him; in the hub."""
        self.forget(who)
        self.schedule()
        self._notify(who)

    def forget(self, who: Hashable) -> None:
        """Watch him no more, if he is watched; for before his socket closes."""
        watcher = self.watchers.pop(who, None)
        if watcher is not None:
            watcher.stop()
            watcher.close()

    def _end_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.stop()
            timer.close()

    def stop(self) -> None:
        """Watch nobody any more, for good; from any thread."""
        self._stopped = True
        if get_ident() == self._home:
            self._stop()
        else:
            try:
                self._loop.run_callback_threadsafe(self._stop)
            except Exception:
                # The loop is gone, and its watchers with it.
                pass

    def _stop(self) -> None:
        self._end_timer()
        for who in list(self.watchers):
            self.forget(who)


def _arm_alive(watch: ref[HangupWatcher]) -> None:
    if (alive := watch()) is not None:
        alive.arm()


def _fired(watch: ref[HangupWatcher], who: ref[Any]) -> None:
    alive, heard = watch(), who()
    if alive is not None and heard is not None:
        alive.on_readable(heard)
