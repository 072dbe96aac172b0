"""What was measured of a pool up to one moment, as values that do not change.

They can be pickled, copied and turned into JSON.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

from geventpool._core.histograms import Distribution
from geventpool._core.reports import OTHERS, LabelCounts
from geventpool._core.states import CloseReason

__all__ = ["FrozenCounts", "Measured", "as_plain"]

K = TypeVar("K")

#: So many labels of pools with one name are told apart, unless one pool has more.
LABELS = 64


class FrozenCounts(dict[K, int]):
    """A dict that cannot be changed; unlike a mapping proxy it can be pickled."""

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("counts do not change")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[FrozenCounts[K]], tuple[dict[K, int]]]:
        return FrozenCounts, (dict(self),)


def as_plain(value: Any) -> Any:
    """Return *value* as JSON has it: dicts with text as keys, lists, numbers, text.

    A :class:`~geventpool._core.histograms.Distribution` becomes its number, sum and
    quantiles.
    """
    if isinstance(value, Distribution):
        names = ("count", "total", "p50", "p95", "p99")
        return {name: getattr(value, name) for name in names}
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {each.name: as_plain(getattr(value, each.name)) for each in fields}
    if isinstance(value, Mapping):
        return {
            key.value if isinstance(key, Enum) else key: number
            for key, number in value.items()
        }
    if isinstance(value, tuple):
        return [as_plain(each) for each in value]
    return value


@dataclass(frozen=True)
class Measured:
    """What a pool has measured since measuring began, in this process.

    :param wait: the times that borrowers waited for a connection; 0 without a wait.
    :param use: the times that connections were held; of loans that have ended.
    :param create: the times that opening a connection took.
    :param refused: how many borrowers were refused, by the name of the error's class.
    :param closed: how many connections were closed, by :class:`CloseReason`.
    :param open_failed: how many attempts to open a connection failed.
    :param outages: how often the server could not be reached.
    :param outage_seconds: how long these outages lasted together, in seconds; without
        the present one.
    :param loop_lag: for how many seconds the event loop was blocked while a greenlet
        waited.
    :param resets: how many loans ended with which kind of reset; see
        :meth:`geventpool.Connector.reset_counts`.
    :param moved: how many places of its budget the pool gave to other pools.
    :param recovered: how many places of processes that died it has taken over.
    :param labels: what was counted by label, if labels are used.
    """

    wait: Distribution = field(default_factory=Distribution)
    use: Distribution = field(default_factory=Distribution)
    create: Distribution = field(default_factory=Distribution)
    refused: Mapping[str, int] = field(default_factory=FrozenCounts)
    closed: Mapping[CloseReason, int] = field(default_factory=FrozenCounts)
    open_failed: int = 0
    outages: int = 0
    outage_seconds: float = 0.0
    loop_lag: float = 0.0
    resets: Mapping[str, int] = field(default_factory=FrozenCounts)
    moved: int = 0
    recovered: int = 0
    labels: tuple[LabelCounts, ...] = ()

    def plus(self, other: Measured) -> Measured:
        """Both together."""
        return Measured(
            wait=self.wait.plus(other.wait),
            use=self.use.plus(other.use),
            create=self.create.plus(other.create),
            refused=_sum(self.refused, other.refused),
            closed=_sum(self.closed, other.closed),
            open_failed=self.open_failed + other.open_failed,
            outages=self.outages + other.outages,
            outage_seconds=self.outage_seconds + other.outage_seconds,
            loop_lag=self.loop_lag + other.loop_lag,
            resets=_sum(self.resets, other.resets),
            moved=self.moved + other.moved,
            recovered=self.recovered + other.recovered,
            labels=_sum_labels(self.labels, other.labels),
        )


def _sum(one: Mapping[K, int], other: Mapping[K, int]) -> FrozenCounts[K]:
    """Both together, with the keys whose number is 0."""
    keys = {**one, **other}
    return FrozenCounts({key: one.get(key, 0) + other.get(key, 0) for key in keys})


def _sum_labels(
    one: tuple[LabelCounts, ...], other: tuple[LabelCounts, ...]
) -> tuple[LabelCounts, ...]:
    """Both together, by label; those of *other* beyond the bound in one sum."""
    most = max(LABELS, len(one), len(other))
    found = {each.label: each for each in one}
    for each in other:
        name = each.label if each.label in found or len(found) < most else OTHERS
        found[name] = found.get(name, LabelCounts(name)).plus(each)
    return tuple(found.values())
