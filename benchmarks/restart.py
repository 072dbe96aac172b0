"""What do the clients of a pool notice when its server is restarted?

Clients send requests through a pool with its defaults. After an error a client waits a
twentieth of a second and sends the request again. The server is stopped, stays away for
some time, and comes back. The table shows how many attempts failed, how long after the
server's return the first reply came, how long a refusal took after the grace, and how
often the pool dialled.

Every outage is one process with a server of its own. A server that needs longer to
start is away for longer; the table shows for how long.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import gevent
from gevent import socket

from benchmarks.adapters import AT_SERVERS, OURS
from benchmarks.clients import Account, Clients
from benchmarks.report import Column, Report, duration
from benchmarks.rounds import Scale, percentile
from benchmarks.servers import LIMIT, Outage, real_server
from tests.apart import answer_of

#: The kinds of servers.
KINDS = ("redis", "mysql")

#: Seconds for which the server is away: within the grace of our pools, and beyond.
OUTAGES = (0.2, 1.0, 2.0, 6.0)

#: The grace of our pools. After a shorter outage at most the requests in flight may
#: have failed.
GRACE = 3.0

#: Seconds until the grace has surely ended: it begins at the first failure, some time
#: after the server was told to stop, and its last waiters must be told.
TOLD = 0.5

#: Seconds before the outage and after it.
BEFORE, AFTER = 0.8, 2.0

#: Seconds that a turn may take beyond its time before its pool counts as hung.
PATIENCE = 25.0


@dataclass(frozen=True)
class Restart(Outage):
    """One restart: seconds, and numbers of requests and dials.

    :ivar refusal: p99 of the attempts that began after the grace and failed.
    """

    failed: int
    refusal: float
    dials_per_second: float
    replies_before: float


COLUMNS = [
    Column("failed", lambda each: each.failed, "attempts", to=()),
    Column("first reply", lambda each: each.first_reply),
    Column("back", lambda each: each.back),
    Column("p99 of a refusal", lambda each: each.refusal),
    Column("dials/s", lambda each: each.dials_per_second, "1/s"),
    Column("away", lambda each: each.up - each.down),
    Column("replies/s before", lambda each: each.replies_before, ""),
]


def run(scale: Scale) -> Report:
    """Restart each kind of server under every pool. May switch."""
    report = Report("restart", "what do clients notice when the server is restarted?")
    is_tiny, size = scale.name == "tiny", scale.crowd
    for kind in ("redis",) if is_tiny else KINDS:
        for away in OUTAGES[:1] if is_tiny else OUTAGES:
            where, turn = f"{kind} away for {away} s", partial(_turn, kind, away, size)
            table = report.compare(
                f"{where}: {size} greenlets on {LIMIT} connections",
                {name: partial(turn, name) for name in AT_SERVERS[kind]},
                max(1, scale.rounds // 7),
                COLUMNS,
                warm_up=0,
            )
            table.notes.append(
                "first reply, back: from the server's return, of one client and of all "
                f"that waited; a refusal: of an attempt {duration(GRACE + TOLD)} or "
                "more after the server went; dials: while it was away"
            )
            # A server that is slow to stop or to start is away for longer than meant.
            measured = table.spread(OURS, lambda each: each.up - each.down)
            if measured is not None and measured.high < GRACE:
                failed = table.spread(OURS, lambda each: each.failed)
                report.target(f"failed attempts, {where}", failed, LIMIT + 1)
            if away > GRACE:
                late = table.spread(OURS, lambda each: each.refusal * 1000)
                report.target(f"ms of a refusal after the grace, p99, {where}", late, 5)
            first = table.spread(OURS, lambda each: each.first_reply * 1000)
            report.target(f"ms to the first reply, {where}", first, 60)
    return report


def _turn(kind: str, away: float, size: int, name: str) -> Restart:
    module = ["-m", "gevent.monkey", "--module", __name__]
    command = [*module, kind, name, str(away), str(size)]
    return Restart(**answer_of(command, BEFORE + away + AFTER + PATIENCE))


def measure(kind: str, name: str, away: float, size: int) -> Restart:
    """Restart a server under one pool; return what clients noticed. May switch."""
    gevent.get_hub().exception_stream = None
    server = real_server(kind)
    try:
        account = Account()
        clients = Clients([server.pool(name)], [account], size)
        gevent.sleep(BEFORE)
        dials = count_dials(server.options["port"])
        outage = server.outage(away, account)
        gevent.sleep(max(0.0, outage.up + AFTER - time.monotonic()))
        clients.stop()
        return judge(account, outage, sum(when < outage.up for when in dials))
    finally:
        server.close()


def count_dials(port: int) -> list[float]:
    """Note from now on when this process connects to that port."""
    times: list[float] = []
    connect = socket.socket.connect

    def counted(self: Any, address: Any) -> Any:
        if isinstance(address, tuple) and address[1] == port:
            times.append(time.monotonic())
        return connect(self, address)

    socket.socket.connect = counted
    return times


def judge(account: Account, outage: Outage, dials: int) -> Restart:
    """Return what the clients noticed, from the times of their replies and errors."""
    down, begin = outage.down, outage.down - BEFORE / 2
    before = sum(begin < when < down for when in account.answered_at)
    failed = [(began, ended) for began, ended in account.failures if ended > down]
    refusals = [ended - began for began, ended in failed if began > down + GRACE + TOLD]
    return Restart(
        **vars(outage),
        failed=len(failed),
        refusal=percentile(refusals, 0.99),
        dials_per_second=dials / (outage.up - outage.down),
        replies_before=before / (BEFORE / 2),
    )


if __name__ == "__main__":
    kind, name, away, size = sys.argv[1:]
    print(json.dumps(vars(measure(kind, name, float(away), int(size)))), flush=True)
    # Greenlets and threads of a pool must not delay the end.
    os._exit(0)
