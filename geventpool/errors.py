"""What the pool refuses, and why.

::

    PoolError(Exception)                  the pool refuses
    |-- PoolExhaustedError                no connection in time
    |   |-- TooManyWaitingError           the line is already max_waiting long
    |   +-- PoolDeadlockError             every holder waits in this very line
    |-- PoolClosedError                   closed before, or while you waited
    |-- BudgetError                       the file of a Budget cannot be used
    +-- ConnectionNotFoundError           not lent by this pool, or given back before

Three kinds of failure are *not* in this tree. What the driver raises while a
connection is opened reaches the caller unchanged. A bad argument is a
:exc:`ValueError` or :exc:`TypeError` that names the argument, its value and the
rule. A state that the design forbids is an :exc:`AssertionError`: a bug of ours.

Nothing here derives from :exc:`OSError`: code that retries on network errors must
not retry on a pool's refusal by accident.
"""

from __future__ import annotations

__all__ = [
    "BudgetError",
    "ConnectionNotFoundError",
    "PoolClosedError",
    "PoolDeadlockError",
    "PoolError",
    "PoolExhaustedError",
    "TooManyWaitingError",
]


class PoolError(Exception):
    """The pool refuses. The root of everything the pool itself raises."""


class PoolExhaustedError(PoolError):
    """No connection could be had in time.

    The message tells the counts, who holds the connections, since when and on which
    line each holder stands now, and whether the hub was blocked meanwhile. When a
    connection could not be opened while the caller waited, ``__cause__`` is the last
    error of opening one: it separates "all in use" from "the server is down".
    """


class TooManyWaitingError(PoolExhaustedError):
    """The line is already ``max_waiting`` long; the caller did not join it."""


class PoolDeadlockError(PoolExhaustedError):
    """Every connection is held by a greenlet that itself waits in this line.

    Raised at once in the greenlet whose wait would have completed the circle. Take one
    connection per greenlet and pass it on, or make the pool larger than the number of
    greenlets that nest their loans.
    """


class PoolClosedError(PoolError):
    """The pool was closed before the call, or while the caller waited."""


class BudgetError(PoolError):
    """The file of a :class:`~geventpool.Budget` cannot be used."""


class ConnectionNotFoundError(PoolError):
    """The connection is not on loan to the caller.

    It never belonged to this pool, was given back before, or has since been lent to
    somebody else. Nothing was changed.
    """
