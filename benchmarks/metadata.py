"""On which machine and with what the numbers were measured.

The warnings are those of pyperf's ``system show`` that matter to ratios: a clock
frequency that changes, a busy machine, an interpreter with a tracer.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

#: The packages whose versions are saved with the numbers.
PACKAGES = (
    *("geventpool", "gevent", "greenlet", "redis", "hiredis", "PyMySQL", "SQLAlchemy"),
    *("Django", "DBUtils", "gsocketpool", "pymysql-pool", "geventhttpclient"),
    "psycopg-pool",
)

#: Running tasks per core above which the machine counts as busy.
BUSY = 0.5

SYS_CPU = Path("/sys/devices/system/cpu")


def collect(arguments: list[str]) -> dict[str, Any]:
    """Return the machine, the versions, the time and the command, as plain data.

    :param arguments: what followed ``python -m benchmarks``.
    """
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": dict(versions()),
        "command": " ".join(["python -m benchmarks", *arguments]),
        "warnings": list(warnings()),
    }


def cpu_model() -> str:
    """Return the name of the processor."""
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return " ".join(value.split())
    return platform.processor() or platform.machine()


def warnings() -> Iterator[str]:
    """Yield what makes the numbers less steady now."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > BUSY * cores:
        yield f"the machine is busy with other work: load {load:.1f} on {cores} cores"
    governor = _read(SYS_CPU / "cpu0/cpufreq/scaling_governor")
    if governor not in ("", "performance"):
        yield f"the clock frequency changes: governor {governor!r}, not 'performance'"
    if sys.gettrace() is not None or sys.getprofile() is not None:
        yield "a tracer or profiler is active"


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def versions() -> Iterator[tuple[str, str]]:
    """Yield the installed packages that matter, and their versions."""
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            yield name, metadata.version(name)
