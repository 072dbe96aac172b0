"""Reports about loans and their holders, for messages and statistics.

It reads the ledger and the frames of greenlets, and changes nothing. A report keeps no
frame alive: it contains file names and line numbers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

import gevent
import greenlet

from geventpool._core.ledger import Entry, Ledger, anyone

__all__ = [
    "OTHERS",
    "IdleHold",
    "LabelCounts",
    "Leak",
    "Loan",
    "Sighting",
    "summary",
    "loans",
    "name_of",
    "numbers",
    "worded",
]

#: The label of loans beyond the number of labels that are told apart.
OTHERS = "(others)"
#: The most characters of a name that are shown.
NAME = 60
#: Folders whose frames are skipped to find the line of a greenlet.
_PLUMBING = tuple(
    os.path.dirname(os.path.abspath(path)) + os.sep
    for path in (gevent.__file__, greenlet.__file__, os.path.dirname(__file__))
)


@dataclass(frozen=True)
class Loan:
    """One connection on loan.

    :param str holder: the greenlet that holds it.
    :param float seconds: the duration of the loan so far.
    :param str place: the current line of the holder.
    """

    holder: str
    seconds: float
    place: str

    def __str__(self) -> str:
        return f"{self.holder} for {self.seconds:.1f} s, now at {self.place}"


@dataclass(frozen=True)
class IdleHold:
    """A line that holds connections while their sockets are idle.

    :param str borrowed_at: the line at which they are borrowed.
    :param str waits_at: where their holders wait most often meanwhile.
    :param float share: of the time that they are held, 0 to 1.
    :param int samples: on how many samples this rests.
    """

    borrowed_at: str
    waits_at: str
    share: float
    samples: int

    def __str__(self) -> str:
        return (
            f"{self.borrowed_at} holds a connection {self.share:.0%} of the time while "
            f"it waits at {self.waits_at}"
        )


@dataclass(frozen=True)
class Leak:
    """Loans of one line that lasted longer than *leak_after*.

    :param str borrowed_at: the line that borrowed.
    :param str place: where the holder of the last one stood when it was reported.
    :param int count: how many there were.
    :param int open: how many of them have not come back.
    :param float longest: the longest of them, in seconds.
    """

    borrowed_at: str
    place: str
    count: int
    open: int
    longest: float


@dataclass(frozen=True)
class LabelCounts:
    """What happened to the loans with one label. Times are sums of seconds.

    :param int loans: how many began.
    :param int refused: how many borrowers got no connection.
    :param float waited: how long borrowers waited, the refused ones included.
    :param float used: how long the loans that were given back lasted.
    """

    label: str
    loans: int = 0
    refused: int = 0
    waited: float = 0.0
    used: float = 0.0

    def plus(self, other: LabelCounts, sign: int = 1) -> LabelCounts:
        """Both together, by the label of this one; with *sign* -1 the difference."""
        return LabelCounts(
            self.label,
            self.loans + sign * other.loans,
            self.refused + sign * other.refused,
            self.waited + sign * other.waited,
            self.used + sign * other.used,
        )


def numbers(ledger: Ledger[Any]) -> tuple[int, ...]:
    """Return the counts of a pool, for :func:`worded`."""
    return (
        len(ledger.entries) + len(ledger.opening),
        ledger.max_connections,
        ledger.idle,
        ledger.in_use,
        len(ledger.opening),
        len(ledger.closing),
        len(ledger.waiters),
        len(ledger.checking),
        len(ledger.resetting),
    )


def summary(ledger: Ledger[Any]) -> str:
    """Return the counts of a pool as in its ``repr``."""
    return worded(numbers(ledger))


def worded(facts: tuple[int, ...]) -> str:
    """Return the counts as text; rare states only if there are any."""
    *usual, checking, resetting = facts
    size, most, idle, in_use, opening, closing, waiting = usual
    rare = {"checking": checking, "resetting": resetting}
    return (
        f"{size}/{most}: {idle} idle, {in_use} in use, {opening} opening, "
        f"{closing} closing, {waiting} waiting"
        + "".join(f", {number} {state}" for state, number in rare.items() if number)
    )


def loans(
    lent: Iterable[Entry[Any]], now: float, most: int | None = None
) -> list[Loan]:
    """Return the loans of entries that are in use, the oldest first.

    :param float now: the time of the pool's clock.
    :param most: the most loans to return; None: all.
    """
    seen = sorted(lent, key=lambda entry: entry.since)[:most]
    return [Sighting(entry, now).loan() for entry in seen]


class Sighting:
    """The state of one loan at one moment, in a form that is cheap to make.

    :param float now: the time by the pool's clock.
    """

    __slots__ = ("_place", "_who", "seconds")

    def __init__(self, entry: Entry[Any], now: float) -> None:
        self.seconds = max(0.0, now - entry.since)
        holder = None if entry.holder is None else entry.holder()
        self._who: tuple[Any, ...] | str
        self._place: tuple[Any, ...] | str
        if holder is not None:
            self._who, self._place = _who(holder), _stands(holder)
        elif entry.waiter is not None:
            self._who, self._place = _who(entry.waiter.greenlet), "the end of its wait"
        elif entry.holder is anyone:
            self._who = "no single greenlet"
            self._place = (
                "no line: an object such as a subscription or a pipeline under WATCH "
                "keeps it, or it was handed over by transfer(conn, None)"
            )
        else:
            self._who, self._place = "a greenlet that is gone", "no line"

    def loan(self) -> Loan:
        """Return the state as a :class:`Loan`."""
        who, place = self._who, self._place
        if not isinstance(who, str):
            who = _named(*who)
        if not isinstance(place, str):
            place = "{}:{} in {}".format(*place)
        return Loan(who, self.seconds, place)


def name_of(holder: Any) -> str:
    """Return a name of a greenlet for messages.

    Not its ``repr``, which shows the arguments of its function: these may be secret,
    and their code may fail.
    """
    return _named(*_who(holder))


def _who(holder: Any) -> tuple[type, int, Any, Any]:
    try:
        work = getattr(holder, "_run", None)
        name = getattr(holder, "name", None)
    except Exception:
        # A property of a derived class has raised.
        work = name = None
    if type(holder) is greenlet.greenlet and holder.parent is None:
        name = "main"
    while isinstance(work, partial):
        work = work.func
    # Keep only strings, because a function may keep its greenlet alive.
    if work is not None:
        work = getattr(work, "__name__", None) or type(work).__name__
    return type(holder), id(holder), name if type(name) is str else None, work


def _named(kind: type, number: int, name: str | None, work: Any) -> str:
    title = "" if name is None else f' "{name[:NAME]}"'
    return f"<{kind.__name__}{title} at {number:#x}{'' if not work else f': {work}'}>"


def _stands(holder: Any) -> tuple[str, int, str] | str:
    if holder.dead:
        return "no line: it has ended"
    if holder is greenlet.getcurrent():
        return _line(sys._getframe())
    # Only a suspended greenlet has a frame.
    frame = holder.gr_frame
    return "no line: it has not started" if frame is None else _line(frame)


def _line(frame: FrameType | None) -> tuple[str, int, str] | str:
    innermost = frame
    while frame is not None and frame.f_code.co_filename.startswith(_PLUMBING):
        frame = frame.f_back
    frame = frame or innermost
    if frame is None:
        return "an unknown line"
    return frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name
