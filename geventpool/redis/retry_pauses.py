"""Shortens the pauses between redis-py's retries when a lost server is back.

redis-py repeats a command whose connection was lost. Between its attempts it pauses, by
default for up to a second, and the borrower keeps its place. So after an outage the
pauses would delay everybody.

One of the pausing greenlets tries the server, with the connection that it has borrowed.
When that succeeds after a failure, all of them end their pauses. Other pauses are not
shortened: not those after a timeout, or at a server that is full or still loads its
data, because they spare the server. The number of retries stays the same.
"""

from __future__ import annotations

import copy
import sys
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from time import monotonic
from typing import Any, Protocol

import gevent
from gevent.event import Event
from redis.backoff import AbstractBackoff, NoBackoff
from redis.exceptions import ConnectionError
from redis.retry import Retry

from geventpool.extension import timer_length
from geventpool.policies import Backoff
from geventpool.redis.dialling import connect_once, is_restricted
from geventpool.redis.errors import TakenBackError
from geventpool.redis.internals import backoff_of, set_backoff

__all__ = ["RetryPauses"]

#: Seconds until a borrower asks again at the latest whether it may connect.
NEXT = 0.005


class Hooks(Protocol):
    """The interface of the pool that these pauses use. Nothing in it switches."""

    def begin_reconnect(self) -> bool:
        """Count an attempt to connect that begins; False: too many are under way."""

    def end_reconnect(self) -> None:
        """Count it no more."""

    def reconnected(self, error: Exception | None) -> None:
        """Note how it has ended; None: the server can be reached."""

    def retry_pause(self) -> AbstractContextManager[None]:
        """For a block in which the current greenlet pauses."""


class RetryPauses:
    """The greenlets of one pool that pause before redis-py repeats their command.

    :param backoff: the pauses between two attempts to reach the server.
    :param is_lost: whether an error means that the server cannot be reached.
    :param hooks: returns the pool; None: it has been collected.
    """

    def __init__(
        self,
        backoff: Backoff,
        is_lost: Callable[[Exception], bool],
        hooks: Callable[[], Hooks | None],
    ) -> None:
        self._backoff = backoff
        self._hooks = hooks
        self.is_lost = is_lost
        #: whether the last attempt to connect failed
        self._is_down = False
        #: attempts since it could be reached
        self._attempts = 0
        #: how often the server has come back
        self._returns = 0
        #: whether one of the greenlets tries the server
        self._is_tried = False
        #: set when the others have to look again
        self._changed = Event()

    def cover(self, conn: Any) -> None:
        """Let the pauses of *conn* end when the server is back. Never switches.

        :param conn: a connection with a ``Retry`` of its own.
        """
        retry = getattr(conn, "retry", None)
        if isinstance(retry, Retry) and retry.get_retries():
            backoff = backoff_of(retry)
            if not isinstance(backoff, (NoBackoff, _Shortened)):
                set_backoff(retry, _Shortened(backoff, self, weakref.ref(conn)))

    def failed(self) -> None:
        """Note that the server could not be reached. Never switches."""
        self._is_down = True

    def reached(self) -> None:
        """Note that a connection was opened. Never switches."""
        if self._is_down:
            self._is_down = False
            self._attempts = 0
            self._returns += 1
            self._wake()

    def pause(self, conn: Any, seconds: float) -> None:
        """Wait so many seconds, or until the server is back. May switch."""
        with self._pausing():
            self._pause(conn, seconds)

    def _pausing(self) -> AbstractContextManager[None]:
        # The pool must not be kept alive by a greenlet that pauses.
        hooks = self._hooks()
        return nullcontext() if hooks is None else hooks.retry_pause()

    def _pause(self, conn: Any, seconds: float) -> None:
        end, returns = monotonic() + seconds, self._returns
        while self._returns == returns and (left := end - monotonic()) > 0:
            if self._is_tried or is_restricted(conn):
                self._changed.wait(timer_length(left))
            else:
                self._try_until(conn, end, returns)
        # Not all at once: the first connections after an outage may take long.
        while self._returns != returns and not is_restricted(conn):
            if self._try(conn) is not None or monotonic() >= end:
                return
            # The pool may open the others.
            self._changed.wait(NEXT)

    def _try_until(self, conn: Any, end: float, returns: int) -> None:
        """Try the server until it is back, or *end*. May switch."""
        self._is_tried = True
        try:
            while self._returns == returns and (left := end - monotonic()) > 0:
                pause = min(self._backoff.delay(self._attempts), left)
                gevent.sleep(timer_length(pause))
                self._attempts += 1
                if self._try(conn) and self._returns == returns:
                    self._changed.wait(timer_length(end - monotonic()))
        finally:
            self._is_tried = False
            self._wake()

    def _try(self, conn: Any) -> bool | None:
        """Connect *conn*, and tell all if the server is back. May switch.

        :return: whether the server can be reached; None: too many others try it.
        :raises TakenBackError: the loan of *conn* has ended meanwhile.
        """
        hooks = self._hooks()
        if hooks is None or not hooks.begin_reconnect():
            return None
        try:
            connect_once(conn)
        except TakenBackError:
            raise
        except Exception as error:
            if self.is_lost(error):
                self._is_down = True
                hooks.reconnected(error)
                return False
        finally:
            hooks.end_reconnect()
        if self._is_down:
            hooks.reconnected(None)
            self.reached()
        else:
            # Another one may connect now.
            self._wake()
        return True

    def _wake(self) -> None:
        changed, self._changed = self._changed, Event()
        changed.set()


class _Shortened(AbstractBackoff):
    """A back-off of redis-py that waits itself, and returns 0 seconds to wait.

    :param backoff: what it replaces.
    :param conn: returns the connection that is retried.
    """

    def __init__(
        self, backoff: AbstractBackoff, pauses: RetryPauses, conn: Callable[[], Any]
    ) -> None:
        # Any: redis-py has no types here.
        self._backoff: Any = backoff
        self._pauses = pauses
        self._conn = conn

    def reset(self) -> None:
        self._backoff.reset()

    def compute(self, failures: int) -> float:
        """Wait after failure number *failures*, and return 0. May switch.

        redis-py calls this while it handles the error.
        """
        seconds: float = self._backoff.compute(failures)
        error, conn = sys.exc_info()[1], self._conn()
        if conn is None or seconds <= 0 or not isinstance(error, ConnectionError):
            return seconds
        if not self._pauses.is_lost(error):
            return seconds
        self._pauses.pause(conn, seconds)
        return 0.0

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self._backoff, memo)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _Shortened):
            other = other._backoff
        return bool(self._backoff == other)

    def __hash__(self) -> int:
        return hash(self._backoff)
