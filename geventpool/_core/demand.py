"""How many connections to open: one rule for waiters, minimum, room and breaker.

It knows the ledger, and opens nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from geventpool._core.ledger import Ledger

__all__ = ["CHECKERS", "RESETTERS", "Demand", "demand"]

#: So many returned connections are reset at a time, and may serve as many waiters.
RESETTERS = 64
#: So many idle connections are pinged at a time, and may serve as many waiters.
CHECKERS = 8


class Demand(NamedTuple):
    """How many connections to begin to open now.

    :param int waiters: so many for waiters.
    :param int minimum: so many to reach *min_connections*.
    """

    waiters: int
    minimum: int


def demand(
    ledger: Ledger[Any], under_way: int, limit: int, *, count_checks: bool = True
) -> Demand:
    """Return how many connections to begin to open now. Never switches.

    A waiter needs a new connection only if the waiters outnumber the connections that
    are opened, reset or checked: most bursts are served by returned connections before
    a new one is open. (An idea of HikariCP.) A reset that takes long does not count.

    :param under_way: so many openings are expected to end soon.
    :param limit: so many may be under way.
    :param count_checks: whether a connection that is checked may serve a waiter.
    """
    most = min(ledger.max_connections - ledger.size, limit - under_way)
    if most <= 0 or ledger.closed:
        return Demand(0, 0)
    expected = under_way + min(len(ledger.resetting), RESETTERS) - len(ledger.lagging)
    if count_checks:
        expected += min(len(ledger.checking), CHECKERS)
    lacking = len(ledger.waiters) - expected
    missing = ledger.min_connections - ledger.size
    return Demand(max(0, min(lacking, most)), max(0, min(missing, most)))
