"""What is shipped for tests: every checker can fail, and says what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import greenlet
import pytest
from gevent.event import Event

from geventpool import ErrorAction, Pool
from geventpool._core.ledger import Entry, Waiter
from geventpool._core.states import CLOSING, IDLE, IN_USE
from geventpool.testing import (
    INTERRUPTIONS,
    Clock,
    Interrupted,
    ScriptedConnection,
    ScriptedConnector,
    both_orders,
    check,
    check_capacity,
    interrupt_everywhere,
    no_switch,
    pool_greenlets,
    sweep,
    switches,
    wait_until,
    watch_now,
)
from tests import parts
from tests.conftest import HubError

Scenario = tuple[Callable[[], object], list[Pool[ScriptedConnection]]]


def stocked(number: int = 1, **options: Any) -> Pool[ScriptedConnection]:
    """A pool with so many idle connections."""
    return Pool(ScriptedConnector(), initial_connections=number, **options)


# The clock.


def test_the_clock_stands_still_until_it_is_moved() -> None:
    """And then it has moved by just that."""
    clock = Clock(5.0)
    assert (clock(), clock()) == (5.0, 5.0)
    clock.advance(0.5)
    assert clock() == 5.5


def test_the_clock_rules_several_pools() -> None:
    """Each of them takes its time from it."""
    clock, pools = Clock(), [Pool(ScriptedConnector(), max_idle=10) for _ in "ab"]
    clock.rule(*pools)
    for pool in pools:
        pool.release(pool.acquire())
    clock.advance(10)
    for pool in pools:
        assert pool.acquire().number == 2


# The scripted connector.


@pytest.mark.parametrize("verb", ["open", "close", "ping", "reset"])
def test_a_verb_does_what_its_script_says(verb: str) -> None:
    """An exception is raised, an event waited for, a callable called, None is quiet."""
    event, called = Event(), []
    connector = ScriptedConnector(
        **{verb: [OSError("down"), None]}  # type: ignore[arg-type]
    )
    connector.script(verb, event, lambda: called.append(verb))
    conn = ScriptedConnection(7)
    act = getattr(connector, verb)
    arguments = [] if verb == "open" else [conn]
    with pytest.raises(OSError, match="down"):
        act(*arguments)
    act(*arguments)
    waiting = gevent.spawn(act, *arguments)
    gevent.idle()
    assert not waiting.dead
    event.set()
    waiting.join()
    assert called == []
    act(*arguments)
    assert called == [verb]
    # At the end of the list it succeeds.
    act(*arguments)
    expected = (verb, None if verb == "open" else conn)
    assert connector.calls == [expected] * 5


def test_what_was_opened_is_counted_as_a_server_would() -> None:
    """Those being opened included, and at most as many as there were at once."""
    event = Event()
    connector = ScriptedConnector(open=[None, event])
    first = connector.open()
    opening = gevent.spawn(connector.open)
    gevent.idle()
    assert (connector.opening, connector.peak) == (1, 2)
    connector.close(first)
    event.set()
    second = opening.get()
    assert connector.opened == [first, second]
    assert connector.now_open == [second]
    assert (connector.opening, connector.peak) == (0, 2)
    assert repr(second) == "<connection 2>"


def test_a_connection_remembers_how_it_ended_first() -> None:
    """A goodbye that fails has closed it; what comes after changes nothing."""
    connector = ScriptedConnector(close=[OSError("reset")])
    closed, discarded = connector.open(), connector.open()
    with pytest.raises(OSError):
        connector.close(closed)
    connector.terminate(closed)
    connector.terminate(discarded)
    connector.close(discarded)
    assert (closed.end, discarded.end) == ("closed", "discarded")


def test_a_connection_says_of_itself_what_it_was_told() -> None:
    """Usable as long as it is open and nobody says otherwise; clean likewise."""
    connector = ScriptedConnector()
    conn = connector.open()
    assert connector.is_usable(conn) and not connector.needs_reset(conn)
    conn.is_usable, conn.needs_reset = False, True
    assert not connector.is_usable(conn) and connector.needs_reset(conn)
    conn.is_usable = True
    connector.terminate(conn)
    assert not connector.is_usable(conn)


def test_errors_are_what_they_were_declared() -> None:
    """Until then the defaults of a connector hold."""
    connector = ScriptedConnector()
    assert connector.classify(KeyError()) is ErrorAction.DISCARD
    assert connector.classify(EOFError()) is ErrorAction.DISCONNECT
    connector.survivable = (KeyError,)
    connector.exhausting = (LookupError,)
    assert connector.classify(KeyError()) is ErrorAction.KEEP
    assert connector.classify(IndexError()) is ErrorAction.BACK_OFF
    connector.condemning = (LookupError,)
    assert connector.classify(KeyError()) is ErrorAction.DRAIN


def test_a_switching_connector_switches_in_each_verb() -> None:
    """Once, and before anything else."""
    connector = ScriptedConnector(open=[OSError()], switching=True)
    with switches() as seen, pytest.raises(OSError):
        connector.open()
    assert len(seen) == 1
    with switches() as seen:
        conn = connector.open()
        connector.ping(conn)
        connector.reset(conn)
        connector.close(conn)
    assert len(seen) == 4


# Switches.


def test_switches_of_the_present_greenlet_are_seen() -> None:
    """Each by the greenlet it went to."""
    with switches() as seen:
        gevent.sleep(0)
        gevent.sleep(0)
    assert seen == [gevent.get_hub()] * 2
    gevent.sleep(0)
    assert len(seen) == 2


def test_switches_of_another_greenlet_are_seen() -> None:
    """Its own only, and from its very first."""
    other = gevent.Greenlet(lambda: gevent.sleep(0))
    with switches(other) as seen:
        other.start()
        other.join()
    # It leaves when it sleeps and when it ends.
    assert len(seen) == 2


def test_switches_leaves_the_tracing_as_it_was() -> None:
    """An earlier trace function is restored, also if the block fails."""
    events: list[Any] = []
    greenlet.settrace(lambda event, parties: events.append(event))
    try:
        with pytest.raises(KeyError), switches():
            raise KeyError
        gevent.sleep(0)
    finally:
        greenlet.settrace(None)
    assert events


def test_a_block_that_must_not_switch_fails_if_it_does() -> None:
    """Its own error is not hidden by that."""
    with no_switch():
        pass
    with pytest.raises(AssertionError, match="switched to .*Hub"), no_switch():
        gevent.sleep(0)
    with pytest.raises(KeyError), no_switch():
        gevent.sleep(0)
        raise KeyError


def test_a_condition_is_waited_for_until_it_holds() -> None:
    """One that does not hold in time is named in the error."""
    done: list[int] = []
    gevent.spawn(done.append, 1)
    wait_until(lambda: done)
    with pytest.raises(AssertionError, match="not within 0.01 s: the answer"):
        wait_until(lambda: False, "the answer", timeout=0.01)


# Background work.


def test_a_sweep_is_done_with_all_that_it_begins() -> None:
    """The pings and closings included."""
    pool = stocked(2, ping_interval=10)
    # Later than any clock by which the pool was stocked.
    clock = Clock(1e9)
    clock.rule(pool)
    sweep(pool)
    assert pool.stats().checking == 0
    verbs = [verb for verb, _ in parts.connector(pool).calls]  # type: ignore[attr-defined]
    assert verbs.count("ping") == 2


def test_only_a_pool_that_can_watch_is_asked_to() -> None:
    """A scripted connection has no descriptor."""
    with pytest.raises(AssertionError, match="watches no connections: <Pool"):
        watch_now(stocked())


# The books.


def test_the_books_of_a_pool_in_any_state_are_in_order() -> None:
    """Idle, lent, being opened, checked, reset and closed, and with a line."""
    never = Event()
    connector = ScriptedConnector(ping=[never], reset=[never], close=[never])
    pool = Pool(connector, max_connections=6, initial_connections=5, ping_interval=1)
    check(pool)
    conns = [pool.acquire() for _ in range(5)]
    pool.release(conns[0])
    clock = Clock(1e12)
    clock.rule(pool)
    parts.lifecycle(pool).housekeeping.sweep()
    conns[1].needs_reset = True
    pool.release(conns[1])
    pool.release(conns[2])
    pool.drop(conns[2])
    connector.script("open", never)
    seekers = [gevent.spawn(pool.acquire) for _ in range(3)]
    gevent.idle()
    stats = pool.stats()
    assert (stats.checking, stats.resetting, stats.closing) == (1, 1, 1)
    assert (stats.in_use, stats.opening, stats.waiting) == (2, 1, 3)
    check(pool)
    pool.resize(1)
    check(pool)
    gevent.killall(seekers)
    pool.close(timeout=0)


def lose(pool: Pool[Any], entry: Entry[Any]) -> None:
    parts.ledger(pool).max_connections = 0


def count_twice(pool: Pool[Any], entry: Entry[Any]) -> None:
    parts.ledger(pool).opening[entry] = None


def misplace(pool: Pool[Any], entry: Entry[Any]) -> None:
    entry.state = CLOSING


def open_without_an_end(pool: Pool[Any], entry: Entry[Any]) -> None:
    parts.ledger(pool).reserve().state = IDLE


def forget(pool: Pool[Any], entry: Entry[Any]) -> None:
    parts.ledger(pool).idle_queue.get_nowait()


def stand_idle_twice(pool: Pool[Any], entry: Entry[Any]) -> None:
    parts.ledger(pool).idle_queue.put_nowait(entry)


def lend_from_the_queue(pool: Pool[Any], entry: Entry[Any]) -> None:
    entry.state = IN_USE


class Somebody(Waiter[Any]):
    """Waits in line, but not for long."""

    def wake(self) -> None:
        """It is awake."""


def sleep_beside(pool: Pool[Any], entry: Entry[Any]) -> None:
    parts.ledger(pool).add_waiter(Somebody("somebody"))


def rename(pool: Pool[Any], entry: Entry[Any]) -> None:
    entries = parts.ledger(pool).entries
    entries[5] = entries.pop(id(entry.conn))


def serve_without_leaving(pool: Pool[Any], entry: Entry[Any]) -> None:
    pool.acquire()
    parts.ledger(pool).add_waiter(Somebody("somebody")).entry = entry


def fail_without_leaving(pool: Pool[Any], entry: Entry[Any]) -> None:
    pool.acquire()
    parts.ledger(pool).add_waiter(Somebody("somebody")).error = OSError()


def keep_a_loan(pool: Pool[Any], entry: Entry[Any]) -> None:
    pool.release(pool.acquire())
    (holder,) = parts.holders(pool).by_id.values()
    holder.loan = entry


@pytest.mark.parametrize(
    "wrong",
    [
        lose,
        count_twice,
        misplace,
        open_without_an_end,
        forget,
        stand_idle_twice,
        lend_from_the_queue,
        sleep_beside,
        rename,
        serve_without_leaving,
        fail_without_leaving,
        keep_a_loan,
    ],
)
def test_a_mistake_in_the_books_is_found(
    wrong: Callable[[Pool[Any], Entry[Any]], None],
) -> None:
    """Whatever is entered wrongly, check() does not pass it over."""
    pool = stocked(max_connections=2)
    (entry,) = parts.ledger(pool).entries.values()
    check(pool)
    wrong(pool, entry)
    with pytest.raises(AssertionError):
        check(pool)
    # With such books no pool can be let go properly.
    parts.begin_anew(pool)


def test_every_place_can_be_lent() -> None:
    """The check of the capacity borrows all of them at once, and gives them back."""
    pool = stocked(1, max_connections=3)
    check_capacity(pool)
    assert pool.stats().idle == 3


def test_a_place_that_is_lost_is_found() -> None:
    """It says how many can be lent, and gives back those that could."""
    pool = stocked(1, max_connections=3)
    pool.acquire(reclaim=False)
    with pytest.raises(AssertionError, match="only 2 can be lent: Pool .* exhausted"):
        check_capacity(pool, timeout=0.01)
    assert pool.stats().in_use == 1


# Interruptions.


def careful() -> Scenario:
    """Three switches, and a borrower that cleans up."""
    pool = stocked(max_connections=1)

    def run() -> None:
        gevent.sleep(0)
        with pool.connection():
            gevent.sleep(0)
        gevent.sleep(0)

    return run, [pool]


@pytest.mark.parametrize("later", [-1, 0, 1, 2])
def test_a_scenario_is_interrupted_at_each_of_its_switches(later: int) -> None:
    """It has three, and a last one at its end, where nothing can be hurt."""
    assert interrupt_everywhere(careful, later=later) == 4


@pytest.mark.parametrize("error", INTERRUPTIONS)
def test_each_kind_of_interruption_arrives(error: type[BaseException]) -> None:
    """The victim gets just what was to be thrown, once at every switch."""
    got: list[type[BaseException]] = []

    def scenario() -> Scenario:
        def run() -> None:
            try:
                gevent.sleep(0)
                gevent.sleep(0)
            except BaseException as caught:
                got.append(type(caught))
                raise

        return run, []

    interrupt_everywhere(scenario, errors=[error], later=-1)
    assert got == [error] * 2


def test_the_scenario_is_made_anew_for_each_run() -> None:
    """For each error and each point, and once more to see that there is no further."""
    made: list[int] = []

    def scenario() -> Scenario:
        made.append(1)
        return lambda: gevent.sleep(0), []

    interrupt_everywhere(scenario, errors=[Interrupted, gevent.Timeout])
    assert len(made) == 2 * 3


def test_a_place_lost_to_an_interruption_is_found() -> None:
    """The message says by what, and at which switch."""

    def careless() -> Scenario:
        pool = stocked(max_connections=1, timeout=0.01)

        def run() -> None:
            gevent.sleep(0)
            conn = pool.acquire(reclaim=False)
            gevent.sleep(0)
            pool.release(conn)

        return run, [pool]

    with pytest.raises(AssertionError, match="Timeout at switch 2, .*only 0 can be"):
        interrupt_everywhere(careless, errors=[gevent.Timeout], later=-1, patience=0.05)


def test_a_mistake_in_the_books_after_an_interruption_is_found() -> None:
    """The books are checked before anything is lent again."""

    def careless() -> Scenario:
        pool = stocked(max_connections=2)

        def run() -> None:
            parts.ledger(pool).add_waiter(Somebody("nobody"))

        return run, [pool]

    with pytest.raises(AssertionError, match="waits beside an idle one"):
        interrupt_everywhere(careless)


def test_what_the_scenario_raises_of_itself_is_told_with_a_mistake() -> None:
    """An error of the scenario alone is no mistake of the pool."""

    def failing() -> Scenario:
        def run() -> None:
            gevent.sleep(0)
            raise KeyError("mine")

        return run, [stocked()]

    assert interrupt_everywhere(failing, errors=[Interrupted]) == 2


def test_a_scenario_that_swallows_its_end_is_found() -> None:
    """A greenlet that never ends after an interruption is not waited for."""

    def stubborn() -> Scenario:
        def run() -> None:
            try:
                gevent.sleep(0)
            except Interrupted:
                Event().wait()

        return run, []

    with pytest.raises(AssertionError, match="never ended: Interrupted at switch 1"):
        interrupt_everywhere(stubborn, errors=[Interrupted], later=-1, patience=0.01)


def test_a_scenario_without_an_end_is_found() -> None:
    """A scenario with more switches than allowed is not run without limit."""
    with pytest.raises(AssertionError, match="no end after 3 switch points"):
        interrupt_everywhere(careful, most=3)


@pytest.mark.parametrize(("later", "expected"), [(-1, "before"), (0, "after")])
def test_the_interruption_may_come_before_or_after_the_event(
    later: int, expected: str
) -> None:
    """As early as can be, it overtakes what the victim itself has set going."""
    outcomes: list[str] = []

    def scenario() -> Scenario:
        event = Event()

        def run() -> None:
            gevent.get_hub().loop.run_callback(event.set)
            try:
                event.wait()
                gevent.sleep(0)
            except Interrupted:
                outcomes.append("after" if event.is_set() else "before")

        return run, []

    interrupt_everywhere(scenario, errors=[Interrupted], later=later)
    assert outcomes[0] == expected


def test_a_pools_own_greenlets_can_be_the_victims(hub_errors: list[HubError]) -> None:
    """Those at work for it at that moment, the reaper included."""
    pools: list[Pool[Any]] = []

    def scenario() -> Scenario:
        pool: Pool[Any] = Pool(ScriptedConnector(switching=True), max_connections=2)
        pools[:] = [pool]

        def run() -> None:
            with pool.connection():
                gevent.sleep(0)

        return run, [pool]

    points = interrupt_everywhere(
        scenario,
        errors=[gevent.GreenletExit],
        victims=lambda it: bool(pools) and it in pool_greenlets(pools[0]),
    )
    assert points >= 2
    hub_errors.clear()


def test_what_the_victim_leaves_behind_is_interrupted_too(
    hub_errors: list[HubError],
) -> None:
    """A reset begins when the borrower has ended; it is a victim like any other."""
    connectors: list[ScriptedConnector] = []
    pools: list[Pool[Any]] = []

    def scenario() -> Scenario:
        connector = ScriptedConnector(switching=True)
        pool: Pool[Any] = Pool(connector, max_connections=1)
        connectors.append(connector)
        pools[:] = [pool]

        def run() -> None:
            with pool.connection() as conn:
                conn.needs_reset = True

        return run, [pool]

    interrupt_everywhere(
        scenario,
        errors=[gevent.GreenletExit],
        victims=lambda it: bool(pools) and it in pool_greenlets(pools[0]),
    )

    def was_killed_in_reset(connector: ScriptedConnector) -> bool:
        first = connector.opened[0]
        return ("reset", first) in connector.calls and first.end == "discarded"

    assert any(was_killed_in_reset(connector) for connector in connectors)
    hub_errors.clear()


def test_a_pool_at_rest_has_no_greenlet_but_its_reaper() -> None:
    """And one that nobody used has none at all."""
    assert pool_greenlets(Pool(ScriptedConnector())) == set()
    pool = stocked()
    gevent.idle()
    assert parts.reaper(pool) is not None
    assert pool_greenlets(pool) == {parts.reaper(pool).greenlet}


def test_a_raw_greenlet_can_be_the_victim() -> None:
    """Also one that has nothing but its ``throw``."""
    got: list[type[BaseException]] = []
    raw: list[greenlet.greenlet] = []

    def sleeper() -> None:
        try:
            gevent.sleep(0)
        except BaseException as error:
            got.append(type(error))

    def scenario() -> Scenario:
        def run() -> None:
            raw[:] = [gevent.spawn_raw(sleeper)]
            gevent.sleep(0)
            gevent.sleep(0)

        return run, []

    interrupt_everywhere(
        scenario, errors=[Interrupted], victims=lambda it: it in raw, later=-1
    )
    assert got == [Interrupted]


def test_the_pools_of_a_scenario_are_closed_after_each_run() -> None:
    """Nothing of one run is left for the next."""
    made: list[Pool[Any]] = []

    def scenario() -> Scenario:
        target, pools = careful()
        made.extend(pools)
        return target, pools

    interrupt_everywhere(scenario, errors=[Interrupted])
    assert len(made) == 5
    assert all(pool.closed and pool.size == 0 for pool in made)


def test_what_comes_after_a_run_is_looked_at_before_the_pools_close() -> None:
    """Its mistakes are told with the interruption that led to them."""
    made: list[Pool[Any]] = []

    def scenario() -> Any:
        target, pools = careful()
        made[:] = pools
        return target, pools

    seen = []
    points = interrupt_everywhere(
        scenario,
        errors=[gevent.GreenletExit],
        afterwards=lambda: seen.append(made[0].closed),
    )
    assert seen == [False] * (points + 1)

    def fail() -> None:
        raise AssertionError("somebody else's answer")

    with pytest.raises(AssertionError, match="at switch 1.*somebody else's answer"):
        interrupt_everywhere(careful, afterwards=fail)
    with pytest.raises(AssertionError, match="no end of what comes after"):
        interrupt_everywhere(careful, afterwards=Event().wait, patience=0.01)


def test_two_interruptions_may_come_in_one_turn() -> None:
    """The second strikes where the first is being dealt with."""
    caught: list[str] = []

    def stubborn() -> None:
        caught.clear()
        try:
            gevent.sleep(0)
        except BaseException as first:
            caught.append(type(first).__name__)
            try:
                gevent.sleep(0)
            except BaseException as second:
                caught.append(type(second).__name__)

    both = (gevent.Timeout, gevent.GreenletExit)
    seen = []
    interrupt_everywhere(
        lambda: (stubborn, []),
        errors=[both],
        later=-1,
        afterwards=lambda: seen.append([*caught]),
    )
    assert seen[0] == ["Timeout", "GreenletExit"]


def test_both_orders_are_run() -> None:
    """Each of the two comes first once."""
    done: list[str] = []
    for act in both_orders(lambda: done.append("a"), lambda: done.append("b")):
        act()
    assert done == ["a", "b", "b", "a"]
