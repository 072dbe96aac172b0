"""What is told of failures.

Of a failure to open a connection nothing secret is told: the message of a driver's
error may contain an address with its password, or a part of a statement. So an error is
described by its class, its number and the operating system's text for that number, and
the same of its causes.

A connection that does not answer is nothing to report. A mistake in the code of a
connector is: each line that fails is reported once in a process.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from types import CodeType

from geventpool.policies import safe_repr

__all__ = ["Failure", "describe", "log_connector_failure"]

log = logging.getLogger("geventpool")

#: Errors that Python raises for a mistake in a program.
MISTAKES = (TypeError, AttributeError, NameError, ImportError, AssertionError)

#: So many errors of a chain of causes are named.
NAMED = 3


#: the lines whose mistakes were reported
reported: set[tuple[CodeType, int]] = set()


def log_connector_failure(what: str, conn: object, error: Exception) -> None:
    """Log that a connector's work on a connection failed. Never switches.

    As a warning if it is a mistake that was not reported yet; else for debugging.

    :param what: of the connection: "did not answer a ping".
    """
    level = logging.WARNING if _note_mistake(error) else logging.DEBUG
    if log.isEnabledFor(level):
        log.log(level, "%s %s: %r", safe_repr(conn), what, error, exc_info=error)


def _note_mistake(error: Exception) -> bool:
    """Note the line of a mistake; return whether it is one that was not yet noted."""
    trace = error.__traceback__
    if not isinstance(error, MISTAKES) or trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    line = trace.tb_frame.f_code, trace.tb_lineno
    is_new = line not in reported
    reported.add(line)
    return is_new


@dataclass(frozen=True)
class Failure:
    """A failure to open a connection. Times are seconds.

    :param str error: the classes and numbers of the error and of its causes.
    :param float seconds_ago: when it was.
    :param lasting: how long no connection could be opened; None: one was opened since.
    """

    error: str
    seconds_ago: float
    lasting: float | None


def describe(error: BaseException | None) -> str:
    """The classes, numbers and system texts of an error and its causes.

    Never calls ``str()`` of the error. Never switches.
    """
    names: list[str] = []
    while error is not None and len(names) < NAMED:
        names.append(_described(error))
        error = error.__cause__ or error.__context__
    return " from ".join(names)


def _described(error: BaseException) -> str:
    name = type(error).__name__
    number = error.args[0] if error.args else None
    if type(number) is not int:
        return name
    text = ""
    if isinstance(error, OSError):
        # Of an error of the TLS library, its own constant. Not strerror, which
        # may contain anything.
        reason = getattr(error, "reason", None)
        if type(reason) is str and reason.replace("_", "").isalnum():
            text = f": {reason}"
        elif number > 0:
            text = f": {os.strerror(number)}"
    return f"{name} {number}{text}"
