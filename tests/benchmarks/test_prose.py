"""The figures in the prose of the documentation are those of the kept run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks import page, results

OWN, BLOCKING = "geventpool, auto_pipeline", "redis Blocking"
PIPELINING = page.PAGE.parents[1] / "explanation" / "automatic-pipelining.rst"


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    """The workloads of the kept run."""
    loaded = results.load(page.PAGE.parent / page.FOLDER / page.NUMBERS)
    return loaded["workloads"]


@pytest.fixture(scope="module")
def measured(kept: dict[str, Any]) -> dict[str, Any]:
    """What the kept run says of Redis."""
    return kept["redis"]


def throughput(measured: dict[str, Any], pool: str, greenlets: str) -> str:
    """The ratio to a connection each, as the table of the page has it."""
    [section] = [each for each in measured["sections"] if "/s by" in each["title"]]
    [row] = [each for each in section["rows"] if each[0] == pool]
    cell = row[section["columns"].index(f"{greenlets}, 64")]
    ratio = cell.partition("%")[2]
    return ratio.strip().rstrip("×")


def target(measured: dict[str, Any], what: str) -> float:
    """The figure of a target for 50 greenlets."""
    wanted = re.compile(rf"{what} of {OWN}, 50 greenlets, 64 bytes, to .*?: ([\d.]+)")
    found = [wanted.match(each["text"]) for each in measured["targets"]]
    return next(float(each[1]) for each in found if each is not None)


def agrees(written: str, found: str | float) -> bool:
    """Whether a figure, rounded as it is written, is the one found."""
    if not re.fullmatch(r"[\d.]+", written) or not re.fullmatch(r"[\d.]+", str(found)):
        return written == found
    unit = 10.0 ** -len(written.partition(".")[2])
    return abs(float(written) - float(found)) <= 0.5001 * unit


def test_the_table_of_pipelining_has_the_figures_of_the_page(measured) -> None:
    """It is written by hand, and the page by a program."""
    text = PIPELINING.read_text(encoding="utf-8")
    rows = re.findall(r"^throughput, (\d+) greenlets? +(\S.*?) {2,}(\S.*)$", text, re.M)
    assert len(rows) >= 5
    for greenlets, own, blocking in rows:
        assert agrees(own, throughput(measured, OWN, greenlets))
        assert agrees(blocking, throughput(measured, BLOCKING, greenlets))
    [cpu] = re.findall(r"^CPU time, 50 greenlets +(\S+)$", text, re.M)
    [p99] = re.findall(r"^p99, 50 greenlets +(\S+)$", text, re.M)
    assert agrees(cpu, target(measured, "cpu_each"))
    assert agrees(p99, target(measured, "p99"))


#: The rows of the README's table: the workload, and what it measures.
ROWS = {
    "MySQL, ``SELECT 1``": ("mysql", "SELECT 1 in autocommit: throughput"),
    "MySQL, ``SELECT 1`` and ``COMMIT``": ("mysql", "SELECT 1 and COMMIT: throughput"),
    "MySQL, ``INSERT``": ("mysql", "INSERT in autocommit: throughput"),
    "MySQL, ``SET`` of a variable": ("mysql", "SET of a variable in autocommit: "),
    "Redis, ``GET``": ("redis", "GET: throughput"),
    "``auto_pipeline``, 50 greenlets, ``GET``": (
        "redis",
        f"throughput of {OWN}, 50 greenlets, 64 bytes",
    ),
    "``auto_pipeline``, 1 greenlet, ``GET``": (
        "redis",
        f"throughput of {OWN}, 1 greenlets",
    ),
}
STOCK, NO_POOL = "to (?:QueuePool|redis Blocking)", "to (?:no pool|a connection each)"


def of_target(workload: dict[str, Any], what: str, other: str) -> str:
    """The figure of a target; empty: there is no such target."""
    wanted = re.compile(rf"{re.escape(what)}.* {other}: ([\d.]+),")
    found = [wanted.match(each["text"]) for each in workload["targets"]]
    return next((each[1] for each in found if each is not None), "")


def rows_below(heading: str, text: str) -> Iterator[tuple[str, list[str]]]:
    """The rows of the table whose last column has this heading: first cell, others."""
    lines = iter(text.splitlines())
    columns: list[re.Match[str]] = []
    for line in lines:
        if line.endswith("  " + heading):
            columns = list(re.finditer("=+", next(lines)))
        elif line.startswith("=="):
            columns = []
        elif columns:
            first, *others = (line[each.start() : each.end()] for each in columns)
            yield first.strip(), [each.strip() for each in others]


def test_the_readme_has_the_figures_of_the_page(kept) -> None:
    """Its table is written by hand, and the page by a program."""
    rows = dict(rows_below("no pool", page.README.read_text(encoding="utf-8")))
    assert rows.keys() == ROWS.keys()
    for row, (workload, what) in ROWS.items():
        for written, other in zip(rows[row], (STOCK, NO_POOL), strict=True):
            found = of_target(kept[workload], what, other)
            assert written == found or agrees(written, found), row


@pytest.mark.parametrize(
    ("written", "found", "is_so"),
    [
        ("3.1", "3.09", True),
        ("2.9", "3.09", False),
        ("0.27", 0.27, True),
        ("7.2", "7.25", True),
        ("no difference", "no difference", True),
        ("0.77", "no difference", False),
    ],
)
def test_figures_agree_as_they_are_rounded(written, found, is_so) -> None:
    """Rounding is allowed, and nothing else."""
    assert agrees(written, found) is is_so
