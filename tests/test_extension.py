"""What adapters need of a pool beside its public methods."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event

from geventpool import (
    Backoff,
    Budget,
    CloseReason,
    ConnectionNotFoundError,
    Connector,
    Counters,
    Outage,
    Pool,
    PoolExhaustedError,
    PoolListener,
    Timeouts,
)
from geventpool._core import opener
from geventpool.testing import (
    Clock,
    ScriptedConnection,
    ScriptedConnector,
    check,
    check_capacity,
    no_switch,
    wait_until,
)
from tests import parts

HOUR = 3600.0


class AtOnce(ScriptedConnector):
    """Makes connections without switching, as long as it has some to make."""

    left = 100

    def open_at_once(self) -> ScriptedConnection | None:
        if not self.left:
            return None
        self.left -= 1
        conn = ScriptedConnection(len(self.opened) + 1)
        self.opened.append(conn)
        return conn


@pytest.fixture
def pool() -> Iterator[Pool[Any]]:
    pool: Pool[Any] = Pool(ScriptedConnector(), max_connections=2, timeout=5)
    yield pool
    check(pool)


# Connections that are made at once


def test_a_connection_that_is_made_at_once_needs_no_switch() -> None:
    """A greenlet of the pool would only cost the borrower a turn of the loop."""
    counters = Counters()
    pool: Pool[Any] = Pool(AtOnce(), max_connections=2, listeners=[counters])
    with no_switch():
        first, second = pool.acquire(), pool.acquire()
    assert first is not second and counters.snapshot().opened == 2
    with pytest.raises(PoolExhaustedError):
        pool.acquire(timeout=0)
    pool.release(first)
    with no_switch():
        assert pool.acquire() is first
    check(pool)


def test_a_connector_that_makes_none_at_once_opens_it() -> None:
    """It may be able to make some of its connections only."""
    connector = AtOnce()
    connector.left = 0
    pool: Pool[Any] = Pool(connector, max_connections=1)
    with pool.connection() as conn:
        assert conn.number == 1 and connector.calls == [("open", None)]


def test_nobody_overtakes_waiters_by_a_connection_made_at_once() -> None:
    """The place belongs to the first in line."""
    hangs = Event()
    connector = AtOnce(open=[hangs, hangs])
    connector.left = 0
    pool: Pool[Any] = Pool(connector, max_connections=2)
    first = gevent.spawn(pool.acquire, reclaim=False)
    gevent.idle()
    connector.left = 1
    second = gevent.spawn(pool.acquire, reclaim=False)
    gevent.idle()
    assert connector.left == 1 and not first.ready() and not second.ready()
    hangs.set()
    gevent.joinall([first, second])
    check(pool)


def test_an_error_at_once_costs_no_place() -> None:
    """Not of the pool, and not of the budget."""

    class Failing(ScriptedConnector):
        def open_at_once(self) -> Any:
            raise OSError("down")

    pool: Pool[Any] = Pool(Failing(), max_connections=1)
    with pytest.raises(OSError):
        pool.acquire()
    gevent.idle()
    assert pool.size == 0
    check(pool)


@pytest.mark.parametrize("step", ["opened", "move"])
def test_a_connection_made_at_once_that_cannot_be_noted_costs_no_place(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as for want of memory. It is closed, because nobody else has it."""
    connector = AtOnce()
    pool: Pool[Any] = Pool(connector, max_connections=1)

    def fail(*args: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(parts.ledger(pool), step, fail)
        with pytest.raises(MemoryError):
            pool.acquire()
    gevent.idle()
    assert connector.opened[-1].end == "discarded" and pool.size == 0
    check_capacity(pool)


def test_a_borrower_that_returns_to_the_line_stands_where_it_would() -> None:
    """Before all that came later, and it is lent nothing that is made at once."""
    connector = AtOnce()
    pool: Pool[Any] = Pool(connector, max_connections=1, timeout=None)
    conn = pool.acquire()
    order: list[float] = []

    def borrow(came: float) -> None:
        with pool.extension.in_line_since(came):
            again = pool.acquire(reclaim=False)
        order.append(came)
        pool.release(again, anyone=True)

    def wait() -> None:
        again = pool.acquire(reclaim=False)
        order.append(9)
        pool.release(again, anyone=True)

    waiters: list[gevent.Greenlet[..., None]] = [gevent.spawn(wait)]
    waiters += [gevent.spawn(borrow, came) for came in (2.0, 1.0, 3.0)]
    gevent.idle()
    pool.release(conn)
    gevent.joinall(waiters, raise_error=True)
    assert order == [1.0, 2.0, 3.0, 9]
    pool.resize(2)
    left = connector.left
    with pool.connection() as first, pool.extension.in_line_since(1.0):
        assert pool.acquire().number == 2 and first is conn
    assert connector.left == left
    check(pool)


def test_a_place_of_a_budget_is_given_back_if_nothing_is_made(tmp_path: Path) -> None:
    """Otherwise each attempt would cost the other processes a place."""
    budget = Budget(str(tmp_path / "b"), 1)
    connector = AtOnce()
    connector.left = 0
    pool: Pool[Any] = Pool(connector, max_connections=5, budget=budget)
    with pool.connection():
        assert budget.stats().held == 1
    connector.left = 1
    other: Pool[Any] = Pool(connector, max_connections=5, budget=budget, timeout=0)
    with pytest.raises(PoolExhaustedError):
        other.acquire()
    assert connector.left == 1
    pool.close()
    with no_switch():
        assert other.acquire().number == 2
    other.close(timeout=0)


# Holders that have ended


def die(pool: Pool[Any]) -> ScriptedConnection:
    """A greenlet takes a connection and ends."""
    conn: ScriptedConnection = gevent.spawn(pool.acquire).get()
    gevent.idle()
    return conn


def test_a_connector_may_end_the_loan_of_a_dead_holder() -> None:
    """It may have to do that in a greenlet, as SQLAlchemy's reset."""

    class Saving(ScriptedConnector):
        def holder_died(self, conn: Any) -> bool:
            saved.append(conn)
            return True

    saved: list[Any] = []
    pool: Pool[Any] = Pool(Saving(), max_connections=1)
    conn = die(pool)
    assert saved == [conn] and conn.end is None and pool.extension.is_lent(conn)
    pool.release(conn)
    check_capacity(pool)


def test_a_connector_that_fails_to_end_a_loan_costs_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The place is free, whatever the connector does."""

    class Failing(ScriptedConnector):
        def holder_died(self, conn: Any) -> bool:
            raise ValueError

    pool: Pool[Any] = Pool(Failing(), max_connections=1)
    assert die(pool).end == "discarded"
    assert "holder_died failed" in caplog.text
    check_capacity(pool)


# Loans


def test_a_connection_that_the_adapter_has_is_taken_in(pool: Pool[Any]) -> None:
    """It becomes idle; a second time changes nothing."""
    conn = ScriptedConnection(7)
    assert not pool.extension.has(conn)
    assert pool.extension.adopt(conn) and pool.extension.adopt(conn)
    assert pool.idle_connections() == [conn] and pool.extension.idle == 1
    assert pool.extension.has(conn) and not pool.extension.is_lent(conn)


def test_an_adopted_connection_serves_the_first_waiter() -> None:
    """As one that is given back."""
    pool: Pool[Any] = Pool(ScriptedConnector(open=[Event()]), max_connections=2)
    waiter = gevent.spawn(pool.acquire, reclaim=False)
    gevent.idle()
    assert pool.extension.waiting == 1
    conn = ScriptedConnection(7)
    assert pool.extension.adopt(conn) and not pool.extension.is_lent(conn)
    assert waiter.get() is conn and pool.extension.is_lent(conn)


def test_a_full_or_closed_pool_adopts_nothing(pool: Pool[Any]) -> None:
    """Its limit holds, and nothing would close the connection."""
    first, second = pool.acquire(), pool.acquire()
    assert not pool.extension.adopt(ScriptedConnection(7))
    pool.release(first)
    pool.release(second)
    pool.close()
    assert not pool.extension.adopt(ScriptedConnection(7))


def test_a_loan_can_be_taken_from_its_holder(pool: Pool[Any]) -> None:
    """Then its end does not end the loan, and anybody may give it back."""
    conn = pool.acquire()
    holder = gevent.getcurrent()
    assert pool.extension.disown(conn) is holder
    assert pool.extension.disown(conn) is None
    gevent.spawn(pool.release, conn).get()
    assert pool.idle_connections() == [conn]
    with pytest.raises(ConnectionNotFoundError):
        pool.extension.disown(conn)


def test_the_place_of_a_closed_connection_is_free_at_once(pool: Pool[Any]) -> None:
    """Anybody may free it: no other greenlet can be using a descriptor."""
    conn = pool.acquire()
    gevent.spawn(pool.extension.vacate, conn).get()
    assert pool.size == 0 and conn.end == "discarded"
    with pytest.raises(ConnectionNotFoundError):
        pool.extension.vacate(conn)


def test_another_thread_frees_the_place_of_a_closed_connection(pool: Pool[Any]) -> None:
    """A greenlet that it started for that would never run."""
    conn = pool.acquire()

    def vacate() -> Exception | None:
        try:
            pool.extension.vacate(conn)
        except ConnectionNotFoundError as error:
            return error
        return None

    in_thread = gevent.get_hub().threadpool.apply
    assert in_thread(vacate) is None
    wait_until(lambda: pool.stats().size == 0)
    assert in_thread(vacate) is not None


def test_a_pool_can_forget_all_its_connections() -> None:
    """The idle ones are closed, those on loan stay open, and the waiters are served."""
    counters = Counters()
    connector = ScriptedConnector()
    pool: Pool[Any] = Pool(connector, max_connections=2, listeners=[counters])
    lent, idle = pool.acquire(), pool.acquire()
    pool.release(idle)
    pool.extension.forget_all()
    assert pool.size == 0 and lent.end is None and idle.end == "closed"
    assert counters.snapshot().closed[CloseReason.DRAINED] == 1
    with pool.connection() as conn:
        assert conn is not lent
    assert pool.extension.adopt(lent)
    check(pool)


def test_an_error_while_all_is_forgotten_costs_no_place(
    monkeypatch: pytest.MonkeyPatch, pool: Pool[Any]
) -> None:
    """The handling of an entry may have been interrupted, so the pool looks."""
    idle = pool.acquire()
    pool.release(idle)

    def fail() -> None:
        # As an error between the queue and the next owner of the entry.
        parts.ledger(pool).idle_queue.get_nowait()
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(parts.lifecycle(pool).teardown, "close_idle", fail)
        with pytest.raises(MemoryError):
            pool.extension.forget_all()
    gevent.idle()
    assert idle.end == "discarded" and pool.size == 0
    check_capacity(pool)


def test_a_forgotten_connection_keeps_its_place_in_the_budget(tmp_path: Path) -> None:
    """It is open, and taken in again with the same place."""
    budget = Budget(str(tmp_path / "b"), 1)
    pool: Pool[Any] = Pool(ScriptedConnector(), budget=budget)
    conn = pool.acquire()
    pool.extension.forget_all()
    assert pool.size == 0 and budget.stats().held == 1
    assert pool.extension.adopt(conn) and budget.stats().held == 1
    pool.close()
    assert budget.stats().held == 0


# The rest


def test_an_adapter_reads_the_clock_and_the_limits_of_the_pool() -> None:
    """It measures its own waits as the pool does."""
    clock = Clock()
    limits = Timeouts(reset=7)
    pool: Pool[Any] = Pool(ScriptedConnector(), timeout=3, timeouts=limits)
    clock.rule(pool)
    before = pool.extension.now()
    clock.advance(10)
    assert pool.extension.now() - before == 10
    assert pool.extension.timeout == 3 and pool.extension.timeouts is limits


def test_work_of_an_adapter_ends_with_the_pool(pool: Pool[Any]) -> None:
    """When closing has waited long enough, it is killed as the pool's own greenlets."""
    worker = pool.extension.spawn(Event().wait)
    conn = pool.acquire()
    pool.transfer(conn, None)
    pool.close(timeout=0)
    worker.join()
    assert isinstance(worker.value, gevent.GreenletExit)


def test_the_event_loop_of_the_pool_calls_an_adapter(pool: Pool[Any]) -> None:
    """Soon, and in the hub."""
    with pool.connection():
        pass
    called: list[Any] = []
    pool.extension.call_soon(called.append, 1)
    assert called == []
    gevent.idle()
    assert called == [1]


def test_listeners_hear_of_an_adapter() -> None:
    """Of an outage that the adapter has noticed, for example."""

    class Hearing(PoolListener):
        def paused(self, error: BaseException) -> None:
            heard.append(error)

    heard: list[BaseException] = []
    pool: Pool[Any] = Pool(ScriptedConnector(), listeners=[Hearing()])
    error = OSError()
    pool.extension.notify("paused", error)
    assert heard == [error]


def test_a_block_tells_what_it_holds(pool: Pool[Any]) -> None:
    """Nothing before and after it, and nothing after an early release."""
    block = pool.connection()
    assert block.held() is None
    with block as conn:
        assert block.held() is conn
        pool.release(conn)
        assert block.held() is None


def test_the_defaults_of_a_connector_leave_both_to_the_pool() -> None:
    """Nothing is made at once, and no dead holder is dealt with."""
    connector: Connector[object] = Connector()
    assert connector.open_at_once() is None and not connector.holder_died(object())
    assert not connector.connects_later


# Drivers that repeat an attempt to open a connection


def test_an_attempt_that_pauses_delays_no_other_attempt() -> None:
    """The driver will repeat it, and does nothing until then."""
    pool: Pool[Any]
    gate, paused = Event(), Event()

    def pause() -> None:
        with pool.extension.retry_pause():
            paused.set()
            gate.wait()

    connector = ScriptedConnector(open=[pause, None])
    pool = Pool(connector, max_connections=2, max_connecting=1, timeout=5)
    gevent.spawn(pool.acquire)
    paused.wait()
    with pool.connection():
        pass
    assert paused.is_set() and connector.opening == 1
    gate.set()
    pool.close()


def test_a_waiter_stays_in_line_while_its_attempt_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It gets what the last retry of the driver gets, however long the pauses are."""
    pool: Pool[Any]
    monkeypatch.setattr(opener, "SLOW", 0.0001)
    gate, paused = Event(), Event()

    def pause() -> None:
        attempts = parts.opener(pool).attempts
        wait_until(lambda: bool(attempts.slow))
        with pool.extension.retry_pause():
            assert not attempts.slow
            paused.set()
            gate.wait()

    refusals = [ConnectionRefusedError(n) for n in range(3)]
    connector = ScriptedConnector(open=[pause, *refusals])
    outage = Outage(3, backoff=Backoff(HOUR, maximum=HOUR))
    pool = Pool(connector, max_connections=9, outage=outage)
    patient = gevent.spawn(pool.acquire)
    paused.wait()
    for _ in range(4):
        with pytest.raises(ConnectionRefusedError):
            pool.acquire()
    assert pool.stats().paused and not patient.dead
    gate.set()
    assert patient.get() in connector.opened


def test_a_pause_outside_of_an_attempt_changes_nothing(pool: Pool[Any]) -> None:
    """A driver connects what it has borrowed in the same way."""
    conn = pool.acquire()
    with pool.extension.retry_pause():
        check(pool)
    pool.release(conn)


def test_a_driver_knows_the_attempts_for_which_nobody_waits() -> None:
    """The pool repeats these soon by itself."""
    pool: Pool[Any]
    found: list[bool] = []

    def refuse() -> None:
        found.append(pool.extension.is_probe())
        raise ConnectionRefusedError

    connector = ScriptedConnector(open=[refuse] * 4)
    outage = Outage(3, wait=True, backoff=Backoff(0, maximum=0))
    pool = Pool(connector, max_connections=1, outage=outage)
    pool.release(pool.acquire())
    assert found == [False] * 3 + [True]
