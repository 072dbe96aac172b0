"""Runs in files: what was measured, where and with what, as one JSON document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from benchmarks.report import Report

#: Changes when older files can no longer be read.
FORMAT = 2

#: A run as it is in a file.
Run = dict[str, Any]


class WrongFileError(Exception):
    """The file is not a run, or not a page with a place for one."""


def run_of(where: dict[str, Any], scale: str, reports: Sequence[Report]) -> Run:
    """Return a run as plain data.

    :param where: the metadata, see :func:`benchmarks.metadata.collect`.
    """
    workloads = {report.workload: report.as_plain() for report in reports}
    return {"format": FORMAT, **where, "scale": scale, "workloads": workloads}


def save(path: Path, run: Run) -> None:
    """Write a run."""
    path.write_text(json.dumps(run, ensure_ascii=False) + "\n", encoding="utf-8")


def load(path: Path) -> Run:
    """Read a run.

    :raises WrongFileError: it is not a run, or has another format.
    :raises OSError: the file cannot be read.
    """
    try:
        run: Run = json.loads(path.read_text(encoding="utf-8"))
        if run["format"] == FORMAT:
            return run
    except (ValueError, TypeError, KeyError):
        pass
    raise WrongFileError(f"{path} was not written by --json in format {FORMAT}")


def figures(run: Run) -> Iterator[Figure]:
    """Yield all figures of a run."""
    for workload in run["workloads"].values():
        yield from map(Figure.of_plain, workload["figures"])
