"""A call: the commands that a greenlet sends at once, and their replies."""

from __future__ import annotations

from typing import Any

__all__ = ["Call", "call_of"]


class Call:
    """A command or pipeline on a shared connection.

    A call is in the queue (no byte of it was written), in the list of written calls, or
    in neither (it was answered or has failed). A stand-in is the call of its first
    command; :func:`call_of` makes the others.
    """

    __slots__ = (
        #: the bytes to send; None: there are none yet
        "data",
        #: the number of missing replies
        "left",
        #: the reply, or the list of replies to a pipeline
        "replies",
        #: the greenlet that waits for the reply; None: no greenlet waits
        "waiter",
        #: the reason why no reply will come; None: one may come
        "error",
        #: that reason if it was never sent, because there was no connection; set then
        "refusal",
        #: monotonic time at which it was written; until then, at which it was queued;
        #: set in the turn of the loop in which it is queued
        "since",
        #: the room that it takes; set if that is more than 1
        "units",
        #: the number of connections that ended before a byte of it was sent; set if
        #: there were any
        "tries",
    )

    data: bytes | None
    left: int
    replies: Any
    waiter: Any
    error: BaseException | None
    refusal: BaseException | None
    since: float
    units: int
    tries: int


def call_of(data: bytes, count: int, is_pipeline: bool) -> Call:
    """Return a call that was not sent.

    :param data: the bytes to send.
    :param count: the number of its replies.
    :param is_pipeline: whether its caller reads a list of replies.
    """
    call = Call()
    call.data = data
    call.left = count
    call.replies = [] if is_pipeline else None
    call.waiter = call.error = None
    return call
