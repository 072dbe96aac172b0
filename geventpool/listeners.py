"""Listeners for the events of a pool, and counters of these events.

A listener is called after the state has changed and is consistent. It should not
switch. An exception that it raises is logged. A BaseException that is no Exception,
such as a kill, is raised again after all listeners were called. Without listeners there
is no cost.
"""

from __future__ import annotations

import inspect
import logging
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from geventpool._core.measured import FrozenCounts, Measured, as_plain
from geventpool._core.reports import IdleHold, LabelCounts, Leak
from geventpool._core.states import CloseReason
from geventpool.budget import BudgetStats
from geventpool.hints import meant

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
    """The interface of a listener. Its methods do nothing. Times are in seconds.

    As in HikariCP's metrics tracker, every event has a method without effect, to be
    overridden.
    """

    def opened(self, conn: Any, seconds: float) -> None:
        """A connection was opened, which took *seconds*."""

    def open_failed(self, error: BaseException, seconds: float) -> None:
        """A connection could not be opened, after *seconds*."""

    def paused(self, error: BaseException) -> None:
        """The pool pauses, because several openings have failed, with *error* last."""

    def resumed(self, seconds: float) -> None:
        """The pause has ended, *seconds* after the first failure."""

    def acquired(self, conn: Any, waited: float) -> None:
        """A connection was lent, after its borrower had *waited*."""

    def exhausted(self, waited: float) -> None:
        """A caller that had *waited* got no connection."""

    def released(self, conn: Any, used: float) -> None:
        """A connection was given back after it was *used*. It may be reused."""

    def closed(self, conn: Any, reason: CloseReason) -> None:
        """A connection has left the pool. Its socket is closed now or soon."""

    def leaked(self, conn: Any, seconds: float, borrowed_at: str, place: str) -> None:
        """A loan lasts longer than *leak_after*; called once for each loan.

        *borrowed_at* is the line that borrowed, *place* the line of the holder now.
        """

    def leak_ended(self, conn: Any, seconds: float, borrowed_at: str) -> None:
        """A loan that was reported has ended, after at most *seconds*."""


#: The methods that are called, and how many arguments each has.
_EVENTS = {
    name: len(inspect.signature(method).parameters) - 1
    for name, method in vars(PoolListener).items()
    if not name.startswith("_")
}


def refuse_misspelt(kind: type[PoolListener]) -> None:
    """Refuse a class with a method that looks like one for an event, but is not called.

    Methods with other arguments than that event are of the class's own.

    :raises TypeError: there is such a method.
    """
    for name in dir(kind):
        if name.startswith("_") or name in _EVENTS:
            continue
        guess = meant(name, _EVENTS, cutoff=0.75)
        if guess is not None and _takes(getattr(kind, name), 1 + _EVENTS[guess]):
            raise TypeError(
                f"{kind.__name__}.{name}() would never be called: a PoolListener has "
                f"no event {name!r}; did you mean {guess!r}?"
            )


def _takes(method: Any, number: int) -> bool:
    try:
        inspect.signature(method).bind(*[None] * number)
    except (TypeError, ValueError):
        return False
    return True


def _worded(error: BaseException) -> str:
    # Not its repr: that of redis-py's errors is without the text.
    return f"{type(error).__name__}: {error}"


class LogListener(PoolListener):
    """Writes to the log ``geventpool.<name>``: failures as warnings, the rest as debug.

    While the pool pauses, its failed attempts to open a connection are logged as debug,
    because there are many in a second.

    :param str name: usually the name of the pool.
    """

    def __init__(self, name: str) -> None:
        self.log = logging.getLogger(f"geventpool.{name}")
        self._failed_level = logging.WARNING

    def opened(self, conn: Any, seconds: float) -> None:
        self.log.debug("opened %r in %.3f s", conn, seconds)

    def open_failed(self, error: BaseException, seconds: float) -> None:
        level = self._failed_level
        text = _worded(error)
        self.log.log(level, "could not open, after %.3f s: %s", seconds, text)

    def paused(self, error: BaseException) -> None:
        self._failed_level = logging.DEBUG
        text = _worded(error)
        self.log.warning("the server cannot be reached, the pool pauses: %s", text)

    def resumed(self, seconds: float) -> None:
        self._failed_level = logging.WARNING
        self.log.warning("the server is there again, after %.3f s", seconds)

    def exhausted(self, waited: float) -> None:
        self.log.warning("no connection became available within %.3f s", waited)

    def closed(self, conn: Any, reason: CloseReason) -> None:
        self.log.debug("closed %r: %s", conn, reason.value)


@dataclass(frozen=True)
class Totals:
    """The numbers of events so far. Times are sums of seconds.

    :param paused: how often the pool has paused in an outage.
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
    """Counts all events; see :meth:`snapshot` and ``pool.stats().totals``."""

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
        """Return the numbers so far, as a constant object."""
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
    """The state of a pool at one moment.

    The numbers are gauges: ``size`` is the sum of the six after it. It exceeds
    *max_connections* only for a while after a ``resize()`` to less.

    :param budget: the state of the budget of all processes; None: the pool has no
        budget, or its file cannot be read.
    :param paused: whether the server cannot be reached, and is only probed.
    :param cancelled: how many interrupted connections were cancelled at the server
        before their places were freed, since the pool was made.
    :param saved: how many of these were reset and kept.
    :param abandoned: how many were closed although the server may still have been at
        work.
    :param totals: what happened so far, if a :class:`Counters` listens; else None.
    :param min_connections: how many are kept open in the background.
    :param max_idle_connections: how many may be idle.
    :param measured: times and counts; None: the pool is not measured. See
        :meth:`geventpool.Pool.measure`.
    :param leaks: the lines whose loans lasted longer than *leak_after*.
    :param idle_holds: the lines that held connections while their sockets were idle
        and other greenlets waited.
    :param labels: waits and uses by label, if a :class:`Labels` listens.
    :param in_flight: so many commands are under way on shared connections.
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
    in_flight: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it: dicts, numbers, text. Never switches."""
        plain: dict[str, Any] = as_plain(self)
        return plain


class Listeners:
    """Calls the listeners of one pool, and handles their errors.

    :param listeners: called in this order.
    :raises TypeError: *listeners* is not iterable, or one of them is not a
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
            refuse_misspelt(type(listener))
        #: the recorder and the listeners
        self._audience = self.listeners
        #: the number of open blocks of :meth:`held`
        self._blocks = 0
        #: the events that are held back, with their arguments
        self._news: deque[tuple[str, tuple[Any, ...]]] = deque()

    def __bool__(self) -> bool:
        return bool(self.listeners)

    @property
    def is_deaf(self) -> bool:
        """Whether there is neither a listener nor a recorder."""
        return not self._audience

    def add(self, listener: PoolListener) -> None:
        """Notify *listener* too from now on, after the others. Never switches."""
        self.listeners = (*self.listeners, listener)
        self._audience = (*self._audience, listener)

    def set_recorder(self, recorder: PoolListener) -> None:
        """Notify *recorder* of all events but loans, before the listeners.

        It replaces an earlier recorder. Never switches.
        """
        self._audience = (recorder, *self.listeners)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A block that changes the state: its events are delivered at its end.

        The block must not switch. Blocks may be nested; the outermost one delivers.
        """
        self.hold()
        try:
            yield
        finally:
            self.deliver()

    def hold(self) -> None:
        """Begin such a block, which :meth:`deliver` ends. Faster than :meth:`held`."""
        self._blocks += 1

    def deliver(self, *first: Any) -> None:
        """End the block; if it was the outermost, deliver the events.

        :param first: an event with its arguments, to be delivered before the others.
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
        """End a block whose end was interrupted, if any; deliver its events."""
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
        """Return the numbers of the first :class:`Counters` listener; None: none."""
        for listener in self.listeners:
            if isinstance(listener, Counters):
                return listener.snapshot()
        return None
