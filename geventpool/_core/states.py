"""The states of a place, the moves between them, and why a connection was closed."""

from __future__ import annotations

import enum

__all__ = [
    "CHECKING",
    "CLOSING",
    "GONE",
    "IDLE",
    "IN_USE",
    "MOVES",
    "OPENING",
    "RESETTING",
    "CloseReason",
    "State",
]


class State(enum.Enum):
    """The state of a place. All but GONE count against the limit."""

    OPENING = "opening"
    IDLE = "idle"
    IN_USE = "in use"
    CHECKING = "checking"
    RESETTING = "resetting"
    CLOSING = "closing"
    GONE = "gone"

    # That of Enum is written in Python, and a hand-over hashes four states.
    __hash__ = object.__hash__


OPENING = State.OPENING
IDLE = State.IDLE
IN_USE = State.IN_USE
CHECKING = State.CHECKING
RESETTING = State.RESETTING
CLOSING = State.CLOSING
GONE = State.GONE

#: The legal moves. IN_USE to IN_USE is a hand-over to the first waiter.
MOVES: dict[State, frozenset[State]] = {
    OPENING: frozenset({IDLE, IN_USE, CLOSING, GONE}),
    IDLE: frozenset({IN_USE, CHECKING, CLOSING, GONE}),
    IN_USE: frozenset({IDLE, IN_USE, RESETTING, CLOSING, GONE}),
    CHECKING: frozenset({IDLE, IN_USE, CLOSING, GONE}),
    RESETTING: frozenset({IDLE, IN_USE, CLOSING, GONE}),
    # To RESETTING: its request was cancelled at the server, and it is kept.
    CLOSING: frozenset({RESETTING, GONE}),
    GONE: frozenset(),
}


class CloseReason(enum.Enum):
    """Why a connection was closed."""

    EXPIRED = "expired"
    IDLE = "idle too long"
    UNUSABLE = "unusable"
    PING_FAILED = "ping failed"
    RESET_FAILED = "reset failed"
    BORROWER_FAILED = "borrower failed"
    HOLDER_DIED = "holder died"
    DROPPED = "dropped"
    DRAINED = "drained"
    SUSPECT = "suspect"
    SURPLUS = "surplus"
    INTERRUPTED = "interrupted"
    POOL_CLOSED = "pool closed"
