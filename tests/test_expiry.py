"""Nothing dead is lent: ages, idle ages, pings, and the sweep that looks for them."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.select import select

from geventpool import CloseReason, Pool, PoolExhaustedError, TcpConnection, Timeouts
from geventpool._core.housekeeping import Housekeeping
from geventpool.listeners import PoolListener
from geventpool.testing import (
    Clock,
    ScriptedConnection,
    ScriptedConnector,
    check,
    check_capacity,
    sweep,
    switches,
)
from tests import parts
from tests.conftest import HubError
from tests.peers import Echo, Unruly, run_script


class Witness(PoolListener):
    """Remembers why each connection was closed."""

    def __init__(self) -> None:
        self.reasons: list[CloseReason] = []

    def closed(self, conn: Any, reason: CloseReason) -> None:
        self.reasons.append(reason)


class Stage:
    """A pool on a clock one can move, with all that it was asked and did."""

    def __init__(self, **settings: Any) -> None:
        self.connector = ScriptedConnector()
        self.witness = Witness()
        self.clock = Clock()
        self.pool = Pool(self.connector, listeners=[self.witness], **settings)
        self.clock.rule(self.pool)

    def fill(self, number: int) -> list[ScriptedConnection]:
        """So many idle connections; the last one was returned last."""
        lent = [self.pool.acquire() for _ in range(number)]
        for conn in lent:
            self.pool.release(conn)
        return lent

    def sweep(self) -> None:
        """What the reaper does when its time has come, and all that follows."""
        sweep(self.pool)

    def asked(self, verb: str) -> list[ScriptedConnection | None]:
        """What *verb* was called with."""
        return [conn for called, conn in self.connector.calls if called == verb]


# Ages.


def test_an_expired_connection_is_replaced_within_the_same_acquire() -> None:
    """Past its lifetime an idle connection is closed, and its seeker gets a new one."""
    stage = Stage(max_connections=1, max_lifetime=100)
    (old,) = stage.fill(1)
    stage.clock.advance(100)
    new = stage.pool.acquire()
    assert new is not old
    assert old.end == "closed"
    assert stage.connector.peak == 1
    assert stage.witness.reasons == [CloseReason.EXPIRED]


def test_before_its_lifetime_ends_a_connection_is_lent_again() -> None:
    """The lifetime is shortened at random, by no more than a twentieth."""
    stage = Stage(max_lifetime=100)
    (old,) = stage.fill(1)
    stage.clock.advance(94.9)
    assert stage.pool.acquire() is old


def test_a_connection_that_expired_while_lent_is_closed_when_it_comes_back() -> None:
    """An age is no reason to close a connection under its borrower."""
    stage = Stage(max_lifetime=100)
    conn = stage.pool.acquire()
    stage.clock.advance(1000)
    stage.sweep()
    stage.pool.drop_expired()
    gevent.idle()
    assert conn.end is None
    stage.pool.release(conn)
    gevent.idle()
    assert conn.end == "closed"
    assert stage.witness.reasons == [CloseReason.EXPIRED]


def test_a_connection_that_expired_in_a_block_is_closed_after_it() -> None:
    """The end of a block looks at the age as a release does."""
    stage = Stage(max_lifetime=100)
    with stage.pool.connection() as conn:
        stage.clock.advance(101)
    gevent.idle()
    assert conn.end == "closed"


def test_a_sweep_closes_the_expired_and_leaves_the_young() -> None:
    """Each connection has an age of its own."""
    stage = Stage(max_lifetime=100)
    old = stage.pool.acquire()
    stage.clock.advance(60)
    young = stage.pool.acquire()
    stage.pool.release(old)
    stage.pool.release(young)
    stage.clock.advance(50)
    stage.sweep()
    assert (old.end, young.end) == ("closed", None)
    assert stage.pool.idle_connections() == [young]


def test_connections_opened_together_do_not_expire_together() -> None:
    """The lifetimes of a pool are spread over a twentieth of *max_lifetime*."""
    random.seed(7)
    stage = Stage(max_lifetime=1000)
    stage.fill(50)
    ends = sorted(entry.expires for entry in parts.ledger(stage.pool).entries.values())
    begin = stage.clock.now
    assert begin + 950 <= ends[0] and ends[-1] <= begin + 1000
    assert ends[-1] - ends[0] > 30
    stage.clock.advance(975)
    stage.sweep()
    assert 10 < stage.pool.size < 40


def test_a_lifetime_of_nothing_means_one_loan_each() -> None:
    """With *max_lifetime* 0 every loan is of a new connection, and none is wasted."""
    stage = Stage(max_lifetime=0)
    for _ in range(3):
        stage.pool.release(stage.pool.acquire())
        gevent.idle()
    assert [conn.end for conn in stage.connector.opened] == ["closed"] * 3
    assert stage.pool.size == 0


def test_an_idle_connection_too_old_is_replaced_at_acquire() -> None:
    """Unused for *max_idle*, it is closed rather than lent."""
    stage = Stage(max_idle=10)
    (old,) = stage.fill(1)
    stage.clock.advance(10)
    assert stage.pool.acquire() is not old
    assert stage.witness.reasons == [CloseReason.IDLE]


def test_use_makes_a_connection_young_in_idleness() -> None:
    """*max_idle* is counted from the last return."""
    stage = Stage(max_idle=10)
    for _ in range(3):
        conn = stage.pool.acquire()
        stage.clock.advance(9)
        stage.pool.release(conn)
        stage.clock.advance(9)
        stage.sweep()
    assert len(stage.connector.opened) == 1


def test_a_sweep_for_idleness_stops_at_min_connections() -> None:
    """Idleness never takes the pool below *min_connections*."""
    stage = Stage(max_connections=10, min_connections=4, max_idle=10)
    gevent.idle()
    stage.fill(10)
    stage.clock.advance(11)
    stage.sweep()
    stage.sweep()
    assert stage.pool.stats().idle == 4
    assert stage.witness.reasons == [CloseReason.IDLE] * 6


def test_min_connections_are_not_too_idle_to_be_lent() -> None:
    """What *min_connections* keeps past *max_idle* is pinged and lent, not replaced."""
    stage = Stage(min_connections=1, max_idle=10)
    gevent.idle()
    (kept,) = stage.pool.idle_connections()
    stage.clock.advance(11)
    assert stage.pool.acquire() is kept
    assert stage.asked("ping") == [kept]


def test_expiry_goes_below_min_connections_and_they_are_opened_anew() -> None:
    """*min_connections* keeps numbers up, not old connections."""
    stage = Stage(min_connections=3, max_lifetime=100)
    gevent.idle()
    old = stage.pool.idle_connections()
    stage.clock.advance(101)
    stage.sweep()
    assert [conn.end for conn in old] == ["closed"] * 3
    assert stage.pool.stats().idle == 3


# A round trip before it is lent.


def test_a_connection_long_unused_is_pinged_before_it_is_lent() -> None:
    """After *ping_after* seconds a round trip tells whether it lives."""
    stage = Stage(ping_after=5)
    (conn,) = stage.fill(1)
    stage.clock.advance(4.9)
    stage.pool.release(stage.pool.acquire())
    assert stage.asked("ping") == []
    stage.clock.advance(5)
    assert stage.pool.acquire() is conn
    assert stage.asked("ping") == [conn]


def test_a_loan_that_ended_is_a_sign_of_life() -> None:
    """The time without a sign of life begins when the connection comes back."""
    stage = Stage(ping_after=10)
    conn = stage.pool.acquire()
    stage.clock.advance(60)
    stage.pool.release(conn)
    stage.clock.advance(5)
    assert stage.pool.acquire() is conn
    assert not stage.asked("ping")


@pytest.mark.parametrize("ping", ["ping_after", "ping_interval"])
def test_a_connection_just_opened_is_not_pinged(ping: str) -> None:
    """It has answered the opening a moment ago."""
    stage = Stage(min_connections=1, reap_interval=3600, **{ping: 60})
    gevent.idle()
    stage.sweep()
    stage.pool.acquire()
    assert [verb for verb, _ in stage.connector.calls] == ["open"]


def test_with_ping_after_0_every_loan_is_checked() -> None:
    """0 means always."""
    stage = Stage(ping_after=0)
    stage.fill(1)
    for _ in range(3):
        stage.pool.release(stage.pool.acquire())
    assert len(stage.asked("ping")) == 3


def test_a_connection_that_does_not_answer_is_replaced_within_the_same_acquire() -> (
    None
):
    """Its seeker gets another one and hears nothing of it."""
    stage = Stage(max_connections=1, ping_after=5)
    (dead,) = stage.fill(1)
    stage.connector.script("ping", OSError("no answer"))
    stage.clock.advance(5)
    assert stage.pool.acquire() is not dead
    assert dead.end == "discarded"
    assert stage.witness.reasons == [CloseReason.PING_FAILED]


def test_after_a_failed_check_nobody_waits_for_the_next_one() -> None:
    """Others of its age may be as dead: a new connection is opened at once."""
    stage = Stage(max_connections=2, ping_after=5)
    stage.fill(2)
    # One check fails, and the other has no end.
    stage.connector.script("ping", OSError("no answer"), Event())
    stage.clock.advance(5)
    seeker = gevent.spawn(stage.pool.acquire)
    gevent.idle()
    assert seeker.dead and seeker.value is stage.connector.opened[2]
    stage.pool.close(timeout=0)


def test_a_ping_without_end_is_cut_off_and_the_connection_replaced() -> None:
    """A ping takes no longer than its limit."""
    stage = Stage(max_connections=1, ping_after=5, timeouts=Timeouts(ping=0))
    (deaf,) = stage.fill(1)
    stage.connector.script("ping", Event())
    stage.clock.advance(5)
    assert stage.pool.acquire() is not deaf
    assert stage.witness.reasons == [CloseReason.PING_FAILED]


def test_a_ping_gives_a_connection_another_ping_after() -> None:
    """A connection that has just answered needs no further ping."""
    stage = Stage(ping_after=5, ping_interval=4)
    (conn,) = stage.fill(1)
    stage.clock.advance(4)
    stage.sweep()
    stage.clock.advance(4)
    assert stage.asked("ping") == [conn]
    assert stage.pool.acquire() is conn
    assert stage.asked("ping") == [conn]


# Keep-alive.


def test_idle_connections_are_pinged_every_ping_interval() -> None:
    """So that no server and no firewall thinks they have been forgotten."""
    stage = Stage(ping_interval=30)
    stage.fill(2)
    for _ in range(3):
        stage.clock.advance(30)
        stage.sweep()
    assert len(stage.asked("ping")) == 6
    stage.clock.advance(29)
    stage.sweep()
    assert len(stage.asked("ping")) == 6


def test_the_reaper_comes_as_often_as_keep_alive_needs() -> None:
    """A *ping_interval* shorter than *reap_interval* is kept all the same."""
    assert parts.lifecycle(Stage(ping_interval=30).pool).housekeeping.interval == 30
    assert parts.lifecycle(Stage(ping_interval=300).pool).housekeeping.interval == 180
    assert parts.lifecycle(Stage().pool).housekeeping.interval == 180


def test_pings_do_not_make_a_connection_less_idle() -> None:
    """*max_idle* ends what nobody uses, however often it was pinged."""
    stage = Stage(ping_interval=4, max_idle=10)
    (conn,) = stage.fill(1)
    for _ in range(3):
        stage.clock.advance(4)
        stage.sweep()
    assert conn.end == "closed"
    assert len(stage.asked("ping")) == 2
    assert stage.witness.reasons == [CloseReason.IDLE]


@pytest.mark.parametrize("lifo", [True, False])
def test_pings_do_not_change_the_order_of_reuse(lifo: bool) -> None:
    """Else the surplus would be mixed with what is in use, and would never age."""
    stage = Stage(ping_interval=4, lifo=lifo)
    lent = [stage.pool.acquire() for _ in range(4)]
    order = [lent[index] for index in (2, 0, 3, 1)]
    for conn in order:
        stage.pool.release(conn)
    # The answers come in an order of their own.
    stage.connector.script("ping", lambda: gevent.sleep(0))
    stage.clock.advance(4)
    stage.sweep()
    assert len(stage.asked("ping")) == 4
    again = [stage.pool.acquire() for _ in range(4)]
    assert again == (order[::-1] if lifo else order)


def test_a_connection_that_is_pinged_is_lent_as_soon_as_it_answers() -> None:
    """A waiter is served by a keep-alive ping that ends well."""
    stage = Stage(max_connections=1, ping_interval=4)
    (conn,) = stage.fill(1)
    answer = Event()
    stage.connector.script("ping", answer)
    stage.clock.advance(4)
    stage.sweep()
    seeker = gevent.spawn(stage.pool.acquire, timeout=5)
    gevent.idle()
    assert not seeker.dead
    answer.set()
    assert seeker.get() is conn
    check(stage.pool)


def test_a_keep_alive_ping_that_fails_costs_that_connection_only() -> None:
    """The others stay, and its place is free."""
    stage = Stage(max_connections=3, ping_interval=4)
    first, second, third = stage.fill(3)
    stage.connector.script("ping", None, OSError("gone"))
    stage.clock.advance(4)
    stage.sweep()
    assert [first.end, second.end, third.end] == [None, "discarded", None]
    check_capacity(stage.pool)


def test_lent_connections_are_not_pinged() -> None:
    """Only what is idle is the pool's to speak on."""
    stage = Stage(ping_interval=4)
    conn = stage.pool.acquire()
    stage.clock.advance(40)
    stage.sweep()
    assert stage.asked("ping") == []
    stage.pool.release(conn)


def test_pings_need_no_reaping() -> None:
    """With *reap_expired_connections* False there is keep-alive, and nothing else."""
    stage = Stage(reap_expired_connections=False, ping_interval=4, max_idle=10)
    (conn,) = stage.fill(1)
    stage.clock.advance(11)
    stage.sweep()
    assert stage.asked("ping") == [conn]
    assert conn.end is None


# Quiet sockets.


def test_an_idle_connection_that_broke_is_replaced_within_the_same_acquire() -> None:
    """A seeker never sees a connection of which the pool can tell that it is dead."""
    stage = Stage(max_connections=2)
    first, second = stage.fill(2)
    second.is_usable = False
    assert stage.pool.acquire() is first
    assert second.end == "discarded"
    first.is_usable = False
    stage.pool.release(first)
    assert stage.pool.acquire() not in (first, second)
    assert stage.witness.reasons == [CloseReason.UNUSABLE] * 2


def test_a_sweep_finds_what_broke() -> None:
    """The place of a dead idle connection does not wait for a borrower."""
    stage = Stage()
    conns = stage.fill(3)
    conns[1].is_usable = False
    stage.sweep()
    assert stage.pool.idle_connections() == [conns[0], conns[2]]
    assert conns[1].end == "discarded"


def test_a_server_that_hung_up_is_noticed_at_acquire() -> None:
    """After a restart of the server the first borrower gets a fresh connection."""
    with Echo() as echo:
        pool = Pool(TcpConnection, echo.options, max_connections=2)
        with pool.connection() as before:
            before.send(b"1")
            assert before.recv() == b"1"
        echo.hang_up_all()
        with pool.connection() as conn:
            assert conn is not before
            conn.send(b"2")
            assert conn.recv() == b"2"
        assert not before.is_connected()
        pool.close()


def test_an_answer_that_nobody_read_never_reaches_the_next_borrower() -> None:
    """A connection with something to read is not lent again."""
    with Unruly("chatty") as peer:
        pool = Pool(TcpConnection, peer.options, max_connections=1)
        with pool.connection() as conn:
            conn.send(b"secret")
            conn.recv(6)
            # The rest is on its way; wait until it is here, but leave it there.
            select([conn.get()], [], [], 5)
        peer.behaviour = "echo"
        with pool.connection() as conn:
            conn.send(b"mine")
            assert conn.recv() == b"mine"
        pool.close()


def test_a_sweep_finds_a_socket_that_was_hung_up() -> None:
    """The descriptor of a dead idle connection is not kept until it is asked for."""
    with Echo() as echo:
        pool = Pool(TcpConnection, echo.options, 3, 3)
        echo.wait_open(3)
        echo.hang_up_all()
        echo.wait_open(0)
        pool.drop_expired()
        assert pool.size == 0
        pool.close()


# The order of reuse.


def test_lifo_lets_the_surplus_age() -> None:
    """The most recently used is lent first; what one load needs not grows idle."""
    stage = Stage(max_idle=10)
    stage.fill(5)
    for _ in range(4):
        stage.clock.advance(3)
        stage.pool.release(stage.pool.acquire())
    stage.sweep()
    assert stage.pool.size == 1


def test_fifo_keeps_all_of_them_in_use() -> None:
    """The least recently used is lent first, so that all stay young."""
    stage = Stage(max_idle=20, lifo=False)
    stage.fill(5)
    for _ in range(10):
        stage.clock.advance(3)
        stage.pool.release(stage.pool.acquire())
        stage.sweep()
    assert stage.pool.size == 5
    assert stage.witness.reasons == []


# The floor.


def test_min_connections_are_opened_in_the_background() -> None:
    """The constructor does not wait for them."""
    with switches() as seen:
        stage = Stage(min_connections=3)
    assert seen == []
    assert stage.pool.size <= 3
    gevent.idle()
    assert stage.pool.stats().idle == 3


def test_no_more_than_max_connecting_are_opened_at_a_time_for_the_stock() -> None:
    """Filling to the minimum opens no more connections at a time than borrowers do."""
    stage = Stage(min_connections=5, max_connecting=2)
    assert len(parts.ledger(stage.pool).opening) == 2
    gevent.idle()
    assert stage.pool.stats().idle == 5
    assert stage.connector.peak == 5


@pytest.mark.parametrize("loss", ["drop", "block", "drain", "expiry"])
def test_min_connections_are_made_up(loss: str) -> None:
    """Whatever was lost is opened anew in the background, without a borrower."""
    stage = Stage(min_connections=2, max_lifetime=100)
    gevent.idle()
    first, second = stage.pool.idle_connections()
    if loss == "drop":
        stage.pool.drop(first)
    elif loss == "block":
        with pytest.raises(KeyError), stage.pool.connection():
            raise KeyError
    elif loss == "drain":
        stage.pool.drain()
    else:
        stage.clock.advance(101)
        stage.pool.drop_expired()
    gevent.idle()
    assert stage.pool.stats().idle == 2
    assert len(stage.connector.opened) > 2


def test_after_a_failure_the_stock_waits_for_the_next_sweep() -> None:
    """A server that is down is not dialled without pause."""
    stage = Stage(min_connections=2, max_connecting=1)
    stage.connector.script("open", *[OSError("down")] * 2)
    gevent.idle()
    assert len(stage.asked("open")) == 1
    stage.sweep()
    assert len(stage.asked("open")) == 2
    stage.sweep()
    assert stage.pool.stats().idle == 2


def test_dialling_for_the_stock_serves_a_waiter() -> None:
    """A connection opened for the minimum goes to a waiter, if there is one by then."""
    stage = Stage(max_connections=1, min_connections=1)
    may_open = Event()
    stage.connector.script("open", may_open)
    seeker = gevent.spawn(stage.pool.acquire)
    gevent.idle()
    may_open.set()
    assert seeker.get() is stage.connector.opened[0]
    assert len(stage.asked("open")) == 1


# The reaper.


def test_the_reaper_sweeps_again_and_again() -> None:
    """Nobody has to call anything for dead connections to go."""
    stage = Stage(reap_interval=0.001)
    gone = Event()
    conns = stage.fill(2)
    for conn in conns:
        conn.is_usable = False
        stage.witness.closed = lambda conn, reason: gone.set()  # type: ignore
        assert gone.wait(5)
        gone.clear()
    stage.pool.close()


def test_without_reaping_nothing_is_closed_in_the_background() -> None:
    """*reap_expired_connections* False starts no reaper; acquire looks all the same."""
    stage = Stage(reap_expired_connections=False, max_lifetime=100)
    (old,) = stage.fill(1)
    assert parts.reaper(stage.pool) is None
    stage.clock.advance(101)
    gevent.idle()
    assert old.end is None
    assert stage.pool.acquire() is not old


def test_drop_expired_closes_what_a_sweep_would() -> None:
    """It works without a reaper, and it never switches."""
    stage = Stage(reap_expired_connections=False, max_lifetime=100)
    old, broken = stage.fill(2)
    broken.is_usable = False
    stage.clock.advance(101)
    with switches() as seen:
        stage.pool.drop_expired()
    assert seen == []
    gevent.idle()
    assert stage.pool.size == 0
    assert {old.end, broken.end} == {"closed"}


def test_drop_expired_leaves_what_is_lent() -> None:
    """Neither age nor silence closes a connection under its borrower."""
    stage = Stage(max_lifetime=100)
    conn = stage.pool.acquire()
    conn.is_usable = False
    stage.clock.advance(101)
    stage.pool.drop_expired()
    stage.sweep()
    assert conn.end is None
    assert stage.pool.lent_connections() == [conn]


@pytest.mark.parametrize(
    "trouble", ["close", "ping", "is_usable", "timeout in close", "timeout in ping"]
)
def test_the_reaper_outlives(trouble: str, hub_errors: list[HubError]) -> None:
    """One bad connection spoils neither the sweep nor the next ones."""
    stage = Stage(max_connections=4, ping_interval=4, max_lifetime=100)
    conns = stage.fill(4)
    verb = trouble.split()[-1]
    error = gevent.Timeout() if "timeout" in trouble else OSError("trouble")
    if verb == "is_usable":
        stage.connector.is_usable = fails_for(conns[0])  # type: ignore[assignment, method-assign]
    else:
        stage.connector.script(verb, error, error)
    stage.clock.advance(101 if verb == "close" else 4)
    stage.sweep()
    assert conns[0].end is not None
    hub_errors.clear()
    assert parts.reaper(stage.pool) is not None and parts.reaper(stage.pool).is_alive
    stage.sweep()
    check_capacity(stage.pool)


def fails_for(bad: ScriptedConnection) -> Callable[[ScriptedConnection], bool]:
    """An ``is_usable`` that raises when it is asked about *bad*."""

    def is_usable(conn: ScriptedConnection) -> bool:
        if conn is bad:
            raise ZeroDivisionError
        return conn.end is None

    return is_usable


@pytest.mark.parametrize("error", [OSError, gevent.Timeout])
def test_a_sweep_that_fails_is_not_the_last(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a sweep raises is logged, and the next one comes."""
    stage = Stage(reap_interval=0.001)
    swept: list[object] = []
    again = Event()

    def fail_at_first(*lifecycle: object) -> None:
        swept.append(lifecycle)
        if len(swept) == 1:
            raise error
        again.set()

    monkeypatch.setattr(Housekeeping, "sweep", fail_at_first)
    stage.fill(1)
    reaper = parts.reaper(stage.pool)
    assert reaper is not None
    assert again.wait(5)
    assert reaper.is_alive
    stage.pool.close()


def test_a_killed_reaper_is_replaced() -> None:
    """Code that kills every greenlet does not end the sweeping."""
    stage = Stage(max_connections=2)
    stage.fill(1)
    reaper = parts.reaper(stage.pool)
    assert reaper is not None
    reaper.greenlet.kill()
    stage.fill(2)
    assert parts.reaper(stage.pool) is not None
    assert parts.reaper(stage.pool) is not reaper and parts.reaper(stage.pool).is_alive


def test_a_long_sweep_lets_the_others_run() -> None:
    """It pauses every few milliseconds, not only when it has finished."""
    stage = Stage()
    conns = stage.fill(20)
    looked: list[ScriptedConnection] = []

    def is_usable(conn: ScriptedConnection) -> bool:
        stage.clock.advance(0.001)
        looked.append(conn)
        return True

    stage.connector.is_usable = is_usable  # type: ignore[method-assign]
    sweep = gevent.Greenlet(parts.lifecycle(stage.pool).housekeeping.sweep)
    with switches(sweep) as seen:
        sweep.start()
        sweep.join(5)
    assert looked == conns
    # One after every third connection: more than two milliseconds are over then.
    assert len(seen) >= 6


def test_a_sweep_survives_whatever_happens_in_its_pauses() -> None:
    """What was borrowed, returned or dropped meanwhile is looked at as it is then."""
    stage = Stage(max_lifetime=100)
    conns = stage.fill(12)
    stage.clock.advance(101)

    def is_overdue_and_slow(entry: Any, now: float) -> CloseReason | None:
        stage.clock.advance(0.003)
        return expiry_reason(entry, now)

    expiry_reason = parts.lifecycle(stage.pool).readiness.expiry_reason
    parts.lifecycle(stage.pool).readiness.expiry_reason = is_overdue_and_slow  # type: ignore[method-assign]
    sweep = gevent.spawn(parts.lifecycle(stage.pool).housekeeping.sweep)
    gevent.sleep(0)
    for conn in stage.pool.idle_connections()[:3]:
        stage.pool.drop(conn)
    taken = stage.pool.acquire()
    sweep.join(5)
    gevent.idle()
    assert [conn.end for conn in conns] == ["closed"] * 12
    assert taken.end is None
    check(stage.pool)


def test_a_forgotten_pool_is_collected_though_it_has_a_reaper() -> None:
    """The reaper's reference is weak, and it ends with the pool."""
    stage = Stage(initial_connections=1)
    reaper = parts.reaper(stage.pool)
    forgotten = weakref.ref(stage.pool)
    assert reaper is not None and reaper.is_alive
    # Into its sleep first: there it must hold nothing.
    gevent.idle()
    del stage
    gc.collect()
    assert forgotten() is None
    gevent.idle()
    assert not reaper.is_alive


def test_a_reaper_does_not_keep_the_loop_alive() -> None:
    """A program whose work is done ends, though its pools wait for their next sweep."""
    assert (
        run_script("""
import gevent
from geventpool import Pool
from geventpool.testing import ScriptedConnector
pool = Pool(ScriptedConnector(), initial_connections=1, reap_interval=3600)
gevent.wait()
print(pool._lifecycle.housekeeping.reaper.is_alive)
""")
        == "True\n"
    )


def test_at_the_limit_an_expired_connection_gives_way_in_no_time_or_not_at_all() -> (
    None
):
    """With *timeout* 0 nobody waits for the goodbye, but the place is free after it."""
    stage = Stage(max_connections=1, max_lifetime=100)
    stage.fill(1)
    stage.clock.advance(101)
    with pytest.raises(PoolExhaustedError):
        stage.pool.acquire(timeout=0)
    gevent.idle()
    assert stage.pool.acquire(timeout=5).end is None
