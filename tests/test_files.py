"""The files of the package are short enough to be read at a stretch."""

from __future__ import annotations

from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "geventpool"
FILES = sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py"))
#: The most lines of a file.
MOST = 500


@pytest.mark.parametrize("path", FILES)
def test_a_file_has_at_most_500_lines(path: str) -> None:
    """A longer one has more than one noun in it: give each a file of its own."""
    assert len((PACKAGE / path).read_text().splitlines()) <= MOST
