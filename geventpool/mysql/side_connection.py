"""The side connection: one more connection to a server, which cancels statements there.

It never comes from the pool itself: with a full pool a KILL would wait for the very
statements that it is to end.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
from gevent.lock import BoundedSemaphore
from pymysql import err

from geventpool import sockets
from geventpool.fork_listeners import ForkListeners
from geventpool.mysql.connection import Connection

__all__ = ["NotCancelled", "SideConnection", "Victim"]

#: Seconds without use after which it is closed.
IDLE = 60.0
#: Seconds after a failure during which it is not tried again.
RETRY = 1.0
#: Seconds for which it counts that another server answers, or a proxy.
FOREIGN = 60.0

_FIND = "SELECT {} FROM information_schema.PROCESSLIST WHERE ID={}"

#: Why a statement cannot be cancelled.
_CLOSED = "the side connection cannot be opened"
_LOST = "the side connection was lost"
_FOREIGN = "a proxy or a translated address is before the server"
_HIDDEN = "the server does not show the thread, or shows it to another account only"
_REFUSED = "the server refuses what is asked of it"

#: KILL was given a thread, or a query, that is not there any more.
_GONE = frozenset({1094, 1957})

#: PyMySQL's own numbers: the server cannot be reached, or the connection is lost.
CLIENT_ERRORS = range(2000, 3000)

#: Each of this process.
_all = ForkListeners()


class NotCancelled(Exception):
    """A statement cannot be cancelled.

    :param reason: why, in words that are the same for all statements.
    :param detail: the error behind it; None: there is no error.
    """

    def __init__(self, reason: str, detail: Exception | None = None) -> None:
        super().__init__(reason if detail is None else f"{reason}: {detail}")
        self.reason = reason
        #: the number of the server's error
        self.code = detail.args[0] if detail is not None and detail.args else None
        #: whether there is no reply to wait for: behind a proxy it is not known whose
        #: it is, and a server that cannot be reached may send none
        self.is_final = reason == _FOREIGN or (
            reason == _CLOSED and _is_network_error(detail)
        )


def _is_network_error(error: Exception | None) -> bool:
    """Whether *error* comes from the network, and not from the server."""
    if isinstance(error, err.OperationalError):
        return bool(error.args) and error.args[0] in CLIENT_ERRORS
    return isinstance(error, (OSError, EOFError))


class Victim:
    """A thread of the server that was seen to belong to an interrupted connection.

    :param side: the side connection that has seen it, and that alone may end it.
    :param number: the id of the thread.
    :param query: the id of its statement; None: the server does not tell.
    """

    __slots__ = ("number", "query", "side")

    def __init__(self, side: Connection, number: int, query: int | None) -> None:
        self.side = side
        self.number = number
        self.query = query


class SideConnection:
    """One more connection to one server, opened when it is needed.

    :param dial: opens a connection to that server. May switch.
    """

    def __init__(self, dial: Callable[[], Connection]) -> None:
        self._dial = dial
        self._conn: Connection | None = None
        self._turn = BoundedSemaphore(1)
        self._failure: NotCancelled | None = None
        #: until when the failure counts, by the monotonic clock
        self._failed_until = 0.0
        self._timer: Any = None
        self._is_closed = False
        #: the process that has opened it
        self._process = os.getpid()
        _all.add(self)

    @property
    def is_open(self) -> bool:
        """Whether it is open. Never switches."""
        return self._conn is not None

    @property
    def is_useless(self) -> bool:
        """Whether it is known to be of no use for now. Never switches."""
        failure = self._failure
        return (
            failure is not None
            and failure.is_final
            and monotonic() < self._failed_until
        )

    @property
    def is_from_parent(self) -> bool:
        """Whether it was opened before a fork, by the parent. Never switches."""
        return self._process != os.getpid()

    def find(self, conn: Connection) -> Victim:
        """Find the thread of *conn* at the server. May switch.

        The server must see the socket of *conn* under the id of *conn*. With that, and
        with the socket still open, the id can belong to no other connection.

        :raises NotCancelled: it is not there, or the server cannot be asked.
        """
        with self._turn:
            return self._find(self._opened(), conn.number, conn.interrupted)

    def _find(self, side: Connection, number: int, sock: Any) -> Victim:
        is_mariadb = "mariadb" in side.server_version.lower()
        query = "QUERY_ID" if is_mariadb else "NULL"
        seen = self._ask(side, _FIND.format(f"HOST, {query}", number))
        address = sock.getsockname()
        # A Unix socket has no port, and leads to the same server by its path.
        port = address[1] if isinstance(address, tuple) else None
        if not seen:
            # A procedure runs as the account that has defined it.
            raise NotCancelled(_HIDDEN)
        if port not in (None, _port(str(seen[0][0]))):
            raise NotCancelled(_FOREIGN)
        return Victim(side, number, seen[0][1])

    def kill_query(self, victim: Victim) -> None:
        """End the statement that *victim* was seen with. May switch.

        :raises NotCancelled: the server refuses, or its reply is not known.
        """
        # By its own id it can be no other statement; not all servers know that.
        target = victim.number if victim.query is None else f"ID {victim.query}"
        self._kill(victim, f"KILL QUERY {target}")

    def kill_connection(self, victim: Victim) -> None:
        """Have the server begin to end the thread. May switch.

        :raises NotCancelled: the server refuses, or its reply is not known.
        """
        self._kill(victim, f"KILL CONNECTION {victim.number}")

    def _kill(self, victim: Victim, statement: str) -> None:
        try:
            self._ask_again(victim, statement)
        except NotCancelled as error:
            if error.code not in _GONE:
                raise

    def is_there(self, victim: Victim) -> bool:
        """Whether the server still has the thread. May switch.

        :raises NotCancelled: it cannot be asked.
        """
        return bool(self._ask_again(victim, _FIND.format("1", victim.number)))

    def _ask_again(self, victim: Victim, statement: str) -> list[tuple[Any, ...]]:
        with self._turn:
            if self._conn is not victim.side:
                # Another one may lead to a server that was restarted, where the id is
                # that of another connection.
                raise NotCancelled(_LOST)
            return self._ask(victim.side, statement)

    def close(self) -> None:
        """Close it for good. Never switches."""
        self._is_closed = True
        self._drop()

    # In the child, where nobody counts.
    def forked(self) -> None:  # pragma: no cover
        """Close it for good in a forked child. The parent goes on with it."""
        self._is_closed = True
        self._timer = None
        self._drop()

    def _ask(self, side: Connection, statement: str) -> list[tuple[Any, ...]]:
        """Send a statement and return the rows of its reply.

        :raises NotCancelled: the server's error, or the connection is lost.
        """
        is_answered = False
        try:
            with side.cursor() as cursor:
                cursor.execute(statement)
                rows = list(cursor.fetchall())
            is_answered = True
            return rows
        except err.MySQLError as error:
            is_answered = side.open
            raise NotCancelled(_REFUSED if is_answered else _LOST, error) from error
        finally:
            if is_answered:
                self._start_timer()
            elif self._conn is side:
                # A KILL whose reply was not read may take effect later.
                self._drop()

    def _opened(self) -> Connection:
        """The connection, opened if it is not. May switch.

        :raises NotCancelled: it cannot be, or could not a moment ago.
        """
        if self._conn is not None:
            return self._conn
        if self._failure is not None and monotonic() < self._failed_until:
            raise self._failure
        side = None
        try:
            side = self._dial()
            self._check_itself(side)
            if self._is_closed:
                raise NotCancelled("the pool is closed")
        except Exception as error:
            if isinstance(error, NotCancelled):
                self._failure, pause = error, FOREIGN
            else:
                self._failure, pause = NotCancelled(_CLOSED, error), RETRY
            self._failed_until = monotonic() + pause
            raise self._failure from error
        else:
            self._conn = side
            return side
        finally:
            if side is not None and self._conn is not side:
                side.terminate()

    def _check_itself(self, side: Connection) -> None:
        """Check that the server knows this connection by its own port. May switch."""
        self._find(side, side.number, sockets.find_socket(side))

    def _drop(self) -> None:
        side, self._conn = self._conn, None
        if side is not None:
            side.terminate()
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def _start_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
        else:
            self._timer = gevent.get_hub().loop.timer(IDLE, ref=False)
        # Weakly: the event loop must not keep the connection of a pool that is gone.
        self._timer.start(_expire, weakref.ref(self), self._timer)

    def _expire(self) -> None:
        if not self._turn.locked():
            self._drop()


def _expire(ref: weakref.ref[SideConnection], timer: Any) -> None:
    side = ref()
    if side is None or side._timer is not timer:
        # Its pool is gone, or in the child of a fork.
        timer.close()
    else:
        side._expire()


def _port(host: str) -> int | None:
    """The port in what the process list says of a client."""
    number = host.rpartition(":")[2]
    return int(number) if number.isdecimal() else None
