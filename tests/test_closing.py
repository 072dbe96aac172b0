"""The end of a pool, and the changes of the whole: close, drain, resize."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
import pytest
from gevent.event import Event

from geventpool import (
    Backoff,
    CloseReason,
    ConnectionNotFoundError,
    Pool,
    PoolClosedError,
    PoolExhaustedError,
    TcpConnection,
    Timeouts,
)
from geventpool.listeners import PoolListener
from geventpool.testing import (
    INTERRUPTIONS,
    Clock,
    ScriptedConnection,
    ScriptedConnector,
    check,
    check_capacity,
    interrupt_everywhere,
    sweep,
    switches,
)
from tests import parts
from tests.peers import Echo, Unruly


class Witness(PoolListener):
    """Remembers why each connection was closed."""

    def __init__(self) -> None:
        self.reasons: list[CloseReason] = []

    def closed(self, conn: Any, reason: CloseReason) -> None:
        self.reasons.append(reason)


@pytest.fixture
def connector() -> ScriptedConnector:
    return ScriptedConnector()


def fill(pool: Pool[Any], number: int) -> list[Any]:
    """So many idle connections."""
    lent = [pool.acquire() for _ in range(number)]
    for conn in lent:
        pool.release(conn)
    return lent


def hold(pool: Pool[Any], until: Event) -> gevent.Greenlet[..., Any]:
    """A greenlet that holds a connection until an event."""

    def holder() -> Any:
        with pool.connection() as conn:
            until.wait()
            return conn

    greenlet = gevent.spawn(holder)
    gevent.idle()
    return greenlet


def outcome(seek: Callable[[], object]) -> Callable[[], object]:
    """What *seek* gives, or what it raises."""

    def run() -> object:
        try:
            return seek()
        except Exception as error:
            return error

    return run


def in_line(pool: Pool[Any], number: int = 1) -> list[gevent.Greenlet[..., Any]]:
    """So many greenlets that wait for a connection, and end with it or an error."""
    seek = outcome(partial(pool.acquire, reclaim=False))
    seekers = [gevent.spawn(seek) for _ in range(number)]
    gevent.idle()
    return seekers


# close


def test_close_says_goodbye_to_the_idle_ones(connector: ScriptedConnector) -> None:
    """When close returns, nothing is open any more."""
    pool = Pool(connector)
    conns = fill(pool, 20)
    assert pool.close() == []
    assert [conn.end for conn in conns] == ["closed"] * 20
    assert pool.closed and pool.size == 0
    assert repr(pool).endswith(
        " closed 0/200: 0 idle, 0 in use, 0 opening, 0 closing, 0 waiting>"
    )


def test_a_pool_never_used_is_closed_at_once(connector: ScriptedConnector) -> None:
    """There is nothing to wait for, and nothing to switch for."""
    pool = Pool(connector)
    with switches() as seen:
        assert pool.close() == []
    assert seen == []


def test_close_fails_everyone_in_line(connector: ScriptedConnector) -> None:
    """The waiters get the error at once, and not when their timeouts pass."""
    pool = Pool(connector, max_connections=1, timeout=None)
    conn = pool.acquire()
    seekers = in_line(pool, 3)
    pool.close(timeout=0)
    gevent.idle()
    assert [type(seeker.value) for seeker in seekers] == [PoolClosedError] * 3
    assert "closed while you waited" in str(seekers[0].value)
    pool.release(conn)


def test_a_closed_pool_refuses_newcomers(connector: ScriptedConnector) -> None:
    """Nothing is lent, not even what would have been there."""
    pool = Pool(connector, name="done")
    fill(pool, 1)
    pool.close()
    with pytest.raises(PoolClosedError, match="'done' is closed"):
        pool.acquire()
    with pytest.raises(PoolClosedError), pool.connection():
        raise AssertionError
    assert len(connector.opened) == 1


def test_known_holders_are_refused_too(connector: ScriptedConnector) -> None:
    """The fast path of a greenlet that borrowed before is closed as well."""
    pool = Pool(connector)
    mine = pool.acquire()
    pool.close()
    pool.release(mine)
    with pytest.raises(PoolClosedError):
        pool.acquire()


def test_close_waits_for_the_holders(connector: ScriptedConnector) -> None:
    """A loan is ended by its holder; what comes back is closed."""
    pool = Pool(connector)
    done = [Event(), Event()]
    holders = [hold(pool, event) for event in done]
    closing = gevent.spawn(pool.close)
    gevent.idle()
    assert not closing.dead and pool.closed
    done[0].set()
    gevent.idle()
    assert not closing.dead
    done[1].set()
    assert closing.get() == []
    assert [holder.get().end for holder in holders] == ["closed"] * 2


def test_what_is_not_back_in_time_is_cut_off_and_reported(
    connector: ScriptedConnector,
) -> None:
    """After *timeout* the loans are ended under their holders, who are named."""
    pool = Pool(connector, max_connections=2)
    clock = Clock()
    clock.rule(pool)
    done = Event()
    late, later = hold(pool, done), hold(pool, done)
    clock.advance(7)
    # The clock stands still, so only the wait itself can end it.
    loans = pool.close(timeout=0)
    assert [loan.seconds for loan in loans] == [7, 7]
    assert {loan.holder for loan in loans} == {repr(late), repr(later)}
    assert all("test_closing.py" in loan.place for loan in loans)
    assert all(" in holder" in loan.place for loan in loans)
    assert [conn.end for conn in connector.opened] == ["discarded"] * 2
    assert pool.size == 0
    done.set()
    gevent.joinall([late, later], raise_error=True)
    assert pool.size == 0


def test_close_waits_no_longer_than_its_timeout(connector: ScriptedConnector) -> None:
    """The time is measured by the clock of the pool and by the loop."""
    pool = Pool(connector)
    holder = hold(pool, Event())
    assert len(pool.close(timeout=0.01)) == 1
    holder.kill()
    assert pool.size == 0


def test_a_loan_cut_off_cannot_be_given_back(connector: ScriptedConnector) -> None:
    """A bare loan that was ended by close is nobody's any more."""
    pool = Pool(connector)
    given = Event()

    def holder() -> None:
        conn = pool.acquire()
        given.wait()
        with pytest.raises(ConnectionNotFoundError):
            pool.release(conn)

    late = gevent.spawn(holder)
    gevent.idle()
    assert len(pool.close(timeout=0)) == 1
    given.set()
    late.get()


def test_closing_twice_is_fine(connector: ScriptedConnector) -> None:
    """The second close finds nothing to do."""
    pool = Pool(connector)
    fill(pool, 1)
    pool.close()
    assert pool.close() == []
    assert pool.close(timeout=0) == []
    assert [verb for verb, _ in connector.calls] == ["open", "close"]


def test_two_may_close_at_the_same_time(connector: ScriptedConnector) -> None:
    """Both wait for the holders, and both return."""
    pool = Pool(connector)
    done = Event()
    hold(pool, done)
    closers = [gevent.spawn(pool.close) for _ in range(2)]
    gevent.idle()
    assert not any(closer.dead for closer in closers)
    done.set()
    assert gevent.joinall(closers, timeout=5) == closers
    assert [closer.value for closer in closers] == [[], []]


def test_an_impatient_close_ends_a_patient_one(connector: ScriptedConnector) -> None:
    """What one of them cut off the other need not wait for."""
    pool = Pool(connector)
    done = Event()
    hold(pool, done)
    patient = gevent.spawn(pool.close)
    gevent.idle()
    assert len(pool.close(timeout=0)) == 1
    patient.join(5)
    assert patient.value == []
    done.set()


def test_the_hub_may_close_but_does_not_wait(connector: ScriptedConnector) -> None:
    """From a hub callback what is lent or queued for a goodbye is cut off at once."""
    pool = Pool(connector, max_connections=2)
    fill(pool, 2)
    done = Event()
    hold(pool, done)
    reports: list[Any] = []
    gevent.get_hub().loop.run_callback(lambda: reports.append(pool.close()))
    gevent.idle()
    assert [len(report) for report in reports] == [1]
    assert {conn.end for conn in connector.opened} == {"discarded"}
    assert pool.size == 0
    done.set()
    gevent.idle()


def test_close_waits_for_a_dial_under_way(connector: ScriptedConnector) -> None:
    """A connection that was being opened is closed as soon as it is open."""
    may_open = Event()
    connector.script("open", may_open)
    pool = Pool(connector)
    (seeker,) = in_line(pool)
    closing = gevent.spawn(pool.close)
    gevent.idle()
    assert isinstance(seeker.value, PoolClosedError) and not closing.dead
    may_open.set()
    assert closing.get() == []
    assert [conn.end for conn in connector.opened] == ["closed"]


def test_close_waits_for_a_dial_that_fails(connector: ScriptedConnector) -> None:
    """A failed opening is as good an end as any."""
    may_open = Event()

    def fail() -> None:
        may_open.wait()
        raise OSError("down")

    connector.script("open", fail)
    pool = Pool(connector)
    in_line(pool)
    closing = gevent.spawn(pool.close)
    gevent.idle()
    may_open.set()
    assert closing.get() == []
    assert connector.calls == [("open", None)]


def test_a_dial_not_ended_in_time_is_ended(connector: ScriptedConnector) -> None:
    """After *timeout* close kills the opening; nothing comes of it."""
    connector.script("open", Event())
    pool = Pool(connector)
    in_line(pool)
    assert pool.close(timeout=0) == []
    gevent.idle()
    assert connector.opening == 0 and connector.opened == []
    assert pool.size == 0


def test_a_dial_that_does_not_heed_its_end_is_of_no_use(
    connector: ScriptedConnector,
) -> None:
    """A connection that is opened in spite of the kill is let go at once."""

    def stubborn() -> None:
        try:
            Event().wait()
        except gevent.GreenletExit:
            pass

    connector.script("open", stubborn)
    pool = Pool(connector)
    in_line(pool)
    pool.close(timeout=0)
    gevent.idle()
    assert [conn.end for conn in connector.opened] == ["discarded"]
    assert pool.size == 0


def test_a_dial_that_fails_at_its_end_is_of_no_interest(
    connector: ScriptedConnector,
) -> None:
    """Nobody is told that an opening failed which close has cut off."""

    def stubborn() -> None:
        try:
            Event().wait()
        except gevent.GreenletExit:
            raise OSError("down") from None

    connector.script("open", stubborn)
    pool = Pool(connector)
    in_line(pool)
    pool.close(timeout=0)
    gevent.idle()
    assert connector.opened == [] and pool.size == 0


def test_a_full_server_is_not_dialled_after_close(
    connector: ScriptedConnector,
) -> None:
    """The pause between two tries is the last."""
    connector.exhausting = (OSError,)
    connector.script("open", *[OSError("full")] * 3)
    pool = Pool(connector, backoff=Backoff(0.001, jitter=0))
    seeker = gevent.spawn(outcome(pool.acquire))
    gevent.sleep(0)
    gevent.sleep(0)
    assert len(connector.calls) == 1
    pool.close()
    assert len(connector.calls) == 1
    assert isinstance(seeker.get(), PoolClosedError)


@pytest.mark.parametrize("returned_by", ["another", "the closer"])
def test_close_waits_for_a_reset(
    connector: ScriptedConnector, returned_by: str
) -> None:
    """A connection that is cleaned up is closed thereafter."""
    pool = Pool(connector)
    clean = Event()
    connector.script("reset", clean)

    def borrow() -> None:
        conn = pool.acquire()
        conn.needs_reset = True
        pool.release(conn)

    if returned_by == "another":
        gevent.spawn(borrow).join()
    else:
        borrow()
    gevent.idle()
    assert pool.stats().resetting == 1
    closing = gevent.spawn(pool.close) if returned_by == "another" else None
    if closing is None:
        gevent.get_hub().loop.run_callback(clean.set)
        assert pool.close() == []
    else:
        gevent.idle()
        assert not closing.dead
        clean.set()
        assert closing.get() == []
    assert connector.opened[0].end == "closed"


def test_a_reset_not_ended_in_time_is_ended(connector: ScriptedConnector) -> None:
    """It is no loan, so it is not reported."""
    pool = Pool(connector)
    connector.script("reset", Event())
    conn = pool.acquire()
    conn.needs_reset = True
    pool.release(conn)
    gevent.idle()
    assert pool.close(timeout=0) == []
    gevent.idle()
    assert conn.end == "discarded" and pool.size == 0


def test_close_waits_for_a_check(connector: ScriptedConnector) -> None:
    """A connection that is being pinged is closed when it has answered."""
    pool = Pool(connector, ping_after=0)
    fill(pool, 1)
    answer = Event()
    connector.script("ping", answer)
    (seeker,) = in_line(pool)
    closing = gevent.spawn(pool.close)
    gevent.idle()
    assert isinstance(seeker.value, PoolClosedError) and not closing.dead
    answer.set()
    assert closing.get() == []
    assert connector.opened[0].end == "closed"


def test_close_does_not_wait_for_an_answer_longer_than_it_may(
    connector: ScriptedConnector,
) -> None:
    """A ping without end is cut off like everything else."""
    pool = Pool(connector, ping_after=0)
    fill(pool, 1)
    connector.script("ping", Event())
    in_line(pool)
    assert pool.close(timeout=0) == []
    gevent.idle()
    assert connector.opened[0].end == "discarded" and pool.size == 0


@pytest.mark.parametrize("end", ["raises", "takes too long", "is cut off"])
def test_a_goodbye_that_fails_lets_go_all_the_same(
    connector: ScriptedConnector, end: str
) -> None:
    """A connection is closed, whatever the server says to it."""
    script = OSError("reset by peer") if end == "raises" else Event()
    connector.script("close", script)
    limit = 0 if end == "takes too long" else 5
    pool = Pool(connector, timeouts=Timeouts(close=limit))
    conns = fill(pool, 2)
    assert pool.close(timeout=0.01 if end == "is cut off" else None) == []
    gevent.idle()
    assert all(conn.end for conn in conns)
    assert pool.size == 0


def test_a_goodbye_that_fails_lets_go_of_the_descriptor() -> None:
    """A connector whose close raises before it has closed anything costs no socket."""

    class Rude(ScriptedConnector):
        def close(self, conn: ScriptedConnection) -> None:
            raise OSError("no goodbye")

    connector = Rude()
    pool = Pool(connector)
    fill(pool, 1)
    pool.drain()
    gevent.idle()
    assert pool.size == 0 and not connector.now_open


def test_what_is_cut_off_is_not_spoken_to(connector: ScriptedConnector) -> None:
    """A goodbye that was queued when the time was over is not said any more."""
    connector.script("close", *[Event()] * 16)
    pool = Pool(connector, max_connections=40)
    fill(pool, 40)
    pool.close(timeout=0.01)
    gevent.idle()
    assert [verb for verb, _ in connector.calls].count("close") == 16
    assert all(conn.end for conn in connector.opened)


def test_the_closer_does_not_wait_for_himself(connector: ScriptedConnector) -> None:
    """Its own loans stay valid; they are closed when it gives them back."""
    pool = Pool(connector)
    with pool.connection() as lent:
        mine = pool.acquire()
        assert pool.close() == []
        assert (lent.end, mine.end) == (None, None)
        assert pool.stats().in_use == 2
    pool.release(mine)
    gevent.idle()
    assert (lent.end, mine.end) == ("closed", "closed")
    assert pool.size == 0


def test_the_closers_own_loans_outlive_a_close_in_haste(
    connector: ScriptedConnector,
) -> None:
    """Cutting off twenty goodbyes leaves somebody who closes what comes back later."""
    pool = Pool(connector, max_connections=30)
    mine = pool.acquire()
    fill(pool, 20)
    pool.close(timeout=0)
    assert mine.end is None
    pool.release(mine)
    gevent.idle()
    assert mine.end == "closed" and pool.size == 0


def test_a_holder_that_dies_no_longer_holds_up_a_close(
    connector: ScriptedConnector,
) -> None:
    """A loan that nobody can give back any more is not waited for."""
    pool = Pool(connector)
    holder = gevent.spawn(lambda: (pool.acquire(), Event().wait()))
    gevent.idle()
    closing = gevent.spawn(pool.close)
    gevent.idle()
    assert not closing.dead
    holder.kill()
    assert closing.get() == []


def test_pollers_too_hear_of_a_close(connector: ScriptedConnector) -> None:
    """Without hand-off it is their next look that tells them."""
    backoff = Backoff(0.001, factor=1, jitter=0)
    pool = Pool(connector, max_connections=1, handoff=False, backoff=backoff)
    conn = pool.acquire()
    seeker = gevent.spawn(outcome(pool.acquire))
    gevent.sleep(0)
    pool.close()
    seeker.join(5)
    assert isinstance(seeker.value, PoolClosedError)
    pool.release(conn)


def test_nothing_is_opened_after_close(connector: ScriptedConnector) -> None:
    """Not for the stock, and not by the reaper, which has ended."""
    pool = Pool(connector, min_connections=2)
    gevent.idle()
    reaper = parts.reaper(pool)
    pool.close()
    pool.drop_expired()
    pool.drain()
    sweep(pool)
    gevent.idle()
    assert reaper is not None and not reaper.is_alive
    assert len(connector.opened) == 2 and pool.size == 0


def test_a_loan_that_comes_back_late_is_closed(connector: ScriptedConnector) -> None:
    """A close that was interrupted leaves a closed pool, not an open one."""
    pool = Pool(connector)
    done = Event()
    holder = hold(pool, done)
    closing = gevent.spawn(pool.close)
    gevent.idle()
    closing.kill()
    assert pool.closed
    with pytest.raises(PoolClosedError):
        pool.acquire()
    done.set()
    conn = holder.get()
    gevent.idle()
    assert conn.end == "closed" and pool.size == 0


def test_an_interrupted_close_can_be_repeated() -> None:
    """Whatever strikes a closer, the next close leaves nothing."""
    for interruption in INTERRUPTIONS:
        connector = ScriptedConnector(close=[Event()])
        pool = Pool(connector)
        fill(pool, 2)

        def close(pool: Pool[Any] = pool) -> None:
            # What is thrown here would else stop the whole run.
            with pytest.raises(interruption):
                pool.close()

        closing = gevent.spawn(close)
        gevent.idle()
        closing.kill(interruption())
        pool.close(timeout=0)
        gevent.idle()
        assert all(conn.end for conn in connector.opened) and pool.size == 0


def test_a_block_is_closed_at_its_end(connector: ScriptedConnector) -> None:
    """A pool is a context manager whose end closes it."""
    with Pool(connector) as pool:
        fill(pool, 1)
        assert not pool.closed
    assert pool.closed
    assert connector.opened[0].end == "closed"


def test_a_block_is_closed_when_it_fails(connector: ScriptedConnector) -> None:
    """The error goes on, and nothing stays open."""
    with pytest.raises(KeyError), Pool(connector) as pool:
        fill(pool, 1)
        raise KeyError
    assert pool.closed and connector.opened[0].end == "closed"


def test_the_end_of_a_block_waits_as_long_as_the_pools_timeout(
    connector: ScriptedConnector,
) -> None:
    """Then it cuts off what is left."""
    with Pool(connector, timeout=0.01) as pool:
        holder = hold(pool, Event())
    assert connector.opened[0].end == "discarded"
    holder.kill()


def test_after_close_the_server_sees_nothing() -> None:
    """The oracle is the server's own count."""
    with Echo() as echo:
        pool = Pool(TcpConnection, echo.options, initial_connections=3)
        mine = pool.acquire()
        done = Event()
        hold(pool, done)
        assert echo.open == 3
        pool.close(timeout=0)
        echo.wait_open(1)
        mine.send(b"still mine")
        assert mine.recv() == b"still mine"
        pool.release(mine)
        echo.wait_open(0)
        done.set()
        gevent.idle()


def test_a_borrower_that_is_cut_off_in_mid_request_hears_of_it() -> None:
    """The holder gets an error of the socket, and does not wait."""
    with Unruly("silent") as peer:
        pool = Pool(TcpConnection, peer.options)

        def ask() -> None:
            with pool.connection() as conn:
                conn.send(b"?")
                conn.recv()

        asking = gevent.spawn(outcome(ask))
        peer.wait_open(1)
        gevent.sleep(0)
        pool.close(timeout=0)
        asking.join(5)
        assert isinstance(asking.value, OSError)


# drain


def test_drain_renews_the_idle_ones_now(connector: ScriptedConnector) -> None:
    """They are closed politely, and the pool stays open."""
    witness = Witness()
    pool = Pool(connector, listeners=[witness])
    old = fill(pool, 3)
    with switches() as seen:
        pool.drain()
    assert seen == []
    gevent.idle()
    assert [conn.end for conn in old] == ["closed"] * 3
    assert witness.reasons == [CloseReason.DRAINED] * 3
    assert pool.acquire() not in old


def test_drain_renews_the_lent_ones_when_they_come_back(
    connector: ScriptedConnector,
) -> None:
    """Never under their borrowers."""
    pool = Pool(connector)
    bare = pool.acquire()
    with pool.connection() as lent:
        pool.drain()
        gevent.idle()
        assert (bare.end, lent.end) == (None, None)
    pool.release(bare)
    gevent.idle()
    assert (bare.end, lent.end) == ("closed", "closed")
    assert pool.size == 0


def test_drain_renews_what_is_being_opened(connector: ScriptedConnector) -> None:
    """It may have been opened to the old address; its seeker gets another one."""
    may_open = Event()
    connector.script("open", may_open)
    pool = Pool(connector, max_connections=1)
    (seeker,) = in_line(pool)
    pool.drain()
    may_open.set()
    gevent.idle()
    first, second = connector.opened
    assert first.end == "closed"
    assert seeker.value is second
    assert connector.peak == 1


@pytest.mark.parametrize("state", ["checking", "resetting", "closing"])
def test_drain_renews_what_is_being_worked_at(
    connector: ScriptedConnector, state: str
) -> None:
    """It is closed as soon as the work at it has ended."""
    done = Event()
    verbs = {"checking": "ping", "resetting": "reset", "closing": "close"}
    connector.script(verbs[state], done)
    pool = Pool(connector, ping_interval=10, max_connections=1)
    clock = Clock()
    clock.rule(pool)
    conn = pool.acquire()
    conn.needs_reset = state == "resetting"
    pool.release(conn)
    if state == "checking":
        clock.advance(11)
        sweep(pool)
    if state == "closing":
        pool.drop(conn)
    gevent.idle()
    assert getattr(pool.stats(), state) == 1
    pool.drain()
    done.set()
    gevent.idle()
    assert conn.end == "closed"
    check_capacity(pool)


def test_what_is_opened_after_a_drain_stays(connector: ScriptedConnector) -> None:
    """Drained is what was there, and not what comes."""
    pool = Pool(connector)
    fill(pool, 2)
    pool.drain()
    new = pool.acquire()
    pool.release(new)
    gevent.idle()
    assert new.end is None and pool.acquire() is new


def test_drain_serves_those_who_wait(connector: ScriptedConnector) -> None:
    """At the limit a connection that comes back drained makes room for a new one."""
    pool = Pool(connector, max_connections=1)
    conn = pool.acquire()
    (seeker,) = in_line(pool)
    pool.drain()
    pool.release(conn)
    gevent.idle()
    assert seeker.value is connector.opened[1]
    assert connector.peak == 1


def test_an_error_that_condemns_all_drains(connector: ScriptedConnector) -> None:
    """When the connector says so after an error in a block, everything is renewed."""
    connector.condemning = (ConnectionResetError,)
    pool = Pool(connector)
    conns = fill(pool, 3)
    with pytest.raises(ConnectionResetError), pool.connection():
        raise ConnectionResetError
    gevent.idle()
    assert all(conn.end for conn in conns) and pool.size == 0
    check_capacity(Pool(connector, max_connections=2))


# resize


def test_more_room_serves_those_who_wait(connector: ScriptedConnector) -> None:
    """At once, and in order."""
    pool = Pool(connector, max_connections=1)
    pool.acquire()
    seekers = in_line(pool, 3)
    with switches() as seen:
        pool.resize(3)
    assert seen == [] and pool.max_connections == 3
    gevent.idle()
    assert [seeker.dead for seeker in seekers] == [True, True, False]
    assert pool.stats().waiting == 1
    gevent.killall(seekers)


def test_less_room_closes_idle_ones(connector: ScriptedConnector) -> None:
    """As many as there are too many, and politely."""
    witness = Witness()
    pool = Pool(connector, max_connections=5, listeners=[witness])
    fill(pool, 5)
    with switches() as seen:
        pool.resize(2)
    assert seen == []
    gevent.idle()
    assert witness.reasons == [CloseReason.SURPLUS] * 3
    assert pool.stats().idle == 2
    check_capacity(pool)


def test_idle_ones_go_before_lent_ones(connector: ScriptedConnector) -> None:
    """Nobody who uses a connection pays for one that nobody uses."""
    pool = Pool(connector, max_connections=4)
    lent = [pool.acquire(), pool.acquire()]
    fill(pool, 2)
    pool.resize(2)
    gevent.idle()
    for conn in lent:
        pool.release(conn)
    gevent.idle()
    assert [conn.end for conn in lent] == [None, None]
    assert pool.stats().idle == 2


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_less_room_than_is_lent_closes_those_that_come_back_first(
    connector: ScriptedConnector, order: tuple[int, ...]
) -> None:
    """A holder that keeps its connection does not keep the pool above its limit."""
    pool = Pool(connector, max_connections=3)
    lent = [pool.acquire() for _ in range(3)]
    pool.resize(1)
    check(pool)
    for index in order:
        assert pool.max_connections == 1
        pool.release(lent[index])
        gevent.idle()
    assert [lent[index].end for index in order] == ["closed", "closed", None]
    assert pool.idle_connections() == [lent[order[2]]]
    check(pool)


def test_while_too_many_are_lent_nobody_is_served(
    connector: ScriptedConnector,
) -> None:
    """A waiter waits until there is room below the new limit."""
    pool = Pool(connector, max_connections=2)
    first, second = pool.acquire(), pool.acquire()
    (seeker,) = in_line(pool)
    pool.resize(1)
    pool.release(second)
    gevent.idle()
    assert not seeker.dead and second.end == "closed"
    pool.release(first)
    gevent.idle()
    assert seeker.value is first
    assert len(connector.opened) == 2


def test_resizing_twice_is_resizing_once(connector: ScriptedConnector) -> None:
    """The same limit again takes nothing more away."""
    may_open = Event()
    connector.script("open", *[may_open] * 4)
    pool = Pool(connector, max_connections=4, max_connecting=4)
    seekers = in_line(pool, 4)
    pool.resize(2)
    pool.resize(2)
    may_open.set()
    gevent.idle()
    assert sum(seeker.dead for seeker in seekers) == 2
    assert len(connector.now_open) == 2 and len(connector.opened) == 4
    gevent.killall(seekers)


def test_more_room_forgives_what_less_room_condemned(
    connector: ScriptedConnector,
) -> None:
    """What was to go when it came back may stay after all."""
    pool = Pool(connector, max_connections=3)
    lent = [pool.acquire() for _ in range(3)]
    pool.resize(1)
    pool.resize(3)
    for conn in lent:
        pool.release(conn)
    gevent.idle()
    assert pool.stats().idle == 3


def test_less_room_while_resetting_and_checking(
    connector: ScriptedConnector,
) -> None:
    """What the pool itself works at is closed after that, if it is too much."""
    done = Event()
    connector.script("reset", done)
    pool = Pool(connector, max_connections=2)
    first, second = pool.acquire(), pool.acquire()
    first.needs_reset = True
    pool.release(first)
    gevent.idle()
    pool.resize(1)
    done.set()
    gevent.idle()
    assert first.end == "closed" and second.end is None
    pool.release(second)
    assert pool.idle_connections() == [second]


def test_less_room_while_goodbyes_are_said(connector: ScriptedConnector) -> None:
    """What is on its way out is not counted as what will stay."""
    pool = Pool(connector, max_connections=4)
    conns = fill(pool, 4)
    connector.script("close", Event())
    pool.drop(conns[0])
    pool.resize(3)
    gevent.idle()
    assert pool.stats().idle == 3
    pool.close(timeout=0)


def test_the_server_never_sees_more_than_the_larger_limit() -> None:
    """And no more than the smaller one once those too many have come back."""
    with Echo() as echo:
        pool = Pool(TcpConnection, echo.options, max_connections=4)
        lent = [pool.acquire() for _ in range(4)]
        pool.resize(2)
        for conn in lent:
            pool.release(conn)
        echo.wait_open(2)
        check_capacity(pool)
        assert echo.peak == 4
        pool.close()


@pytest.mark.parametrize("size", [0, -1, 2])
def test_less_room_than_nothing_or_the_minimum_is_refused(
    connector: ScriptedConnector, size: int
) -> None:
    """*min_connections* is promised; the refusal changes nothing."""
    pool = Pool(connector, max_connections=5, min_connections=3)
    gevent.idle()
    with pytest.raises(ValueError, match=f"max_connections .* at least 3, not {size}"):
        pool.resize(size)
    assert pool.max_connections == 5 and pool.stats().idle == 3


# Interruptions.


def closing() -> tuple[Callable[[], object], list[Pool[ScriptedConnection]]]:
    """A loan, a drain, a resize and a close, in which everything switches."""
    connector = ScriptedConnector(switching=True)
    pool = Pool(connector, max_connections=3)
    other = Pool(connector, max_connections=2)

    def run() -> None:
        with other.connection():
            fill(pool, 2)
            pool.drain()
            pool.resize(2)
            fill(pool, 2)
            pool.close()

    return run, [other]


def test_a_closer_may_be_interrupted_anywhere() -> None:
    """Nothing is lost if a greenlet that drains, resizes or closes is interrupted."""
    assert interrupt_everywhere(closing) >= 4


def test_exhausted_after_less_room(connector: ScriptedConnector) -> None:
    """The refusal tells the new limit."""
    pool = Pool(connector, max_connections=2)
    mine = pool.acquire()
    pool.resize(1)
    refused = gevent.spawn(outcome(lambda: pool.acquire(timeout=0))).get()
    assert isinstance(refused, PoolExhaustedError)
    assert "1/1: 0 idle, 1 in use" in str(refused)
    pool.release(mine)


def test_an_error_under_a_closed_pool_tells_of_the_close():
    """The driver says only that its socket is closed."""
    pool = Pool(ScriptedConnector(), name="test")
    with pytest.raises(OSError) as caught:
        with pool.connection():
            gevent.spawn(pool.close, 0).join()
            raise OSError("not connected")
    told = getattr(caught.value, "__notes__", None)
    expected = ["Pool 'test' was closed, and its close() has ended this loan"]
    assert told == expected or sys.version_info < (3, 11)


def test_a_late_release_tells_of_the_close():
    """Else it would look as if the connection was another pool's."""
    pool = Pool(ScriptedConnector())
    conn = pool.acquire()
    gevent.spawn(pool.close, 0).join()
    with pytest.raises(ConnectionNotFoundError, match="the pool was closed"):
        pool.release(conn)


def test_an_error_of_a_block_whose_loan_has_ended_before_is_left_alone():
    """The close has not ended it."""
    pool = Pool(ScriptedConnector())
    with pytest.raises(OSError) as caught:
        with pool.connection() as conn:
            pool.drop(conn)
            pool.close()
            raise OSError("unrelated")
    assert not hasattr(caught.value, "__notes__")
