"""The workloads' parts count right, and every peer is driven and shown as it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.monkey import get_original

from benchmarks import children, peers
from benchmarks.churn import NONE
from benchmarks.coldstart import LIMIT as BURST_LIMIT
from benchmarks.coldstart import burst
from benchmarks.demo.stores import LIMIT
from benchmarks.dials import Dials
from benchmarks.doors import DOORS, StatedSocket, Status, usable
from benchmarks.dummies import SELECT_LIMIT, Dummy, dialled, with_descriptor
from benchmarks.killstorm import Wreck
from benchmarks.killstorm import _section as wrecks_shown
from benchmarks.memory import weigh
from benchmarks.redis import Mixture
from benchmarks.report import Report
from benchmarks.restart import SLOT, outage
from benchmarks.rounds import TINY, Series
from benchmarks.servers import Storm
from tests.peers import Echo
from tests.servers import MariaDBServer, RedisServer

BUILDERS = (peers.lifo_queue, *peers.POOLS)
PATIENCE = 5.0


# The contestants


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_every_contestant_lends_up_to_its_limit_and_takes_back(
    build: peers.Builder,
) -> None:
    """As many as allowed at once, each another one, and all of them again."""
    kind = dialled(0.0)
    contestant = build(3, kind)
    for _ in range(2):
        with gevent.Timeout(PATIENCE):
            lent = [contestant.acquire() for _ in range(3)]
        assert len({id(conn) for conn in lent}) == 3
        for conn in lent:
            contestant.release(conn)
        del conn
        lent.clear()
    assert kind.board.dials == kind.board.peak == 3
    contestant.close()


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_who_waits_at_a_contestant_is_served_or_sent_away(
    build: peers.Builder,
) -> None:
    """With the only connection lent, one waits for it, or is told there is none."""
    contestant = build(1)
    conn = contestant.acquire()
    waiting = gevent.spawn(_asked, contestant)
    gevent.sleep(0.01)
    was_refused = waiting.ready()
    contestant.release(conn)
    del conn
    with gevent.Timeout(PATIENCE):
        answer = waiting.get()
    assert was_refused == (answer == "refused") == (build is peers.redis_plain)
    contestant.close()


def _asked(contestant: peers.Contestant) -> object:
    try:
        contestant.release(contestant.acquire())
    except contestant.refusals:
        return "refused"
    return "served"


@pytest.mark.parametrize("build", peers.AGEING, ids=lambda build: build.__name__)
def test_a_contestant_with_a_lifetime_replaces_what_is_too_old(
    build: peers.Builder,
) -> None:
    """After its lifetime there has been another dial."""
    kind = dialled(0.0)
    kind.board.lifetime = 0.02
    contestant = build(1, kind, 0.02)
    until = time.monotonic() + PATIENCE
    while kind.board.dials < 2 and time.monotonic() < until:
        conn = contestant.acquire()
        gevent.sleep(0.005)
        contestant.release(conn)
        del conn
        gevent.sleep(0.005)
    assert kind.board.dials >= 2
    contestant.close()


def test_a_dial_takes_its_time_and_is_counted() -> None:
    """In all, open, and open at once; one that is interrupted is not open."""
    kind = dialled(0.01)
    began = time.perf_counter()
    conns = [gevent.spawn(kind.dial) for _ in range(2)]
    killed = gevent.spawn(kind.dial)
    gevent.sleep(0)
    killed.kill()
    first, second = (each.get() for each in conns)
    assert time.perf_counter() - began >= 0.01
    first.connect()
    board = kind.board
    assert (board.dials, board.open, board.peak) == (3, 2, 3)
    first.close()
    first.close()
    assert board.open == 1 and dialled(0.0).board.open == 0


def test_a_descriptor_beyond_select_is_numbered_so() -> None:
    """The first thousand are found quiet; those after them can't be asked about."""
    import select

    sockets = [with_descriptor(Dummy).dial()]
    kind = with_descriptor(Dummy)
    sockets += [kind.dial() for _ in range(SELECT_LIMIT + 1)]
    assert select.select([sockets[0]], [], [], 0) == ([], [], [])
    with pytest.raises(ValueError):
        select.select([sockets[-1]], [], [], 0)


# Turns in processes of their own


@pytest.fixture(scope="module")
def nursery() -> Iterator[children.Nursery]:
    """Forks that know this module."""
    with children.Nursery("tests.test_workloads") as opened:
        yield opened


def doubled(number: int) -> dict[str, int]:
    """For the forks: an answer that took a turn of the loop."""
    gevent.sleep(0)
    return {"answer": 2 * number}


def broken() -> None:
    """For the forks: a pool that fails."""
    raise KeyError("lost")


def silent() -> None:
    """For the forks: a pool that hangs where no greenlet gets a turn."""
    gevent.get_hub().loop.run_callback(_block)
    gevent.sleep(0.001)


def _block() -> None:
    get_original("time", "sleep")(60)


def ended() -> None:
    """For the forks: a pool that takes its process along."""
    import os

    os.kill(os.getpid(), 9)


def test_a_turn_in_a_fork_gives_its_answer(nursery: children.Nursery) -> None:
    """Through JSON; one after the other."""
    assert nursery.turn("doubled", PATIENCE, number=4) == {"answer": 8}
    assert nursery.turn("doubled", PATIENCE, number=5) == {"answer": 10}


def test_a_turn_that_fails_or_dies_is_told_and_the_next_one_goes_on(
    nursery: children.Nursery,
) -> None:
    """The reason is the error's, and other contestants are not harmed."""
    turns: dict[str, Callable[[], object]] = {
        "broken": lambda: nursery.turn("broken", PATIENCE),
        "ended": lambda: nursery.turn("ended", PATIENCE),
        "good": lambda: nursery.turn("doubled", PATIENCE, number=1),
    }
    series = children.in_turn(turns, 2, "turns")
    assert series["broken"].error == "KeyError: 'lost'"
    assert series["ended"].error == "its process ended"
    assert series["good"].samples == [{"answer": 2}] * 2


def test_a_turn_that_hangs_is_ended_at_its_limit(nursery: children.Nursery) -> None:
    """Also one that lets no greenlet run."""
    with gevent.Timeout(PATIENCE):
        with pytest.raises(children.TurnHung, match="hung: no end within 0.1 s"):
            nursery.turn("silent", 0.1)
    assert nursery.turn("doubled", PATIENCE, number=3) == {"answer": 6}


# The storms


@pytest.fixture(scope="module")
def addresses(
    redis_server: RedisServer, mariadb_server: MariaDBServer
) -> Iterator[dict[str, dict[str, Any]]]:
    """Where the servers are, by kind."""
    with Echo() as echo:
        yield {
            "redis": {"host": redis_server.host, "port": redis_server.port},
            "mysql": mariadb_server.client_options,
            "echo": echo.options,
        }


def visited(kind: str, name: str, address: dict[str, Any]) -> list[Any]:
    """For the forks: three answers, how many waits, and how many places."""
    door = DOORS[kind][name](address)
    answers = [door.ask(f"tag {number}") for number in range(3)]
    return [answers, len(door.tally.waits), usable(door, 1.0)]


@pytest.mark.parametrize(
    "kind, name", [(kind, name) for kind, doors in DOORS.items() for name in doors]
)
def test_every_door_gives_the_right_answer_and_all_its_places(
    kind: str,
    name: str,
    addresses: dict[str, dict[str, Any]],
    nursery: children.Nursery,
) -> None:
    """The tags come back, the waits are noted, and the limit can be had."""
    where = {"kind": kind, "name": name, "address": addresses[kind]}
    answers, waits, places = nursery.turn("visited", PATIENCE, **where)
    assert answers == ["tag 0", "tag 1", "tag 2"]
    assert (waits, places) == (3, LIMIT)


def test_a_place_that_is_lost_is_missed() -> None:
    """Those who can't be had in time, or are refused, are not counted."""
    with Echo() as echo:
        door = DOORS["echo"][peers.OURS](echo.options)
        held = [door.take() for _ in range(3)]
        # What another greenlet takes is closed when that has ended.
        assert gevent.spawn(usable, door, 0.05).get() == LIMIT - 3
        for conn in held:
            door.give_back(conn)
        door.close()


def test_a_connection_with_a_state_knows_how_it_was_left() -> None:
    """In step after an answer, active if interrupted, lost after an error."""
    with Echo() as echo:
        conn = StatedSocket(echo.address)
        assert conn.ask("x") == "x"
        assert conn.pgconn.transaction_status == Status.IDLE
        asking = gevent.spawn(conn.ask, "y")
        gevent.sleep(0)
        asking.kill()
        assert conn.pgconn.transaction_status == Status.ACTIVE
        conn.close()
        assert conn.pgconn.transaction_status == Status.UNKNOWN


def test_dials_and_open_sockets_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever connects, and however it ends."""
    monkeypatch.setattr(socket.socket, "connect", socket.socket.connect)
    dials = Dials().watch()
    with Echo() as echo:
        socks = [socket.create_connection(echo.address) for _ in range(3)]
        assert (len(dials.times), dials.open()) == (3, 3)
        socks[0].close()
        assert dials.open() == 2
        gevent.sleep(0.01)
        assert dials.peak >= 2
        for sock in socks:
            sock.close()


def test_what_was_lost_in_a_storm_is_shown() -> None:
    """The worst of all rounds: places, astray replies, stranded greenlets, sockets."""
    good = Wreck(5, 1, 100, 0, {}, LIMIT, 0, 50.0, 0.1, LIMIT, 10)
    bad = Wreck(5, 1, 90, 2, {"OSError": 3}, LIMIT - 4, 7, 40.0, 9.0, 30, 50)
    series = {"good": Series("good", [good, good]), "bad": Series("bad", [good, bad])}
    series["ugly"] = Series("ugly", error="hung: no end within 9 s")
    section = wrecks_shown("echo", series, 20, 1.0)
    assert section.rows[0][1:5] == [f"{LIMIT} of {LIMIT}", str(LIMIT), "0", "0"]
    assert section.rows[1][1:5] == [f"{LIMIT - 4} of {LIMIT}", "30", "2", "7"]
    said = "\n".join(section.remarks())
    for words in (
        f"lost 4 of {LIMIT} places",
        "left 7 of 20 greenlets unserved",
        f"bad opened 30 of {LIMIT}",
        "3 OSError",
        "ugly failed: hung",
    ):
        assert words in said


def test_recovery_is_counted_from_the_servers_return() -> None:
    """The first reply, nine tenths of the replies, and the dials while it was away."""

    def slot(seconds: float) -> int:
        return round(seconds / SLOT)

    down, up, end = 1.0, 1.5, 3.0
    answered = {number: 10 for number in range(0, slot(down))}
    answered |= {number: 5 for number in range(slot(1.7), slot(2.1))}
    answered |= {number: 10 for number in range(slot(2.1), slot(end))}
    lived = {
        "end": end,
        "answered": {str(number): count for number, count in answered.items()},
        "failed": {"60": 4, "61": 3},
        "dials": [0.1, 1.1, 1.2, 1.3, 1.4, 1.6],
        "peak": 10,
    }
    seen = outage(lived, down, up)
    assert seen.first == pytest.approx(0.2)
    # Five slots are taken together, the first of which may still be a poor one.
    assert seen.recovery == pytest.approx(0.6, abs=2 * SLOT)
    assert (seen.failed, seen.dials, seen.away) == (7, 8.0, 0.5)
    assert seen.has_recovered and seen.rate == pytest.approx(10 / SLOT)
    lived["answered"] = {number: 10 for number in range(0, slot(down))}
    never = outage(lived, down, up)
    assert not never.has_recovered and never.recovery == pytest.approx(end - up)


@pytest.mark.parametrize("kind", ["echo", "redis"])
def test_a_stormed_server_goes_and_comes_back_where_it_was(kind: str) -> None:
    """The same port, before and after."""
    with Storm(kind) as server:
        where = (server.address["host"], server.address["port"])
        socket.create_connection(where).close()
        server.stop()
        with pytest.raises(OSError):
            socket.create_connection(where)
        server.start()
        socket.create_connection(where).close()


# The others


def test_a_burst_is_served_to_the_end_and_its_dials_are_counted() -> None:
    """Replies are sorted; more sockets than the limit are seen."""
    start = burst(peers.ours, 0.001, 30)
    assert start.unserved == 0 and len(start.replies) == 30
    assert start.first <= start.median <= start.last
    assert start.dials <= BURST_LIMIT and start.peak <= BURST_LIMIT
    assert burst(peers.gsocketpool, 0.001, 30).peak == 30


def weighed(**options: Any) -> Any:
    """For the forks: memory is traced in the whole process."""
    return weigh(**options)


def test_memory_is_what_a_pool_adds(nursery: children.Nursery) -> None:
    """Some hundred bytes for an idle connection; a refused waiter is counted."""
    idle = {"what": "idle", "count": 200, "is_traced": True}
    bare, _ = nursery.turn("weighed", PATIENCE, build="", **idle)
    taken, refused = nursery.turn("weighed", PATIENCE, build="ours", **idle)
    assert 50 < (taken - bare) / 200 < 2000 and refused == 0
    waiting = {"what": "waiting", "count": 5, "is_traced": False}
    answer = nursery.turn("weighed", PATIENCE, build="redis_plain", **waiting)
    assert answer[1] == 5


def test_the_mixture_is_what_it_says() -> None:
    """Of a hundred requests so many of each kind, in the same order each time."""

    class Client:
        def __init__(self) -> None:
            self.calls: list[str] = []

        def __getattr__(self, name: str) -> Any:
            self.calls.append(name)
            return lambda *args, **kwargs: self

    client, again = Client(), Client()
    for each, mixture in ((client, Mixture()), (again, Mixture())):
        for _ in range(100):
            mixture(each)  # type: ignore[arg-type]
    assert client.calls == again.calls
    assert client.calls.count("set") == 20 and client.calls.count("blpop") == 1
    assert client.calls.count("execute") == 10


@pytest.mark.parametrize(
    "name", ["coldstart", "churn", "memory", "killstorm", "restart", "grid"]
)
def test_every_workload_tells_of_every_pool_it_is_about(name: str) -> None:
    """At the smallest scale: tables with numbers, and promises about ours."""
    from importlib import import_module

    report: Report = import_module(f"benchmarks.{name}").run(TINY)
    assert report.workload == name and report.targets
    for section in report.sections:
        assert section.rows and section.data
        assert peers.OURS in section.data, section.notes
        assert not any(
            note.startswith(peers.OURS + " failed") for note in section.remarks()
        )
    assert report.as_json()


def test_a_lifetime_is_compared_with_none() -> None:
    """The row of none has the name of its pool."""
    assert (peers.OURS + NONE).startswith(peers.OURS)
