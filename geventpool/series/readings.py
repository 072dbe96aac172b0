"""What all pools tell at one moment, one reading for each name.

Reading takes no lock that a loan could wait for, and never switches.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gevent.monkey import get_original

from geventpool.budget import BudgetStats
from geventpool.extension import Measured, kept, measure_by_default, retired
from geventpool.listeners import PoolStats
from geventpool.pool import Pool, pools

__all__ = ["Reading", "begin", "read"]


@dataclass(frozen=True)
class Reading:
    """All pools of one name at one moment.

    :param stats: of each of them that is there.
    :param measured: by all of them, and by those that are no more.
    :param is_measured: False: nothing is measured of them.
    """

    name: str
    stats: tuple[PoolStats, ...]
    measured: Measured
    is_measured: bool = True

    def total(self, field: str) -> int:
        """The sum of a number of the statistics."""
        return sum(getattr(each, field) for each in self.stats)

    @property
    def used(self) -> int:
        """The connections that are not idle, also while checked, reset or closed."""
        return self.total("size") - self.total("idle") - self.total("opening")

    @property
    def budgets(self) -> dict[str, list[BudgetStats]]:
        """What each pool tells of its budget, by the name of the budget."""
        found: dict[str, list[BudgetStats]] = {}
        for each in self.stats:
            if each.budget is not None:
                found.setdefault(each.budget.name, []).append(each.budget)
        return found


#: Of threads and not of greenlets: nothing switches while it is held.
_reading = get_original("_thread", "allocate_lock")()


def begin() -> None:
    """Have all pools measured, those that are there and those to come."""
    measure_by_default()
    for pool in pools():
        pool.measure()


def read(chosen: Iterable[Pool[Any]] | None = None) -> list[Reading]:
    """What there is to publish, one reading for each name. Never switches.

    :param chosen: these pools alone, whether or not they are measured; None: all that
        are measured, and what those that are no more have counted.
    """
    with _reading:
        found: dict[str, list[PoolStats]] = {}
        for pool in kept() if chosen is None else chosen:
            found.setdefault(pool.name, []).append(pool.stats())
        before = retired() if chosen is None else {}
    for name in before:
        found.setdefault(name, [])
    return [
        _reading_of(name, stats, before.get(name))
        for name, stats in sorted(found.items())
    ]


def _reading_of(name: str, stats: list[PoolStats], before: Measured | None) -> Reading:
    is_measured = before is not None or any(each.measured for each in stats)
    return Reading(name, tuple(stats), _sum(before, stats), is_measured)


def _sum(before: Measured | None, stats: list[PoolStats]) -> Measured:
    total = before or Measured()
    for measured in [each.measured for each in stats if each.measured is not None]:
        total = total.plus(measured)
    return total
