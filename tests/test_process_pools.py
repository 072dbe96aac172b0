"""One pool for each server and each set of options."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event

from geventpool.process_pools import ProcessPools
from tests.forks import in_child


def test_equal_keys_get_the_same_pool() -> None:
    """Options are compared by value, because many libraries copy their settings."""
    pools = ProcessPools[object]()
    first = pools.get(("redis://one", {"listeners": [1]}), object)
    assert pools.get(("redis://one", {"listeners": [1]}), object) is first
    assert pools.get(("redis://one", {"listeners": [2]}), object) is not first
    assert pools.get(("redis://two", {"listeners": [1]}), object) is not first


def test_only_a_pool_that_was_made_is_found() -> None:
    """To ask for one makes none, and does not wait for one that is being made."""
    pools = ProcessPools[object]()
    assert pools.find("key") is None and pools.made() == []
    pool = pools.get("key", object)
    assert pools.find("key") is pool and pools.made() == [pool]


def test_a_discarded_pool_is_made_again() -> None:
    """It may be closed. The others remain, also if they are equal to it."""
    pools = ProcessPools[list[int]]()
    first, second = pools.get("first", list), pools.get("second", list)
    pools.discard(first)
    pools.discard(first)
    assert pools.find("first") is None and pools.find("second") is second
    assert pools.get("first", list) is not first
    assert len(pools.made()) == 2


def test_many_first_calls_make_one_pool() -> None:
    """A pool that opens connections at once would exceed its limit otherwise."""
    pools = ProcessPools[list[int]]()
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
    pools, errors = ProcessPools[str](), [ConnectionError("away")]

    def make() -> str:
        if errors:
            raise errors.pop()
        return "pool"

    with pytest.raises(ConnectionError):
        pools.get("key", make)
    assert pools.get("key", make) == "pool"


def test_a_forked_child_does_not_wait_for_a_greenlet_of_the_parent() -> None:
    """The greenlet that makes a pool does not go on in the child."""
    pools, opened = ProcessPools[object](), Event()
    maker = gevent.spawn(pools.get, "key", opened.wait)
    gevent.idle()
    assert in_child(lambda: pools.get("other", str)) == "''"
    opened.set()
    maker.get()
