"""What was asked through one pool, how long each waited, and what came back."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gevent import getcurrent

T = TypeVar("T")


@dataclass(frozen=True)
class Waits:
    """A summary of waits, in seconds."""

    p50: float
    p99: float
    longest: float

    @classmethod
    def of(cls, waits: Sequence[float]) -> Waits:
        """The summary of any number of waits; zeros for none."""
        if not waits:
            return cls(0.0, 0.0, 0.0)
        ordered = sorted(waits)
        last = len(ordered) - 1
        p50, p99 = ordered[last // 2], ordered[min(last, len(ordered) * 99 // 100)]
        return cls(p50, p99, ordered[-1])


@dataclass
class Tally:
    """The running account of one pool."""

    #: Replies that carried the tag of the request.
    answered: int = 0
    #: Replies that carried anything else: somebody got another's answer.
    astray: int = 0
    #: Requests given up by a ``gevent.Timeout`` of ours.
    given_up: int = 0
    #: Requests that failed, by the name of the error.
    errors: Counter[str] = field(default_factory=Counter)
    #: Seconds of every finished wait for a connection.
    waits: list[float] = field(default_factory=list)
    #: Who waits for a connection now, and since when.
    waiting: dict[Any, float] = field(default_factory=dict)

    def waited(self, borrow: Callable[..., T], *args: Any) -> T:
        """What ``borrow`` returns; the time it took is a wait. **May switch.**"""
        me = getcurrent()
        since = self.waiting[me] = time.monotonic()
        try:
            conn = borrow(*args)
        finally:
            # Killed while waiting: not a wait that anybody came to the end of.
            self.waiting.pop(me, None)
        self.waits.append(time.monotonic() - since)
        return conn

    def check(self, tag: str, reply: object) -> None:
        """Account for a reply to the request with that tag."""
        if reply == tag:
            self.answered += 1
        else:
            self.astray += 1

    def mark(self) -> tuple[int, int]:
        """How many were answered and how many waits ended up to now."""
        return self.answered, len(self.waits)

    def all_waits(self, since: int = 0) -> list[float]:
        """
        The waits from number ``since`` on, with those that still go on.

        A pool that never serves somebody must not look good for it.
        """
        now = time.monotonic()
        return self.waits[since:] + [now - began for began in self.waiting.values()]
