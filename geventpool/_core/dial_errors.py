"""The errors of attempts to open: how they are kept, and raised in several waiters."""

from __future__ import annotations

import copy
from errno import ECONNABORTED
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from types import TracebackType
from typing import TypeVar

import gevent

__all__ = ["clear_frames", "copy_error", "copy_with_traceback", "for_waiter"]

E = TypeVar("E", bound=BaseException)

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


def copy_error(error: E) -> E:
    """Return a copy to be kept, or to be raised in another greenlet. Never switches.

    One error that is raised in several greenlets would collect the tracebacks of all,
    and one that is kept would keep the local variables of its frames. So the copy has
    no traceback. Its cause (``raise ... from``) is copied too. The error that was
    handled meanwhile may be another greenlet's own, and is left out.

    :return: *error* itself, if it cannot be copied.
    """
    first = _bare(error)
    each: BaseException = error
    duplicate: BaseException = first
    seen: set[int] = set()
    while duplicate is not each and (cause := each.__cause__) and id(cause) not in seen:
        seen.add(id(cause))
        duplicate.__cause__ = _bare(cause)
        each, duplicate = cause, duplicate.__cause__
    return first


def _bare(error: E) -> E:
    """Return a copy without traceback, cause and context; *error*: there is none."""
    try:
        return copy.copy(error)
    except Exception:
        # The arguments of its constructor are not its ``args``.
        return error


def copy_with_traceback(error: E) -> E:
    """As :func:`copy_error`, with the traceback, the cause and the context of *error*.

    For an error of the pool's own greenlet, whose frames were cleared.
    """
    duplicate = copy_error(error)
    duplicate.__context__ = error.__context__
    duplicate.__cause__ = error.__cause__
    duplicate.__suppress_context__ = error.__suppress_context__
    return duplicate.with_traceback(error.__traceback__)
