"""A call: the commands that a greenlet sends at once, and their replies."""

from __future__ import annotations

from typing import Any

__all__ = ["Call", "call_of"]


class Call:
    """A command or pipeline on a shared connection.

    A call is in the queue (no byte of it was written), in the list of written calls, or
    in neither (it was answered or has failed). :func:`call_of` makes one.
    """

    __slots__ = (
        #: the bytes to send
        "data",
        #: the number of its replies
        "count",
        #: the number of missing replies
        "left",
        #: the room for unanswered calls that it takes
        "units",
        #: the reply, or the list of replies if there are several
        "replies",
        #: the greenlet that waits for the reply; None: no greenlet waits
        "waiter",
        #: the reason why no reply will come; None: one may come
        "error",
        #: whether it was never sent, because there was no connection
        "is_refused",
        #: monotonic time at which it was written; until then, at which it was queued
        "since",
        #: the number of connections that ended before a byte of it was sent
        "tries",
    )

    data: bytes
    count: int
    left: int
    units: int
    replies: Any
    waiter: Any
    error: BaseException | None
    is_refused: bool
    since: float
    tries: int


def call_of(data: bytes, count: int, units: int) -> Call:
    """Return a call that was not sent.

    It is no constructor, because one is called for each command, and the interpreter
    calls a function in half of the time.

    :param data: the bytes to send.
    :param count: the number of its replies.
    :param units: the room for unanswered calls that it takes.
    """
    call = Call()
    call.data = data
    call.count = call.left = count
    call.units = units
    call.replies = None if count == 1 else []
    call.waiter = call.error = None
    call.is_refused = False
    call.since = 0.0
    call.tries = 0
    return call
