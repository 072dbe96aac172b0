"""Messages between the processes that share a budget.

Each has a datagram socket beside the file. Messages may get lost, so nothing relies on
one.
"""

from __future__ import annotations

import _socket
import os
from contextlib import suppress

__all__ = ["FREE", "WISH", "Mailbox"]

#: a place is free; a process waits for places
FREE = b"f"
WISH = b"w"


class Mailbox:
    """The socket of one process. Needs no event loop; never switches.

    :param path: of the budget's file.
    :param row: the number of the process's row. Its lock makes the address its own.
    :raises OSError: no socket can be made in the folder.
    """

    def __init__(self, path: str, row: int) -> None:
        folder, self._name = os.path.split(path)
        # The addresses of sockets are short: the folder is reached by its descriptor.
        self._folder = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            kind = _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
            self._socket = _socket.socket(_socket.AF_UNIX, kind)
            try:
                self._bind(row)
            except BaseException:
                self._socket.close()
                raise
        except BaseException:
            os.close(self._folder)
            raise

    def _bind(self, row: int) -> None:
        self._address = self._address_of(row)
        with suppress(FileNotFoundError):
            # Of a process that died.
            os.unlink(self._address)
        self._socket.bind(self._address)
        os.chmod(self._address, 0o660)

    def _address_of(self, row: int) -> str:
        return f"/proc/self/fd/{self._folder}/{self._name}.{row}"

    def fileno(self) -> int:
        """The descriptor that becomes readable when a message comes."""
        return self._socket.fileno()

    def send(self, row: int, message: bytes) -> None:
        """Send to the process with this row, if it can be reached."""
        # Full: it has messages that it has not read. Refused or missing: it died.
        with suppress(OSError):
            self._socket.sendto(message, self._address_of(row))

    def receive(self) -> set[bytes]:
        """The messages that have come, each kind once."""
        messages = set()
        with suppress(BlockingIOError):
            while True:
                messages.add(self._socket.recv(16))
        return messages

    def close(self, unlink: bool = True) -> None:
        """Close the socket.

        :param unlink: remove its address; False in a child, where it is the parent's.
        """
        if unlink:
            with suppress(OSError):
                os.unlink(self._address)
        self._socket.close()
        os.close(self._folder)
