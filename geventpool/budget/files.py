"""Where the file of a budget is, how it is made, and which files are refused."""

from __future__ import annotations

import os
import re
import secrets
import stat
import struct
import tempfile

from geventpool.budget import locks
from geventpool.errors import BudgetError

__all__ = ["ROWS", "SIZE", "TOTAL", "check", "open_file", "path_of"]

#: So many processes may share a budget, and so many places may it have.
ROWS = 256
TOTAL = 16384
#: The size of the file; most of it is never written and takes no room.
SIZE = 65536 + 16 * TOTAL

_HEADER = struct.Struct("=8sHHIQ")
_MAGIC = b"gpbudget"
_VERSION = 1

#: The byte that is locked to see whether locks work.
_TEST = (1 << 22) + 1

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")

#: Locks on these are slow, missing, or not seen by all processes.
_REFUSED = re.compile(r"(nfs|cifs|smb|9p|fuse|fakeowner|virtiofs|ceph|glusterfs|afs)")


def path_of(name: str) -> str:
    """The absolute path of the file of the budget *name*.

    A name without a ``/`` is a file in a folder of the user, below the folder for
    temporary files. The folder is made.

    :raises ValueError: it is neither a path nor a plain name.
    :raises BudgetError: the folder belongs to another user or others can write to it.
    """
    if "/" in name:
        path = os.path.abspath(name)
        if len(os.path.basename(path).encode()) > 64:
            # The addresses of sockets beside it are short.
            raise ValueError(f"name must end in at most 64 bytes, not {name!r}")
        return path
    if not _NAME.fullmatch(name):
        raise ValueError(
            "name must be a path with a '/', or at most 64 letters, digits, '_', '-' "
            f"and '.', not {name!r}"
        )
    folder = os.path.join(tempfile.gettempdir(), f"geventpool-{os.geteuid()}")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        found = os.lstat(folder)
    except OSError as error:
        raise BudgetError(f"Budget {name!r}: no folder {folder!r}: {error}") from error
    safe = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o022
    if not safe or found.st_uid != os.geteuid():
        raise BudgetError(
            f"Budget {name!r}: {folder!r} must be a folder of this user that no other "
            "user can write to; give a path"
        )
    return os.path.join(folder, f"{name}.budget")


def open_file(path: str) -> int:
    """A descriptor of the file at *path*, which is made if it is missing.

    :raises BudgetError: it cannot be opened, or is not the file of a budget.
    """
    try:
        fd = _opened(path)
    except OSError as error:
        raise BudgetError(f"the budget's file {path!r}: {error}") from error
    if fault := _fault(fd):
        os.close(fd)
        raise BudgetError(f"the budget's file {path!r} {fault}; nothing was changed")
    return fd


def _opened(path: str) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    while True:
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            _make(path)


def _make(path: str) -> None:
    """Make the file. It appears with its whole content, or another process made it."""
    draft = f"{path}.{os.getpid()}-{secrets.token_hex(4)}"
    fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o660)
    try:
        os.pwrite(fd, _header(), 0)
        os.ftruncate(fd, SIZE)
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
    finally:
        os.close(fd)
        os.unlink(draft)


def _header() -> bytes:
    return _HEADER.pack(_MAGIC, _VERSION, ROWS, TOTAL, SIZE)


def _fault(fd: int) -> str:
    """Why the open file is not the file of a budget; "": it is."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        return "is not a regular file"
    header = os.pread(fd, _HEADER.size, 0)
    if header[: len(_MAGIC)] != _MAGIC:
        return "is not the file of a budget"
    if header != _header() or found.st_size != SIZE:
        return "was made by another version of geventpool, or is damaged"
    return ""


def check(path: str) -> None:
    """See to it that locks on the file at *path* can be relied on. Never switches.

    :raises BudgetError: they cannot.
    """
    fd = open_file(path)
    try:
        kind = file_system(path)
        if _REFUSED.match(kind):
            raise BudgetError(
                f"the budget's file {path!r} is on a file system of type {kind!r}, "
                "whose locks cannot be relied on; give a path on a local one"
            )
        if not _locks_work(fd, path):
            raise BudgetError(
                f"the budget's file {path!r} is on a file system of type {kind!r} "
                "without open-file-description locks; give a path on a local one"
            )
    finally:
        os.close(fd)


def _locks_work(fd: int, path: str) -> bool:
    other = open_file(path)
    try:
        # If another process makes the same test at this moment, its lock is seen:
        # that answers the question as well.
        locks.try_lock(fd, _TEST)
        return not locks.try_lock(other, _TEST)
    except OSError:
        return False
    finally:
        os.close(other)


def file_system(path: str) -> str:
    """The type of the file system that *path* is on; "": it cannot be told."""
    path = os.path.realpath(path)
    best = kind = ""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                before, _, after = line.partition(" - ")
                point = before.split(" ")[4].rstrip("/")
                # The last of several mounts on one point is the one that is seen.
                if path.startswith(f"{point}/") and len(point) >= len(best):
                    best, kind = point, after.split(" ")[0]
    except OSError:
        pass
    return kind
