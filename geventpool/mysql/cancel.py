"""Interrupted statements, ended at the server before their places are free.

The order of the steps is what makes this safe:

* the socket of the interrupted connection stays open until its reply was read whole, or
  the server's thread was seen to be gone;
* the side connection is open before the server is asked about that thread, so both
  belong to the same life of the server;
* after a KILL was sent, nothing is sent on the interrupted connection before the reply
  to the KILL was read.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import gevent

from geventpool import dialing
from geventpool.connector import CannotCancel
from geventpool.extension import within
from geventpool.mysql.connection import Connection
from geventpool.mysql.side_connection import NotCancelled, SideConnection
from geventpool.mysql.statements import ends_transaction, is_plain_query

__all__ = ["Canceller", "Stranded"]

log = logging.getLogger("geventpool")

#: Seconds to wait for the reply after one KILL QUERY, and after another. The server may
#: miss one.
LADDER = (0.1, 0.2, 0.4)
#: Seconds that a COMMIT, a ROLLBACK or a reset may take by itself. A KILL does not
#: speed up a rollback, and leaves unknown what has become of a COMMIT.
BY_ITSELF = 1.0
#: Seconds to end the statements that still run when the pool is closed.
LAST = 1.0
#: Seconds between two looks at a thread that is being ended; the first, and the most.
_PAUSES = (0.001, 0.1)

#: Limits of the side connection, in seconds. A KILL may wait 2 s for its thread.
CONNECT = 2.0
_REPLY = 5.0

#: The arguments of ``pymysql.connect`` that the side connection takes over, beside
#: those of TLS.
_ACCOUNT = frozenset(
    {
        *("user", "password", "host", "port", "unix_socket", "charset", "program_name"),
        *("auth_plugin_map", "server_public_key", "read_default_file"),
        "read_default_group",
    }
)

_NOT_CANCELLED = "interrupted statements are not cancelled at the server: %s. %s"
_KEPT = (
    "The place of each stays taken until the server replies. Allow one connection more "
    "than max_connections, or give cancel=False"
)
_CLOSED = "Their connections are closed at once. Give cancel=False if this is meant"


class Canceller:
    """Cancels the statements of the connections of one pool.

    :param options: gives the arguments of ``pymysql.connect``. May switch.
    :param tls: makes the TLS contexts of the connections.
    """

    def __init__(
        self,
        options: Callable[[], Mapping[str, Any]],
        tls: Callable[[Any, Any], Any],
    ) -> None:
        self._options = options
        self._tls = tls
        self._sides: dict[Any, SideConnection] = {}
        self._warned: set[str] = set()
        #: no statement is cancelled any more
        self.is_closed = False
        #: connections whose statements run when the pool is closed; None: it is not
        #: being closed
        self._last: list[Connection] | None = None

    def is_running(self, conn: Connection) -> bool:
        """Whether the server may be at work for *conn*. Never switches.

        Not for a ping, which computes nothing.
        """
        if self.is_closed:
            return False
        if conn.interrupted is not None:
            return conn.is_own_command or conn.last_statement not in ("", b"")
        return conn.is_reading or (conn.open and conn.streams)

    def cancel(self, conn: Connection, is_kept: bool) -> bool:
        """Wait until the server has let go of *conn*, and see to it. May switch.

        :param conn: whose command was interrupted.
        :param is_kept: whether the connection is of use if it can be saved.
        :return: whether it is in step again. The transaction may still be open.
        :raises CannotCancel: nothing can end the statement, and there is nothing to
            wait for.
        """
        side = self._side_of(conn)
        if side is None:
            return False  # lost: the server has closed it
        if conn.is_own_command or ends_transaction(conn.last_statement):
            if not side.is_useless:
                conn.wait_for_reply(BY_ITSELF)
            if conn.is_own_command and conn.has_reply:
                return False  # the first reply is that to the rollback
        is_kept = is_kept and conn.is_unread
        if is_kept and conn.has_reply and conn.forget_reply():
            return True
        if conn.interrupted is None:
            return False
        try:
            return self._end(side, conn, is_kept)
        except NotCancelled as error:
            self._warn(error)
            if error.is_final:
                raise CannotCancel(str(error)) from error
        # The pool limits the time.
        conn.wait_for_reply()
        return False

    def collect(self) -> None:
        """Keep the sockets of statements that still run when the pool is closed.

        Never switches.
        """
        self._last = []

    def takes(self, conn: Connection) -> bool:
        """Whether the socket of *conn* is kept for :meth:`close`. Never switches."""
        if self._last is None or not self.is_running(conn):
            return False
        if conn.interrupted is None:
            conn.set_aside()
        self._last.append(conn)
        return True

    def close(self) -> None:
        """Close the side connections for good.

        The statements of the connections that were kept are ended first. May switch if
        :meth:`collect` was called.
        """
        last, self._last, self.is_closed = self._last or [], None, True
        try:
            if last:
                with suppress(TimeoutError):
                    within(LAST, "the last KILL", self._kill_last, last)
        finally:
            for conn in last:
                conn.close_interrupted()
            self._close_sides()

    def _kill_last(self, conns: list[Connection]) -> None:
        """Have the server begin to end the threads of *conns*. May switch."""
        for conn in conns:
            side = self._side_of(conn)
            if side is not None:
                with suppress(NotCancelled):
                    side.kill_connection(side.find(conn))

    def _close_sides(self) -> None:
        for side in self._sides.values():
            side.close()
        self._sides.clear()

    @property
    def side_connections(self) -> int:
        """How many side connections are open. Never switches."""
        return sum(side.is_open for side in self._sides.values())

    def _end(self, side: SideConnection, conn: Connection, is_kept: bool) -> bool:
        """End the statement.

        :raises NotCancelled: it cannot be done.
        """
        if is_kept and conn.is_single and is_plain_query(conn.last_statement):
            if self._kill_query(side, conn) and conn.forget_reply():
                return True
            if conn.interrupted is None:
                return False
        self._kill_connection(side, conn)
        return False

    def _kill_query(self, side: SideConnection, conn: Connection) -> bool:
        """Have the statement end with an error; return whether a reply has come."""
        for patience in LADDER:
            victim = side.find(conn)
            if conn.has_reply:
                return True
            side.kill_query(victim)
            if conn.wait_for_reply(patience):
                return True
        return False

    def _kill_connection(self, side: SideConnection, conn: Connection) -> None:
        """End the thread, and wait until the server has ended it. May switch."""
        # Its socket is closed at once; a rollback may take much longer.
        victim = side.find(conn)
        pause, most = _PAUSES
        side.kill_connection(victim)
        while side.is_there(victim):
            gevent.sleep(pause)
            pause = min(2 * pause, most)

    def _side_of(self, conn: Connection) -> SideConnection | None:
        """The side connection to the server of *conn*, which may not be open yet.

        :return: None: the connection is not connected any more.
        """
        try:
            # Not by the name of the host: it may lead to another server by now.
            peer = conn.interrupted.getpeername()
        except OSError:
            return None
        side = self._sides.get(peer)
        if side is None or side.is_from_parent:
            host, port = conn.host, conn.port
            side = self._sides[peer] = SideConnection(
                lambda: self._dial(peer, host, port)
            )
        return side

    def _dial(self, peer: Any, host: str, port: int) -> Connection:
        """Open a connection to the very server at *peer*. May switch."""
        options = {
            name: value
            for name, value in self._options().items()
            if name in _ACCOUNT or name.startswith("ssl")
        }
        if isinstance(peer, tuple):
            options.update(host=host, port=port)
        side = Connection(
            tls=self._tls,
            defer_connect=True,
            **options,
            autocommit=True,
            connect_timeout=CONNECT,
            read_timeout=_REPLY,
            write_timeout=_REPLY,
        )
        try:
            within(CONNECT, "the side connection", self._connect, side, peer)
        except BaseException:
            side.terminate()
            raise
        return side

    def _connect(self, side: Connection, peer: Any) -> None:
        if isinstance(peer, tuple):
            side.connect(dialing.dial(peer[0], peer[1]))
        else:
            side.connect()

    def _warn(self, error: NotCancelled) -> None:
        if error.reason not in self._warned:
            self._warned.add(error.reason)
            log.warning(_NOT_CANCELLED, error, _CLOSED if error.is_final else _KEPT)


class Stranded:
    """An interrupted statement whose connection is closed by other code.

    It takes the socket over, so that the connection can be closed meanwhile.

    :param conn: whose command was interrupted.
    """

    def __init__(self, conn: Connection, canceller: Canceller) -> None:
        self._conn = copy.copy(conn)
        self._canceller = canceller
        conn.interrupted = None

    def cancel(self) -> None:
        """Wait until the server has let go of it. May switch.

        :raises CannotCancel: nothing can end the statement.
        """
        try:
            self._canceller.cancel(self._conn, False)
        finally:
            self.close()

    def close(self) -> None:
        """Close the socket without sending anything. Never switches."""
        self._conn.close_interrupted()
