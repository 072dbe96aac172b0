"""What does one limit for all workers of a host cost, and does it hold?

Eight worker processes share 40 connections to one server. The load is in one worker, in
all of them, or wanders. The peers are what is done without a budget: one pool with all
connections, and eight pools with an equal part each.

``python -m benchmarks.budget SECONDS`` lets the load wander for so long, while each
second a worker is killed by SIGKILL and replaced, and each minute all are replaced by
new ones that run beside them for a while. It prints what the server saw.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import Column, Report, Section
from benchmarks.rounds import Scale, Series, Spread

WORKERS = 8
TOTAL = 40

#: Seconds that a loan lasts. Short enough to show the cost of a change of hands, long
#: enough for two processor cores.
HOLD = 0.02

SHARED = "geventpool, one budget"
APART = "geventpool, eight pools of 5"
SINGLE = "geventpool, one pool of 40"


class Worker:
    """A process with a pool, which takes as many loans at a time as it is told."""

    def __init__(self, port: int, limit: int, budget: str | None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.budget", "work", str(port), str(limit)]
            + ([budget] if budget else []),
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.pid = self._process.pid

    def load(self, users: int) -> dict[str, Any]:
        """Have so many users from now on; return what happened since the last call."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"%d\n" % users)
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert isinstance(answer, dict)
        return answer

    def end(self, number: int = signal.SIGKILL) -> None:
        """End it by a signal."""
        self._process.send_signal(number)
        self._process.communicate()


def work(port: int, limit: int, budget: str | None) -> None:
    """Be such a process."""
    import gevent
    from gevent.fileobject import FileObject

    from geventpool import Budget, Pool, TcpConnection

    pool = Pool(
        TcpConnection,
        {"host": "127.0.0.1", "port": port},
        max_connections=limit,
        max_connecting=8,
        timeout=60,
        budget=None if budget is None else Budget(budget, TOTAL),
    )
    done: list[float] = []
    failed: list[str] = []
    users = 0

    def use(number: int) -> None:
        while number < users:
            try:
                with pool.connection() as conn:
                    conn.send(b"x")
                    conn.recv(1)
                    gevent.sleep(HOLD)
                done.append(time.monotonic())
            except Exception as error:
                failed.append(repr(error))
                gevent.sleep(0.1)
        running.discard(number)

    running: set[int] = set()
    for line in FileObject(sys.stdin.buffer, "rb"):
        users = int(line)
        answer = {"loans": len(done), "size": pool.size, "failed": failed[:3]}
        done.clear()
        failed.clear()
        for number in range(users):
            if number not in running:
                running.add(number)
                gevent.spawn(use, number)
        print(json.dumps(answer), flush=True)


def serve() -> None:
    """Be the server: answer each byte, and count the connections.

    A line on the standard input is answered by the most that were open at once since
    the last one, and how many were accepted.
    """
    server = socket.create_server(("127.0.0.1", 0), backlog=500)
    print(server.getsockname()[1], flush=True)
    poll, conns = select.epoll(), {}
    most = accepted = 0
    poll.register(server, select.EPOLLIN)
    poll.register(0, select.EPOLLIN)

    def read(number: int) -> None:
        try:
            # To the end: a process that was killed leaves requests before its hang-up.
            while conns[number].recv(64):
                conns[number].send(b"y")
        except BlockingIOError:
            return
        except ConnectionError:
            pass
        poll.unregister(number)
        conns.pop(number).close()

    while True:
        for number, _ in poll.poll():
            if number == 0:
                if not os.read(0, 64):
                    return
                print(json.dumps([most, accepted]), flush=True)
                most, accepted = len(conns), 0
            elif number == server.fileno():
                conn, _ = server.accept()
                conn.setblocking(False)
                conns[conn.fileno()] = conn
                poll.register(conn, select.EPOLLIN)
                accepted += 1
                if len(conns) > TOTAL:
                    # Some may have hung up already, and it was not read yet.
                    for other in list(conns):
                        read(other)
                most = max(most, len(conns))
            elif number in conns:
                read(number)


class Host:
    """A server and its workers."""

    def __init__(self, workers: int, limit: int, budget: bool) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._budget = f"{self._folder.name}/budget" if budget else None
        self._limit = limit
        self._server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.budget", "serve"],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._server.stdout is not None
        self._port = int(self._server.stdout.readline())
        self.workers = [self.begin() for _ in range(workers)]
        for worker in self.workers:
            worker.load(0)

    @property
    def budget(self) -> str:
        """The path of the budget's file."""
        assert self._budget is not None
        return self._budget

    def begin(self) -> Worker:
        """Start one more worker."""
        return Worker(self._port, self._limit, self._budget)

    def seen(self) -> tuple[int, int]:
        """Return the most connections since the last call, and how many were opened."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(b"?\n")
        self._server.stdin.flush()
        most, accepted = json.loads(self._server.stdout.readline())
        return most, accepted

    def turn(self, users: list[int], seconds: float) -> Turn:
        """Have a load for so long, and no load before and after."""
        for worker, number in zip(self.workers, users):
            worker.load(number)
        # Until the places are where they are wanted.
        time.sleep(0.5)
        self.seen()
        began = time.monotonic()
        for worker, number in zip(self.workers, users):
            worker.load(number)
        time.sleep(seconds)
        loans = sum(worker.load(0)["loans"] for worker in self.workers)
        took = time.monotonic() - began
        most, opened = self.seen()
        return Turn(loans / took, opened / took, most)

    def close(self) -> None:
        """End all processes."""
        for worker in self.workers:
            worker.end()
        self._server.kill()
        self._server.communicate()
        self._folder.cleanup()


@dataclass(frozen=True)
class Turn:
    """Loans and dials in a second, and the most connections at the server."""

    loans: float
    dials: float
    most: int


COLUMNS = [
    Column("loans/s", lambda turn: turn.loans, "1/s", more_is_better=True, spread=True),
    Column("dials/s", lambda turn: turn.dials, "1/s"),
    Column("open at most", lambda turn: turn.most, "1"),
]


def run(scale: Scale) -> Report:
    """Measure throughput, and the time to a fair share. May switch."""
    report = Report("budget", "what does one limit for all workers cost?")
    shared, apart, single = (
        Host(WORKERS, TOTAL, budget=True),
        Host(WORKERS, TOTAL // WORKERS, budget=False),
        Host(1, TOTAL, budget=False),
    )
    try:
        seconds = max(0.2, scale.seconds)
        rounds = min(scale.long_rounds, 7)
        hot = [80] + [0] * (WORKERS - 1)
        loads: list[tuple[str, list[int], str, Host]] = [
            ("all load in one worker", hot, SINGLE, single),
            ("the same load in each worker", [10] * WORKERS, APART, apart),
        ]
        for title, users, name, peer in loads:
            turns = {
                SHARED: lambda users=users: shared.turn(users, seconds),
                name: lambda peer=peer, users=users: peer.turn(users, seconds),
            }
            series = take(turns, rounds)
            report.sections.append(Section(title).fill(series, COLUMNS))
            over = series[SHARED].over(series[name], lambda turn: turn.loans)
            report.target(f"loans, {title}", over, 0.95, at_least=True)
            most = Spread.of([turn.most for turn in series[SHARED].samples])
            report.target(f"open at most, {title}", most, TOTAL)
        waits = Spread.of([newcomer(shared) for _ in range(rounds)])
        report.target("seconds until a worker has its fair share", waits, 0.5)
    finally:
        for host in (shared, apart, single):
            host.close()
    return report


def take(turns: dict[str, Callable[[], Turn]], rounds: int) -> dict[str, Series[Turn]]:
    """Take turns, after one round of warming up."""
    series: dict[str, Series[Turn]] = {name: Series(name) for name in turns}
    for number in range(rounds + 1):
        for name, turn in turns.items():
            sample = turn()
            if number:
                series[name].samples.append(sample)
    return series


def newcomer(host: Host) -> float:
    """Seconds until a worker that begins to want has half of the places."""
    first, second = host.workers[:2]
    first.load(80)
    time.sleep(1)
    began = time.monotonic()
    second.load(80)
    while second.load(80)["size"] < TOTAL // 2 and time.monotonic() < began + 5:
        time.sleep(0.005)
    took = time.monotonic() - began
    first.load(0)
    second.load(0)
    time.sleep(0.5)
    return took


def wander(seconds: float) -> int:
    """Let the load wander, kill workers, and replace all of them each minute.

    :return: 0 if there were never more connections than the total.
    """
    from geventpool import Budget

    host = Host(WORKERS, TOTAL, budget=True)
    budget = Budget(host.budget, TOTAL)
    freed: list[float] = []
    failed: list[str] = []
    old: list[Worker] = []
    most = dials = loans = kills = 0
    began = time.monotonic()
    try:
        step = 0
        while time.monotonic() - began < seconds:
            hot = step // 2 * 7 % WORKERS
            for number, worker in enumerate(host.workers):
                answer = worker.load(60 if number == hot else 6)
                loans += answer["loans"]
                failed += answer["failed"]
            time.sleep(0.5)
            if step % 60 == 30:
                old, host.workers = host.workers, [host.begin() for _ in range(WORKERS)]
            elif old and step % 60 == 33:
                while old:
                    old.pop().end(signal.SIGTERM)
            victim = random.randrange(WORKERS)
            killed = host.workers[victim]
            at = time.monotonic()
            killed.end()
            while any(share.pid == killed.pid for share in budget.stats().shares):
                time.sleep(0.001)
            freed.append(time.monotonic() - at)
            kills += 1
            host.workers[victim] = host.begin()
            time.sleep(0.5)
            step += 1
            peak, opened = host.seen()
            most, dials = max(most, peak), dials + opened
        stats = budget.stats()
    finally:
        host.workers += old
        host.close()
    print(
        f"{seconds:g} s, {WORKERS} workers, total {TOTAL}, {kills} kills: "
        f"at most {most} open at once, {loans} loans, {dials / seconds:.0f} dials/s, "
        f"{len(failed)} failed {failed[:1]}, leases of a killed worker free after at "
        f"most {max(freed) * 1e3:.0f} ms; {stats.recovered} taken over"
    )
    return int(most > TOTAL)


if __name__ == "__main__":
    if sys.argv[1] == "work":
        work(int(sys.argv[2]), int(sys.argv[3]), *(sys.argv[4:] or [None]))
    elif sys.argv[1] == "serve":
        serve()
    else:
        sys.exit(wander(float(sys.argv[1])))
