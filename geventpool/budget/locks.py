"""Locks on single bytes of a file that the kernel releases when a process ends.

Open-file-description locks: they belong to one ``open`` of the file, not to a process.
So two of them in one process exclude each other, and closing another descriptor of the
same file does not release them. A lock is never waited for: that would stop the event
loop.
"""

from __future__ import annotations

import fcntl
import os
import struct

__all__ = ["is_locked", "is_supported", "try_lock", "unlock"]

#: struct flock: type, whence, start, length, pid (which must be 0)
_FLOCK = struct.Struct("hhqqi")


def is_supported() -> bool:
    """Whether this system has such locks."""
    return hasattr(fcntl, "F_OFD_SETLK")


def _flock(kind: int, offset: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, offset, 1, 0)


def try_lock(fd: int, offset: int) -> bool:
    """Lock the byte at *offset*; False: another description has locked it.

    A byte that this description has locked already stays locked. Never switches.

    :raises OSError: the file system has no locks, or the kernel no memory.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, offset))
    except BlockingIOError:
        return False
    return True


def unlock(fd: int, offset: int) -> None:
    """Unlock the byte at *offset*. Never switches."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, offset))


def is_locked(fd: int, offset: int) -> bool:
    """Whether another description has locked the byte at *offset*. Never switches."""
    found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, offset))
    return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)
