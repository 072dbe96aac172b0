"""Kill, time-out, error and Ctrl-C at every switch point of everything that may switch.

Each row of the table is an operation on real sockets. It is run again and again, with
something thrown at its first, second, third... switch; then the pool must have all its
places, and the next borrower must get an answer of its own. What was hit is read from
the tracebacks, so that no row claims a method that it does not interrupt; and a method
that says "May switch" and stands in no row fails a test.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

import gevent
import pytest

import geventpool
from geventpool import Pool
from geventpool.mysql.pool import CursorContext, TransactionContext
from geventpool.pool import ConnectionContext
from geventpool.testing import (
    Interrupted,
    Interruption,
    check,
    check_capacity,
    interrupt_everywhere,
    pool_greenlets,
    wait_until,
)
from tests.failures.scenes import ROWS, Row, Scene, Site
from tests.failures.scenes.core import echo_scene
from tests.failures.scenes.mysql import mysql_scene, value
from tests.failures.scenes.redis import redis_scene
from tests.pauses import hang
from tests.peers import open_sockets

#: What was thrown in the run that is under way; its tracebacks tell what was hit.
_thrown: list[BaseException] = []


def noted(kind: type[BaseException]) -> type[BaseException]:
    """The same kind of error, each of which is noted when it is made."""

    class Noted(kind):  # type: ignore[valid-type, misc]
        def __init__(self) -> None:
            super().__init__()
            _thrown.append(self)

    Noted.__name__ = kind.__name__
    return Noted


KILL, TIMEOUT, ERROR, CTRL_C = (
    noted(kind)
    for kind in (gevent.GreenletExit, gevent.Timeout, Interrupted, KeyboardInterrupt)
)
#: Alone; and as nested time-outs do it which end together, one of them being a kill.
KINDS: list[Interruption] = [
    *(KILL, TIMEOUT, ERROR, CTRL_C),
    *((TIMEOUT, TIMEOUT), (TIMEOUT, KILL), (KILL, TIMEOUT)),
]


# The harness


#: Django needs a configured program, and exporters need packages of their own. The
#: others are tools that lend nothing.
_ELSEWHERE_TESTED = (
    "geventpool.django",
    "geventpool.testing",
    "geventpool.advise",
    "geventpool.__main__",
    "geventpool.otel",
    "geventpool.prometheus",
    "geventpool.doctor",
    "geventpool.top",
)


def marked(owner: Any = None) -> Iterator[tuple[str, CodeType]]:
    """What says of itself that it may switch, by its name within the package."""
    for info in pkgutil.walk_packages(geventpool.__path__, "geventpool."):
        if info.name.startswith(_ELSEWHERE_TESTED):
            continue
        module = importlib.import_module(info.name)
        yield from _marked_in(module, info.name, info.name.split(".", 1)[1])


def _marked_in(owner: Any, module: str, prefix: str) -> Iterator[tuple[str, CodeType]]:
    for name, thing in list(vars(owner).items()):
        if name.startswith("_") and name not in ("__call__", "__enter__", "__exit__"):
            continue
        if type(thing) in (classmethod, staticmethod):
            thing = thing.__func__
        is_class = isinstance(thing, type)
        if not is_class and not isinstance(thing, FunctionType):
            continue
        homes = {module}
        if name in getattr(owner, "__all__", ()):
            # Public names say that they are defined in the package itself.
            homes.add("geventpool")
        if thing.__module__ not in homes or getattr(thing, "_is_protocol", False):
            continue
        where = thing.__init__ if is_class else inspect.unwrap(thing)
        # The constructor of a class may switch only if its docstring says "then".
        pattern = r"then\s+\*?may\s+switch" if is_class else r"\bmay\s+switch\b"
        if re.search(pattern, thing.__doc__ or "", re.I):
            code = getattr(where, "__code__", None)
            if code is not None:
                yield f"{prefix}.{name}", code
        if is_class:
            yield from _marked_in(thing, module, f"{prefix}.{name}")


#: Say that they may switch, and are not interrupted here, because:
NOT_HERE = {
    # There is nothing in them. What is derived from them is in the table.
    *("connection.Connection.open", "connection.Connection.close"),
    *("connector.Connector.open", "connector.Connector.close"),
    *("connector.Connector.ping", "connector.Connector.reset"),
    "connector.Connector.cancel",
    # They are called for what is kept ready, or by others. They have other tests.
    "sqlalchemy.record_pool.RecordConnector.open",
    "sqlalchemy.record_pool.RecordConnector.ping",
    *(
        "_core.workers.WorkerGroup.wait_for_one",
        "sqlalchemy.mysql_reset.reset_server_session",
    ),
    # It runs in greenlets of the pool; tests/test_opening.py interrupts it.
    "_core.opener.Opener.dial",
    # They are the switch of Pool.acquire(), which is in the table.
    *("_core.line.Line.wait", "_core.lending.Lending.borrow"),
    # It is a pause within a command of redis-py; its own tests interrupt it.
    "redis.retry_pauses.RetryPauses.pause",
    # They call methods of Pool, and have tests of their own.
    *("peewee.PooledMySQLDatabase.connect", "peewee.PooledMySQLDatabase.init"),
    # They are peewee's own on a connection that works; see tests/test_peewee.py.
    "peewee.PooledMySQLDatabase.execute_sql",
    "peewee.PooledMySQLDatabase.rollback",
    *("dbapi.DBAPIConnector.ping", "dbapi.DBAPIConnector.reset"),
    # It is redis-py's own, with another error; tests/redis/test_cache.py has it.
    "redis.caching.CachedConnection.connect",
    # It is called by connect_once(), which is in the table.
    "redis.internals.dial_by_redis_py",
    # It is the switch of Multiplexer.take(), which is in the table.
    "redis.parting.Parting.take",
    # It switches only when the pool of a process is made.
    "process_pools.ProcessPools.get",
    # It switches only after a turn of the loop that has lasted too long.
    "redis.turns.Turns.let_others_run",
    # They are called within a statement, which is in the table.
    *("mysql.ahead.Ahead.forget_id", "mysql.ahead.Ahead.read_forgotten"),
    # They read the replies that a statement would read; tests/mysql/test_ahead.py
    # interrupts them.
    *("mysql.ahead.Ahead.escape", "mysql.ahead.Ahead.get_autocommit"),
    # They call Canceller.cancel(), which is in the table.
    *("mysql.cancel.Stranded.cancel", "sqlalchemy.record_pool.RecordConnector.cancel"),
    # It waits if a renewal meets a full server; tests/sqlalchemy/test_interruption.py.
    "sqlalchemy.records.Record.get_connection",
    # It closes like RecordConnector.close(), which is in the table.
    "sqlalchemy.records.Record.invalidate",
    # It is called within a reset, which is in the table.
    "mysql.hidden.harmless_kinds",
    # It is called while a reply is read, in rows of the table.
    "sockets.await_reply",
    *(
        "redis.request_socket.RequestSocket.recv",
        "redis.request_socket.RequestSocket.recv_into",
        # It switches only while the kernel has no room.
        "redis.request_socket.RequestSocket.sendall",
    ),
    # ...it calls the method of the core, which is in the table.
    "mysql.pool.ConnectionPool.close",
}

#: Where the switch is, of what switches in an object that it returns.
ELSEWHERE: dict[str, Callable[..., Any]] = {
    "pool.Pool.connection": ConnectionContext.__enter__,
    "mysql.pool.ConnectionPool.connection": TransactionContext.__enter__,
    "mysql.pool.ConnectionPool.cursor": CursorContext.__enter__,
}


def names_by_code() -> dict[CodeType, str]:
    names = {code: name for name, code in marked()}
    names.update({each.__code__: name for name, each in ELSEWHERE.items()})
    return names


def interrupted(site: Site, row: Row, later: int = 0) -> set[CodeType]:
    """Interrupt a row everywhere; what was hit."""
    seen: set[CodeType] = set()
    scene: Scene | None = None

    def scenario() -> Any:
        nonlocal scene
        scene = begun = row.begin(site)

        def work() -> None:
            try:
                begun.work()
            except BaseException as error:
                look()
                if error not in _thrown:
                    raise

        return work, [] if scene.lasting else scene.pools

    def look() -> None:
        # At once: what the frames hold may hold a loan, and end it when it goes.
        for error in _thrown:
            trace = error.__traceback__
            while trace is not None:
                seen.add(trace.tb_frame.f_code)
                trace = trace.tb_next
            error.__traceback__ = None

    def afterwards() -> None:
        look()
        _thrown.clear()
        assert scene is not None
        if scene.lasting:
            for pool in scene.pools:
                check(pool)
                check_capacity(pool)
        scene.afterwards()

    def is_the_pools(victim: Any) -> bool:
        return scene is not None and any(
            victim in pool_greenlets(pool) for pool in scene.pools
        )

    common: Any = {"later": later, "afterwards": afterwards, "patience": 20}
    interrupt_everywhere(scenario, errors=KINDS, **common)
    interrupt_everywhere(scenario, errors=[KILL], victims=is_the_pools, **common)
    return seen


def cases() -> Iterator[Any]:
    for name, row in ROWS.items():
        # A dial of redis-py that is killed leaves its socket to the collector.
        marks = [pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]
        is_redis = any(each.startswith("redis.") for each in row.covers)
        yield pytest.param(name, marks=marks if is_redis else [])


@pytest.mark.parametrize("name", list(cases()))
def test_whatever_is_interrupted_loses_nothing(name: str, site: Site) -> None:
    """No place is lost, no answer goes astray; and what the row claims was hit."""
    row = ROWS[name]
    names = names_by_code()
    found: set[str] = set()
    before = len(open_sockets())
    # A server may answer before one waits for it: then there is no switch that time.
    for _ in range(40):
        found |= {names[code] for code in interrupted(site, row) if code in names}
        if found >= set(row.covers):
            break
    assert set(row.covers) <= found, f"not hit: {set(row.covers) - found}"
    gc.collect()
    # The peers in this process, and the cluster's pools, which serve the next row.
    wait_until(lambda: len(open_sockets()) <= before + 2 * ("cluster" in name))


def test_nothing_that_may_switch_is_left_out() -> None:
    """A method that may switch has a row here, under the name that it has now."""
    said = {name for name, _ in marked()}
    covered = {name for row in ROWS.values() for name in row.covers}
    assert said - covered - NOT_HERE == set()
    assert (covered | NOT_HERE) - said - set(ELSEWHERE) == set()
    assert covered & NOT_HERE == set()


# Nested time-outs, by the loop's own timers

#: What waits for longer than anybody's patience here.
LONG: dict[str, Callable[[Site], Scene]] = {
    "redis": lambda site: redis_scene(lambda client: client.blpop("nothing", 5), site),
    "mysql": lambda site: mysql_scene(lambda pool: _sleep(pool), site),
    "core": lambda site: echo_scene(lambda pool: _listen(pool), site.echo),
    "line": lambda site: echo_scene(lambda pool: _wait(pool), site.echo),
}


def _sleep(pool: Any) -> None:
    with pool.connection() as conn:
        value(conn, "SELECT SLEEP(5)")


def _listen(pool: Pool[Any]) -> None:
    with pool.connection() as conn:
        conn.recv()


def _wait(pool: Pool[Any]) -> None:
    def hold() -> None:
        with pool.connection():
            hang()

    holder = gevent.spawn(hold)
    gevent.sleep(0)
    try:
        pool.acquire()
    finally:
        holder.kill()


@pytest.mark.parametrize("outer, inner", [(0.02, 0.02), (0.02, 0.04), (0.04, 0.02)])
@pytest.mark.parametrize("name", LONG)
def test_of_nested_time_outs_the_one_that_is_due_arrives(
    name: str, outer: float, inner: float, site: Site
) -> None:
    """It is nobody else's, and nothing that a driver has made of it."""
    scene = LONG[name](site)
    first = gevent.Timeout.start_new(outer)
    second = gevent.Timeout.start_new(inner)
    try:
        with pytest.raises(gevent.Timeout) as caught:
            scene.work()
    finally:
        first.close()
        second.close()
    due = {first} if outer < inner else {second} if inner < outer else {first, second}
    assert caught.value in due
    scene.afterwards()
    for pool in scene.pools:
        check(pool)
        check_capacity(pool)
        pool.close(timeout=0)
