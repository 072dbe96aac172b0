"""A misspelt name is refused with the name that was meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import geventpool.mysql
import geventpool.redis
from geventpool import Pool
from geventpool.hints import OTHER_NAMES
from geventpool.options import names
from geventpool.testing import ScriptedConnector

POOLS: list[Callable[..., Any]] = [
    lambda **options: Pool(ScriptedConnector(), **options),
    geventpool.redis.ConnectionPool,
    geventpool.mysql.ConnectionPool,
]


@pytest.mark.parametrize("make", POOLS)
@pytest.mark.parametrize("other", OTHER_NAMES)
def test_a_name_that_other_pools_have_is_known(
    make: Callable[..., Any], other: str
) -> None:
    """By spelling alone, max_idle_time would be max_lifetime."""
    with pytest.raises(TypeError, match=f"did you mean {OTHER_NAMES[other]!r}"):
        make(**{other: 3})


def test_the_names_that_others_have_stand_for_options() -> None:
    """And none of them is an option itself."""
    assert set(OTHER_NAMES.values()) <= names()
    assert not OTHER_NAMES.keys() & names()


@pytest.mark.parametrize("make", POOLS)
def test_without_another_name_the_spelling_counts(make: Callable[..., Any]) -> None:
    """A letter too many."""
    with pytest.raises(TypeError, match="did you mean 'reap_interval'"):
        make(reap_intervall=3)
