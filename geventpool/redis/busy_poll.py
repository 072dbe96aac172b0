"""Polling: the event loop does not sleep while a reply is due at once.

A server near by answers a lone call after some 50 µs. A process that sleeps meanwhile
may take as long again to be woken. (The idea is that of Linux's ``SO_BUSY_POLL``.)
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Any

from geventpool.redis.calls import Call

__all__ = ["BusyPoll"]

#: Seconds after the writing of a call for which the event loop does not sleep.
LONGEST = 0.00005
#: Seconds after which the reply to the call before must have come. A server that is
#: farther away is not worth the CPU time.
NEAR = 0.00015


class BusyPoll:
    """Keeps the event loop from sleeping while the only call is new.

    The loop serves all its watchers meanwhile. Nothing here switches.

    :param loop: the event loop of the hub.
    :param sent: the calls without a reply.
    """

    __slots__ = ("_sent", "_watcher", "is_near")

    def __init__(self, loop: Any, sent: deque[Call]) -> None:
        self._sent = sent
        # The loop does not sleep while it has an active watcher of this kind.
        self._watcher = loop.idle()
        #: whether the server has answered the last lone call soon
        self.is_near = False

    @property
    def is_active(self) -> bool:
        """Whether the event loop is kept from sleeping."""
        return bool(self._watcher.active)

    def begin(self) -> None:
        """Begin if it is worth it, because a call was written to an idle connection."""
        if self.is_near and not self.is_active:
            self._watcher.start(self._look)

    def note(self, now: float) -> None:
        """Note when the reply to the only call has come."""
        self.is_near = now - self._sent[0].since < NEAR

    def _look(self) -> None:
        """End, unless the only call is new. Runs in the hub."""
        sent = self._sent
        if len(sent) != 1 or monotonic() - sent[0].since > LONGEST:
            self._watcher.stop()

    def close(self) -> None:
        """Stop polling, because the connection has ended. Can be repeated."""
        self._watcher.stop()
        self._watcher.close()
