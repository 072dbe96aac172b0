"""The attempts to open a connection that are under way, and which do not count.

A pool opens a few connections at a time. An attempt that takes long, or that pauses
because the driver will repeat it, does not delay the others: it counts against
*max_connections* only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, TypeVar
from weakref import WeakSet

import gevent
from gevent import getcurrent

from geventpool._core.deadline import Deadline
from geventpool._core.ledger import Entry, Waiter

__all__ = ["Attempts"]

C = TypeVar("C")


class Attempts(Generic[C]):
    """The attempts of one pool.

    :param on_change: called when another attempt may begin, or waiters must be refused.
    """

    def __init__(self, on_change: Callable[[], object]) -> None:
        self._on_change = on_change
        #: places whose attempt takes long, and may never end
        self.slow: set[Entry[C]] = set()
        #: places whose attempt pauses, because the driver will repeat it
        self._pausing: set[Entry[C]] = set()
        #: by the greenlet that opens: its place, after how many seconds it is slow, and
        #: what finds it slow then
        self._watched: dict[Any, tuple[Entry[C], float, Deadline]] = {}
        #: greenlets that open a connection to find out whether the server is back
        self._probes: WeakSet[gevent.Greenlet[..., Any]] = WeakSet()

    @property
    def uncounted(self) -> int:
        """How many attempts delay no others."""
        return len(self.slow | self._pausing)

    @contextmanager
    def watched(self, entry: Entry[C], seconds: float) -> Iterator[None]:
        """For a block that opens *entry*, which is slow after so many seconds."""
        current = getcurrent()
        self._watch(current, entry, seconds)
        try:
            yield
        finally:
            self._watched.pop(current)[-1].close()
            self.slow.discard(entry)

    def _watch(self, current: Any, entry: Entry[C], seconds: float) -> None:
        loop = gevent.get_hub().loop
        watch = Deadline(loop, seconds, partial(self._is_slow, entry))
        self._watched[current] = entry, seconds, watch

    def _is_slow(self, entry: Entry[C]) -> None:
        """An attempt takes long. In the hub."""
        self.slow.add(entry)
        self._on_change()

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """For a block in which the attempt of this greenlet pauses, if it makes one.

        Its waiter waits for what the driver tries next, however long that takes.
        """
        found = self._watched.get(getcurrent())
        if found is None:
            yield
            return
        entry, seconds, watch = found
        watch.close()
        self.slow.discard(entry)
        self._pausing.add(entry)
        try:
            self._on_change()
            yield
        finally:
            self._pausing.discard(entry)
            self._watch(getcurrent(), entry, seconds)

    def hanging(self) -> list[Waiter[C] | None]:
        """Return the waiters whose attempts take long."""
        return [entry.waiter for entry in self.slow]

    def is_probe(self) -> bool:
        """Whether this greenlet only finds out whether the server is back."""
        return getcurrent() in self._probes

    def note_probe(self, dial: gevent.Greenlet[..., Any]) -> None:
        """Note that *dial* only finds out whether the server is back."""
        self._probes.add(dial)
