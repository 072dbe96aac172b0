"""One connection: what a pool asks of it, and the TCP kind.

Knows its own socket, age and address. Knows nothing of pools.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from errno import EISCONN, ENOTCONN
from typing import TYPE_CHECKING, Any

from geventpool import sockets
from geventpool.policies import check_optional_seconds, safe_repr
from geventpool.sockets import KeepAlive

if TYPE_CHECKING:
    from ssl import SSLContext

    from gevent.socket import socket as GeventSocket

__all__ = ["Connection", "TcpConnection"]

#: The methods of which :meth:`TcpConnection.is_usable` is made.
PARTS = frozenset({"fileno", "get", "is_connected", "is_expired", "is_quiet", "socket"})


class Connection:
    """What the pool asks of a connection: subclass it for a protocol of your own.

    Override :meth:`open`, :meth:`close`, :meth:`get` and :meth:`is_connected`; the
    rest has defaults. The names and their meaning are those of gsocketpool.
    """

    def open(self) -> None:
        """Connect. May switch."""
        raise NotImplementedError

    def close(self) -> None:
        """Say goodbye if the protocol has one, and disconnect. May switch."""
        raise NotImplementedError

    def get(self) -> Any:
        """The raw connection: a socket, or what speaks over one. Never switches."""
        raise NotImplementedError

    def is_connected(self) -> bool:
        """Whether it was opened, and not closed since. Never switches."""
        raise NotImplementedError

    def is_expired(self) -> bool:
        """Whether it is too old to be used any longer. Never switches."""
        return False

    def reconnect(self) -> None:
        """Replace the connection by a new one. May switch.

        Unlike gsocketpool's, it does not log a failure and return as if all were
        well: whatever :meth:`close` or :meth:`open` raised passes through.
        """
        if self.is_connected():
            self.close()
        self.open()

    def terminate(self) -> bool | None:
        """Let go of the socket, without a goodbye. Never switches.

        :return: False: no socket was found. Then the pool has :meth:`close` called by
            a greenlet of its own, under a time limit.
        """
        sock = sockets.find_socket(self)
        if sock is None:
            return False
        sockets.terminate(sock)
        return True

    def is_quiet(self) -> bool:
        """Whether the idle connection is open with nothing to read. Never switches.

        True if no socket is to be found: then nothing speaks against it.
        """
        sock = sockets.find_socket(self)
        return sock is None or sockets.is_quiet(sock)

    def is_usable(self) -> bool:
        """Whether the pool may lend it: connected, not expired, quiet.

        Never switches.
        """
        return self.is_connected() and not self.is_expired() and self.is_quiet()


class TcpConnection(Connection):
    """A stream to *host* and *port*, or to a Unix socket: plain, or with TLS.

    Any error while sending or receiving, a kill and a ``gevent.Timeout`` included,
    disconnects it: nobody can tell how much was sent, or whose answer comes next.
    It uses gevent's sockets also where nothing is monkey-patched. One greenlet at a
    time may use it.

    :param str host: name, IPv4 or IPv6 address; a numeric one needs no resolver.
    :param int port: 1 to 65535.
    :param float lifetime: seconds from :meth:`open` after which it is expired; None
        for never.
    :param float timeout: seconds for which one step of :meth:`send` or :meth:`recv`
        may wait for the peer, above 0; None for as long as it takes.
    :param float connect_timeout: seconds for all of :meth:`open` (name, connect, TLS
        handshake), above 0; None leaves it to the system.
    :param ssl: an ``SSLContext``; True for a default one, made once per process; None
        for no TLS.
    :param str server_hostname: the name the certificate must bear, if not *host*.
    :param path: of a Unix socket, instead of *host* and *port*.
    :param KeepAlive keepalive: how soon a vanished peer is noticed (TCP only).
    :raises TypeError: an argument is of the wrong type.
    :raises ValueError: a number is out of range, or *path* is given beside *host*.
    """

    #: Seconds by a clock that is never put back; a test may put its own here.
    clock: Callable[[], float] = staticmethod(time.monotonic)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # The fast path below leaves out what such a subclass has to say.
        if not PARTS.isdisjoint(vars(cls)) and "is_usable" not in vars(cls):
            cls.is_usable = Connection.is_usable  # type: ignore[method-assign]

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        lifetime: float | None = 600,
        timeout: float | None = None,
        *,
        connect_timeout: float | None = 10.0,
        ssl: SSLContext | bool | None = None,
        server_hostname: str | None = None,
        path: str | bytes | os.PathLike[str] | None = None,
        keepalive: KeepAlive = KeepAlive(),
    ) -> None:
        _check_address(host, port, path)
        _check_tls(ssl, server_hostname)
        if not isinstance(keepalive, KeepAlive):
            raise TypeError(f"keepalive must be a KeepAlive, not {keepalive!r}")
        self._host = host
        self._port = port
        self._path = path
        lasts = check_optional_seconds("lifetime", lifetime)
        self._lasts = math.inf if lasts is None else lasts
        self._timeout = _patience("timeout", timeout)
        self._connect_timeout = _patience("connect_timeout", connect_timeout)
        self._ssl = ssl
        self._server_hostname = server_hostname
        self._keepalive = keepalive
        self._sock: GeventSocket | None = None
        self._opened_at = 0.0

    def __repr__(self) -> str:
        state = "closed" if self._sock is None else f"fd {self._sock.fileno()}"
        return f"<{type(self).__name__} {self._where()} {state}>"

    def _where(self) -> str:
        if self._path is not None:
            return repr(self._path)
        host = f"[{self._host}]" if ":" in str(self._host) else self._host
        return f"{host}:{self._port}"

    # Opening and closing

    def open(self) -> None:
        """Connect, always with a new socket. May switch.

        :raises TimeoutError: *connect_timeout* is over.
        :raises OSError: it is open already (EISCONN), or whatever dialling raised.
        """
        if self._sock is not None:
            raise OSError(EISCONN, f"{self!r} is open already")
        sock = self._dial()
        sock.settimeout(self._timeout)
        self._sock = sock
        self._opened_at = self.clock()

    def _dial(self) -> GeventSocket:
        if self._path is not None:
            return sockets.dial_unix(
                self._path,
                timeout=self._connect_timeout,
                ssl=self._ssl,
                server_hostname=self._server_hostname,
            )
        assert self._host is not None and self._port is not None
        return sockets.dial(
            self._host,
            self._port,
            timeout=self._connect_timeout,
            ssl=self._ssl,
            server_hostname=self._server_hostname,
            keepalive=self._keepalive,
        )

    def close(self) -> None:
        """Disconnect. Closing twice is no error. Never switches.

        TLS is not unwound, because that would wait for the peer.
        """
        self.terminate()

    def terminate(self) -> None:
        """Let go of the socket: :meth:`close`, for those who must not say goodbye.

        A subclass whose :meth:`close` says goodbye leaves this one alone. Never
        switches. A greenlet that waits for the peer gets an ``OSError``.
        """
        sock, self._sock = self._sock, None
        if sock is not None:
            sockets.terminate(sock)

    # Asking. None of these switches.

    @property
    def socket(self) -> GeventSocket:
        """The gevent socket.

        :raises OSError: not connected (ENOTCONN).
        """
        if self._sock is None:
            raise OSError(ENOTCONN, f"{self!r} is not connected")
        return self._sock

    def get(self) -> GeventSocket:
        """The gevent socket, like :attr:`socket`."""
        return self.socket

    def fileno(self) -> int:
        """The descriptor, or -1 when closed."""
        return -1 if self._sock is None else self._sock.fileno()

    def is_connected(self) -> bool:
        """Whether it was opened, and neither closed nor seen to break since."""
        return self._sock is not None

    def is_expired(self) -> bool:
        """Whether it has been open for longer than *lifetime*."""
        opened = self._sock is not None
        return opened and self.clock() - self._opened_at > self._lasts

    def is_quiet(self) -> bool:
        """Whether it is open with nothing to read, as it should be while idle."""
        return self._sock is not None and sockets.is_quiet(self._sock)

    def is_usable(self) -> bool:
        """Whether it is connected, not expired, and quiet."""
        # Asked at each loan, so in one call instead of three.
        sock = self._sock
        if sock is None or self.clock() - self._opened_at > self._lasts:
            return False
        return sockets.is_quiet(sock)

    # Talking

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of *data*. May switch.

        :raises TimeoutError: the peer took nothing for *timeout* seconds.
        :raises OSError: not connected (ENOTCONN), or whatever sending raised; it is
            disconnected then.
        """
        sock = self.socket
        try:
            # Not sendall, which reckons its deadline by the clock on the wall.
            rest = memoryview(data).cast("B")
            while rest:
                rest = rest[sock.send(rest) :]
        except BaseException:
            # A kill or a Timeout too may have cut a message in two.
            self.terminate()
            raise

    def recv(self, size: int = 1024) -> bytes:
        """What has come in, at most *size* bytes. May switch.

        ``b""`` says that the peer has hung up; it is disconnected then.

        :raises TimeoutError: nothing came for *timeout* seconds.
        :raises OSError: not connected (ENOTCONN), or whatever receiving raised; it is
            disconnected then.
        """
        sock = self.socket
        try:
            data = sock.recv(size)
        except BaseException:
            # After a kill or a Timeout too the answer would meet the next question.
            self.terminate()
            raise
        if not data and size:
            self.terminate()
        return data


# Arguments


def _check_address(host: Any, port: Any, path: Any) -> None:
    if path is not None:
        if host is not None or port is not None:
            raise ValueError(
                f"path {path!r} is given instead of host and port, "
                f"not beside {host!r} and {port!r}"
            )
        if not isinstance(path, (str, bytes, os.PathLike)):
            raise TypeError(
                f"path must be a str, bytes or a path, not {safe_repr(path)}"
            )
        name = os.fsencode(path)
        if not name:
            raise ValueError(f"path must not be empty: {path!r}")
        # An abstract one begins with a null byte and may contain more.
        if b"\0" in name and name[:1] != b"\0":
            raise ValueError(f"path must not contain a null byte: {safe_repr(path)}")
        return
    if not isinstance(host, str):
        raise TypeError(f"host must be a str, not {safe_repr(host)}")
    if not host:
        raise ValueError(f"host must not be empty: {host!r}")
    if not host.isprintable() or " " in host:
        raise ValueError(
            f"host must contain no space or control character: {safe_repr(host)}"
        )
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"port must be an int, not {safe_repr(port)}")
    if not 1 <= port <= 65535:
        raise ValueError(f"port must be between 1 and 65535, not {safe_repr(port)}")


def _check_tls(ssl: Any, server_hostname: Any) -> None:
    # By its method: patching replaces the class, so isinstance would refuse contexts
    # made before.
    if not (ssl is None or isinstance(ssl, bool) or hasattr(ssl, "wrap_socket")):
        raise TypeError(f"ssl must be an SSLContext, True or None, not {ssl!r}")
    if server_hostname is None:
        return
    if not isinstance(server_hostname, str):
        raise TypeError(f"server_hostname must be a str, not {server_hostname!r}")
    if not server_hostname or server_hostname.startswith("."):
        raise ValueError(f"server_hostname must be a name, not {server_hostname!r}")


def _patience(name: str, value: Any) -> float | None:
    span = check_optional_seconds(name, value)
    if span == 0:
        # A socket takes 0 for "do not block", and gsocketpool took it for "no limit".
        raise ValueError(f"{name} must be above 0 seconds, or None, not {value!r}")
    return span
