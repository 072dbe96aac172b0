"""The interface by which a pool opens, checks, resets and closes its connections.

A connector deals with one connection at a time, and does not depend on pools.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from geventpool import sockets
from geventpool.connection import Connection
from geventpool.policies import safe_repr

__all__ = [
    "CannotCancel",
    "Connector",
    "ErrorAction",
    "asked",
    "descriptor_of",
    "judge",
    "terminate",
]

log = logging.getLogger(__name__)

C = TypeVar("C")


class ErrorAction(enum.Enum):
    """What a pool does after an error; see :meth:`Connector.classify`."""

    #: The request failed. The connection can be lent again.
    KEEP = "keep"
    #: The connection cannot be used any more: close it.
    DISCARD = "discard"
    #: The connection, or the way to the server, was lost: close it, and check the idle
    #: connections before they are lent. When opening: the server cannot be reached.
    DISCONNECT = "disconnect"
    #: The server is not the right one any more: close it, and renew all connections.
    DRAIN = "drain"
    #: The server has no room for a connection. When opening: wait until connections
    #: are given back, and try again later. Otherwise the same as DISCARD.
    BACK_OFF = "back off"


class CannotCancel(Exception):
    """Nothing can cancel a request; see :meth:`Connector.cancel`."""


class Connector(Generic[C]):
    """The operations on one kind of connection.

    Override :meth:`open` and :meth:`close`. The others have defaults. The pool calls
    ``open``, ``close``, ``ping``, ``reset`` and ``cancel`` only in greenlets of its own
    and with a time limit. So they may switch, and may be interrupted by a
    ``gevent.Timeout`` or a kill. All others are called on the fast path or in the hub:
    they must not switch, and should be fast.
    """

    # Called in the pool's own greenlets. These may switch.

    def open(self) -> C:
        """Open a connection. May switch.

        An override must close a half-made connection when it is interrupted.

        :raises Exception: raised by the driver. It is passed on unchanged.
        """
        raise NotImplementedError

    def close(self, conn: C) -> None:
        """Close the connection; its socket is closed whatever happens. May switch."""
        raise NotImplementedError

    def ping(self, conn: C) -> None:
        """Test by a round trip whether the server answers. May switch.

        Default: call only :meth:`is_usable`.

        :raises Exception: it does not answer. The pool then closes the connection.
        """
        if not self.is_usable(conn):
            raise ConnectionError(f"{conn!r} is closed, or has something to read")

    def reset(self, conn: C) -> None:
        """Put a returned connection back into its initial state. May switch.

        Called only if :meth:`end_loan` returned True. Default: do nothing.

        :raises Exception: the reset failed. The pool then closes the connection.
        """

    def cancel(self, conn: C) -> bool:
        """Cancel what an interrupted loan has left running at the server. May switch.

        Called after :meth:`begin_cancel` has returned True. The place of the connection
        stays taken until this returns. The time limit is ``timeouts.close`` of the
        pool.

        :return: True: the connection is in step again, and the pool resets and keeps
            it. False: the pool calls :meth:`terminate`.
        :raises CannotCancel: nothing can cancel it. The pool calls :meth:`terminate`,
            counts it as abandoned, and logs nothing.
        :raises Exception: the server may still be at work. The pool logs this and calls
            :meth:`terminate`.
        """
        return False

    # Called anywhere, the hub included. These must never switch.

    #: Whether what :meth:`open` returns gets its connection later, from the borrower.
    connects_later = False

    #: Counts the idle and the lent connections of the pool that lends in place of this
    #: one in a process that gevent has not patched, for ``Pool.stats``. None: there is
    #: no such pool. Never switches.
    stock: Callable[[], tuple[int, int]] | None = None

    def open_at_once(self) -> C | None:
        """Make a connection for a caller of ``acquire`` that found none idle.

        For connections that need no round trip, or that the borrower connects. Never
        switches. Default: None, and :meth:`open` is called in a greenlet of the pool.
        """
        return None

    def holder_died(self, conn: C) -> bool:
        """Called in the hub when the greenlet that holds *conn* has ended.

        Never switches.

        :return: True: the connector ends the loan. Default: False, and the pool closes
            the connection.
        """
        return False

    def begin_cancel(self, conn: C) -> bool:
        """Prepare :meth:`cancel` if the server may be at work for this connection.

        Called instead of :meth:`terminate` when a loan, a check or a reset has failed
        or was interrupted. Ends the loan of a connection for which it returns True, and
        leaves its descriptor open. Never switches. Default: False, and the connection
        is closed at once.
        """
        return False

    def terminate(self, conn: C) -> bool | None:
        """Close the descriptor without sending anything. Never switches. Never raises.

        Used for connections in the middle of a command, in a forked child (where a
        closing message would end the parent's session) and in finalizers. Default:
        :func:`terminate`.

        :return: False: it found no descriptor. The pool then calls :meth:`close` in a
            greenlet of its own, with a time limit, and the place stays taken until that
            has ended. In a forked child and in a finalizer the connection is only
            forgotten.
        """
        return terminate(conn)

    def is_usable(self, conn: C) -> bool:
        """Whether an idle connection is open and has nothing to read. Never switches.

        Default: True, so borrowers get broken connections. If there is a socket,
        ``geventpool.is_quiet(socket)`` detects most of them.
        """
        return True

    def fileno(self, conn: C) -> int:
        """Return the descriptor that becomes readable when the peer closes; -1: none.

        The event loop watches it while the connection is idle. Never switches. Default:
        -1: a closed connection is detected by the next check.
        """
        return -1

    def needs_reset(self, conn: C) -> bool:
        """Whether :meth:`reset` must run before the next borrower. Never switches.

        It must have no effects, unlike :meth:`end_loan`. Default: False, and a returned
        connection can be lent at once.
        """
        return False

    def end_loan(self, conn: C) -> bool:
        """End a loan on the connector's side. Never switches.

        Called once each time a borrower has given back a connection that may be lent
        again. A connector can, for example, send a reset here without waiting for the
        reply. Default: return :meth:`needs_reset`.

        :return: whether :meth:`reset` must run before the next borrower.
        """
        return self.needs_reset(conn)

    def awaits_reset(self, conn: C) -> bool:
        """Whether a connection is unusable only until the server has reset it.

        Called after :meth:`is_usable` has returned False, for a connector whose
        :meth:`end_loan` sends a reset without waiting for the reply. The pool then
        waits for the reply by :meth:`ping` or :meth:`reset`, in a greenlet of its own.
        Never switches. Default: False, and the connection is closed.
        """
        return False

    def classify(self, error: Exception) -> ErrorAction:
        """Return what the pool does after *error*. Never switches.

        Called with the errors that leave a borrow block, that ``open`` and ``ping``
        raise, and that are given to ``Pool.report_error``. KEEP is right only if the
        answer of the server was read completely, for example after "no such table".
        Default: DISCONNECT for :exc:`ConnectionError`, :exc:`TimeoutError` and
        :exc:`EOFError`, DISCARD for all others.
        """
        if isinstance(error, (ConnectionError, TimeoutError, EOFError)):
            return ErrorAction.DISCONNECT
        return ErrorAction.DISCARD

    def can_ping(self, conn: C) -> bool:
        """Whether :meth:`ping` tests more than :meth:`is_usable`. Never switches.

        Default: True if ``ping`` is overridden.
        """
        return type(self).ping is not Connector.ping

    def reset_counts(self) -> Mapping[str, int]:
        """How many loans ended with which kind of reset, for metrics. Never switches.

        The keys: ``"skipped"``, nothing had to be reset; ``"early"``, the reset was
        sent and nobody waited for it; ``"full"``, it was waited for. They only grow.
        Default: nothing is counted.
        """
        return {}

    def in_flight(self) -> int:
        """How many commands are under way on shared connections. Never switches.

        Default: 0.
        """
        return 0


def asked(connector: Connector[Any], verb: str, about: object, otherwise: bool) -> bool:
    """Call a method of *connector* that returns a bool; *otherwise* if it fails.

    :param str verb: the method to call, with *about* as its argument.
    """
    try:
        return bool(getattr(connector, verb)(about))
    except Exception:
        log.exception("%s failed, asked about %s", verb, safe_repr(about))
        return otherwise


def judge(connector: Connector[Any], error: BaseException | None) -> ErrorAction:
    """Return what *connector* says about *error*; DISCARD if it fails to say.

    Never switches or raises.

    :param error: what is no :exc:`Exception`, such as a kill or a ``gevent.Timeout``,
        has interrupted a request: DISCARD, and the connector is not asked.
    """
    if not isinstance(error, Exception):
        return ErrorAction.DISCARD
    try:
        return ErrorAction(connector.classify(error))
    except Exception:
        log.exception("classify failed, asked about %s", safe_repr(error))
        return ErrorAction.DISCARD


def terminate(conn: Any) -> bool:
    """Close the descriptor under *conn* without sending anything.

    Never switches. Never raises.

    The ``terminate`` of a :class:`~geventpool.connection.Connection` is called. Of any
    other object the socket is closed, or the descriptor of its ``fileno`` is
    disconnected.

    :return: False: no descriptor was found. Only ``close`` can close it then, which may
        send a message and wait for the answer.
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
        # Finalizers and at-fork hooks call this, which have no caller that could handle
        # it.
        log.warning("could not terminate %s", safe_repr(conn), exc_info=True)
        return False


def _severed(conn: Any) -> bool:
    if not callable(getattr(conn, "fileno", None)):
        return False
    descriptor = descriptor_of(conn)
    if descriptor >= 0:
        # The object will close this descriptor later, so the number must stay taken.
        sockets.redirect_to_null(descriptor)
    return True


def descriptor_of(conn: Any) -> int:
    """Return the descriptor of an unknown object; -1: it has none, or it is closed."""
    # Drivers raise errors of their own for a closed connection.
    try:
        descriptor = conn.fileno()
    except Exception:
        return -1
    return descriptor if isinstance(descriptor, int) else -1
