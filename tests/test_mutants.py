"""The mistakes for ``make mutants``: each can still be made, and the driver is true."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants import ROOT, Mutant, Replacement, read, read_all
from tests.mutants.__main__ import HUNG, NOTICED, SURVIVED, run

MUTANTS = read_all()


def is_lost(mutant: Mutant) -> str:
    """Why the mistake cannot be made any more; empty: it can."""
    try:
        path = mutant.locate(ROOT)
    except ValueError as error:
        return str(error)
    before = path.read_text()
    after = mutant.applied_to(before)
    assert after != before, f"{mutant.where} changes nothing"
    compile(after, str(path), "exec")
    return ""


def test_nearly_every_mistake_can_still_be_made() -> None:
    """What it replaces is in the code once, and what results is Python.

    A few may be lost to a change of the code: they are to be written anew, or removed.
    """
    lost = [why for mutant in MUTANTS if (why := is_lost(mutant))]
    assert len(lost) <= 0.05 * len(MUTANTS), "\n".join(lost)


def test_the_tests_of_each_mistake_exist() -> None:
    """A missing path would be an error of pytest, and pass for a failure."""
    for mutant in MUTANTS:
        missing = [test for test in mutant.tests if not (ROOT / test).exists()]
        assert mutant.tests and not missing, f"{mutant.where}: {missing}"


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
