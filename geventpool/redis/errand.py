"""Work that is left to the hub, and is done even if the hub's call of it fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["Errand"]


class Errand:
    """Work that the hub does once in this turn of the loop, however often it is asked.

    :param loop: the event loop of the hub.
    :param work: called without arguments, in the hub. Its first line sets *asked* to
        None, so that it can be asked for again from then on.
    """

    __slots__ = ("_loop", "_work", "asked")

    def __init__(self, loop: Any, work: Callable[[], object]) -> None:
        self._loop = loop
        self._work = work
        #: the callback that is due; None: none is
        self.asked: Any = None

    def ask(self) -> None:
        """Have the work done soon. Never switches."""
        if self.asked is None:
            run = self._loop.run_callback
            self.asked = run(self._work)
            # A call can fail before its first line, for want of memory or by a signal.
            # The hub reports that and goes on, but greenlets wait for this work.
            run(self._repeat, self.asked)

    def _repeat(self, asked: Any) -> None:
        if self.asked is asked:
            self._work()
