"""What the docs show of a run: two pictures, and the tables and targets of workloads.

The text between two marks of docs/results/benchmarks.rst is written by ``python -m
benchmarks --page``. The numbers are kept beside the pictures, so that the same text can
be written again without measuring, or be compared with a later run.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import fill, indent
from typing import Any

from benchmarks import results
from benchmarks.plots import draw
from benchmarks.results import Run, WrongFileError
from benchmarks.rounds import is_unsteady

#: The marks of a part that is measured.
BEGIN, END = ".. measured: begin", ".. measured: end"

PAGE = Path(__file__).parent.parent / "docs" / "results" / "benchmarks.rst"
README = PAGE.parents[2] / "README.rst"
COMMAND = "python -m benchmarks --scale page"

#: The figures of the page, and where they and the numbers are, relative to it.
PICTURES = ("waits-job", "throughput", "pipelining")
FOLDER = Path("pictures")
NUMBERS = "numbers.json"

#: The tables of a workload that has too many for a page; of the others all are shown.
SHOWN = {
    "contention": ("the job", "the greedy", "loans/s"),
    "mysql": ("SELECT 1 in autocommit",),
}

WIDTH = 88


def replaced(text: str, block: str) -> str:
    """Return the text with *block* between its two marks.

    :raises WrongFileError: unless each mark is there once, the first one first.
    """
    before, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"{END}\n")
    if not begin or not end or BEGIN in rest or END in before + after:
        raise WrongFileError(f"needs a line {BEGIN!r} and after it a line {END!r}")
    return f"{before}{begin}\n{block.strip()}\n\n{end}{after}"


def block_of(run: Run) -> str:
    """Return the text between the marks."""
    parts = [_where(run)]
    for name, alt in _alts(run):
        path = (FOLDER / f"{name}.svg").as_posix()
        parts.append(f".. image:: {path}\n   :alt: {alt}")
    for name, workload in run["workloads"].items():
        parts += _workload(name, workload)
    return "\n\n".join(parts)


def _alts(run: Run) -> Iterator[tuple[str, str]]:
    """Yield the names of the pictures, and what stands in the place of each."""
    for figure in results.figures(run):
        if figure.name in PICTURES:
            yield figure.name, f"{figure.title} ({figure.caption})"


def described(text: str, run: Run) -> str:
    """Return the text with the numbers of a run in the place of its pictures.

    A package index shows the README without its pictures.
    """
    for name, alt in _alts(run):
        image = re.compile(rf"(\.\. image:: .*/{name}\.\w+\n +:alt: ).*")
        text = image.sub(rf"\g<1>{alt}", text)
    return text


def _where(run: Run) -> str:
    versions = {name: found for name, found in run["packages"].items() if found}
    versions.pop("geventpool", None)
    listed = ", ".join(f"{name} {found}" for name, found in versions.items())
    numbers = [
        values
        for workload in run["workloads"].values()
        for section in workload["sections"]
        for quantities in section["numbers"].values()
        for values in quantities.values()
    ]
    rounds = max(map(len, numbers))
    unsteady = sum(map(is_unsteady, numbers))
    warned = "".join(f" {warning.capitalize()}." for warning in run["warnings"])
    return fill(
        f"Measured on {run['date'][:10]} by ``{COMMAND}`` on "
        f"{run['cpu']}, {run['cores']} cores, with Python {run['python']}, {listed}. "
        f"Medians of up to {rounds} rounds, in which all pools take turns. "
        f"{unsteady} of the {len(numbers)} quantities measured deviated by more than "
        f"a tenth from round to round.{warned}",
        WIDTH,
    )


def _workload(name: str, workload: dict[str, Any]) -> Iterator[str]:
    question = workload["question"]
    title = f"{name}: {question}"
    yield f"{title}\n{'-' * len(title)}"
    for section in workload["sections"]:
        shown = SHOWN.get(name)
        if shown is None or section["title"].startswith(shown):
            yield _table(section)
            yield _list(section["remarks"])
    texts = [
        f"{'met' if each['is_met'] else 'missed'}: {each['text']}"
        for each in workload["targets"]
    ]
    if texts:
        yield f"Targets:\n\n{_list(texts)}"


def _table(section: dict[str, Any]) -> str:
    text = io.StringIO()
    rows = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    rows.writerows(section["rows"])
    heading = ", ".join(f'"{name}"' for name in section["columns"])
    options = f".. csv-table:: {section['title']}\n   :header: {heading}\n\n"
    return options + indent(text.getvalue().rstrip(), "   ")


def _list(items: list[str]) -> str:
    lines = [fill(item, WIDTH - 2, subsequent_indent="  ") for item in items]
    return "\n".join(f"* {line}" for line in lines)


def write(run: Run, page: Path) -> None:
    """Write a run into a page, and its pictures and numbers beside it.

    :raises WrongFileError: it has no marks; nothing is written.
    """
    text = replaced(page.read_text(encoding="utf-8"), block_of(run))
    folder = page.parent / FOLDER
    list(draw(run, folder, PICTURES))
    for workload in run["workloads"].values():
        kept = [each for each in workload["figures"] if each["name"] in PICTURES]
        workload["figures"] = kept
    results.save(folder / NUMBERS, run)
    page.write_text(text, encoding="utf-8")
    if page == PAGE:
        readme = README.read_text(encoding="utf-8")
        README.write_text(described(readme, run), encoding="utf-8")
