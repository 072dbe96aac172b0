"""The greenlets of a pool, which no kill or ``Timeout`` of a borrower interrupts.

It knows greenlets and time limits, and not what the greenlets do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

import gevent

from geventpool._core.deadline import Deadline
from geventpool._core.failures import log_connector_failure

__all__ = ["WorkQueue", "WorkerGroup", "log_failure", "within"]

T = TypeVar("T")

#: After so many items a greenlet of a work queue lets other greenlets run.
BATCH = 16


def within(limit: float, what: str, work: Callable[..., T], *args: Any) -> T:
    """Return what *work* returns, within *limit* seconds. May switch.

    :param str what: the name of the work in the error.
    :raises TimeoutError: it took longer.
    """
    expired = gevent.Timeout(None)
    strike = partial(gevent.getcurrent().throw, expired)
    deadline = Deadline(gevent.get_hub().loop, limit, strike)
    try:
        return work(*args)
    except gevent.Timeout as late:
        # A Timeout that the work itself has set up is passed on.
        if late is not expired:
            raise
        raise TimeoutError(f"{what} took longer than {limit:g} s") from None
    finally:
        deadline.close()


def log_failure(work: Callable[[Any], object], conn: Any) -> object:
    """Return what *work* returns, which gives up *conn*.

    :return: None if it raised; that is only logged.
    """
    try:
        return work(conn)
    except Exception as error:
        log_connector_failure("could not be given up", conn, error)
        return None


class WorkerGroup:
    """All greenlets that work for one pool."""

    def __init__(self) -> None:
        #: those that have not ended
        self.running: set[gevent.Greenlet[..., Any]] = set()
        #: called when an error has ended a greenlet of a queue; None: nothing is
        self.on_failure: Callable[[], object] | None = None
        self._queues: list[WorkQueue[Any]] = []

    def spawn(
        self, work: Callable[..., object], *args: Any
    ) -> gevent.Greenlet[..., Any]:
        """Start *work* in a new greenlet, and return it. Never switches."""
        worker = gevent.Greenlet(work, *args)
        worker.rawlink(self.running.discard)
        worker.start()
        # The last step: a greenlet that could not be started does no work.
        self.running.add(worker)
        return worker

    def wait_for_one(self) -> None:
        """Wait until one of them has ended, if there are any. May switch."""
        gevent.joinall(list(self.running), count=1)

    def kill_all(self) -> None:
        """End them all soon, and empty the work queues. Never switches.

        Greenlets that are started later are not ended.
        """
        for queue in self._queues:
            # Otherwise new greenlets would go on with the items.
            queue._items.clear()
        for worker in list(self.running):
            worker.kill(block=False)


class WorkQueue(Generic[T]):
    """A queue of items, and at most *size* greenlets that work on them.

    If a greenlet ends, for whatever reason, another one takes the items that it has not
    begun.

    :param work: called with an item; it may switch. An error ends the work on this item
        only, and is reported by the hub.
    """

    def __init__(
        self, workers: WorkerGroup, size: int, work: Callable[[T], object]
    ) -> None:
        self._workers = workers
        self._size = size
        self._work = work
        self._items: deque[T] = deque()
        self._greenlets: set[gevent.Greenlet[..., Any]] = set()
        #: the items in work, by greenlet
        self._in_work: dict[Any, T] = {}
        #: the greenlets that were spawned and have not begun
        self._starting: set[Any] = set()
        workers._queues.append(self)

    def put(self, item: T) -> None:
        """Add *item* to the queue. Never switches."""
        self._items.append(item)
        self.resume()

    def items(self) -> set[T]:
        """Return the items that are queued or in work."""
        return {*self._items, *self._in_work.values()}

    def resume(self) -> None:
        """Start the greenlets that are missing. Never switches."""
        # Greenlets that were spawned and have not begun take one item each, so none is
        # spawned for these. Otherwise greenlets that find the queue empty would be
        # replaced without end.
        while len(self._starting) < len(self._items):
            if len(self._greenlets) >= self._size:
                return
            worker = self._workers.spawn(self._run)
            self._greenlets.add(worker)
            self._starting.add(worker)
            # A link, because ``finally`` is not run in a greenlet that is killed before
            # it has started.
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
            # Work that does not switch must not delay all other greenlets.
            if turn % BATCH == 0:
                gevent.sleep(0)

    def _left(self, worker: gevent.Greenlet[..., Any]) -> None:
        self._greenlets.discard(worker)
        self._starting.discard(worker)
        self.resume()
        if worker.exception is not None and self._workers.on_failure is not None:
            # Perhaps the work on its item has not even begun.
            self._workers.on_failure()
