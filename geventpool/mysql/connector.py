"""Opens, checks, resets and closes PyMySQL connections.

It deals with one connection at a time, and chooses among several hosts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gevent
from gevent.event import Event
from pymysql import err
from pymysql.constants import CR
from pymysql.cursors import Cursor

from geventpool.connector import Connector, ErrorAction
from geventpool.extension import Deadline
from geventpool.mysql.arguments import (
    check_account,
    check_password,
    checked,
    merged,
)
from geventpool.mysql.cancel import Canceller, Stranded
from geventpool.mysql.connection import Connection
from geventpool.mysql.errors import (
    NoServerError,
    action_after,
    is_login_refused,
)
from geventpool.mysql.hosts import Host, Hosts
from geventpool.mysql.reset import as_reset
from geventpool.mysql.tls import TLSContexts
from geventpool.mysql.url import parse_server_url
from geventpool.patching import is_patched
from geventpool.policies import check_bool, check_optional_callable, safe_repr
from geventpool.sockets import find_socket

__all__ = ["MySQLConnector"]

#: The most seconds that a loan waits for the locks of loans that have ended.
LOCK_WAIT = 0.05

TARGETS = ("any", "primary", "replica")

#: A replica that becomes primary changes its global read_only. So the global setting
#: tells primary and replica apart. Aurora sets innodb_read_only on its readers.
_ROLE = "SELECT @@global.read_only, @@global.innodb_read_only"

CredentialSource = Callable[[], Mapping[str, Any] | str]


class MySQLConnector(Connector[Connection]):
    """The :class:`~geventpool.Connector` for PyMySQL connections.

    The arguments are explained at :class:`~geventpool.mysql.ConnectionPool`.

    :raises TypeError: PyMySQL does not know an argument.
    :raises ValueError: an argument contradicts another.
    """

    def __init__(
        self,
        source: str | CredentialSource | None = None,
        *,
        hosts: Any = None,
        host_order: str | None = None,
        target: str | None = None,
        reset: Any = "session",
        configure: Callable[[Any], object] | None = None,
        cancel: bool = True,
        **options: Any,
    ) -> None:
        self._configure = check_optional_callable("configure", configure)
        self._credential_source = source if callable(source) else None
        url: dict[str, Any] = {}
        if source is not None and not callable(source):
            url = parse_server_url(source, "give it to the pool itself")
        options, found = merged(
            url, options, hosts=hosts, host_order=host_order, target=target
        )
        self._options = checked(options)
        self._hosts = self._read_hosts(found["hosts"], found["host_order"])
        self._target = self._read_target(found["target"])
        self._reset = as_reset(reset, configure)
        self._tls = TLSContexts()
        #: ends interrupted statements at the server; None: nothing does
        self.canceller: Canceller | None = None
        if check_bool("cancel", cancel):
            self.canceller = Canceller(self._resolved, self._tls)
        #: connections whose reset has not ended, and which may still hold locks
        self.unsettled: set[Connection] = set()
        self._all_settled = Event()
        self._resets_skipped = self._resets_early = self._resets_full = 0
        #: returns what to call when the server turns out to be no primary any more
        self.on_demotion: Callable[[], Callable[[], None] | None] = _no_callback

    def _read_hosts(self, hosts: Any, order: str | None) -> Hosts | None:
        if hosts is None:
            if order is not None:
                raise ValueError("host_order needs hosts")
            return None
        for name in ("host", "port", "unix_socket"):
            if self._options.get(name):
                raise ValueError(f"give hosts or {name}, not both")
        return Hosts(hosts, order or "listed")

    def _read_target(self, target: str | None) -> str:
        if target is None:
            return "any" if self._hosts is None else "primary"
        if target not in TARGETS:
            raise ValueError(
                f"target must be one of {TARGETS}, not {safe_repr(target)}"
            )
        return target

    def title(self) -> str:
        """What a pool without a name is called: its server and database, no login.

        It is the same after a restart, whatever pools are made before.
        """
        options = self._options
        if self._hosts is not None:
            server = ",".join(str(host) for host in self._hosts)
        elif options.get("unix_socket"):
            server = options["unix_socket"]
        elif self._credential_source is None or options.get("host"):
            host = Host(options.get("host") or "localhost")
            server = f"{host.name}:{options.get('port') or host.port}"
        else:
            # It is known when a connection is opened.
            return "mysql"
        database = options.get("database") or options.get("db")
        return f"mysql {server}/{database}" if database else f"mysql {server}"

    # Opening

    def open(self) -> Connection:
        """Open and configure a connection to a server of the wanted role. May switch.

        :raises pymysql.err.OperationalError: raised by PyMySQL. With several hosts it
            is a :exc:`~geventpool.mysql.NoServerError` that lists the error of each
            host.
        """
        options = self._resolved()
        if self._hosts is None:
            return self._connect(options)
        return self._find(self._hosts, options)

    def _resolved(self) -> dict[str, Any]:
        options = dict(self._options)
        if self._credential_source is not None:
            fresh = self._credential_source()
            if isinstance(fresh, str):
                fresh = parse_server_url(fresh, "it can't change with each connection")
            options.update(checked(fresh))
        for name, check in (("user", check_account), ("password", check_password)):
            if callable(options.get(name)):
                options[name] = options[name]()
                check(name, options[name])
        return options

    def _find(self, hosts: Hosts, options: dict[str, Any]) -> Connection:
        failures: list[tuple[Host, err.MySQLError]] = []
        for host in hosts.in_order(time.monotonic()):
            try:
                conn = self._connect({**options, "host": host.name, "port": host.port})
            except err.MySQLError as failure:
                failures.append((host, failure))
                hosts.failed(host, time.monotonic())
            else:
                hosts.served(host, only=self._target == "primary")
                return conn
        for _, error in failures:
            # A server of the wanted role was reached: it is full, or refuses the login.
            is_full = action_after(error) is ErrorAction.BACK_OFF
            if is_full or is_login_refused(error):
                raise error
        raise NoServerError(
            CR.CR_CONN_HOST_ERROR,
            f"no {_WANTED[self._target]} among the hosts: "
            + "; ".join(f"{host}: {error}" for host, error in failures),
        )

    def _connect(self, options: dict[str, Any]) -> Connection:
        conn = Connection(tls=self._tls, defer_connect=True, **options)
        # PyMySQL's own limit ends when the TCP connection is made. A server that sends
        # nothing after that would block this greenlet without limit. The timer needs an
        # event loop.
        expired, deadline = gevent.Timeout(None), None
        try:
            if is_patched("socket"):
                strike = partial(gevent.getcurrent().throw, expired)
                loop, limit = gevent.get_hub().loop, conn.connect_timeout or 0
                deadline = Deadline(loop, limit, strike)
            conn.connect()
            self._check_role(conn)
            if self._configure is not None:
                self._configure(conn)
            conn.end_transaction()
            conn.remember()
            conn.end_loan()
        except BaseException as error:
            # Nothing else refers to the connection, so it must be closed here.
            conn.terminate()
            if error is expired:
                raise err.OperationalError(
                    CR.CR_CONN_HOST_ERROR,
                    f"Can't connect to MySQL server on {conn.host!r} "
                    f"(not done within {conn.connect_timeout:g} s)",
                ) from None
            raise
        finally:
            if deadline is not None:
                deadline.close()
        return conn

    def _check_role(self, conn: Connection) -> None:
        """Check that the server has the wanted role. May switch.

        :raises NoServerError: it has the other role.
        """
        if self._target == "any":
            return
        with conn.cursor(Cursor) as cursor:
            cursor.execute(_ROLE)
            row = cursor.fetchone()
        read_only = any(str(value).upper() not in ("0", "OFF", "NONE") for value in row)
        if read_only != (self._target == "replica"):
            raise NoServerError(
                CR.CR_CONN_HOST_ERROR,
                "the server is read-only" if read_only else "the server is a primary",
            )

    # After the connection was opened

    def close(self, conn: Connection) -> None:
        """Send COM_QUIT, then close the socket. May switch."""
        try:
            conn.send_quit()
        finally:
            conn.terminate()

    def terminate(self, conn: Connection) -> None:
        """Close the socket without sending anything. Never switches.

        While the pool is being closed, the sockets of running statements are kept for
        the canceller, which ends these.
        """
        if self.canceller is None or not self.canceller.takes(conn):
            conn.terminate()
        self._settle(conn)

    def begin_cancel(self, conn: Connection) -> bool:
        """Keep the socket of an interrupted statement that may still run.

        Never switches.
        """
        canceller = self.canceller
        if canceller is None or not canceller.is_running(conn):
            return False
        if conn.interrupted is None:
            conn.set_aside()
        conn.end_loan()
        self._settle(conn)
        return True

    def strand(self, conn: Connection) -> Stranded | None:
        """Take over a statement that may run, before other code closes *conn*.

        Never switches.

        :return: None: nothing runs.
        """
        canceller = self.canceller
        if canceller is None or not canceller.is_running(conn):
            return None
        if conn.interrupted is None:
            conn.set_aside()
        return Stranded(conn, canceller)

    def cancel(self, conn: Connection) -> bool:
        """Wait until the server has let go of an interrupted statement. May switch.

        :return: whether the connection can be reset and lent again.
        """
        assert self.canceller is not None
        reset = self._reset
        is_kept = reset.ends_transactions and (
            conn.session_unchanged or reset.is_possible(conn)
        )
        if not self.canceller.cancel(conn, is_kept):
            conn.close_interrupted()
            return False
        reset.restore(conn)
        conn.unusable_reason = None
        return True

    def ping(self, conn: Connection) -> None:
        """Test whether the server answers, and whether it still has the wanted role.

        May switch.

        :raises pymysql.err.Error: it does not answer, or it has the other role.
        """
        with conn.used_by_pool():
            if self._target == "any":
                conn.ping(reconnect=False)
            else:
                self._check_role(conn)

    def reset(self, conn: Connection) -> None:
        """Remove what the borrower left in the session. May switch.

        :raises Exception: the reset failed, or the connection cannot be reset.
        """
        try:
            if conn.unusable_reason is not None:
                raise conn.fatal_error or err.InterfaceError(0, conn.unusable_reason)
            with conn.used_by_pool():
                self._reset(conn)
        finally:
            self._settle(conn)

    def _settle(self, conn: Connection) -> None:
        self.unsettled.discard(conn)
        if not self.unsettled:
            self._all_settled.set()

    def wait_for_locks(self) -> None:
        """Wait until resets have released the locks of ended loans. May switch.

        Call it if :attr:`unsettled` is not empty. It waits for :data:`LOCK_WAIT` at
        most, because the rollback of a large transaction takes long.
        """
        self._all_settled.clear()
        self._all_settled.wait(LOCK_WAIT)

    def is_usable(self, conn: Connection) -> bool:
        """Whether a connection is open and has nothing to read. Never switches."""
        # No further calls, because this is called for every loan.
        ask = conn.ask
        return conn.is_quiet() if ask is None or conn.pending else not ask(0)

    def awaits_reset(self, conn: Connection) -> bool:
        """Whether the replies to its reset are late, and nothing else is wrong.

        Never switches.
        """
        return conn.is_late and conn.open

    def fileno(self, conn: Connection) -> int:
        sock = find_socket(conn)
        return -1 if sock is None else sock.fileno()

    def end_loan(self, conn: Connection) -> bool:
        """End the loan, and send the reset ahead if possible. Never switches.

        For a connection that cannot be lent again the answer is True, and :meth:`reset`
        then raises.

        :return: whether :meth:`reset` must run before the next loan. False: there is
            nothing to reset, or the reset was sent and needs no waiting.
        """
        if self._reset.spares(conn):
            self._resets_skipped += 1
            conn.end_loan()
            return False
        conn.unusable_reason = self._why_unusable(conn)
        conn.end_loan()
        if conn.unusable_reason is not None:
            self._report_demotion(conn)
            return True
        self._reset.restore(conn)
        if not self._reset.is_needed(conn):
            self._resets_skipped += 1
            return False
        if self._begin_reset(conn):
            self._resets_early += 1
            return False
        self._resets_full += 1
        return True

    def reset_counts(self) -> dict[str, int]:
        """How many loans ended with which kind of reset. Never switches."""
        return {
            "skipped": self._resets_skipped,
            "early": self._resets_early,
            "full": self._resets_full,
        }

    def _begin_reset(self, conn: Connection) -> bool:
        """Send the reset ahead if possible.

        :return: whether nothing is left to wait for.
        """
        # The next borrower, on any connection, must find the locks released. That may
        # take long, so a greenlet of the pool waits for it.
        kinds = self._reset.kinds
        waits = conn.may_hold_transaction or conn.may_hold_locks(kinds)
        if waits:
            self.unsettled.add(conn)
        return self._reset.begin(conn) and not waits

    def _report_demotion(self, conn: Connection) -> None:
        """Drain the pool if *conn* was told that the server is no primary any more."""
        if conn.fatal_error is None:
            return
        if self.classify(conn.fatal_error) is ErrorAction.DRAIN:
            drain = self.on_demotion()
            if drain is not None:
                # Do it at once, because the other connections lead to the same server.
                drain()

    def _why_unusable(self, conn: Connection) -> str | None:
        if conn.fatal_error is not None:
            return str(conn.fatal_error)
        if not conn.in_step:
            return "it was given back with an unread answer"
        if not (conn.session_unchanged or self._reset.is_possible(conn)):
            return "no reset undoes SET ROLE, or USE in a session without a database"
        return None

    def classify(self, error: Exception) -> ErrorAction:
        """Return what the pool does after *error*; see ``errors.py``. Never switches.

        DRAIN means that the server is no primary any more. On a pool for replicas such
        an error only means that a borrower tried to write: DISCARD.
        """
        action = action_after(error)
        if action is ErrorAction.DRAIN and self._target == "replica":
            return ErrorAction.DISCARD
        return action


_WANTED = {"any": "server", "primary": "primary", "replica": "replica"}


def _no_callback() -> None:
    return None
