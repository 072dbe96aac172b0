"""Whose a loan is: of the greenlet that took it, or of an object of redis-py.

Knows the callers of ``get_connection`` by their frames; knows nothing of when and
how connections are lent.
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

from geventpool.redis.callers import asker, is_driver, owner_of
from geventpool.redis.dialling import allow, forbid_while_watching
from geventpool.redis.internals import behind_cache

__all__ = ["OwnedLoan", "Loans", "Special"]

#: An exception is marked with this attribute, so it is known again without being kept.
_MARK = "_geventpool_mark"


class OwnedLoan(weakref.ref[Any]):
    """A loan that lasts as long as its owner, which it does not keep alive.

    :param owner: the object of redis-py that keeps the connection.
    :param gone: called with this after the owner's end.
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
    """A loan that is not simply a command.

    :param kept: which object of redis-py keeps it; None: anybody may give it back.
    """

    __slots__ = ("_handled", "_retries", "kept")

    def __init__(self, kept: OwnedLoan | None) -> None:
        self.kept = kept
        self._handled = _mark(exc_info()[1])
        #: objects and what retried for them before the loan
        self._retries: list[tuple[Any, Any]] = []

    def began_before(self, error: BaseException) -> bool:
        """Did the loan begin before *error* was raised?"""
        return self._handled is None or vars(error).get(_MARK) is not self._handled

    def retry_as(self, conn: Any, retry: Retry) -> None:
        """Let *conn* use a copy of *retry* for the length of this loan."""
        for each in {id(each): each for each in (conn, behind_cache(conn))}.values():
            self._retries.append((each, each.retry))
            each.retry = copy.deepcopy(retry)

    def forget_retries(self) -> None:
        """Let the connection keep the retries that it has now."""
        self._retries.clear()

    def end(self, conn: Any) -> None:
        """Give *conn* back what the loan took from it."""
        allow(conn)
        for each, retry in self._retries:
            each.retry = retry


def _mark(error: BaseException | None) -> object | None:
    """What tells *error* from every other exception, also from a later one."""
    return None if error is None else vars(error).setdefault(_MARK, object())


class Loans:
    """The loans of one pool that are not simply commands.

    A command gives back what it took before it returns. Of the others there are two
    kinds. An object of redis-py that keeps a connection across calls (a subscription,
    a pipeline that watches keys) may live on in another greenlet than the one that
    made it, so the loan is that object's. And what other people's code took, any
    greenlet may give back.

    :param forgotten: called with a connection whose owner has ended without giving it
        back. May be called anywhere, also by the garbage collector in any thread.
    """

    def __init__(self, forgotten: Callable[[Any], None]) -> None:
        self._forgotten = weakref.WeakMethod(forgotten)
        #: by the id of the connection
        self.special: dict[int, Special] = {}

    def note_loan(
        self, conn: Any, frame: FrameType | None, pool: object, retry: Retry | None
    ) -> bool:
        """Note who took *conn*; return whether an object of redis-py keeps it.

        :param frame: the caller of ``get_connection``; None: that call is all that a
            greenlet does.
        :param retry: what retries for those who are not clients or pipelines; None:
            what the connection has.
        """
        frame = asker(frame, pool)
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
        """Forget *conn*; return what was known of its loan."""
        loan = self.special.pop(id(conn), None)
        if loan is not None:
            loan.end(conn)
        return loan

    def _owner_gone(self, kept: OwnedLoan) -> None:
        # Usually its finaliser has given the connection back. But one that must talk
        # to the server first can't do so in the hub, and MONITOR has none.
        if is_finalizing():  # pragma: no cover (in the end, where nobody counts)
            # Greenlets can't be asked for any more.
            return
        forgotten = self._forgotten()
        loan = self.special.get(id(kept.conn))
        if loan is not None and loan.kept is kept:
            del self.special[id(kept.conn)]
            if forgotten is not None:
                forgotten(kept.conn)
