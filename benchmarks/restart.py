"""What do the clients of a pool notice when its server is restarted?

Clients send requests through a pool with its defaults; each waits a twentieth of a
second after an error. The server is stopped, stays away for some time, and comes back.
The table shows how many requests failed, how long after the server's return the first
reply came and when there were nine tenths of the former replies, and how often the pool
dialled.

Every outage is one process with a server of its own. A server that needs longer to
start is away for longer; the table shows for how long.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from tempfile import TemporaryDirectory
from typing import Any

import gevent
from gevent import socket

from benchmarks.adapters import AT_SERVERS, OURS
from benchmarks.clients import Account, Clients
from benchmarks.report import Column, Report, Section, duration
from benchmarks.rounds import Scale, Series
from benchmarks.subprocesses import run_apart, take_turns

LIMIT = 10

#: Seconds for which the server is away: within the grace of our pools, and beyond.
OUTAGES = (0.2, 1.0, 2.0, 6.0)

#: Outages after which at most the requests in flight may have failed.
WITHIN_GRACE = 2.0

#: Seconds before the outage and after it.
BEFORE, AFTER = 0.8, 2.0

#: Seconds into which replies are counted.
SLOT = 0.02

#: The fraction of the former replies that counts as recovered.
RECOVERED = 0.9

#: Seconds that a turn may take beyond its time before its pool counts as hung.
PATIENCE = 25.0

SERVERS = {"redis": "RedisServer", "mysql": "MariaDBServer"}


@dataclass(frozen=True)
class Restart:
    """One restart: seconds, and numbers of requests and dials."""

    away: float
    failed: int
    #: From the server's return; as long as was measured if it did not happen.
    first_reply: float
    recovery: float
    dials_per_second: float
    replies_before: float


def run(scale: Scale) -> Report:
    """Restart each kind of server under every pool. May switch."""
    report = Report("restart", "what do clients notice when the server is restarted?")
    is_tiny = scale.name == "tiny"
    kinds = ("redis",) if is_tiny else tuple(SERVERS)
    for kind in kinds:
        for away in OUTAGES[:1] if is_tiny else OUTAGES:
            size = scale.crowd
            with TemporaryDirectory() as folder:
                turns: dict[str, Callable[[], Restart]] = {
                    name: partial(_turn, folder, kind, name, away, size)
                    for name in AT_SERVERS[kind]
                }
                rounds = max(1, scale.rounds // 7)
                series = take_turns(turns, rounds, f"{kind} away for {away} s")
            report.sections.append(_section(kind, series, away, size))
            if series[OURS].samples:
                _add_targets(report, series[OURS], kind, away)
    return report


def _turn(folder: str, kind: str, name: str, away: float, size: int) -> Restart:
    seconds = BEFORE + away + AFTER + PATIENCE
    options = {"kind": kind, "name": name, "away": away, "size": size}
    return Restart(**run_apart(__name__, "measure", seconds, folder, **options))


def measure(kind: str, name: str, away: float, size: int) -> dict[str, Any]:
    """Restart a server under one pool, and return a :class:`Restart` as plain data.

    May switch.
    """
    gevent.get_hub().exception_stream = None
    with getattr(import_module("tests.servers"), SERVERS[kind])() as server:
        options = {"host": server.host, "port": server.port}
        if kind == "mysql":
            options = {**server.client_options, "autocommit": True}
        pool = AT_SERVERS[kind][name](LIMIT, **options)
        account = Account()
        clients = Clients([pool], [account], size)
        gevent.sleep(BEFORE)
        probe, dials = socket.socket.connect, count_dials(server.port)
        down = time.monotonic()
        server.stop()
        gevent.sleep(max(0.0, down + away - time.monotonic()))
        starting = gevent.spawn(server.start)
        up = _wait_for_server((server.host, server.port), probe)
        dialled = len(dials)
        starting.get()
        gevent.sleep(AFTER)
        end = time.monotonic()
        clients.stop()
        return vars(judge(account, down, up, end, dialled))


def _wait_for_server(address: tuple[str, int], connect: Any) -> float:
    """Return when the server accepts connections again. May switch.

    :param connect: of a socket, not counted as a dial.
    """
    while True:
        with socket.socket() as sock:
            try:
                connect(sock, address)
            except OSError:
                gevent.sleep(0.001)
            else:
                return time.monotonic()


def count_dials(port: int) -> list[float]:
    """Note from now on when this process connects to that port."""
    times: list[float] = []
    connect: Any = socket.socket.connect

    def counted(self: Any, address: Any) -> Any:
        if isinstance(address, tuple) and address[1] == port:
            times.append(time.monotonic())
        return connect(self, address)

    socket.socket.connect = counted  # type: ignore[method-assign]
    return times


def judge(account: Account, down: float, up: float, end: float, dials: int) -> Restart:
    """Return what the account says of an outage from *down* to *up*."""
    # The first half of the time before is the pool's start.
    begin = down - BEFORE / 2
    before = sum(begin < when < down for when in account.answered_at)
    usual = before / (BEFORE / 2)
    # Some are answered while the clients are being stopped.
    after = [when - up for when in account.answered_at if up < when <= end]
    return Restart(
        away=up - down,
        failed=sum(when > down for when in account.failed_at),
        first_reply=min(after, default=end - up),
        recovery=_recovery(after, usual, end - up),
        dials_per_second=dials / (up - down),
        replies_before=usual,
    )


def _recovery(after: list[float], usual: float, watched: float) -> float:
    """Return the first time from which five slots have enough replies on average."""
    slots = [0] * (int(watched / SLOT) + 1)
    for when in after:
        slots[int(when / SLOT)] += 1
    wanted = 5 * usual * SLOT * RECOVERED
    for number in range(len(slots) - 5):
        if sum(slots[number : number + 5]) >= wanted:
            return number * SLOT
    return watched


def _section(
    kind: str, series: dict[str, Series[Restart]], away: float, size: int
) -> Section:
    section = Section(
        f"{kind} away for {duration(away)}: {size} greenlets on {LIMIT} connections",
        key=f"{kind} away for {away} s",
    )
    count = "{:,.0f}".format
    columns = [
        Column("failed", lambda each: each.failed, "requests", text=count, spread=True),
        Column("first reply", lambda each: each.first_reply),
        Column("recovery", lambda each: each.recovery),
        Column("dials/s", lambda each: each.dials_per_second, "1/s"),
        Column("away", lambda each: each.away, is_measured=False),
        Column(
            "replies/s before",
            lambda each: each.replies_before,
            "1/s",
            is_measured=False,
        ),
    ]
    section.fill(series, columns)
    section.notes.append(
        "first reply: from the server's return; recovery: until there were "
        f"{RECOVERED:.0%} of the replies before, to {duration(SLOT)}; dials: while the "
        "server was away"
    )
    return section


def _add_targets(report: Report, ours: Series[Restart], kind: str, away: float) -> None:
    where = f"{kind} away for {away} s"
    if away <= WITHIN_GRACE:
        failed = ours.spread(lambda each: each.failed)
        report.target(f"failed requests, {where}", failed, LIMIT + 1)
    first = ours.spread(lambda each: each.first_reply * 1000)
    report.target(f"ms to the first reply, {where}", first, 60)
