"""A plugin for pytest: tests that leave connections on loan fail.

pytest finds it by its entry point. It changes nothing unless a test asks for it by the
fixture ``no_leftovers``, or the settings do for all tests::

    [pytest]
    geventpool_leftovers = all

It imports nothing of gevent or geventpool before the tests do: programs patch the
standard library first, and a plugin is imported before any program.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from geventpool.testing.leftovers import Leftovers

__all__ = ["no_leftovers"]

OFF, LOANS, ALL = "off", "loans", "all"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting."""
    parser.addini(
        "geventpool_leftovers",
        "fail tests that leave behind in pools: off; loans (and waiters); all (also "
        "greenlets of pools that were made in the test and left open)",
        default=OFF,
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a setting that is not known."""
    chosen = config.getini("geventpool_leftovers")
    if chosen not in (OFF, LOANS, ALL):
        raise pytest.UsageError(
            f"geventpool_leftovers must be off, loans or all, not {chosen!r}"
        )


@pytest.fixture
def no_leftovers() -> Iterator[None]:
    """Fail the test if it leaves a loan, a waiter or a greenlet of a pool behind."""
    yield from _watched(with_greenlets=True)


@pytest.fixture(autouse=True)
def _geventpool_leftovers(request: pytest.FixtureRequest) -> Iterator[None]:
    chosen = request.config.getini("geventpool_leftovers")
    if chosen == OFF or "no_leftovers" in request.fixturenames:
        yield
    else:
        yield from _watched(with_greenlets=chosen == ALL)


def _watched(with_greenlets: bool) -> Iterator[None]:
    if "geventpool" not in sys.modules:
        # The test may import it, so what it leaves is looked for all the same.
        yield
        if "geventpool" not in sys.modules:
            return
        found = _leftovers(with_greenlets).found()
    else:
        with _leftovers(with_greenlets) as leftovers:
            yield
            found = leftovers.found()
    if found:
        pytest.fail("left behind:\n" + "\n".join(found), pytrace=False)


def _leftovers(with_greenlets: bool) -> Leftovers:
    from geventpool.testing.leftovers import Leftovers

    return Leftovers(with_greenlets)
