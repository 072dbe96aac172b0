"""Which pool lends in this process, and in which thread its work is done.

Knows the rule for processes that gevent has not patched; see ``geventpool.patching``.
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

#: Of the thread. The patched one is of the greenlet.
get_ident: Callable[[], int] = get_original("_thread", "get_ident")


class Unpatched(CompatAttributes):
    """A pool that leaves a process without an event loop to redis-py's own pool."""

    #: Is it not yet known whether gevent has patched this process?
    _is_undecided = True
    #: Is there nothing at a release but the connection to look at?
    _release_is_fast = False
    #: the event loop of the borrowers; None: there were none yet
    _loop: Any = None
    #: the thread of the borrowers; 0: there were none yet
    _home = 0
    #: Does a subclass say which connections are to be kept?
    asks_owner: bool
    #: redis-py tells it of releases, beside its own re-authentication
    _dispatcher: Any

    def _set_unpatched(self, unpatched: str, timeout: float | None) -> None:
        """Note the option *unpatched*, and how long redis-py's pool is to wait."""
        self._unpatched = check_unpatched(unpatched)
        self._stock_timeout = timeout

    def _pools_here(self) -> bool:
        """Is the core pool to lend?

        :raises NotPatchedError: the option *unpatched* is ``"error"``; or only ``ssl``
            is not patched, and this pool is for TLS.
        """
        stock = "redis-py's BlockingConnectionPool"
        if not pools_here("geventpool.redis", self._unpatched, stock):
            return False
        if issubclass(self.connection_class, SSLConnection) and not is_patched("ssl"):
            # redis-py fails here as well, with an error that says nothing of it.
            raise refusal("geventpool.redis", "ssl")
        make_cooperative()
        self._loop, self._home = get_hub().loop, get_ident()
        return True

    def _decide(self) -> ThreadedPool | None:
        """What lends in this process; None: the core pool.

        Asked again until gevent has patched: a server may use the pool, fork, and
        patch in the child.
        """
        if self._pools_here():
            self._is_undecided = False
            self._release_is_fast = not (
                self.asks_owner
                or self._dispatcher is not None
                or self.cache is not None
                or self._stock is not None
            )
            return None
        if self.core.closed:
            raise RedisPoolClosedError(f"Pool {self.core.name!r} is closed")
        if self._stock is None:
            self._stock = ThreadedPool(self, self._stock_timeout)
        return self._stock

    def _at_home(self, work: Callable[..., object], *args: Any) -> None:
        """Call *work* in the thread of the borrowers: now, or soon from another."""
        if self._home in (0, get_ident()):
            work(*args)
            return
        try:
            self._loop.run_callback_threadsafe(work, *args)
        except Exception:
            # The loop is gone, and so is everybody who could use the place.
            pass
