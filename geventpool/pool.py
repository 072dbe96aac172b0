"""The pool: who gets a connection, and when one is opened, checked, cleaned and closed.

The only module that waits. ``ledger.py`` says what is; ``policies.py`` says when;
a connector says how; this says *what now*. Three thoughts carry it:

* Whatever may switch (opening, pinging, cleaning, closing) is done by greenlets that
  the pool owns. A kill or a ``gevent.Timeout`` can only hit what it was aimed at: the
  borrower's wait, which is the single switch point of :meth:`Pool.acquire`.
* A connection that comes back goes straight to whoever has waited longest. A gevent
  queue only *schedules* the wake-up of a waiter, and lets every running greenlet
  overtake him until then.
* Room that comes free for whatever reason ends in :meth:`Pool._serve`.

A method without *May switch* in its description is atomic under gevent; so there is no
lock.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from queue import Empty
from types import TracebackType
from typing import Any, Generic, TypeVar
from weakref import ref

import gevent
from gevent import getcurrent
from gevent.event import Event
from gevent.hub import Waiter
from gevent.monkey import get_original
from gevent.queue import LifoQueue, Queue
from greenlet import greenlet

from geventpool import sockets
from geventpool.alarms import Alarms
from geventpool.connector import Connector, as_connector
from geventpool.errors import (
    ConnectionNotFoundError,
    PoolClosedError,
    PoolDeadlockError,
    PoolExhaustedError,
    TooManyWaitingError,
)
from geventpool.holders import Holder, Holders
from geventpool.ledger import (
    CHECKING,
    CLOSING,
    GONE,
    IDLE,
    IN_USE,
    OPENING,
    RESETTING,
    Entry,
    Ledger,
    Reason,
    Slot,
)
from geventpool.listeners import Audience, PoolListener, PoolStats
from geventpool.policies import (
    Backoff,
    Expiry,
    Limits,
    flag,
    optional_seconds,
    optional_whole,
    seconds,
    whole,
)
from geventpool.pulse import Pulse
from geventpool.reaper import Reaper
from geventpool.reports import Loan, counts, loans
from geventpool.staff import Crew, Staff, within

__all__ = ["Borrowed", "Pool"]

C = TypeVar("C")

log = logging.getLogger("geventpool")

#: Of the thread. The patched one is of the greenlet.
get_ident: Callable[[], int] = get_original("_thread", "get_ident")

#: So many idle connections are pinged, so many returned ones are cleaned, and so many
#: are closed at a time.
CHECKERS = 8
RESETTERS = 64
CLOSERS = 16
#: A sweep lets the others run after so many seconds.
SLICE = 0.002
#: A refusal names so many holders.
NAMED = 5

_numbers = itertools.count(1)
_pools: weakref.WeakSet[Pool[Any]] = weakref.WeakSet()


class Borrowed(Generic[C]):
    """A loan for the length of a ``with`` block; see :meth:`Pool.connection`."""

    __slots__ = ("_pool", "_timeout", "_entry")

    def __init__(self, pool: Pool[C], timeout: float | None) -> None:
        self._pool = pool
        self._timeout = timeout
        self._entry: Entry[C] | None = None

    def __enter__(self) -> C:
        pool = self._pool
        if self._timeout is None and pool._is_calm and not pool._line:
            # The short way, as in Pool.acquire.
            if pool._home == get_ident():
                try:
                    entry = pool._get_idle()
                except Empty:
                    pass
                else:
                    now = pool._clock()
                    probe = pool._probe
                    if now < entry.fit_until and (probe is None or probe(entry.conn)):
                        entry.state = IN_USE
                        entry.since = now
                        entry.holder = ref(getcurrent())
                        entry.block = self
                        self._entry = entry
                        return entry.conn
                    pool._put_idle(entry)
        entry = self._entry = pool._borrow(None, self._timeout)
        entry.holder = ref(getcurrent())
        entry.block = self
        return entry.conn

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        entry = self._entry
        # Not ours any more if it was released, dropped or transferred in the block.
        if entry is not None and entry.block is self:
            entry.block = None
            pool = self._pool
            if error is not None:
                pool._after_error(entry, error)
            elif pool._needs_reset is None and pool._plain:
                if entry.doom is None and not pool._line:
                    entry.state = IDLE
                    pool._put_idle(entry)
                else:
                    pool._give_back(entry)
            else:
                pool._give_back(entry)


class Pool(Generic[C]):
    """A pool of connections for the greenlets of one event loop.

    :param factory: a :class:`~geventpool.Connector`; or any callable:
        ``factory(**options)`` gives an object with ``open``, ``close``,
        ``is_connected`` and ``is_expired``, such as a :class:`~geventpool.Connection`.
    :param options: keyword arguments for *factory*; None: none.
    :param int initial_connections: opened before the constructor returns, which then
        *may switch* and raises what opening raised. Default 0.
    :param int max_connections: the server never sees more sockets of this pool, those
        being opened and closed included. At least 1; default 200.
    :param bool reap_expired_connections: close expired, too long idle and dead idle
        connections in the background. They are never lent in either case.
    :param float reap_interval: seconds between two looks at the idle connections.
    :param str name: for messages; default ``pool-1``, ``pool-2``...
    :param int min_connections: kept open in the background; 0: none.
    :param timeout: seconds an acquirer waits at most, for everything together; None:
        without end. 0: do not wait. Default 30.
    :param max_waiting: so many may wait; one more gets
        :exc:`~geventpool.TooManyWaitingError`. None: any number.
    :param max_lifetime: seconds from a connection's opening to its replacement, less
        up to 5 % at random; None: no limit. It is never closed while in use.
        Set it below the server's or the network's own limit.
    :param max_idle: seconds unused after which a connection is closed, unless
        *min_connections* would be left; None: no limit.
    :param ping_after: a connection unused for so many seconds is sent a round trip
        before it is lent; None: never; 0: always.
    :param ping_interval: idle connections are sent a round trip every so many seconds;
        this does not make them less idle; None: never.
    :param int max_connecting: so many connections are opened at a time. More than a
        few only help a server that is far away; returned connections serve the line
        meanwhile. Default 4.
    :param bool lifo: lend the most recently used connection first, so that the surplus
        ages. False: the least recently used.
    :param Backoff backoff: the pauses while the *server* refuses because it is full,
        and with *handoff* False while the pool is.
    :param bool handoff: a returned connection goes to the longest waiter. False: they
        poll, as gsocketpool's do.
    :param bool reclaim: a greenlet that dies with a connection it took by
        :meth:`acquire` loses it: the connection is closed and its place is free.
    :param listeners: :class:`~geventpool.PoolListener` objects.
    :param Limits limits: seconds that opening, pinging, resetting and closing may take.
    :raises TypeError: an argument is of the wrong kind.
    :raises ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        factory: Connector[C] | Callable[..., C],
        options: Mapping[str, Any] | None = None,
        initial_connections: int = 0,
        max_connections: int = 200,
        reap_expired_connections: bool = True,
        reap_interval: float = 180,
        *,
        name: str | None = None,
        min_connections: int = 0,
        timeout: float | None = 30.0,
        max_waiting: int | None = None,
        max_lifetime: float | None = None,
        max_idle: float | None = None,
        ping_after: float | None = None,
        ping_interval: float | None = None,
        max_connecting: int = 4,
        lifo: bool = True,
        backoff: Backoff = Backoff(),
        handoff: bool = True,
        reclaim: bool = True,
        listeners: Iterable[PoolListener] = (),
        limits: Limits = Limits(),
    ) -> None:
        self._connector = as_connector(factory, options)
        self._max_connections = whole("max_connections", max_connections, 1)
        for label, number in (
            ("initial_connections", initial_connections),
            ("min_connections", min_connections),
        ):
            if whole(label, number) > max_connections:
                raise ValueError(
                    f"{label} must be at most max_connections "
                    f"({max_connections!r}), not {number!r}"
                )
        self._min_connections = min_connections
        self._reaps = flag("reap_expired_connections", reap_expired_connections)
        interval = seconds("reap_interval", reap_interval)
        if not interval:
            raise ValueError(f"reap_interval must be above 0, not {reap_interval!r}")
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a string, not {name!r}")
        self.name = name if name is not None else f"pool-{next(_numbers)}"
        self._timeout = optional_seconds("timeout", timeout)
        self._max_waiting = optional_whole("max_waiting", max_waiting)
        self._expiry = Expiry(max_lifetime, max_idle, ping_after, ping_interval)
        self._is_timed = self._expiry.is_timed
        self._reap_interval = min(interval, ping_interval or interval)
        self._max_connecting = whole("max_connecting", max_connecting, 1)
        self._lifo = flag("lifo", lifo)
        for label, value, kind in (
            ("backoff", backoff, Backoff),
            ("limits", limits, Limits),
        ):
            if not isinstance(value, kind):
                raise TypeError(f"{label} must be a {kind.__name__}, not {value!r}")
        self._backoff = backoff
        self._limits = limits
        self._handoff = flag("handoff", handoff)
        self._reclaim = flag("reclaim", reclaim)
        self._audience = Audience(listeners)

        #: seconds, monotonic; a test may put a clock of its own here
        self._clock: Callable[[], float] = time.monotonic
        self._closed = False
        self._begin()
        _pools.add(self)
        if min_connections:
            self._keep_reaping()
        if initial_connections:
            self._prefill(initial_connections)

    def _begin(self) -> None:
        """Start with nothing: at construction, and in the child after a fork."""
        queue: Queue[Entry[C]] = LifoQueue() if self._lifo else Queue()
        ledger: Ledger[C] = Ledger(queue, self._max_connections, self._lifo)
        self._ledger = ledger
        self._home = get_ident()
        self._staff = Staff()
        self._checkers = Crew(self._staff, CHECKERS, self._check)
        self._resetters = Crew(self._staff, RESETTERS, self._reset)
        self._closers = Crew(self._staff, CLOSERS, self._say_goodbye)
        self._holders = Holders(self._holder_died, self._reclaim)
        self._alarms = Alarms(self._timeout)
        self._pulse = Pulse(ledger.line.__len__, self._now)
        self._reaper: Reaper[Pool[C]] | None = None
        #: greenlets that poll because *handoff* is off
        self._pollers: set[greenlet] = set()
        #: places whose opening pauses because the server is full
        self._refused: set[Entry[C]] = set()
        #: the last failure to open and when it was; None after a success
        self._failure: tuple[float, BaseException] | None = None
        #: set when anything changes after the pool was closed
        self._changed = Event()

        # What the uncontended loan touches, bound once.
        #: nobody is to be told of a loan
        self._is_calm = not self._audience
        self._known = self._holders.known if self._is_calm else {}
        #: who borrowed or gave back last: most often the one who does next
        self._recent: Any = _nobody
        self._line = ledger.line
        self._get_idle = queue.get_nowait
        self._put_idle = queue.put_nowait
        kind = type(self._connector)
        self._probe: Callable[[C], bool] | None = None
        if kind.is_usable is not Connector.is_usable:
            self._probe = self._is_usable
        self._needs_reset: Callable[[C], bool] | None = None
        if kind.needs_reset is not Connector.needs_reset:
            self._needs_reset = self._asks_for_reset
        #: nothing to be done at a release but to note it
        self._plain = self._is_calm and not self._is_timed

    def _now(self) -> float:
        return self._clock()

    # Borrowing.

    def connection(self, timeout: float | None = None) -> Borrowed[C]:
        """A connection for the length of a ``with`` block.

        ::

            with pool.connection() as conn:
                conn.send(b"PING")

        Left normally, the block gives the connection back. Left by an exception, the
        connection is closed, unless it is an ordinary :exc:`Exception` of which the
        connector can tell that the protocol is in step. Never is it given back after
        a kill or a :exc:`gevent.Timeout`: the answer to an interrupted request is
        still under way, and would go to the next borrower.

        Entering *may switch*; leaving does not.

        :param timeout: seconds to wait at most; None: the pool's *timeout*.
        :raises PoolError: as :meth:`acquire`, on entering.
        """
        return Borrowed(self, timeout)

    def acquire(
        self,
        retry: int | None = None,
        *,
        timeout: float | None = None,
        reclaim: bool = True,
    ) -> C:
        """A connection, to be given back by :meth:`release` or :meth:`drop`.

        Prefer :meth:`connection`: a block cannot forget, and knows how it was left.

        *May switch*, at one single point, and only if no idle connection is fit.

        :param retry: wait no longer than so many pauses of the pool's *backoff* last
            together; 0: do not wait. None: as *backoff* says.
        :param timeout: seconds to wait at most, for everything together: the line,
            opening, checking; 0: do not wait, but have a connection opened for the
            next one who asks, if there is room. None: the pool's *timeout*. Whichever
            of *retry* and *timeout* ends first counts.
        :raises PoolExhaustedError: no connection in time.
        :raises TooManyWaitingError: *max_waiting* wait already.
        :raises PoolDeadlockError: every connection is held by a greenlet that waits
            here.
        :raises PoolClosedError: the pool was closed, before or meanwhile.
        :raises RuntimeError: called from a thread that is not the pool's.
        :raises Exception: whatever the driver raised when a connection was opened for
            this caller, unchanged.
        """
        current = getcurrent()
        # The short way: a whole uncontended loan, written out, for each call would cost
        # a tenth of it. A greenlet that is known is one of this thread.
        holder = self._recent
        if holder() is not current:
            holder = self._recent = self._known.get(id(current), _nobody)
        if holder is not _nobody and retry is None and timeout is None and reclaim:
            if not self._line:
                try:
                    entry = self._get_idle()
                except Empty:
                    pass
                else:
                    now = self._clock()
                    probe = self._probe
                    if now < entry.fit_until and (probe is None or probe(entry.conn)):
                        entry.state = IN_USE
                        entry.since = now
                        entry.holder = holder
                        if holder.loan is not None:
                            holder.several = True
                        holder.loan = entry
                        return entry.conn
                    self._put_idle(entry)
        entry = self._borrow(retry, timeout)
        if reclaim:
            holder = self._holders.enlist(current)
            entry.holder = holder
            holder.took(entry)
        else:
            entry.holder = weakref.ref(current)
        return entry.conn

    def _borrow(self, retry: int | None, timeout: float | None) -> Entry[C]:
        """An entry that is in use; its holder is still to be noted. *May switch.*"""
        if self._home != get_ident():
            raise self._foreign_thread()
        if timeout is not None:
            timeout = seconds("timeout", timeout)
        if retry is not None:
            whole("retry", retry)
        if self._closed:
            raise PoolClosedError(f"Pool {self.name!r} is closed")
        started = self._clock()
        entry = None if self._line else self._fit(started)
        if entry is None:
            entry = self._wait_for_one(retry, timeout, started)
            waited = self._clock() - started
        else:
            self._lend(entry, started)
            waited = 0.0
        if not self._is_calm:
            self._audience.tell("acquired", entry.conn, waited)
        return entry

    def _lend(self, entry: Entry[C], now: float) -> None:
        self._ledger.move(entry, IN_USE)
        entry.since = now

    def _fit(self, now: float) -> Entry[C] | None:
        """The next idle entry that may be lent; the others are seen to."""
        ledger = self._ledger
        while (entry := ledger.take_idle()) is not None:
            if now < entry.fit_until:
                if self._probe is None or self._probe(entry.conn):
                    return entry
                self._discard(entry, Reason.UNUSABLE)
            elif (reason := self._overdue(entry, now)) is not None:
                self._close(entry, reason)
            else:
                self._checkers.put(entry)
        return None

    def _overdue(self, entry: Entry[C], now: float) -> Reason | None:
        """Why an idle entry must go, if it must."""
        if now >= entry.expires:
            return Reason.EXPIRED
        max_idle = self._expiry.max_idle
        if max_idle is not None and now - entry.used >= max_idle:
            # Those that say goodbye are still counted, but they do not stay.
            ledger = self._ledger
            if ledger.size - len(ledger.closing) > self._min_connections:
                return Reason.IDLE
        return None

    def _is_usable(self, conn: C) -> bool:
        try:
            return self._connector.is_usable(conn)
        except Exception:
            log.exception("is_usable failed: %r counts as unusable", conn)
            return False

    def _foreign_thread(self) -> RuntimeError:
        return RuntimeError(
            f"Pool {self.name!r} belongs to the event loop of another thread; "
            "give each thread a pool of its own"
        )

    # Waiting.

    def _patience(self, retry: int | None, timeout: float | None) -> float | None:
        """Seconds to wait at most; None: without end."""
        if timeout is None:
            timeout = self._timeout
        retries = self._backoff.retries if retry is None else retry
        if retries is None or (retries and not self._handoff):
            return timeout
        total = self._backoff.total(retries)
        return total if timeout is None else min(timeout, total)

    def _wait_for_one(
        self, retry: int | None, timeout: float | None, started: float
    ) -> Entry[C]:
        """An entry that was returned or opened meanwhile. *May switch.*"""
        ledger = self._ledger
        patience = self._patience(retry, timeout)
        if self._max_waiting is not None:
            if len(ledger.line) + len(self._pollers) >= self._max_waiting:
                raise self._refusal(TooManyWaitingError, started)
        if not self._handoff and not ledger.has_room:
            entry = self._poll(retry, patience, started)
            if entry is not None:
                return entry
            if patience is not None:
                patience = max(0.0, patience - (self._clock() - started))
        return self._stand_in_line(patience, started)

    def _stand_in_line(self, patience: float | None, started: float) -> Entry[C]:
        ledger = self._ledger
        hub = gevent.get_hub()
        loop = hub.loop
        waiter: Waiter[None] = Waiter(hub)
        current = getcurrent()
        slot = ledger.join(current, partial(loop.run_callback, waiter.switch, None))
        if ledger.has_room:
            self._serve()
        if ledger.is_deadlocked():
            ledger.leave(slot)
            raise self._refusal(PoolDeadlockError, started)
        lost = self._pulse.lost
        if patience != 0 and current is not hub:
            if not self._pulse.is_beating:
                self._pulse.start()
            try:
                self._alarms.sleep(loop, waiter, patience)
            except BaseException:
                # A kill, a foreign Timeout or a LoopExit. If a connection was handed
                # over in the same turn of the loop, it goes on to the next.
                self._step_out(slot)
                raise
        if slot.entry is not None:
            return slot.entry
        ledger.leave(slot)
        if slot.error is not None:
            raise slot.error
        raise self._refusal(PoolExhaustedError, started, lost)

    def _step_out(self, slot: Slot[C]) -> None:
        self._ledger.leave(slot)
        if slot.entry is not None:
            self._pass_on(slot.entry)

    def _poll(
        self, retry: int | None, patience: float | None, started: float
    ) -> Entry[C] | None:
        """An idle entry; None as soon as there is room for a new one. *May switch.*"""
        retries = self._backoff.retries if retry is None else retry
        for attempt in itertools.count() if retries is None else range(retries):
            pause = self._backoff.delay(attempt)
            if patience is not None:
                pause = min(pause, started + patience - self._clock())
            if pause < 0 or patience == 0:
                break
            self._pollers.add(getcurrent())
            try:
                gevent.sleep(pause)
            finally:
                self._pollers.discard(getcurrent())
            if self._closed:
                raise PoolClosedError(f"Pool {self.name!r} was closed while you waited")
            entry = self._fit(self._clock())
            if entry is not None:
                self._lend(entry, self._clock())
                return entry
            if self._ledger.has_room:
                return None
        raise self._refusal(PoolExhaustedError, started)

    def _refusal(
        self, kind: type[PoolExhaustedError], started: float, lost: float | None = None
    ) -> PoolExhaustedError:
        """The error that tells why there is no connection."""
        now = self._clock()
        waited = now - started
        parts = [
            f"Pool {self.name!r} exhausted: {_PREFACE[kind].format(waited)} "
            f"({counts(self._ledger)})"
        ]
        if lost is not None and (blocked := self._pulse.so_far() - lost) > 0.1:
            parts.append(f"the hub was blocked for {blocked:.1f} s of it")
        lent = self._ledger.all_in(IN_USE)
        parts += [f"held by {loan}" for loan in loans(lent, now, NAMED)]
        error = kind("; ".join(parts))
        if self._failure is not None and self._failure[0] >= started:
            error.__cause__ = self._failure[1]
        self._audience.tell("exhausted", waited)
        return error

    # Giving back.

    def release(self, conn: C, anyone: bool = False) -> None:
        """Give back a connection that is in step and clean.

        Never switches; works in hub callbacks, finalisers and ``finally`` clauses.

        The holder gives back: a stale release by a former holder must not end the
        loan of the present one. To let another greenlet do it, :meth:`transfer` the
        loan first. The hub may release anything, and anybody what a dead greenlet
        held.

        :param conn: what :meth:`acquire` returned.
        :param bool anyone: do not ask who releases; for adapters whose own interface
            has no such rule.
        :raises ConnectionNotFoundError: not on loan to the caller. Nothing is changed.
        :raises RuntimeError: called from a thread that is not the pool's.
        """
        current = getcurrent()
        holder = self._recent
        if holder() is not current:
            holder = self._recent = self._known.get(id(current), _nobody)
        if holder is not _nobody:
            entry = holder.loan
            if entry is not None and entry.conn is conn:
                # The short way: what it borrowed last.
                holder.loan = None
                needs_reset = self._needs_reset
                if (
                    self._plain
                    and entry.doom is None
                    and not self._line
                    and (needs_reset is None or not needs_reset(conn))
                ):
                    entry.state = IDLE
                    self._put_idle(entry)
                else:
                    self._give_back(entry)
                return
        self._give_back(self._claim(conn, anyone))

    def drop(self, conn: C, anyone: bool = False) -> None:
        """Part with a connection that is lent to the caller, or idle.

        Never switches. A lent one is closed at once and without a goodbye, for nobody
        knows what state it is in; its place is free.

        :param bool anyone: as for :meth:`release`.
        :raises ConnectionNotFoundError: neither lent to the caller nor idle.
        :raises RuntimeError: called from a thread that is not the pool's.
        """
        entry = self._ledger.entries.get(id(conn))
        if entry is not None and entry.conn is conn and entry.state is IDLE:
            self._check_thread()
            self._close(entry, Reason.DROPPED)
        else:
            self._discard(self._claim(conn, anyone), Reason.DROPPED)

    def transfer(self, conn: C, greenlet: greenlet | None) -> None:
        """Make another greenlet the holder of a connection lent to the caller.

        From then on it is for *greenlet* to give it back, and its death that ends the
        loan; a ``with`` block that the connection was borrowed in leaves it alone.
        Never switches.

        :param greenlet: may be one that has not yet started; None: nobody is the
            holder, anybody may give it back, and no death ends the loan.
        :raises ConnectionNotFoundError: not on loan to the caller.
        :raises TypeError: *greenlet* is no greenlet.
        """
        if greenlet is not None and not isinstance(greenlet, _Greenlet):
            raise TypeError(f"greenlet must be a greenlet or None, not {greenlet!r}")
        entry = self._claim(conn)
        if greenlet is not None:
            entry.holder = holder = self._holders.enlist(greenlet)
            holder.took(entry)

    def _claim(self, conn: C, anyone: bool = False) -> Entry[C]:
        """The entry of a connection on loan, which is no longer its holder's."""
        self._check_thread()
        entry = self._ledger.lent(conn)
        holder = entry.holder() if entry.holder is not None else None
        current = getcurrent()
        if holder is not current and holder is not None and not holder.dead:
            if not anyone and current is not gevent.get_hub():
                raise ConnectionNotFoundError(
                    f"lent to {holder!r}, not to the caller {current!r}: {conn!r}; "
                    "transfer() hands a loan over"
                )
        self._end_loan(entry)
        return entry

    def _check_thread(self) -> None:
        if self._home != get_ident():
            raise self._foreign_thread()

    def _end_loan(self, entry: Entry[C]) -> None:
        holder, entry.holder, entry.block = entry.holder, None, None
        if isinstance(holder, Holder) and holder.loan is entry:
            holder.loan = None

    def _give_back(self, entry: Entry[C]) -> None:
        """A loan ended well."""
        needs_reset = self._needs_reset
        if self._plain and entry.doom is None:
            if needs_reset is None or not needs_reset(entry.conn):
                self._hand_on(entry)
                return
        now = self._clock()
        entry.used = entry.alive = now
        if self._audience:
            self._audience.tell("released", entry.conn, now - entry.since)
        doom = self._doom(entry)
        if doom is None and now >= entry.expires:
            doom = Reason.EXPIRED
        if doom is not None:
            self._close(entry, doom)
        elif needs_reset is not None and needs_reset(entry.conn):
            self._ledger.move(entry, RESETTING)
            self._resetters.put(entry)
        else:
            self._pass_on(entry)

    def _hand_on(self, entry: Entry[C]) -> None:
        """What is plainly in order goes to the first in line, or is idle."""
        if not self._line:
            entry.state = IDLE
            self._put_idle(entry)
        elif self._probe is None or self._probe(entry.conn):
            # Nobody looks at it again before it is used, so this is the last chance
            # to find it closed, or with an answer that nobody read.
            self._ledger.hand_over(entry, self._clock())
        else:
            self._discard(entry, Reason.UNUSABLE)

    def _asks_for_reset(self, conn: C) -> bool:
        try:
            return self._connector.needs_reset(conn)
        except Exception:
            log.exception("needs_reset failed: %r is reset", conn)
            return True

    def _pass_on(self, entry: Entry[C]) -> None:
        """A connection that nobody uses any more goes to whoever is next."""
        if (doom := self._doom(entry)) is not None:
            self._close(entry, doom)
            return
        if self._line and self._probe is not None and not self._probe(entry.conn):
            self._discard(entry, Reason.UNUSABLE)
        else:
            self._supply(entry)

    def _supply(self, entry: Entry[C]) -> None:
        if self._is_timed:
            entry.fit_until = self._expiry.fit_until(
                entry.expires, entry.used, entry.alive
            )
        self._ledger.supply(entry, self._clock())

    def _after_error(self, entry: Entry[C], error: BaseException) -> None:
        """A block was left by *error*: keep its connection only if it is in step."""
        connector = self._connector
        condemned = survives = False
        if isinstance(error, Exception):
            try:
                condemned = connector.condemns(error)
                survives = not condemned and connector.survives(error)
            except Exception:
                log.exception("asked about %r, %r failed", error, connector)
        if survives:
            self._give_back(entry)
        else:
            self._discard(entry, Reason.BORROWER_FAILED)
        if condemned:
            self.drain()

    def _holder_died(self, holder: Holder) -> None:
        """In the hub: a greenlet has ended with connections it never gave back."""
        for entry in list(self._ledger.all_in(IN_USE)):
            if entry.holder is holder:
                self._discard(entry, Reason.HOLDER_DIED)

    # Letting go.

    def _discard(self, entry: Entry[C], reason: Reason) -> None:
        """Drop the descriptor, at once and without a word."""
        self._end_loan(entry)
        self._leave_queue(entry, GONE)
        _silently(self._connector.discard, entry.conn)
        if self._audience:
            self._audience.tell("closed", entry.conn, reason)
        self._serve()
        self._make_up()

    def _close(self, entry: Entry[C], reason: Reason) -> None:
        """Take leave politely, in a greenlet of ours; until then the place is taken."""
        self._end_loan(entry)
        self._leave_queue(entry, CLOSING)
        self._closers.put(entry)
        if self._audience:
            self._audience.tell("closed", entry.conn, reason)

    def _leave_queue(self, entry: Entry[C], state: Any) -> None:
        if entry.state is IDLE:
            self._ledger.withdraw(entry, state)
        else:
            self._ledger.move(entry, state)

    def _say_goodbye(self, entry: Entry[C]) -> None:
        """In a greenlet of the pool. *May switch.*"""
        if entry.state is not CLOSING:
            return  # cut off meanwhile
        try:
            within(self._limits.close, "closing", self._connector.close, entry.conn)
        except Exception as error:
            log.debug("%r was not closed cleanly: %r", entry.conn, error)
            _silently(self._connector.discard, entry.conn)
        except BaseException:
            # Killed: whatever kills the pool's own greenlets wants no goodbye.
            _silently(self._connector.discard, entry.conn)
            raise
        finally:
            if entry.state is not GONE:
                self._ledger.move(entry, GONE)
                self._serve()
                self._make_up()

    # Serving the line.

    def _serve(self, unless_checking: bool = True) -> None:
        """Room came free, or somebody joined the line: open what is needed.

        A connection is opened only if those who wait outnumber those under way: most
        bursts are served by returned connections before a new one is there. (An idea
        of HikariCP.)

        :param bool unless_checking: do not open one for a waiter that a check of an
            idle connection may serve.
        """
        ledger = self._ledger
        if self._closed:
            self._changed.set()
        limit = 1 if self._refused else self._max_connecting
        while ledger.line and ledger.has_room and len(ledger.opening) < limit:
            under_way = len(ledger.opening)
            if unless_checking:
                under_way += min(len(ledger.checking), CHECKERS)
            slot = ledger.undialled()
            if slot is None or under_way >= len(ledger.line):
                return
            self._staff.spawn(self._dial, ledger.reserve(slot))

    def _dial(self, entry: Entry[C]) -> BaseException | None:
        """Open a connection, in a greenlet of the pool; why not. *May switch.*"""
        self._keep_reaping()
        started = self._clock()
        try:
            conn = self._open_patiently(entry)
        except (Exception, gevent.Timeout) as error:
            # A Timeout that a driver sets up for itself is its way to fail.
            if entry.state is not GONE:
                self._not_opened(entry, error, started)
            return error
        except BaseException:
            # Killed: nobody is told, but the place and the line must not be lost.
            if entry.state is not GONE:
                self._ledger.settle(entry)
                self._ledger.move(entry, GONE)
                self._serve()
            raise
        else:
            if entry.state is GONE:
                _silently(self._connector.discard, conn)
            elif id(conn) in self._ledger.entries:
                again = RuntimeError(f"opened twice, without being new: {conn!r}")
                self._not_opened(entry, again, started)
                return again
            else:
                self._opened(entry, conn, started)
            return None

    def _open_patiently(self, entry: Entry[C]) -> C:
        """Open; while the server is full, and as long as somebody waits, try again."""
        for attempt in itertools.count():
            try:
                return within(self._limits.open, "opening", self._connector.open)
            except Exception as error:
                if not self._may_retry(entry, error, attempt):
                    raise
                failure = error
            self._refused.add(entry)
            try:
                gevent.sleep(self._backoff.delay(attempt))
            finally:
                self._refused.discard(entry)
            if not self._ledger.line:
                # Served or gone, or the pool is closed: nothing is opened any more.
                raise failure
        raise AssertionError("unreachable")

    def _may_retry(self, entry: Entry[C], error: Exception, attempt: int) -> bool:
        retries = self._backoff.retries
        # One at a time: while another pauses, this one gives way.
        if entry.state is GONE or not self._ledger.line or self._refused:
            return False
        if retries is not None and attempt >= retries:
            return False
        if not self._connector.is_exhausted(error):
            return False
        self._note_failure(error)
        return True

    def _note_failure(self, error: BaseException) -> None:
        # The lines of the traceback are worth keeping; its frames would keep the
        # half-opened socket of every failure.
        traceback.clear_frames(error.__traceback__)
        self._failure = (self._clock(), error)

    def _opened(self, entry: Entry[C], conn: C, started: float) -> None:
        now = self._clock()
        self._failure = None
        self._ledger.settle(entry)
        self._ledger.opened(entry, conn)
        entry.expires = self._expiry.expires(now)
        entry.used = entry.alive = now
        if self._audience:
            self._audience.tell("opened", conn, now - started)
        if (doom := self._doom(entry)) is not None:
            self._close(entry, doom)
        else:
            # Not looked at once more: a server that accepts and hangs up would be
            # dialled without end. Its borrower gets to know.
            self._supply(entry)
        self._serve()

    def _not_opened(
        self, entry: Entry[C], error: BaseException, started: float
    ) -> None:
        slot = entry.slot
        self._ledger.settle(entry)
        self._ledger.move(entry, GONE)
        self._note_failure(error)
        self._audience.tell("open_failed", error, self._clock() - started)
        # While one opening pauses because the server is full, the others that it
        # refuses give way: their waiters stay in line.
        gives_way = (
            self._refused
            and isinstance(error, Exception)
            and self._connector.is_exhausted(error)
        )
        if slot is not None and not gives_way:
            self._ledger.fail(slot, error)
        self._serve()

    def _prefill(self, number: int) -> None:
        """Open the initial connections, or none and raise. *May switch.*"""
        try:
            while self._ledger.size < number:
                batch = min(self._max_connecting, number - self._ledger.size)
                dials = [
                    self._staff.spawn(self._dial, self._ledger.reserve())
                    for _ in range(batch)
                ]
                # Each is asked: a success after it wipes out the last failure.
                for dial in gevent.joinall(dials):
                    if (error := dial.value or dial.exception) is not None:
                        raise error
        except BaseException:
            # Whoever is interrupted while constructing has no pool to close.
            self.close(timeout=0)
            raise

    def _check(self, entry: Entry[C]) -> None:
        """Ping an idle connection, in a greenlet of the pool. *May switch.*"""
        if entry.state is not CHECKING:
            return  # cut off meanwhile
        passed = False
        try:
            within(self._limits.ping, "a ping", self._connector.ping, entry.conn)
            passed = True
        except Exception as error:
            log.debug("%r did not answer a ping: %r", entry.conn, error)
        finally:
            if entry.state is CHECKING:
                if passed:
                    entry.alive = self._clock()
                    self._pass_on(entry)
                else:
                    self._discard(entry, Reason.PING_FAILED)
                    # Others of its age may be as dead: do not let the first in line
                    # wait for check after check.
                    self._serve(unless_checking=False)

    def _reset(self, entry: Entry[C]) -> None:
        """Clean up after a loan, in a greenlet of the pool. *May switch.*"""
        if entry.state is not RESETTING:
            return  # cut off meanwhile
        passed = False
        try:
            within(self._limits.reset, "a reset", self._connector.reset, entry.conn)
            passed = True
        except Exception as error:
            log.debug("%r could not be reset: %r", entry.conn, error)
        finally:
            if entry.state is RESETTING:
                if passed:
                    self._pass_on(entry)
                else:
                    self._discard(entry, Reason.RESET_FAILED)

    # Looking after the idle ones.

    def drop_expired(self) -> None:
        """Close the idle connections that have expired or died. Never switches."""
        self._check_thread()
        now = self._clock()
        for entry in self._ledger.all_in(IDLE):
            self._look_at(entry, now)

    def _look_at(self, entry: Entry[C], now: float) -> bool:
        """Close an idle entry if it must go; True: it stays."""
        reason = self._overdue(entry, now)
        if reason is not None:
            self._close(entry, reason)
        elif self._probe is not None and not self._probe(entry.conn):
            self._discard(entry, Reason.UNUSABLE)
        return entry.state is IDLE

    def _keep_reaping(self) -> None:
        """See to it that a reaper is at work, if one is needed."""
        if self._closed or (self._reaper is not None and self._reaper.is_alive):
            return
        if self._reaps or self._min_connections or self._expiry.ping_interval:
            self._reaper = Reaper(self, Pool._sweep, self._reap_interval)
            self._stock_up()

    def _sweep(self) -> None:
        """What the reaper does each time. *May switch.*"""
        self._holders.sweep()
        began = self._clock()
        interval = self._expiry.ping_interval
        for entry in self._ledger.all_in(IDLE):
            now = self._clock()
            stays = not self._reaps or self._look_at(entry, now)
            if stays and interval is not None and now - entry.alive >= interval:
                self._ledger.withdraw(entry, CHECKING)
                self._checkers.put(entry)
            if now - began > SLICE:
                # Not sleep(0): that only turns the callbacks over, and lets no event
                # of a socket in.
                gevent.sleep(SLICE / 4, ref=False)
                began = self._clock()
        self._stock_up()

    def _stock_up(self) -> None:
        """Begin to open what is missing of *min_connections*."""
        ledger = self._ledger
        while (
            not self._closed
            and ledger.size < self._min_connections
            and len(ledger.opening) < self._max_connecting
        ):
            self._staff.spawn(self._restock, ledger.reserve())

    def _restock(self, entry: Entry[C]) -> None:
        self._dial(entry)
        self._make_up()

    def _make_up(self) -> None:
        """Stock up for one that went, unless the server is down."""
        # After a failure the next sweep tries again: that is the pause.
        if self._failure is None:
            self._stock_up()

    # Changing the whole pool.

    def drain(self) -> None:
        """Renew all connections and stay open. Never switches.

        The idle ones are closed now, those in use when they come back, those being
        opened as soon as they are open: they may have been opened with old credentials
        or to an old address.
        """
        self._check_thread()
        self._condemn(Reason.DRAINED)

    def _condemn(self, reason: Reason) -> None:
        ledger = self._ledger
        while (entry := ledger.take_idle()) is not None:
            self._close(entry, reason)
        for entry in (*ledger.entries.values(), *ledger.opening):
            if entry.state is not CLOSING:
                entry.doom = reason

    def resize(self, max_connections: int) -> None:
        """Change how many connections there may be. Never switches.

        More: those who wait are served at once. Fewer: idle connections are closed
        first, then such as come back.

        :raises TypeError: *max_connections* is no whole number.
        :raises ValueError: it is below 1 or below the pool's *min_connections*.
        """
        whole("max_connections", max_connections, max(1, self._min_connections))
        self._check_thread()
        ledger = self._ledger
        self._max_connections = ledger.max_connections = max_connections
        for entry in ledger.all_in(IDLE):
            if not self._has_surplus():
                break
            self._close(entry, Reason.SURPLUS)
        if self._has_surplus():
            # Whichever come back first will go; see _doom.
            for entry in (*ledger.entries.values(), *ledger.opening):
                if entry.doom is None:
                    entry.doom = Reason.SURPLUS
        self._serve()

    def _has_surplus(self) -> bool:
        ledger = self._ledger
        return ledger.size - len(ledger.closing) > ledger.max_connections

    def _doom(self, entry: Entry[C]) -> Reason | None:
        """Why an entry must go now that nobody uses it; None: it need not."""
        if entry.doom is Reason.SURPLUS and not self._has_surplus():
            # Others went in its place.
            entry.doom = None
        return entry.doom

    def close(self, timeout: float | None = None) -> list[Loan]:
        """Close for good: afterwards nothing can be borrowed, and nothing is open.

        Those who wait get :exc:`~geventpool.PoolClosedError` at once. Then it waits
        until every connection is back and closed, but for those that the caller
        itself holds: they are closed when given back. What is left when the time is
        over is closed under its holder.

        *May switch*, unless *timeout* is 0 or the hub calls. Calling it again is fine.

        :param timeout: seconds to wait at most; None: without end.
        :return: the loans that were cut off.
        :raises TypeError: *timeout* is no number.
        :raises ValueError: *timeout* is negative, NaN or infinite.
        """
        timeout = optional_seconds("timeout", timeout)
        self._check_thread()
        if not self._closed:
            self._closed = True
            if self._reaper is not None:
                self._reaper.stop()
            for slot in list(self._line.values()):
                error = PoolClosedError(
                    f"Pool {self.name!r} was closed while you waited"
                )
                self._ledger.fail(slot, error)
            self._condemn(Reason.POOL_CLOSED)
        if getcurrent() is not gevent.get_hub():
            self._wait_for_all(timeout)
        return self._cut_off()

    def _wait_for_all(self, timeout: float | None) -> None:
        deadline = None if timeout is None else self._clock() + timeout
        while self._others():
            left = None if deadline is None else deadline - self._clock()
            if left is not None and left <= 0:
                return
            self._changed.clear()
            self._changed.wait(left)

    def _others(self) -> list[Entry[C]]:
        """What is not yet closed and not held by the caller."""
        current = getcurrent()
        ledger = self._ledger
        return [
            entry
            for entry in (*ledger.entries.values(), *ledger.opening)
            if entry.state is not IN_USE
            or entry.holder is None
            or entry.holder() is not current
        ]

    def _cut_off(self) -> list[Loan]:
        left = self._others()
        if not left:
            return []
        lent = [entry for entry in left if entry.state is IN_USE]
        report = loans(lent, self._clock())
        self._staff.dismiss()
        for entry in left:
            self._abandon(entry)
        # Others may be closing it too, and wait.
        self._changed.set()
        return report

    def _abandon(self, entry: Entry[C]) -> None:
        opened = entry.state is not OPENING
        self._end_loan(entry)
        self._leave_queue(entry, GONE)
        if opened:
            _silently(self._connector.discard, entry.conn)

    def __enter__(self) -> Pool[C]:
        return self

    def __exit__(self, *error: object) -> None:
        self.close(self._timeout)

    def __del__(self) -> None:
        """Forgotten by everybody: the idle connections go, without a word.

        A finaliser runs anywhere, so it does nothing that could switch. It is not a
        ``weakref.finalize``, which would keep the ledger and so the connections alive,
        and some drivers' connections know their pool. What is lent stays with its
        borrower.
        """
        ledger = getattr(self, "_ledger", None)
        if ledger is not None:
            # A greenlet that outlives many pools must not collect their links.
            self._holders.disband()
            for entry in ledger.all_in(IDLE):
                _silently(self._connector.discard, entry.conn)

    def _forked(self) -> None:
        """In the child: begin with nothing, and leave the parent's sockets alone.

        A copied greenlet of the parent runs on in the child. So the copied
        descriptors are closed, which the parent does not notice, and the pool's own
        greenlets are told to end.
        """
        ledger = self._ledger
        self._staff.dismiss()
        if self._reaper is not None:
            self._reaper.stop()
        self._holders.known.clear()
        for entry in (*ledger.entries.values(), *ledger.opening):
            self._end_loan(entry)
            if entry.state is not OPENING:
                _silently(self._connector.discard, entry.conn)
            entry.state = GONE
        self._begin()

    # Being looked at.

    @property
    def size(self) -> int:
        """How many places are taken: connections, and those being opened."""
        return self._ledger.size

    @property
    def max_connections(self) -> int:
        """How many places there are."""
        return self._max_connections

    @property
    def closed(self) -> bool:
        """Was :meth:`close` called?"""
        return self._closed

    def idle_connections(self) -> list[C]:
        """The connections that nobody uses; a copy."""
        return [entry.conn for entry in self._ledger.all_in(IDLE)]

    def lent_connections(self) -> list[C]:
        """The connections on loan; a copy."""
        return [entry.conn for entry in self._ledger.all_in(IN_USE)]

    def loans(self) -> list[Loan]:
        """Who holds a connection, since when and doing what; the oldest loan first."""
        return loans(self._ledger.all_in(IN_USE), self._clock())

    def stats(self) -> PoolStats:
        """How the pool stands at this moment; does not change any more."""
        ledger = self._ledger
        return PoolStats(
            name=self.name,
            max_connections=self._max_connections,
            size=ledger.size,
            idle=ledger.idle,
            in_use=ledger.in_use,
            opening=len(ledger.opening),
            checking=len(ledger.checking),
            resetting=len(ledger.resetting),
            closing=len(ledger.closing),
            waiting=len(ledger.line) + len(self._pollers),
            counts=self._audience.counts(),
        )

    def __repr__(self) -> str:
        closed = " closed" if self._closed else ""
        return f"<{type(self).__name__} {self.name!r}{closed} {counts(self._ledger)}>"


def _nobody() -> None:
    """Stands for a holder where there is none."""


#: A name that a parameter called "greenlet" does not hide.
_Greenlet = greenlet

_PREFACE: dict[type[PoolExhaustedError], str] = {
    PoolExhaustedError: "no connection within {:.1f} s",
    TooManyWaitingError: "too many wait already",
    PoolDeadlockError: "all connections are held by greenlets that wait for one",
}


def _silently(work: Callable[[Any], object], conn: Any) -> None:
    try:
        work(conn)
    except Exception:
        log.debug("%r could not be let go", conn, exc_info=True)


def _after_fork() -> None:
    # The copies of the parent's greenlets must not be woken by what is closed here.
    with sockets.after_fork():
        for pool in list(_pools):
            pool._forked()


os.register_at_fork(after_in_child=_after_fork)
