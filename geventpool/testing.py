"""For tests of pools, ours and our users': scripted servers, a clock, interruptions.

Nothing here sleeps, and nothing is random: a race is a list of orders, and each of them
is run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import gevent
import greenlet
from gevent.event import Event

from geventpool.connector import Connector
from geventpool.ledger import CLOSING, IDLE, IN_USE, OPENING, Entry
from geventpool.pool import Pool

__all__ = [
    "Clock",
    "Interrupted",
    "ScriptedConnection",
    "ScriptedConnector",
    "both_orders",
    "check",
    "check_capacity",
    "interrupt_everywhere",
    "pool_greenlets",
    "switches",
]


class Clock:
    """A clock that stands still until it is moved.

    ::

        clock = Clock()
        clock.rule(pool)
        clock.advance(600)

    An idea of trio's ``MockClock``.

    :param float now: where it begins.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Move on by *seconds*."""
        self.now += seconds

    def rule(self, *pools: Pool[Any]) -> None:
        """Let these pools look here when they ask for the time."""
        for pool in pools:
            pool._rule(self)


class ScriptedConnection:
    """What a :class:`ScriptedConnector` opens; change the attributes at will."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_usable = True
        self.needs_reset = False
        #: how it was let go: "closed" or "discarded"; None: it is open
        self.end: str | None = None

    def __repr__(self) -> str:
        return f"<connection {self.number}>"


class ScriptedConnector(Connector[ScriptedConnection]):
    """A connector that does as it was told.

    ::

        connector = ScriptedConnector(open=[OSError("down"), answer, None])
        answer = gevent.event.Event()       # opening waits until somebody sets it

    Each verb takes its next outcome from its list: an exception (an instance) is
    raised, an :class:`~gevent.event.Event` is waited for, a callable is called, and
    None, or the end of the list, lets the verb succeed at once. An idea of httpcore's
    mock network.

    :param open: outcomes, likewise *close*, *ping* and *reset*.
    :param switching: every verb that may switch does so, once, before anything else:
        what an interruption harness looks for.
    """

    def __init__(
        self,
        open: Sequence[Any] = (),
        close: Sequence[Any] = (),
        ping: Sequence[Any] = (),
        reset: Sequence[Any] = (),
        *,
        switching: bool = False,
    ) -> None:
        self._scripts = {
            "open": deque(open),
            "close": deque(close),
            "ping": deque(ping),
            "reset": deque(reset),
        }
        self._switching = switching
        #: what was asked for, in order: ("open", connection) and so on
        self.calls: list[tuple[str, ScriptedConnection | None]] = []
        #: every connection ever opened
        self.opened: list[ScriptedConnection] = []
        #: connections being opened at this moment
        self.opening = 0
        #: how many sockets a server would have seen at once, at most
        self.peak = 0
        #: errors after which the protocol is in step, that say "full", and that
        #: condemn all present connections
        self.survivable: tuple[type[Exception], ...] = ()
        self.exhausting: tuple[type[Exception], ...] = ()
        self.condemning: tuple[type[Exception], ...] = ()

    def script(self, verb: str, *outcomes: Any) -> None:
        """Add *outcomes* to the list of *verb*."""
        self._scripts[verb].extend(outcomes)

    @property
    def now_open(self) -> list[ScriptedConnection]:
        """The connections that are open."""
        return [conn for conn in self.opened if conn.end is None]

    def open(self) -> ScriptedConnection:
        self.opening += 1
        self._note_peak()
        try:
            self._act("open", None)
        finally:
            self.opening -= 1
        conn = ScriptedConnection(len(self.opened) + 1)
        self.opened.append(conn)
        self._note_peak()
        return conn

    def close(self, conn: ScriptedConnection) -> None:
        try:
            self._act("close", conn)
        finally:
            conn.end = conn.end or "closed"

    def discard(self, conn: ScriptedConnection) -> None:
        conn.end = conn.end or "discarded"

    def is_usable(self, conn: ScriptedConnection) -> bool:
        return conn.is_usable and conn.end is None

    def ping(self, conn: ScriptedConnection) -> None:
        self._act("ping", conn)

    def needs_reset(self, conn: ScriptedConnection) -> bool:
        return conn.needs_reset

    def reset(self, conn: ScriptedConnection) -> None:
        self._act("reset", conn)

    def survives(self, error: Exception) -> bool:
        return isinstance(error, self.survivable)

    def is_exhausted(self, error: Exception) -> bool:
        return isinstance(error, self.exhausting)

    def condemns(self, error: Exception) -> bool:
        return isinstance(error, self.condemning)

    def _note_peak(self) -> None:
        self.peak = max(self.peak, len(self.now_open) + self.opening)

    def _act(self, verb: str, conn: ScriptedConnection | None) -> None:
        self.calls.append((verb, conn))
        if self._switching:
            gevent.sleep(0)
        script = self._scripts[verb]
        outcome = script.popleft() if script else None
        if isinstance(outcome, BaseException):
            raise outcome
        if isinstance(outcome, Event):
            outcome.wait()
        elif outcome is not None:
            outcome()


@contextmanager
def switches(of: greenlet.greenlet | None = None) -> Iterator[list[Any]]:
    """A list that gets an item whenever a greenlet is left for another.

    :param of: only when this greenlet is left; None: the one that runs now.
    """
    # A greenlet is falsy until it has started.
    watched = greenlet.getcurrent() if of is None else of
    seen: list[Any] = []

    # Coverage is not traced within greenlet's own tracing.
    def trace(event: str, parties: Any) -> None:  # pragma: no cover
        origin, target = parties
        if origin is watched:
            seen.append(target)

    with _tracing(trace):
        yield seen


@contextmanager
def _tracing(trace: Callable[[str, Any], None]) -> Iterator[None]:
    before = greenlet.settrace(trace)
    try:
        yield
    finally:
        greenlet.settrace(before)


def check(pool: Pool[Any]) -> None:
    """The books of *pool* are in order.

    :raises AssertionError: what is not.
    """
    ledger = pool._ledger
    entries: list[Entry[Any]] = [*ledger.entries.values(), *ledger.opening]
    assert len(entries) == ledger.size == len(set(entries))
    # After a resize() to less there may be more for a while, but they must be going.
    going = [entry for entry in entries if entry.doom or entry.state is CLOSING]
    assert ledger.size <= ledger.max_connections + len(going), f"too many: {pool!r}"
    for shelf, state in (
        *((shelf, state) for state, shelf in ledger._shelves.items()),
        (set(ledger.opening), OPENING),
    ):
        assert shelf == {entry for entry in entries if entry.state is state}
    idle = [entry for entry in entries if entry.state is IDLE]
    assert len(idle) == ledger.idle, f"{len(idle)} idle, not {ledger.idle}"
    in_use = [entry for entry in entries if entry.state is IN_USE]
    assert len(in_use) == ledger.in_use
    assert not (idle and ledger.line), f"somebody waits beside an idle one: {pool!r}"
    for key, entry in ledger.entries.items():
        assert key == id(entry.conn)
    for slot in ledger.line.values():
        assert slot.entry is None and slot.error is None, "served, and still in line"
    for holder in pool._holders.known.values():
        assert holder.loan is None or holder.loan.state is IN_USE, "a loan too many"


def check_capacity(pool: Pool[Any], timeout: float = 5.0) -> None:
    """Every place of *pool* can be lent, all at the same time. **May switch.**

    Somebody else's loans must be over.

    :raises AssertionError: a place is lost.
    """
    lent = []
    try:
        for _ in range(pool.max_connections):
            lent.append(pool.acquire(timeout=timeout))
    except Exception as error:
        raise AssertionError(f"only {len(lent)} can be lent: {error}") from error
    finally:
        for conn in lent:
            pool.release(conn)
    check(pool)


def pool_greenlets(pool: Pool[Any]) -> set[greenlet.greenlet]:
    """The greenlets that work for *pool* at this moment, the reaper included."""
    reaper = pool._stock.reaper
    return {
        *pool._stock.staff._at_work,
        *([] if reaper is None else [reaper._greenlet]),
    }


class Interrupted(Exception):
    """What :func:`interrupt_everywhere` raises in its victim as an ordinary error."""


#: How a greenlet can be interrupted: killed, timed out, failed, stopped by a signal.
INTERRUPTIONS: tuple[type[BaseException], ...] = (
    gevent.GreenletExit,
    gevent.Timeout,
    Interrupted,
    KeyboardInterrupt,
)


#: One thing that is thrown, or several that are thrown together.
Interruption: TypeAlias = "type[BaseException] | tuple[type[BaseException], ...]"


def interrupt_everywhere(
    scenario: Callable[[], tuple[Callable[[], object], Sequence[Pool[Any]]]],
    *,
    errors: Sequence[Interruption] = INTERRUPTIONS,
    victims: Callable[[greenlet.greenlet], bool] | None = None,
    later: int = 0,
    most: int = 1000,
    patience: float = 10.0,
    afterwards: Callable[[], object] | None = None,
) -> int:
    """How many switch points a scenario has, after it survived an error at each.

    The scenario is run again and again: with each kind of error, and with each thrown
    at the 1st, 2nd, 3rd... switch of its victim, until a run has no such switch left.
    After each run the pool's books are checked and every place is lent once.
    **May switch.**

    :param scenario: makes everything anew; gives what the main greenlet shall do, and
        the pools to be checked.
    :param errors: what is thrown; several in a tuple are thrown one after the other
        within one turn of the loop, as by nested time-outs that end together: the
        second strikes where the first is being dealt with.
    :param victims: is this greenlet one to interrupt? None: the main greenlet of the
        scenario. For the greenlets that a pool owns, let the scenario note the pool,
        and say ``lambda it: it in pool_greenlets(pool)``.
    :param int later: 0: throw as soon as the victim has been left. More: after so many
        further callbacks of the event loop, so that the event it waits for comes first.
        -1: so early that it overtakes what the victim itself has set going, such as
        the end of its ``gevent.sleep(0)``. A race has been run in all its orders when
        it has been run with -1, 0, 1 and 2.
    :param int most: give up after so many switch points.
    :param float patience: seconds after which one run should have ended, and every
        place be free.
    :param afterwards: called after each run, before the pools are closed: to see, for
        instance, that the next borrower gets an answer of his own.
    :raises AssertionError: an invariant broke; the message says where.
    """
    points = 0
    for error in errors:
        blows = error if isinstance(error, tuple) else (error,)
        for point in range(1, most):
            if not _interrupt(
                scenario, blows, point, victims, later, patience, afterwards
            ):
                points = max(points, point - 1)
                break
        else:
            raise AssertionError(f"no end after {most} switch points")
    return points


def _interrupt(
    scenario: Callable[[], tuple[Callable[[], object], Sequence[Pool[Any]]]],
    errors: tuple[type[BaseException], ...],
    point: int,
    victims: Callable[[greenlet.greenlet], bool] | None,
    later: int,
    patience: float,
    afterwards: Callable[[], object] | None,
) -> bool:
    target, pools = scenario()
    outcome: list[BaseException] = []

    def run() -> None:
        # Whatever is thrown ends here; the hub prints nothing.
        try:
            target()
        except BaseException as raised:
            _forget_frames(raised)
            outcome.append(raised)

    main = gevent.Greenlet(run)
    seen = 0

    # Coverage is not traced within greenlet's own tracing.
    def trace(event: str, parties: Any) -> None:  # pragma: no cover
        nonlocal seen
        # Thrown when the victim is entered, it strikes where that is left next.
        victim = parties[1] if later < 0 else parties[0]
        if victim is main if victims is None else victims(victim):
            seen += 1
            if seen == point:
                _throw_later(victim, errors, later)

    with _tracing(trace):
        main.start()
        gevent.joinall([main], timeout=patience)
    names = " and ".join(error.__name__ for error in errors)
    story = f"{names} at switch {point}, {later} callbacks later: {outcome}"
    assert main.dead, f"never ended: {story}"
    gevent.idle()
    try:
        for pool in pools:
            check(pool)
            check_capacity(pool, patience)
        if afterwards is not None:
            with gevent.Timeout(patience, AssertionError("no end of what comes after")):
                afterwards()
    except AssertionError as broken:
        raise AssertionError(f"{story}: {broken}") from broken
    finally:
        for pool in pools:
            pool.close(timeout=0)
    return seen >= point


def _forget_frames(error: BaseException | None) -> None:
    # What its frames hold gives back what it holds when it goes.
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


def _throw_later(
    victim: Any, errors: tuple[type[BaseException], ...], later: int
) -> None:
    loop = gevent.get_hub().loop
    if later > 0:
        loop.run_callback(_throw_later, victim, errors, later - 1)
    else:
        loop.run_callback(_throw, victim, errors)


def _throw(victim: Any, errors: tuple[type[BaseException], ...]) -> None:
    for error in errors:
        if not victim.dead:
            victim.throw(error())


def both_orders(
    one: Callable[[], object], other: Callable[[], object]
) -> Iterator[Callable[[], None]]:
    """Two functions, each of which calls both within one turn of the event loop."""

    def forth() -> None:
        one()
        other()

    def back() -> None:
        other()
        one()

    yield forth
    yield back
