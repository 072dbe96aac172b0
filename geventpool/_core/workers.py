"""The greenlets a pool owns: no kill or ``Timeout`` aimed at a borrower can hit them.

Knows greenlets and time limits; what they work at is other people's business.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

import gevent

from geventpool._core.deadline import Deadline

__all__ = ["WorkQueue", "WorkerGroup", "log_failure", "within"]

T = TypeVar("T")

log = logging.getLogger("geventpool")

#: After so many items a member of a crew lets the others run.
IDLE_SECONDS = 16


def within(limit: float, what: str, work: Callable[..., T], *args: Any) -> T:
    """What *work* returns, if that takes no longer than *limit* seconds.

    *May switch.*

    :param str what: named in the error.
    :raises TimeoutError: it took longer.
    """
    expired = gevent.Timeout(None)
    strike = partial(gevent.getcurrent().throw, expired)
    deadline = Deadline(gevent.get_hub().loop, limit, strike)
    try:
        return work(*args)
    except gevent.Timeout as late:
        # Only our own: a Timeout that the work itself set up is its own affair.
        if late is not expired:
            raise
        raise TimeoutError(f"{what} took longer than {limit:g} s") from None
    finally:
        deadline.close()


def log_failure(work: Callable[[Any], object], conn: Any) -> object:
    """Return what *work* returns, which gives up *conn*.

    :return: None if it raised; that is only logged, for debugging.
    """
    try:
        return work(conn)
    except Exception:
        log.debug("%r could not be given up", conn, exc_info=True)
        return None


class WorkerGroup:
    """All greenlets at work for one pool."""

    def __init__(self) -> None:
        self._running: set[gevent.Greenlet[..., Any]] = set()
        self._queues: list[WorkQueue[Any]] = []

    def spawn(
        self, work: Callable[..., object], *args: Any
    ) -> gevent.Greenlet[..., Any]:
        """The greenlet that will do *work*. Does not switch."""
        worker = gevent.Greenlet(work, *args)
        worker.rawlink(self._running.discard)
        worker.start()
        # Last: one that could not be started is never at work.
        self._running.add(worker)
        return worker

    def wait_for_one(self) -> None:
        """Until one of them has done its work, if any is at work. *May switch.*"""
        gevent.joinall(list(self._running), count=1)

    def kill_all(self) -> None:
        """End them all, soon, and forget what is queued for a crew. Does not switch.

        Who is hired afterwards is not concerned.
        """
        for crew in self._queues:
            # Else the successors of those who are killed now would go on with it.
            crew._items.clear()
        for worker in list(self._running):
            worker.kill(block=False)


class WorkQueue(Generic[T]):
    """At most *size* greenlets that do the same *work* to one item after another.

    It outlives the death of its members, from whatever cause: an item that a member
    had not yet begun is worked at by a successor.

    :param work: called with an item; may switch; what it raises ends only that item's
        turn and is reported by the hub.
    """

    def __init__(
        self, workers: WorkerGroup, size: int, work: Callable[[T], object]
    ) -> None:
        self._workers = workers
        self._size = size
        self._work = work
        self._items: deque[T] = deque()
        self._greenlets: set[gevent.Greenlet[..., Any]] = set()
        #: what a member works at, by the member
        self._in_work: dict[Any, T] = {}
        #: those of them that have not begun
        self._starting: set[Any] = set()
        workers._queues.append(self)

    def put(self, item: T) -> None:
        """Have *item* worked at, in turn. Does not switch."""
        self._items.append(item)
        self._spawn_missing()

    def items(self) -> set[T]:
        """What is queued or worked at."""
        return {*self._items, *self._in_work.values()}

    def _spawn_missing(self) -> None:
        # Who is hired and has not begun will take an item: nobody is hired for it
        # twice. Else those who come too late would be replaced for ever.
        while len(self._starting) < len(self._items):
            if len(self._greenlets) >= self._size:
                return
            worker = self._workers.spawn(self._run)
            self._greenlets.add(worker)
            self._starting.add(worker)
            # A link and no ``finally``: of a greenlet that is killed before it has
            # started not a line is run.
            worker.rawlink(self._left)

    def _run(self) -> None:
        worker = gevent.getcurrent()
        self._starting.discard(worker)
        turn = 0
        while self._items:
            self._in_work[worker] = self._items.popleft()
            try:
                self._work(self._in_work[worker])
            finally:
                del self._in_work[worker]
            turn += 1
            # Work that happens not to switch must not hold up everybody else.
            if turn % IDLE_SECONDS == 0:
                gevent.sleep(0)

    def _left(self, worker: gevent.Greenlet[..., Any]) -> None:
        self._greenlets.discard(worker)
        self._starting.discard(worker)
        self._spawn_missing()
