"""A connector that follows a script, and a clock that a test moves."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import gevent
from gevent.event import Event

from geventpool.connector import Connector, ErrorAction
from geventpool.pool import Pool

__all__ = ["Clock", "ScriptedConnection", "ScriptedConnector"]


class Clock:
    """A clock that changes only when the test moves it.

    ::

        clock = Clock()
        clock.rule(pool)
        clock.advance(600)

    An idea of trio's ``MockClock``.

    :param float now: the first time.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Move the time forward by *seconds*."""
        self.now += seconds

    def rule(self, *pools: Pool[Any]) -> None:
        """Make this the clock of *pools*."""
        for pool in pools:
            pool._rule(self)


class ScriptedConnection:
    """A connection of a :class:`ScriptedConnector`. A test may set its attributes."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_usable = True
        self.needs_reset = False
        #: whether its loan leaves a request running, and whether cancelling succeeds
        self.is_running = False
        self.is_saved = False
        #: how it ended: "closed" or "discarded"; None: it is open
        self.end: str | None = None

    def __repr__(self) -> str:
        return f"<connection {self.number}>"


class ScriptedConnector(Connector[ScriptedConnection]):
    """A connector whose operations follow a script.

    ::

        connector = ScriptedConnector(open=[OSError("down"), answer, None])
        answer = gevent.event.Event()       # opening waits until the test sets it

    Each operation takes the next outcome from its list: an exception (an instance) is
    raised, an :class:`~gevent.event.Event` is waited for, a callable is called, and
    with None, or at the end of the list, the operation succeeds at once. An idea of
    httpcore's mock network.

    :param open: its outcomes; the same for *close*, *ping*, *reset* and *cancel*.
    :param switching: each operation that may switch first switches once, as
        :func:`~geventpool.testing.interrupt_everywhere` needs it.
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
        #: the calls in order: ("open", connection) and so on
        self.calls: list[tuple[str, ScriptedConnection | None]] = []
        #: every connection ever opened
        self.opened: list[ScriptedConnection] = []
        #: the number of connections being opened
        self.opening = 0
        #: the most sockets that a server would have seen at once
        self.peak = 0
        #: classes of errors after which the connection can be used, that mean a full
        #: server, and after which all connections must be renewed
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

    def classify(self, error: Exception) -> ErrorAction:
        if isinstance(error, self.condemning):
            return ErrorAction.DRAIN
        if isinstance(error, self.survivable):
            return ErrorAction.KEEP
        if isinstance(error, self.exhausting):
            return ErrorAction.BACK_OFF
        return super().classify(error)

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
