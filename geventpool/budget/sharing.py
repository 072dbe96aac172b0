"""How the processes of a host share the places of a budget.

Pure functions of the rows that all processes read. Each process computes the same
division for all of them and does its own part of it, so no process has to lead.
Times are seconds of the host's monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = [
    "WISH",
    "Part",
    "fair_share",
    "in_force",
    "may_take",
    "next_waiter",
    "refill",
    "to_give",
]

#: Seconds for which a wish counts after it was last written. A process that is stopped
#: or computes must not hold up the others.
WISH = 0.2
#: Seconds for which a process counts as one that wants places after it last did.
#: Without it the fair share would change with each loan.
WANTED = 0.2
#: Seconds for which the reserved places of a process are left to it after it used them.
RESERVED = 2.0


class Part(NamedTuple):
    """What one process has of a budget and what it wants.

    :param row: the number of its row in the file.
    :param total: its limit for the host.
    :param held: places that it has leased.
    :param idle: those of them that nobody uses and that could be given.
    :param leaving: those of them whose connection is being closed.
    :param waiting: how many more it needs for greenlets that wait.
    :param since: since when it waits.
    :param written: when the row was written.
    :param wanted: when it last waited or used a place.
    :param moved: places that it gave to other processes so far.
    :param recovered: places of processes that died which it has taken over so far.
    """

    row: int
    pid: int
    total: int
    reserve: int
    held: int
    idle: int
    leaving: int
    waiting: int
    since: float
    written: float
    wanted: float
    moved: int
    recovered: int
    name: str

    def lacks(self, now: float) -> int:
        """How many places it waits for."""
        return self.waiting if now - self.written < WISH else 0


def in_force(total: int, parts: Iterable[Part]) -> int:
    """The smallest total of all processes, which include one with *total*."""
    return min([total, *(part.total for part in parts)])


def fair_share(total: int, parts: Iterable[Part], now: float) -> int:
    """The places of each process if all that want places have the same number.

    At least 1: with more processes than places they are served in turn.
    """
    wanting = sum(now - part.wanted < WANTED for part in parts)
    return max(1, total // max(1, wanting))


def may_take(me: Part, parts: Iterable[Part], total: int, now: float) -> bool:
    """Whether the process *me* may take a place that is free.

    :param parts: those of all processes; that of *me* may be among them.
    """
    parts = list(parts)
    share = fair_share(total, parts, now)
    return me.held < share or not any(
        part.row != me.row and part.held < share and part.lacks(now) for part in parts
    )


def next_waiter(parts: Iterable[Part], total: int, now: float) -> Part | None:
    """The process for which a place that comes free is meant; None: nobody waits.

    The longest waiting of those below their reserve; else of those below their share;
    else of all.
    """
    parts = list(parts)
    share = fair_share(total, parts, now)
    return min(
        (part for part in parts if part.lacks(now)),
        key=lambda part: (part.held >= part.reserve, part.held >= share, part.since),
        default=None,
    )


def to_give(row: int, parts: Sequence[Part], total: int, now: float) -> tuple[int, int]:
    """How many places the process with the number *row* gives up for others.

    :param parts: those of all processes.
    :return: how many idle ones, and how many of those in use when they come back.
    """
    leaving = sum(part.leaving for part in parts)
    coming = max(0, total - sum(part.held for part in parts)) + leaving
    lack = sum(part.lacks(now) for part in parts) - coming
    if lack <= 0:
        return 0, 0
    spare = _spare(parts, now)
    idle = _divided(lack, spare)
    share = fair_share(total, parts, now)
    below = sum(min(part.lacks(now), max(0, share - part.held)) for part in parts)
    excess = {
        part.row: max(0, part.held - part.leaving - idle[part.row] - share)
        for part in parts
    }
    used = _divided(below - coming - sum(idle.values()), excess)
    return idle.get(row, 0), used.get(row, 0)


def _spare(parts: Sequence[Part], now: float) -> dict[int, int]:
    """How many idle places each can give."""
    is_urgent = any(part.lacks(now) and part.held < part.reserve for part in parts)
    spare = {}
    for part in parts:
        kept = 0
        if not is_urgent and now - part.wanted < RESERVED:
            kept = part.reserve - (part.held - part.idle - part.leaving)
        spare[part.row] = max(0, part.idle - max(0, kept))
    return spare


def _divided(number: int, weights: dict[int, int]) -> dict[int, int]:
    """Divide *number* in proportion to the weights; none gets more than its weight."""
    whole = sum(weights.values())
    number = max(0, min(number, whole))
    shares, so_far = {}, 0
    for row in sorted(weights):
        before = number * so_far // max(1, whole)
        so_far += weights[row]
        shares[row] = number * so_far // max(1, whole) - before
    return shares


def refill(tokens: float, seconds: float, total: int) -> float:
    """How many places may move now, *seconds* after there were *tokens*.

    So in any t seconds at most ``total + 2 * total * t`` places move.
    """
    return min(float(total), tokens + 2.0 * total * max(0.0, seconds))
