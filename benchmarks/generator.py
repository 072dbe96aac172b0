"""
The load generator's own limit: a "pool" that takes no time and refuses nobody.

What a workload makes of it is the most that workload could measure of any pool.
"""

from __future__ import annotations

from benchmarks.dummies import Dummy
from benchmarks.peers import Contestant

GENERATOR = "the generator alone"


class NoPool:
    """Lends the same connection to everybody at once: all a pool does but pooling."""

    def __init__(self) -> None:
        self.conn = Dummy()

    def acquire(self) -> Dummy:
        """The one connection, whoever has it."""
        return self.conn

    def release(self, conn: Dummy) -> None:
        """Do nothing: it was never taken."""


def no_op(limit: int) -> Contestant:
    """A contestant that is no pool at all."""
    pool = NoPool()
    return Contestant(GENERATOR, pool.acquire, pool.release, lambda: None)
