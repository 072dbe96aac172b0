"""A call: the commands that a greenlet sends at once, and their replies."""

from __future__ import annotations

import copy
from typing import Any

__all__ = ["Call", "copy_of"]


class Call:
    """A command or pipeline on a shared connection.

    A call is in the queue (no byte of it was written), in the list of written calls, or
    in neither (it was answered or has failed).

    :param bytes data: the bytes to send.
    :param int count: the number of its replies.
    :param int units: the room for unanswered calls that it takes.
    """

    # Class attributes, because most calls never change them, and a call is made for
    # each command.

    #: the reason why no reply will come
    error: BaseException | None = None
    #: whether it was never sent, because there was no connection
    is_refused = False
    #: the greenlet that waits for the reply; None: no greenlet waits
    waiter: Any = None
    #: monotonic time at which it was written; until then, at which it was queued
    since = 0.0
    #: the number of connections that ended before a byte of it was sent
    tries = 0
    #: the reply, or the list of replies if there are several
    replies: Any = None

    def __init__(self, data: bytes, count: int, units: int) -> None:
        self.data = data
        self.count = count
        self.units = units
        #: the number of missing replies
        self.left = count
        if count != 1:
            self.replies = []


def copy_of(error: BaseException) -> BaseException:
    """Return a copy of *error*, with the same cause, for one of several callers.

    An exception that is raised in several greenlets would collect the tracebacks of
    all.
    """
    try:
        copied = copy.copy(error)
    except Exception:
        # The arguments of its constructor are not its ``args``.
        return error
    copied.__cause__ = error.__cause__
    copied.__traceback__ = None
    return copied
