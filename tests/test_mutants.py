"""The mistakes for ``make mutants``: each can still be made, and the driver is true."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants import ROOT, Mutant, Replacement, read, read_all
from tests.mutants.__main__ import HUNG, NOTICED, SURVIVED, run

MUTANTS = read_all()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.where)
def test_a_mistake_can_be_made(mutant: Mutant) -> None:
    """What it replaces is there once, what results is Python, its tests exist."""
    path = mutant.locate(ROOT)
    before = path.read_text()
    after = mutant.applied_to(before)
    assert after != before
    compile(after, str(path), "exec")
    assert mutant.tests and all((ROOT / test).exists() for test in mutant.tests)


def test_there_are_enough_mistakes() -> None:
    """At least two hundred, each described in words of its own."""
    assert len(MUTANTS) >= 200
    told = [(mutant.where.split(":")[0], mutant.text) for mutant in MUTANTS]
    assert len(set(told)) == len(told)


def test_a_list_is_read_as_it_is_written(tmp_path: Path) -> None:
    """Parts of lines, whole lines, and settings that hold until the next."""
    text = """file: one.py
tests: a b

# first
~ x = 1 => x = 2
-old
-lines
+new
# second
-gone

file: two.py
# third
~ y =>
"""
    path = tmp_path / "some.txt"
    path.write_text(text)
    first, second, third = read(path)
    assert (first.where, first.text, first.path) == ("some.txt:4", "first", "one.py")
    assert first.tests == ["a", "b"] == third.tests
    assert first.replacements == [
        Replacement("x = 1", "x = 2"),
        Replacement("old\nlines\n", "new\n"),
    ]
    assert second.replacements == [Replacement("gone\n", "")]
    assert (third.path, third.text) == ("two.py", "third")
    path.write_text("whatever\n")
    with pytest.raises(ValueError, match="some.txt:1: not understood: 'whatever'"):
        read(path)


def test_a_mistake_follows_code_that_has_moved(tmp_path: Path) -> None:
    """It is looked for in the whole package, and must stand in one file only."""
    package = tmp_path / "geventpool"
    package.mkdir()
    (package / "old.py").write_text("x = 1\n")
    (package / "new.py").write_text("y = 1\n")
    mutant = Mutant("a:1", "wrong", "geventpool/old.py", [], [Replacement("y = 1")])
    assert mutant.locate(tmp_path) == package / "new.py"
    (package / "old.py").write_text("y = 1\ny = 1\n")
    assert mutant.locate(tmp_path) == package / "new.py"
    (package / "third.py").write_text("y = 1\n")
    with pytest.raises(ValueError, match="a:1: wrong: 2 files"):
        mutant.locate(tmp_path)


@pytest.mark.parametrize(
    ("body", "limit", "result"),
    [
        ("assert True", 60, SURVIVED),
        ("assert False", 60, NOTICED),
        ("import nothing_of_this_name", 60, NOTICED),
        ("import time; time.sleep(60)", 0.5, HUNG),
    ],
)
def test_a_run_is_judged_by_its_end(
    tmp_path: Path, body: str, limit: float, result: str
) -> None:
    """A failed test notices, a passed one does not, and one without end hangs."""
    (tmp_path / "test_it.py").write_text(f"def test_it():\n    {body}\n")
    assert run(["test_it.py"], tmp_path, limit) == result
