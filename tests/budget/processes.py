"""Processes for the tests of budgets: each takes and gives places as it is told."""

from __future__ import annotations

import subprocess
import sys
from types import TracebackType

_CHILD = """
import os, signal, sys
from geventpool.budget.table import Table
table = Table(sys.argv[1], os.getpid())
print(table.row, flush=True)
for line in sys.stdin:
    word, *numbers = line.split()
    if word == "take":
        print(table.take(int(numbers[0]), 0.0), flush=True)
    elif word == "give":
        table.give()
        print("given", flush=True)
    elif word == "fork":
        done, tell = os.pipe()
        if not (child := os.fork()):
            os.close(table.fd)
            os.write(tell, b"x")
            signal.pause()
        os.read(done, 1)
        print(child, flush=True)
"""


class Process:
    """A process with a table of its own."""

    def __init__(self, path: str) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._child.pid
        self.row = int(self._answer())

    def _answer(self) -> str:
        assert self._child.stdout is not None
        return self._child.stdout.readline().strip()

    def tell(self, order: str) -> str:
        """What it answers to *order*."""
        assert self._child.stdin is not None
        self._child.stdin.write(f"{order}\n")
        self._child.stdin.flush()
        return self._answer()

    def kill(self) -> None:
        """End it by SIGKILL and wait for that."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            # A child of its own may have the other end still.
            assert pipe is not None
            pipe.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
