"""Checks of a program: is all of it patched, and before the modules that need it?

The program is imported in a process of its own, by :mod:`geventpool.doctor.inspection`,
because this process is patched already.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gevent import subprocess

from geventpool.doctor.finding import ERROR, OK, WARNING, Finding
from geventpool.patching import HOW_TO_PATCH

__all__ = ["check_order", "check_program"]

#: Seconds that the import of the program may take.
TIMEOUT = 30.0
#: So many modules are named.
NAMED = 8
#: The doctor imports the program, and does not know how it is started.
BY_GUNICORN = (
    ". Nothing has to be done if it is only run by 'gunicorn -k gevent' without "
    "preload_app, which patches its workers"
)
#: Without these patched, drivers block the event loop.
NEEDED = ("socket", "ssl", "select", "time", "threading")


def check_program(module: str, timeout: float = TIMEOUT) -> Iterator[Finding]:
    """Import a module in a new process and check what is patched there.

    May switch.

    :param str module: the dotted name, found from the current folder.
    :param timeout: seconds that the import may take.
    """
    report = _inspect(module, timeout)
    if "failed" in report:
        advice = (
            "run it from the folder in which the program starts, and with its "
            "environment variables"
        )
        yield Finding("import", ERROR, f"{module}: {report['failed']}", advice)
        return
    patched = set(report["patched"])
    missing = [name for name in NEEDED if name not in patched]
    if missing:
        text = f"not patched: {', '.join(missing)}"
        yield Finding("patching", ERROR, text, f"{HOW_TO_PATCH}{BY_GUNICORN}")
    else:
        yield Finding("patching", OK, "socket, ssl, select, time and threading")
    yield from check_order(report)


def check_order(report: dict[str, Any]) -> Iterator[Finding]:
    """Check that nothing was imported before gevent patched it.

    :param report: what the inspection of the program has found.
    """
    unpatched = sorted(report["unpatched"])
    if unpatched:
        named = ", ".join(unpatched[:NAMED])
        more = f" and {len(unpatched) - NAMED} more" if len(unpatched) > NAMED else ""
        text = f"imported before patching, and keep what blocks: {named}{more}"
        yield Finding("order", ERROR, text, HOW_TO_PATCH)
    elif report["patched"]:
        yield Finding("order", OK, "no module keeps an object that is not patched")
    if report["warnings"]:
        text = f"gevent warned {report['warnings']} times while it patched"
        yield Finding("order", WARNING, text, HOW_TO_PATCH)


def _inspect(module: str, timeout: float) -> dict[str, Any]:
    spec = find_spec("geventpool.doctor.inspection")
    assert spec is not None and spec.origin is not None
    # Not "-m": that would import this package, and gevent, before the program.
    command = [sys.executable, "-c", Path(spec.origin).read_text(), module]
    reader, writer = os.pipe()
    try:
        process = subprocess.Popen(
            [*command, str(writer)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[writer],
        )
    finally:
        os.close(writer)
    try:
        process.wait(timeout)
        # The answer is shorter than what a pipe holds. A child of the program may keep
        # the other end open, so the end of the file is not waited for.
        os.set_blocking(reader, False)
        text = os.read(reader, 1 << 16)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return {"failed": f"the import did not end within {timeout:g} s"}
    except BlockingIOError:
        text = b""
    finally:
        os.close(reader)
    try:
        return dict(json.loads(text))
    except ValueError:
        status = process.returncode
        return {"failed": f"the import ended the process with status {status}"}
