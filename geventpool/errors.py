"""What the pool refuses, and why.

::

    PoolError(Exception)                  the pool refuses
    |-- PoolExhaustedError                no connection in time
    |   |-- TooManyWaitingError           the line is already max_waiting long
    |   |-- PoolOverloadedError           refused early by the policy of admission
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
    "PoolOverloadedError",
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


class PoolOverloadedError(PoolExhaustedError):
    """The pool's *admission* refuses the caller early, because too many wait.

    The message tells the expected wait, the place in line and the limit. Its arguments
    are the pool's name and these three. The text is made when it is read, so that a
    refusal costs little.
    """

    def __str__(self) -> str:
        if len(self.args) < 4:
            return super().__str__()
        name, wait, place, limit, *was_in_line = self.args
        what = f"expected wait {wait:.3f} s, place {place} in line"
        if was_in_line:
            what = f"the wait is {wait:.3f} s with {place} in line"
        return f"Pool {name!r} is overloaded: {what}; admitted up to {limit:.3f} s"


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
