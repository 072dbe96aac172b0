"""What a program makes and gives to its pools: one limit for all of them on a host."""

from __future__ import annotations

import atexit
import os
import re
import time
from dataclasses import dataclass

from gevent import get_hub

from geventpool.budget import files, locks
from geventpool.budget.seat import Seat, after_fork, at_exit
from geventpool.budget.sharing import Part, in_force
from geventpool.budget.table import read
from geventpool.errors import BudgetError
from geventpool.policies import check_int, safe_repr

__all__ = ["Budget", "BudgetShare", "BudgetStats"]

#: Longer numbers than this are out of any range.
_FORM = re.compile(r"([^:]+):([0-9]{1,9})(?::([0-9]{1,9}))?")


@dataclass(frozen=True)
class BudgetShare:
    """What one pool of one process has of a budget; see :class:`BudgetStats`.

    :param name: the pool's.
    :param held: places: its connections, those being opened and closed included.
    :param waiting: how many more its waiters need.
    :param moved: places that it gave to other processes so far.
    :param recovered: places of processes that died which it has taken over so far.
    """

    pid: int
    name: str
    held: int
    waiting: int
    moved: int
    recovered: int


@dataclass(frozen=True)
class BudgetStats:
    """How a budget stands at one moment.

    :param total: the limit in force: the smallest of all processes.
    :param held: places that are taken.
    :param moved: places that went from one process to another so far.
    :param recovered: places of processes that died which those that are there now have
        taken over.
    :param shares: one for each pool of each process that has used the budget.
    :param own: that of the pool that was asked; None: no pool was asked, or it has
        used the budget never.
    """

    name: str
    path: str
    total: int
    held: int
    waiting: int
    moved: int
    recovered: int
    shares: tuple[BudgetShare, ...]
    own: BudgetShare | None = None


class Budget:
    """One limit on the connections of all processes of a host.

    All pools that were given a budget of the same name never have more than *total*
    connections together, whatever the *max_connections* of each. The processes share
    the places: a process that wants more than its fair share has what the others leave.

    The limit is held by locks on a small file, which the kernel releases when a process
    ends in whatever way. Linux only.

    :param name: of at most 64 letters, digits, ``_``, ``-`` and ``.``, for a file in
        a folder of the user below the folder for temporary files; or the path of the
        file, with a ``/``, in a folder that all processes can write to.
    :param int total: 1 to 16384. If processes differ, the smallest is in force.
    :param int reserve: so many idle places are left to a process for 2 s after it used
        them, and it is served first if it has less. At most *total*.
    :raises TypeError: an argument is of the wrong kind.
    :raises ValueError: an argument is out of its range.
    :raises BudgetError: the file cannot be used, or its file system has no such locks.
    """

    def __init__(
        self, name: str | os.PathLike[str], total: int, reserve: int = 1
    ) -> None:
        if not isinstance(name, (str, os.PathLike)):
            raise TypeError(f"name must be a string or a path, not {safe_repr(name)}")
        text = name if isinstance(name, str) else os.path.abspath(name)
        if not isinstance(text, str) or "\0" in text:
            raise ValueError(f"name must be a path of text, not {safe_repr(name)}")
        self._total = check_int("total", total, 1)
        self._reserve = check_int("reserve", reserve)
        if total > files.TOTAL:
            raise ValueError(f"total must be at most {files.TOTAL}, not {total!r}")
        if reserve > total:
            raise ValueError(
                f"reserve must be at most total ({total!r}), not {reserve!r}"
            )
        if not locks.is_supported():
            raise BudgetError(
                f"Budget {text!r}: this system has no open-file-description locks; a "
                "Budget needs Linux"
            )
        self._name = text
        self._path = files.path_of(text)
        files.check(self._path)

    @classmethod
    def from_text(cls, text: str) -> Budget:
        """The budget that is written ``NAME:TOTAL`` or ``NAME:TOTAL:RESERVE``.

        :param text: a name or path without a ``:``, and one or two numbers of the
            digits 0 to 9; without spaces.
        :raises TypeError: *text* is no string.
        :raises ValueError: it is not written so, or a value is out of its range.
        :raises BudgetError: as for the constructor.
        """
        if not isinstance(text, str):
            raise TypeError(f"a budget must be a string here, not {safe_repr(text)}")
        form = _FORM.fullmatch(text)
        if form is None:
            raise ValueError(
                "a budget must be NAME:TOTAL or NAME:TOTAL:RESERVE, with whole numbers "
                f"and no ':' in NAME, not {safe_repr(text)}"
            )
        return cls(form[1], *(int(each) for each in form.group(2, 3) if each))

    @property
    def name(self) -> str:
        """The name or path that was given."""
        return self._name

    @property
    def path(self) -> str:
        """The path of the file."""
        return self._path

    @property
    def total(self) -> int:
        """The limit; a smaller one of another process is in force instead."""
        return self._total

    @property
    def reserve(self) -> int:
        """The places that are left to a process that used them lately."""
        return self._reserve

    def seat(self, name: str) -> Seat:
        """Leases for a pool of the calling event loop. Never switches. For pools.

        Opens the file. It must not be called before the process is forked from its
        parent: a parent that is killed would leave its leases to the child.

        :param name: the pool's.
        :raises BudgetError: the file cannot be used.
        """
        loop = get_hub().loop
        return Seat(self._path, self._total, self._reserve, loop, name)

    def stats(self) -> BudgetStats:
        """How the budget stands at this moment, in all processes. Never switches.

        :raises BudgetError: the file cannot be used.
        """
        parts, moved = read(self._path)
        now = time.monotonic()
        return BudgetStats(
            name=self._name,
            path=self._path,
            total=in_force(self._total, parts),
            held=sum(part.held for part in parts),
            waiting=sum(part.lacks(now) for part in parts),
            moved=moved,
            recovered=sum(part.recovered for part in parts),
            shares=tuple(_share_of(part, now) for part in parts),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Budget) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[str, int, int]:
        return self._path, self._total, self._reserve

    def __repr__(self) -> str:
        return f"Budget({self._name!r}, {self._total}, reserve={self._reserve})"


def _share_of(part: Part, now: float) -> BudgetShare:
    return BudgetShare(
        part.pid, part.name, part.held, part.lacks(now), part.moved, part.recovered
    )


os.register_at_fork(after_in_child=after_fork)
atexit.register(at_exit)
