"""Every pool is driven and shown as it is, and every workload runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from typing import Any

import gevent
import pytest
from gevent import socket

from benchmarks import adapters, loans, overload
from benchmarks.adapters import AT_SERVERS, FLOOR, OURS, POOLS, PoolAdapter, fake_pool
from benchmarks.clients import Account
from benchmarks.fakes import SELECT_LIMIT, Fake, SocketFake
from benchmarks.mysql import check_encryption
from benchmarks.overload import offered
from benchmarks.redis import mixture
from benchmarks.report import Report
from benchmarks.restart import BEFORE, GRACE, TOLD, count_dials, judge
from benchmarks.rounds import TINY, Sample, Series
from benchmarks.scaling import weigh
from benchmarks.servers import Outage
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
    before = Fake.dialled
    pool = BUILDERS[name](3)
    for _ in range(2):
        with gevent.Timeout(PATIENCE):
            lent = [pool.acquire() for _ in range(3)]
        assert len({id(conn) for conn in lent}) == 3
        for conn in lent:
            pool.release(conn)
        del conn
        lent.clear()
    assert Fake.dialled == before + 3
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

    def absent(*args: object, **options: object) -> PoolAdapter:
        raise ImportError("no such thing")

    def broken(*args: object, **options: object) -> PoolAdapter:
        raise KeyError("lost")

    monkeypatch.setattr(
        adapters, "POOLS", {OURS: adapters.ours.fake, "a": absent, "b": broken}
    )
    found, missing = adapters.installed()
    assert list(found) == [OURS]
    assert missing == {"a": "ImportError: no such thing", "b": "KeyError: 'lost'"}


def test_an_interrupted_loan_is_discarded() -> None:
    """As the documentation of each pool wants it; else it is given back."""
    done: list[str] = []
    more: dict[str, Any] = {"discard": lambda conn: done.append(f"discard {conn}")}
    for options in (more, {}):
        pool = PoolAdapter(
            "x", lambda: 1, lambda conn: done.append("release"), int, **options
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


def test_a_descriptor_beyond_select_is_numbered_so() -> None:
    """The first thousand have no input; those after them cannot be asked about."""
    import select

    numbers = itertools.count()
    sockets = [SocketFake(numbers) for _ in range(SELECT_LIMIT + 1)]
    assert select.select([sockets[0]], [], [], 0) == ([], [], [])
    with pytest.raises(ValueError):
        select.select([sockets[-1]], [], [], 0)


def test_encrypted_and_plain_connections_are_not_compared(mariadb_server: Any) -> None:
    """The drivers' defaults differ from what the workload is about."""
    connect = import_module("pymysql").connect
    conn = connect(**mariadb_server.client_options, ssl_disabled=True)
    check_encryption(conn, False)
    with pytest.raises(RuntimeError, match="TLS is expected"):
        check_encryption(conn, True)
    conn.close()


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
    with pytest.raises(KeyError), pool.loan():
        raise KeyError
    assert pool.request("after") == "after"
    pool.close()


# The workloads


def test_an_outage_is_judged_from_the_time_at_which_the_server_went() -> None:
    """The failed requests, late refusals, and the dials meanwhile."""
    down, up = 10.0, 13.0
    outage = Outage(down, up, first_reply=0.2, back=0.6)
    account = Account()
    account.answered_at = [down - BEFORE / 4, down - 0.01, up + 0.2, up + 0.6]
    late = down + GRACE + TOLD + 0.1
    account.failures = [(9.5, 9.9), (9.9, 10.2), (down + 1, late), (late, late + 0.004)]
    seen = judge(account, outage, dials=6)
    assert (seen.first_reply, seen.back) == (0.2, 0.6)
    assert (seen.failed, seen.dials_per_second) == (3, 2.0)
    assert seen.refusal == pytest.approx(0.004)
    assert seen.replies_before == pytest.approx(2 / (BEFORE / 2))
    account.answered_at = account.failures = []  # type: ignore[assignment]
    assert judge(account, outage, dials=0).refusal == 0


def test_the_dials_of_a_port_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of all pools, and of no other port."""
    monkeypatch.setattr(socket.socket, "connect", socket.socket.connect)
    with Echo() as echo, Echo() as other:
        dials = count_dials(echo.port)
        for address in (echo.address, other.address, echo.address):
            socket.create_connection(address).close()
    assert len(dials) == 2


def test_under_overload_no_pool_replies_to_all_in_time() -> None:
    """What arrives beyond the capacity fails or is refused."""
    seen = offered(adapters.ours.fake, 4.0, 0.1, 0.01)
    assert seen.arrived > 0 and 0 < seen.failed <= 1 and seen.refused == 0


def test_requests_that_were_sent_late_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The goodput of a machine that is too slow must not count as that of a pool."""
    for late, notes in ((1000.0, 1), (0.0, 2)):
        monkeypatch.setattr(overload, "LATE", late)
        (section,) = overload.run(TINY).sections
        assert sum("late" in note for note in section.notes) == notes


def test_memory_is_what_a_pool_adds() -> None:
    """Some hundred bytes for an idle connection."""
    each = weigh(adapters.ours.fake, 200)
    assert 50 < each < 2000


def test_a_commands_loan_is_what_the_pool_adds_to_it() -> None:
    """The time of a command without a pool is subtracted, round by round."""
    name = f"ours, {loans.COMMAND}"
    series = {
        loans.OWN: Series(loans.OWN, [Sample(1.0, 0.0, 10)]),
        name: Series(name, [Sample(4.0, 0.0, 20)]),
        FLOOR: Series(FLOOR, [Sample(3.0, 0.0, 10)]),
    }
    left = dict(loans._commands_less_own(series))
    assert set(left) == {name, FLOOR}
    assert left[name].samples[0].each == pytest.approx(0.1)
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
    for each, send in ((client, mixture()), (again, mixture())):
        for _ in range(100):
            send(each)  # type: ignore[arg-type]
    assert client.calls == again.calls
    assert client.calls.count("set") == 20 and client.calls.count("blpop") == 1
    assert client.calls.count("execute") == 10


@pytest.mark.parametrize(
    "name",
    [
        "loans",
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
        assert section.rows and section.numbers
        assert not [each for each in section.failed if each.startswith(OURS)]
    assert report.as_plain()
