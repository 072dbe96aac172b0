"""How long one greenlet may send commands without letting the event loop run."""

from __future__ import annotations

from collections.abc import Callable

import gevent
from gevent import get_hub, getcurrent

__all__ = ["Turns"]

#: Seconds of one greenlet's commands in one turn of the event loop, before others run.
SLICE = 0.0002
#: So many loans are not looked at after each one that is.
UNSEEN = 3


class Turns:
    """Lets the event loop run if one greenlet has kept it for :data:`SLICE` seconds.

    A reply that is there before it is read makes no greenlet wait. So a greenlet whose
    server answers at once, for instance on the same core, would run its commands one
    after another while all others, timers included, stand still. redis-py's own pools
    ask the socket by ``select`` before each command, which lets others run each time.

    :param clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._greenlet = 0
        self._turn = -1.0
        self._began = 0.0
        #: so many loans are not looked at before the next one that is; the caller
        #: counts, because a call for each loan would cost a tenth of it
        self.unseen = 0

    def let_others_run(self) -> None:
        """Let the event loop run if the caller has kept it too long. May switch."""
        self.unseen = UNSEEN
        # The loop's time changes with each of its turns, also under libuv, which does
        # not count them.
        turn = get_hub().loop.now()
        greenlet = id(getcurrent())
        if turn != self._turn or greenlet != self._greenlet:
            self._turn = turn
            self._greenlet = greenlet
            self._began = self._clock()
        elif self._clock() - self._began > SLICE:
            gevent.sleep(0)
