"""What stands between a client and its MariaDB: it looks, alters, delays, hangs up."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import gevent
from gevent import socket
from gevent.event import Event

from tests.peers import Peer
from tests.servers import MariaDBServer

#: COM_RESET_CONNECTION and a command that no server knows.
RESET = b"\x01\x00\x00\x00\x1f"
UNKNOWN = b"\x01\x00\x00\x00\x2f"


class Proxy(Peer):
    """Passes everything on, both ways, unless told otherwise.

    :param server: where to.

    ``question`` and ``answer`` are called with what is on its way and return what goes
    on; None hangs up. While ``listening`` is not set nothing is taken from clients.
    ``asked`` is all that clients said.
    """

    def __init__(self, server: MariaDBServer) -> None:
        super().__init__()
        self.server = server
        self.question: Callable[[bytes], bytes | None] = lambda data: data
        self.answer: Callable[[bytes], bytes | None] = lambda data: data
        self.listening = Event()
        self.listening.set()
        self.asked: list[bytes] = []

    def talk(self, sock: Any) -> None:
        beyond = socket.create_connection((self.server.host, self.server.port))
        # A client that is not listened to is to notice soon.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        back = gevent.spawn(self._pass, beyond, sock, lambda data: self.answer(data))
        try:
            self._pass(sock, beyond, self._note, self.listening)
        finally:
            # First what cannot switch: this greenlet may be killed a second time.
            beyond.close()
            back.kill()

    def _note(self, data: bytes) -> bytes | None:
        self.asked.append(data)
        return self.question(data)

    def _pass(
        self,
        origin: Any,
        target: Any,
        alter: Callable[[bytes], bytes | None],
        gate: Event | None = None,
    ) -> None:
        try:
            while data := origin.recv(65536):
                altered = alter(data)
                if altered is None:
                    break
                target.sendall(altered)
                if gate is not None:
                    gate.wait()
        except OSError:
            pass  # one of both went away
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
