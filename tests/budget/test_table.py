"""The file of a budget: locks decide, hints help."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from geventpool import BudgetError
from geventpool.budget import files
from geventpool.budget.sharing import Part
from geventpool.budget.table import Table, read
from tests.budget.processes import Process


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "b")


@pytest.fixture
def table(path: str) -> Iterator[Table]:
    table = Table(path, os.getpid())
    yield table
    table.close()


def part(table: Table, **values: float) -> Part:
    numbers = dict.fromkeys(Part._fields, 0) | {"name": "", "pid": table.pid}
    return Part(**{**numbers, "row": table.row, **values})  # type: ignore[arg-type]


def test_no_more_places_are_taken_than_there_are(table: Table, path: str) -> None:
    """Two processes never have the same place."""
    with Process(path) as other:
        assert other.tell("take 2") != "None"
        assert table.take(2, 0.0) is not None
        assert table.take(2, 0.0) is None
        assert other.tell("take 2") == "None"


def test_a_place_that_is_given_is_free(table: Table, path: str) -> None:
    """A process that has closed a connection lets the others open one."""
    with Process(path) as other:
        other.tell("take 1")
        other.tell("give")
        assert table.take(1, 0.0) == (0, False)


def test_a_killed_process_leaves_no_place_taken(table: Table, path: str) -> None:
    """Nothing has to clean up after SIGKILL; the place tells of the death."""
    with Process(path) as other:
        other.tell("take 1")
        other.kill()
        assert table.take(1, 0.0) == (0, True)


def test_a_child_that_closed_the_file_keeps_no_place(table: Table, path: str) -> None:
    """A fork copies the descriptor: closing the copy must be all that a child does."""
    with Process(path) as other:
        other.tell("take 1")
        child = int(other.tell("fork"))
        try:
            assert table.take(1, 0.0) is None
            other.kill()
            assert table.take(1, 0.0) == (0, True)
        finally:
            os.kill(child, signal.SIGKILL)


def test_each_living_process_has_a_row_of_its_own(table: Table, path: str) -> None:
    """Rows tell who holds what."""
    table.write(part(table, held=3, total=5))
    other = Table(path, os.getpid())
    other.write(part(other, held=4))
    assert [(each.row, each.held) for each in table.parts()] == [(0, 3), (1, 4)]
    other.close()
    assert [each.held for each in table.parts()] == [3]
    third = Table(path, os.getpid())
    assert third.row == other.row
    third.close()
    assert [each.total for each in read(path)[0]] == [5]


def test_a_row_whose_process_is_just_being_cleaned_up_is_no_fault(
    table: Table, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes may find the row of a dead one at the same moment."""
    dead = Table(path, os.getpid())
    dead.write(part(dead))
    table.write(part(table))
    dead.close()
    monkeypatch.setattr("geventpool.budget.locks.try_lock", lambda fd, offset: False)
    assert [each.row for each in table.parts()] == [0]


def test_more_processes_than_rows_are_refused(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the file and the rule."""
    monkeypatch.setattr("geventpool.budget.table.ROWS", 1)
    first = Table(path, 1)
    with pytest.raises(BudgetError, match="1 processes share it"):
        Table(path, 2)
    first.close()


def test_a_place_is_reserved_until_a_time(table: Table, path: str) -> None:
    """Else a giver would take its place back before the one it is for wakes."""
    other = Table(path, os.getpid())
    table.take(1, 0.0)
    table.give(other.row, until=5.0)
    assert table.take(1, 4.9) is None
    assert other.take(1, 4.9) == (0, False)
    other.give(table.row + 7, until=5.0)
    assert table.take(1, 5.0) == (0, False)
    other.close()


def test_the_places_beyond_a_smaller_total_are_given_first(table: Table) -> None:
    """So a smaller total is in force as soon as possible."""
    for _ in range(3):
        table.take(3, 0.0)
    table.give()
    assert table.held == {0, 1}


def test_moves_are_bounded(table: Table, path: str) -> None:
    """In t seconds at most total + 2 * total * t places move."""
    assert table.tokens(20, 10, 100.0) == 10
    assert table.tokens(20, 10, 100.125) == 2
    assert table.tokens(1, 10, 100.14) == 0


def test_the_number_of_moves_outlives_the_processes(table: Table, path: str) -> None:
    """Else it would fall when a worker is replaced."""
    assert table.tokens(3, 10, 100.0) == 3
    table.close()
    with Process(path):
        other = Table(path, os.getpid())
        other.tokens(2, 10, 101.0)
        other.close()
    assert read(path) == ([], 5)


def test_nothing_moves_while_another_process_counts(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting for a lock would stop the event loop."""
    monkeypatch.setattr("geventpool.budget.locks.try_lock", lambda fd, offset: False)
    assert table.tokens(1, 10, 0.0) == 0


def test_nothing_moves_if_it_cannot_be_counted(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk must not lift the bound, nor cost a place."""

    def full(*args: object) -> int:
        raise OSError(28, "no space")

    monkeypatch.setattr(os, "pwrite", full)
    assert table.tokens(1, 10, 1e6) == 0
    assert table.take(1, 0.0) == (0, False)


def test_a_file_that_was_replaced_is_noticed(table: Table, path: str) -> None:
    """Two files would be two groups of processes, each with all places."""
    assert table.is_current
    os.unlink(path)
    assert not table.is_current
    Table(path, 1).close()
    assert not table.is_current


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"hello", "is not the file of a budget"),
        (b"", "is not the file of a budget"),
        (b"gpbudget" + bytes(100), "another version of geventpool, or is damaged"),
    ],
)
def test_a_foreign_file_is_refused(path: str, content: bytes, told: str) -> None:
    """It is not repaired, because it may be somebody's data."""
    Path(path).write_bytes(content)
    with pytest.raises(BudgetError, match=told):
        files.open_file(path)
    assert Path(path).read_bytes() == content


def test_a_file_that_was_cut_off_is_refused(path: str) -> None:
    """It was the file of a budget once."""
    os.close(files.open_file(path))
    os.truncate(path, 1000)
    with pytest.raises(BudgetError, match="damaged"):
        files.open_file(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """Symbolic links, pipes and folders that are missing."""
    (tmp_path / "link").symlink_to(tmp_path / "x")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "missing/b"):
        with pytest.raises(BudgetError, match=name):
            files.open_file(str(tmp_path / name))


def test_two_processes_may_make_the_file_at_once(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that comes second uses what the first has made."""
    os.close(files.open_file(path))
    before = os.stat(path).st_ino
    opened = os.open
    late: list[str] = []

    def open_late(name: str, *rest: int) -> int:
        if name == path and not late:
            late.append(name)
            raise FileNotFoundError
        return opened(name, *rest)

    monkeypatch.setattr("os.open", open_late)
    os.close(files.open_file(path))
    assert late and os.stat(path).st_ino == before
    assert os.listdir(os.path.dirname(path)) == ["b"]


def test_a_plain_name_is_a_file_in_a_folder_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other user may take part, or put a file there before."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = tmp_path / f"geventpool-{os.geteuid()}"
    assert files.path_of("shop") == str(folder / "shop.budget")
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    with pytest.raises(BudgetError, match="no other user can write to"):
        files.path_of("shop")
    folder.rmdir()
    folder.write_text("")
    with pytest.raises(BudgetError, match="no folder"):
        files.path_of("shop")


@pytest.mark.parametrize("name", ["", ".", "a b", "a" * 65, "/tmp/" + "a" * 65])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    """The message names value and rule."""
    with pytest.raises(ValueError, match="name must"):
        files.path_of(name)


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs", "virtiofs"])
def test_a_file_system_whose_locks_are_unsafe_is_refused(
    path: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such locks block, or are granted twice now and then."""
    monkeypatch.setattr(files, "file_system", lambda path: kind)
    with pytest.raises(BudgetError, match=kind):
        files.check(path)


def test_a_file_system_without_locks_is_refused(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are tried: there are more file systems than anybody can list."""
    files.check(path)
    monkeypatch.setattr("geventpool.budget.locks.try_lock", lambda fd, offset: True)
    with pytest.raises(BudgetError, match="without open-file-description locks"):
        files.check(path)

    def fails(fd: int, offset: int) -> bool:
        raise OSError(95, "not supported")

    monkeypatch.setattr("geventpool.budget.locks.try_lock", fails)
    with pytest.raises(BudgetError, match="without open-file-description locks"):
        files.check(path)


def test_the_type_of_a_file_system_may_be_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without /proc the locks are tried all the same."""
    file_system = files.file_system
    assert file_system("/proc/self/stat") == "proc"

    def missing(*args: object, **more: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", missing)
    assert file_system("/") == ""
