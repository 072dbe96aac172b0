"""The other side: small loopback servers that run in greenlets of the test.

:class:`Echo` answers; :class:`Unruly` misbehaves in the way it is told, and can be told
otherwise at any moment; :class:`Deaf` accepts nothing. Each counts the sockets it sees,
is used as a context manager, and raises at its end what went wrong in it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import ssl
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import gevent
from gevent import socket
from gevent.event import Event
from gevent.ssl import SSLSocket

P = TypeVar("P", bound="Peer")

#: Seconds after which something that should have happened is given up.
PATIENCE = 5.0


class Peer:
    """A server on a free loopback port, or on a Unix socket.

    :param path: of the Unix socket to make, instead of a port.
    :param tls: the server's ``SSLContext``, see :func:`tls_contexts`.

    ``host`` and ``port`` (or ``path``) say where it is, ``accepted`` how many sockets
    it has seen in all, ``peak`` how many at the same time.
    """

    family = socket.AF_INET

    def __init__(
        self, path: str | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.path = path
        self.host, self.port = "127.0.0.1", 0
        self.accepted = 0
        self.peak = 0
        self.tls = tls
        self._sockets: set[Any] = set()
        self._handlers: set[gevent.Greenlet[..., Any]] = set()
        self._errors: list[BaseException] = []
        self._changed = Event()
        self._listener: Any = None
        self._acceptor: gevent.Greenlet[..., Any] | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, as a socket's ``connect`` takes them."""
        return self.host, self.port

    @property
    def options(self) -> dict[str, Any]:
        """Where it is, as the arguments of a ``TcpConnection``."""
        if self.path is not None:
            return {"path": self.path}
        return {"host": self.host, "port": self.port}

    @property
    def open(self) -> int:
        """How many sockets it sees now: accepted, and the other side not closed."""
        return len(self._sockets)

    def wait_until(self, rule: Callable[[], bool], what: str) -> None:
        """Wait until *rule* holds; it is asked whenever a socket came or went."""
        with gevent.Timeout(
            PATIENCE, AssertionError(f"not within {PATIENCE} s: {what}")
        ):
            while not rule():
                self._changed.wait()
                self._changed.clear()

    def wait_open(self, count: int) -> None:
        """Wait until it sees exactly *count* sockets."""
        self.wait_until(lambda: self.open == count, f"{count} sockets open at {self!r}")

    def wait_accepted(self, count: int) -> None:
        """Wait until it has seen *count* sockets in all."""
        self.wait_until(lambda: self.accepted >= count, f"{count} accepted by {self!r}")

    def __repr__(self) -> str:
        where = self.path or f"{self.host}:{self.port}"
        return (
            f"<{type(self).__name__} {where}: {self.open} open, peak {self.peak}, "
            f"{self.accepted} accepted>"
        )

    # Its life

    def __enter__(self: P) -> P:
        self._listener = self._listen()
        self._acceptor = gevent.spawn(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        if error is None and self._errors:
            raise self._errors[0]

    def stop(self) -> None:
        """Stop listening and close every socket, as a server that is shut down."""
        acceptor, self._acceptor = self._acceptor, None
        if acceptor is not None:
            acceptor.kill()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        gevent.killall(list(self._handlers))

    def restart(self) -> None:
        """Stop, and serve again at the same place."""
        self.stop()
        if self.path is not None:
            Path(self.path).unlink()
        self.__enter__()

    def hang_up_all(self) -> None:
        """Close every socket but go on serving; returns when all are closed."""
        gevent.killall(list(self._handlers))

    def _listen(self) -> Any:
        if self.path is not None:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(self.path)
        else:
            listener = socket.socket(self.family, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((self.host, self.port))
            self.host, self.port = listener.getsockname()[:2]
        listener.listen(1024)
        return listener

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            if self.path is None:
                # What follows a TLS ticket would else wait for its acknowledgement.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.accepted += 1
            self._sockets.add(sock)
            self.peak = max(self.peak, self.open)
            self._changed.set()
            handler = gevent.Greenlet(self._handle, sock)
            self._handlers.add(handler)
            # A link, since the greenlet may be killed before it has begun.
            handler.rawlink(functools.partial(self._ended, sock))
            handler.start()

    def _handle(self, sock: Any) -> None:
        talk = sock
        try:
            if self.tls is not None:
                talk = SSLSocket(
                    sock=sock,
                    server_side=True,
                    do_handshake_on_connect=False,
                    _context=self.tls,
                )
                talk.do_handshake()
            self.talk(talk)
        except (ConnectionError, ssl.SSLError):
            pass  # the client went away, as clients do
        except Exception as error:
            self._errors.append(error)
        finally:
            talk.close()

    def _ended(self, sock: Any, handler: gevent.Greenlet[..., Any]) -> None:
        sock.close()
        self._sockets.discard(sock)
        self._handlers.discard(handler)
        self._changed.set()

    def talk(self, sock: Any) -> None:
        """What it does with one client; the socket is closed afterwards."""
        raise NotImplementedError


class Echo(Peer):
    """Sends back whatever it gets."""

    def talk(self, sock: Any) -> None:
        while data := sock.recv(65536):
            sock.sendall(data)


class Unruly(Peer):
    """Does with each message what :attr:`behaviour` says at that moment.

    ``"echo"``: sends it back. ``"hang up"``: closes. ``"reset"``: closes with a reset.
    ``"silent"``: reads on, never answers. ``"late"``: sends it back once
    :attr:`may_answer` is set. ``"half"``: sends back the first half, then nothing more.
    ``"chatty"``: sends it back twice. :meth:`say` sends something unasked. What it has
    read is in :attr:`heard`.

    :param str behaviour: how it begins.
    :param bool listens: False: it does not wait for a message, but hangs up or
        resets at once.
    """

    def __init__(
        self, behaviour: str = "echo", *, listens: bool = True, **options: Any
    ) -> None:
        super().__init__(**options)
        self.behaviour = behaviour
        self.may_answer = Event()
        self.heard = b""
        self._listens = listens
        self._talking: set[Any] = set()
        self._acts: dict[str, Callable[[Any, bytes], bool]] = {
            "echo": self._echo,
            "hang up": self._hang_up,
            "reset": self._reset,
            "silent": self._keep_silent,
            "late": self._answer_late,
            "half": self._answer_half,
            "chatty": self._answer_twice,
        }

    def say(self, data: bytes) -> None:
        """Send *data* to every client, unasked."""
        for sock in list(self._talking):
            sock.sendall(data)

    def talk(self, sock: Any) -> None:
        self._talking.add(sock)
        self._changed.set()
        try:
            go_on = self._listens or self._acts[self.behaviour](sock, b"")
            while go_on and (data := sock.recv(65536)):
                self.heard += data
                go_on = self._acts[self.behaviour](sock, data)
        finally:
            self._talking.discard(sock)

    def _echo(self, sock: Any, data: bytes) -> bool:
        sock.sendall(data)
        return True

    def _hang_up(self, sock: Any, data: bytes) -> bool:
        return False

    def _reset(self, sock: Any, data: bytes) -> bool:
        reset_on_close(sock)
        return False

    def _keep_silent(self, sock: Any, data: bytes) -> bool:
        return True

    def _answer_late(self, sock: Any, data: bytes) -> bool:
        self.may_answer.wait()
        return self._echo(sock, data)

    def _answer_half(self, sock: Any, data: bytes) -> bool:
        return self._echo(sock, data[: len(data) // 2])

    def _answer_twice(self, sock: Any, data: bytes) -> bool:
        return self._echo(sock, data + data)


class Deaf(Peer):
    """Listens but accepts nothing, and its queue is full: connecting takes forever.

    It has no use for ``tls``.
    """

    def __enter__(self) -> Deaf:
        self._listener = self._listen()
        self._listener.listen(0)
        kind = self._listener.family
        place = self.path if self.path is not None else self.address
        self._fillers: list[Any] = []
        # Linux takes one more than it was told; what is beyond is left unanswered.
        while len(self._fillers) < 3:
            filler = socket.socket(kind, socket.SOCK_STREAM)
            self._fillers.append(filler)
            filler.settimeout(0.0)
            with contextlib.suppress(BlockingIOError):
                filler.connect(place)
        return self

    def stop(self) -> None:
        for filler in self._fillers:
            filler.close()
        super().stop()


def reset_on_close(sock: Any) -> None:
    """Let closing *sock* send a reset in place of a regular end of stream."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@functools.cache
def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS contexts for a server at 127.0.0.1, localhost or *peer.test*, and clients.

    They are made once per process, by an authority of their own.
    """
    import trustme

    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1", "localhost", "peer.test").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


@contextlib.contextmanager
def unix_path() -> Iterator[str]:
    """A free path for a Unix socket, short enough for one."""
    with tempfile.TemporaryDirectory(prefix="peer") as folder:
        yield str(Path(folder, "socket"))


def open_sockets() -> set[int]:
    """The descriptors of this process that are sockets."""
    found = set()
    for entry in os.scandir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(entry.path).startswith("socket:"):
                found.add(int(entry.name))
    return found


def run_script(source: str) -> str:
    """What *source* prints in a process of its own, where nothing is patched yet.

    Any warning is an error there, and an exit status other than 0 is one here.
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stderr}"
    return done.stdout
