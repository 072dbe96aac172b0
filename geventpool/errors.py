"""The errors of the pool.

::

    PoolError(Exception)                  base class
    |-- PoolExhaustedError                no connection in time
    |   |-- TooManyWaitingError           max_waiting greenlets wait for places
    |   |-- PoolOverloadedError           refused early by the policy of admission
    |   +-- PoolDeadlockError             all holders wait for a connection
    |-- PoolClosedError                   closed before or during the wait
    |-- BudgetError                       the file of a Budget cannot be used
    +-- ConnectionNotFoundError           not on loan to the caller

Three kinds of errors are *not* in this tree. An error of the driver while a connection
is opened reaches the caller unchanged. A bad argument is a :exc:`ValueError` or
:exc:`TypeError` that names the argument, its value and the rule. A state that must not
occur is an :exc:`AssertionError`, which is a bug of the pool.

No class derives from :exc:`OSError`: code that retries after network errors must not
retry after an error of the pool by accident.
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
    """The base class of all errors that the pool itself raises."""


class PoolExhaustedError(PoolError):
    """No connection became available in time.

    The message has the counts of the pool, the holders of the connections with the
    duration of their loans and their current lines, and whether the hub was blocked
    meanwhile. If opening a connection failed during the wait, ``__cause__`` is the last
    such error. It distinguishes "all in use" from "the server is down".
    """


class TooManyWaitingError(PoolExhaustedError):
    """``max_waiting`` greenlets wait already, so the caller did not wait.

    Only those count that no place will serve: each place that no borrower has, such
    as a free one or one whose connection is being opened, serves one of those in line.
    """


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
    """Each connection is held by a greenlet that itself waits for one.

    Raised at once in the greenlet whose wait would complete the cycle. Take one
    connection per greenlet and pass it on, or make the pool larger than the number of
    greenlets that nest their loans.
    """


class PoolClosedError(PoolError):
    """The pool was closed before the call, or while the caller waited."""


class BudgetError(PoolError):
    """The file of a :class:`~geventpool.Budget` cannot be used."""


class ConnectionNotFoundError(PoolError):
    """The connection is not on loan to the caller.

    It never belonged to this pool, was given back before, or was lent again since.
    Nothing was changed.
    """
