"""The interface of a connection, and the class for TCP and Unix sockets.

It does not depend on pools.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from errno import EISCONN, ENOTCONN
from typing import TYPE_CHECKING, Any

from geventpool import dialing, sockets
from geventpool.dialing import KeepAlive
from geventpool.policies import check_optional_seconds, safe_repr

if TYPE_CHECKING:
    from ssl import SSLContext

    from gevent.socket import socket as GeventSocket

__all__ = ["Connection", "TcpConnection"]

#: The methods whose results :meth:`TcpConnection.is_usable` combines.
PARTS = frozenset({"fileno", "get", "is_connected", "is_expired", "is_quiet", "socket"})


class Connection:
    """The interface of a connection. Derive a class for a protocol of your own.

    Override :meth:`open`, :meth:`close`, :meth:`get` and :meth:`is_connected`. The
    others have defaults. The names and their meanings are those of gsocketpool.
    """

    def open(self) -> None:
        """Connect. May switch."""
        raise NotImplementedError

    def close(self) -> None:
        """Send the protocol's closing message, if it has one, and disconnect.

        May switch.
        """
        raise NotImplementedError

    def get(self) -> Any:
        """Return the socket, or the driver's object that uses it. Never switches."""
        raise NotImplementedError

    def is_connected(self) -> bool:
        """Whether it was opened and not closed. Never switches."""
        raise NotImplementedError

    def is_expired(self) -> bool:
        """Whether it is too old to be used. Never switches."""
        return False

    def reconnect(self) -> None:
        """Replace the connection by a new one. May switch.

        Unlike gsocketpool, it does not hide a failure.

        :raises Exception: raised by :meth:`close` or :meth:`open`.
        """
        if self.is_connected():
            self.close()
        self.open()

    def terminate(self) -> bool | None:
        """Close the socket without sending anything. Never switches.

        :return: False: no socket was found. The pool then calls :meth:`close` in a
            greenlet of its own, with a time limit.
        """
        sock = sockets.find_socket(self)
        if sock is None:
            return False
        sockets.terminate(sock)
        return True

    def is_quiet(self) -> bool:
        """Whether the idle connection is open and has nothing to read. Never switches.

        True if no socket can be found.
        """
        sock = sockets.find_socket(self)
        return sock is None or sockets.is_quiet(sock)

    def is_usable(self) -> bool:
        """Whether the pool may lend it: it is connected, not expired, and quiet.

        Never switches.
        """
        return self.is_connected() and not self.is_expired() and self.is_quiet()


class TcpConnection(Connection):
    """A stream to *host* and *port*, or to a Unix socket: plain, or with TLS.

    Any error while sending or receiving disconnects it, a kill and a ``gevent.Timeout``
    included: it is then unknown how much was sent, and which answer comes next. It uses
    gevent's sockets even if nothing is monkey-patched. Only one greenlet at a time may
    use it.

    :param str host: name, IPv4 or IPv6 address; a numeric one needs no resolver.
    :param int port: 1 to 65535.
    :param float lifetime: seconds after :meth:`open` at which it expires; None: never.
    :param float timeout: the most seconds that one step of :meth:`send` or :meth:`recv`
        waits for the peer, above 0; None: no limit.
    :param float connect_timeout: the most seconds for all of :meth:`open` (address
        lookup, connect, TLS handshake), above 0; None: the system's limit.
    :param ssl: an ``SSLContext``; True: a default context, made once per process; None:
        no TLS.
    :param str server_hostname: the name in the certificate; None: *host*.
    :param path: the path of a Unix socket, instead of *host* and *port*.
    :param KeepAlive keepalive: how soon a vanished peer is detected (TCP only).
    :raises TypeError: an argument is of the wrong type.
    :raises ValueError: a number is out of range, or both *path* and *host* are given.
    """

    #: Returns seconds of a monotonic clock. A test may replace it.
    clock: Callable[[], float] = staticmethod(time.monotonic)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # The fast path below does not call methods that a subclass overrides.
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
        #: whether nothing was received since the last send()
        self._awaits_reply = False

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

        :raises TimeoutError: *connect_timeout* has passed.
        :raises OSError: it is already open (EISCONN), or connecting failed.
        """
        if self._sock is not None:
            raise OSError(EISCONN, f"{self!r} is open already")
        sock = self._dial()
        sock.settimeout(self._timeout)
        self._sock = sock
        self._opened_at = self.clock()

    def _dial(self) -> GeventSocket:
        if self._path is not None:
            return dialing.dial_unix(
                self._path,
                timeout=self._connect_timeout,
                ssl=self._ssl,
                server_hostname=self._server_hostname,
            )
        assert self._host is not None and self._port is not None
        return dialing.dial(
            self._host,
            self._port,
            timeout=self._connect_timeout,
            ssl=self._ssl,
            server_hostname=self._server_hostname,
            keepalive=self._keepalive,
        )

    def close(self) -> None:
        """Disconnect. Closing twice is no error. Never switches.

        TLS is not shut down, because that would wait for the peer.
        """
        self.terminate()

    def terminate(self) -> None:
        """Close the socket without sending anything. Never switches.

        A greenlet that waits for the peer gets an ``OSError``. A subclass whose
        :meth:`close` sends a closing message must not override this method.
        """
        sock, self._sock = self._sock, None
        if sock is not None:
            sockets.terminate(sock)

    # Questions. These never switch.

    @property
    def socket(self) -> GeventSocket:
        """The gevent socket.

        :raises OSError: not connected (ENOTCONN).
        """
        if self._sock is None:
            raise OSError(ENOTCONN, f"{self!r} is not connected")
        return self._sock

    def get(self) -> GeventSocket:
        """Return the gevent socket, like :attr:`socket`."""
        return self.socket

    def fileno(self) -> int:
        """Return the descriptor; -1: closed."""
        return -1 if self._sock is None else self._sock.fileno()

    def is_connected(self) -> bool:
        """Whether it was opened, and neither closed nor disconnected by an error."""
        return self._sock is not None

    def is_expired(self) -> bool:
        """Whether it was opened more than *lifetime* seconds ago."""
        opened = self._sock is not None
        return opened and self.clock() - self._opened_at > self._lasts

    def is_quiet(self) -> bool:
        """Whether it is open and has nothing to read."""
        return self._sock is not None and sockets.is_quiet(self._sock)

    def is_usable(self) -> bool:
        """Whether it is connected, not expired, and quiet."""
        # One call instead of three, because this is called for every loan.
        sock = self._sock
        if sock is None or self.clock() - self._opened_at > self._lasts:
            return False
        return sockets.is_quiet(sock)

    # Data

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of *data*. May switch.

        :raises TimeoutError: the peer accepted nothing for *timeout* seconds.
        :raises OSError: not connected (ENOTCONN), or sending failed. It is then
            disconnected.
        """
        sock = self.socket
        try:
            # Not sendall, whose deadline depends on the wall clock.
            rest = memoryview(data).cast("B")
            while rest:
                rest = rest[sock.send(rest) :]
            self._awaits_reply = True
        except BaseException:
            # A part of a message may have been sent, also after a kill or a Timeout.
            self.terminate()
            raise

    def recv(self, size: int = 1024) -> bytes:
        """Receive at most *size* bytes. May switch.

        :return: ``b""``: the peer has closed the connection. It is then disconnected.
        :raises TimeoutError: nothing arrived for *timeout* seconds.
        :raises OSError: not connected (ENOTCONN), or receiving failed. It is then
            disconnected.
        """
        sock = self.socket
        try:
            if self._awaits_reply and size > 0:
                self._awaits_reply = False
                sockets.await_reply(sock)
            data = sock.recv(size)
        except BaseException:
            # A late answer would be taken for the next one, also after a kill or a
            # Timeout.
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
        # An abstract address begins with a null byte, and may contain more.
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
    # Tested by a method: patching replaces the class, so isinstance() would refuse
    # contexts that were made before.
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
        # For a socket 0 means "do not block", for gsocketpool "no limit".
        raise ValueError(f"{name} must be above 0 seconds, or None, not {value!r}")
    return span
