"""Whose a loan is: of the greenlet that took it, or of an object of redis-py.

Knows the callers of ``get_connection`` by their frames; knows nothing of when and
how connections are lent.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

from geventpool.redis.connector import is_in_step
from geventpool.redis.internals import is_driver, keeper

__all__ = ["Kept", "Loans", "is_broken_off"]

#: Functions that take a connection for somebody else: a subclass's method, redis-py's
#: function for clusters, and its decorator.
MIDDLEMEN = ("get_connection", "wrapper")


class Kept(weakref.ref[Any]):
    """A loan that lasts as long as its owner, which it does not keep alive.

    :param owner: the object of redis-py that keeps the connection.
    :param gone: called with this after the owner's end.
    """

    __slots__ = ("conn",)

    def __new__(cls, owner: Any, conn: Any, gone: Callable[[Kept], None]) -> Kept:
        return super().__new__(cls, owner, gone)

    def __init__(self, owner: Any, conn: Any, gone: Callable[[Kept], None]) -> None:
        super().__init__(owner, gone)  # type: ignore[call-arg]
        self.conn = conn


class Loans:
    """The loans of one pool that are not simply commands.

    A command gives back what it took before it returns. Of the others there are two
    kinds. An object of redis-py that keeps a connection across calls (a subscription,
    a pipeline that watches keys) may live on in another greenlet than the one that
    made it, so the loan is that object's. And what other people's code took, any
    greenlet may give back.

    :param forgotten: called with a connection whose owner has ended without giving it
        back. May be called anywhere, also by the garbage collector.
    """

    def __init__(self, forgotten: Callable[[Any], None]) -> None:
        self._forgotten = weakref.WeakMethod(forgotten)
        #: by the id of the connection: who keeps it; None: who may be anybody
        self.special: dict[int, Kept | None] = {}

    def took(self, conn: Any, caller: FrameType | None) -> bool:
        """Note who took *conn*; True: an object of redis-py keeps it.

        :param caller: whose call of ``get_connection`` it was; None: nobody's, it is
            all that a greenlet does.
        """
        while caller is not None and caller.f_code.co_name in MIDDLEMEN:
            caller = caller.f_back
        owner = None if caller is None else keeper(caller)
        if owner is not None:
            self.special[id(conn)] = Kept(owner, conn, self._owner_gone)
        elif caller is None or not is_driver(caller):
            self.special[id(conn)] = None
        return owner is not None

    def gave_back(self, conn: Any) -> bool:
        """Forget *conn*; True: any greenlet may give it back."""
        # For a kept one the core asks nobody.
        return self.special.pop(id(conn), self) is None

    def _owner_gone(self, kept: Kept) -> None:
        # Usually its finaliser has given the connection back. But one that must talk
        # to the server first can't do so in the hub, and MONITOR has none.
        forgotten = self._forgotten()
        if self.special.get(id(kept.conn)) is kept:
            del self.special[id(kept.conn)]
            if forgotten is not None:
                forgotten(kept.conn)


def is_broken_off(error: BaseException, caller: FrameType | None) -> bool:
    """Did *error* break off what a connection was used for, with replies unread?

    *error* is being handled somewhere. If the frame it has just reached is the one
    that now gives the connection back, in a ``finally``, or that one's caller, then it
    came out of the loan. One that is handled further out is none of our business.

    :param caller: who gives the connection back.
    """
    trace = error.__traceback__
    if trace is None or caller is None or is_in_step(error):
        return False
    return trace.tb_frame is caller or trace.tb_frame is caller.f_back
