"""Decides whether a loan belongs to a greenlet or to an object of redis-py.

It examines the frames of the callers of ``get_connection``.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from sys import exc_info, is_finalizing
from types import FrameType
from typing import Any

import redis
from redis.retry import Retry

from geventpool.redis.callers import borrowing_frame, is_driver, owner_of
from geventpool.redis.dialling import allow, forbid_while_watching
from geventpool.redis.internals import behind_cache

__all__ = ["OwnedLoan", "Loans", "Special"]

#: The attribute that marks an exception, so that it is recognised without a reference.
_MARK = "_geventpool_mark"


class OwnedLoan(weakref.ref[Any]):
    """A loan that lasts as long as its owner, by a weak reference to the owner.

    :param owner: the object of redis-py that keeps the connection.
    :param gone: called with this object after the owner was collected.
    """

    __slots__ = ("conn",)

    def __new__(
        cls, owner: Any, conn: Any, gone: Callable[[OwnedLoan], None]
    ) -> OwnedLoan:
        return super().__new__(cls, owner, gone)

    def __init__(
        self, owner: Any, conn: Any, gone: Callable[[OwnedLoan], None]
    ) -> None:
        super().__init__(owner, gone)  # type: ignore[call-arg]
        self.conn = conn


class Special:
    """A loan that is not a single command.

    :param kept: the loan of the object that keeps the connection; None: any greenlet
        may give it back.
    """

    __slots__ = ("_handled", "_retries", "kept")

    def __init__(self, kept: OwnedLoan | None) -> None:
        self.kept = kept
        self._handled = _mark(exc_info()[1])
        #: objects, and their retries before the loan
        self._retries: list[tuple[Any, Any]] = []

    def began_before(self, error: BaseException) -> bool:
        """Whether the loan began before *error* was raised."""
        return self._handled is None or vars(error).get(_MARK) is not self._handled

    def retry_as(self, conn: Any, retry: Retry) -> None:
        """Let *conn* use a copy of *retry* during this loan."""
        for each in {id(each): each for each in (conn, behind_cache(conn))}.values():
            self._retries.append((each, each.retry))
            each.retry = copy.deepcopy(retry)

    def forget_retries(self) -> None:
        """Do not restore the retries at the end of the loan."""
        self._retries.clear()

    def end(self, conn: Any) -> None:
        """Restore the retries of *conn*, and let it reconnect."""
        allow(conn)
        for each, retry in self._retries:
            each.retry = retry


def _mark(error: BaseException | None) -> object | None:
    """Return a mark of *error* that no other exception has; None: no error."""
    return None if error is None else vars(error).setdefault(_MARK, object())


class Loans:
    """The loans of one pool that are not single commands.

    A command gives its connection back before it returns. There are two other kinds of
    loans. An object of redis-py that keeps a connection between calls (a subscription,
    a pipeline that watches keys) may be used by another greenlet than the one that made
    it, so the loan belongs to the object. A connection that other code took may be
    given back by any greenlet.

    :param forgotten: called with a connection whose owner was collected without giving
        it back. May be called in any greenlet or thread, by the garbage collector.
    """

    def __init__(self, forgotten: Callable[[Any], None]) -> None:
        self._forgotten = weakref.WeakMethod(forgotten)
        #: the loans by the id of their connection
        self.special: dict[int, Special] = {}

    def note_loan(
        self, conn: Any, frame: FrameType | None, pool: object, retry: Retry | None
    ) -> bool:
        """Note the owner of the loan of *conn*. Never switches.

        :param frame: the caller of ``get_connection``; None: the call is the whole work
            of a greenlet.
        :param retry: the retries for callers that are no clients or pipelines; None:
            those that the connection has.
        :return: whether an object of redis-py keeps the connection.
        """
        frame = borrowing_frame(frame, pool)
        owner = None if frame is None else owner_of(frame)
        if owner is None and frame is not None and is_driver(frame):
            return False
        loan = Special(
            None if owner is None else OwnedLoan(owner, conn, self._owner_gone)
        )
        self.special[id(conn)] = loan
        if hasattr(owner, "watching") or hasattr(owner, "_watching"):
            forbid_while_watching(conn, owner)
        if retry is not None and not isinstance(owner, redis.Redis):
            loan.retry_as(conn, retry)
        return owner is not None

    def forget_loan(self, conn: Any) -> Special | None:
        """Forget the loan of *conn*, and return its record; None: a single command."""
        loan = self.special.pop(id(conn), None)
        if loan is not None:
            loan.end(conn)
        return loan

    def _owner_gone(self, kept: OwnedLoan) -> None:
        # Usually the owner's finalizer has given the connection back. But a finalizer
        # that must first use the server cannot do so in the hub, and MONITOR has no
        # finalizer.
        if is_finalizing():  # pragma: no cover (coverage does not run at that time)
            # The interpreter is shutting down, and greenlets cannot be used any more.
            return
        forgotten = self._forgotten()
        loan = self.special.get(id(kept.conn))
        if loan is not None and loan.kept is kept:
            del self.special[id(kept.conn)]
            if forgotten is not None:
                forgotten(kept.conn)
