"""The lines of a program at which connections are borrowed.

A line is noted for a sample of loans only, because walking the stack costs as much as a
loan. It is inferred for the others: a holder that is still in a function that is known
to borrow has most probably borrowed there. Once a line has leaked, every loan is noted.

Nothing here switches, and no frame is kept.
"""

from __future__ import annotations

import sys
import weakref
from bisect import bisect_right
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, NamedTuple

from geventpool._core.ledger import Entry

__all__ = ["BorrowSites", "Site", "position"]

#: Modules that borrow for their callers, by the first part of their names.
DRIVERS = frozenset(
    "contextlib django gevent geventpool pymysql redis sqlalchemy".split()
)
#: So many frames are looked at, and so many functions are remembered.
DEPTH = 64
FUNCTIONS = 512


class Site(NamedTuple):
    """A line of a program."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


def position(frame: FrameType | None) -> FrameType | None:
    """The innermost frame of the program itself; None: there is no such frame.

    :param frame: the innermost frame to look at.
    """
    for _ in range(DEPTH):
        if frame is None:
            break
        name = frame.f_globals.get("__name__")
        if type(name) is not str or name.partition(".")[0] not in DRIVERS:
            return frame
        frame = frame.f_back
    return None


class BorrowSites:
    """Where the loans of one pool were borrowed.

    :param on_change: called without arguments when :attr:`is_wanted` has changed.
    :param int first: so many loans are noted at first.
    """

    #: Above 0: all loans of all pools are noted, for tests.
    everywhere = 0

    def __init__(self, on_change: Callable[[], object], first: int = 0) -> None:
        self._on_change = on_change
        #: whether every loan is noted, and how many of the next ones are
        self._always = BorrowSites.everywhere > 0
        self._next = first
        #: when the noted loan of an entry began, and where
        self._noted: weakref.WeakKeyDictionary[Entry[Any], tuple[float, Site]] = (
            weakref.WeakKeyDictionary()
        )
        #: the lines of each function at which it borrows, in ascending order
        self._known: dict[CodeType, list[int]] = {}
        self.is_wanted = self._always or first > 0

    def want(self, number: int = 1) -> None:
        """Note the next loans, so many at least."""
        self._next = max(self._next, number)
        self._update()

    def want_all(self, always: bool = True) -> None:
        """Note every loan from now on, or sample again."""
        self._always = always
        self._update()

    def _update(self) -> None:
        before, self.is_wanted = self.is_wanted, self._always or self._next > 0
        if before != self.is_wanted:
            self._on_change()

    def note(self, entry: Entry[Any]) -> None:
        """The caller has borrowed *entry* just now."""
        if self._next:
            self._next -= 1
            self._update()
        frame = position(sys._getframe(1))
        if frame is not None:
            code, line = frame.f_code, frame.f_lineno
            site = Site(code.co_filename, line, code.co_name)
            self._noted[entry] = entry.since, site
            self._remember(code, line)

    def _remember(self, code: CodeType, line: int) -> None:
        lines = self._known.get(code)
        if lines is None:
            if len(self._known) < FUNCTIONS:
                self._known[code] = [line]
        elif line not in lines:
            lines.append(line)
            lines.sort()

    def of(self, entry: Entry[Any]) -> Site | None:
        """Where the present loan of *entry* was borrowed; None: it is not known."""
        since, site = self._noted.get(entry, (None, None))
        if since == entry.since:
            return site
        holder = None if entry.holder is None else entry.holder()
        return None if holder is None else self._inferred(holder)

    def _inferred(self, holder: Any) -> Site | None:
        frame = holder.gr_frame
        for _ in range(DEPTH):
            if frame is None:
                break
            lines = self._known.get(frame.f_code)
            if lines is not None:
                # The last one at or before the line that it has reached.
                index = max(0, bisect_right(lines, frame.f_lineno) - 1)
                code = frame.f_code
                return Site(code.co_filename, lines[index], code.co_name)
            frame = frame.f_back
        return None
