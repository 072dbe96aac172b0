"""The demo counts right, and its exit status is its verdict."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event
from rich.console import Console

from benchmarks.adapters import PoolAdapter
from benchmarks.clients import Account, Clients
from benchmarks.demo.scenario import Record
from benchmarks.demo.tables import first_replies, summary, verdict, worse
from benchmarks.rounds import percentile
from benchmarks.servers import LIMIT, Outage, Server, echo_server, real_server  # type: ignore[attr-defined]
from tests.pauses import hang
from tests.peers import PATIENCE

ROOT = Path(__file__).parent.parent.parent


def pool_of(request) -> PoolAdapter:
    """An adapter whose requests do as the function says."""
    return PoolAdapter("scripted", Event, id, lambda: None, request=request)


def server_of(*counts: int) -> Server:
    """A server that counts what it is told to, and then fails."""
    left = list(counts)
    count = lambda: left.pop(0)  # noqa: E731
    return Server("scripted", "echo", {}, count, id, id, id)  # type: ignore[arg-type]


def asked(request, until, size: int = 1, is_rough: bool = False) -> Account:
    """The account of clients that ran until the rule held."""
    account = Account()
    clients = Clients([pool_of(request)], [account], size)
    clients.is_rough = is_rough
    with gevent.Timeout(PATIENCE):
        while not until(account):
            gevent.sleep(0)
    clients.stop()
    return account


def test_a_reply_with_another_tag_is_wrong() -> None:
    """Only the tag of the request is an answer."""
    right = asked(lambda tag: tag, lambda account: account.answered >= 1)
    assert right.wrong == 0 and right.latencies
    wrong = asked(lambda tag: "another", lambda account: account.wrong >= 1)
    assert wrong.answered == 0


def test_an_error_is_counted_by_its_name() -> None:
    """The same number stands in every table."""

    def fail(tag: str) -> str:
        raise ConnectionError("gone")

    account = asked(fail, lambda account: account.failed >= 1)
    assert account.errors == {"ConnectionError": account.failed}
    assert len(account.failures) == account.failed


def test_a_request_counts_from_its_first_attempt() -> None:
    """A pool that fails at once must not look quicker than one that waits."""
    script = [ConnectionError("gone"), None]

    def fail_once(tag: str) -> str:
        if script and (error := script.pop(0)):
            raise error
        return tag

    account = asked(fail_once, lambda account: account.answered >= 1)
    assert account.failed == 1
    assert account.latencies[0] >= account.answered_at[0] - account.failures[0][1]


def test_a_request_that_the_client_gives_up_is_no_failure() -> None:
    """The timeout is the client's own."""

    def never(tag: str) -> str:
        hang()
        return tag

    account = asked(never, lambda account: account.given_up >= 1, 30, is_rough=True)
    assert account.failed == 0


def test_a_pending_request_is_part_of_the_latencies() -> None:
    """A pool that never serves somebody must not look better for it."""
    account = Account(latencies=[0.1], pending={1: 0.0})
    assert len(account.latencies_since()) == 2
    assert len(account.latencies_since(1)) == 1


def test_a_killed_client_is_replaced() -> None:
    """The number of clients stays the same, and a kill leaves nothing pending."""
    account = Account()
    waiting = Event()

    def wait(tag: str) -> str:
        waiting.wait()
        return tag

    clients = Clients([pool_of(wait)], [account], 3)
    gevent.idle()
    assert len(account.pending) == 3
    clients.kill_one()
    gevent.idle()
    assert clients.killed == 1 and len(account.pending) == 3
    clients.stop()
    assert not account.pending


def test_a_percentile_is_a_value() -> None:
    """Half of the values are below the median; none is above the last."""
    values = [float(number) for number in range(100)]
    assert percentile(values, 0.5) == 50.0 and percentile(values, 1.0) == 99.0
    assert percentile([], 0.5) == 0.0


def test_a_count_above_the_limit_must_last() -> None:
    """A socket that was just closed is no overshoot; one that stays is."""
    assert server_of(LIMIT).sockets() == LIMIT
    assert server_of(LIMIT + 1, LIMIT).sockets() == LIMIT
    assert server_of(*[LIMIT + 2] * 4).sockets() == LIMIT + 2
    assert server_of().sockets() is None


def test_to_count_sockets_does_not_hold_up_the_clients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server is asked: psutil reads tables of the kernel, without a switch."""

    def fail(*args: object) -> None:
        raise AssertionError("holds up all greenlets")

    monkeypatch.setattr("psutil.Process.net_connections", fail)
    server = real_server("redis")
    try:
        assert server.sockets() == 0
    finally:
        server.close()


class Ended:
    """A scenario that is over, with one record."""

    title, seconds, elapsed, phase, killed = "ours", 1.0, 1.0, "calm", 3

    def __init__(self, **counts: int) -> None:
        self.console = Console(width=130, record=True)
        numbers = {"peak": LIMIT, "places": LIMIT, "wrong": 0, "answered": 5, **counts}
        account = Account(wrong=numbers["wrong"])
        account.answered_at = [0.0] * numbers["answered"]
        account.errors["OSError"] = 530
        record = Record(server_of(), pool_of(str), account)
        record.peak, record.places = numbers["peak"], numbers["places"]
        self.records = [record]
        self.rate, self.calm, self.whole = 100.0, [0.1], [0.3]
        self.alarms = ["shop: a.py:1"] if counts.get("alarms") else []


@pytest.mark.parametrize(
    "counts, complaint",
    [
        ({"peak": LIMIT + 1}, "had 11 sockets"),
        ({"peak": 0}, "never told how many"),
        ({"places": LIMIT - 1}, "only 9 of 10 places"),
        ({"wrong": 1}, "1 replies were wrong"),
        ({"answered": 0}, "no request was answered"),
        ({"alarms": 1}, "a line was named without a reason: shop: a.py:1"),
    ],
)
def test_the_demo_fails_if_the_pool_broke_a_promise(
    counts: dict[str, int], complaint: str
) -> None:
    """A limit exceeded, a place lost, a wrong reply: each is named, and fails."""
    ended: Any = Ended(**counts)
    assert not verdict([ended], ended.console)
    assert complaint in ended.console.export_text()


def test_the_demo_passes_if_the_pool_kept_its_promises() -> None:
    """The verdict says what was kept."""
    ended: Any = Ended()
    assert verdict([ended], ended.console)
    assert "5 replies, none wrong" in ended.console.export_text()


def test_the_table_counts_replies_and_failures() -> None:
    """A request that failed is not a reply."""
    ended: Any = Ended()
    passes, requests = summary([ended])
    cells = {column.header: list(column.cells) for column in requests.columns}
    found = [cells[name] for name in ("pools", "replies", "failed", "wrong", "back")]
    assert found == [["ours"], ["5"], ["530"], ["0"], [""]]
    assert [list(column.cells) for column in passes.columns][:2] == [["ours"], ["100"]]


def test_a_number_that_is_worse_than_that_of_the_stock_pools_is_named() -> None:
    """By more than the spread of the rounds; of each, the medians are compared."""
    ours: list[Any] = [Ended(), Ended(), Ended()]
    stock: list[Any] = [Ended(), Ended(), Ended()]
    for run in stock:
        run.title = "stock"
        run.records[0].outage = Outage(0.0, 1.0, 0.004, 0.005)
        run.rate = 105.0
    assert list(worse([*ours, *stock])) == ["scripted, back: , stock 5.0 ms"]
    ours[0].records[0].outage = Outage(0.0, 1.0, 0.001, 0.001)
    ours[1].rate = ours[2].rate = 90.0
    assert list(worse([*ours, *stock])) == ["a pass, per s: 90, stock 105"]


def test_the_first_reply_is_told_beside_what_it_costs() -> None:
    """The pool that connects most often meets the server first."""
    ours: Any = Ended()
    ours.records[0].outage = Outage(0.0, 1.0, 0.004, 0.005)
    assert list(first_replies([ours])) == [
        f"scripted, {ours.title}: after 4.0 ms, 530 failed attempts"
    ]
    assert verdict([ours], ours.console)
    assert "first reply to a client: scripted" in ours.console.export_text()
    ours.records[0].outage = None
    assert not list(first_replies([ours]))


def test_a_pass_takes_as_long_as_its_requests() -> None:
    """And does not count if the client gave one of them up."""

    def never(tag: str) -> str:
        hang()
        return tag

    accounts = [Account(), Account()]
    clients = Clients([pool_of(str), pool_of(str)], accounts, 1)
    with gevent.Timeout(PATIENCE):
        while not clients.passes.latencies:
            gevent.sleep(0)
    clients.stop()
    assert clients.passes.latencies[0] >= sum(each.latencies[0] for each in accounts)
    clients = Clients([pool_of(never), pool_of(str)], accounts, 30)
    clients.is_rough = True
    with gevent.Timeout(PATIENCE):
        while not accounts[0].given_up:
            gevent.sleep(0)
    clients.stop()
    assert not clients.passes.latencies and not clients.passes.pending


def test_a_server_is_back_when_it_replies() -> None:
    """Not when it accepts connections, or when its start is noticed."""
    server = echo_server("redis")
    try:
        server.stop()
        server.start_again()
        assert server.sockets() is not None
        server.stop()

        def fail() -> None:
            raise OSError("no program")

        with pytest.raises(OSError, match="no program"):
            replace(server, start=fail).start_again()
    finally:
        server.close()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A finished run of the demo in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.demo", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_demo_keeps_its_promises_on_real_servers() -> None:
    """Kills and a restart: the limits hold, no reply is wrong, exit status 0."""
    done = run(
        "--seconds", "2", "--outage", "0.1", "--greenlets", "100", "--rounds", "1"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = ("\nmysql", "\n stock", "\n ours, auto_pipeline")
    for words in ("redis is down", "none wrong", *rows):
        assert words in done.stdout
    assert "echo" not in done.stdout


def test_the_demo_runs_where_there_are_no_servers() -> None:
    """An echo server of its own replaces them, and it says so."""
    done = run(
        "--echo", "--alone", "--seconds", "1", "--greenlets", "50", "--rounds", "2"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "An echo server in this process replaces redis." in done.stdout


def test_a_length_without_time_for_the_acts_is_refused() -> None:
    """The option is named with its rule."""
    done = run("--seconds", "0.1")
    assert done.returncode == 2
    assert "--seconds: must be at least 1" in done.stderr
