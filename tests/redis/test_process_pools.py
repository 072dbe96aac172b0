"""One pool for each server and each set of options."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event

from geventpool.redis.process_pools import ProcessPools
from tests.forks import in_child


def test_equal_keys_get_the_same_pool() -> None:
    """Options are compared by value, because many libraries copy their settings."""
    pools = ProcessPools()
    first = pools.get(("redis://one", {"listeners": [1]}), object)
    assert pools.get(("redis://one", {"listeners": [1]}), object) is first
    assert pools.get(("redis://one", {"listeners": [2]}), object) is not first
    assert pools.get(("redis://two", {"listeners": [1]}), object) is not first


def test_many_first_calls_make_one_pool() -> None:
    """A pool that opens connections at once would exceed its limit otherwise."""
    pools = ProcessPools()
    opened, made = Event(), []

    def make() -> list[int]:
        opened.wait()
        made.append(1)
        return made

    calls = [gevent.spawn(pools.get, "key", make) for _ in range(5)]
    gevent.idle()
    opened.set()
    gevent.joinall(calls, raise_error=True)
    assert made == [1]


def test_a_pool_that_cannot_be_made_is_tried_again() -> None:
    """The server may have been away."""
    pools, errors = ProcessPools(), [ConnectionError("away")]

    def make() -> str:
        if errors:
            raise errors.pop()
        return "pool"

    with pytest.raises(ConnectionError):
        pools.get("key", make)
    assert pools.get("key", make) == "pool"


def test_a_forked_child_does_not_wait_for_a_greenlet_of_the_parent() -> None:
    """The greenlet that makes a pool does not go on in the child."""
    pools, opened = ProcessPools(), Event()
    maker = gevent.spawn(pools.get, "key", opened.wait)
    gevent.idle()
    assert in_child(lambda: pools.get("other", str)) == "''"
    opened.set()
    maker.get()
