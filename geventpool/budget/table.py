"""The file of a budget: one lock for each place that is taken, and hints.

Only the locks decide whether a place is taken and whether a process lives. All that is
written in the file is a hint: a wrong one costs time, and never more places than the
total.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress

from geventpool.budget import locks
from geventpool.budget.files import ROWS, open_file
from geventpool.budget.sharing import Part, refill
from geventpool.errors import BudgetError

__all__ = ["Table", "parts_in", "read"]

#: Where the locks are; beyond the end of the file, so they meet no data.
_PLACE_LOCKS = 1 << 23
_ROW_LOCKS = 1 << 24
_BUCKET_LOCK = (1 << 22) + 2

#: Where the hints are.
_BUCKET_AT = 64
_HIGHEST_AT = 96
_ROWS_AT = 128
_PLACES_AT = 65536

_ROW_SIZE = 128
#: pid, total, reserve, held, idle, leaving, waiting; since, written, wanted; moved,
#: recovered; name
_ROW = struct.Struct("=7I3d2Q32s")
#: the row of the holder plus 1; the row it is reserved for plus 1, and until when
_PLACE = struct.Struct("=HHId")
#: how many may move, when that was so, and how many have moved so far
_BUCKET = struct.Struct("=ddQ")
_HIGHEST = struct.Struct("=H")


class Table:
    """One open file of a budget, with the row and the places that this object holds.

    Needs no event loop. Never switches.

    :param path: of the file.
    :param pid: of the calling process.
    :raises BudgetError: the file cannot be used, or all rows are taken.
    """

    #: the descriptor of the file; -1: it is not open
    fd = -1

    def __init__(self, path: str, pid: int) -> None:
        self.path = path
        self.pid = pid
        #: the places that are locked by this object
        self.held: set[int] = set()
        #: the row as it was written last
        self._own: list[Part] = []
        self.fd = open_file(path)
        rows = (row for row in range(ROWS) if locks.try_lock(self.fd, _ROW_LOCKS + row))
        self.row = next(rows, -1)
        if self.row < 0:
            self.close()
            raise BudgetError(f"the budget's file {path!r}: {ROWS} processes share it")
        if self.row > self._highest():
            self._write(_HIGHEST_AT, _HIGHEST.pack(self.row))

    def close(self) -> None:
        """Close the file: what is held is free, unless a fork has copied it."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            self.held.clear()
            os.close(fd)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def _write(self, offset: int, data: bytes) -> None:
        # It is only a hint: a full disk must not cost a place.
        with suppress(OSError):
            os.pwrite(self.fd, data, offset)

    @property
    def is_current(self) -> bool:
        """Whether other processes that open the path get the same file."""
        own = os.fstat(self.fd)
        try:
            found = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return False
        return (own.st_dev, own.st_ino) == (found.st_dev, found.st_ino)

    # Rows.

    def write(self, part: Part) -> None:
        """Let the other processes read what this one has."""
        self._own = [part]
        data = _ROW.pack(*part[1:-1], part.name.encode("utf-8", "replace")[:32])
        self._write(_ROWS_AT + _ROW_SIZE * self.row, data)

    def raw(self) -> bytes:
        """The rows of all processes, to be read by :func:`parts_in`."""
        return _read(self.fd, _ROW_SIZE * (self._highest() + 1), _ROWS_AT)

    def _highest(self) -> int:
        """The highest row that was used so far."""
        data = _read(self.fd, _HIGHEST.size, _HIGHEST_AT)
        return int(_HIGHEST.unpack(data)[0])

    def parts(self) -> list[Part]:
        """The rows of the living processes, this one included once it is written."""
        # Its own is not read, because a full disk may have kept it from being written.
        others = [
            part
            for part in parts_in(self.raw())
            if part.row != self.row and self._lives(part.row)
        ]
        return sorted(others + self._own)

    def _lives(self, row: int) -> bool:
        offset = _ROW_LOCKS + row
        if locks.is_locked(self.fd, offset):
            return True
        if locks.try_lock(self.fd, offset):
            self._write(_ROWS_AT + _ROW_SIZE * row, bytes(_ROW_SIZE))
            locks.unlock(self.fd, offset)
        return False

    # Places.

    def take(self, total: int, now: float) -> tuple[int, bool] | None:
        """Lock one of the first *total* places.

        :return: its number, and whether its last holder died with it; None: there is no
            free one, or each is reserved for another process.
        """
        places = list(self._places(total))
        # The mark of a holder saves a call. Dead holders leave theirs, so those places
        # are tried too, but last.
        for free_only in (True, False):
            for number, (owner, meant_for, _, until) in enumerate(places):
                if number in self.held or bool(owner) is free_only:
                    continue
                if meant_for not in (0, self.row + 1) and now < until:
                    continue
                if locks.try_lock(self.fd, _PLACE_LOCKS + number):
                    self.held.add(number)
                    self._mark(number, self.row + 1)
                    return number, bool(owner)
        return None

    def _places(self, total: int) -> Iterator[tuple[int, int, int, float]]:
        data = _read(self.fd, _PLACE.size * total, _PLACES_AT)
        return _PLACE.iter_unpack(data)

    def _mark(self, number: int, owner: int, row: int = 0, until: float = 0.0) -> None:
        data = _PLACE.pack(owner, row, 0, until)
        self._write(_PLACES_AT + _PLACE.size * number, data)

    def give(self, row: int = -1, until: float = 0.0) -> None:
        """Unlock the place with the highest number.

        :param row: no other process takes it before the time *until*; -1: all may.
        """
        number = max(self.held)
        # The mark goes first: one that is found on a place that is free tells of a
        # death.
        self._mark(number, 0, row + 1, until)
        # If this fails, the place is still held.
        locks.unlock(self.fd, _PLACE_LOCKS + number)
        self.held.discard(number)

    # Moves.

    def tokens(self, number: int, total: int, now: float) -> int:
        """How many of *number* places may move to other processes now.

        They count as moved. 0 as well if another process counts at this moment.
        """
        if not locks.try_lock(self.fd, _BUCKET_LOCK):
            return 0
        try:
            data = _read(self.fd, _BUCKET.size, _BUCKET_AT)
            left, then, moved = _BUCKET.unpack(data)
            left = refill(left, now - then, total)
            granted = min(number, int(left))
            # Not a hint: if it cannot be written, the bound would not hold.
            data = _BUCKET.pack(left - granted, now, moved + granted)
            os.pwrite(self.fd, data, _BUCKET_AT)
            return granted
        except OSError:
            return 0
        finally:
            locks.unlock(self.fd, _BUCKET_LOCK)


def _read(fd: int, size: int, offset: int) -> bytes:
    # Something may have cut the file off, which then has no hints.
    return os.pread(fd, size, offset).ljust(size, b"\0")


def parts_in(data: bytes) -> list[Part]:
    """The rows in *data*, those of processes that died included."""
    parts = []
    for row in range(len(data) // _ROW_SIZE):
        *numbers, name = _ROW.unpack_from(data, row * _ROW_SIZE)
        if numbers[0]:
            text = name.rstrip(b"\0").decode("utf-8", "replace")
            parts.append(Part._make((row, *numbers, text)))
    return parts


def read(path: str) -> tuple[list[Part], int]:
    """What the file tells of the host, for a process that may have no row.

    Never switches.

    :return: the rows of the living processes; how many places have moved so far.
    :raises BudgetError: the file cannot be used.
    """
    fd = open_file(path)
    try:
        data = _read(fd, _ROW_SIZE * ROWS, _ROWS_AT)
        parts = [
            part
            for part in parts_in(data)
            if locks.is_locked(fd, _ROW_LOCKS + part.row)
        ]
        _, _, moved = _BUCKET.unpack(_read(fd, _BUCKET.size, _BUCKET_AT))
        return parts, moved
    finally:
        os.close(fd)
