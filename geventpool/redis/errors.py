"""The core's refusals, made redis-py's as well.

Whoever catches ``redis.ConnectionError`` catches them, and a ``RedisCluster`` knows
from ``MaxConnectionsError`` that no node has failed.

::

    geventpool.PoolExhaustedError, redis.MaxConnectionsError
    +-- ExhaustedError
        |-- TooManyWaitingError           also a geventpool.TooManyWaitingError
        +-- DeadlockError                 also a geventpool.PoolDeadlockError
    geventpool.PoolClosedError, redis.ConnectionError
    +-- ClosedError
    geventpool.ConnectionNotFoundError, redis.ConnectionError
    +-- TakenBackError
"""

from __future__ import annotations

from redis.exceptions import ConnectionError, MaxConnectionsError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from geventpool import errors

__all__ = [
    "ClosedError",
    "DeadlockError",
    "ExhaustedError",
    "TakenBackError",
    "TooManyWaitingError",
    "in_terms_of_redis",
]


class ExhaustedError(errors.PoolExhaustedError, MaxConnectionsError):
    """No connection could be had in time."""


class TooManyWaitingError(errors.TooManyWaitingError, ExhaustedError):
    """The line is already ``max_waiting`` long."""


class DeadlockError(errors.PoolDeadlockError, ExhaustedError):
    """Every connection is held by a greenlet that itself waits in this line."""


class ClosedError(errors.PoolClosedError, ConnectionError):
    """The pool was shut down before the call, or while the caller waited."""


class TakenBackError(errors.ConnectionNotFoundError, ConnectionError):
    """The connection is used after its loan has ended, and has no socket any more."""


_TRANSLATIONS: dict[type[Exception], type[RedisError]] = {
    errors.PoolExhaustedError: ExhaustedError,
    errors.TooManyWaitingError: TooManyWaitingError,
    errors.PoolDeadlockError: DeadlockError,
    errors.PoolClosedError: ClosedError,
    # A limit of the pool on what it lets its own greenlets do.
    TimeoutError: RedisTimeoutError,
}


def in_terms_of_redis(error: Exception) -> Exception:
    """The same refusal as an error that redis-py's callers know; same words, cause.

    What is no refusal of the core is returned as it is.
    """
    kind = _TRANSLATIONS.get(type(error))
    if kind is None:
        return error
    words = str(error)
    if kind is ExhaustedError:
        # What redis-py's blocking pool says, and people search for.
        words = f"No connection available. {words}"
    translated = kind(words)
    translated.__cause__ = error.__cause__
    return translated
