"""What a program sees of a budget."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gevent
import pytest

from geventpool import Budget, BudgetError
from geventpool.budget import locks
from geventpool.budget import seat as module


def test_a_budget_shows_what_it_was_given(tmp_path: Path) -> None:
    """In messages and in the interpreter."""
    path = tmp_path / "b"
    budget = Budget(path, 40, reserve=2)
    assert (budget.path, budget.total, budget.reserve) == (str(path), 40, 2)
    assert repr(budget) == f"Budget('{path}', 40, reserve=2)"
    assert budget == Budget(f"{path}", 40, 2)
    assert hash(budget) == hash(Budget(f"{path}", 40, 2))
    assert budget != Budget(path, 41)
    assert budget.name == str(path)


@pytest.mark.parametrize(
    ("values", "error", "told"),
    [
        ((1, 4), TypeError, "name must be a string or a path, not 1"),
        (("x\0", 4), ValueError, "name must be a path of text"),
        (("x", "4"), TypeError, "total must be a whole number of at least 1, not '4'"),
        (("x", 0), ValueError, "total must be a whole number of at least 1, not 0"),
        (("x", 20000), ValueError, "total must be at most 16384, not 20000"),
        (("x", 4, -1), ValueError, "reserve must be a whole number of at least 0"),
        (("x", 4, 5), ValueError, r"reserve must be at most total \(4\), not 5"),
    ],
)
def test_bad_values_are_refused(
    values: tuple[Any, ...], error: type[Exception], told: str
) -> None:
    """The message names argument, value and rule."""
    with pytest.raises(error, match=told):
        Budget(*values)


def test_a_system_without_such_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At construction, and not when a server is full."""
    monkeypatch.setattr(locks, "is_supported", lambda: False)
    with pytest.raises(BudgetError, match="a Budget needs Linux"):
        Budget(tmp_path / "b", 1)


def test_a_budget_can_be_written_as_text(tmp_path: Path) -> None:
    """Name, total and reserve, with colons."""
    path = tmp_path / "b"
    assert Budget.from_text(f"{path}:40") == Budget(path, 40)
    assert Budget.from_text(f"{path}:40:3") == Budget(path, 40, 3)
    assert Budget.from_text(f"{path}:040:0") == Budget(path, 40, 0)


@pytest.mark.parametrize(
    "text",
    [
        *("", "shop", "shop:", ":40", "shop:x", "shop:4:x", "shop:4:", "shop::4"),
        *(
            "shop:1:1:1",
            "shop:-1",
            "shop:+1",
            "shop:4.0",
            "shop: 4",
            "shop:4 ",
            "a:b:4",
        ),
        *("shop:\u0664\u0660", "shop:" + 5000 * "9", "shop:4\n"),
    ],
)
def test_a_text_that_is_no_budget_is_refused(text: str) -> None:
    """With the rule, and the text in it."""
    rule = (
        "a budget must be NAME:TOTAL or NAME:TOTAL:RESERVE, with whole numbers and no"
    )
    with pytest.raises(ValueError, match=rule) as caught:
        Budget.from_text(text)
    assert repr(text)[:20] in str(caught.value)
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("shop:0", "total must be a whole number of at least 1, not 0"),
        ("shop:16385", "total must be at most 16384, not 16385"),
        ("shop:4:5", r"reserve must be at most total \(4\), not 5"),
        ("sh op:4", "name must be a path with a '/', or at most 64 letters"),
    ],
)
def test_a_text_with_values_out_of_range_names_the_value(text: str, told: str) -> None:
    """As the constructor does."""
    with pytest.raises(ValueError, match=told):
        Budget.from_text(text)


def test_only_a_string_is_text() -> None:
    """A number would be a total without a name."""
    with pytest.raises(TypeError, match="a budget must be a string here, not 40"):
        Budget.from_text(40)  # type: ignore[arg-type]


def test_the_stats_show_each_process(tmp_path: Path) -> None:
    """Who holds how many places of the host."""
    budget = Budget(tmp_path / "b", 4)
    assert budget.stats().shares == ()
    seat = budget.seat("web")
    assert seat.lease()
    stats = budget.stats()
    assert (stats.total, stats.held, stats.waiting, stats.moved) == (4, 1, 0, 0)
    assert [(share.pid, share.held, share.name) for share in stats.shares] == [
        (os.getpid(), 1, "web")
    ]
    seat.give_back()
    assert budget.stats().held == 0


def test_a_fork_leaves_the_leases_to_the_parent(tmp_path: Path) -> None:
    """The child begins with nothing, and its end frees nothing."""
    budget = Budget(tmp_path / "b", 2)
    parent = budget.seat("")
    assert parent.lease()
    child = gevent.fork()
    if not child:  # pragma: no cover (in the child, where nobody counts)
        code = 1
        try:
            seat = budget.seat("")
            code = 0 if seat.lease() and not seat.lease(wish=False) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert budget.stats().held == 1
    parent.give_back()


def test_at_exit_only_the_address_goes(tmp_path: Path) -> None:
    """Connections are open until the process has ended, and so are its places."""
    budget = Budget(tmp_path / "b", 2)
    seat = budget.seat("")
    assert seat.lease()
    module.at_exit()
    assert os.listdir(tmp_path) == ["b"]
    assert budget.stats().held == 1
    seat.give_back()
    seat.close()


def test_after_a_fork_no_file_is_open(tmp_path: Path) -> None:
    """What the child does at a fork, without one."""
    seat = Budget(tmp_path / "b", 2).seat("")
    module.after_fork()
    assert seat.table.fd == -1
