"""The parts of a pool, for the tests of these parts.

A part has no public way from its pool. The ways are here, so that a part that moves
changes one line here and no test. A test that needs no certain part uses the pool
itself, or :mod:`geventpool.testing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Set

    from gevent import Greenlet

    from geventpool._core.borrow_sites import BorrowSites
    from geventpool._core.claims import Claims
    from geventpool._core.holders import Holders
    from geventpool._core.home import Home
    from geventpool._core.ledger import Ledger
    from geventpool._core.lifecycle import Lifecycle
    from geventpool._core.line import Line
    from geventpool._core.loan_watch import LoanWatch
    from geventpool._core.opener import Opener
    from geventpool._core.wait_timers import WaitTimers
    from geventpool._core.workers import WorkerGroup
    from geventpool.listeners import Listeners


def _parts(pool: Any) -> Any:
    return pool._parts


def ledger(pool: Any) -> Ledger[Any]:
    """The connections and their states."""
    found: Ledger[Any] = pool._ledger
    return found


def lifecycle(pool: Any) -> Lifecycle[Any]:
    """What opens, checks, resets and closes the connections."""
    found: Lifecycle[Any] = pool._lifecycle
    return found


def workers(pool: Any) -> WorkerGroup:
    """The greenlets that work for the pool."""
    return lifecycle(pool).workers


def running(pool: Any) -> Set[Greenlet[..., Any]]:
    """The greenlets that work for the pool now, without the reaper."""
    found: Set[Greenlet[..., Any]] = workers(pool).running
    return found


def opener(pool: Any) -> Opener[Any]:
    """What opens connections."""
    return lifecycle(pool).opener


def reaper(pool: Any) -> Any:
    """What sweeps at intervals; None: not started."""
    return lifecycle(pool).housekeeping.reaper


def leases(pool: Any) -> Any:
    """The places that the pool has of its budget; None: no budget."""
    return lifecycle(pool).leases


def hangups(pool: Any) -> Any:
    """What hears that an idle connection is hung up; None: not started."""
    return lifecycle(pool).closer.watch


def line(pool: Any) -> Line[Any]:
    """The waiters."""
    found: Line[Any] = _parts(pool).line
    return found


def wait_timers(pool: Any) -> WaitTimers:
    """The timers of the waiters."""
    return line(pool).timers


def holders(pool: Any) -> Holders:
    """Who has which connection."""
    found: Holders = pool._holders
    return found


def home(pool: Any) -> Home:
    """The thread and the event loop of the pool."""
    found: Home = _parts(pool).home
    return found


def claims(pool: Any) -> Claims[Any]:
    """What ends loans."""
    found: Claims[Any] = _parts(pool).claims
    return found


def loan_watch(pool: Any) -> LoanWatch:
    """What is observed of the loans."""
    found: LoanWatch = _parts(pool).watch
    return found


def borrow_sites(pool: Any) -> BorrowSites:
    """Where in the code connections are borrowed."""
    return loan_watch(pool).sites


def leaks(pool: Any) -> Any:
    """What reports loans that last too long; None: not asked for."""
    return loan_watch(pool).leaks


def idle_holds(pool: Any) -> Any:
    """What finds borrowers that hold connections without use; None: not asked for."""
    return loan_watch(pool).idle_holds


def kinds_of_resets(pool: Any) -> Any:
    """The ways to reset a session that a pool of ``geventpool.mysql`` chooses from."""
    return connector(pool)._reset._kinds


def connector(pool: Any) -> Any:
    """The connector: that of the tests, or an adapter's own."""
    return getattr(pool, "_connector", None) or pool.connector


def listeners(pool: Any) -> Listeners:
    """Who is told what happens."""
    found: Listeners = pool._listeners
    return found


def option(pool: Any, name: str) -> Any:
    """An option's value as the pool has it."""
    return getattr(pool._options, name)


def forked(pool: Any) -> None:
    """Tell the pool that this process is a child of the pool's."""
    pool._forked()


def admission(pool: Any) -> Any:
    """What refuses waiters in an overload; None: not asked for."""
    return _parts(pool).control


def sharing(pool: Any) -> Any:
    """What sends the commands of several greenlets over one connection to Redis."""
    return pool._sharing


def multiplexers(pool: Any) -> Any:
    """What :func:`sharing` has, one for each kind of connection."""
    return sharing(pool).multiplexers


def multiplexer(pool: Any) -> Any:
    """The only one of them; None: no command has been sent."""
    found = multiplexers(pool)
    return found[0] if len(found) == 1 else None


def thread_pool(pool: Any) -> Any:
    """redis-py's own pool in the place of a pool for Redis; None: not needed yet."""
    return pool._thread_pool


def noted_loans(pool: Any) -> Any:
    """The loans of a pool for Redis that are no single commands."""
    return pool._special


def socket_of(conn: Any) -> Any:
    """The socket of a connection of a driver; None: it is not connected."""
    return conn._sock


def native(conn: Any) -> Any:
    """The socket of Python behind that of gevent."""
    return socket_of(conn)._sock


def idle_of(pool: Any) -> Any:
    """The idle connections of a pool, where redis-py has them."""
    return pool._available_connections


def lent_of(pool: Any) -> Any:
    """The lent connections of a pool, where redis-py has them."""
    return pool._in_use_connections


def set_clock(pool: Any, clock: Callable[[], float]) -> None:
    """Let another clock measure the ages and waits of the pool."""
    pool._rule(clock)


def is_unobserved(pool: Any) -> bool:
    """Whether nobody has to be told of loans."""
    found: bool = pool._is_unobserved
    return found


def interrupt_taking(pool: Any, error: BaseException) -> None:
    """Have *error* raised once, when the fast path has taken an idle entry."""
    take = pool._get_idle

    def interrupted() -> Any:
        pool._get_idle = take
        take()
        raise error

    pool._get_idle = interrupted


def set_look(pool: Any, look: Callable[[Any], bool] | None) -> None:
    """Let *look* tell whether an idle connection is usable; None: nothing tells."""
    pool._probe = lifecycle(pool).readiness.probe = look


def begin_anew(pool: Any) -> None:
    """Forget all connections: a pool whose state was made wrong cannot be closed."""
    pool._begin(pool.max_connections)
