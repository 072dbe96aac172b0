"""The messages of refusals, which are built when they are read.

A refusal should be cheap under overload, so its cost must not grow with the pool: it
notes a limited number of facts. It keeps no greenlet alive, and does not change later.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from operator import attrgetter
from typing import Any

from geventpool._core.ledger import Ledger
from geventpool._core.reports import Sighting, numbers, worded
from geventpool._core.states import IN_USE
from geventpool.errors import (
    PoolDeadlockError,
    PoolExhaustedError,
    TooManyWaitingError,
)

__all__ = ["Refusal"]

#: The most holders that are named, and the most entries that are examined for them.
NAMED = 5
LOOKED_AT = 16

_PREFACE: dict[type[PoolExhaustedError], str] = {
    PoolExhaustedError: "no connection within {:.1f} s",
    TooManyWaitingError: "max_waiting is reached",
    PoolDeadlockError: "all connections are held by greenlets that wait for one",
}


_since = attrgetter("since")


class Refusal:
    """The argument of a :exc:`PoolExhaustedError`. ``str()`` returns its message.

    :param str name: the name of the pool.
    :param kind: the class of the error.
    :param float waited: the seconds that the caller has waited.
    :param float now: the time of the pool's clock.
    :param remarks: pairs of a format and its value, to be added after the counts.
    """

    __slots__ = ("_make", "_text")

    def __init__(
        self,
        name: str,
        kind: type[PoolExhaustedError],
        waited: float,
        ledger: Ledger[Any],
        now: float,
        remarks: list[tuple[str, object]],
    ) -> None:
        lent = [
            entry
            for entry in islice(ledger.entries.values(), LOOKED_AT)
            if entry.state is IN_USE
        ]
        lent.sort(key=_since)
        seen = [Sighting(entry, now) for entry in lent[:NAMED]]
        facts = numbers(ledger)

        def make() -> str:
            preface = _PREFACE[kind].format(waited)
            parts = [f"Pool {name!r} exhausted: {preface} ({worded(facts)})"]
            parts += [remark.format(value) for remark, value in remarks]
            parts += [f"held by {each.loan()}" for each in seen]
            return "; ".join(parts)

        self._make: Callable[[], str] | None = make
        self._text = ""

    def __str__(self) -> str:
        if self._make is not None:
            self._text, self._make = self._make(), None
        return self._text

    def __repr__(self) -> str:
        return repr(str(self))

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy, or one in another process, is plain text.
        return str, (str(self),)
