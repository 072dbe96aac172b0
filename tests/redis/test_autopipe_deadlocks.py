"""Greenlets that hold connections of their own and wait for the shared one."""

from __future__ import annotations

from typing import Any

import pytest

from geventpool.redis import RedisPoolDeadlockError
from geventpool.testing import wait_until
from tests import parts
from tests.redis.scripted import echo
from tests.redis.talking import (
    Holder,
    talking,
    two_holders,
    waits,
    without_connection,
)
from tests.redis.tools import outcome, pool_of

pytestmark = pytest.mark.usefixtures("limited")


def test_who_holds_all_connections_waits_for_itself() -> None:
    """The opener of the shared connection waits in its place."""
    with talking(echo, max_connections=2) as (client, _):
        without_connection(client)
        parts.sharing(pool_of(client)).timeout = 0.01
        conns = [pool_of(client).get_connection() for _ in range(2)]
        assert isinstance(outcome(client.get, "key"), RedisPoolDeadlockError)
        for conn in conns:
            pool_of(client).release(conn)
        parts.sharing(pool_of(client)).timeout = 5
        assert client.get("key") == b"key"


@pytest.mark.parametrize("is_late", [False, True])
def test_holders_of_all_connections_are_refused_at_once(is_late: bool) -> None:
    """If only they can give them back. Also where the last one sends later."""
    with two_holders() as (client, first, last):
        first.send()
        if is_late:
            wait_until(waits(client))
        last.send()
        assert isinstance(first.get(), RedisPoolDeadlockError)
        assert isinstance(last.get(), RedisPoolDeadlockError)
        assert client.get("key") == b"key"


def test_a_holder_that_does_not_wait_is_no_deadlock() -> None:
    """It gives its connection back, and that one is shared."""
    options: dict[str, Any] = {"owner_only": True, "timeout": None}
    with talking(echo, max_connections=2, **options) as (client, _):
        without_connection(client)
        conn = pool_of(client).get_connection()
        other = Holder(client)
        other.send()
        wait_until(waits(client))
        pool_of(client).release(conn)
        assert other.get() == b"key"


def test_a_killed_caller_waits_for_nothing() -> None:
    """What it held comes back, and is shared."""
    with two_holders() as (client, first, last):
        first.send()
        wait_until(waits(client))
        first.job.kill()
        last.send()
        assert last.get() == b"key"
