"""A socket of gevent's for requests and replies.

It does what gevent's socket does, with fewer system calls: a small request is sent by
one, and its reply is awaited before it is read. gevent's ``sendall`` asks for the size
of the kernel's buffer first. Its ``recv`` tries to read before it waits. Right after a
request that fails, and costs a system call and an exception.
"""

from __future__ import annotations

from typing import Any

from gevent import socket

__all__ = ["RequestSocket", "as_request_socket"]

#: Bytes. The kernel's buffer has room for such a request, nearly always.
SMALL = 16 * 1024


class RequestSocket(socket.socket):
    """A connected stream on which replies follow requests."""

    # Private members of gevent's, which the published stubs leave out.
    _sock: Any
    _read_event: Any
    _wait: Any

    #: whether nothing was read since the last request
    _awaits_reply = False

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all of *data*. May switch.

        :raises OSError: raised by gevent's method.
        """
        if type(data) is bytes and 0 < len(data) <= SMALL and not flags:
            try:
                sent = self._sock.send(data)
            except BlockingIOError:
                sent = 0
            self._awaits_reply = True
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
        super().sendall(data, flags)

    def recv(self, *args: Any) -> bytes:
        """Receive like gevent's socket. May switch."""
        if self._awaits_reply and len(args) == 1 and args[0]:
            self._await_reply()
        return super().recv(*args)

    def recv_into(self, *args: Any) -> int:
        """Receive into a buffer like gevent's socket. May switch."""
        if self._awaits_reply and len(args) == 1 and args[0]:
            self._await_reply()
        return super().recv_into(*args)

    def _await_reply(self) -> None:
        self._awaits_reply = False
        watcher = self._read_event
        # Neither for a closed socket, nor for one that does not wait.
        if watcher is not None and self.timeout != 0.0:
            # The wait of gevent's own methods, with the same errors.
            self._wait(watcher)


def as_request_socket(sock: Any) -> Any:
    """Return a :class:`RequestSocket` in place of a connected socket. Never switches.

    The descriptor and the timeout stay. A socket of any other class than gevent's own
    for streams is returned as it is: one with TLS, of a process that is not patched, or
    what a program has put in the place of the standard library's.
    """
    if type(sock) is not socket.socket:
        return sock
    timeout = sock.gettimeout()
    family, kind, proto = sock.family, sock.type, sock.proto
    made = RequestSocket(family, kind, proto, fileno=sock.detach())
    made.settimeout(timeout)
    return made
