"""
Turns in processes of their own, with a time limit.

A pool that loses its head in a storm may take its process along: it may hang where no
``gevent.Timeout`` reaches it. So each turn of a storm has a process to itself, a fork
of one that has imported everything and has run nothing: its event loop is new, its
memory is its own, and it is killed when its time is up.

The forks' parent is fed one line of JSON for each turn and answers with one; it uses
the standard library as it was before it was patched, for it must have no event loop.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from benchmarks.rounds import Series, step

T = TypeVar("T")

#: Where ``benchmarks`` and ``tests`` are found.
ROOT = Path(__file__).parent.parent


class TurnFailed(Exception):
    """The turn raised; the message says what."""


class TurnHung(TurnFailed):
    """The turn did not end in its time, and was killed."""


class Nursery:
    """
    Has turns run, one after the other; a context manager.

    :param module: where their functions are, imported before the first turn.
    """

    def __init__(self, module: str) -> None:
        self._module = module

    def __enter__(self) -> Nursery:
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.children", self._module],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        # It ends at the end of its input; in the midst of a turn it is not waited for.
        self._process.terminate()
        self._process.wait()

    def turn(self, function: str, limit: float, **arguments: Any) -> Any:
        """
        What the function returned, through JSON. **May switch.**

        :param function: its name in the module.
        :param limit: seconds it may take.
        :raises TurnHung: it took longer.
        :raises TurnFailed: it raised, or its process ended.
        """
        assert self._process.stdin and self._process.stdout
        request = {"function": function, "limit": limit, "arguments": arguments}
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or b'{"error": "ended"}')
        if "hung" in answer:
            raise TurnHung(f"hung: no end within {limit:g} s")
        if "error" in answer:
            raise TurnFailed(answer["error"])
        return answer["result"]


def in_turn(
    turns: Mapping[str, Callable[[], T]], rounds: int, label: str
) -> dict[str, Series[T]]:
    """
    As :func:`benchmarks.rounds.interleave`, without a warm-up: a new process has none.

    **May switch.**
    """
    series: dict[str, Series[T]] = {name: Series(name) for name in turns}
    names = list(turns)
    with step(label, rounds * len(names)) as tick:
        for _ in range(rounds):
            for name in names:
                tick(name)
                entry = series[name]
                try:
                    if entry.error is None:
                        entry.samples.append(turns[name]())
                except TurnFailed as error:
                    entry.samples.clear()
                    entry.error = str(error)
            names.append(names.pop(0))
    return series


# In the forks' parent


def serve(module: str) -> None:
    """Fork for each line of input, until there is none."""
    import_module(module)
    for line in sys.stdin:
        print(_forked(module, json.loads(line)).decode(), flush=True)


def _forked(module: str, request: dict[str, Any]) -> bytes:
    from gevent.monkey import get_original

    # gevent's close would wait for an event loop, which this process must not have:
    # the pipe would stay open here, and the end of the child would not be seen.
    fork, waitpid, close = get_original("os", ["fork", "waitpid", "close"])
    reading, writing = os.pipe()
    pid = fork()
    if not pid:
        close(reading)
        _live(writing, module, request)
    close(writing)
    try:
        answer = _read(reading, request["limit"])
    finally:
        close(reading)
        os.kill(pid, 9)
        waitpid(pid, 0)
    return answer


def _read(reading: int, limit: float) -> bytes:
    import time

    from gevent.monkey import get_original

    select = get_original("select", "select")
    until, answer = time.monotonic() + limit, b""
    while select([reading], [], [], max(0.0, until - time.monotonic()))[0]:
        part = os.read(reading, 1 << 16)
        if not part:
            return answer or b'{"error": "its process ended"}'
        answer += part
    return b'{"hung": true}'


def _live(writing: int, module: str, request: dict[str, Any]) -> NoReturn:
    """The fork's life: one call, one answer."""
    # Killed greenlets and lost connections are the subject, not news.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        function = getattr(import_module(module), request["function"])
        answer = {"result": function(**request["arguments"])}
    # Whatever it is: the other side must be told.
    except BaseException as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    rest = json.dumps(answer).encode()
    while rest:
        rest = rest[os.write(writing, rest) :]
    os._exit(0)


if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()
    serve(sys.argv[1])
