"""The event loop that a pool belongs to, and how other threads reach it.

A thread's number is no proof: the next thread may get it again. A hub is not one
either: a thread may destroy its hub and get another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import ref

from gevent import get_hub
from gevent._hub_local import get_hub_if_exists
from gevent.monkey import get_original
from greenlet import greenlet

__all__ = ["Home", "thread_of"]

# Of the thread. The patched one is of the greenlet.
_own: Any = get_original("_thread", "_local")()


def _this_thread() -> object:
    """An object that stands for the calling thread, and for no other one ever."""
    try:
        return _own.token
    except AttributeError:
        _own.token = object()
        return _own.token


def thread_of(target: greenlet) -> greenlet:
    """The main greenlet of the thread to which *target* belongs."""
    while target.parent is not None:
        target = target.parent
    return target


class Home:
    """The thread that makes this object, and its hub since the last :meth:`enter`."""

    __slots__ = ("_thread", "hub")

    def __init__(self) -> None:
        self._thread = _this_thread()
        #: gives the hub; before there is one, this object, which is no hub
        self.hub: Callable[[], Any] = lambda: self

    @property
    def is_this_thread(self) -> bool:
        """Whether the calling thread is the one of this home."""
        return _this_thread() is self._thread

    def is_here(self, on_new_hub: Callable[[], object]) -> bool:
        """Whether the calling thread is the one of this home.

        :param on_new_hub: called first if that thread has lost the hub it had before.
        """
        hub = get_hub_if_exists()
        if hub is None or self.hub() is not hub:
            if not self.is_this_thread:
                return False
            if self.enter():
                on_new_hub()
        return True

    def enter(self) -> bool:
        """Note the hub of the calling thread; whether the one before is lost."""
        hub = get_hub()
        before, self.hub = self.hub(), ref(hub)
        return before is not self and before is not hub

    def call(self, work: Callable[..., object], *args: Any) -> None:
        """Have *work* called by the hub soon. Never switches or raises.

        May be called in any thread, and by a finaliser.
        """
        try:
            self.hub().loop.run_callback_threadsafe(work, *args)
        except Exception:
            # The event loop has ended, and with it all borrowers. It is not logged,
            # because a finalizer must not take the lock of a logger.
            pass
