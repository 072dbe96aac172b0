"""A host for the tests and the benchmark of budgets: a server and worker processes.

``python -m tests.budget.host serve`` is the server: it answers each byte, and counts
its connections. ``python -m tests.budget.host work PORT LIMIT [BUDGET]`` is a worker
with a pool of echo connections.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

#: Connections that all workers share.
TOTAL = 40

#: Seconds that a loan lasts. Short enough to show the cost of a change of hands, long
#: enough for two processor cores.
HOLD = 0.02


class Child:
    """A process that answers each line with a line of JSON."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.budget.host", *arguments],
            cwd=Path(__file__).parent.parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.pid = self._process.pid

    def ask(self, line: str) -> Any:
        """Send a line, and return the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()
        return self.read()

    def read(self) -> Any:
        """Return the next line."""
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def end(self, number: int = signal.SIGKILL) -> None:
        """End it by a signal."""
        self._process.send_signal(number)
        self._process.communicate()


class Worker(Child):
    """A process with a pool, which takes as many loans at a time as it is told."""

    def __init__(self, port: int, limit: int, budget: str | None) -> None:
        super().__init__("work", str(port), str(limit), *([budget] if budget else []))

    def load(self, users: int) -> dict[str, Any]:
        """Have so many users from now on; return what happened since the last call."""
        answer = self.ask(str(users))
        assert isinstance(answer, dict)
        return answer


def work(port: int, limit: int, budget: str | None = None) -> None:
    """Be such a process."""
    import gevent
    from gevent.fileobject import FileObject

    from geventpool import Budget, Pool, TcpConnection
    from tests.pauses import real_time, sample

    pool = Pool(
        TcpConnection,
        {"host": "127.0.0.1", "port": port},
        max_connections=limit,
        max_connecting=8,
        timeout=60,
        budget=None if budget is None else Budget(budget, TOTAL),
    )
    loans = users = 0
    failed: list[str] = []
    running: set[int] = set()

    def use(number: int) -> None:
        nonlocal loans
        while number < users:
            try:
                with pool.connection() as conn:
                    conn.send(b"x")
                    conn.recv(1)
                    real_time(HOLD)
                loans += 1
            except Exception as error:
                failed.append(repr(error))
                sample(0.1)
        running.discard(number)

    for line in FileObject(sys.stdin.buffer, "rb"):  # type: ignore[arg-type]
        users = int(line)
        answer = {"loans": loans, "size": pool.size, "failed": failed[:3]}
        loans = 0
        failed.clear()
        for number in set(range(users)) - running:
            running.add(number)
            gevent.spawn(use, number)
        print(json.dumps(answer), flush=True)


def serve() -> None:
    """Be the server.

    A line on the standard input is answered by the most connections that were open at
    once since the last one, and how many were accepted.
    """
    server = socket.create_server(("127.0.0.1", 0), backlog=500)
    print(server.getsockname()[1], flush=True)
    poll = select.epoll()
    conns: dict[int, Any] = {}
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
        self._server = Child("serve")
        self._port = self._server.read()
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
        most, accepted = self._server.ask("?")
        return most, accepted

    def close(self) -> None:
        """End all processes."""
        for child in (*self.workers, self._server):
            child.end()
        self._folder.cleanup()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        work(int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
