"""Every pool is driven and shown as it is, and every workload runs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib import import_module
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.monkey import get_original

from benchmarks import adapters, loans
from benchmarks.adapters import AT_SERVERS, FLOOR, OURS, POOLS, PoolAdapter, fake_pool
from benchmarks.clients import Account
from benchmarks.coldstart import LIMIT as BURST_LIMIT
from benchmarks.coldstart import burst
from benchmarks.fakes import SELECT_LIMIT, Fake, slow_fake, socket_fake
from benchmarks.memory import SLEEPER
from benchmarks.overload import flood
from benchmarks.redis import Mixture
from benchmarks.report import Report
from benchmarks.restart import BEFORE, SLOT, count_dials, judge
from benchmarks.rounds import TINY, Sample, Series
from benchmarks.subprocesses import TurnFailed, run_apart, take_turns
from tests.peers import Echo
from tests.servers import MariaDBServer, RedisServer

PATIENCE = 10.0
BUILDERS = {FLOOR: adapters.ours.gevent_queue} | {
    name: partial(fake_pool, name) for name in POOLS
}


# The pools


@pytest.mark.parametrize("name", BUILDERS)
def test_every_pool_lends_up_to_its_limit_and_takes_back(name: str) -> None:
    """As many as permitted at once, each a different one, and all of them again."""
    kind = slow_fake(0.0)
    pool = BUILDERS[name](3, kind)
    for _ in range(2):
        with gevent.Timeout(PATIENCE):
            lent = [pool.acquire() for _ in range(3)]
        assert len({id(conn) for conn in lent}) == 3
        for conn in lent:
            pool.release(conn)
        del conn
        lent.clear()
    assert kind.server.dials == kind.server.peak == 3
    assert pool.available(3, 1.0) == 3
    pool.close()


@pytest.mark.parametrize("name", BUILDERS)
def test_whoever_waits_is_served_or_refused(name: str) -> None:
    """With the only connection lent, one waits for it, or is refused."""
    pool = BUILDERS[name](1)
    conn = pool.acquire()
    waiting = gevent.spawn(_asked, pool)
    gevent.idle()
    was_refused = waiting.ready()
    pool.release(conn)
    del conn
    with gevent.Timeout(PATIENCE):
        answer = waiting.get()
    assert was_refused == (answer == "refused") == (name == "redis Pool")
    pool.close()


def _asked(pool: PoolAdapter) -> object:
    try:
        pool.release(pool.acquire())
    except pool.refusals:
        return "refused"
    return "served"


def test_a_pool_that_cannot_be_built_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason, and the others are built."""

    def absent(*args: object) -> PoolAdapter:
        raise ImportError("no such thing")

    def broken(*args: object) -> PoolAdapter:
        raise KeyError("lost")

    monkeypatch.setattr(
        adapters, "POOLS", {OURS: adapters.ours.fake, "a": absent, "b": broken}
    )
    found, missing = adapters.installed()
    assert list(found) == [OURS]
    assert missing == {"a": "not installed (no such thing)", "b": "KeyError: 'lost'"}


def test_an_interrupted_loan_is_discarded() -> None:
    """As the documentation of each pool wants it; else it is given back."""
    done: list[str] = []
    more: dict[str, Any] = {"discard": lambda conn: done.append(f"discard {conn}")}
    for options in (more, {}):
        pool = PoolAdapter(
            "x", lambda: 1, lambda conn: done.append("release"), id, **options
        )
        with pytest.raises(KeyError), pool.loan():
            raise KeyError
    with pool.loan():
        pass
    assert done == ["discard 1", "release", "release"]


def test_a_place_that_is_lost_is_missing() -> None:
    """Those that cannot be borrowed in time are not counted."""
    pool = adapters.ours.fake(3)
    held = pool.acquire()
    assert gevent.spawn(pool.available, 3, 0.05).get() == 2
    pool.release(held)
    assert pool.available(3, 1.0) == 3
    pool.close()


def test_a_dial_takes_its_time_and_is_counted() -> None:
    """In all, open, and open at once; one that is interrupted is not open."""
    kind = slow_fake(0.01)
    conns = [gevent.spawn(kind.dial) for _ in range(2)]
    killed = gevent.spawn(kind.dial)
    gevent.sleep(0)
    killed.kill()
    first, _second = (each.get() for each in conns)
    first.connect()
    server = kind.server
    assert (server.dials, server.open, server.peak) == (3, 2, 3)
    first.close()
    first.close()
    assert server.open == 1 and slow_fake(0.0).server.open == 0


def test_a_descriptor_beyond_select_is_numbered_so() -> None:
    """The first thousand have no input; those after them cannot be asked about."""
    import select

    sockets = [socket_fake(Fake).dial()]
    kind = socket_fake(Fake)
    sockets += [kind.dial() for _ in range(SELECT_LIMIT + 1)]
    assert select.select([sockets[0]], [], [], 0) == ([], [], [])
    with pytest.raises(ValueError):
        select.select([sockets[-1]], [], [], 0)


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


@pytest.mark.parametrize(
    "kind, name", [(kind, name) for kind, pools in AT_SERVERS.items() for name in pools]
)
def test_every_pool_at_a_server_brings_the_right_reply(
    kind: str, name: str, addresses: dict[str, dict[str, Any]]
) -> None:
    """The tags come back, and all places are available."""
    pool = AT_SERVERS[kind][name](2, **addresses[kind])
    assert pool.request is not None
    assert [pool.request(f"tag {number}") for number in range(3)] == [
        "tag 0",
        "tag 1",
        "tag 2",
    ]
    assert pool.available(2) == 2
    if pool.stats is not None:
        assert pool.stats() == (0, 2, 0)
    with pytest.raises(KeyError), pool.loan():
        raise KeyError
    assert pool.request("after") == "after"
    pool.close()


# Turns in processes of their own


def doubled(number: int) -> dict[str, int]:
    """For a process: an answer that took a turn of the loop."""
    gevent.sleep(0)
    return {"answer": 2 * number}


def broken() -> None:
    """For a process: a pool that fails."""
    raise KeyError("lost")


def silent() -> None:
    """For a process: a pool that hangs where no greenlet can run."""
    get_original("time", "sleep")(60)


def ended() -> None:
    """For a process: a pool that ends it."""
    import os

    os.kill(os.getpid(), 9)


def test_a_turn_that_fails_or_dies_is_reported_and_the_others_continue() -> None:
    """With the reason of each."""
    turns = {
        "broken": partial(run_apart, __name__, "broken", PATIENCE),
        "ended": partial(run_apart, __name__, "ended", PATIENCE),
        "good": partial(run_apart, __name__, "doubled", PATIENCE, number=4),
    }
    series = take_turns(turns, 1, "turns")
    assert series["broken"].error == "KeyError: 'lost'"
    assert series["ended"].error == "its process ended without a result"
    assert series["good"].samples == [{"answer": 8}]


def test_a_turn_that_hangs_is_ended_at_its_limit() -> None:
    """Also one in which no greenlet can run."""
    with pytest.raises(TurnFailed, match="hung: no result within 0.5 s"):
        run_apart(__name__, "silent", 0.5)


# The workloads


def test_recovery_is_counted_from_the_return_of_the_server() -> None:
    """The first reply, nine tenths of the replies, and the dials meanwhile."""
    down, up, end = 10.0, 10.5, 12.5

    def replies(begin: float, end: float, per_slot: int) -> list[float]:
        slots = int((end - begin) / SLOT + 0.5)
        return [
            begin + (slot + 0.5) * SLOT
            for slot in range(slots)
            for _ in range(per_slot)
        ]

    account = Account()
    account.answered_at = [
        *replies(down - BEFORE, down, 10),
        *replies(up + 0.2, up + 0.6, 5),
        *replies(up + 0.6, end + 1.0, 10),
    ]
    account.failed_at = [9.9, 10.2, 10.3]
    seen = judge(account, down, up, end, dials=4)
    assert seen.first_reply == pytest.approx(0.2, abs=SLOT)
    assert seen.recovery == pytest.approx(0.6, abs=3 * SLOT)
    assert (seen.failed, seen.dials_per_second, seen.away) == (2, 8.0, 0.5)
    assert seen.replies_before == pytest.approx(10 / SLOT, rel=0.1)
    account.answered_at = replies(down - BEFORE, down, 10)
    never = judge(account, down, up, end, dials=0)
    assert never.recovery == never.first_reply == end - up


def test_the_dials_of_a_port_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of all pools, and of no other port."""
    monkeypatch.setattr(socket.socket, "connect", socket.socket.connect)
    with Echo() as echo, Echo() as other:
        dials = count_dials(echo.port)
        for address in (echo.address, other.address, echo.address):
            socket.create_connection(address).close()
    assert len(dials) == 2


def test_a_burst_is_served_and_its_dials_are_counted() -> None:
    """Replies are sorted; more sockets than the limit are seen."""
    start = burst(adapters.ours.fake, 0.001, 30)
    assert start.unserved == 0 and len(start.replies) == 30
    assert start.first <= start.median <= start.last
    assert start.dials <= BURST_LIMIT and start.peak <= BURST_LIMIT
    assert burst(adapters.peers.gsocketpool, 0.001, 30).peak == 30


def test_under_overload_no_pool_replies_to_all_in_time() -> None:
    """What arrives beyond the capacity fails or is refused."""
    seen = flood(adapters.ours.fake, 4.0, 0.1)
    assert seen.arrived > 0 and 0 < seen.failed <= 1 and seen.refused == 0


def test_memory_is_what_a_pool_adds() -> None:
    """Some hundred bytes for an idle connection; a refused waiter is counted."""
    weigh = partial(run_apart, "benchmarks.memory", "weigh", PATIENCE)
    idle = weigh(what="idle", name=OURS, count=200)
    assert 50 < idle["each"] < 2000 and idle["refused"] == 0
    assert weigh(what="waiting", name="redis Pool", count=5)["refused"] == 5
    assert weigh(what="waiting", name=SLEEPER, count=50)["each"] > 500


def test_a_commands_loan_is_what_the_pool_adds_to_it() -> None:
    """The time of a command without a pool is subtracted, round by round."""
    series = {
        loans.OWN: Series(loans.OWN, [Sample(1.0, 0.0, 10)]),
        loans.REDIS: Series(loans.REDIS, [Sample(4.0, 0.0, 20)]),
        FLOOR: Series(FLOOR, [Sample(3.0, 0.0, 10)]),
    }
    left = dict(loans._commands_less_own(series))
    assert set(left) == {loans.REDIS, FLOOR}
    assert left[loans.REDIS].samples[0].each == pytest.approx(0.1)
    assert left[FLOOR].samples[0].each == 0.3


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
    "name",
    [
        "coldstart",
        "loans",
        "memory",
        "mysql",
        "overload",
        "redis",
        "restart",
        "sqlalchemy",
    ],
)
def test_every_workload_measures_every_pool_it_is_about(name: str) -> None:
    """At the smallest scale: tables with numbers, and none of ours failed."""
    report: Report = import_module(f"benchmarks.{name}").run(TINY)
    assert report.workload == name and report.sections
    for section in report.sections:
        assert section.rows and section.measures
        assert not [each for each in section.failed if each.startswith(OURS)]
    assert report.as_json()
