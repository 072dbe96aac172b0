"""Who dials: counts what this process connects, whatever pool or driver does it."""

from __future__ import annotations

import time
import weakref
from typing import Any

import gevent
from gevent import socket

#: Seconds between two counts of the open sockets.
LOOK_EVERY = 0.005


class Dials:
    """
    The times of all dials, and how many sockets were open at once.

    It stays in place for the life of the process: for forks that do one thing only.
    """

    def __init__(self) -> None:
        #: When each began, successful or not; as ``time.monotonic`` has it.
        self.times: list[float] = []
        self.peak = 0
        self._sockets: weakref.WeakSet[Any] = weakref.WeakSet()
        self._connect: Any = socket.socket.connect

    def watch(self) -> Dials:
        """Begin to count."""
        dials = self

        def connect(self: Any, address: Any) -> Any:
            dials.times.append(time.monotonic())
            dials._sockets.add(self)
            return dials._connect(self, address)

        socket.socket.connect = connect  # type: ignore[method-assign]
        gevent.spawn(self._look)
        return self

    def open(self) -> int:
        """The sockets that are open or being opened, as of now."""
        return sum(sock.fileno() >= 0 for sock in self._sockets)

    def _look(self) -> None:
        while True:
            self.peak = max(self.peak, self.open())
            gevent.sleep(LOOK_EVERY)
