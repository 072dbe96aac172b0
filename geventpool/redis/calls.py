"""One call: what one greenlet has sent as one piece, and the replies to it."""

from __future__ import annotations

import copy
from typing import Any

__all__ = ["Call", "copy_of"]


class Call:
    """A command or a whole pipeline on its way over a shared connection.

    A call is in exactly one place: in the queue (no byte of it was written), in the
    list of those that were written, or in neither (it is answered or has failed).

    :param bytes data: what is to be sent.
    :param int count: how many replies belong to it.
    :param int units: how much of the room for calls under way it takes.
    """

    # Most calls never need their own: one is made for each command.

    #: why there will be no reply
    error: BaseException | None = None
    #: was it never sent, because there was no connection?
    is_refused = False
    #: the greenlet that is to be switched to; None: no greenlet waits
    waiter: Any = None
    #: seconds of the monotonic clock at which it was written; before: was queued
    since = 0.0
    #: connections that ended before a byte of it was taken
    tries = 0

    def __init__(self, data: bytes, count: int, units: int) -> None:
        self.data = data
        self.count = count
        self.units = units
        #: replies that have not come in
        self.left = count
        #: the reply, or the list of replies if there are several
        self.replies: Any = None if count == 1 else []


def copy_of(error: BaseException) -> BaseException:
    """Return a copy of *error*, with the same cause, for one of several callers.

    An exception that is raised in several greenlets would collect their tracebacks.
    """
    try:
        copied = copy.copy(error)
    except Exception:
        # Its constructor takes other arguments than it keeps.
        return error
    copied.__cause__ = error.__cause__
    copied.__traceback__ = None
    return copied
