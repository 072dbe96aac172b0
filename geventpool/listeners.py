"""Watching a pool: who is told, and what can be counted.

A listener is called after the state has changed and is consistent. It should not
switch. An exception from it is logged and goes no further; a BaseException that is no
Exception, such as a kill, is raised again after all listeners were told. A pool without
listeners pays nothing for them.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from geventpool._core.ledger import CloseReason
from geventpool._core.measured import FrozenCounts, Measured, as_plain
from geventpool._core.reports import IdleHold, LabelCounts, Leak
from geventpool.budget import BudgetStats

__all__ = [
    "Listeners",
    "Counters",
    "Totals",
    "LogListener",
    "PoolListener",
    "PoolStats",
]

log = logging.getLogger("geventpool")


class PoolListener:
    """Does nothing; override what you want to hear of. All times are seconds.

    An idea of HikariCP's metrics tracker: methods without effect instead of a question
    whether anybody listens.
    """

    def opened(self, conn: Any, seconds: float) -> None:
        """A connection was opened; it took *seconds*."""

    def open_failed(self, error: BaseException, seconds: float) -> None:
        """A connection could not be opened, after *seconds*."""

    def paused(self, error: BaseException) -> None:
        """So many openings failed in a row, *error* last, that the pool pauses."""

    def resumed(self, seconds: float) -> None:
        """The pause is over; it is *seconds* since the first failure."""

    def acquired(self, conn: Any, waited: float) -> None:
        """A connection was lent, to somebody who had waited for it."""

    def exhausted(self, waited: float) -> None:
        """Somebody was refused a connection after having *waited*."""

    def released(self, conn: Any, used: float) -> None:
        """A connection was given back after having been *used*; it may be reused."""

    def closed(self, conn: Any, reason: CloseReason) -> None:
        """A connection left the pool; its socket is closed now or very soon."""

    def leaked(self, conn: Any, seconds: float, borrowed_at: str, place: str) -> None:
        """A loan lasts longer than *leak_after*; called once for each loan.

        *borrowed_at* is the line that borrowed, *place* the line of the holder now.
        """

    def leak_ended(self, conn: Any, seconds: float, borrowed_at: str) -> None:
        """A loan that was reported has ended, after at most *seconds*."""


class LogListener(PoolListener):
    """Writes to the log ``geventpool.<name>``: trouble as warnings, the rest for debug.

    :param str name: usually the pool's.
    """

    def __init__(self, name: str) -> None:
        self.log = logging.getLogger(f"geventpool.{name}")

    def opened(self, conn: Any, seconds: float) -> None:
        self.log.debug("opened %r in %.3f s", conn, seconds)

    def open_failed(self, error: BaseException, seconds: float) -> None:
        self.log.warning("could not open, after %.3f s: %r", seconds, error)

    def paused(self, error: BaseException) -> None:
        self.log.warning("the server cannot be reached, the pool pauses: %r", error)

    def resumed(self, seconds: float) -> None:
        self.log.warning("the server is there again, after %.3f s", seconds)

    def exhausted(self, waited: float) -> None:
        self.log.warning("no connection to be had within %.3f s", waited)

    def closed(self, conn: Any, reason: CloseReason) -> None:
        self.log.debug("closed %r: %s", conn, reason.value)


@dataclass(frozen=True)
class Totals:
    """What happened so far; times are sums of seconds.

    :param paused: how often the server could not be reached.
    :param closed: how many connections were closed, by :class:`CloseReason`.
    """

    opened: int = 0
    open_failed: int = 0
    paused: int = 0
    resumed: int = 0
    acquired: int = 0
    waited: int = 0
    exhausted: int = 0
    released: int = 0
    leaked: int = 0
    leak_ended: int = 0
    opening_seconds: float = 0.0
    outage_seconds: float = 0.0
    waiting_seconds: float = 0.0
    using_seconds: float = 0.0
    closed: Mapping[CloseReason, int] = field(default_factory=FrozenCounts)


class Counters(PoolListener):
    """Counts everything; :meth:`snapshot` and ``pool.stats().totals`` tell it."""

    def __init__(self) -> None:
        self._sums: Counter[str] = Counter()
        self._seconds = dict.fromkeys(("opening", "outage", "waiting", "using"), 0.0)
        self._closed: Counter[CloseReason] = Counter()

    def opened(self, conn: Any, seconds: float) -> None:
        self._sums["opened"] += 1
        self._seconds["opening"] += seconds

    def open_failed(self, error: BaseException, seconds: float) -> None:
        self._sums["open_failed"] += 1

    def paused(self, error: BaseException) -> None:
        self._sums["paused"] += 1

    def resumed(self, seconds: float) -> None:
        self._sums["resumed"] += 1
        self._seconds["outage"] += seconds

    def acquired(self, conn: Any, waited: float) -> None:
        self._sums["acquired"] += 1
        if waited:
            self._sums["waited"] += 1
            self._seconds["waiting"] += waited

    def exhausted(self, waited: float) -> None:
        self._sums["exhausted"] += 1
        self._seconds["waiting"] += waited

    def released(self, conn: Any, used: float) -> None:
        self._sums["released"] += 1
        self._seconds["using"] += used

    def closed(self, conn: Any, reason: CloseReason) -> None:
        self._closed[reason] += 1

    def leaked(self, conn: Any, seconds: float, borrowed_at: str, place: str) -> None:
        self._sums["leaked"] += 1

    def leak_ended(self, conn: Any, seconds: float, borrowed_at: str) -> None:
        self._sums["leak_ended"] += 1

    def snapshot(self) -> Totals:
        """What happened so far; does not change any more."""
        return Totals(
            **self._sums,
            outage_seconds=self._seconds["outage"],
            opening_seconds=self._seconds["opening"],
            waiting_seconds=self._seconds["waiting"],
            using_seconds=self._seconds["using"],
            closed=FrozenCounts(self._closed),
        )


@dataclass(frozen=True)
class PoolStats:
    """How a pool stands at one moment.

    The numbers are gauges: ``size`` is the sum of the six after it, and never above
    *max_connections* but for a while after a ``resize()`` to less.

    :param budget: how the budget of all processes stands, if the pool has one; None as
        well if its file cannot be read.
    :param paused: is the server out of reach, and only tried now and then?
    :param cancelled: how many interrupted connections the server has let go of before
        their places were free, since the pool was made.
    :param saved: how many of these were kept, and lent again after a reset.
    :param abandoned: how many were closed although the server may have been at work.
    :param totals: what happened so far, if a :class:`Counters` listens; else None.
    :param min_connections: so many are kept open in the background.
    :param max_idle_connections: so many may be idle.
    :param measured: times and counts, if the pool is measured; else None. See
        :meth:`geventpool.Pool.measure`.
    :param leaks: the lines whose loans lasted longer than *leak_after*.
    :param idle_holds: the lines that held connections while their sockets were idle
        and other greenlets waited.
    :param labels: waits and uses by label, if a :class:`Labels` listens.
    """

    name: str
    max_connections: int
    size: int
    idle: int
    in_use: int
    opening: int
    checking: int
    resetting: int
    closing: int
    waiting: int
    paused: bool = False
    budget: BudgetStats | None = None
    cancelled: int = 0
    saved: int = 0
    abandoned: int = 0
    totals: Totals | None = None
    min_connections: int = 0
    max_idle_connections: int = 0
    measured: Measured | None = None
    leaks: tuple[Leak, ...] = ()
    idle_holds: tuple[IdleHold, ...] = ()
    labels: tuple[LabelCounts, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it: dicts, numbers, text. Never switches."""
        plain: dict[str, Any] = as_plain(self)
        return plain


class Listeners:
    """The listeners of one pool, and the place where their mistakes end.

    :param listeners: asked in this order.
    :raises TypeError: they cannot be iterated over, or one of them is not a
        :class:`PoolListener`.
    """

    def __init__(self, listeners: Iterable[PoolListener]) -> None:
        try:
            self.listeners = tuple(listeners)
        except TypeError:
            raise TypeError(
                f"listeners must be several PoolListeners, not {listeners!r}"
            ) from None
        for listener in self.listeners:
            if not isinstance(listener, PoolListener):
                raise TypeError(f"listeners must be PoolListeners, not {listener!r}")
        #: all that are told of events; a recorder is not told of loans
        self._audience = self.listeners
        #: how many blocks of held() are open
        self._blocks = 0
        #: what is still to be told, with its details
        self._news: deque[tuple[str, tuple[Any, ...]]] = deque()

    def __bool__(self) -> bool:
        return bool(self.listeners)

    @property
    def is_deaf(self) -> bool:
        """Whether nothing needs to be told, not even a recorder."""
        return not self._audience

    def set_recorder(self, recorder: PoolListener) -> None:
        """Have *recorder* told of everything but loans, before the listeners.

        It takes the place of an earlier one. Never switches.
        """
        self._audience = (recorder, *self.listeners)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A block that changes the state: what is told in it is told at its end.

        The block must not switch. Blocks may be nested; the outermost counts.
        """
        self.hold()
        try:
            yield
        finally:
            self.deliver()

    def hold(self) -> None:
        """Begin such a block, which :meth:`deliver` ends: for where time counts."""
        self._blocks += 1

    def deliver(self, *first: Any) -> None:
        """End the block; if it was the outermost, tell what was held back.

        :param first: an event with its details, to be told before the others.
        """
        self._blocks -= 1
        interruption: BaseException | None = None
        try:
            if first:
                self.notify(*first)
        except BaseException as error:
            interruption = error
        while self._news and not self._blocks:
            event, details = self._news.popleft()
            try:
                self.notify(event, *details)
            except BaseException as error:
                interruption = interruption or error
        if interruption is not None:
            raise interruption

    def let_out(self) -> None:
        """End a block whose end was interrupted, if there is one."""
        if self._blocks:
            self._blocks = 1
            self.deliver()

    def notify(self, event: str, *details: Any) -> None:
        """Call the method *event* of every listener, once the state is consistent."""
        if self._blocks:
            if self._audience:
                self._news.append((event, details))
            return
        interruption: BaseException | None = None
        for listener in self._audience:
            try:
                getattr(listener, event)(*details)
            except Exception:
                log.exception("%r failed at %r", listener, event)
            except BaseException as error:
                interruption = interruption or error
        if interruption is not None:
            raise interruption

    def totals(self) -> Totals | None:
        """What the first :class:`Counters` among them counted."""
        for listener in self.listeners:
            if isinstance(listener, Counters):
                return listener.snapshot()
        return None
