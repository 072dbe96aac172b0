"""Opening connections: begin as many as are needed, and note how each attempt ends.

An attempt that the server refuses because it is full is repeated after a pause, one at
a time. A server that cannot be reached is tried at intervals; see ``server_probe.py``.
:meth:`Opener.dial` returns the open connection, and ``lifecycle.py`` assigns it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import gevent

from geventpool._core.attempts import Attempts
from geventpool._core.breaker import Breaker
from geventpool._core.demand import Demand, demand
from geventpool._core.dial_errors import clear_frames, copy_with_traceback, for_waiter
from geventpool._core.leases import Leases
from geventpool._core.ledger import Entry, Ledger, Waiter
from geventpool._core.loops import timer_length
from geventpool._core.server_probe import ServerProbe
from geventpool._core.states import GONE, OPENING
from geventpool._core.workers import WorkerGroup, log_failure, within
from geventpool.connector import Connector, ErrorAction, judge
from geventpool.listeners import Listeners
from geventpool.policies import Backoff, safe_repr

__all__ = ["Dialled", "Opener"]

C = TypeVar("C")

log = logging.getLogger("geventpool")

#: An attempt to open that has taken so many seconds may never end. From then on it
#: counts against *max_connections* only, so that it delays nobody else.
SLOW = 1.0
#: The same while the server is recovering from an outage.
PROMPT = 0.05


class Dialled(Generic[C]):
    """How an attempt to open a connection ended.

    :param conn: the connection; None: there is none.
    :param error: why it cannot be used; None: it can, or nobody needs it.
    :param float started: when the attempt began, by the pool's clock.
    :param bool outdated: it failed, and another has succeeded since it began.
    """

    __slots__ = ("conn", "error", "outdated", "started")

    def __init__(
        self,
        conn: C | None,
        error: BaseException | None,
        started: float,
        outdated: bool = False,
    ) -> None:
        self.conn = conn
        self.error = error
        self.started = started
        self.outdated = outdated


class Opener(Generic[C]):
    """Opens the connections of one pool, and knows how the last attempt ended.

    :param float limit: seconds that one opening may take.
    :param leases: each place is leased of these first; None: there is no budget.
    :param work: what the greenlet of an opening runs: it calls :meth:`dial` and
        :meth:`register`, and returns the error or None.
    :param on_change: called by timers and greenlets after which there may be more to
        open.
    """

    def __init__(
        self,
        ledger: Ledger[C],
        connector: Connector[C],
        listeners: Listeners,
        workers: WorkerGroup,
        breaker: Breaker,
        backoff: Backoff,
        limit: float,
        leases: Leases | None,
        *,
        work: Callable[[Entry[C]], BaseException | None],
        on_change: Callable[[], object],
    ) -> None:
        self._ledger = ledger
        self._connector = connector
        self._listeners = listeners
        self._work = work
        self._on_change = on_change
        self._workers = workers
        self.breaker = breaker
        self.backoff = backoff
        self._limit = limit
        self._leases = leases
        #: places whose opening pauses because the server is full
        self.refused: set[Entry[C]] = set()
        #: the attempts to open that are under way
        self.attempts: Attempts[C] = Attempts(on_change)
        #: attempts of borrowers to connect their own connections again
        self.reconnecting = 0
        #: connections opened so far
        self.successes = 0
        #: the last failure to open and when it was; None after a success
        self.failure: tuple[float, BaseException] | None = None
        self.search = ServerProbe(
            ledger, workers, breaker, self._look, on_change, self._cut_test()
        )
        #: the timer of the next attempt for *min_connections*, and how many have failed
        self._retry: Any = None
        self._missed = 0

    def serve(
        self, unless_checking: bool = True, fill: bool = False, retry: bool = False
    ) -> None:
        """Begin to open what is needed. Never switches.

        :param bool unless_checking: do not open one for a waiter that a check of an
            idle connection may serve.
        :param bool fill: open what *min_connections* lack too, unless the last attempt
            failed: then a timer does that, and the next sweep.
        :param bool retry: open it although the last attempt failed.
        """
        ledger = self._ledger
        if self.breaker.paused and ledger.waiters:
            self._fail_waiters()
        fills = retry or (fill and self.failure is None)
        while any(needed := self._demand(unless_checking)):
            # Each waiter has one attempt at most that was begun for it.
            waiter = ledger.next_unattempted() if needed.waiters else None
            if waiter is None and not (fills and needed.minimum):
                return
            if self._begin(waiter) is None:
                return

    def _demand(self, count_checks: bool = True) -> Demand:
        return demand(
            self._ledger, self._under_way, self.dial_limit, count_checks=count_checks
        )

    def lacking(self) -> int:
        """How many more connections waiters would get if there were places."""
        if not self.dial_limit:
            return 0
        under_way = self._under_way
        return demand(self._ledger, under_way, sys.maxsize).waiters

    def _begin(
        self, waiter: Waiter[C] | None = None
    ) -> gevent.Greenlet[..., Any] | None:
        """Take a place and have a connection opened for it. Never switches.

        :param waiter: the one it is for; None: nobody in particular.
        :return: the greenlet that does it; see *work*. None: the budget of all
            processes has no place.
        """
        if self._leases is not None and not self._leases.lease(waiter is not None):
            return None
        # The place is taken last: if spawning fails, only the lease has to be undone.
        try:
            entry: Entry[C] = Entry(waiter)
            dial = self._workers.spawn(self._work, entry)
        except BaseException:
            if self._leases is not None:
                self._ledger.unreturned += 1
                self._leases.settle()
            raise
        # A link, because ``finally`` is not run in a greenlet that is killed before it
        # has started.
        dial.rawlink(lambda dial: self._ended(entry))
        self._ledger.reserve(entry)
        return dial

    def _ended(self, entry: Entry[C]) -> None:
        """The greenlet that was to open *entry* has ended. In the hub."""
        if entry.state is OPENING and entry in self._ledger.opening:
            self._interrupted(entry, gevent.GreenletExit())
            self._on_change()
        if self._leases is not None and not hasattr(entry, "conn"):
            # The lease of a connection that was opened is given back by the ledger.
            self._ledger.unreturned += 1
            self._leases.settle()

    @property
    def _under_way(self) -> int:
        counted = len(self._ledger.opening) - self.attempts.uncounted
        return counted + self.reconnecting

    @property
    def dial_limit(self) -> int:
        """How many connections may be opened at a time at present."""
        return min(1, self.breaker.limit) if self.refused else self.breaker.limit

    def dial(self, entry: Entry[C]) -> Dialled[C]:
        """Open a connection for *entry*. May switch.

        To be called in a greenlet of the pool. An interruption frees the place.

        :return: for :meth:`register`, unless *entry* is GONE meanwhile.
        """
        started, successes = self._ledger.clock(), self.successes
        try:
            conn = self._open_patiently(entry)
        except (Exception, gevent.Timeout) as error:
            # A driver may fail by a Timeout that it has set up itself.
            return Dialled(None, error, started, self.successes > successes)
        except BaseException as error:
            if entry.state is not GONE:
                self._interrupted(entry, error)
            raise
        if entry.state is GONE:
            log_failure(self._connector.terminate, conn)
            return Dialled(None, None, started)
        return Dialled(conn, self._unfit(conn), started)

    def register(self, entry: Entry[C], dialled: Dialled[C]) -> None:
        """Note how the opening of *entry* ended. Never switches.

        A failure frees the place, and its waiter gets the error, unless it may be
        served in another way. To be called while the listeners are held.
        """
        if dialled.error is None:
            self._opened(entry, dialled)
        else:
            self._not_opened(entry, dialled, dialled.error)

    def _unfit(self, conn: C) -> Exception | None:
        """Return why what the connector opened cannot be lent; None: it can."""
        if conn is None:
            return TypeError(f"{safe_repr(self._connector)}: open() returned None")
        if id(conn) in self._ledger.entries:
            return RuntimeError(f"opened twice, without being new: {safe_repr(conn)}")
        return None

    def _interrupted(self, entry: Entry[C], error: BaseException) -> None:
        """An attempt to open ended without a failure, for example by a kill."""
        waiter = entry.waiter
        self._ledger.settle(entry)
        self._ledger.move(entry, GONE)
        if waiter is not None:
            waiter.interrupted += 1
            # It is tried again once, because the kill was meant for a greenlet of the
            # pool. An open() that always ends so must not be called without end.
            if waiter.interrupted > 1:
                self._ledger.fail(waiter, for_waiter(error))

    def _open_patiently(self, entry: Entry[C]) -> C:
        """Open; try again while the server is full and there are waiters."""
        attempt = 0
        while True:
            try:
                return self._try(entry)
            except Exception as error:
                if not self._may_retry(entry, error, attempt):
                    raise
                failure = error
            self.refused.add(entry)
            try:
                gevent.sleep(timer_length(self.backoff.delay(attempt)))
            finally:
                self.refused.discard(entry)
            if not self._ledger.waiters:
                # They were served, or the pool is closed: nothing is opened any more.
                raise failure
            attempt += 1

    def _try(self, entry: Entry[C]) -> C:
        # A server that has just come back may need long for its first connections.
        seconds = PROMPT if self.breaker.is_recovering else SLOW
        with self.attempts.watched(entry, seconds):
            return within(self._limit, "opening", self._connector.open)

    def _may_retry(self, entry: Entry[C], error: Exception, attempt: int) -> bool:
        retries = self.backoff.retries
        # One at a time: while another pauses, this one gives way.
        if entry.state is GONE or not self._ledger.waiters or self.refused:
            return False
        if retries is not None and attempt >= retries:
            return False
        if judge(self._connector, error) is not ErrorAction.BACK_OFF:
            return False
        self._note_failure(error)
        return True

    def _note_failure(self, error: BaseException) -> None:
        # The lines of the traceback are useful. Its frames would keep the half-opened
        # socket of each failure.
        clear_frames(error.__traceback__)
        # A copy, because the error itself is raised in a borrower and keeps its frames.
        self.failure = (self._ledger.clock(), copy_with_traceback(error))

    def _opened(self, entry: Entry[C], dialled: Dialled[C]) -> None:
        now = self._ledger.clock()
        conn: Any = dialled.conn
        self.failure = None
        self._missed = 0
        self.successes += 1
        self._ledger.settle(entry)
        self._ledger.opened(entry, conn)
        outage = self.breaker.succeeded(now)
        self._listeners.notify("opened", conn, now - dialled.started)
        self._tell_resumed(outage)

    def _tell_resumed(self, outage: float | None) -> None:
        if outage is not None:
            self._listeners.notify("resumed", outage)

    def _not_opened(
        self, entry: Entry[C], dialled: Dialled[C], error: BaseException
    ) -> None:
        waiter, started = entry.waiter, dialled.started
        self._ledger.settle(entry)
        self._ledger.move(entry, GONE)
        self._note_failure(error)
        self._listeners.notify("open_failed", error, self._ledger.clock() - started)
        action = judge(self._connector, error)
        if action is ErrorAction.BACK_OFF:
            # While one attempt pauses because the server is full, the other attempts
            # that it refuses end, and their waiters stay in line.
            stays = bool(self.refused)
            self._retry_later()
        elif dialled.outdated and _is_loss(error, action):
            # It hung in an outage that has ended meanwhile.
            stays = self.breaker.has_grace
            self._retry_later()
        else:
            self._failed(error, action, started)
            stays = self.search.can_still_serve()
        if waiter is not None and not stays:
            self._ledger.fail(waiter, error)

    # While the server cannot be reached

    def _failed(
        self, error: BaseException, action: ErrorAction, started: float
    ) -> None:
        """An attempt has failed, and not because the server is full."""
        is_loss = _is_loss(error, action)
        if self.breaker.failed(self._ledger.clock(), is_loss, started):
            self.search.begin()
            self._listeners.notify("paused", error)
        self._retry_later()

    def begin_reconnect(self) -> bool:
        """Count a borrower's attempt to connect; False: too many are under way."""
        if self._under_way >= self.breaker.most:
            return False
        self.reconnecting += 1
        return True

    def end_reconnect(self) -> None:
        """Count it no more; another connection may be opened. Never switches."""
        self.reconnecting -= 1
        self._on_change()

    def report_failure(self, error: Exception) -> None:
        """A borrower could not connect its connection again. Never switches."""
        self._note_failure(error)
        self._failed(error, judge(self._connector, error), self._ledger.clock())

    def report_success(self) -> None:
        """A borrower has connected its connection again. Never switches."""
        self.failure = None
        self._tell_resumed(self.breaker.succeeded(self._ledger.clock()))
        self._on_change()

    @property
    def is_in_grace(self) -> bool:
        """Whether waiters stay in line although the server cannot be reached."""
        return self.breaker.grace_left(self._ledger.clock()) > 0

    def end_grace(self) -> None:
        """Fail the waiters that nothing else can serve. Never switches."""
        self.breaker.give_up()
        self._on_change()

    def _retry_later(self) -> None:
        """Have missing *min_connections* opened after a pause."""
        if self._is_short and self._retry is None:
            # There may be no caller for long, and the next sweep may be minutes away.
            loop = gevent.get_hub().loop
            pause = timer_length(self.backoff.delay(self._missed))
            self._retry = loop.timer(pause, ref=False)
            self._retry.start(self._retry_minimum, update=True)
            self._missed += 1

    def error_at_once(self) -> BaseException | None:
        """Return the error for a borrower that nothing can serve; None: it may wait.

        To be asked in a pause. The waiters fail too. Never switches.
        """
        self.breaker.demand = True
        if self.failure is None or self.search.can_still_serve():
            return None
        if self._ledger.waiters:
            self._fail_waiters()
        return copy_with_traceback(self.failure[1])

    def _fail_waiters(self) -> None:
        """Fail the waiters that nothing can serve, with the last error."""
        self.breaker.demand = True
        if self.failure is None or self.search.can_still_serve():
            return
        hanging = self.attempts.hanging()
        for waiter in list(self._ledger.waiters.values()):
            # The others have an attempt under way, which may soon end.
            if not waiter.has_attempt or waiter in hanging:
                self._ledger.fail(waiter, copy_with_traceback(self.failure[1]))

    def _look(self) -> None:
        """Try the server once, for at most SLOW seconds. May switch."""
        # In a greenlet of its own: an attempt that hangs does not delay the next one.
        if (dial := self._begin()) is not None:
            self.attempts.note_probe(dial)
            gevent.joinall([dial], timeout=SLOW)

    def _cut_test(self) -> Callable[[C], bool] | None:
        """Return a test whether a connection has lost its socket; None: no test."""
        fileno = self._connector.fileno
        if type(self._connector).fileno is Connector.fileno:
            return None

        def is_cut(conn: C) -> bool:
            try:
                return fileno(conn) < 0
            except Exception:
                return False

        return is_cut

    def resume(self) -> None:
        """Let the next caller try the server again, if it could not be reached."""
        self.search.resume()

    def close(self) -> None:
        """Open nothing any more, and do not try the server."""
        self.search.close()
        self._end_retry()

    # For no waiter in particular

    def prefill(self, number: int) -> None:
        """Open so many connections; raise the first failure. May switch.

        One that is lost meanwhile is not replaced: a peer that accepts and hangs up
        would be dialled without end.
        """
        while not self._ledger.closed and (missing := number - self.successes) > 0:
            batch = min(self.breaker.most, missing) - len(self._ledger.opening)
            begun = [self._begin() for _ in range(batch)]
            dials = [dial for dial in begun if dial is not None]
            if begun and not dials:
                # Other processes have the places. They are leased when they are needed.
                return
            if not dials:
                # Connections are being opened for *min_connections*.
                self._workers.wait_for_one()
            # Each is looked at, because a later success clears the last failure.
            for dial in gevent.joinall(dials):
                if (error := dial.value or dial.exception) is not None:
                    raise for_waiter(error)

    @property
    def _is_short(self) -> bool:
        """Whether there are fewer connections than *min_connections*."""
        return (
            not self._ledger.closed and self._ledger.size < self._ledger.min_connections
        )

    def _retry_minimum(self) -> None:
        """Make one attempt; a success begins the others. In the hub."""
        self._end_retry()
        if self._demand().minimum:
            self._begin()

    def _end_retry(self) -> None:
        timer, self._retry = self._retry, None
        if timer is not None:
            timer.close()


def _is_loss(error: BaseException, action: ErrorAction) -> bool:
    """Whether an attempt failed because the server could not be reached."""
    if isinstance(error, (OSError, EOFError, gevent.Timeout)):
        return True
    return action is ErrorAction.DISCONNECT
