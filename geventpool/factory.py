"""Connections made by a callable, for objects that no connector was written for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from geventpool import sockets
from geventpool._core.exhaustion import lacks_descriptor
from geventpool.connection import Connection
from geventpool.connector import Connector, ErrorAction, descriptor_of, terminate

__all__ = ["FactoryConnector", "copied"]

log = logging.getLogger(__name__)

#: What every connection of a DB-API driver has (PEP 249).
_TRANSACTIONAL = ("commit", "cursor", "rollback")


class FactoryConnector(Connector[Any]):
    """A connector for objects that a callable makes, as in gsocketpool.

    For a :class:`~geventpool.connection.Connection`, or any other object whose methods
    ``open``, ``close``, ``is_connected``, ``is_expired`` and ``ping`` are used if it
    has them. An object without ``open`` counts as open, so a socket can be used:
    ``lambda: gevent.socket.create_connection(address)``.

    :param factory: called as ``factory(**options)`` for each connection.
    :param options: copied now, and never changed; None: none.
    :raises TypeError: *factory* is not callable, or is a class of connectors; or
        *options* is no mapping with strings as keys.
    """

    def __init__(
        self, factory: Callable[..., Any], options: Mapping[str, Any] | None = None
    ) -> None:
        if isinstance(factory, type) and issubclass(factory, Connector):
            raise TypeError(
                f"factory must be a Connector, not the class: {factory.__name__}()"
            )
        if not callable(factory):
            raise TypeError(
                f"factory must be a Connector or something to call, not {factory!r}"
            )
        self._factory = factory
        self._options = copied(options)
        #: Whether an open transaction is ended here, or its absence was looked at.
        self._has_seen_kind = False

    def __repr__(self) -> str:
        name = getattr(self._factory, "__qualname__", None) or repr(self._factory)
        # The options are not shown, because they may contain a password.
        return f"<{type(self).__name__} {name}>"

    def open(self) -> Any:
        """Call the factory, and ``open`` of its result if it has one. May switch.

        :raises TypeError: the factory returned None.
        :raises Exception: raised by the factory or by ``open``. A half-made connection
            is closed.
        """
        conn = self._factory(**self._options)
        if conn is None:
            raise TypeError(f"{self!r}: the factory returned None, not a connection")
        begin = getattr(conn, "open", None)
        if callable(begin):
            try:
                begin()
            except BaseException:
                # Nothing else refers to the half-made connection, so it must be closed
                # here.
                self.terminate(conn)
                raise
        self._see_kind(conn)
        return conn

    def _see_kind(self, conn: Any) -> None:
        """Warn once if *conn* may keep a transaction open for the next borrower."""
        if self._has_seen_kind:
            return
        self._has_seen_kind = True
        if all(callable(getattr(conn, name, None)) for name in _TRANSACTIONAL):
            log.warning(
                "%r makes connections of a DB-API driver, and an open transaction goes "
                "to the next borrower: give the pool "
                "DBAPIConnector(factory, driver=the driver's module)",
                self,
            )

    def close(self, conn: Any) -> None:
        """Call its ``close``, unless it is not connected. May switch.

        The socket is closed even if ``close`` fails, or if a file made from the socket
        would keep it open.
        """
        sock = sockets.find_socket(conn)
        try:
            # A socket has no closing message, and a closed socket of gevent raises
            # errors for any attribute.
            if sock is not conn and _says(conn, "is_connected", True):
                finish = getattr(conn, "close", None)
                if callable(finish):
                    finish()
        finally:
            if sock is not None:
                sockets.terminate(sock)

    def terminate(self, conn: Any) -> bool:
        """See :func:`terminate`. True for an object without ``close``.

        Never switches.
        """
        return terminate(conn) or not callable(getattr(conn, "close", None))

    def ping(self, conn: Any) -> None:
        """Call its ``ping`` if it has one; otherwise call :meth:`is_usable`.

        May switch.

        :raises Exception: raised by ``ping``, or ConnectionError.
        """
        ask = getattr(conn, "ping", None)
        if callable(ask):
            ask()
        else:
            super().ping(conn)

    def can_ping(self, conn: Any) -> bool:
        """Whether it has a method ``ping``. Never switches."""
        return callable(getattr(conn, "ping", None))

    def fileno(self, conn: Any) -> int:
        """Return the descriptor of its socket, or of its own ``fileno``.

        Never switches.
        """
        sock = sockets.find_socket(conn)
        if sock is None:
            return descriptor_of(conn)
        return sock.fileno()

    def is_usable(self, conn: Any) -> bool:
        """Whether it is connected, not expired, and its socket quiet. Never switches.

        Missing methods, and a socket that cannot be found, do not count. An object
        whose methods fail is not usable.
        """
        try:
            if isinstance(conn, Connection):
                return conn.is_usable()
            sock = sockets.find_socket(conn)
            if sock is not None and sock is conn:
                return sockets.is_quiet(sock)
            # Asked here and not by _says(), whose two calls take as long as the rest.
            answer = getattr(conn, "is_connected", True)
            if not (answer() if callable(answer) else answer):
                return False
            answer = getattr(conn, "is_expired", False)
            if answer() if callable(answer) else answer:
                return False
            if sock is not None:
                return sockets.is_quiet(sock)
            is_like_socket = callable(getattr(conn, "fileno", None))
            return not is_like_socket or sockets.is_quiet(conn)
        except Exception:
            log.debug("could not tell whether %r is usable", conn, exc_info=True)
            return False

    def classify(self, error: Exception) -> ErrorAction:
        """Return BACK_OFF if the process or the system has no descriptor left.

        Otherwise the default. The error of a full server depends on its protocol, so
        it is not recognised here. Never switches.
        """
        if lacks_descriptor(error):
            return ErrorAction.BACK_OFF
        return super().classify(error)


def _says(conn: Any, question: str, otherwise: bool) -> bool:
    # A method as in gsocketpool, or a property.
    answer = getattr(conn, question, otherwise)
    return bool(answer() if callable(answer) else answer)


def copied(options: Any) -> dict[str, Any]:
    """Return a copy of the options of a factory; None: none.

    :raises TypeError: *options* is no mapping with strings as keys.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise TypeError(f"options must be a dict or None, not {options!r}")
    for key in options:
        if not isinstance(key, str):
            raise TypeError(f"options must have names for keys, not {key!r}")
    return dict(options)
