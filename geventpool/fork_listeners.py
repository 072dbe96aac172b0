"""What is told in a forked child that it is a copy of its parent's."""

from __future__ import annotations

import os
import weakref
from typing import Protocol

from geventpool import sockets

__all__ = ["ForkListener", "ForkListeners"]


class ForkListener(Protocol):
    """What can be used on in a forked child."""

    def forked(self) -> None:
        """Begin without connections, because they are the parent's. Never switches.

        It may only close the child's copies of their descriptors.
        """


class ForkListeners:
    """Objects whose method ``forked`` is called in each forked child. Weak references.

    Make it once, when a module is imported: it stays registered for forks. What was
    registered earlier is told earlier, so the core pools are told before the parts of
    an adapter.
    """

    def __init__(self) -> None:
        self._listeners: weakref.WeakSet[ForkListener] = weakref.WeakSet()
        os.register_at_fork(after_in_child=self._tell)

    def add(self, listener: ForkListener) -> None:
        """Note a listener."""
        self._listeners.add(listener)

    def discard(self, listener: ForkListener) -> None:
        """Forget a listener."""
        self._listeners.discard(listener)

    # In the child, where nobody counts.
    def _tell(self) -> None:  # pragma: no cover
        with sockets.after_fork():
            for listener in list(self._listeners):
                listener.forked()
