"""Pinging idle connections and resetting returned ones, in greenlets of the pool."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

import gevent

from geventpool._core.closing import Closer
from geventpool._core.deadline import Deadline
from geventpool._core.failures import log_connector_failure
from geventpool._core.ledger import FOREVER, Entry, Ledger
from geventpool._core.rejections import Rejections
from geventpool._core.returning import Returns
from geventpool._core.states import CHECKING, IDLE, RESETTING, CloseReason
from geventpool._core.workers import within
from geventpool.connector import Connector, ErrorAction, asked, judge
from geventpool.listeners import Listeners
from geventpool.policies import Timeouts

__all__ = ["Checks"]

C = TypeVar("C")

#: Seconds after which no waiter waits any more for a reset that is under way.
PROMPT = 0.05
#: Seconds for which a passed check counts if nobody waited for it any more.
FRESH = 0.1


class Checks(Generic[C]):
    """Checks and resets the connections of one pool.

    :param serve: called when waiters may need another connection.
    """

    def __init__(
        self,
        ledger: Ledger[C],
        connector: Connector[C],
        listeners: Listeners,
        timeouts: Timeouts,
        closer: Closer[C],
        returns: Returns[C],
        serve: Callable[..., object],
    ) -> None:
        self._ledger = ledger
        self._connector = connector
        self._listeners = listeners
        self._timeouts = timeouts
        self._closer = closer
        self._returns = returns
        self._serve = serve
        #: the connections that failed, for refusals
        self.rejections = Rejections()

    def check(self, entry: Entry[C]) -> None:
        """Ping an idle connection, in a greenlet of the pool. May switch."""
        passed = False
        try:
            within(self._timeouts.ping, "a ping", self._connector.ping, entry.conn)
            passed = True
        except Exception as error:
            log_connector_failure("did not answer a ping", entry.conn, error)
            self.reject(error)
            if not entry.suspect:
                # It was a routine ping. Now the others have to be pinged as well.
                self.revalidate_after(error)
        finally:
            if entry.state is CHECKING:
                if passed:
                    self._passed(entry)
                else:
                    self._closer.terminate(entry, CloseReason.PING_FAILED)
                    # Others of its age may be as dead. The first waiter must not wait
                    # for check after check.
                    self._serve(unless_checking=False)

    def reject(self, error: BaseException) -> None:
        """Note that *error* keeps a connection from being lent. Never switches."""
        self.rejections.note(self._ledger.clock(), error)

    def _passed(self, entry: Entry[C]) -> None:
        entry.alive = self._ledger.clock()
        entry.suspect = False
        # assign() computes this anew if there are age limits.
        entry.ready_until = entry.expires
        self._returns.assign(entry)
        if entry.state is IDLE:
            # The waiter that needed it has gone. Without this, ping_after=0 would never
            # serve a caller that asks again and again, and never waits.
            fresh = min(entry.alive + FRESH, entry.expires)
            entry.ready_until = max(entry.ready_until, fresh)

    def reset(self, entry: Entry[C]) -> None:
        """Reset a returned connection, in a greenlet of the pool. May switch."""
        passed = False
        loop = gevent.get_hub().loop
        lag = Deadline(loop, PROMPT, partial(self._reset_lags, entry))
        try:
            within(self._timeouts.reset, "a reset", self._connector.reset, entry.conn)
            passed = True
        except Exception as error:
            log_connector_failure("could not be reset", entry.conn, error)
            self.reject(error)
        finally:
            lag.close()
            self._ledger.lagging.discard(entry)
            if entry.state is RESETTING:
                if passed:
                    self._returns.assign(entry)
                else:
                    self._closer.terminate(entry, CloseReason.RESET_FAILED)

    def _reset_lags(self, entry: Entry[C]) -> None:
        """A reset takes long: have a connection opened instead. Runs in the hub."""
        self._ledger.lagging.add(entry)
        self._serve()

    def revalidate_after(self, error: BaseException | None) -> None:
        """Call :meth:`revalidate` if *error* means a loss. Never switches."""
        if judge(self._connector, error) is ErrorAction.DISCONNECT:
            self.revalidate()

    def revalidate(self) -> None:
        """Ping each idle connection before it is lent, or close it. Never switches.

        They are not all closed at once: a single connection that was killed by hand
        would cost as many openings as there are idle ones. A ping is a round trip.
        """
        with self._listeners.held():
            for entry in self._ledger.all_in(IDLE):
                if entry.suspect:
                    continue
                if asked(self._connector, "can_ping", entry.conn, otherwise=False):
                    entry.suspect = True
                    entry.ready_until = -FOREVER
                else:
                    self._closer.close(entry, CloseReason.SUSPECT)
