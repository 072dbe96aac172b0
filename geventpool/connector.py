"""How one kind of connection is handled: the verbs a pool uses on what it lends.

Knows one connection at a time. Knows nothing of pools, places or waiting.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from errno import EMFILE, ENFILE
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from geventpool import sockets
from geventpool.connection import Connection
from geventpool.policies import safe_repr

if TYPE_CHECKING:
    from gevent.socket import socket

__all__ = ["Connector", "FactoryConnector", "as_connector", "asked", "terminate"]

log = logging.getLogger(__name__)

C = TypeVar("C")


class Connector(Generic[C]):
    """The verbs for one kind of connection: override :meth:`open` and :meth:`close`.

    The other defaults are honest: they claim nothing that they have not looked at.
    The pool calls ``open``, ``close``, ``ping`` and ``reset`` only in greenlets of
    its own and under a time limit, so they may switch, and may be interrupted by a
    ``gevent.Timeout`` or a kill. All others are called on the fast path or in the
    hub: they must not switch, and had better be quick.
    """

    # In the pool's own greenlets; these may switch.

    def open(self) -> C:
        """A new connection, ready for use. May switch.

        Whoever overrides it lets go of a half-made connection when interrupted.

        :raises Exception: whatever the driver raises; it is passed on unchanged.
        """
        raise NotImplementedError

    def close(self, conn: C) -> None:
        """Close the connection; its socket is closed whatever happens. May switch."""
        raise NotImplementedError

    def ping(self, conn: C) -> None:
        """Ask the other side whether it still lives. May switch.

        Default: no question is asked, only :meth:`is_usable`.

        :raises Exception: it does not; the connection is closed then.
        """
        if not self.is_usable(conn):
            raise ConnectionError(f"{conn!r} is closed, or has something to read")

    def reset(self, conn: C) -> None:
        """Put a returned connection back to its first state. May switch.

        Called only if :meth:`needs_reset`. Default: nothing.

        :raises Exception: it could not; the connection is closed then.
        """

    def cancel(self, conn: C) -> bool:
        """End at the server what an interrupted loan has left running. May switch.

        Called after :meth:`begin_cancel` has returned True. The place of the connection
        stays taken until this returns. It has the pool's ``timeouts.close`` seconds.

        :return: whether the connection is in step again: the pool then resets and keeps
            it. False: the pool calls :meth:`terminate`.
        :raises Exception: the server may still be at work; as False.
        """
        return False

    # Anywhere, the hub included; these never switch.

    def begin_cancel(self, conn: C) -> bool:
        """Prepare :meth:`cancel` if the server may be at work for this connection.

        Asked in the place of :meth:`terminate` when a loan, a check or a reset has
        ended badly. Ends the loan of a connection for which it returns True, and leaves
        its descriptor open. Never switches. Default: False, and the connection is
        closed at once.
        """
        return False

    def terminate(self, conn: C) -> bool | None:
        """Let go of the descriptor, without a goodbye. Never switches or raises.

        For connections in mid-conversation, in a forked child (where a goodbye would
        end the parent's session) and in finalizers. Default: :func:`terminate`.

        :return: False: it found no descriptor. Then the pool has :meth:`close` called
            by a greenlet of its own, under its time limit, and the place stays taken
            until that has ended; in a forked child and in a finalizer the connection
            is only forgotten.
        """
        return terminate(conn)

    def is_usable(self, conn: C) -> bool:
        """Whether an idle connection is open with nothing to read. Never switches.

        Default: True, which leaves broken connections to their borrowers to find.
        Where there is a socket, ``geventpool.is_quiet(socket)`` finds most of them.
        """
        return True

    def fileno(self, conn: C) -> int:
        """The descriptor that becomes readable when the other side hangs up; -1: none.

        Of an idle connection; the event loop watches it. Never switches. Default: -1,
        and a dead peer is found by the next look at the connection.
        """
        return -1

    def needs_reset(self, conn: C) -> bool:
        """Whether :meth:`reset` must run before the next borrower. Never switches.

        A question, without effects; :meth:`end_loan` is the place for those.
        Default: False, and a returned connection is handed over at once.
        """
        return False

    def end_loan(self, conn: C) -> bool:
        """End a loan on the connector's side. Never switches.

        Called once each time a borrower has given back a connection that may be lent
        again. The place for what a connector has to do then, like sending a reset
        without waiting for the reply. Default: return :meth:`needs_reset`.

        :return: whether :meth:`reset` must run before the next borrower.
        """
        return self.needs_reset(conn)

    def awaits_reset(self, conn: C) -> bool:
        """Whether a connection is unusable only until the other side has reset it.

        Asked after :meth:`is_usable` has said no, of a connector that sends what resets
        a connection in :meth:`end_loan`, without waiting for the answer. The pool
        then has :meth:`ping` or :meth:`reset` wait for it, in a greenlet of its own.
        Never switches. Default: False, and the connection is closed.
        """
        return False

    def survives(self, error: Exception) -> bool:
        """Whether the protocol is in step after *error* left the borrow block.

        Like after a server's "no such table", when the answer was read whole.
        Default: False, and the connection is discarded.
        """
        return False

    def can_ping(self, conn: C) -> bool:
        """Whether :meth:`ping` tests more than :meth:`is_usable`. Never switches.

        Default: True if ``ping`` is overridden.
        """
        return type(self).ping is not Connector.ping

    def is_disconnect(self, error: Exception) -> bool:
        """Whether *error*, which left the borrow block, came of a lost connection.

        The way to the server may be lost then, and with it the idle connections:
        they are pinged before they are lent again, or renewed where there is no ping.
        Default: True for :exc:`ConnectionError`, :exc:`TimeoutError` and
        :exc:`EOFError`. (The name is SQLAlchemy's.)
        """
        return isinstance(error, (ConnectionError, TimeoutError, EOFError))

    def is_exhausted(self, error: Exception) -> bool:
        """Whether *error*, raised by :meth:`open`, says that the server is full.

        The pool then waits for connections to come back, and tries again later.
        Default: False, and the error is raised in whoever wanted the connection.
        """
        return False

    def condemns(self, error: Exception) -> bool:
        """Whether *error*, which left the borrow block, condemns every connection.

        Like after a fail-over: the pool then renews all it has at present. Default:
        False.
        """
        return False


class FactoryConnector(Connector[Any]):
    """The verbs for whatever a callable makes, as gsocketpool's pools take it.

    Made for :class:`~geventpool.connection.Connection`; of any other object the
    methods ``open``, ``close``, ``is_connected``, ``is_expired`` and ``ping`` are used
    where it has them. One without ``open`` is taken to be open already, so a socket
    will do: ``lambda: gevent.socket.create_connection(address)``.

    :param factory: called as ``factory(**options)`` for each connection.
    :param options: copied now, and never changed; None for none.
    :raises TypeError: *factory* is not callable, or a connector's class; *options* is
        no mapping with strings for keys.
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
        self._options = _copied(options)

    def __repr__(self) -> str:
        name = getattr(self._factory, "__qualname__", None) or repr(self._factory)
        # The options stay out: there may be a password among them.
        return f"<{type(self).__name__} {name}>"

    def open(self) -> Any:
        """What the factory made, opened if it has an ``open`` method. May switch.

        :raises TypeError: the factory returned None.
        :raises Exception: whatever the factory or ``open`` raised; what was half made
            is let go of.
        """
        conn = self._factory(**self._options)
        if conn is None:
            raise TypeError(f"{self!r}: the factory returned None, not a connection")
        begin = getattr(conn, "open", None)
        if callable(begin):
            try:
                begin()
            except BaseException:
                # Interrupted as well: nobody else knows of the half-made connection.
                self.terminate(conn)
                raise
        return conn

    def close(self, conn: Any) -> None:
        """Call its ``close``, unless it says that it is not connected. May switch.

        Whatever happens, the socket is let go of, also where a file made from it
        would keep it open.
        """
        sock = sockets.find_socket(conn)
        try:
            # A socket itself has no goodbye to say; and one of gevent's that is
            # closed already answers with an error, whatever it is asked for.
            if sock is not conn and _says(conn, "is_connected", True):
                finish = getattr(conn, "close", None)
                if callable(finish):
                    finish()
        finally:
            if sock is not None:
                sockets.terminate(sock)

    def terminate(self, conn: Any) -> bool:
        """See :func:`terminate`; an object without a ``close`` needs nothing."""
        return terminate(conn) or not callable(getattr(conn, "close", None))

    def ping(self, conn: Any) -> None:
        """Call its ``ping`` if it has one; else see that it is usable. May switch.

        :raises Exception: whatever ``ping`` raised, or ConnectionError.
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
        """That of its socket, or what its own ``fileno`` says. Never switches."""
        sock = sockets.find_socket(conn)
        if sock is None:
            return _fileno(conn)
        return sock.fileno()

    def is_usable(self, conn: Any) -> bool:
        """Whether it is connected, not expired, and its socket quiet. Never switches.

        An object that has no such methods, or no socket to be found, is not held
        responsible for that. One whose methods fail is not usable.
        """
        try:
            if isinstance(conn, Connection):
                return conn.is_usable()
            sock = sockets.find_socket(conn)
            if sock is not None and sock is conn:
                return sockets.is_quiet(sock)
            return (
                _says(conn, "is_connected", True)
                and not _says(conn, "is_expired", False)
                and _is_quiet(conn, sock)
            )
        except Exception:
            log.debug("could not tell whether %r is usable", conn, exc_info=True)
            return False

    def is_exhausted(self, error: Exception) -> bool:
        """Whether this process, or the system, has no descriptor left for a socket.

        What a server says that is full, only its own protocol can tell.
        """
        return isinstance(error, OSError) and error.errno in (EMFILE, ENFILE)


def as_connector(
    factory: Connector[C] | Callable[..., C], options: Mapping[str, Any] | None = None
) -> Connector[C]:
    """The connector itself, or one for what the callable makes.

    :param factory: a :class:`Connector`, or what :class:`FactoryConnector` takes.
    :param options: for the callable; a connector has its own.
    :raises TypeError: options beside a connector, or see :class:`FactoryConnector`.
    """
    if not isinstance(factory, Connector):
        return FactoryConnector(factory, options)
    if _copied(options):
        raise TypeError(
            f"options are for a factory; {factory!r} is a Connector and takes none, "
            f"but was given {sorted(options or ())}"
        )
    return factory


def asked(connector: Connector[Any], verb: str, about: object, otherwise: bool) -> bool:
    """The answer of *connector* to a question of yes or no; *otherwise* if it fails.

    :param str verb: the method to call, with *about* as its argument.
    """
    try:
        return bool(getattr(connector, verb)(about))
    except Exception:
        log.exception("%s failed, asked about %s", verb, safe_repr(about))
        return otherwise


def terminate(conn: Any) -> bool:
    """Close the descriptor under *conn* without sending anything.

    Never switches. Never raises.

    A :class:`~geventpool.connection.Connection` does it itself. Else the socket is
    taken from under the object; else the connection is cut if there is a ``fileno``.

    :return: False: there is no descriptor to be found. Then only ``close`` can do it,
        which may say goodbye and wait for the answer.
    """
    try:
        if isinstance(conn, Connection):
            return conn.terminate() is not False
        sock = sockets.find_socket(conn)
        if sock is not None:
            sockets.terminate(sock)
            return True
        return _severed(conn)
    except Exception:
        # Called from finalizers and at-fork hooks, which have nobody to raise it to.
        log.warning("could not let go of %s", safe_repr(conn), exc_info=True)
        return False


def _severed(conn: Any) -> bool:
    if not callable(getattr(conn, "fileno", None)):
        return False
    descriptor = _fileno(conn)
    if descriptor >= 0:
        # The object will close the number itself some day: it must stay its own.
        sockets.redirect_to_null(descriptor)
    return True


def _fileno(conn: Any) -> int:
    """The descriptor of an unknown object; -1: it has none, or it is closed."""
    # Drivers raise errors of their own when a closed connection is asked.
    try:
        descriptor = conn.fileno()
    except Exception:
        return -1
    return descriptor if isinstance(descriptor, int) else -1


def _says(conn: Any, question: str, otherwise: bool) -> bool:
    # A method in gsocketpool's style, a property in others'.
    answer = getattr(conn, question, otherwise)
    return bool(answer() if callable(answer) else answer)


def _is_quiet(conn: Any, sock: socket | None) -> bool:
    if sock is not None:
        return sockets.is_quiet(sock)
    return not callable(getattr(conn, "fileno", None)) or sockets.is_quiet(conn)


def _copied(options: Any) -> dict[str, Any]:
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise TypeError(f"options must be a dict or None, not {options!r}")
    for key in options:
        if not isinstance(key, str):
            raise TypeError(f"options must have names for keys, not {key!r}")
    return dict(options)
