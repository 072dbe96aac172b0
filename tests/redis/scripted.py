"""A Redis server that answers as a test wants it to, when it wants it to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import hiredis
from gevent.server import StreamServer

__all__ = ["ScriptedRedis", "scripted_redis"]

#: Part of redis-py's handshake, and what our own look at a connection may send.
HANDSHAKE = {b"CLIENT", b"SELECT", b"AUTH", b"HELLO"}

#: Gives the bytes of the answer to a command; None: no answer.
Answer = Callable[[list[bytes]], "bytes | None"]


class ScriptedRedis:
    """Answers every command by *answer*, except those of the handshake.

    :param answer: may switch: what comes later on that connection waits meanwhile.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        #: the commands, in the order in which they came, without the handshake
        self.received: list[list[bytes]] = []
        #: the sockets of all connections
        self.sockets: list[Any] = []
        self._server = StreamServer(("127.0.0.1", 0), self._serve)

    @property
    def port(self) -> int:
        return int(self._server.server_port)  # type: ignore[arg-type]

    def _serve(self, sock: Any, address: Any) -> None:
        self.sockets.append(sock)
        reader = hiredis.Reader()
        try:
            while data := sock.recv(65536):
                reader.feed(data)
                while (command := reader.gets()) is not False:
                    self._react(sock, command)
        except OSError:
            pass

    def _react(self, sock: Any, command: list[bytes]) -> None:
        if command[0] in HANDSHAKE:
            hello = b"%%1\r\n+proto\r\n:%b\r\n" % command[-1]
            sock.sendall(hello if command[0] == b"HELLO" else b"+OK\r\n")
            return
        self.received.append(command)
        reply = self.answer(command)
        if reply is not None:
            sock.sendall(reply)


def echo(command: list[bytes]) -> bytes:
    """The last word of the command."""
    return b"$%d\r\n%s\r\n" % (len(command[-1]), command[-1])


@contextmanager
def scripted_redis(answer: Answer = echo) -> Iterator[ScriptedRedis]:
    """A server that runs in greenlets of this process."""
    server = ScriptedRedis(answer)
    server._server.start()
    try:
        yield server
    finally:
        server._server.stop(timeout=0)
        for sock in server.sockets:
            sock.close()
