"""Turns in processes of their own, with a time limit.

A pool that fails badly may hang where no ``gevent.Timeout`` reaches it, or end its
process. A new process also has its own memory. Each turn is a new interpreter and not a
fork, which would inherit an event loop that it must not use.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

#: Where ``benchmarks`` and ``tests`` are found.
ROOT = Path(__file__).parent.parent


class TurnFailed(Exception):
    """The turn raised an error, hung, or its process ended."""


def run_apart(
    module: str, function: str, timeout: float, folder: str = "", **arguments: Any
) -> Any:
    """Call a function in a new process, and return its result.

    Arguments and result are sent as JSON. May switch.

    :param timeout: seconds after which the process is killed.
    :param folder: for temporary files, so that they can be removed after a kill.
    :raises TurnFailed: the function raised, hung, or ended its process.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.subprocesses", module, function],
        cwd=ROOT,
        env={**os.environ, **({"TMPDIR": folder} if folder else {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Killed greenlets and lost connections are the subject, not news.
        stderr=subprocess.DEVNULL,
    )
    try:
        output, _ = process.communicate(json.dumps(arguments).encode(), timeout)
    except subprocess.TimeoutExpired:
        raise TurnFailed(f"hung: no result within {timeout:g} s") from None
    finally:
        process.kill()
        process.wait()
    try:
        answer = json.loads((output.splitlines() or [b""])[-1])
    except ValueError:
        raise TurnFailed("its process ended without a result") from None
    if "error" in answer:
        raise TurnFailed(answer["error"])
    return answer["result"]


def main(module: str, function: str) -> None:
    """Call the function with the arguments on the standard input."""
    arguments = json.load(sys.stdin)
    try:
        answer = {"result": getattr(import_module(module), function)(**arguments)}
    except BaseException as error:
        # Whatever it is, the other side must learn of it.
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
    # Greenlets and threads of a pool must not delay the end.
    os._exit(0)


if __name__ == "__main__":
    from gevent import monkey

    monkey.patch_all()
    main(*sys.argv[1:])
