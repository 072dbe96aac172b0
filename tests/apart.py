"""Programs in processes of their own, because they may hang, or end their process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class GivenUpError(Exception):
    """The process hung, or ended without an answer."""


def answer_of(arguments: Sequence[str], seconds: float) -> Any:
    """What a new interpreter prints as JSON in its last line. May switch.

    A program may hang where no ``gevent.Timeout`` reaches it. Its temporary files, and
    those of its servers, are removed also after it was killed.

    :param arguments: of the interpreter.
    :raises GivenUpError: there is no such line, or not in time.
    """
    with tempfile.TemporaryDirectory(
        prefix="geventpool-", ignore_cleanup_errors=True
    ) as folder:
        try:
            done = subprocess.run(
                [sys.executable, *arguments],
                cwd=Path(__file__).parent.parent,
                env={**os.environ, "TMPDIR": folder},
                capture_output=True,
                text=True,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            raise GivenUpError(f"hung, given up after {seconds:.0f} s") from None
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        last = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise GivenUpError(f"crashed: {last[0]}") from None
