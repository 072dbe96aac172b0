"""Whether a kill or a timeout has interrupted what a connection is used for."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from gevent import GreenletExit

__all__ = ["interruption", "interruptions", "reference", "why_interrupted"]


def interruptions() -> Iterator[BaseException]:
    """Return the interruptions that are being handled, the latest first.

    These are kills and timeouts, and also those in the context of errors that were
    raised while they were handled. Never switches.
    """
    error = sys.exc_info()[1]
    seen = set()
    while error is not None and id(error) not in seen:
        # Closing a generator is no interruption.
        if not isinstance(error, (Exception, GeneratorExit)):
            yield error
        seen.add(id(error))
        error = error.__context__


def interruption() -> BaseException | None:
    """Return the latest of the :func:`interruptions`; None: none. Never switches."""
    return next(interruptions(), None)


def reference(error: BaseException) -> Callable[[], BaseException | None]:
    """Return a callable that returns *error* while it exists, and later None.

    An id would not suffice: the next exception may get the address of a freed one.
    """
    try:
        # A weak reference, because the frames of an error may hold the loan that notes
        # it.
        return weakref.ref(error)
    except TypeError:
        return lambda: error


def why_interrupted(
    holder: Any, fairy_ref: Callable[[], object] | None
) -> BaseException | None:
    """Return why a forgotten connection must not be kept; None: it may be.

    :param holder: the greenlet; None: there was no holder, or it was collected.
    :param fairy_ref: returns the proxy of the connection while it exists; None: none.
    """
    if fairy_ref is not None and fairy_ref() is not None:
        return GreenletExit(f"{holder!r} ended with the connection on loan")
    if holder is not None and holder.dead and _was_interrupted(holder):
        return GreenletExit(f"{holder!r} was interrupted and forgot the connection")
    # Forgotten without an interruption. If it is broken, the reset fails.
    return None


def _was_interrupted(holder: Any) -> bool:
    if isinstance(getattr(holder, "value", None), GreenletExit):
        return True
    return not getattr(holder, "successful", bool)()
