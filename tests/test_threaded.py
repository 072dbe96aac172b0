"""The pools for threads of an adapter, and what a fork does to them."""

from __future__ import annotations

from geventpool.threaded import ThreadedPools
from tests.forks import in_child


def test_a_child_does_not_wait_for_a_thread_of_the_parent() -> None:
    """The thread that makes a pool at the fork does not exist in the child."""
    pools = ThreadedPools()
    with pools.making:
        assert in_child(lambda: pools.making.acquire(blocking=False)) == "True"
        assert not pools.making.acquire(blocking=False)
