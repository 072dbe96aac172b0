"""
Runs in files: what was measured, where, with what, as one JSON document.

It knows how a run is written and read again; what is in it is the business of those
who ask for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from benchmarks.report import Measure, Report

#: Changes when an older file can no longer be read as a newer one.
FORMAT = 1

#: A run as it stands in a file.
Run = dict[str, Any]


class NotARunError(Exception):
    """The file does not hold what ``--json`` writes."""


def run_of(where: dict[str, Any], scale: str, reports: Sequence[Report]) -> Run:
    """
    A run as plain data.

    :param where: the surroundings, see ``machine.surroundings``.
    """
    workloads = {report.workload: report.as_json() for report in reports}
    return {"format": FORMAT, **where, "scale": scale, "workloads": workloads}


def save(path: Path, run: Run) -> None:
    """Write a run; :raises OSError: as the file system does."""
    text = json.dumps(run, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def load(path: Path) -> Run:
    """
    Read a run.

    :raises NotARunError: if it is none, or one of another format.
    :raises OSError: if the file can't be read.
    """
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        found = run["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise NotARunError(f"{path} was not written by --json: {error!r}") from None
    if found != FORMAT:
        raise NotARunError(f"{path} has format {found!r}; this reads {FORMAT}")
    return dict(run)


def merged(runs: Sequence[Run]) -> Run:
    """
    The same workloads, run in several processes, as one run.

    Tables and figures are those of the first; the samples are those of all. What one of
    them could not measure is left out.
    """
    first: Run = json.loads(json.dumps(runs[0]))
    for name, workload in first["workloads"].items():
        for place, section in enumerate(workload["sections"]):
            alike = [_section(run, name, place) for run in runs]
            section["measures"] = list(_together([measures(each) for each in alike]))
    return {**first, "processes": len(runs)}


def _section(run: Run, workload: str, place: int) -> dict[str, Any]:
    sections = run["workloads"].get(workload, {"sections": []})["sections"]
    found: dict[str, Any] = {"measures": []}
    return sections[place] if place < len(sections) else found


def _together(
    found: list[dict[tuple[str, str], Measure]],
) -> Iterator[dict[str, Any]]:
    for key, measure in found[0].items():
        if all(key in each for each in found):
            parts = [each[key].samples for each in found]
            yield asdict(
                replace(
                    measure,
                    samples=[value for part in parts for value in part],
                    processes=[len(part) for part in parts],
                )
            )


def figures(run: Run) -> Iterator[Figure]:
    """All figures of a run."""
    for workload in run["workloads"].values():
        yield from map(Figure.of_plain, workload["figures"])


def measures(section: dict[str, Any]) -> dict[tuple[str, str], Measure]:
    """The measures of a section by contestant and quantity, those with gaps aside."""
    found = [Measure(**plain) for plain in section["measures"]]
    return {
        (measure.contestant, measure.quantity): measure
        for measure in found
        if measure.samples and None not in measure.samples
    }
