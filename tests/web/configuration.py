"""The settings of gunicorn for the program of this package."""

from __future__ import annotations

import os
from typing import Any

if os.environ.get("PATCH_EARLY"):
    # With --preload the program is imported in the parent.
    from gevent import monkey

    monkey.patch_all()


def child_exit(server: Any, worker: Any) -> None:
    """Forget the gauges of a worker that has ended."""
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
