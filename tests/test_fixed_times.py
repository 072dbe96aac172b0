"""Tests wait for events, and only where it cannot be helped for time."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

#: Files that may wait for a time, how often, and why.
ALLOWED = {
    # What these functions are for is said there.
    "pauses.py": 3,
    # Load and its disturbances are random in time: any order of events is right.
    "failures/load.py": 5,
    "failures/proxy.py": 1,
    "redis/test_interruption.py": 1,
    "test_measures.py": 1,
    "test_storm.py": 3,
    # A thread of a server is stopped by the kernel, and nothing may run meanwhile.
    "servers.py": 1,
    # Borrowers that sleep are what is to be found.
    "test_seeded_defects.py": 3,
    # A process that must be ended by force.
    "harness/test_cells.py": 1,
    "test_mutants.py": 1,
}

#: A call of sleep() whose argument is not 0; the text of scripts included.
SLEEP = re.compile(r"(?<!def )(?<!return )\bsleep\((?!0\))(?!\))")

FILES = sorted(path.relative_to(TESTS).as_posix() for path in TESTS.rglob("*.py"))


@pytest.mark.parametrize(
    "name", [name for name in FILES if name != Path(__file__).name]
)
def test_no_test_waits_for_a_fixed_time(name: str) -> None:
    """It would be too short on a busy machine, and too long on any other.

    ``tests/pauses.py`` and ``geventpool.testing.wait_until()`` have what is better.
    """
    lines = (TESTS / name).read_text().splitlines()
    found = [
        f"line {n}: {line}" for n, line in enumerate(lines, 1) if SLEEP.search(line)
    ]
    assert len(found) == ALLOWED.get(name, 0), "\n".join(found)


def test_the_table_names_files_that_exist() -> None:
    """A row for a file that was renamed would be without effect."""
    assert not ALLOWED.keys() - set(FILES)


@pytest.mark.parametrize(
    ("line", "is_found"),
    [
        ("gevent.sleep(0.01)", True),
        ("time.sleep(PAUSE)", True),
        ("lambda: gevent.sleep(2 * chance)", True),
        ("gevent.sleep(0)", False),
        ("gevent.sleep()", False),
        ("SELECT SLEEP(1)", False),
        ("pg_sleep(1)", False),
        ("def sleep(pool):", False),
    ],
)
def test_a_fixed_time_is_found(line: str, is_found: bool) -> None:
    """Whatever module it is of; a turn of the event loop is not one."""
    assert bool(SLEEP.search(line)) is is_found
