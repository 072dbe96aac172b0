"""Code, comments and pages are written in plain words."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import words


@pytest.mark.parametrize("path", list(words.files()), ids=words.name)
def test_plain_words_are_used(path: Path) -> None:
    """A reader with another mother tongue understands a page at first reading."""
    offences = list(words.found(path))
    most = words.allowed().get(words.name(path), 0)
    assert len(offences) <= most, "\n".join(
        f"line {line}: {word!r}; say: {plain}" for line, word, plain in offences
    )


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("# Whoever waits is served by him.\n", 2),
        ('"""The pool is closed for ever."""\n', 1),
        ('raise ValueError(f"{it} is in vain")\n', 1),
        ("he = whoever = None\n", 0),
        ("# The waiters are served; others are theirs.\n", 0),
    ],
)
def test_words_in_comments_and_strings_are_found(
    text: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of variables are not prose; everything that people read is."""
    monkeypatch.setattr(words, "ROOT", tmp_path)
    path = tmp_path / "example.py"
    path.write_text(text)
    assert len(list(words.found(path))) == number


def test_numbers_are_lowered_and_never_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has been cleaned stays clean."""
    monkeypatch.setattr(words, "ROOT", tmp_path)
    monkeypatch.setattr(words, "ALLOWED", tmp_path / "allowed.txt")
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "better.rst").write_text("He waits.\n")
    (folder / "clean.rst").write_text("It waits.\n")
    (folder / "new.rst").write_text("He waits.\n")
    (folder / "worse.rst").write_text("He waits for him.\n")
    before = {"better": 2, "clean": 1, "gone": 4, "worse": 1}
    words.ALLOWED.write_text("".join(f"{n} docs/{f}.rst\n" for f, n in before.items()))
    words.lower()
    assert words.allowed() == {"docs/better.rst": 1, "docs/worse.rst": 1}
