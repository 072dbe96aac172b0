"""The errors of attempts to open: how they are kept, and raised in waiters."""

from __future__ import annotations

import copy
from errno import ECONNABORTED
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from types import TracebackType

import gevent

__all__ = ["clear_frames", "copy_error", "for_waiter"]

_SUSPENDABLE = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR


def for_waiter(error: BaseException) -> BaseException:
    """Return the error for a waiter whose attempt to open ended by *error*."""
    if not isinstance(error, gevent.GreenletExit):
        return error
    # A GreenletExit would silently end the waiter's greenlet.
    told = ConnectionAbortedError(ECONNABORTED, "opening a connection was killed")
    told.__cause__ = error
    return told


def clear_frames(trace: TracebackType | None) -> None:
    """Clear the local variables of functions that have ended.

    A driver may raise one and the same error again, whose traceback then also has the
    frames of earlier borrowers. A generator among them that is suspended would be
    closed if its frame were cleared, and would leave its ``with`` blocks.
    """
    while trace is not None:
        frame = trace.tb_frame
        if not frame.f_code.co_flags & _SUSPENDABLE:
            try:
                frame.clear()
            except RuntimeError:
                # It is still running.
                pass
        trace = trace.tb_next


def copy_error(error: BaseException) -> BaseException:
    """Return a copy to be raised elsewhere; *error* itself if it cannot be copied."""
    # One error that is raised many times would collect the tracebacks of all waiters.
    try:
        duplicate = copy.copy(error)
    except Exception:
        return error
    duplicate.__context__ = error.__context__
    duplicate.__cause__ = error.__cause__
    duplicate.__suppress_context__ = error.__suppress_context__
    return duplicate.with_traceback(error.__traceback__)
