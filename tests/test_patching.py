"""The rule for processes that gevent has not patched, and the switch to change it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
from gevent import monkey

from geventpool import NotPatchedError, NotPatchedWarning, patching

REPOSITORY = Path(__file__).parent.parent


def warn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each warning of a process come once more, in the test."""
    monkeypatch.setattr(patching, "_warned", set())


@pytest.fixture()
def unpatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that gevent has not patched, and where nobody was warned."""
    monkeypatch.setattr(monkey, "is_object_patched", lambda *name: False)
    warn_again(monkeypatch)


def test_the_pool_does_the_pooling_where_socket_is_patched() -> None:
    """Whatever the switch says, and without a warning."""
    assert patching.pools_here("an adapter", patching.ERROR, "the driver's pool")
    assert patching.pools_here("an adapter", patching.STOCK, "the driver's pool")
    assert patching.missing("socket", "time", "thread") == []


@pytest.mark.usefixtures("unpatched")
def test_the_stock_part_is_used_after_one_warning_for_each_adapter() -> None:
    """A command line must work, and a program that forgot to patch must hear of it."""
    for adapter in ("an adapter", "another"):
        with pytest.warns(NotPatchedWarning, match="the driver's pool") as given:
            for _ in range(3):
                assert not patching.pools_here(adapter, "stock", "the driver's pool")
        assert len(given) == 1
        assert "monkey.patch_all()" in str(given[0].message)


@pytest.mark.usefixtures("unpatched")
def test_the_switch_makes_it_an_error_that_says_what_is_missing() -> None:
    """For programs that would rather not start than block."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(NotPatchedError, match="not patched socket") as caught:
            patching.pools_here("an adapter", "error", "the driver's pool")
    assert "an adapter" in str(caught.value)
    assert "monkey.patch_all()" in str(caught.value)


@pytest.mark.parametrize("value", [None, True, "", "Lifecycle", "warn", ["stock"]])
def test_the_switch_takes_two_words_alone(value: object) -> None:
    """The error names the argument, the value and the rule."""
    with pytest.raises(ValueError, match="unpatched must be 'stock' or 'error'") as got:
        patching.check_unpatched(value)
    assert repr(value) in str(got.value)
    assert patching.check_unpatched("stock") == "stock"
    assert patching.check_unpatched("error") == "error"


@pytest.mark.parametrize(
    "patch, missing",
    [
        ("patch_all()", "[]"),
        ("patch_all(time=False)", "['time']"),
        ("patch_all(thread=False)", "['thread']"),
        ("patch_all(socket=False)", "['socket']"),
        ("patch_all(select=False, ssl=False)", "['select', 'ssl']"),
        ("patch_all(subprocess=False)", "['subprocess']"),
        ("patch_dns()", "['select', 'socket', 'ssl', 'subprocess', 'thread', 'time']"),
    ],
)
def test_what_is_missing_is_known_part_by_part(patch: str, missing: str) -> None:
    """In particular, patched name look-ups do not make a patched socket."""
    program = f"""
        from gevent import monkey; monkey.{patch}
        from geventpool.patching import missing
        print(missing("select", "socket", "ssl", "subprocess", "thread", "time"))
    """
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stdout.strip() == missing, result.stderr
