"""The figures in the prose of the documentation are those of the kept run."""

from __future__ import annotations

import re
from typing import Any

import pytest

from benchmarks import page, results

OWN, BLOCKING = "geventpool, auto_pipeline", "redis Blocking"
PIPELINING = page.PAGE.parents[1] / "explanation" / "automatic-pipelining.rst"


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """What the kept run says of Redis."""
    kept = results.load(page.PAGE.parent / page.FOLDER / page.NUMBERS)
    return kept["workloads"]["redis"]


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


def test_the_readme_has_the_figures_of_the_page(measured) -> None:
    """It says in words what the page has in tables."""
    text = " ".join(page.README.read_text(encoding="utf-8").split())
    found = re.search(
        r"50 greenlets make (\S+) times as many GETs per second as .*? no pool, and "
        r"(\S+) times as many as with redis-py's ``Blocking.*? (\d+) % of the CPU time "
        r".* One greenlet alone makes (\S+) times as many\.",
        text,
    )
    assert found is not None
    each, blocking, cpu, one = found.groups()
    assert agrees(each, throughput(measured, OWN, "50"))
    others = [each["text"] for each in measured["targets"]]
    [to_blocking] = re.findall(
        rf"throughput of {OWN}, 50 .*? redis Blocking: ([\d.]+)", "\n".join(others)
    )
    assert agrees(blocking, to_blocking)
    assert agrees(cpu, 100 * target(measured, "cpu_each"))
    assert agrees(one, throughput(measured, OWN, "1"))


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
