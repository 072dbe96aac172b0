"""The files of the package are short, and the benchmarks are in proportion to it."""

from __future__ import annotations

from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "geventpool"
FILES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))
#: The most lines of a file.
MOST = 500

BENCHMARKS = PACKAGE.parent / "benchmarks"
#: The most lines of all files of the benchmarks.
MOST_OF_BENCHMARKS = 5000


@pytest.mark.parametrize("path", FILES)
def test_a_file_has_at_most_500_lines(path: str) -> None:
    """A longer one has more than one noun in it: give each a file of its own."""
    assert len((PACKAGE / path).read_text().splitlines()) <= MOST


def test_the_benchmarks_have_no_more_lines_than_before() -> None:
    """A new workload takes the place of something that no decision hangs on."""
    lines = [path.read_text().splitlines() for path in BENCHMARKS.rglob("*.py")]
    assert sum(map(len, lines)) <= MOST_OF_BENCHMARKS
