"""A connector that does as a script says, and a clock that a test moves."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import gevent
from gevent.event import Event

from geventpool.connector import Connector
from geventpool.pool import Pool

__all__ = ["Clock", "ScriptedConnection", "ScriptedConnector"]


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
        #: whether its loan leaves a request running, and whether cancelling saves it
        self.is_running = False
        self.is_saved = False
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

    :param open: outcomes, likewise *close*, *ping*, *reset* and *cancel*.
    :param switching: every verb that may switch does so, once, before anything else:
        what an interruption harness looks for.
    """

    def __init__(
        self,
        open: Sequence[Any] = (),
        close: Sequence[Any] = (),
        ping: Sequence[Any] = (),
        reset: Sequence[Any] = (),
        cancel: Sequence[Any] = (),
        *,
        switching: bool = False,
    ) -> None:
        self._scripts = {
            "open": deque(open),
            "close": deque(close),
            "ping": deque(ping),
            "reset": deque(reset),
            "cancel": deque(cancel),
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

    def terminate(self, conn: ScriptedConnection) -> None:
        conn.end = conn.end or "discarded"

    def is_usable(self, conn: ScriptedConnection) -> bool:
        return conn.is_usable and conn.end is None

    def ping(self, conn: ScriptedConnection) -> None:
        self._act("ping", conn)

    def needs_reset(self, conn: ScriptedConnection) -> bool:
        return conn.needs_reset

    def reset(self, conn: ScriptedConnection) -> None:
        self._act("reset", conn)

    def begin_cancel(self, conn: ScriptedConnection) -> bool:
        return conn.is_running

    def cancel(self, conn: ScriptedConnection) -> bool:
        self._act("cancel", conn)
        conn.is_running = False
        return conn.is_saved

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
