"""Watches the sockets of idle connections, to detect a closed one at once.

It deals with an event loop, descriptors and their owners. Its callback decides what an
event means.

To start and stop a watcher for each loan would cost 0.1 µs, a fourth of a cycle. So
nothing is done when a connection is lent or given back. At intervals, watchers are
started for all idle connections. A watcher that fires is removed until the next
interval; this also happens when the answer to a later borrower makes its socket
readable.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any
from weakref import ref

from gevent.monkey import get_original

from geventpool._core.loops import is_libuv

__all__ = ["HangupWatcher"]

#: Seconds until watchers are started for the connections that are idle then.
INTERVAL = 1.0
#: Watchers that are started at a time. Making one takes half a microsecond.
BATCH = 1000
#: Seconds until the next batch.
PAUSE = 0.01

READ = 1

get_ident: Callable[[], int] = get_original("_thread", "get_ident")


class HangupWatcher:
    """Watchers for the idle connections of one pool. Never switches.

    The event loop holds strong references to its watchers. Their callbacks hold only
    weak references to this object and to the owners; otherwise a forgotten pool would
    never be collected. Watchers do not keep the loop running. On libuv nothing is
    watched, because libuv ends the process if a watched descriptor is closed.

    :param loop: the event loop of the pool.
    :param idle: yields the owners to watch, with their descriptors; descriptor None:
        the owner is in use, and may be watched later.
    :param notify: called with the owner whose descriptor became readable or was closed.
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
        #: the watchers by their owners
        self.watchers: dict[Hashable, Any] = {}
        self._timer: Any = None
        self._stopped = is_libuv(loop)

    def schedule(self, seconds: float = INTERVAL) -> None:
        """Call :meth:`arm` after *seconds*, unless that is already scheduled."""
        if self._timer is None and not self._stopped:
            self._timer = self._loop.timer(seconds, ref=False)
            # update: otherwise the time counts from the start of this turn of the loop.
            self._timer.start(_arm_alive, ref(self), update=True)

    def arm(self) -> None:
        """Start watchers for the connections that are idle now. Runs in the hub."""
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
        """Stop the watcher of *who*, and notify the pool. Runs in the hub."""
        self.forget(who)
        self.schedule()
        self._notify(who)

    def forget(self, who: Hashable) -> None:
        """Stop the watcher of *who*, if there is one.

        Must be called before the socket is closed.
        """
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
        """Stop all watchers for good. Can be called in any thread."""
        self._stopped = True
        if get_ident() == self._home:
            self._stop()
        else:
            try:
                self._loop.run_callback_threadsafe(self._stop)
            except Exception:
                # The event loop has ended, and its watchers with it.
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
