"""Decides which pool lends in this process, and in which thread it works.

The rules for processes that gevent has not patched are in ``geventpool.patching``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent import get_hub
from gevent.monkey import get_original
from redis.connection import SSLConnection

from geventpool.patching import check_unpatched, is_patched, pools_here, refusal
from geventpool.redis.compat_attributes import CompatAttributes
from geventpool.redis.cooperation import make_cooperative
from geventpool.redis.errors import RedisPoolClosedError
from geventpool.redis.threaded import ThreadedPool

__all__ = ["Unpatched"]

#: Returns the id of the thread. The patched function returns one of the greenlet.
get_ident: Callable[[], int] = get_original("_thread", "get_ident")


class Unpatched(CompatAttributes):
    """A pool that uses redis-py's own pool in a process that is not patched."""

    #: Whether it is still unknown if gevent has patched this process.
    _is_undecided = True
    #: Whether a release needs to examine only the connection.
    _release_is_fast = False
    #: the event loop of the borrowers; None: no borrower yet
    _loop: Any = None
    #: the thread of the borrowers; 0: no borrower yet
    _thread_id = 0
    #: Whether a subclass overrides owns_connection().
    asks_owner: bool
    #: redis-py's dispatcher of events, for releases
    _dispatcher: Any

    def _set_unpatched(self, unpatched: str, timeout: float | None) -> None:
        """Note the option *unpatched*, and the timeout for redis-py's pool."""
        self._unpatched = check_unpatched(unpatched)
        self._thread_timeout = timeout

    def _pools_here(self) -> bool:
        """Return whether the core pool lends in this process.

        :raises NotPatchedError: the option *unpatched* is ``"error"``; or only ``ssl``
            is not patched, and this pool is for TLS.
        """
        stock = "redis-py's BlockingConnectionPool"
        if not pools_here("geventpool.redis", self._unpatched, stock):
            return False
        if issubclass(self.connection_class, SSLConnection) and not is_patched("ssl"):
            # redis-py fails here as well, with an unclear error.
            raise refusal("geventpool.redis", "ssl")
        make_cooperative()
        self._loop, self._thread_id = get_hub().loop, get_ident()
        return True

    def _decide(self) -> ThreadedPool | None:
        """Return the pool that lends in this process; None: the core pool.

        The answer is final only once gevent has patched: a server may use the pool,
        fork, and patch in the child.
        """
        if self._pools_here():
            self._is_undecided = False
            self._release_is_fast = not (
                self.asks_owner
                or self._dispatcher is not None
                or self.cache is not None
                or self._thread_pool is not None
            )
            return None
        if self.core.closed:
            raise RedisPoolClosedError(f"Pool {self.core.name!r} is closed")
        if self._thread_pool is None:
            made = ThreadedPool(self, self._thread_timeout)
            # Several threads may have made one. They must all use the first.
            first = self.__dict__.setdefault("_thread_pool", made)
            self.core.connector.stock = first.counts
        return self._thread_pool

    def _in_borrowers_thread(self, work: Callable[..., object], *args: Any) -> None:
        """Call *work* in the thread of the borrowers.

        In that thread it is called now; from another thread, in the next turn of the
        loop.
        """
        if self._thread_id in (0, get_ident()):
            work(*args)
            return
        try:
            self._loop.run_callback_threadsafe(work, *args)
        except Exception:
            # The event loop has ended, and with it all borrowers.
            pass
