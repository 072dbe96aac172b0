"""Each call of an adapter fails once: no place is lost, no reply goes astray."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import redis
import sqlalchemy.exc
from pymysql import err

from geventpool import PoolError
from geventpool.testing import fail_calls_everywhere
from tests.conftest import HubError
from tests.failures.scenes import ROWS, Site

#: What a driver makes of an error in it. The first row of each adapter goes through all
#: of its code for a loan.
EXPECTED: dict[str, tuple[type[BaseException], ...]] = {
    "a_command": (redis.RedisError,),
    "a_transaction": (redis.RedisError,),
    "a_shared_command": (redis.RedisError,),
    "a_query": (err.Error,),
    "a_transfer": (err.Error,),
    "an_engine": (err.Error, sqlalchemy.exc.SQLAlchemyError),
}

#: Those that are struck after each call as well. The rest runs the same code, or is
#: struck there in test_autopipe_signals.py.
STRUCK_AFTER = ("a_command", "a_query", "an_engine")


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.parametrize(
    ("name", "after"),
    [*[(name, False) for name in EXPECTED], *[(name, True) for name in STRUCK_AFTER]],
)
def test_any_call_of_an_adapter_may_fail(
    name: str, after: bool, site: Site, hub_errors: list[HubError]
) -> None:
    """For want of memory, or by a signal handler."""
    ends: list[Callable[[], object]] = []

    def scenario() -> Any:
        scene = ROWS[name].begin(site)
        ends.append(scene.afterwards)
        return scene.work, scene.pools

    def afterwards() -> None:
        ends.pop()()

    calls = fail_calls_everywhere(
        scenario,
        after=after,
        skipped=("__enter__", "__exit__") if after else ("__exit__",),
        expected=(PoolError, *EXPECTED[name]),
        afterwards=afterwards,
    )
    assert calls >= 50
    gc.collect()
    hub_errors.clear()
