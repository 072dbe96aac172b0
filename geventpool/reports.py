"""Who holds what, since when, and doing what now: the words for a refusal.

Reads the ledger and the frames of greenlets; changes nothing. A report keeps no frame
alive: it holds file names and line numbers.
"""

from __future__ import annotations

import heapq
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import gevent
import greenlet

from geventpool.ledger import Entry, Ledger

__all__ = ["Loan", "counts", "loans"]

#: Frames of these folders are not where a greenlet *stands*, only how it waits.
_PLUMBING = tuple(
    os.path.dirname(os.path.abspath(path)) + os.sep
    for path in (gevent.__file__, greenlet.__file__, __file__)
)


@dataclass(frozen=True)
class Loan:
    """One connection on loan.

    :param str holder: the greenlet that holds it.
    :param float seconds: for how long.
    :param str place: the line its holder stands on at this moment.
    """

    holder: str
    seconds: float
    place: str

    def __str__(self) -> str:
        return f"{self.holder} for {self.seconds:.1f} s, now at {self.place}"


def counts(ledger: Ledger[Any]) -> str:
    """The counts of a pool, as its ``repr`` shows them; rare states only if any."""
    rare = {"checking": len(ledger.checking), "resetting": len(ledger.resetting)}
    return (
        f"{ledger.size}/{ledger.max_connections}: {ledger.idle} idle, "
        f"{ledger.in_use} in use, {len(ledger.opening)} opening, "
        f"{len(ledger.closing)} closing, {len(ledger.line)} waiting"
        + "".join(f", {number} {state}" for state, number in rare.items() if number)
    )


def loans(
    lent: Iterable[Entry[Any]], now: float, most: int | None = None
) -> list[Loan]:
    """What there is to say about entries that are in use, the oldest loan first.

    :param float now: the time by the pool's clock.
    :param int most: at most so many; None: all.
    """
    lent = list(lent)
    if most is None:
        most = len(lent)
    return [
        _loan(entry, now)
        for entry in heapq.nsmallest(most, lent, key=lambda entry: entry.since)
    ]


def _loan(entry: Entry[Any], now: float) -> Loan:
    holder = entry.holder() if entry.holder is not None else None
    name = "nobody" if holder is None else f"{holder!r}"
    return Loan(name, max(0.0, now - entry.since), _stands(holder))


def _stands(holder: Any) -> str:
    if holder is None:
        return "no line: it has ended or is about to get the connection"
    if holder.dead:
        return "no line: it has ended"
    if holder is greenlet.getcurrent():
        return _line(sys._getframe())
    # Only a suspended greenlet has a frame of its own.
    frame = holder.gr_frame
    return "no line: it has not started" if frame is None else _line(frame)


def _line(frame: FrameType | None) -> str:
    innermost = frame
    while frame is not None and frame.f_code.co_filename.startswith(_PLUMBING):
        frame = frame.f_back
    frame = frame or innermost
    if frame is None:
        return "an unknown line"
    code = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno} in {code.co_name}"
